// One connection to the monitor of one QEMU process, in its protocol QMP.
// https://www.qemu.org/docs/master/interop/qmp-spec.html
//
//   connect() ──► greeting ──► qmp_capabilities ──► open ──► closed
//        └───────────┴───────────────┴── QmpConnectError       ▲ close(), lost, or what came was no QMP
//
// Invariants:
// - At most one in-band command is unanswered and awaited. QEMU stops reading from a monitor that has 8 commands queued,
//   out-of-band ones included, so filling its queue would lock the way that `exec-oob` exists to keep open.
// - A command given up by its caller (deadline, signal) stays accounted for until its answer comes or the connection
//   ends: at most MAX_ABANDONED of them, then nothing more is sent in band until QEMU answers one.
// - Every promise settles: by its answer, its deadline, or the end of the connection, whichever is first.
// - Listeners are called in the order of QEMU's messages, and before any code that awaits a later answer. An event that
//   follows a command's answer may arrive before the code after the `await` runs: subscribe first, then send.
import { setTimeout as setTimer } from 'node:timers';
import type { Socket } from 'node:net';
import { commands, type QmpArguments, type QmpCommandName, type QmpReturn } from './commands.ts';
import { dial, DialError } from './dial.ts';
import {
  QmpAbortedError,
  QmpClosedError,
  QmpConnectError,
  QmpError,
  QmpOverloadError,
  QmpTimeoutError,
} from './errors.ts';
import { EventHub, type EventListener, type RawEvent } from './event-hub.ts';
import type { QmpEvent, QmpEventName, QmpEventOf } from './events.ts';
import { LineReader } from './line-reader.ts';
import { parseGreeting, parseMessage, type QmpGreeting } from './message.ts';

/** The longest answer accepted, in bytes. The largest known, `query-qmp-schema`, has 0.2 MiB. */
export const DEFAULT_MAX_LINE_BYTES = 16 * 1024 * 1024;
const MAX_REQUEST_BYTES = 1024 * 1024;
const MAX_WAITING = 256;
const MAX_ABANDONED = 6;
const MAX_OUT_OF_BAND = 8;

export interface QmpClientOptions {
  /** From the call of connect() to the open connection, in milliseconds. Default 5 s. */
  connectTimeoutMs?: number;
  /** The deadline of a command that names none, from the call to the answer, in milliseconds. Default 10 s. */
  commandTimeoutMs?: number;
  /** Longer lines from QEMU end the connection. Default 16 MiB. */
  maxLineBytes?: number;
  /** Hears every event from the first one on, also those that come together with the end of the negotiation. */
  onRawEvent?: EventListener<RawEvent>;
  /** Told when a listener throws; without it, the process gets a warning. Delivery goes on in any case. */
  onListenerError?: (error: unknown, event: RawEvent) => void;
  /** Gives up connecting. */
  signal?: AbortSignal;
}

export interface ExecuteOptions {
  /** From the call to the answer, in milliseconds. */
  timeoutMs?: number;
  /** Ends the wait. A command already sent is not undone by it. */
  signal?: AbortSignal;
}

/** `{}` is assignable to arguments that are all optional; then they may be left out. */
export type ExecuteParameters<C extends QmpCommandName> =
  {} extends QmpArguments<C>
    ? [args?: QmpArguments<C>, options?: ExecuteOptions]
    : [args: QmpArguments<C>, options?: ExecuteOptions];

/** What both the single connection and the one that re-dials offer for commands. */
export interface QmpExecutor {
  /** Sends a command of the table and resolves to its answer. Commands are answered in the order of the calls. */
  execute<C extends QmpCommandName>(command: C, ...rest: ExecuteParameters<C>): Promise<QmpReturn<C>>;
}

interface Pending {
  readonly id: number;
  readonly command: string;
  readonly isOutOfBand: boolean;
  readonly line: string;
  wasSent: boolean;
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: Error) => void;
  /** Stops the deadline and the signal. */
  readonly release: () => void;
}

export class QmpClient implements QmpExecutor {
  readonly path: string;
  readonly greeting: QmpGreeting;
  /** Whether commands may be sent out of band on this connection. */
  readonly canExecuteOutOfBand: boolean;
  /** Resolves, never rejects, when the connection has ended, with the reason. */
  readonly closed: Promise<QmpClosedError>;

  readonly #socket: Socket;
  readonly #reader: LineReader;
  readonly #hub: EventHub;
  readonly #commandTimeoutMs: number;
  readonly #waiting: Pending[] = [];
  readonly #sent = new Map<number, Pending>();
  /** Ids of commands their callers gave up on; the value says whether they count against the in-band limit. */
  readonly #abandoned = new Map<number, 'in-band' | 'out-of-band'>();
  #lastId = 0;
  #end: QmpClosedError | null = null;
  #resolveClosed: (error: QmpClosedError) => void = () => {};

  /** Connects, negotiates and resolves to the open connection. Rejects with {@link QmpConnectError}. */
  static async connect(path: string, options: QmpClientOptions = {}): Promise<QmpClient> {
    const { connectTimeoutMs = 5000, signal } = options;
    const deadline = performance.now() + connectTimeoutMs;
    const socket = await dial(path, connectTimeoutMs, signal).catch((error: unknown) => {
      if (error instanceof DialError) throw new QmpConnectError(path, error.reason, error.message, error);
      throw error;
    });
    const reader = new LineReader(options.maxLineBytes ?? DEFAULT_MAX_LINE_BYTES);
    const { greeting, rest } = await readGreeting(path, socket, reader, deadline, connectTimeoutMs, signal);
    const enable: 'oob'[] = greeting.capabilities.includes('oob') ? ['oob'] : [];
    const client = new QmpClient(path, socket, reader, greeting, enable.length > 0, options);
    client.#receive(rest);
    try {
      const timeoutMs = Math.max(1, deadline - performance.now());
      await client.execute('qmp_capabilities', enable.length > 0 ? { enable } : {}, { timeoutMs, signal });
    } catch (error) {
      client.close();
      if (error instanceof QmpAbortedError) throw new QmpConnectError(path, 'aborted', 'cancelled', error);
      const reason = error instanceof QmpTimeoutError ? 'timeout' : error instanceof QmpError ? 'protocol' : 'closed';
      throw new QmpConnectError(path, reason, `the monitor on ${path} did not accept the negotiation`, error);
    }
    return client;
  }

  private constructor(
    path: string,
    socket: Socket,
    reader: LineReader,
    greeting: QmpGreeting,
    canExecuteOutOfBand: boolean,
    options: QmpClientOptions,
  ) {
    this.path = path;
    this.greeting = greeting;
    this.canExecuteOutOfBand = canExecuteOutOfBand;
    this.#socket = socket;
    this.#reader = reader;
    this.#commandTimeoutMs = options.commandTimeoutMs ?? 10_000;
    this.#hub = new EventHub(options.onListenerError);
    if (options.onRawEvent) this.#hub.onRawEvent(options.onRawEvent);
    this.closed = new Promise((resolve) => {
      this.#resolveClosed = resolve;
    });
    socket.on('data', (chunk: Buffer) => this.#receive(chunk));
    socket.on('error', (error) => this.#finish('lost', `the connection to QEMU broke: ${error.message}`));
    socket.on('close', () => this.#finish('lost', 'QEMU ended the connection'));
    // The greeting's listeners are gone and the stream may have been paused since.
    socket.resume();
  }

  get isOpen(): boolean {
    return this.#end === null;
  }

  execute<C extends QmpCommandName>(command: C, ...rest: ExecuteParameters<C>): Promise<QmpReturn<C>> {
    const [args, options] = rest;
    return this.#submit(command, args, options, false) as Promise<QmpReturn<C>>;
  }

  /**
   * Sends a command that overtakes those under way in QEMU (`exec-oob`). Only commands whose description allows it; QEMU
   * refuses others. Rejects without sending where the monitor does not offer the capability.
   */
  executeOutOfBand<C extends QmpCommandName>(command: C, ...rest: ExecuteParameters<C>): Promise<QmpReturn<C>> {
    const [args, options] = rest;
    if (!this.canExecuteOutOfBand) {
      const detail = 'this QEMU monitor does not offer out-of-band execution';
      return Promise.reject(new QmpError(command, 'CommandNotFound', detail));
    }
    if (!commands[command].allowsOutOfBand) {
      return Promise.reject(new QmpError(command, 'GenericError', 'it may not be sent out of band'));
    }
    return this.#submit(command, args, options, true) as Promise<QmpReturn<C>>;
  }

  /** Sends a command that is not in the table. Its answer is not checked against anything. */
  executeRaw(command: string, args?: Record<string, unknown>, options?: ExecuteOptions): Promise<unknown> {
    return this.#submit(command, args, options, false);
  }

  /** Calls `listener` for every event of that name until the returned function is called. */
  on<E extends QmpEventName>(name: E, listener: EventListener<QmpEventOf<E>>): () => void {
    return this.#hub.on(name, listener);
  }

  /** Calls `listener` for every event of the table until the returned function is called. */
  onEvent(listener: EventListener<QmpEvent>): () => void {
    return this.#hub.onEvent(listener);
  }

  /** Calls `listener` for every event whatever its name, as QEMU sent it. */
  onRawEvent(listener: EventListener<RawEvent>): () => void {
    return this.#hub.onRawEvent(listener);
  }

  /**
   * The next event of that name that `matches`. Call it before sending the command that causes the event, and await it
   * afterwards. Rejects with {@link QmpTimeoutError}, {@link QmpAbortedError} or {@link QmpClosedError}; a rejection that
   * nobody awaits is not an unhandled one.
   */
  waitForEvent<E extends QmpEventName>(
    name: E,
    matches: (event: QmpEventOf<E>) => boolean,
    timeoutMs: number,
    signal?: AbortSignal,
  ): Promise<QmpEventOf<E>> {
    return this.#hub.waitFor(name, matches, timeoutMs, signal);
  }

  /**
   * The events from now on, one by one. Ends when this side closes the connection or `signal` aborts; throws
   * {@link QmpClosedError} when it was lost, and {@link QmpOverloadError} when more than `maxQueued` were not picked up.
   */
  events(options: { maxQueued?: number; signal?: AbortSignal } = {}): AsyncGenerator<QmpEvent, void, void> {
    return this.#hub.iterate(options.maxQueued ?? 1024, options.signal);
  }

  /** Ends the connection at once. Commands under way reject with {@link QmpClosedError}. QEMU is not affected. */
  close(): void {
    this.#finish('closed', 'the connection was closed');
  }

  #submit(command: string, args: unknown, options: ExecuteOptions | undefined, isOutOfBand: boolean): Promise<unknown> {
    const { timeoutMs = this.#commandTimeoutMs, signal } = options ?? {};
    if (this.#end) {
      return Promise.reject(new QmpClosedError(this.#end.reason, this.#end.message, command, false));
    }
    if (signal?.aborted) return Promise.reject(new QmpAbortedError(command, false));
    const id = ++this.#lastId;
    const verb = isOutOfBand ? 'exec-oob' : 'execute';
    const line = `${JSON.stringify({ [verb]: command, arguments: args, id })}\n`;
    if (line.length > MAX_REQUEST_BYTES) {
      return Promise.reject(new QmpOverloadError(`${command}: the arguments exceed ${MAX_REQUEST_BYTES} bytes`));
    }
    const full = isOutOfBand ? this.#count('out-of-band') >= MAX_OUT_OF_BAND : this.#waiting.length >= MAX_WAITING;
    if (full) {
      return Promise.reject(new QmpOverloadError(`${command}: too many commands wait for ${this.path}`));
    }
    return new Promise((resolve, reject) => {
      const giveUp = (error: (wasSent: boolean) => Error): void => {
        this.#abandon(pending);
        pending.release();
        reject(error(pending.wasSent));
        this.#pump();
      };
      const timer = setTimer(() => giveUp((wasSent) => new QmpTimeoutError(command, timeoutMs, wasSent)), timeoutMs);
      const onAbort = (): void => giveUp((wasSent) => new QmpAbortedError(command, wasSent));
      signal?.addEventListener('abort', onAbort, { once: true });
      const release = (): void => {
        clearTimeout(timer);
        signal?.removeEventListener('abort', onAbort);
      };
      const pending: Pending = { id, command, isOutOfBand, line, wasSent: false, resolve, reject, release };
      if (isOutOfBand) {
        this.#send(pending);
      } else {
        this.#waiting.push(pending);
        this.#pump();
      }
    });
  }

  /** Commands of that kind that QEMU has not answered, awaited or given up. */
  #count(kind: 'in-band' | 'out-of-band'): number {
    let count = 0;
    for (const pending of this.#sent.values()) if (pending.isOutOfBand === (kind === 'out-of-band')) count++;
    for (const abandoned of this.#abandoned.values()) if (abandoned === kind) count++;
    return count;
  }

  #pump(): void {
    if (this.#end) return;
    for (const pending of this.#sent.values()) if (!pending.isOutOfBand) return;
    if (this.#count('in-band') >= MAX_ABANDONED) return;
    const next = this.#waiting.shift();
    if (next) this.#send(next);
  }

  #send(pending: Pending): void {
    pending.wasSent = true;
    this.#sent.set(pending.id, pending);
    this.#socket.write(pending.line);
  }

  #abandon(pending: Pending): void {
    if (this.#sent.delete(pending.id)) {
      this.#abandoned.set(pending.id, pending.isOutOfBand ? 'out-of-band' : 'in-band');
      return;
    }
    const index = this.#waiting.indexOf(pending);
    if (index !== -1) this.#waiting.splice(index, 1);
  }

  #receive(chunk: Buffer): void {
    if (this.#end) return;
    try {
      this.#reader.feed(chunk, (line) => {
        if (!this.#end) this.#handle(line);
      });
    } catch (error) {
      this.#finish('protocol', `QEMU sent what is no QMP: ${error instanceof Error ? error.message : String(error)}`);
    }
  }

  #handle(line: Buffer): void {
    const message = parseMessage(line);
    if (message.kind === 'event') {
      this.#hub.deliver(message.event);
      return;
    }
    if (message.kind === 'unknown') return;
    if (message.id === null) {
      // QEMU answers without an id only to what it could not parse. Which command that was can't be known.
      const detail = message.kind === 'error' ? message.description : 'an answer without an id';
      throw new Error(detail);
    }
    const pending = this.#sent.get(message.id);
    if (!pending) {
      // The late answer to a command given up, or one that never was: nobody waits for it.
      this.#abandoned.delete(message.id);
    } else {
      this.#sent.delete(message.id);
      pending.release();
      if (message.kind === 'return') pending.resolve(message.value);
      else pending.reject(new QmpError(pending.command, message.errorClass, message.description));
    }
    this.#pump();
  }

  #finish(reason: QmpClosedError['reason'], detail: string): void {
    if (this.#end) return;
    const end = new QmpClosedError(reason, detail, null, false);
    this.#end = end;
    this.#socket.destroy();
    this.#reader.clear();
    const unanswered = [...this.#sent.values(), ...this.#waiting];
    this.#sent.clear();
    this.#abandoned.clear();
    this.#waiting.length = 0;
    for (const pending of unanswered) {
      pending.release();
      pending.reject(new QmpClosedError(reason, detail, pending.command, pending.wasSent));
    }
    this.#hub.end(end);
    this.#resolveClosed(end);
  }
}

/** Reads the first line. `rest` are bytes that came with it. */
function readGreeting(
  path: string,
  socket: Socket,
  reader: LineReader,
  deadline: number,
  timeoutMs: number,
  signal: AbortSignal | undefined,
): Promise<{ greeting: QmpGreeting; rest: Buffer }> {
  return new Promise((resolve, reject) => {
    const settle = (): void => {
      clearTimeout(timer);
      signal?.removeEventListener('abort', onAbort);
      socket.removeListener('data', onData);
      socket.removeListener('error', onEnd);
      socket.removeListener('close', onEnd);
    };
    const fail = (reason: QmpConnectError['reason'], detail: string): void => {
      settle();
      socket.on('error', () => {});
      socket.destroy();
      reject(new QmpConnectError(path, reason, `${path}: ${detail}`));
    };
    const onAbort = (): void => fail('aborted', 'cancelled');
    const onEnd = (): void => fail('closed', 'the connection was ended before the greeting');
    const onData = (chunk: Buffer): void => {
      // Only the first line is the greeting's; the client reads what follows with the same reader.
      const newline = chunk.indexOf(0x0a);
      const head = newline === -1 ? chunk : chunk.subarray(0, newline + 1);
      try {
        reader.feed(head, (line) => {
          const greeting = parseGreeting(line);
          settle();
          socket.pause();
          resolve({ greeting, rest: chunk.subarray(head.length) });
        });
      } catch (error) {
        fail('protocol', `what answers is no QMP monitor (${error instanceof Error ? error.message : String(error)})`);
      }
    };
    const timer = setTimer(
      () => fail('greeting', `no greeting within ${timeoutMs} ms; another client may hold the monitor`),
      Math.max(1, deadline - performance.now()),
    );
    if (signal?.aborted) {
      onAbort();
      return;
    }
    signal?.addEventListener('abort', onAbort, { once: true });
    socket.on('data', onData);
    socket.on('error', onEnd);
    socket.on('close', onEnd);
  });
}
