// KVM/QEMU as a driver: one confined QEMU process a VM. QemuLauncher starts them, QemuProcesses finds those of earlier
// daemons again, and QemuGuest is what happens in one; the driver puts these together for starts, forks and adoption.
import { link, rm } from 'node:fs/promises';
import { LodgeError } from '../../api/errors.ts';
import { type VmHardware } from '../../api/vm-hardware.ts';
import { type RungExits } from '../../api/node-measurement.ts';
import { type VmSpec } from '../../api/vm-spec.ts';
import { readKvm } from '../../host/machine.ts';
import { makeDurable } from '../../host/image/durable.ts';
import { SpareMemoryFiles } from '../../host/memory-file.ts';
import { isAlive } from '../../host/process.ts';
import {
  type CallOptions,
  type Driver,
  type DriverInspection,
  type FirmwareCopy,
  type ForkOutcome,
  type ForkRequest,
  type Guest,
  type GuestDefinition,
  type KnownGuest,
  type SavedMemory,
  type SaveForManyRequest,
  type SerialOutput,
  type StartOptions,
} from '../driver.ts';
import { memoryBlock } from './memory-arguments.ts';
import { orderOf, withFirst } from './boot-first.ts';
import { capabilitiesOf } from './capabilities.ts';
import { requireCpuFeatures } from './cpu-check.ts';
import { cpuLevels } from './cpu-model.ts';
import { describeDeath, outOfMemoryMessage } from './death.ts';
import { copyFirmware } from './firmware-copy.ts';
import { hasFile, readTail, vmFolder } from './folder.ts';
import {
  forkGuest,
  keepQuiet,
  load,
  requireForkable,
  type ForkParts,
  type IncomingMemory,
  type WaitingCopy,
} from './fork/fork.ts';
import { freezeGuest, settleFreeze } from './fork/freeze.ts';
import { SavedMemoryFiles, saveMemoryFiles, whyNotUsable } from './fork/saved-memory.ts';
import { AcceleratorLadder } from './ladder.ts';
import { measureExits } from './probe/exit-measure.ts';
import { inspectInstallation, type QemuInstallation } from './installation.ts';
import { Attempt, QemuLauncher, startLimits, startMs, type StartLimits } from './qemu-launcher.ts';
import { type QemuGuest } from './qemu-guest.ts';
import { QemuProcesses, type QemuProcessesOptions } from './qemu-processes.ts';
import { qmpFailure } from './qmp-failure.ts';
import { settleCapture } from './memory-capture.ts';
import { loadMemory, settleUsedState, takeBackState, useUpState } from './saved-state.ts';
import { SerialLog } from './serial/log.ts';
import { endSharedFolders, findSharedFolders } from './shared-folders.ts';
import { checkSpec } from './spec-check.ts';
import { endTpm, findTpm, keepTpm, resetTpm } from './tpm.ts';
import { copyVariables, resetVariables } from './uefi-variables.ts';

export interface QemuDriverOptions extends QemuProcessesOptions {
  /** The QEMU program. */
  binary?: string;
  /** The virtiofsd program; without it, it is looked for. */
  virtiofsd?: string;
  /** The accelerators that may be used; default `auto`, all. */
  accelerator?: 'auto' | 'kvm' | 'tcg';
  /** Folder in which what the probe guests showed is kept until the machine restarts. */
  cacheDirectory: string;
}

const forkMs = 120_000;
const saveMs = 600_000;
const adoptMs = 5000;

export class QemuDriver implements Driver {
  readonly name = 'qemu';
  readonly #options: QemuDriverOptions;
  readonly #ladder: AcceleratorLadder;
  readonly #processes: QemuProcesses;
  readonly #launcher: QemuLauncher;
  /** The frozen memory of a guest, and its devices' state. */
  readonly #memoryFiles = new SpareMemoryFiles(2);
  readonly #savedMemory = new SavedMemoryFiles();
  #installation: Promise<QemuInstallation> | null = null;

  constructor(options: QemuDriverOptions) {
    this.#options = options;
    this.#ladder = new AcceleratorLadder(options.cacheDirectory, options.accelerator ?? 'auto');
    this.#processes = new QemuProcesses(options);
    this.#launcher = new QemuLauncher(this.#ladder, this.#processes);
  }

  async inspect(options: CallOptions & { isFresh?: boolean } = {}): Promise<DriverInspection> {
    let installation: QemuInstallation;
    try {
      if (options.isFresh) this.#installation = null;
      installation = await this.#getInstallation();
    } catch (error) {
      if (!(error instanceof LodgeError)) throw error;
      return {
        driver: {
          name: this.name,
          version: null,
          isReady: false,
          reason: `${error.message} ${error.hint}`,
          capabilities: {},
          machines: [],
          cpuModels: [],
        },
        accelerators: [],
        accelerator: null,
      };
    }
    const { rungs, chosen } = await this.#ladder.climb(installation, options);
    return {
      driver: {
        name: this.name,
        version: installation.version,
        isReady: true,
        reason: `QEMU ${installation.version} answers.`,
        capabilities: capabilitiesOf(installation),
        machines: [...installation.machines.keys()],
        cpuModels: ['auto', 'host', ...cpuLevels, ...installation.cpuModels],
      },
      accelerators: rungs,
      accelerator: chosen,
    };
  }

  async check(spec: VmSpec, hardware: VmHardware): Promise<void> {
    const installation = await this.#getInstallation();
    checkSpec(spec, hardware, installation);
    await this.#ladder.check(installation, spec.accelerator);
  }

  async measureExits(options: CallOptions & { onProgress?: (percent: number) => void } = {}): Promise<RungExits[]> {
    const installation = await this.#getInstallation();
    const { device } = await readKvm();
    return measureExits(await this.#ladder.probed(installation), {
      binary: installation.binary,
      kvmDevice: device,
      ...options,
    });
  }

  async start(definition: GuestDefinition, options: StartOptions = {}): Promise<Guest> {
    const { signal, timeoutMs = startMs, isRestoring = false, bootFirst } = options;
    const { name } = definition;
    if (signal?.aborted) throw new LodgeError('cancelled', `Starting VM ${name} was cancelled.`);
    const limits = startLimits(signal, timeoutMs);
    if (options.from) return this.#startFrom(definition, options.from, limits);
    const installation = await this.#getInstallation();
    const folder = vmFolder(definition.directory);
    const hasSavedState = await hasFile(folder.savedState);
    if (isRestoring && !hasSavedState) {
      throw new LodgeError('wrong_state', `The saved memory of VM ${name} is gone.`, {
        hint: 'Discard the saved state (lodge vm force-off), then start it afresh.',
      });
    }
    const attempt = new Attempt(withFirst(definition, bootFirst), folder, limits);
    try {
      const prepared = this.#launcher.prepare(attempt, installation, { isRestoring });
      const { guest, qmp, command } = await this.#launcher.launch(attempt, installation, prepared);
      if (isRestoring) await loadMemory(qmp, limits.deadline);
      else {
        guest.noteFresh();
        await requireCpuFeatures(qmp, name, definition.spec, command.pinned.accelerator);
      }
      await guest.devices.settleAtStart(definition);
      await tuneAtStart(guest, definition);
      // Firmware has its order from the moment QEMU was started; another is told to it when the guest is reset.
      if (bootFirst) await guest.devices.change({ kind: 'boot-order', order: orderOf(definition) });
      if (isRestoring) await useUpState(folder);
      await qmp.execute('cont');
      await keepTpm(folder);
      if (isRestoring) {
        await Promise.all([guest.state(), guest.lookAtPort(), rm(folder.usedState, { force: true })]);
      } else await rm(folder.savedState, { force: true });
      return guest;
    } catch (error) {
      const failure = await this.#launcher.giveUp(attempt, error);
      if (isRestoring) await takeBackState(folder);
      throw failure;
    }
  }

  async fork(parent: Guest, request: ForkRequest): Promise<ForkOutcome> {
    const { spec, signal, timeoutMs = forkMs, onStopped, onCopy } = request;
    const limits = startLimits(signal, timeoutMs);
    const source = this.#requireForkable(parent);
    const { forkable } = source;
    const { copies, pauseMs, frozenBytes } = await forkGuest<QemuGuest>(
      {
        ...forkParts(source, spec),
        files: () => this.#memoryFiles.take(),
        launch: async (definition, incoming, end) => {
          await copyVariables(forkable.folder, vmFolder(definition.directory));
          return this.#launchCopy(definition, incoming, { ...limits, deadline: end });
        },
      },
      { copies: request.copies, deadline: limits.deadline, onStopped, onCopy },
    ).catch((error: unknown) => {
      throw explained(error, `fork VM ${forkable.name}`, limits);
    });
    this.#memoryFiles.refill();
    return { copies, pauseMs, frozenMib: frozenBytes / 2 ** 20 };
  }

  async saveForMany(
    parent: Guest,
    { spec, directory, onStopped, signal, timeoutMs = saveMs }: SaveForManyRequest,
  ): Promise<{ memory: SavedMemory; pauseMs: number }> {
    const limits = startLimits(signal, timeoutMs);
    const source = this.#requireForkable(parent);
    const work = { directory, signal: limits.deadline, onStopped };
    return saveMemoryFiles(forkParts(source, spec), source.pinned, work).catch((error: unknown) => {
      throw explained(error, `save the memory of VM ${source.forkable.name}`, limits);
    });
  }

  async whyNotUsable(memory: SavedMemory): Promise<string | null> {
    return whyNotUsable(memory, (await this.#getInstallation()).version);
  }

  #requireForkable(parent: Guest): QemuGuest {
    const source = [...this.#launcher.guests].find((guest) => guest === parent);
    if (!source) throw new LodgeError('internal', `Guest ${parent.id} is not one of this driver.`);
    requireForkable(source.forkable.name, source.pinned);
    return source;
  }

  /** Starts a guest from memory that was saved of another. */
  async #startFrom(definition: GuestDefinition, memory: SavedMemory, limits: StartLimits): Promise<Guest> {
    const reason = await this.whyNotUsable(memory);
    if (reason) throw new LodgeError('unsupported', `VM ${definition.name} can’t go on from this memory: ${reason}.`);
    const incoming = await this.#savedMemory.open(memory);
    const copy = await this.#launchCopy(definition, Promise.resolve(incoming), limits);
    try {
      await keepQuiet(copy.qmp);
      await load(copy.qmp, copy.streamUri, limits.deadline);
      await copy.run();
      return copy.guest;
    } catch (error) {
      throw await copy.giveUp(error);
    }
  }

  /** Starts the process of a copy, up to where it waits for its devices' state. */
  async #launchCopy(
    definition: GuestDefinition,
    given: Promise<IncomingMemory>,
    limits: StartLimits,
  ): Promise<WaitingCopy<QemuGuest>> {
    const attempt = new Attempt(definition, vmFolder(definition.directory), limits);
    const giveUp = (error: unknown): Promise<LodgeError> => this.#launcher.giveUp(attempt, error);
    try {
      const installation = await this.#getInstallation();
      const prepared = given.then((incoming) =>
        this.#launcher.prepare(attempt, installation, { isRestoring: true, incoming }),
      );
      const { guest, qmp, command } = await this.#launcher.launch(attempt, installation, prepared);
      const hasAgent = definition.hardware.agentChannel.model !== 'none';
      const run = async (): Promise<void> => {
        await guest.devices.settleAtStart(definition);
        await tuneAtStart(guest, definition);
        await qmp.execute('cont');
        // What is known of it now; whoever needs the answers waits for them by themselves. Its agent is asked before anybody
        // waits for it: a guest that has just gone on needs a while to answer the first time.
        void guest.lookAtPort();
        if (hasAgent) void guest.agent.isAnswering().catch(() => {});
        await guest.state();
      };
      return { guest, qmp, streamUri: command.streamUri ?? '', run, giveUp };
    } catch (error) {
      throw await giveUp(error);
    }
  }

  discover(): Promise<ReadonlySet<string>> {
    return this.#processes.discover();
  }

  async adopt(definition: KnownGuest, options: CallOptions = {}): Promise<Guest | null> {
    const { id, name, pinned } = definition;
    const { timeoutMs = adoptMs, signal } = options;
    const identity = await this.#processes.known(id);
    if (!identity) return null;
    const folder = vmFolder(definition.directory);
    const group = await this.#processes.group(id);
    const deadline = AbortSignal.any([AbortSignal.timeout(timeoutMs), ...(signal ? [signal] : [])]);
    try {
      const tpm = await findTpm(this.#processes.mark(id), pinned.arguments);
      const sharedFolders = await findSharedFolders(this.#processes.mark(id), pinned.arguments);
      const parts = { id, name, pinned, identity, folder, group, tpm, sharedFolders, exited: null };
      const { guest, qmp } = await this.#launcher.connect(parts, deadline);
      await Promise.all([guest.state(), guest.lookAtPort(), guest.devices.lookAtPlaces()]);
      await settleUsedState(qmp, folder);
      await settleFreeze(name, qmp);
      await settleCapture(qmp);
      return guest;
    } catch (error) {
      if (!isAlive(identity)) return null;
      throw new LodgeError(
        'hypervisor_failed',
        `QEMU of VM ${name} (process ${identity.pid}) runs but does not answer on its monitor.`,
        { hint: 'It keeps running. Lodge tries again; lodge vm force-off ends it.', cause: error },
      );
    }
  }

  async lastWords(
    definition: Pick<GuestDefinition, 'id' | 'directory'>,
  ): Promise<{ cause: 'hypervisor-died' | 'out-of-memory'; message: string }> {
    const group = await this.#processes.group(definition.id);
    const oomKills = await group.readUsage().then(
      (usage) => usage.oomKills,
      () => null,
    );
    const folder = vmFolder(definition.directory);
    const message = oomKills ? outOfMemoryMessage : await describeDeath(folder);
    await this.#launcher.cleanUp(definition.id, folder);
    return { cause: oomKills ? 'out-of-memory' : 'hypervisor-died', message };
  }

  async endUnknown(id: string): Promise<void> {
    for (const guest of this.#launcher.guests) if (guest.id === id) await guest.end();
    await this.#processes.end(id);
    await endTpm(this.#processes.mark(id));
    await endSharedFolders(this.#processes.mark(id));
    await this.#processes.removeGroup(id);
  }

  async useSavedState(definition: Pick<GuestDefinition, 'id' | 'directory'>, path: string): Promise<void> {
    const folder = vmFolder(definition.directory);
    await rm(folder.savedState, { force: true, recursive: true });
    // Another name of the file: it loses that name when the guest runs on, and stays what it is.
    await link(path, folder.savedState);
    await makeDurable(folder.work);
  }

  hasSavedState(definition: Pick<GuestDefinition, 'id' | 'directory'>): Promise<boolean> {
    return hasFile(vmFolder(definition.directory).savedState);
  }

  async forget(definition: Pick<GuestDefinition, 'id' | 'directory'>, what: 'state' | 'everything'): Promise<void> {
    const folder = vmFolder(definition.directory);
    if (what === 'state') await rm(folder.savedState, { force: true, recursive: true });
    else await rm(folder.directory, { recursive: true, force: true });
  }

  async resetFirmware(
    definition: Pick<GuestDefinition, 'id' | 'name' | 'directory' | 'spec' | 'firmware'>,
    what: 'variables' | 'tpm',
  ): Promise<void> {
    const { uefi } = await this.#getInstallation();
    const folder = vmFolder(definition.directory);
    if (what === 'tpm') return resetTpm(folder, definition);
    if (definition.firmware !== 'uefi' || !uefi) {
      throw new LodgeError(
        'unsupported',
        `VM ${definition.name} has no UEFI variable store: it boots by ${definition.firmware}.`,
        {
          hint: 'Only UEFI keeps variables; lodge vm show tells what boots a VM.',
        },
      );
    }
    await resetVariables(folder, definition, uefi);
  }

  copyFirmware(copy: FirmwareCopy): Promise<void> {
    return copyFirmware(copy);
  }

  async serialLog(definition: Pick<GuestDefinition, 'id' | 'directory'>, maxBytes: number): Promise<SerialOutput> {
    const { serialLog, serialTimes: timesPath } = vmFolder(definition.directory);
    const guest = [...this.#launcher.guests].find(({ id }) => id === definition.id);
    try {
      // While it runs, its log may be rotated at any moment, by who has it in hand.
      const { bytes, times } = await (guest?.serialTail(maxBytes) ??
        new SerialLog(serialLog, { timesPath }).tail(maxBytes));
      return { bytes, times };
    } catch (error) {
      throw new LodgeError('hypervisor_failed', `The kept output of the serial console can’t be read: ${serialLog}.`, {
        hint: 'Only the VM’s own hypervisor process can have changed it; see the cause in the daemon’s log.',
        cause: error,
      });
    }
  }

  async processLog(definition: Pick<GuestDefinition, 'id' | 'directory'>, maxBytes: number): Promise<string> {
    return (await readTail(vmFolder(definition.directory).processLog, maxBytes)).toString('utf8');
  }

  async close(): Promise<void> {
    const { guests } = this.#launcher;
    await Promise.all([...guests].map((guest) => guest.release()));
    guests.clear();
    await this.#memoryFiles.close();
    await this.#processes.close();
  }

  #getInstallation(): Promise<QemuInstallation> {
    // A failure is not kept: QEMU may be installed while the daemon runs.
    this.#installation ??= inspectInstallation(this.#options.binary ?? 'qemu-system-x86_64', this.#options).catch(
      (error: unknown) => {
        this.#installation = null;
        throw error;
      },
    );
    return this.#installation;
  }
}

/** Before its vCPUs run for the first time, they are where they belong. */
async function tuneAtStart(guest: QemuGuest, { placement, limits }: GuestDefinition): Promise<void> {
  if (limits) await guest.tuning.limit(limits);
  if (placement) await guest.tuning.place(placement);
}

/** What forking a guest is about. */
function forkParts(
  source: QemuGuest,
  { machine, memoryMib }: Pick<VmSpec, 'machine' | 'memoryMib'>,
): Pick<ForkParts<QemuGuest>, 'name' | 'freeze' | 'block'> {
  const { forkable } = source;
  return {
    name: forkable.name,
    freeze: (work) => source.withoutTellingState(() => freezeGuest(forkable, work)),
    block: {
      name: memoryBlock(machine),
      size: (source.pinned.hotplug?.baseMemoryMib ?? memoryMib) * 2 ** 20,
    },
  };
}

function explained(error: unknown, what: string, { signal, late, timeoutMs }: StartLimits): unknown {
  if (signal?.aborted) return new LodgeError('cancelled', `It was cancelled to ${what}.`, { cause: error });
  if (late.aborted)
    return new LodgeError('timeout', `It took longer than ${timeoutMs / 1000} s to ${what}.`, { cause: error });
  return qmpFailure(error, what);
}
