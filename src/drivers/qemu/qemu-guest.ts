// One running QEMU: what the daemon may do with it, and what it tells.
//
// Invariants:
// - `ended` is told once, when the process is gone and what it had on the host is removed, whatever ended it; after it
//   nothing more is told.
// - A lost monitor connection is not the guest's end: only the process's end is. While the process lives it is re-dialled.
// - A guest that powered itself off stays as a paused process (`-action shutdown=pause`) until `end`, so that a daemon
//   that wasn't there at the time still finds out.
// - Of several changes of state in a row, the last one told is what QEMU answered after the last of them.
import { rm } from 'node:fs/promises';
import { type Duplex } from 'node:stream';
import { setTimeout as delay } from 'node:timers/promises';
import { LodgeError } from '../../api/errors.ts';
import { type VmPinned } from '../../api/vm.ts';
import { type CgroupGroup } from '../../host/cgroup-group.ts';
import { type LaunchedProcess } from '../../host/launch/launch.ts';
import {
  isAlive,
  ProcessStuckError,
  ProcessWaitTimeoutError,
  terminateProcess,
  waitForExit,
  type ProcessIdentity,
} from '../../host/process.ts';
import { PictureError, readPpm, type Picture } from '../../lib/picture.ts';
import { type Guest, type GuestMessage, type GuestState, type SuspendOptions } from '../driver.ts';
import { type GuestCounters, type GuestDetail, type GuestMemoryShares, type GuestUsage } from '../measured.ts';
import { type QemuGuestAgent } from './agent/guest-agent.ts';
import { BalloonStatistics } from './balloon-statistics.ts';
import { agentChardev, agentPort, requireSavable } from './machine-devices.ts';
import { withoutDisplay, type GuestConsoles } from './consoles.ts';
import { describeDeath, outOfMemoryMessage } from './death.ts';
import { diskOfDevice } from './device-arguments.ts';
import { readDiskPlaces } from './devices/disk-places.ts';
import { QemuDevices } from './devices/devices.ts';
import { watchExits } from './exits/exits.ts';
import { inOrderOf, type Room } from './room.ts';
import { readTail, workNames, type VmFolder } from './folder.ts';
import { GuestMeter } from './guest-meter.ts';
import { QemuTuning } from './guest-tuning.ts';
import { asking } from './qmp-failure.ts';
import { QmpClosedError, QmpError } from './qmp/errors.ts';
import { QemuLayers } from './layers.ts';
import { type QmpConnection, type QmpConnectionChange } from './qmp/connection.ts';
import { type QmpEvent } from './qmp/events.ts';
import { type RunState } from './qmp/commands.ts';
import { saveMemory } from './saved-state.ts';
import { hasEnded, hasSharedMemory, type SharedFolderServer } from './shared-folders.ts';
import { SerialLog, type TimedTail } from './serial/log.ts';
import { type TpmProcess } from './tpm.ts';

export interface QemuGuestParts {
  id: string;
  name: string;
  pinned: VmPinned;
  identity: ProcessIdentity;
  folder: VmFolder;
  qmp: QmpConnection;
  agent: QemuGuestAgent;
  consoles: GuestConsoles;
  group: CgroupGroup;
  /** /dev/vhost-net can be used by it. */
  canUseVhost: boolean;
  /** The process of its TPM; undefined: it has none. */
  tpm?: TpmProcess | undefined;
  /** What serves its folders that are shared by virtio-fs. */
  sharedFolders?: readonly SharedFolderServer[];
  /** How the process ended, where it is this daemon's child. */
  exited: LaunchedProcess['exited'] | null;
  /** Called when the process is gone, before `ended` is told. */
  onEnded: () => Promise<void>;
}

/** How often the process is looked at; its end is mostly heard of at once by the monitor's connection. */
const lookMs = 2000;
const quitMs = 2000;
const flushMs = 20_000;
const resetMs = 5000;
/** How often the size of the process's own log is looked at, and how much of it is kept. */
const logCheckMs = 10_000;
const keptLogBytes = 1024 * 1024;
/** 8K has 95 MiB. */
const maxScreenshotBytes = 128 * 1024 * 1024;

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
  readonly agent: QemuGuestAgent;
  readonly snapshots: QemuLayers;
  readonly devices: QemuDevices;
  readonly tuning: QemuTuning;
  readonly #parts: QemuGuestParts;
  #pinned: VmPinned;
  readonly #listeners = new Set<(message: GuestMessage) => void>();
  readonly #meter: GuestMeter;
  readonly #ended: Promise<void>;
  #isEnding = false;
  #hasEnded = false;
  #isReleased = false;
  #look = new AbortController();
  /** What was told last, or is known to whoever asked. */
  #lastState: GuestState | null = null;
  #isPortOpen: boolean | null = null;
  #isStateQuiet = false;
  #isTpmTold = false;
  #isWatched = false;
  #areSharedFoldersTold = false;

  constructor(parts: QemuGuestParts) {
    this.id = parts.id;
    this.pid = parts.identity.pid;
    this.#pinned = parts.pinned;
    this.agent = parts.agent;
    this.snapshots = new QemuLayers({
      ...parts,
      withoutTellingState: (work) => this.withoutTellingState(work),
    });
    this.devices = new QemuDevices({
      name: parts.name,
      qmp: parts.qmp,
      agent: parts.agent,
      descriptorSocket: parts.folder.descriptorSocket,
      room: () => this.#pinned.hotplug,
      onPlaced: (places) => this.#notePlaces(places),
      isEmulated: parts.pinned.accelerator === 'tcg',
      canUseVhost: parts.canUseVhost,
      isMemoryShared: hasSharedMemory(parts.pinned.arguments),
    });
    this.tuning = new QemuTuning(parts);
    const balloon = new BalloonStatistics(parts.qmp);
    parts.agent.findDisks = () => readDiskPlaces(parts.qmp);
    parts.agent.readMemory = (options) => balloon.read(options);
    this.#parts = parts;
    this.#meter = new GuestMeter(parts.identity, parts.qmp, balloon, parts.pinned.accelerator === 'tcg');
    parts.qmp.onEvent((event) => this.#onEvent(event));
    void parts.exited?.then(() => this.#lookNow());
    this.#ended = this.#watchProcess();
  }

  get pinned(): VmPinned {
    return this.#pinned;
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
      void this.lookAtPort();
    }
  }

  /** A serial port doesn't tell whether a program in the guest listens; there the agent is asked, and answers or not. */
  get #tellsPort(): boolean {
    return this.pinned.hardware.agentChannel.model !== 'isa-serial';
  }

  /** Notes what is known of the guest without asking: it was started this moment, and no program in it runs yet. */
  noteFresh(): void {
    this.#lastState = 'running';
    if (this.#tellsPort) this.#notePort(false);
  }

  /** Asks whether a program in the guest has the agent's channel open; for a guest that ran before it was connected to. */
  async lookAtPort(): Promise<void> {
    if (!this.#tellsPort) return;
    try {
      const chardevs = await this.#parts.qmp.execute('query-chardev');
      this.#notePort(chardevs.find(({ label }) => label === agentChardev)?.['frontend-open'] ?? false);
    } catch {
      // The connection broke; when it is back, this is asked again.
    }
  }

  state(): Promise<GuestState> {
    return asking(`tell the state of VM ${this.#parts.name}`, async () => {
      const state = guestState((await this.#parts.qmp.execute('query-status')).status);
      this.#noteState(state);
      return state;
    });
  }

  watch(listener: (message: GuestMessage) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  async powerDown(): Promise<void> {
    await this.#ask('power down', () => this.#parts.qmp.execute('system_powerdown'));
  }

  async end(): Promise<void> {
    if (this.#hasEnded) return;
    this.#isEnding = true;
    const { qmp, identity, name } = this.#parts;
    try {
      // QEMU writes out what it holds of its disks when it is told to quit.
      const isToldTo = await qmp.execute('quit', {}, { timeoutMs: quitMs }).then(
        () => true,
        (error: unknown) => error instanceof QmpClosedError && error.wasSent,
      );
      if (isToldTo) await waitForExit(identity, { timeoutMs: flushMs, pollMs: 10 }).catch(ignoreTimeout);
      // One that didn't listen on its monitor may still listen to a signal.
      await terminateProcess(identity, { termTimeoutMs: isToldTo ? 0 : quitMs });
    } catch (error) {
      if (!(error instanceof ProcessStuckError)) throw error;
      throw new LodgeError('host_failed', `QEMU of VM ${name} can’t be ended: ${error.message}.`, { cause: error });
    }
    this.#lookNow();
    await this.#ended;
  }

  reset(): Promise<void> {
    const { qmp } = this.#parts;
    return this.#ask('reset', async () => {
      const hasReset = qmp.waitForEvent('RESET', () => true, resetMs);
      await qmp.execute('system_reset');
      await hasReset;
      // A guest that had panicked or was paused stays stopped after the reset until it is let run.
      if (guestState((await qmp.execute('query-status')).status) !== 'running') await qmp.execute('cont');
    });
  }

  async pause(): Promise<void> {
    await this.#ask('pause', () => this.#parts.qmp.execute('stop'));
  }

  async resume(): Promise<void> {
    await this.#ask('resume', () => this.#parts.qmp.execute('cont'));
  }

  async suspend(options: SuspendOptions): Promise<void> {
    const { qmp, folder, name } = this.#parts;
    requireSavable(name, this.#pinned);
    await this.#ask('suspend', () => saveMemory(name, qmp, folder, options));
    await this.end();
  }

  async screenshot(): Promise<Picture> {
    const { name, consoles, folder, qmp } = this.#parts;
    if (!consoles.hasDisplay) throw withoutDisplay(name);
    await rm(folder.screenshot, { force: true, recursive: true });
    try {
      await this.#ask('take a picture of the display of', () =>
        qmp.execute('screendump', { filename: workNames.screenshot, format: 'ppm' }),
      );
      const image = await readTail(folder.screenshot, maxScreenshotBytes);
      return readPpm(image);
    } catch (error) {
      if (!(error instanceof PictureError)) throw error;
      const message = `The picture that QEMU took of the display of VM ${name} is none: ${error.message}.`;
      throw new LodgeError('hypervisor_failed', message, { cause: error });
    } finally {
      await rm(folder.screenshot, { force: true, recursive: true });
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
        if (!(error instanceof QmpError)) await this.#ask('press keys of', () => Promise.reject(error as Error));
        else throw unknownKeys(combination, error);
      }
      // QEMU holds the keys by itself and queues what comes next; without the wait, long texts overrun its queue.
      await delay(holdMs + 5);
    }
  }

  async injectNmi(): Promise<void> {
    await this.#ask('send an NMI to', () => this.#parts.qmp.execute('inject-nmi'));
  }

  async setLink(nic: number, isUp: boolean): Promise<void> {
    const ids = this.#pinned.arguments.flatMap((argument) => /,id=(nic-[0-9a-f]{12}),/.exec(argument)?.[1] ?? []);
    const name = ids[nic];
    if (!name) throw new LodgeError('hypervisor_failed', `VM ${this.#parts.name} has no NIC ${nic}.`);
    await this.#ask('change the link of a NIC of', () => this.#parts.qmp.execute('set_link', { name, up: isUp }));
  }

  /** What happens meanwhile to the guest's state is not told: it is over when `work` is. */
  async withoutTellingState<T>(work: () => Promise<T>): Promise<T> {
    this.#isStateQuiet = true;
    try {
      return await work();
    } finally {
      this.#isStateQuiet = false;
      await this.#tellState();
    }
  }

  /** What freezing it needs. */
  get forkable(): { name: string; qmp: QmpConnection; descriptorSocket: string; folder: VmFolder } {
    const { name, qmp, folder } = this.#parts;
    return { name, qmp, descriptorSocket: folder.descriptorSocket, folder };
  }

  /** The end of what its serial console has shown. */
  serialTail(maxBytes: number): Promise<TimedTail> {
    return this.#parts.consoles.serialTail(maxBytes);
  }

  openSerial(): Promise<Duplex> {
    return this.#parts.consoles.openSerial();
  }

  openVnc(): Promise<Duplex> {
    return this.#parts.consoles.openVnc();
  }

  usage(): Promise<GuestUsage> {
    return this.#meter.read();
  }

  counters(): Promise<GuestCounters> {
    return this.#meter.counters();
  }

  detail(): Promise<GuestDetail> {
    return this.#meter.detail();
  }

  async exits({ watchMs, isTracing, signal }: Parameters<Guest['exits']>[0]): ReturnType<Guest['exits']> {
    const { name, qmp } = this.#parts;
    if (this.#isWatched)
      throw new LodgeError('busy', `VM ${name} is being watched already.`, { hint: 'Wait until that is over.' });
    this.#isWatched = true;
    try {
      const guest = { id: this.id, pid: this.pid, qmp, isEmulated: this.#pinned.accelerator === 'tcg' };
      return await this.#ask('watch', () => watchExits(guest, { watchMs, isTracing, signal }));
    } finally {
      this.#isWatched = false;
    }
  }

  memoryShares(): Promise<GuestMemoryShares | null> {
    return this.#meter.memoryShares();
  }

  async release(): Promise<void> {
    this.#isReleased = true;
    this.#listeners.clear();
    this.#lookNow();
    await this.#close();
    await this.#ended;
  }

  #ask<T>(what: string, work: () => Promise<T>): Promise<T> {
    return asking(`${what} VM ${this.#parts.name}`, work);
  }

  async #close(): Promise<void> {
    this.#parts.agent.close();
    this.#parts.qmp.close();
    await this.#parts.consoles.close();
  }

  #onEvent(event: QmpEvent): void {
    switch (event.name) {
      case 'STOP':
      case 'RESUME':
        // Panics and shutdowns stop the guest too; the state says which it was.
        if (!this.#isStateQuiet) void this.#tellState();
        return;
      case 'SHUTDOWN':
        if (event.data.guest) this.#noteState('shutdown');
        return;
      case 'GUEST_PANICKED':
        this.#noteState('crashed');
        return;
      case 'RESET':
        this.#tell({ type: 'reset' });
        return;
      case 'VSERPORT_CHANGE':
        if (event.data.id === agentPort) this.#notePort(event.data.open);
        return;
      case 'DEVICE_DELETED':
      case 'MEMORY_DEVICE_SIZE_CHANGE':
      case 'BALLOON_CHANGE':
        // Those that belong to a change are its own affair; others are of one that was given up, or of the guest.
        if (!this.devices.isChanging) this.#tell({ type: 'devices' });
        return;
      case 'BLOCK_IO_ERROR':
        this.#tell({
          type: 'disk-error',
          disk: diskOfDevice(event.data['qom-path'] ?? '') ?? (event.data.device || 'unknown'),
          message: `${event.data.operation} failed: ${event.data.reason}`,
        });
        return;
      default:
    }
  }

  async #tellState(): Promise<void> {
    try {
      this.#noteState(guestState((await this.#parts.qmp.execute('query-status')).status));
    } catch {
      // The connection broke or the process ended; both are told by themselves.
    }
  }

  #noteState(state: GuestState): void {
    if (this.#lastState === state) return;
    this.#lastState = state;
    this.#tell({ type: 'state', state });
  }

  #notePlaces(places: Pick<Room, 'slots' | 'targets'>): void {
    const { hotplug } = this.#pinned;
    if (hotplug) {
      const slots = inOrderOf(places.slots, hotplug.slots);
      const targets = inOrderOf(places.targets, hotplug.targets);
      this.#pinned = { ...this.#pinned, hotplug: { ...hotplug, slots, targets } };
    }
    this.#meter.forgetTaps();
  }

  #notePort(isOpen: boolean): void {
    this.#parts.agent.notePort(isOpen);
    if (this.#isPortOpen === isOpen) return;
    this.#isPortOpen = isOpen;
    this.#tell({ type: 'agent', isConnected: isOpen });
  }

  #tell(message: GuestMessage): void {
    if (this.#hasEnded || this.#isReleased) return;
    for (const listener of this.#listeners) listener(message);
  }

  /** Looks at the process now and then, and at once when the monitor's connection ends. */
  async #watchProcess(): Promise<void> {
    const log = new SerialLog(this.#parts.folder.processLog, { maxFileBytes: keptLogBytes, files: 2 });
    let logCheckedAt = performance.now();
    while (!this.#isReleased && isAlive(this.#parts.identity)) {
      this.#look = new AbortController();
      await delay(lookMs, undefined, { signal: this.#look.signal, ref: false }).catch(() => {});
      if (this.#isReleased) return;
      // The connection ends a moment before the process does.
      if (this.#look.signal.aborted)
        await waitForExit(this.#parts.identity, { timeoutMs: 500, pollMs: 10 }).catch(() => {});
      await this.#lookAtTpm();
      await this.#lookAtSharedFolders();
      if (performance.now() - logCheckedAt > logCheckMs) {
        logCheckedAt = performance.now();
        // Nothing depends on it: a log that can't be cut now is cut the next time.
        await log.rotateIfNeeded().catch(() => {});
      }
    }
    if (!this.#isReleased) await this.#finish();
  }

  /** Its end is told once. A TPM ends with its QEMU too, so QEMU is asked whether it is there. */
  async #lookAtTpm(): Promise<void> {
    const { tpm, qmp } = this.#parts;
    if (tpm === undefined || this.#isTpmTold || this.#listeners.size === 0) return;
    if (tpm !== null && isAlive(tpm)) return;
    const isThere = await qmp.execute('query-status').then(
      () => true,
      () => false,
    );
    if (!isThere || this.#isEnding || this.#isTpmTold) return;
    this.#isTpmTold = true;
    this.#tell({
      type: 'tpm-died',
      message: 'The process of its TPM (swtpm) has ended; the guest goes on without a TPM.',
    });
  }

  /** Told once, as the end of a TPM is. */
  async #lookAtSharedFolders(): Promise<void> {
    const { sharedFolders = [], qmp } = this.#parts;
    if (this.#areSharedFoldersTold || this.#listeners.size === 0) return;
    const ended = sharedFolders.filter((one) => hasEnded(one)).map(({ name }) => name);
    if (ended.length === 0) return;
    const isThere = await qmp.execute('query-status').then(
      () => true,
      () => false,
    );
    if (!isThere || this.#isEnding || this.#areSharedFoldersTold) return;
    this.#areSharedFoldersTold = true;
    this.#tell({
      type: 'shared-folders-died',
      message: `What serves its shared folders (virtiofsd) has ended for ${ended.join(', ')}; whatever in the guest uses them hangs.`,
    });
  }

  #lookNow(): void {
    this.#look.abort();
  }

  async #finish(): Promise<void> {
    const message = await this.#lastMessage();
    const tidied = this.#close().then(() => this.#parts.onEnded());
    await tidied.catch((error: unknown) => {
      // The end is told all the same; the next start tidies up too.
      process.emitWarning(`what VM ${this.#parts.name} had on the host could not be removed: ${String(error)}`);
    });
    if (this.#isReleased) return;
    this.#tell(message);
    this.#hasEnded = true;
    this.#listeners.clear();
  }

  async #lastMessage(): Promise<GuestMessage> {
    if (this.#isEnding) return { type: 'ended', cause: 'stopped', message: 'It was ended.' };
    const { group, folder, exited } = this.#parts;
    const oomKills = await group.readUsage().then(
      (usage) => usage.oomKills,
      () => null,
    );
    if (oomKills) return { type: 'ended', cause: 'out-of-memory', message: outOfMemoryMessage };
    return { type: 'ended', cause: 'hypervisor-died', message: await describeDeath(folder, await exited) };
  }
}

function unknownKeys(combination: readonly string[], error: QmpError): LodgeError {
  return new LodgeError(
    'invalid_request',
    `QEMU does not know the keys ${combination.join('-')}: ${error.description}.`,
    {
      hint: 'Keys are named as QEMU names them: ctrl, alt, shift, delete, ret, spc, a…z, 0…9, f1…f12.',
      fields: [{ field: 'combinations', message: error.description, value: combination.join('-') }],
      cause: error,
    },
  );
}

function ignoreTimeout(error: unknown): void {
  if (!(error instanceof ProcessWaitTimeoutError)) throw error;
}
