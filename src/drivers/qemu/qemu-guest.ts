// One running QEMU: what the daemon may do with it, and what it tells.
//
// Invariants:
// - `ended` is told once, when the process is gone, whatever ended it; after it nothing more is told.
// - A lost monitor connection is not the guest's end: only the process's end is. While the process lives it is re-dialled.
// - A guest that powered itself off stays as a paused process (`-action shutdown=pause`) until `end`, so that a daemon
//   that wasn't there at the time still finds out.
import { open, rm, truncate } from 'node:fs/promises';
import { constants } from 'node:fs';
import { type Duplex } from 'node:stream';
import { setTimeout as delay } from 'node:timers/promises';
import { LodgeError } from '../../api/errors.ts';
import { type VmPinned } from '../../api/vm.ts';
import { type CgroupGroup } from '../../host/cgroup-group.ts';
import {
  isAlive,
  readProcessMemory,
  readProcessStat,
  signalProcess,
  waitForExit,
  type ProcessIdentity,
} from '../../host/process.ts';
import { type CallOptions, type Guest, type GuestMessage, type GuestState, type GuestUsage } from '../driver.ts';
import { type QemuGuestAgent } from './agent/guest-agent.ts';
import { type GuestConsoles } from './consoles.ts';
import { readTail, workNames, type VmFolder } from './folder.ts';
import { QmpError, QmpTimeoutError } from './qmp/errors.ts';
import { type QmpConnection, type QmpConnectionChange } from './qmp/connection.ts';
import { type QmpEvent } from './qmp/events.ts';
import { type RunState } from './qmp/commands.ts';

export interface QemuGuestParts {
  id: string;
  name: string;
  pinned: VmPinned;
  identity: ProcessIdentity;
  folder: VmFolder;
  qmp: QmpConnection;
  agent: QemuGuestAgent;
  consoles: GuestConsoles;
  group: CgroupGroup | null;
  /** Called when the process is gone, before `ended` is told. */
  onEnded: () => Promise<void>;
}

/** What a QEMU run state means for a guest. */
export function guestState(state: RunState): GuestState {
  switch (state) {
    case 'running':
    case 'suspended':
      return 'running';
    case 'shutdown':
      return 'shutdown';
    case 'guest-panicked':
    case 'internal-error':
      return 'crashed';
    default:
      return 'paused';
  }
}

export class QemuGuest implements Guest {
  readonly id: string;
  readonly pid: number;
  readonly pinned: VmPinned;
  readonly agent: QemuGuestAgent;
  readonly #parts: QemuGuestParts;
  readonly #listeners = new Set<(message: GuestMessage) => void>();
  #isEnding = false;
  #hasEnded = false;
  #isReleased = false;
  readonly #ended: Promise<void>;
  #look = new AbortController();

  constructor(parts: QemuGuestParts) {
    this.id = parts.id;
    this.pid = parts.identity.pid;
    this.pinned = parts.pinned;
    this.agent = parts.agent;
    this.#parts = parts;
    parts.qmp.onEvent((event) => this.#onEvent(event));
    this.#ended = this.#watchProcess();
  }

  /** To be called when the monitor's connection is lost or back. */
  onConnectionChange(change: QmpConnectionChange): void {
    if (this.#isEnding) return;
    if (change.state === 'lost') {
      // Nearly always the process has ended; looking at once saves the wait until the next regular look.
      this.#lookNow();
      if (isAlive(this.#parts.identity)) this.#tell({ type: 'control', isConnected: false });
    } else if (change.state === 'back') {
      this.#tell({ type: 'control', isConnected: true });
      void this.#tellState();
    }
  }

  async state(): Promise<GuestState> {
    return guestState((await this.#parts.qmp.execute('query-status')).status);
  }

  watch(listener: (message: GuestMessage) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  async powerDown(): Promise<void> {
    if (this.pinned.machine.startsWith('microvm')) {
      // The machine has no ACPI, so no power button: the guest's own agent is asked instead.
      for await (const output of this.agent.exec({
        command: ['/sbin/poweroff'],
        environment: [],
        input: null,
        timeoutMs: 10_000,
      })) {
        if (output.type === 'exit') break;
      }
      return;
    }
    await this.#parts.qmp.execute('system_powerdown');
  }

  async end(): Promise<void> {
    if (this.#hasEnded) return;
    this.#isEnding = true;
    // QEMU flushes its disks when it is told to quit; SIGKILL is for one that doesn't listen.
    await this.#parts.qmp.execute('quit', {}, { timeoutMs: 2000 }).catch(() => {});
    await waitForExit(this.#parts.identity, { timeoutMs: 5000 }).catch(() =>
      signalProcess(this.#parts.identity, 'SIGKILL'),
    );
    this.#lookNow();
    await this.#ended;
  }

  async reset(): Promise<void> {
    const { qmp } = this.#parts;
    await qmp.execute('system_reset');
    // A panicked or halted guest stays paused after the reset until it is let run.
    if (guestState((await qmp.execute('query-status')).status) !== 'running') await qmp.execute('cont');
  }

  async pause(): Promise<void> {
    await this.#parts.qmp.execute('stop');
  }

  async resume(): Promise<void> {
    await this.#parts.qmp.execute('cont');
  }

  async suspend(
    options: CallOptions & { onProgress?: (bytesDone: number, bytesTotal: number) => void },
  ): Promise<void> {
    const { qmp, folder } = this.#parts;
    const { timeoutMs = 600_000, signal, onProgress } = options;
    const before = await this.state();
    const deadline = AbortSignal.any([AbortSignal.timeout(timeoutMs), ...(signal ? [signal] : [])]);
    try {
      await qmp.execute('stop');
      await rm(folder.savedState, { force: true });
      await qmp.execute('migrate-set-parameters', { 'max-bandwidth': 2 ** 40 });
      await qmp.execute('migrate', { uri: `file:${workNames.savedState}` });
      for (let pauseMs = 5; ; pauseMs = Math.min(pauseMs * 2, 250)) {
        const migration = await qmp.execute('query-migrate');
        if (migration.ram) onProgress?.(migration.ram.transferred, migration.ram.total);
        if (migration.status === 'completed') break;
        if (migration.status === 'failed' || migration.status === 'cancelled') {
          throw new LodgeError(
            'hypervisor_failed',
            `QEMU could not save the memory of VM ${this.#parts.name}: ${migration['error-desc'] ?? migration.status}.`,
          );
        }
        await delay(pauseMs, undefined, { signal: deadline });
      }
      const saved = await open(folder.savedState, constants.O_RDONLY | constants.O_NOFOLLOW);
      try {
        await saved.sync();
      } finally {
        await saved.close();
      }
    } catch (error) {
      await qmp.execute('migrate_cancel').catch(() => {});
      await rm(folder.savedState, { force: true });
      if (before === 'running') await this.#resumeAfterFailure();
      if (signal?.aborted)
        throw new LodgeError('cancelled', `Saving VM ${this.#parts.name} was cancelled; it runs on.`);
      if (deadline.aborted)
        throw new LodgeError(
          'timeout',
          `Saving VM ${this.#parts.name} took longer than ${timeoutMs / 1000} s; it runs on.`,
        );
      throw error;
    }
    await this.end();
  }

  async screenshot(): Promise<Uint8Array> {
    if (!this.#parts.consoles.hasDisplay)
      throw new LodgeError('unsupported', `VM ${this.#parts.name} has no display.`, {
        hint: 'Set display to vnc; it takes effect at the next start.',
      });
    const { screenshot } = this.#parts.folder;
    await rm(screenshot, { force: true });
    await this.#parts.qmp.execute('screendump', { filename: workNames.screenshot, format: 'png' });
    try {
      const image = await readTail(screenshot, 64 * 1024 * 1024);
      if (image.length === 0)
        throw new LodgeError('hypervisor_failed', `QEMU took no picture of the display of VM ${this.#parts.name}.`);
      return image;
    } finally {
      await rm(screenshot, { force: true });
    }
  }

  async sendKeys(combinations: readonly (readonly string[])[], holdMs: number): Promise<void> {
    for (const combination of combinations) {
      try {
        await this.#parts.qmp.execute('send-key', {
          keys: combination.map((data) => ({ type: 'qcode' as const, data })),
          'hold-time': holdMs,
        });
      } catch (error) {
        if (!(error instanceof QmpError)) throw error;
        throw new LodgeError(
          'invalid_request',
          `QEMU does not know the keys ${combination.join('-')}: ${error.description}.`,
          {
            hint: 'Keys are named as QEMU names them: ctrl, alt, shift, delete, ret, spc, a…z, 0…9, f1…f12.',
            fields: [{ field: 'combinations', message: error.description, value: combination.join('-') }],
          },
        );
      }
      // QEMU holds the keys by itself and queues what comes next; without the wait, long texts overrun its queue.
      await delay(holdMs + 5);
    }
  }

  async injectNmi(): Promise<void> {
    await this.#parts.qmp.execute('inject-nmi');
  }

  openSerial(): Promise<Duplex> {
    return this.#parts.consoles.openSerial();
  }

  openVnc(): Promise<Duplex> {
    return this.#parts.consoles.openVnc();
  }

  async usage(): Promise<GuestUsage> {
    const stat = readProcessStat(this.pid);
    const memory = await readProcessMemory(this.pid).catch(() => null);
    const usage: GuestUsage = {
      cpuSeconds: stat ? (stat.userMicroseconds + stat.systemMicroseconds) / 1e6 : null,
      memoryMib: memory ? memory.rssBytes / 2 ** 20 : null,
      diskReadBytes: null,
      diskWrittenBytes: null,
      networkReceivedBytes: null,
      networkSentBytes: null,
    };
    try {
      const disks = await this.#parts.qmp.execute('query-blockstats', {}, { timeoutMs: 1000 });
      usage.diskReadBytes = disks.reduce((sum, disk) => sum + disk.stats.rd_bytes, 0);
      usage.diskWrittenBytes = disks.reduce((sum, disk) => sum + disk.stats.wr_bytes, 0);
    } catch (error) {
      // A QEMU busy with something long answers later; what /proc shows is enough for now.
      if (!(error instanceof QmpTimeoutError)) throw error;
    }
    return usage;
  }

  async release(): Promise<void> {
    this.#isReleased = true;
    this.#lookNow();
    this.#listeners.clear();
    await this.#parts.consoles.close();
    this.#parts.qmp.close();
  }

  async #resumeAfterFailure(): Promise<void> {
    // A cancelled migration takes a moment before QEMU lets the guest run again.
    for (let attempt = 0; attempt < 50 && isAlive(this.#parts.identity); attempt++) {
      try {
        await this.#parts.qmp.execute('cont');
        return;
      } catch {
        await delay(100);
      }
    }
  }

  #onEvent(event: QmpEvent): void {
    switch (event.name) {
      case 'STOP':
        // Panics and shutdowns come with their own event and stop the guest too; the state says which it was.
        void this.#tellState();
        return;
      case 'RESUME':
        this.#tell({ type: 'state', state: 'running' });
        return;
      case 'SHUTDOWN':
        if (event.data.guest) this.#tell({ type: 'state', state: 'shutdown' });
        return;
      case 'GUEST_PANICKED':
        this.#tell({ type: 'state', state: 'crashed' });
        return;
      case 'RESET':
        this.#tell({ type: 'reset' });
        return;
      case 'VSERPORT_CHANGE':
        if (event.data.id !== 'agent') return;
        this.#parts.agent.notePort(event.data.open);
        this.#tell({ type: 'agent', isConnected: event.data.open });
        return;
      case 'BLOCK_IO_ERROR':
        this.#tell({
          type: 'disk-error',
          disk: event.data.device || (event.data['node-name'] ?? ''),
          message: event.data.reason,
        });
        return;
      default:
    }
  }

  async #tellState(): Promise<void> {
    try {
      const state = await this.state();
      this.#tell({ type: 'state', state });
    } catch {
      // The connection broke or the process ended; both are told by themselves.
    }
  }

  #tell(message: GuestMessage): void {
    if (this.#hasEnded || this.#isReleased) return;
    for (const listener of this.#listeners) listener(message);
  }

  /** Looks at the process twice a second, and at once when the monitor's connection ends. */
  async #watchProcess(): Promise<void> {
    while (isAlive(this.#parts.identity)) {
      if (this.#isReleased) return;
      this.#look = new AbortController();
      await delay(500, undefined, { signal: this.#look.signal, ref: false }).catch(() => {});
      // The connection ends a moment before the process does.
      if (this.#look.signal.aborted && !this.#isReleased) {
        await waitForExit(this.#parts.identity, { timeoutMs: 500, pollMs: 10 }).catch(() => {});
      }
    }
    await this.#finish();
  }

  #lookNow(): void {
    this.#look.abort();
  }

  async #finish(): Promise<void> {
    if (this.#isReleased) return;
    const wasAsked = this.#isEnding;
    const oomKills = await this.#parts.group?.readUsage().then(
      (usage) => usage.oomKills,
      () => null,
    );
    this.#parts.qmp.close();
    await this.#parts.consoles.close();
    await this.#parts.onEnded();
    const message: GuestMessage = wasAsked
      ? { type: 'ended', cause: 'stopped', message: 'It was ended.' }
      : oomKills
        ? {
            type: 'ended',
            cause: 'out-of-memory',
            message: 'The kernel ended its QEMU process because memory ran out.',
          }
        : { type: 'ended', cause: 'hypervisor-died', message: await describeDeath(this.#parts.folder) };
    for (const listener of this.#listeners) listener(message);
    this.#hasEnded = true;
    this.#listeners.clear();
  }
}

/** Why a QEMU process may have ended, from its own last words. */
export async function describeDeath(folder: VmFolder): Promise<string> {
  const lines = (await readTail(folder.processLog, 4096)).toString('utf8').trim().split('\n');
  const last = lines
    .at(-1)
    ?.replace(/^\S+Z /, '')
    .trim();
  return last
    ? `Its QEMU process ended unexpectedly. It last said: ${last}`
    : 'Its QEMU process ended unexpectedly, without a word.';
}

/** Empties the log of an earlier run, so that the last words are of this one. */
export async function clearProcessLog(folder: VmFolder): Promise<void> {
  await truncate(folder.processLog, 0).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== 'ENOENT') throw error;
  });
}
