// From a VM's definition to a guest whose QEMU answers on its monitor, and back when that fails.
//
// Invariants:
// - The mark is set before the process exists as QEMU, so whatever moment the daemon dies in, the process is either found
//   again or was never there.
// - An attempt that is given up leaves no process, no control group and no socket; what QEMU said stays in its log.
import { existsSync, readFileSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { LodgeError } from '../../api/errors.ts';
import { launchConfined, type LaunchedProcess } from '../../host/launch/launch.ts';
import { identifyProcess, isAlive, terminateProcess, waitForExit, type ProcessIdentity } from '../../host/process.ts';
import { type GuestDefinition } from '../driver.ts';
import { QemuGuestAgent } from './agent/guest-agent.ts';
import { buildCommand, type QemuCommand } from './arguments.ts';
import { openConsoles } from './consoles.ts';
import { readInterface } from './cpu-interface.ts';
import { describeDeath } from './death.ts';
import { prepareFolder, removeLeftovers, type VmFolder } from './folder.ts';
import { type IncomingMemory } from './fork/fork.ts';
import { type AcceleratorLadder } from './ladder.ts';
import { type QemuInstallation } from './installation.ts';
import { QemuGuest, type QemuGuestParts } from './qemu-guest.ts';
import { type QemuProcesses } from './qemu-processes.ts';
import { QmpClosedError, QmpConnectError } from './qmp/errors.ts';
import { QmpConnection, type QmpConnectionChange } from './qmp/connection.ts';
import { endSharedFolders, mayHaveSharedFolders, sharedFolderFailure, startSharedFolders } from './shared-folders.ts';
import { startFailure } from './start-failure.ts';
import { endTpm, mayHaveTpm, startTpm, tpmFailure, type TpmProcess } from './tpm.ts';
import { provideVariables } from './uefi-variables.ts';

/** How long a start may take where nothing else is said. */
export const startMs = 60_000;

const dyingMs = 500;
/** Between making its socket and listening on it QEMU needs a moment, in which it is dialled in vain. */
const redialMs = 1;
/** Above the kernel's default for a guest: when memory runs out, a guest goes before the daemon and sshd. */
const guestOomScore = 200;
/** For each disk, NIC and console some; a guest that uses more is taken over. */
const maxOpenFiles = 16_384;

/** One start of a guest: by when it must be over, and what there is of it so far. */
export class Attempt {
  readonly definition: GuestDefinition;
  readonly folder: VmFolder;
  readonly limits: StartLimits;
  launched: LaunchedProcess | null = null;
  guest: QemuGuest | null = null;

  constructor(definition: GuestDefinition, folder: VmFolder, limits: StartLimits) {
    this.definition = definition;
    this.folder = folder;
    this.limits = limits;
  }
}

/** What ends a start from outside. */
export interface StartLimits {
  signal: AbortSignal | undefined;
  timeoutMs: number;
  /** Aborts when the time is over. */
  late: AbortSignal;
  /** Aborts for both reasons. */
  deadline: AbortSignal;
}

/** The limits of a call that may be cancelled and takes at most so long. */
export function startLimits(signal: AbortSignal | undefined, timeoutMs: number): StartLimits {
  const late = AbortSignal.timeout(timeoutMs);
  return { signal, timeoutMs, late, deadline: AbortSignal.any([late, ...(signal ? [signal] : [])]) };
}

export class QemuLauncher {
  /** The guests whose QEMU this daemon is connected to. */
  readonly guests = new Set<QemuGuest>();
  readonly #ladder: AcceleratorLadder;
  readonly #processes: QemuProcesses;

  constructor(ladder: AcceleratorLadder, processes: QemuProcesses) {
    this.#ladder = ladder;
    this.#processes = processes;
  }

  /** The guest's files and QEMU's command line. */
  async prepare(
    { definition, folder }: Attempt,
    installation: QemuInstallation,
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
      hasHyperV: choice.hasHyperV,
      isRestoring,
      ...(incoming ? { incoming } : {}),
    });
  }

  /** Starts QEMU in a group of its own and connects to it. What there is of it is in the attempt, also when this throws. */
  async launch(
    attempt: Attempt,
    installation: QemuInstallation,
    prepared: Promise<QemuCommand>,
  ): Promise<{ guest: QemuGuest; qmp: QmpConnection; command: QemuCommand }> {
    const { definition, folder } = attempt;
    const { deadline } = attempt.limits;
    const { id, name } = definition;
    // Side by side, but both are over before anything is taken back.
    const making = this.#processes.makeGroup(id);
    await Promise.allSettled([prepared, making]);
    const [command, group] = await Promise.all([prepared, making]);
    const oomScoreAdjust = Math.max(guestOomScore, ownOomScore());
    let tpm: TpmProcess | undefined;
    if (definition.spec.tpm?.isEnabled) {
      const cgroupProcsFiles = group.processFiles;
      tpm = await startTpm(folder, definition, {
        mark: this.#processes.mark(id),
        program: installation.swtpmPath ?? 'swtpm',
        cgroupProcsFiles,
        oomScoreAdjust,
      });
    }
    const sharedFolders = await startSharedFolders(folder, definition, {
      mark: this.#processes.mark(id),
      program: installation.virtiofsdPath ?? 'virtiofsd',
      cgroupProcsFiles: group.processFiles,
      oomScoreAdjust,
    });
    const launched = await launchConfined({
      argv: command.argv,
      uid: definition.uid,
      gid: definition.uid,
      cgroupProcsFiles: group.processFiles,
      oomScoreAdjust,
      limits: {
        core: 0,
        nofile: maxOpenFiles,
        ...(definition.spec.memoryBacking?.isLocked ? { memlock: 'unlimited' as const } : {}),
      },
      files: command.files,
      taps: command.taps,
      folders: command.folders,
      stdoutPath: folder.processLog,
      stderrPath: folder.processLog,
      cwd: folder.work,
      env: this.#processes.environment(id),
    }).catch((error: unknown) => {
      throw sharedFolderFailure(name, error) ?? error;
    });
    attempt.launched = launched;
    const identity = identifyProcess(launched.pid);
    if (!identity) throw new LodgeError('hypervisor_failed', `QEMU of VM ${name} ended at once.`);
    await waitForSocket(folder.qmpSocket, identity, deadline);
    const opened = await this.connect(
      { id, name, pinned: command.pinned, identity, folder, group, tpm, sharedFolders, exited: launched.exited },
      deadline,
    );
    attempt.guest = opened.guest;
    return { ...opened, command };
  }

  /** Connects to the monitor of a process and makes the guest of it. */
  async connect(
    parts: Pick<
      QemuGuestParts,
      'id' | 'name' | 'pinned' | 'identity' | 'folder' | 'group' | 'tpm' | 'sharedFolders' | 'exited'
    >,
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
          this.guests.delete(created);
          await this.cleanUp(id, folder);
        },
      });
      guest = created;
      this.guests.add(created);
      return { guest: created, qmp };
    } catch (error) {
      qmp.close();
      throw error;
    } finally {
      deadline.removeEventListener('abort', giveUp);
    }
  }

  /** Takes back a start that failed. What is to be said of it. */
  async giveUp(attempt: Attempt, error: unknown): Promise<LodgeError> {
    const { definition, folder, guest, limits } = attempt;
    const { name } = definition;
    if (guest) {
      this.guests.delete(guest);
      await guest.release();
    }
    const death = await this.#end(attempt, error);
    await this.cleanUp(definition.id, folder);
    const isCancelled = limits.signal?.aborted ?? false;
    return (
      tpmFailure(name, folder, death) ??
      startFailure({ name, error, death, isCancelled, isLate: limits.late.aborted, timeoutMs: limits.timeoutMs })
    );
  }

  /** Removes what a QEMU that is over has left. */
  async cleanUp(id: string, folder: VmFolder): Promise<void> {
    if (await mayHaveTpm(folder)) await endTpm(this.#processes.mark(id));
    if (await mayHaveSharedFolders(folder)) await endSharedFolders(this.#processes.mark(id));
    await Promise.all([removeLeftovers(folder), this.#processes.removeGroup(id)]);
  }

  /** How the process of an attempt ended; null: it was alive, or there was none. */
  async #end({ launched, folder }: Attempt, error: unknown): Promise<string | null> {
    if (!launched) return null;
    const identity = identifyProcess(launched.pid);
    // The monitor's connection ends a moment before the process does.
    const isDying = error instanceof QmpClosedError || error instanceof QmpConnectError;
    if (identity && isDying) await waitForExit(identity, { timeoutMs: dyingMs, pollMs: 10 }).catch(() => {});
    if (!identity || !isAlive(identity)) return describeDeath(folder, await launched.exited);
    await terminateProcess(identity, { termTimeoutMs: 0 });
    return null;
  }
}

/** Waits until QEMU listens on its monitor, its process ends, or the deadline is over. */
async function waitForSocket(path: string, identity: ProcessIdentity, deadline: AbortSignal): Promise<void> {
  const from = performance.now();
  while (!existsSync(path)) {
    deadline.throwIfAborted();
    if (!isAlive(identity)) throw new LodgeError('hypervisor_failed', 'QEMU ended while it started.');
    // Where many start at a time, each takes long, and looking often would take the processor from them.
    await delay(Math.min(20, 2 + (performance.now() - from) / 25));
  }
}

/** Nobody without CAP_SYS_RESOURCE can give a child a lower value than its own. */
function ownOomScore(): number {
  return Number(readFileSync('/proc/self/oom_score_adj', 'utf8'));
}
