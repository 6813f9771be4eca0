// KVM/QEMU as a driver. It starts one confined QEMU process a VM, finds those of earlier daemons again by a mark in
// their environment, and leaves what happens in them to QemuGuest.
//
// Invariant: the mark is set before the process exists as QEMU, so whatever moment the daemon dies in, the process is
// either found by `discover` or was never there.
import { copyFile, rm } from 'node:fs/promises';
import { existsSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { LodgeError, invalidField } from '../../api/errors.ts';
import { type VmSpec } from '../../api/vm-spec.ts';
import { type VmPinned } from '../../api/vm.ts';
import { CgroupError } from '../../host/cgroup-group.ts';
import { openCgroupTree, type CgroupTree } from '../../host/cgroup.ts';
import { LaunchError, launchConfined } from '../../host/launch/launch.ts';
import { findProcesses, identifyProcess, isAlive, terminateProcess, type ProcessIdentity } from '../../host/process.ts';
import { type CallOptions, type Driver, type DriverInspection, type Guest, type GuestDefinition } from '../driver.ts';
import { QemuGuestAgent } from './agent/guest-agent.ts';
import { buildCommand, type CommandContext } from './arguments.ts';
import { openConsoles } from './consoles.ts';
import { cpuLevels, featuresOfLevel } from './cpu-model.ts';
import { hasFile, prepareFolder, readTail, removeSockets, vmFolder, workNames, type VmFolder } from './folder.ts';
import { AcceleratorLadder } from './ladder.ts';
import { inspectInstallation, type QemuInstallation } from './installation.ts';
import { clearProcessLog, describeDeath, QemuGuest } from './qemu-guest.ts';
import { QmpError } from './qmp/errors.ts';
import { QmpConnection, type QmpConnectionChange } from './qmp/connection.ts';

export interface QemuDriverOptions {
  /** Name of this installation of Lodge; marks its processes and groups. */
  instance: string;
  /** The QEMU program. */
  binary?: string;
  /** Folder in which what the probe guests showed is kept until the machine restarts. */
  cacheDirectory: string;
  /** Where its control groups are made; see CgroupTreeOptions. */
  cgroupRoot?: 'auto' | `/${string}`;
}

/** Environment variable that marks a QEMU process as a guest of Lodge: `instance/id`. */
const markVariable = 'LODGE_VM';

export class QemuDriver implements Driver {
  readonly name = 'qemu';
  readonly #options: QemuDriverOptions;
  readonly #ladder: AcceleratorLadder;
  #installation: Promise<QemuInstallation> | null = null;
  #cgroups: Promise<CgroupTree> | null = null;
  readonly #guests = new Set<QemuGuest>();

  constructor(options: QemuDriverOptions) {
    this.#options = options;
    this.#ladder = new AcceleratorLadder(options.cacheDirectory);
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
    const display = { isSupported: true, reason: 'QEMU’s VNC server' };
    const uefi = installation.uefi
      ? { isSupported: true, reason: `OVMF: ${installation.uefi.codePath}` }
      : { isSupported: false, reason: 'No UEFI firmware is installed: install the package ovmf.' };
    return {
      driver: {
        name: this.name,
        version: installation.version,
        isReady: true,
        reason: `QEMU ${installation.version} answers.`,
        capabilities: {
          pause: { isSupported: true, reason: 'QMP stop and cont' },
          suspend: { isSupported: true, reason: 'Migration to a file' },
          reset: { isSupported: true, reason: 'QMP system_reset' },
          vnc: display,
          screenshot: display,
          serial: { isSupported: true, reason: 'Emulated 16550 serial port' },
          agent: { isSupported: true, reason: 'virtio-serial port org.qemu.guest_agent.0' },
          uefi,
          nmi: { isSupported: true, reason: 'QMP inject-nmi' },
        },
        machines: [...installation.machines.keys()],
        cpuModels: ['auto', 'host', ...cpuLevels, ...installation.cpuModels],
      },
      accelerators: rungs,
      accelerator: chosen,
    };
  }

  async check(spec: VmSpec): Promise<void> {
    const installation = await this.#getInstallation();
    const { cpu } = spec;
    if (!installation.machines.has(spec.machine)) {
      throw new LodgeError('unsupported', `QEMU ${installation.version} has no machine type ${spec.machine}.`, {
        hint: `It has ${[...installation.machines.keys()].join(', ')}.`,
      });
    }
    const isKnownModel =
      ['auto', 'host', 'max'].includes(cpu.model) ||
      featuresOfLevel(cpu.model) !== null ||
      installation.cpuModels.includes(cpu.model);
    if (!isKnownModel) {
      throw invalidField(
        'spec.cpu.model',
        `QEMU ${installation.version} has no CPU model of this name; lodge node show lists those it has`,
        cpu.model,
      );
    }
    for (const field of ['enable', 'disable'] as const) {
      for (const feature of cpu[field]) {
        if (!isKnownFeature(installation.cpuFeatures, feature)) {
          throw invalidField(
            `spec.cpu.${field}`,
            `QEMU ${installation.version} knows no CPU feature of this name (qemu-system-x86_64 -cpu help lists them)`,
            feature,
          );
        }
      }
    }
    const threads = cpu.threadsPerCore ?? 1;
    const sockets = cpu.sockets ?? 1;
    const cores = cpu.coresPerSocket ?? cpu.count / (sockets * threads);
    if (sockets * cores * threads !== cpu.count || !Number.isInteger(cores)) {
      throw invalidField(
        'spec.cpu',
        `sockets × coresPerSocket × threadsPerCore must be the count of ${cpu.count} vCPUs`,
        { sockets: cpu.sockets, coresPerSocket: cpu.coresPerSocket, threadsPerCore: cpu.threadsPerCore },
      );
    }
    const maxVcpus = spec.machine === 'q35' ? 1024 : 255;
    if (cpu.count > maxVcpus)
      throw invalidField(
        'spec.cpu.count',
        `the machine type ${spec.machine} takes at most ${maxVcpus} vCPUs`,
        cpu.count,
      );
    if (spec.machine === 'microvm') {
      for (const [index, nic] of spec.nics.entries()) {
        if (nic.model !== 'virtio')
          throw invalidField(`spec.nics.${index}.model`, 'the machine type microvm has only virtio', nic.model);
      }
      for (const [index, disk] of spec.disks.entries()) {
        if (disk.bus !== 'virtio' || disk.device === 'cdrom')
          throw invalidField(
            `spec.disks.${index}`,
            'the machine type microvm has only virtio disks',
            `${disk.device} on ${disk.bus}`,
          );
      }
      if (spec.firmware.type === 'uefi')
        throw invalidField(
          'spec.firmware.type',
          'the machine type microvm boots a kernel directly',
          spec.firmware.type,
        );
    }
    for (const [index, disk] of spec.disks.entries()) {
      if (disk.bus === 'ide' && spec.machine !== 'pc')
        throw invalidField(
          `spec.disks.${index}.bus`,
          `the machine type ${spec.machine} has no IDE bus; use sata, or the machine type pc`,
          disk.bus,
        );
    }
    if (spec.disks.filter((disk) => disk.bus === 'ide').length > 4)
      throw invalidField('spec.disks', 'a PC has room for four IDE drives', spec.disks.length);
    if (spec.firmware.type === 'uefi' && !installation.uefi) {
      throw new LodgeError('unsupported', 'No UEFI firmware is installed on this node.', {
        hint: 'Install the package ovmf, or set firmware.type to bios.',
      });
    }
    if (spec.accelerator === 'kvm') await this.#ladder.choose(installation, 'kvm');
  }

  async start(definition: GuestDefinition, options: CallOptions & { isRestoring?: boolean } = {}): Promise<Guest> {
    const { signal, timeoutMs = 60_000, isRestoring = false } = options;
    const installation = await this.#getInstallation();
    const folder = vmFolder(definition.directory);
    if (isRestoring && !(await hasFile(folder.savedState))) {
      throw new LodgeError('wrong_state', `The saved memory of VM ${definition.name} is gone.`, {
        hint: 'Discard the saved state (lodge vm force-off), then start it afresh.',
      });
    }
    await prepareFolder(folder, definition.uid);
    if (definition.firmware === 'uefi' && installation.uefi && !existsSync(folder.uefiVariables)) {
      await copyFile(installation.uefi.variablesPath, folder.uefiVariables);
    }
    const choice = await this.#ladder.choose(installation, definition.spec.accelerator);
    const context: CommandContext = {
      installation,
      accelerator: { accelerator: choice.accelerator, rung: choice.rung, acceleratorReason: choice.reason },
      probedCpuModel: choice.cpuModel,
      uefiVariablesPath: definition.firmware === 'uefi' ? folder.uefiVariables : null,
      hasVhostNet: existsSync('/dev/vhost-net'),
      tscKhz: choice.tscKhz,
      isRestoring,
    };
    const command = buildCommand(definition, context);
    const cgroups = await this.#getCgroups();
    await clearProcessLog(folder);
    await removeSockets(folder);
    const { group } = await cgroups.createGroup(this.#groupName(definition.id));
    let identity: ProcessIdentity | null = null;
    let connection: QmpConnection | null = null;
    try {
      const launched = await launchConfined({
        argv: command.argv,
        uid: definition.uid,
        gid: definition.uid,
        cgroupProcsFiles: group.processFiles,
        oomScoreAdjust: 200,
        limits: { core: 0, nofile: 16_384 },
        files: command.files,
        taps: command.taps,
        stdoutPath: folder.processLog,
        stderrPath: folder.processLog,
        cwd: folder.work,
        env: { [markVariable]: this.#mark(definition.id) },
      });
      identity = identifyProcess(launched.pid);
      if (!identity || !isAlive(identity))
        throw new LodgeError('hypervisor_failed', `QEMU did not start for VM ${definition.name}.`);
      const deadline = AbortSignal.any([AbortSignal.timeout(timeoutMs), ...(signal ? [signal] : [])]);
      await waitForSocket(folder.qmpSocket, identity, deadline);
      const { guest, connection: opened } = await this.#connect(
        definition,
        folder,
        identity,
        command.pinned,
        group.directories.length ? group : null,
      );
      connection = opened;
      if (isRestoring) await restore(connection, deadline);
      for (const [index, nic] of definition.nics.entries()) {
        if (!nic.isConnected) await connection.execute('set_link', { name: `nic${index}`, up: false });
      }
      await connection.execute('cont');
      await rm(folder.savedState, { force: true });
      return guest;
    } catch (error) {
      connection?.close();
      if (identity) await terminateProcess(identity, { termTimeoutMs: 0, killTimeoutMs: 10_000 });
      else await this.endUnknown(definition.id);
      const lastWords = await describeDeath(folder);
      await this.#cleanUp(definition.id, folder);
      throw describeStartFailure(definition, error, lastWords, signal);
    }
  }

  async discover(): Promise<ReadonlySet<string>> {
    return new Set((await this.#findProcesses()).keys());
  }

  async adopt(
    definition: Pick<GuestDefinition, 'id' | 'name' | 'directory'> & { pinned: VmPinned },
    options: CallOptions = {},
  ): Promise<Guest | null> {
    const { timeoutMs = 10_000 } = options;
    const identity = (await this.#knownProcesses()).get(definition.id);
    if (!identity || !isAlive(identity)) return null;
    const folder = vmFolder(definition.directory);
    const group = (await this.#getCgroups()).group(this.#groupName(definition.id));
    try {
      const { guest } = await this.#connect(definition, folder, identity, definition.pinned, group, timeoutMs);
      return guest;
    } catch (error) {
      if (!isAlive(identity)) return null;
      throw new LodgeError(
        'hypervisor_failed',
        `QEMU of VM ${definition.name} (process ${identity.pid}) runs but does not answer on its monitor.`,
        {
          hint: 'It keeps running. Lodge tries again; lodge vm force-off ends it.',
          cause: error,
        },
      );
    }
  }

  async lastWords(
    definition: Pick<GuestDefinition, 'id' | 'directory'>,
  ): Promise<{ cause: 'hypervisor-died' | 'out-of-memory'; message: string }> {
    const group = (await this.#getCgroups()).group(this.#groupName(definition.id));
    const oomKills = await group.readUsage().then(
      (usage) => usage.oomKills,
      () => null,
    );
    const folder = vmFolder(definition.directory);
    const message = oomKills
      ? 'The kernel ended its QEMU process because memory ran out.'
      : await describeDeath(folder);
    await this.#cleanUp(definition.id, folder);
    return { cause: oomKills ? 'out-of-memory' : 'hypervisor-died', message };
  }

  async endUnknown(id: string): Promise<void> {
    const identity = (await this.#findProcesses()).get(id);
    if (identity) await terminateProcess(identity, { termTimeoutMs: 2000, killTimeoutMs: 10_000 });
    await (await this.#getCgroups()).group(this.#groupName(id)).remove().catch(ignoreCgroupError);
  }

  async forget(definition: Pick<GuestDefinition, 'id' | 'directory'>, what: 'state' | 'everything'): Promise<void> {
    const folder = vmFolder(definition.directory);
    if (what === 'state') await rm(folder.savedState, { force: true });
    else await rm(folder.directory, { recursive: true, force: true });
  }

  serialLog(definition: Pick<GuestDefinition, 'id' | 'directory'>, maxBytes: number): Promise<Uint8Array> {
    return readTail(vmFolder(definition.directory).serialLog, maxBytes);
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

  async #connect(
    definition: Pick<GuestDefinition, 'id' | 'name'>,
    folder: VmFolder,
    identity: ProcessIdentity,
    pinned: VmPinned,
    group: ReturnType<CgroupTree['group']> | null,
    timeoutMs = 10_000,
  ): Promise<{ guest: QemuGuest; connection: QmpConnection }> {
    let guest: QemuGuest | null = null;
    const onChange = (change: QmpConnectionChange): void => guest?.onConnectionChange(change);
    const connection = QmpConnection.open(folder.qmpSocket, { onChange });
    try {
      await connection.whenUp(timeoutMs);
    } catch (error) {
      connection.close();
      throw error;
    }
    const created: QemuGuest = new QemuGuest({
      id: definition.id,
      name: definition.name,
      pinned,
      identity,
      folder,
      qmp: connection,
      agent: new QemuGuestAgent(folder.agentSocket),
      consoles: openConsoles(definition.name, folder, pinned.arguments.includes('-vnc')),
      group,
      onEnded: async () => {
        this.#guests.delete(created);
        await this.#cleanUp(definition.id, folder);
      },
    });
    guest = created;
    this.#guests.add(created);
    return { guest: created, connection };
  }

  async #cleanUp(id: string, folder: VmFolder): Promise<void> {
    await removeSockets(folder);
    await (await this.#getCgroups()).group(this.#groupName(id)).remove().catch(ignoreCgroupError);
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
    this.#cgroups ??= openCgroupTree({ root: this.#options.cgroupRoot ?? 'auto' });
    return this.#cgroups;
  }

  #mark(id: string): string {
    return `${this.#options.instance}/${id}`;
  }

  #groupName(id: string): string {
    return `${this.#options.instance}-${id}`;
  }

  /** When many guests are adopted at once, /proc is searched once for all of them. */
  #recent: { at: number; processes: Promise<Map<string, ProcessIdentity>> } | null = null;
  #knownProcesses(): Promise<Map<string, ProcessIdentity>> {
    if (!this.#recent || performance.now() - this.#recent.at > 1000)
      this.#recent = { at: performance.now(), processes: this.#findProcesses() };
    return this.#recent.processes;
  }

  async #findProcesses(): Promise<Map<string, ProcessIdentity>> {
    const prefix = `${this.#options.instance}/`;
    const found = await findProcesses({ environmentVariable: markVariable });
    return new Map(
      found
        .filter(({ mark }) => mark?.startsWith(prefix))
        .map(({ identity, mark }) => [mark!.slice(prefix.length), identity]),
    );
  }
}

/** QEMU writes some features with "-", users also with "_" or ".". */
function isKnownFeature(known: ReadonlySet<string>, feature: string): boolean {
  return known.has(feature) || known.has(feature.replaceAll('_', '-'));
}

/** Waits until QEMU listens on its monitor, its process ends, or the deadline is over. */
async function waitForSocket(path: string, identity: ProcessIdentity, signal: AbortSignal): Promise<void> {
  while (!existsSync(path)) {
    signal.throwIfAborted();
    if (!isAlive(identity)) throw new LodgeError('hypervisor_failed', 'QEMU ended while it started.');
    await delay(2);
  }
}

async function restore(connection: QmpConnection, signal: AbortSignal): Promise<void> {
  await connection.execute('migrate-incoming', { uri: `file:${workNames.savedState}` });
  for (let pauseMs = 2; ; pauseMs = Math.min(pauseMs * 2, 100)) {
    const { status } = await connection.execute('query-status');
    if (status !== 'inmigrate' && status !== 'prelaunch') return;
    const migration = await connection.execute('query-migrate');
    if (migration.status === 'failed')
      throw new LodgeError(
        'hypervisor_failed',
        `The saved memory can’t be read: ${migration['error-desc'] ?? 'no reason given'}.`,
      );
    signal.throwIfAborted();
    await delay(pauseMs);
  }
}

function describeStartFailure(
  definition: GuestDefinition,
  error: unknown,
  lastWords: string,
  signal: AbortSignal | undefined,
): LodgeError {
  const { name } = definition;
  if (signal?.aborted) return new LodgeError('cancelled', `Starting VM ${name} was cancelled.`);
  if (error instanceof LaunchError) {
    return new LodgeError('host_failed', `VM ${name} could not be started: ${error.message}.`, { cause: error });
  }
  if (error instanceof CgroupError)
    return new LodgeError('host_failed', `VM ${name} could not be started: ${error.message}.`, { cause: error });
  if (error instanceof LodgeError && error.code !== 'hypervisor_failed') return error;
  if (error instanceof QmpError)
    return new LodgeError('hypervisor_failed', `QEMU refused to start VM ${name}: ${error.description}`, {
      cause: error,
    });
  const detail = error instanceof LodgeError ? `${error.message} ${lastWords}` : lastWords;
  return new LodgeError('hypervisor_failed', `VM ${name} could not be started. ${detail}`, { cause: error });
}

function ignoreCgroupError(error: unknown): void {
  if (!(error instanceof CgroupError)) throw error;
}
