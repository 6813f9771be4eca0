// KVM/QEMU as a driver. It starts one confined QEMU process a VM, finds those of earlier daemons again by a mark in
// their environment, and leaves what happens in them to QemuGuest.
//
// Invariants:
// - The mark is set before the process exists as QEMU, so whatever moment the daemon dies in, the process is either found
//   by `discover` or was never there.
// - A start that fails leaves no process, no control group and no socket; what QEMU said stays in its log.
import { existsSync, readFileSync } from 'node:fs';
import { link, rm } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import { LodgeError } from '../../api/errors.ts';
import { type VmHardware } from '../../api/vm-hardware.ts';
import { type VmSpec } from '../../api/vm-spec.ts';
import { CgroupError, type CgroupGroup } from '../../host/cgroup-group.ts';
import { openCgroupTree, type CgroupTree } from '../../host/cgroup.ts';
import { makeDurable } from '../../host/image/durable.ts';
import { launchConfined, type LaunchedProcess } from '../../host/launch/launch.ts';
import {
  findProcesses,
  identifyProcess,
  isAlive,
  terminateProcess,
  waitForExit,
  type ProcessIdentity,
} from '../../host/process.ts';
import {
  type CallOptions,
  type Driver,
  type DriverInspection,
  type ForkOutcome,
  type ForkRequest,
  type Guest,
  type GuestDefinition,
  type KnownGuest,
} from '../driver.ts';
import { QemuGuestAgent } from './agent/guest-agent.ts';
import { buildCommand, memoryBlock, type QemuCommand } from './arguments.ts';
import { capabilitiesOf } from './capabilities.ts';
import { openConsoles } from './consoles.ts';
import { requireCpuFeatures } from './cpu-check.ts';
import { readInterface } from './cpu-interface.ts';
import { cpuLevels } from './cpu-model.ts';
import { describeDeath, outOfMemoryMessage } from './death.ts';
import { hasFile, prepareFolder, readTail, removeLeftovers, vmFolder, type VmFolder } from './folder.ts';
import { forkGuest, requireForkable, type IncomingMemory, type WaitingCopy } from './fork/fork.ts';
import { freezeGuest, settleFreeze } from './fork/freeze.ts';
import { AcceleratorLadder } from './ladder.ts';
import { inspectInstallation, type QemuInstallation } from './installation.ts';
import { QemuGuest, type QemuGuestParts } from './qemu-guest.ts';
import { qmpFailure } from './qmp-failure.ts';
import { QmpClosedError, QmpConnectError } from './qmp/errors.ts';
import { QmpConnection, type QmpConnectionChange } from './qmp/connection.ts';
import { settleCapture } from './memory-capture.ts';
import { loadMemory, settleUsedState, takeBackState, useUpState } from './saved-state.ts';
import { SerialLog } from './serial/log.ts';
import { checkSpec } from './spec-check.ts';
import { startFailure } from './start-failure.ts';
import { endTpm, keepTpm, mayHaveTpm, resetTpm, startTpm, tpmFailure } from './tpm.ts';
import { copyVariables, provideVariables, resetVariables } from './uefi-variables.ts';

export interface QemuDriverOptions {
  /** Name of this installation of Lodge; marks its processes and groups. */
  instance: string;
  /** The QEMU program. */
  binary?: string;
  /** The accelerators that may be used; default `auto`, all. */
  accelerator?: 'auto' | 'kvm' | 'tcg';
  /** Folder in which what the probe guests showed is kept until the machine restarts. */
  cacheDirectory: string;
  /** Where its control groups are made; see CgroupTreeOptions. */
  cgroupRoot?: 'auto' | `/${string}`;
}

/** Environment variable that marks a QEMU process as a guest of Lodge: `instance/id`. */
const markVariable = 'LODGE_VM';

const startMs = 60_000;
const forkMs = 120_000;
const adoptMs = 5000;
/** What is found by one search of /proc is good for so long, where many guests are adopted at once. */
const freshMs = 1000;
const dyingMs = 500;
/** Between making its socket and listening on it QEMU needs a moment, in which it is dialled in vain. */
const redialMs = 1;
/** Above the kernel's default for a guest: when memory runs out, a guest goes before the daemon and sshd. */
const guestOomScore = 200;
/** For each disk, NIC and console some; a guest that uses more is taken over. */
const maxOpenFiles = 16_384;

/** What there is of a guest that is being started. */
interface Attempt {
  launched: LaunchedProcess | null;
  guest: QemuGuest | null;
}

export class QemuDriver implements Driver {
  readonly name = 'qemu';
  readonly #options: QemuDriverOptions;
  readonly #ladder: AcceleratorLadder;
  readonly #guests = new Set<QemuGuest>();
  #installation: Promise<QemuInstallation> | null = null;
  #cgroups: Promise<CgroupTree> | null = null;
  #recent: { atMs: number; processes: Promise<Map<string, ProcessIdentity>> } | null = null;

  constructor(options: QemuDriverOptions) {
    this.#options = options;
    this.#ladder = new AcceleratorLadder(options.cacheDirectory, options.accelerator ?? 'auto');
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

  async start(definition: GuestDefinition, options: CallOptions & { isRestoring?: boolean } = {}): Promise<Guest> {
    const { signal, timeoutMs = startMs, isRestoring = false } = options;
    const { id, name } = definition;
    if (signal?.aborted) throw new LodgeError('cancelled', `Starting VM ${name} was cancelled.`);
    const late = AbortSignal.timeout(timeoutMs);
    const deadline = AbortSignal.any([late, ...(signal ? [signal] : [])]);
    const installation = await this.#getInstallation();
    const folder = vmFolder(definition.directory);
    const hasSavedState = await hasFile(folder.savedState);
    if (isRestoring && !hasSavedState) {
      throw new LodgeError('wrong_state', `The saved memory of VM ${name} is gone.`, {
        hint: 'Discard the saved state (lodge vm force-off), then start it afresh.',
      });
    }
    const attempt: Attempt = { launched: null, guest: null };
    try {
      const prepared = this.#prepare(definition, installation, folder, { isRestoring });
      const { guest, qmp, command } = await this.#launch(definition, prepared, folder, attempt, deadline);
      if (isRestoring) await loadMemory(qmp, deadline);
      else {
        guest.noteFresh();
        await requireCpuFeatures(qmp, name, definition.spec, command.pinned.accelerator);
      }
      await guest.devices.settleAtStart(definition);
      if (isRestoring) await useUpState(folder);
      await qmp.execute('cont');
      await keepTpm(folder);
      if (isRestoring) {
        await Promise.all([guest.state(), guest.lookAtPort(), rm(folder.usedState, { force: true })]);
      } else await rm(folder.savedState, { force: true });
      return guest;
    } catch (error) {
      const death = await this.#giveUp(id, folder, attempt, error);
      if (isRestoring) await takeBackState(folder);
      const tpm = tpmFailure(name, folder, death);
      if (tpm) throw tpm;
      throw startFailure({
        name,
        error,
        death,
        isCancelled: signal?.aborted ?? false,
        isLate: late.aborted,
        timeoutMs,
      });
    }
  }

  async fork(parent: Guest, request: ForkRequest): Promise<ForkOutcome> {
    const source = [...this.#guests].find((guest) => guest === parent);
    if (!source) throw new LodgeError('internal', `Guest ${parent.id} is not one of this driver.`);
    const { spec, signal, timeoutMs = forkMs, onStopped, onCopy } = request;
    const late = AbortSignal.timeout(timeoutMs);
    const deadline = AbortSignal.any([late, ...(signal ? [signal] : [])]);
    const { forkable } = source;
    requireForkable(forkable.name, source.pinned);
    const { copies, pauseMs, frozenBytes } = await forkGuest<QemuGuest>(
      {
        name: forkable.name,
        freeze: (work) => source.withoutTellingState(() => freezeGuest(forkable, work)),
        block: {
          name: memoryBlock(spec.machine),
          size: (source.pinned.hotplug?.baseMemoryMib ?? spec.memoryMib) * 2 ** 20,
        },
        launch: async (definition, incoming, end) => {
          await copyVariables(forkable.folder, vmFolder(definition.directory));
          return this.#launchCopy(definition, incoming, end, { signal, late, timeoutMs });
        },
      },
      { copies: request.copies, deadline, onStopped, onCopy },
    ).catch((error: unknown) => {
      const what = `fork VM ${forkable.name}`;
      if (signal?.aborted) throw new LodgeError('cancelled', `It was cancelled to ${what}.`, { cause: error });
      if (late.aborted)
        throw new LodgeError('timeout', `It took longer than ${timeoutMs / 1000} s to ${what}.`, { cause: error });
      throw qmpFailure(error, what);
    });
    return { copies, pauseMs, frozenMib: frozenBytes / 2 ** 20 };
  }

  /** Starts the process of a copy, up to where it waits for its devices' state. */
  async #launchCopy(
    definition: GuestDefinition,
    given: Promise<IncomingMemory>,
    deadline: AbortSignal,
    { signal, late, timeoutMs }: { signal: AbortSignal | undefined; late: AbortSignal; timeoutMs: number },
  ): Promise<WaitingCopy<QemuGuest>> {
    const { id, name } = definition;
    const folder = vmFolder(definition.directory);
    const attempt: Attempt = { launched: null, guest: null };
    const giveUp = async (error: unknown): Promise<LodgeError> => {
      const death = await this.#giveUp(id, folder, attempt, error);
      return startFailure({
        name,
        error,
        death,
        isCancelled: signal?.aborted ?? false,
        isLate: late.aborted,
        timeoutMs,
      });
    };
    try {
      const installation = await this.#getInstallation();
      const prepared = given.then((incoming) =>
        this.#prepare(definition, installation, folder, { isRestoring: true, incoming }),
      );
      const { guest, qmp, command } = await this.#launch(definition, prepared, folder, attempt, deadline);
      const run = async (): Promise<void> => {
        await guest.devices.settleAtStart(definition);
        await qmp.execute('cont');
        // What is known of it now; whoever needs the answers waits for them by themselves.
        void guest.lookAtPort();
        await guest.state();
      };
      return { guest, qmp, streamUri: command.streamUri ?? '', run, giveUp };
    } catch (error) {
      throw await giveUp(error);
    }
  }

  /** Starts QEMU in a group of its own and connects to it. What there is of it is in `attempt`, also when this throws. */
  async #launch(
    definition: GuestDefinition,
    prepared: Promise<QemuCommand>,
    folder: VmFolder,
    attempt: Attempt,
    deadline: AbortSignal,
  ): Promise<{ guest: QemuGuest; qmp: QmpConnection; command: QemuCommand }> {
    const { id, name } = definition;
    // Side by side, but both are over before anything is taken back.
    const making = this.#makeGroup(id);
    await Promise.allSettled([prepared, making]);
    const [command, group] = await Promise.all([prepared, making]);
    const oomScoreAdjust = Math.max(guestOomScore, ownOomScore());
    if (definition.spec.tpm?.isEnabled) {
      const { swtpmPath } = await this.#getInstallation();
      const cgroupProcsFiles = group.processFiles;
      await startTpm(folder, definition, {
        mark: this.#mark(id),
        program: swtpmPath ?? 'swtpm',
        cgroupProcsFiles,
        oomScoreAdjust,
      });
    }
    const launched = await launchConfined({
      argv: command.argv,
      uid: definition.uid,
      gid: definition.uid,
      cgroupProcsFiles: group.processFiles,
      oomScoreAdjust,
      limits: { core: 0, nofile: maxOpenFiles },
      files: command.files,
      taps: command.taps,
      stdoutPath: folder.processLog,
      stderrPath: folder.processLog,
      cwd: folder.work,
      env: { [markVariable]: this.#mark(id) },
    });
    attempt.launched = launched;
    const identity = identifyProcess(launched.pid);
    if (!identity) throw new LodgeError('hypervisor_failed', `QEMU of VM ${name} ended at once.`);
    await waitForSocket(folder.qmpSocket, identity, deadline);
    const opened = await this.#connect(
      { id, name, pinned: command.pinned, identity, folder, group, exited: launched.exited },
      deadline,
    );
    attempt.guest = opened.guest;
    return { ...opened, command };
  }

  async discover(): Promise<ReadonlySet<string>> {
    this.#recent = { atMs: performance.now(), processes: this.#findProcesses() };
    return new Set((await this.#recent.processes).keys());
  }

  async adopt(definition: KnownGuest, options: CallOptions = {}): Promise<Guest | null> {
    const { id, name, pinned } = definition;
    const { timeoutMs = adoptMs, signal } = options;
    const identity = await this.#knownProcess(id);
    if (!identity) return null;
    const folder = vmFolder(definition.directory);
    const group = (await this.#getCgroups()).group(id);
    const deadline = AbortSignal.any([AbortSignal.timeout(timeoutMs), ...(signal ? [signal] : [])]);
    try {
      const parts = { id, name, pinned, identity, folder, group, exited: null };
      const { guest, qmp } = await this.#connect(parts, deadline);
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
    const group = (await this.#getCgroups()).group(definition.id);
    const oomKills = await group.readUsage().then(
      (usage) => usage.oomKills,
      () => null,
    );
    const folder = vmFolder(definition.directory);
    const message = oomKills ? outOfMemoryMessage : await describeDeath(folder);
    await this.#cleanUp(definition.id, folder);
    return { cause: oomKills ? 'out-of-memory' : 'hypervisor-died', message };
  }

  async endUnknown(id: string): Promise<void> {
    for (const guest of this.#guests) if (guest.id === id) await guest.end();
    const identity = (await this.#findProcesses()).get(id);
    if (identity) await terminateProcess(identity, { termTimeoutMs: 2000 });
    await endTpm(this.#mark(id));
    await this.#removeGroup(id);
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

  async serialLog(definition: Pick<GuestDefinition, 'id' | 'directory'>, maxBytes: number): Promise<Uint8Array> {
    const { serialLog } = vmFolder(definition.directory);
    try {
      return (await new SerialLog(serialLog).tail(maxBytes)).bytes;
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
    await Promise.all([...this.#guests].map((guest) => guest.release()));
    this.#guests.clear();
    const tree = await this.#cgroups?.catch(() => null);
    await tree?.removeRootIfEmpty();
  }

  /** The guest's files and QEMU's command line. */
  async #prepare(
    definition: GuestDefinition,
    installation: QemuInstallation,
    folder: VmFolder,
    { isRestoring, incoming }: { isRestoring: boolean; incoming?: IncomingMemory },
  ): Promise<QemuCommand> {
    await prepareFolder(folder, definition.uid);
    const isUefi = definition.firmware === 'uefi';
    if (isUefi && installation.uefi) await provideVariables(folder, definition, installation.uefi);
    // Saved memory goes on with the accelerator it was saved under.
    const wanted = isRestoring && definition.pinned ? definition.pinned.accelerator : definition.spec.accelerator;
    const choice = await this.#ladder.choose(installation, wanted);
    return buildCommand(definition, {
      installation,
      accelerator: { accelerator: choice.accelerator, rung: choice.rung, acceleratorReason: choice.reason },
      probedCpuModel: choice.cpuModel,
      uefiVariablesPath: isUefi ? folder.uefiVariables : null,
      hasVhostNet: existsSync('/dev/vhost-net'),
      tscKhz: choice.tscKhz,
      isRestoring,
      ...(incoming ? { incoming } : {}),
    });
  }

  /** Connects to the monitor of a process and makes the guest of it. */
  async #connect(
    parts: Pick<QemuGuestParts, 'id' | 'name' | 'pinned' | 'identity' | 'folder' | 'group' | 'exited'>,
    deadline: AbortSignal,
  ): Promise<{ guest: QemuGuest; qmp: QmpConnection }> {
    const { id, name, folder } = parts;
    let guest: QemuGuest | null = null;
    const onChange = (change: QmpConnectionChange): void => guest?.onConnectionChange(change);
    const qmp = QmpConnection.open(folder.qmpSocket, { onChange, minDelayMs: redialMs });
    const giveUp = (): void => qmp.close();
    deadline.addEventListener('abort', giveUp, { once: true });
    // A process that ends before it greets leaves nothing to wait for.
    void parts.exited?.then(giveUp);
    try {
      deadline.throwIfAborted();
      const { greeting } = await qmp.whenUp(startMs);
      // What runs is what counts: the package may have been upgraded since QEMU was looked at.
      const { hardware, accelerator } = parts.pinned;
      const pinned = parts.exited
        ? {
            ...parts.pinned,
            qemuVersion: greeting.version,
            cpuFeatures: await readInterface(qmp, hardware.cpuInterface.model, accelerator),
          }
        : parts.pinned;
      const created: QemuGuest = new QemuGuest({
        ...parts,
        canUseVhost: pinned.accelerator === 'kvm' && existsSync('/dev/vhost-net'),
        pinned,
        qmp,
        agent: new QemuGuestAgent(folder.agentSocket),
        consoles: openConsoles(name, folder, pinned.arguments.includes('-vnc')),
        onEnded: async () => {
          this.#guests.delete(created);
          await this.#cleanUp(id, folder);
        },
      });
      guest = created;
      this.#guests.add(created);
      return { guest: created, qmp };
    } catch (error) {
      qmp.close();
      throw error;
    } finally {
      deadline.removeEventListener('abort', giveUp);
    }
  }

  /** Takes back a start that failed. How its process ended; null: it was alive, or there was none. */
  async #giveUp(id: string, folder: VmFolder, { launched, guest }: Attempt, error: unknown): Promise<string | null> {
    if (guest) {
      this.#guests.delete(guest);
      await guest.release();
    }
    let death: string | null = null;
    if (launched) {
      const identity = identifyProcess(launched.pid);
      // The monitor's connection ends a moment before the process does.
      const isDying = error instanceof QmpClosedError || error instanceof QmpConnectError;
      if (identity && isDying) await waitForExit(identity, { timeoutMs: dyingMs, pollMs: 10 }).catch(() => {});
      if (identity && isAlive(identity)) await terminateProcess(identity, { termTimeoutMs: 0 });
      else death = await describeDeath(folder, await launched.exited);
    }
    await this.#cleanUp(id, folder);
    return death;
  }

  async #cleanUp(id: string, folder: VmFolder): Promise<void> {
    if (await mayHaveTpm(folder)) await endTpm(this.#mark(id));
    await Promise.all([removeLeftovers(folder), this.#removeGroup(id)]);
  }

  /** A group of its own, without what an earlier process of the VM has counted in it. */
  async #makeGroup(id: string): Promise<CgroupGroup> {
    const cgroups = await this.#getCgroups();
    const stale = cgroups.group(id);
    if (await stale.exists()) await stale.remove();
    return (await cgroups.createGroup(id)).group;
  }

  async #removeGroup(id: string): Promise<void> {
    await (await this.#getCgroups()).group(id).remove().catch(ignoreCgroupError);
  }

  #getInstallation(): Promise<QemuInstallation> {
    // A failure is not kept: QEMU may be installed while the daemon runs.
    this.#installation ??= inspectInstallation(this.#options.binary ?? 'qemu-system-x86_64').catch((error: unknown) => {
      this.#installation = null;
      throw error;
    });
    return this.#installation;
  }

  #getCgroups(): Promise<CgroupTree> {
    const { cgroupRoot: root = 'auto', instance: name } = this.#options;
    this.#cgroups ??= openCgroupTree({ root, name });
    return this.#cgroups;
  }

  #mark(id: string): string {
    return `${this.#options.instance}/${id}`;
  }

  async #knownProcess(id: string): Promise<ProcessIdentity | null> {
    if (!this.#recent || performance.now() - this.#recent.atMs > freshMs) await this.discover();
    const known = (await this.#recent!.processes).get(id) ?? (await this.#findProcesses()).get(id);
    return known && isAlive(known) ? known : null;
  }

  async #findProcesses(): Promise<Map<string, ProcessIdentity>> {
    const prefix = this.#mark('');
    const found = await findProcesses({ environmentVariable: markVariable });
    return new Map(
      found
        .filter(({ mark }) => mark?.startsWith(prefix))
        .map(({ identity, mark }) => [mark!.slice(prefix.length), identity]),
    );
  }
}

/** Waits until QEMU listens on its monitor, its process ends, or the deadline is over. */
async function waitForSocket(path: string, identity: ProcessIdentity, deadline: AbortSignal): Promise<void> {
  while (!existsSync(path)) {
    deadline.throwIfAborted();
    if (!isAlive(identity)) throw new LodgeError('hypervisor_failed', 'QEMU ended while it started.');
    await delay(2);
  }
}

/** Nobody without CAP_SYS_RESOURCE can give a child a lower value than its own. */
function ownOomScore(): number {
  return Number(readFileSync('/proc/self/oom_score_adj', 'utf8'));
}

function ignoreCgroupError(error: unknown): void {
  if (!(error instanceof CgroupError)) throw error;
}
