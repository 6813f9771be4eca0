// What the conformance suites of drivers work with: a driver with the guests of one test, somebody who listens to a guest,
// somebody at its console, and waits that end.
import assert from 'node:assert/strict';
import { type Duplex } from 'node:stream';
import { suite, test, type TestContext } from 'node:test';
import { LodgeError, type ErrorCode } from '../api/errors.ts';
import { type VmSpecInput } from '../api/vm-spec.ts';
import { type Driver, type Guest, type GuestDefinition, type GuestMessage, type KnownGuest } from './driver.ts';

/** A driver and what is around it, for one test. */
export interface DriverSubject {
  /** Another driver object on the same installation, as a new daemon has one. */
  openDriver(): Driver;
  /** A guest that can be started; each has its own id and folder. */
  define(): Promise<GuestDefinition>;
  /** A guest that the hypervisor refuses to start. */
  defineBroken(): Promise<GuestDefinition>;
  /** Ends the guest behind the driver's back, as a power cut of it alone would. */
  kill(guest: Guest): Promise<void>;
  /** What there is of a guest on the machine beside files that are kept: process, group, sockets. */
  traces(definition: GuestDefinition): Promise<string[]>;
  /** Waits until what runs in the guest takes input on its console and hears the power button. */
  untilUp(guest: Guest): Promise<void>;
  /** What to type on the console, and what it answers. */
  dialogue: { typed: string; answer: string };
  /** Specs that this driver must refuse, each with the field it must name. */
  refused: readonly { spec: VmSpecInput; field: string }[];
}

/** How long anything here may take; a driver that needs more has lost its way. */
export const deadlineMs = 60_000;

/** Makes a test of a title and what it does. */
export type Check = (title: string, run: (subject: Subject) => Promise<void>) => void;

/** A suite whose tests each get a driver that is closed, and guests that are ended, when they are over. */
export function driverSuite(
  title: string,
  setup: (context: TestContext) => Promise<DriverSubject>,
  add: (check: Check) => void,
): void {
  suite(title, { timeout: 10 * deadlineMs }, () => {
    add((name, run) => {
      test(name, { timeout: 3 * deadlineMs }, async (context) => {
        const subject = new Subject(await setup(context));
        try {
          await run(subject);
        } finally {
          await subject.close();
        }
      });
    });
  });
}

/** The subject of one test, with the driver that is the present one, and the guests it has started. */
export class Subject {
  readonly given: DriverSubject;
  readonly #drivers: Driver[] = [];
  readonly #started = new Set<string>();

  constructor(given: DriverSubject) {
    this.given = given;
    this.replaceDriver();
  }

  get driver(): Driver {
    return this.#drivers.at(-1)!;
  }

  /** A new daemon comes up. */
  replaceDriver(): void {
    this.#drivers.push(this.given.openDriver());
  }

  async start(
    definition?: GuestDefinition,
    options: { isRestoring?: boolean } = {},
  ): Promise<{ guest: Guest; definition: GuestDefinition }> {
    const used = definition ?? (await this.given.define());
    this.#started.add(used.id);
    return { guest: await this.driver.start(used, options), definition: used };
  }

  /** A running copy of a guest: the same hardware, its own identity. */
  async defineCopy(guest: Guest, of: GuestDefinition): Promise<GuestDefinition> {
    const { id, name, uid, directory } = await this.given.define();
    this.#started.add(id);
    return { ...of, id, name, uid, directory, pinned: guest.pinned };
  }

  async adopt(guest: Guest, definition: GuestDefinition): Promise<Guest> {
    const adopted = await this.driver.adopt(known(guest, definition));
    assert.ok(adopted, 'a guest that exists is taken over');
    return adopted;
  }

  async close(): Promise<void> {
    const last = this.given.openDriver();
    for (const driver of this.#drivers) await driver.close();
    for (const id of this.#started) await last.endUnknown(id);
    await last.close();
  }
}

export function known(guest: Guest, { id, name, directory }: GuestDefinition): KnownGuest {
  return { id, name, directory, pinned: guest.pinned };
}

/** What a guest tells, in order. */
export class Messages {
  readonly all: GuestMessage[] = [];
  readonly stop: () => void;
  #wake: () => void = () => {};

  constructor(guest: Guest) {
    this.stop = guest.watch((message) => {
      this.all.push(message);
      this.#wake();
    });
  }

  /** Waits until something that matches has been told. */
  async until(matches: (message: GuestMessage) => boolean): Promise<GuestMessage> {
    for (const deadline = performance.now() + deadlineMs; ;) {
      const found = this.all.find(matches);
      if (found) return found;
      const leftMs = deadline - performance.now();
      if (leftMs <= 0) throw new Error(`it told only ${JSON.stringify(this.all)}`);
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, leftMs);
        this.#wake = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
  }

  async ended(): Promise<Extract<GuestMessage, { type: 'ended' }>> {
    return (await this.until(({ type }) => type === 'ended')) as Extract<GuestMessage, { type: 'ended' }>;
  }
}

/** Somebody at a serial console. */
export class Console {
  readonly #stream: Duplex;
  #text = '';
  #wake: () => void = () => {};

  constructor(stream: Duplex) {
    this.#stream = stream;
    stream.on('error', () => {});
    stream.on('data', (chunk: Buffer) => {
      this.#text += chunk.toString('latin1');
      this.#wake();
    });
  }

  type(text: string): void {
    this.#stream.write(text);
  }

  async until(pattern: RegExp, what = String(pattern)): Promise<string> {
    for (const deadline = performance.now() + deadlineMs; !pattern.test(this.#text);) {
      const leftMs = deadline - performance.now();
      if (leftMs <= 0) throw new Error(`${what}: the console showed only ${JSON.stringify(this.#text.slice(-500))}`);
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, leftMs);
        this.#wake = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
    return this.#text;
  }

  close(): void {
    this.#stream.destroy();
  }
}

/** The error that a call fails with; it must be the contract's, with one of these codes. */
export async function failure(call: Promise<unknown>, codes: readonly ErrorCode[], what = ''): Promise<LodgeError> {
  const error = await within(
    what,
    call.then(() => null, asError),
  );
  assert.ok(error !== null, `${what}: it did not fail`);
  assert.ok(error instanceof LodgeError, `${what}: it failed with ${error.stack}`);
  assert.ok(codes.includes(error.code), `${what}: it failed with ${error.code}: ${error.message}`);
  return error;
}

export function asError(error: unknown): Error {
  return error instanceof Error ? error : new Error(String(error));
}

export async function within<T>(what: string, call: Promise<T>): Promise<T> {
  const late = Promise.withResolvers<never>();
  const timer = setTimeout(() => late.reject(new Error(`${what} did not end`)), deadlineMs);
  try {
    return await Promise.race([call, late.promise]);
  } finally {
    clearTimeout(timer);
  }
}

export async function drain(stream: AsyncIterable<unknown>): Promise<void> {
  for await (const _ of stream);
}
