// This node as an object: what the machine is and has, what the hypervisor can do on it, and whether there is room.
import { realpath } from 'node:fs/promises';
import { loadavg } from 'node:os';
import { LodgeError, invalidField } from '../../api/errors.ts';
import { type Node, type NodeSpec, type NodeStatus } from '../../api/node.ts';
import { requireNumberList } from '../../api/vm-placement.ts';
import { type NodeChecks } from '../../api/node-hardware.ts';
import { type HostSetting } from '../../api/vm-memory.ts';
import { type VmSpec } from '../../api/vm-spec.ts';
import { liveVmStates } from '../../api/vm-state.ts';
import { type Vm } from '../../api/vm.ts';
import { type Driver } from '../../drivers/driver.ts';
import { openCgroupTree } from '../../host/cgroup.ts';
import { busyPercent, readCpu, readCpuTimes, type CpuFacts, type CpuTimes } from '../../host/cpu.ts';
import { readHardware } from '../../host/hardware/hardware.ts';
import { thisMachine } from '../../host/hardware/source.ts';
import { fileSystemOf } from '../../host/mount.ts';
import { readDiskSpace, readMachine, type MachineFacts } from '../../host/machine.ts';
import { readMemory } from '../../host/memory.ts';
import { readTopology } from '../../host/topology.ts';
import { formatNumberList, parseNumberList } from '../../lib/number-list.ts';
import { type Collection } from '../store/collection.ts';
import { type Log } from '../store/informer.ts';
import { checkNode } from './node-checks.ts';

export interface NodeServiceParts {
  /** Name of this installation, under which its control groups are. */
  instance: string;
  nodes: Collection<Node>;
  driver: Driver;
  log: Log;
  dataDir: string;
  version: string;
  vms: () => Iterable<Vm>;
}

const mib = 2 ** 20;
/** Of the memory, for running guests, where the node's spec says nothing. */
const defaultMemoryLimitPercent = 200;
/** Left for the host itself when guests are given memory. */
const hostReserveMib = 256;

export class NodeService {
  readonly #parts: NodeServiceParts;
  readonly #startedAt = new Date().toISOString();
  #name = 'localhost';
  #id: string | null = null;
  #bootId = '';
  #cpu: CpuFacts | null = null;
  #lastTimes: CpuTimes | null = null;
  #totalMib = 0;
  #storage: { totalBytes: number; freeBytes: number } | null = null;
  #probing: Promise<Node> | null = null;

  constructor(parts: NodeServiceParts) {
    this.#parts = parts;
  }

  /** Name of this node. */
  get name(): string {
    return this.#name;
  }

  /** This node’s object. */
  get self(): Node {
    const node = this.#id === null ? null : this.#parts.nodes.get(this.#id);
    if (!node) throw new LodgeError('unavailable', 'The node has not looked at itself yet.');
    return node;
  }

  /**
   * Looks at the machine and writes down what it is. Tells whether it was restarted since a daemon has last called
   * {@link settleBoot}: one that dies before has not started all that is to start with the machine.
   */
  async start(): Promise<{ hasRebooted: boolean }> {
    const machine = await readMachine();
    this.#bootId = machine.bootId;
    this.#cpu = await readCpu();
    this.#name = nodeName(machine.hostname);
    const existing = this.#parts.nodes.byName('default', this.#name) ?? [...this.#parts.nodes.all()][0] ?? null;
    const hasRebooted = existing === null || existing.status.bootId !== machine.bootId;
    const status = await this.#observe(machine);
    if (existing) {
      this.#id = existing.id;
      this.#name = existing.name;
      await this.#parts.nodes.setStatus(existing.id, {
        ...status,
        bootId: existing.status.bootId,
        accelerators: hasRebooted ? [] : existing.status.accelerators,
        accelerator: hasRebooted ? null : existing.status.accelerator,
        driver: existing.status.driver,
        hostSettings: hasRebooted ? [] : (existing.status.hostSettings ?? []),
      });
    } else {
      const created = await this.#parts.nodes.create({
        name: this.#name,
        project: 'default',
        labels: {},
        spec: { acceptsGuests: true },
        status: { ...status, bootId: '' },
      });
      this.#id = created.id;
    }
    return { hasRebooted };
  }

  /** What is to start with the machine has been started. */
  async settleBoot(): Promise<void> {
    await this.#parts.nodes.setStatus(this.self.id, (status) => ({ ...status, bootId: this.#bootId }));
  }

  /** Asks the hypervisor and runs the probe guests, as far as that is not known yet. */
  inspect(isFresh = false): Promise<Node> {
    this.#probing ??= this.#inspect(isFresh).finally(() => {
      this.#probing = null;
    });
    return this.#probing;
  }

  async #inspect(isFresh: boolean): Promise<Node> {
    const inspection = await this.#parts.driver.inspect({ isFresh });
    const problems: string[] = [];
    if (!inspection.driver.isReady) problems.push(inspection.driver.reason);
    if (inspection.driver.isReady && inspection.accelerator === null)
      problems.push('No accelerator is usable: not even emulation ran the probe guest.');
    return this.#parts.nodes.setStatus(this.self.id, (status) => ({
      ...status,
      ...inspection,
      problems,
      state: problems.length > 0 ? 'degraded' : 'ready',
    }));
  }

  /** The node with what changes from moment to moment read now. */
  async current(): Promise<Node> {
    const node = this.self;
    const [memory, space, times] = await Promise.all([
      readMemory(),
      readDiskSpace(this.#parts.dataDir),
      readCpuTimes(),
    ]);
    const before = this.#lastTimes;
    this.#lastTimes = times;
    const vms = [...this.#parts.vms()];
    return {
      ...node,
      status: {
        ...node.status,
        memory: {
          totalMib: Math.floor(memory.totalBytes / mib),
          availableMib: Math.floor(memory.availableBytes / mib),
          guestsMib: this.#guestsMib(),
        },
        storage: {
          path: this.#parts.dataDir,
          totalMib: Math.floor(space.totalBytes / mib),
          freeMib: Math.floor(space.freeBytes / mib),
        },
        guests: { defined: vms.length, running: vms.filter((vm) => liveVmStates.has(vm.status.state)).length },
        load: { cpuPercent: before ? busyPercent(before, times) : 0, loadAverage: loadavg()[0] ?? 0 },
      },
    };
  }

  /** Whether the node is fit to run guests, looked at now. */
  async check(): Promise<NodeChecks> {
    const source = thisMachine();
    const { dataDir } = this.#parts;
    return checkNode({
      node: await this.current(),
      guestVcpus: this.#guestVcpus(),
      hardware: readHardware(source),
      source,
      dataFileSystem: fileSystemOf(source.text('/proc/self/mountinfo') ?? '', await realpath(dataDir)),
    });
  }

  require(reference: string): Node {
    if (reference === 'self') return this.self;
    return this.#parts.nodes.require('default', reference);
  }

  async update(
    node: Node,
    change: { revision?: number | undefined; labels?: Record<string, string> | undefined; spec: NodeSpec },
  ): Promise<Node> {
    requireCpus('spec.housekeepingCpus', change.spec.housekeepingCpus);
    return this.#parts.nodes.update(node.id, change.revision, (draft) => {
      draft.spec = change.spec;
      if (change.labels) draft.labels = change.labels;
    });
  }

  /** Its processors and memory. */
  size(): { vcpus: number; memoryMib: number } {
    return { vcpus: this.#cpu?.count ?? 1, memoryMib: this.#totalMib };
  }

  /** Refuses what this node can't hold; with `isStarting`, also what it can't hold now. */
  requireRoom(spec: VmSpec, isStarting: boolean): void {
    const { name } = this.self;
    if (spec.memoryMib > this.#totalMib) {
      throw new LodgeError(
        'insufficient_resources',
        `spec.memoryMib: ${spec.memoryMib} MiB is more than node ${name} has (${this.#totalMib} MiB).`,
        {
          fields: [
            {
              field: 'spec.memoryMib',
              message: `is at most ${this.#totalMib} MiB on this node`,
              value: spec.memoryMib,
            },
          ],
          hint: 'Ask for less memory.',
        },
      );
    }
    const cpus = this.#cpu?.count ?? 1;
    const most = Math.max(cpus * 16, 16);
    if (spec.cpu.count > most)
      throw invalidField(
        'spec.cpu.count',
        `is at most ${most} on node ${name}, sixteen for each of its ${cpus} processors`,
        spec.cpu.count,
      );
    if (!isStarting) return;
    if (!this.self.spec.acceptsGuests)
      throw new LodgeError('wrong_state', `Node ${name} takes no guests: it is in maintenance.`, {
        hint: 'lodge node set self acceptsGuests=true lets it take guests again.',
      });
    this.#requireVcpus(spec.cpu.count);
    this.requireMore(spec.memoryMib);
  }

  /** Refuses memory that this node can't give to guests beyond what they have. */
  requireMore(memoryMib: number): void {
    const { name } = this.self;
    const wanted = this.#guestsMib() + memoryMib;
    const percent = this.self.spec.overcommit?.memoryLimitPercent ?? defaultMemoryLimitPercent;
    const promised = Math.floor((this.#totalMib * percent) / 100);
    const room = percent > 100 ? Math.max(promised - hostReserveMib, this.#totalMib) : promised;
    if (wanted > room) {
      throw new LodgeError(
        'insufficient_resources',
        `Running guests and this one would have ${wanted} MiB on node ${name}, which has ${this.#totalMib} MiB; more than ${percent} % of its memory is not given out.`,
        {
          hint: 'Stop other VMs, or give this one less memory. The limit: lodge node set self overcommit.memoryLimitPercent=…',
        },
      );
    }
  }

  /** Notes what of the machine was changed. */
  async noteHostSettings(hostSettings: HostSetting[]): Promise<void> {
    await this.#parts.nodes.setStatus(this.self.id, (status) => ({ ...status, hostSettings }));
  }

  /** Refuses vCPUs beyond what the node's own limit allows. */
  #requireVcpus(count: number): void {
    const { name, spec } = this.self;
    const limit = spec.overcommit?.vcpusPerCpuLimit;
    if (limit === undefined) return;
    const cpus = this.#cpu?.count ?? 1;
    const wanted = this.#guestVcpus() + count;
    if (wanted <= cpus * limit) return;
    throw new LodgeError(
      'insufficient_resources',
      `Running guests and this one would have ${wanted} vCPUs on node ${name}, which has ${cpus} CPUs; more than ${limit} for each are not given out.`,
      {
        hint: 'Stop other VMs, or give this one fewer vCPUs. The limit: lodge node set self overcommit.vcpusPerCpuLimit=…',
      },
    );
  }

  /** vCPUs of running guests. */
  #guestVcpus(): number {
    let sum = 0;
    for (const vm of this.#parts.vms())
      if (liveVmStates.has(vm.status.state)) sum += (vm.status.startedSpec ?? vm.spec).cpu.count;
    return sum;
  }

  /** Refuses what the hypervisor of this node can't do, with its reason. `what`: "VM web1 can not be forked". */
  requireCapability(name: string, what: string): void {
    const capability = this.self.status.driver.capabilities[name];
    if (capability?.isSupported === false) throw new LodgeError('unsupported', `${what}: ${capability.reason}`);
  }

  /** Whether the hypervisor of this node can do something; asks it where that has not been done yet. */
  async hasCapability(name: string): Promise<boolean> {
    const known = this.self.status.driver.version === null ? await this.inspect() : this.self;
    return known.status.driver.capabilities[name]?.isSupported ?? false;
  }

  /** Used on the file system of the data, MiB. */
  async usedStorageMib(): Promise<number> {
    this.#storage = await readDiskSpace(this.#parts.dataDir);
    return (this.#storage.totalBytes - this.#storage.freeBytes) / mib;
  }

  /** What is known of it without looking. `storage`: null until it was looked at. */
  outline(): { name: string; processors: number; storage: { totalBytes: number; freeBytes: number } | null } {
    return { name: this.#name, processors: this.#cpu?.count ?? 0, storage: this.#storage };
  }

  /** Memory that is free now, beside what is left for the host itself, MiB. */
  async spareMemoryMib(): Promise<number> {
    const { availableBytes } = await readMemory();
    return Math.max(0, availableBytes / mib - hostReserveMib);
  }

  async close(): Promise<void> {
    await this.#probing?.catch(() => {});
  }

  #guestsMib(): number {
    let sum = 0;
    for (const vm of this.#parts.vms())
      if (liveVmStates.has(vm.status.state)) sum += (vm.status.startedSpec ?? vm.spec).memoryMib;
    return sum;
  }

  async #observe(machine: MachineFacts): Promise<NodeStatus> {
    const cpu = this.#cpu!;
    const [memory, space] = await Promise.all([readMemory(), readDiskSpace(this.#parts.dataDir)]);
    this.#totalMib = Math.floor(memory.totalBytes / mib);
    return {
      state: 'starting',
      problems: [],
      hostname: machine.hostname,
      kernel: machine.kernel,
      operatingSystem: machine.operatingSystem,
      lodgeVersion: this.#parts.version,
      bootId: machine.bootId,
      startedAt: this.#startedAt,
      cpu: {
        model: cpu.model,
        vendor: cpu.vendor,
        count: cpu.count,
        sockets: cpu.sockets,
        coresPerSocket: cpu.coresPerSocket,
        threadsPerCore: cpu.threadsPerCore,
        virtualization: cpu.virtualization,
      },
      memory: { totalMib: this.#totalMib, availableMib: Math.floor(memory.availableBytes / mib), guestsMib: 0 },
      storage: {
        path: this.#parts.dataDir,
        totalMib: Math.floor(space.totalBytes / mib),
        freeMib: Math.floor(space.freeBytes / mib),
      },
      cgroup: await observeCgroups(this.#parts.instance),
      accelerators: [],
      accelerator: null,
      driver: {
        name: this.#parts.driver.name,
        version: null,
        isReady: false,
        reason: 'It is being looked at.',
        capabilities: {},
        machines: [],
        cpuModels: [],
      },
      hostSettings: [],
      guests: { defined: 0, running: 0 },
      load: { cpuPercent: 0, loadAverage: loadavg()[0] ?? 0 },
    };
  }
}

/** Refuses a list of CPUs that this machine doesn't have. */
function requireCpus(field: string, list: string | undefined): void {
  if (list === undefined) return;
  requireNumberList(field, list);
  const present = readTopology(thisMachine()).processors.map(({ id }) => id);
  const missing = parseNumberList(list).filter((id) => !present.includes(id));
  if (missing.length > 0)
    throw invalidField(
      field,
      `CPU ${formatNumberList(missing)} does not exist; the node has ${formatNumberList(present)}`,
      list,
    );
}

/** The machine's host name as an object's name. */
export function nodeName(hostname: string): string {
  const name = hostname
    .split('.')[0]!
    .toLowerCase()
    .replace(/[^a-z0-9-]+/g, '-')
    .replace(/^-+|-+$/g, '')
    .slice(0, 63);
  return name || 'node';
}

async function observeCgroups(instance: string): Promise<NodeStatus['cgroup']> {
  try {
    const tree = await openCgroupTree({ name: instance });
    const version = tree.kind === 'v2' ? 'v2' : tree.kind === 'none' ? 'none' : 'v1';
    const missing = tree.missing.map(({ controller, reason }) => `${controller}: ${reason}`).join('; ');
    return { version, controllers: [...tree.controllers], reason: missing || 'All controllers that Lodge uses work.' };
  } catch (error) {
    return {
      version: 'none',
      controllers: [],
      reason: error instanceof Error ? error.message : 'They can not be read.',
    };
  }
}
