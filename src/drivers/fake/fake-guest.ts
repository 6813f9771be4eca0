// A guest of the fake driver: what its file says, and a console and an agent that are played.
import { appendFile, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Duplex } from 'node:stream';
import { type BootDevice } from '../../api/boot-order.ts';
import { LodgeError } from '../../api/errors.ts';
import { type GuestGlance } from '../../api/vm-guest-info.ts';
import { type VmPinned } from '../../api/vm.ts';
import { type Picture } from '../../lib/picture.ts';
import {
  type Guest,
  type GuestAgent,
  type GuestExecRequest,
  type GuestMessage,
  type GuestState,
  type SuspendOptions,
} from '../driver.ts';
import { type GuestCounters, type GuestDetail, type GuestMemoryShares, type GuestUsage } from '../measured.ts';
import { FakeDevices, type FakeHardware } from './fake-devices.ts';
import { FakeLayers } from './fake-layers.ts';
import { FakeTuning } from './fake-tuning.ts';

/** The content of a guest's file. */
export interface FakeProcess {
  name: string;
  state: GuestState;
  pinned: VmPinned;
  macs: string[];
  /** Whether the cable of each NIC is plugged in. */
  links: boolean[];
  /** Files of the layers of each disk, top first. */
  disks?: Record<string, string[]>;
  hardware: FakeHardware;
  /** Where the guest has mounted disks, by their names. */
  mounted?: Record<string, string[]>;
  wasRestored: boolean;
  /** What it was started to boot from before all others. */
  bootedFirst?: BootDevice;
  /** Ignores the power button, as a guest that hangs does. */
  isDeaf?: boolean;
  /** Merging layers takes as long as this is so, as it does for large disks. */
  holdsMerges?: boolean;
  /** How far the guest's clock is behind: it stands still while the guest is paused or saved. */
  clockLagMs?: number;
}

/** What a fake guest's clock loses by a pause, and by going on from saved memory. */
export const fakeLag = { pausedMs: 60_000, savedMs: 3_600_000 } as const;

export interface FakeGuestParts {
  id: string;
  name: string;
  directory: string;
  pinned: VmPinned;
  read: () => Promise<FakeProcess | null>;
  /** Replaces what the file says by what `change` makes of it; changes go one after the other. Throws without a guest. */
  change: (change: (now: FakeProcess) => FakeProcess) => Promise<void>;
  remove: () => Promise<void>;
  onEnded: () => void;
}

const display = { width: 640, height: 400 } as const;

export class FakeGuest implements Guest {
  readonly id: string;
  readonly pid = null;
  readonly pinned: VmPinned;
  readonly agent: GuestAgent;
  readonly snapshots: FakeLayers;
  readonly devices: FakeDevices;
  readonly tuning: FakeTuning;
  readonly #parts: FakeGuestParts;
  readonly #listeners = new Set<(message: GuestMessage) => void>();
  readonly #files = new Map<string, Buffer>();
  #last: GuestState | null = null;
  /** Looks go one after the other: what an older one has read must not be told after what a newer one has. */
  #looking: Promise<void> = Promise.resolve();
  /** How many pictures of its display were taken. */
  screenshots = 0;
  #isEnding = false;
  #hasEnded = false;

  constructor(parts: FakeGuestParts) {
    this.id = parts.id;
    this.pinned = parts.pinned;
    this.#parts = parts;
    this.agent = this.#playAgent();
    this.snapshots = new FakeLayers({
      name: parts.name,
      read: async () => (await this.#require()).disks ?? {},
      write: (disks) => parts.change((now) => ({ ...now, disks })),
      holdsMerges: async () => (await this.#require()).holdsMerges === true,
    });
    this.tuning = new FakeTuning(() => this.#require());
    this.devices = new FakeDevices({
      name: parts.name,
      pinned: parts.pinned,
      read: () => this.#require(),
      change: parts.change,
    });
  }

  /** Looks at the file and tells what has changed since the last look. */
  look(): Promise<void> {
    this.#looking = this.#looking.then(() => this.#look());
    return this.#looking;
  }

  async #look(): Promise<void> {
    const process = await this.#parts.read();
    if (this.#hasEnded) return;
    if (!process) {
      this.#hasEnded = true;
      this.#parts.onEnded();
      this.#tell(
        this.#isEnding
          ? { type: 'ended', cause: 'stopped', message: 'It was ended.' }
          : { type: 'ended', cause: 'hypervisor-died', message: 'Its file was removed.' },
      );
      return;
    }
    const before = this.#last;
    this.#last = process.state;
    if (before !== null && before !== process.state) this.#tell({ type: 'state', state: process.state });
  }

  async state(): Promise<GuestState> {
    return (await this.#require()).state;
  }

  watch(listener: (message: GuestMessage) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  async powerDown(): Promise<void> {
    if (!(await this.#require()).isDeaf) await this.#set('shutdown');
  }

  async end(): Promise<void> {
    if (this.#hasEnded) return;
    this.#isEnding = true;
    await this.#parts.remove();
    await this.look();
  }

  async reset(): Promise<void> {
    await this.#set('running');
    this.#tell({ type: 'reset' });
  }

  async pause(): Promise<void> {
    const { state } = await this.#require();
    if (state === 'running')
      await this.#parts.change((now) => ({ ...now, clockLagMs: (now.clockLagMs ?? 0) + fakeLag.pausedMs }));
    await this.#set('paused');
  }

  resume(): Promise<void> {
    return this.#set('running');
  }

  async suspend(options: SuspendOptions): Promise<void> {
    if (options.signal?.aborted)
      throw new LodgeError('cancelled', `Saving VM ${this.#parts.name} was cancelled; it runs on.`);
    await this.#require();
    await writeFile(join(this.#parts.directory, 'memory.state'), 'memory');
    options.onProgress?.(6, 6);
    await options.onSaved?.();
    await this.end();
  }

  async screenshot(): Promise<Picture> {
    await this.#require();
    this.screenshots++;
    const rgb = Buffer.alloc(display.width * display.height * 3);
    // Each picture is another one.
    rgb.writeUInt32BE(this.screenshots);
    return { ...display, rgb };
  }

  async sendKeys(combinations: readonly (readonly string[])[]): Promise<void> {
    await this.#require();
    await appendFile(
      join(this.#parts.directory, 'serial.log'),
      `keys: ${combinations.map((keys) => keys.join('-')).join(' ')}\r\n`,
    );
  }

  async injectNmi(): Promise<void> {
    await this.#require();
    await appendFile(join(this.#parts.directory, 'serial.log'), 'nmi\r\n');
  }

  async setLink(nic: number, isUp: boolean): Promise<void> {
    const process = await this.#require();
    if (process.links[nic] === undefined)
      throw new LodgeError('hypervisor_failed', `VM ${this.#parts.name} has no NIC ${nic}.`);
    await this.#parts.change((now) => ({ ...now, links: now.links.with(nic, isUp) }));
  }

  /** A copy of a running guest has what that one had in memory. */
  inherit(original: Guest): void {
    if (original instanceof FakeGuest) this.recall(original.memory());
  }

  /** What it has in memory, to be saved. */
  memory(): [path: string, base64: string][] {
    return [...this.#files].map(([path, content]) => [path, Buffer.from(content).toString('base64')]);
  }

  /** Has in memory what was saved. */
  recall(memory: readonly (readonly [path: string, base64: string])[]): void {
    for (const [path, base64] of memory) this.#files.set(path, Buffer.from(base64, 'base64'));
  }

  async openSerial(): Promise<Duplex> {
    await this.#require();
    const log = join(this.#parts.directory, 'serial.log');
    const kept = await readFile(log).catch(() => Buffer.alloc(0));
    const console = new Duplex({
      read() {},
      write(chunk: Buffer, _encoding, done) {
        // The guest's terminal echoes what is typed.
        this.push(chunk);
        void appendFile(log, chunk).then(() => done(), done);
      },
    });
    console.push(kept.subarray(Math.max(0, kept.length - 65_536)));
    return console;
  }

  async openVnc(): Promise<Duplex> {
    await this.#require();
    const display = new Duplex({ read() {}, write: (_chunk, _encoding, done) => done() });
    display.push('RFB 003.008\n');
    return display;
  }

  async usage(): Promise<GuestUsage> {
    return {
      cpuSeconds: 0,
      memoryMib: 1,
      memoryPrivateMib: 1,
      memorySharedMib: 0,
      diskReadBytes: 0,
      diskWrittenBytes: 0,
      networkReceivedBytes: 0,
      networkSentBytes: 0,
    };
  }

  async counters(): Promise<GuestCounters> {
    return { cpuSeconds: 0, memoryMib: 1, networkReceivedBytes: 0, networkSentBytes: 0 };
  }

  async detail(): Promise<GuestDetail> {
    return {
      disks: { readBytes: 0, writtenBytes: 0, operations: 0, operationSeconds: 0, latency: [] },
      exits: null,
      stealSeconds: 0,
      inside: null,
      balloonMib: null,
    };
  }

  async exits({ watchMs }: { watchMs: number }): ReturnType<Guest['exits']> {
    return {
      accelerator: 'tcg',
      watchedS: watchMs / 1000,
      counters: [],
      trace: null,
      steal: null,
      dirtyMibPerS: null,
      missing: [{ what: 'counters', reason: 'A fake guest runs no code, and leaves to nobody.' }],
    };
  }

  async memoryShares(): Promise<GuestMemoryShares | null> {
    return { pssMib: 1, hugeMib: 0, ksmMib: 0, swapMib: 0 };
  }

  async release(): Promise<void> {
    this.#listeners.clear();
  }

  /** The one script it knows gives a copy its own addresses. */
  async #runScript(environment: readonly string[]): Promise<void> {
    const pairs = environment.find((entry) => entry.startsWith('LODGE_MACS='))?.slice('LODGE_MACS='.length);
    const given = new Map((pairs ?? '').split(' ').map((pair) => pair.split('=') as [string, string]));
    await this.#parts.change((now) => ({ ...now, macs: now.macs.map((mac) => given.get(mac) ?? mac) }));
  }

  async #require(): Promise<FakeProcess> {
    const process = await this.#parts.read();
    if (!process) throw new LodgeError('hypervisor_failed', `VM ${this.#parts.name} exists no more.`);
    return process;
  }

  async #set(state: GuestState): Promise<void> {
    await this.#parts.change((now) => ({ ...now, state }));
    await this.look();
  }

  #tell(message: GuestMessage): void {
    for (const listener of this.#listeners) listener(message);
    if (message.type === 'ended') this.#listeners.clear();
  }

  #playAgent(): GuestAgent {
    const { name } = this.#parts;
    const requireRunning = async (): Promise<FakeProcess> => {
      const process = await this.#require();
      if (process.state !== 'running')
        throw new LodgeError(
          'agent_unavailable',
          `The agent in VM ${name} does not answer: the VM is ${process.state}.`,
        );
      return process;
    };
    const files = this.#files;
    const runScript = (environment: readonly string[]): Promise<void> => this.#runScript(environment);
    const glance = async (): Promise<GuestGlance> => {
      const { macs } = await requireRunning();
      return {
        agentVersion: '1.0',
        hostname: name,
        os: { id: 'fake', name: 'Fake OS', version: '1', kernel: '1.0', machine: 'x86_64' },
        interfaces: macs.map((mac, index) => ({
          name: `eth${index}`,
          mac,
          addresses: [{ address: `192.0.2.${10 + index}`, prefix: 24, family: 'ipv4' as const }],
        })),
      };
    };
    return {
      isAnswering: async () => (await this.#parts.read())?.state === 'running',
      glance,
      info: async () => {
        const { disks = {}, hardware, clockLagMs = 0 } = await requireRunning();
        const names = Object.keys(disks);
        return {
          ...(await glance()),
          timeZone: { name: 'UTC', offsetS: 0 },
          clock: { at: new Date(Date.now() - clockLagMs).toISOString(), behindMs: clockLagMs },
          fileSystems: [
            { mountPoint: '/', name: 'root', type: 'fake', totalBytes: 1024, usedBytes: 512, disks: names.slice(0, 1) },
          ],
          disks: names.map((disk, index) => ({
            disk,
            device: `/dev/fake${index}`,
            mountPoints: index === 0 ? ['/'] : [],
            usedBytes: index === 0 ? 512 : null,
            totalBytes: index === 0 ? 1024 : null,
          })),
          vcpus: { online: hardware.vcpus, total: hardware.vcpus },
          users: [],
          missing: [],
        };
      },
      metrics: async () => {
        await requireRunning();
        const missing = ['load', 'cpus', 'disks', 'interfaces', 'memory'].map((what) => ({
          what,
          reason: 'a fake guest measures nothing',
        }));
        const at = new Date().toISOString();
        return { at, load: null, cpus: null, disks: null, interfaces: null, memory: null, missing };
      },
      async *exec(request: GuestExecRequest) {
        await requireRunning();
        yield { type: 'started', pid: 1 };
        const [program, ...rest] = request.command;
        if (program === '/bin/sh') await runScript(request.environment);
        if (request.environment.some((one) => one.startsWith('LODGE_HAS_FIRST_BOOT=')))
          yield { type: 'stdout', data: Buffer.from('machine-id\nlogs\n').toString('base64') };
        if (program === 'echo') yield { type: 'stdout', data: Buffer.from(`${rest.join(' ')}\n`).toString('base64') };
        if (program === 'cat' && request.input)
          yield { type: 'stdout', data: Buffer.from(request.input).toString('base64') };
        const isTrue = program === 'test' ? files.has(rest.at(-1) ?? '') : program !== 'false';
        yield { type: 'exit', code: isTrue ? 0 : 1, signal: null };
      },
      async *readFile(path: string) {
        await requireRunning();
        const content = files.get(path);
        if (!content) throw new LodgeError('not_found', `There is no file ${path} in VM ${name}.`);
        yield content;
      },
      writeFile: async (path, content) => {
        await requireRunning();
        const chunks: Uint8Array[] = [];
        for await (const chunk of content) chunks.push(chunk);
        files.set(path, Buffer.concat(chunks));
      },
      setTime: async (timeMs) => {
        await requireRunning();
        await this.#parts.change((now) => ({ ...now, clockLagMs: Date.now() - timeMs }));
      },
      freeze: async () => {
        await requireRunning();
        return 1;
      },
      thaw: async () => {
        await requireRunning();
        return 1;
      },
    };
  }
}
