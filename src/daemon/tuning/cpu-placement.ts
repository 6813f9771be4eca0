// On which CPUs of the node a VM runs, and where its memory comes from. Pure: the machine and the other VMs are
// arguments, so that machines which are not here are tried too.
//
//   what the spec asks for ─┐
//   the machine's topology ─┼─▶ placeVm ─▶ placement with reasons
//   the other running VMs  ─┘          └─▶ problems: what it asks for and can't have, each with its field
//
// Promises: of the CPUs that a dedicated VM has, no other VM is given any, nor the other thread of a core of its; the
// placement never names a CPU that is offline; a problem leaves out what it is about and nothing else, so that a caller who
// starts the VM all the same has the rest.
import { type VmPlacement } from '../../api/vm-placement.ts';
import { type VmSpec } from '../../api/vm-spec.ts';
import { onlineProcessors, type MachineTopology, type TopologyProcessor } from '../../host/topology.ts';
import { formatNumberList, parseNumberList } from '../../lib/number-list.ts';
import { chooseCores, coresOf, coreText, type Core, type CoreChoice } from './core-choice.ts';

/** Another VM that runs. */
export interface Neighbour {
  name: string;
  /** CPUs that it has alone. */
  exclusive: readonly number[];
  /** CPUs that its user has named for it. */
  named: readonly number[];
}

export interface PlacementWorld {
  topology: MachineTopology;
  /** CPUs that the node keeps for itself; null: nobody has said which. */
  housekeeping: readonly number[] | null;
  others: readonly Neighbour[];
}

/** What is to be placed. */
export interface PlacementRequest {
  cpu: VmSpec['cpu'];
  numa?: VmSpec['numa'];
  memoryMib: number;
  /** Now; with those that were added while it runs. */
  vcpus: number;
}

/** Something that it asks for and can't have. */
export interface PlacementProblem {
  field: string;
  value: string;
  /** What is wrong, without the field: continues "spec.cpu.affinity: ". */
  message: string;
  hint: string;
  /** It can't come true while the machine is as it is, whoever else runs. */
  isLasting: boolean;
}

export interface PlacementResult {
  placement: VmPlacement;
  problems: PlacementProblem[];
}

/** CPU 1, CPUs 0,4. */
function cpusText(ids: readonly number[]): string {
  return `${ids.length === 1 ? 'CPU' : 'CPUs'} ${formatNumberList(ids)}`;
}

const moreCpus = 'lodge node topology shows the CPUs of the node.';

/** The CPUs that a spec names for its VM. */
export function namedCpus({ pinning = [], affinity }: VmSpec['cpu']): number[] {
  return [...pinning.flatMap(({ cpus }) => parseNumberList(cpus)), ...parseNumberList(affinity ?? '')];
}

/** The CPUs that are the machine's own: as configured, else the first core that no VM has or is about to have alone. */
function housekeepingCpus({ topology, housekeeping, others }: PlacementWorld, named: readonly number[]): number[] {
  const online = onlineProcessors(topology);
  const kept = (housekeeping ?? []).filter((id) => online.includes(id));
  if (kept.length > 0) return kept;
  const taken = new Set([...others.flatMap(({ exclusive }) => exclusive), ...named]);
  const first = topology.processors.find(({ isOnline, siblings }) => isOnline && !siblings.some((id) => taken.has(id)));
  return first ? first.siblings.filter((id) => online.includes(id)) : [];
}

export function placeVm(request: PlacementRequest, world: PlacementWorld): PlacementResult {
  return new Placing(request, world).place();
}

class Placing {
  readonly #request: PlacementRequest;
  readonly #world: PlacementWorld;
  readonly #byId: ReadonlyMap<number, TopologyProcessor>;
  readonly #online: readonly number[];
  readonly #housekeeping: readonly number[];
  /** Whose a CPU is alone. */
  readonly #owner = new Map<number, string>();
  readonly #problems: PlacementProblem[] = [];
  readonly #reasons: string[] = [];

  constructor(request: PlacementRequest, world: PlacementWorld) {
    this.#request = request;
    this.#world = world;
    this.#byId = new Map(world.topology.processors.map((one) => [one.id, one]));
    this.#online = onlineProcessors(world.topology);
    const pinned = (request.cpu.pinning ?? [])
      .filter(({ vcpu }) => vcpu < request.vcpus)
      .flatMap(({ cpus }) => parseNumberList(cpus));
    this.#housekeeping = housekeepingCpus(world, request.cpu.policy === 'dedicated' ? pinned : []);
    for (const { name, exclusive } of world.others) for (const id of exclusive) this.#owner.set(id, name);
  }

  place(): PlacementResult {
    const { cpu, vcpus } = this.#request;
    const memoryNodes = this.#memoryNodes();
    const pins = this.#pins();
    const affinity = cpu.affinity === undefined ? null : this.#usable('spec.cpu.affinity', cpu.affinity);
    const open = affinity ?? this.#shared(memoryNodes);
    const numbers = Array.from({ length: vcpus }, (_, vcpu) => vcpu);
    const dedicated = cpu.policy === 'dedicated' ? this.#dedicate(pins, numbers, affinity, memoryNodes) : null;
    const where = new Map<number, readonly number[]>(
      numbers.map((vcpu) => [vcpu, dedicated?.cpus.get(vcpu) ?? pins.get(vcpu) ?? open]),
    );
    if (!dedicated && pins.size > 0)
      this.#reasons.push(`vCPUs ${formatNumberList(pins.keys())} are pinned as spec.cpu.pinning says.`);
    if (!dedicated && affinity) this.#reasons.push('The CPUs are those of spec.cpu.affinity.');
    const numaNodes = this.#nodesOf([...where.values()].flat());
    const emulator = this.#emulator(open, dedicated !== null, numaNodes);
    const ioThreads =
      cpu.ioThreadAffinity === undefined
        ? null
        : this.#usable('spec.cpu.ioThreadAffinity', cpu.ioThreadAffinity, dedicated?.exclusive);
    const isPlaced = dedicated !== null || pins.size > 0 || affinity !== null;
    return {
      problems: this.#problems,
      placement: {
        policy: dedicated ? 'dedicated' : 'shared',
        vcpus: [...where].map(([vcpu, cpus]) => ({ vcpu, cpus: formatNumberList(cpus) })),
        emulator: formatNumberList(emulator),
        ioThreads: formatNumberList(ioThreads ?? emulator),
        exclusiveCpus: formatNumberList(dedicated?.exclusive ?? []),
        numaNodes,
        memory: this.#memory(memoryNodes, isPlaced ? numaNodes : []),
        reasons: this.#reasons,
        shortages: this.#problems.map(({ field, message }) => `${field}: ${message}`),
      },
    };
  }

  #problem(field: string, value: string, message: string, hint: string = moreCpus, isLasting = true): void {
    this.#problems.push({ field, value, message, hint, isLasting });
  }

  /** The CPUs of a list that can be used; what can't be is a problem. Null: none. */
  #usable(field: string, list: string, own: readonly number[] = []): number[] | null {
    const wanted = parseNumberList(list);
    const present = this.#world.topology.processors.map(({ id }) => id);
    const missing = wanted.filter((id) => !this.#byId.has(id));
    const offline = wanted.filter((id) => this.#byId.get(id)?.isOnline === false);
    const taken = wanted.filter((id) => this.#owner.has(id) && !own.includes(id));
    if (missing.length > 0)
      this.#problem(
        field,
        list,
        `CPU ${formatNumberList(missing)} does not exist; the node has ${formatNumberList(present)}`,
      );
    if (offline.length > 0)
      this.#problem(
        field,
        list,
        `CPU ${formatNumberList(offline)} is offline; online are ${formatNumberList(this.#online)}`,
        `Bring it online (echo 1 > /sys/devices/system/cpu/cpu${offline[0]}/online), or name others.`,
        false,
      );
    for (const name of new Set(taken.map((id) => this.#owner.get(id)!))) {
      const its = taken.filter((id) => this.#owner.get(id) === name);
      this.#problem(
        field,
        list,
        `CPU ${formatNumberList(its)} belongs to VM ${name} alone, whose policy is dedicated`,
        `Name other CPUs, or stop VM ${name}.`,
      );
    }
    const usable = wanted.filter((id) => this.#online.includes(id) && !taken.includes(id));
    return usable.length > 0 ? usable : null;
  }

  /** CPUs of each vCPU that is pinned. */
  #pins(): Map<number, readonly number[]> {
    const pins = new Map<number, readonly number[]>();
    for (const [index, { vcpu, cpus }] of (this.#request.cpu.pinning ?? []).entries()) {
      const usable = this.#usable(`spec.cpu.pinning.${index}.cpus`, cpus);
      if (usable && vcpu < this.#request.vcpus) pins.set(vcpu, usable);
    }
    return pins;
  }

  /** CPUs for everybody: those that belong to no VM alone, and that the scheduler uses by itself. */
  #shared(memoryNodes: readonly number[]): number[] {
    const free = this.#online.filter((id) => !this.#owner.has(id));
    const scheduled = free.filter((id) => !this.#byId.get(id)?.isIsolated);
    const pool = scheduled.length > 0 ? scheduled : free.length > 0 ? free : [...this.#online];
    const near = pool.filter((id) => memoryNodes.includes(this.#byId.get(id)?.node ?? -1));
    if (near.length > 0 && near.length < pool.length)
      this.#reasons.push(`It runs on the CPUs of NUMA node ${formatNumberList(memoryNodes)}, where its memory is.`);
    if (free.length < this.#online.length)
      this.#reasons.push(
        `Left out: ${cpusText([...this.#owner.keys()])}, which dedicated VMs have alone (${[...new Set(this.#owner.values())].join(', ')}).`,
      );
    return near.length > 0 ? near : pool;
  }

  /** CPUs of its own for each vCPU; null: there are not enough. */
  #dedicate(
    pins: ReadonlyMap<number, readonly number[]>,
    numbers: readonly number[],
    affinity: readonly number[] | null,
    memoryNodes: readonly number[],
  ): { cpus: Map<number, readonly number[]>; exclusive: number[] } | null {
    const { topology, others: neighbours, housekeeping } = this.#world;
    const field = 'spec.cpu.pinning';
    const pinned = [...new Set([...pins.values()].flat())];
    const own = this.#threadsOf(pinned);
    const named = new Map(neighbours.flatMap((other) => other.named.map((cpu) => [cpu, other.name] as const)));
    for (const [other, cpus] of pins) {
      const same = [...pins].find(([vcpu, list]) => vcpu < other && list.join() === cpus.join() && cpus.length === 1);
      if (same)
        this.#problem(
          field,
          formatNumberList(cpus),
          `vCPUs ${same[0]} and ${other} are both pinned to CPU ${cpus[0]}, and with policy dedicated each has its own`,
          'Pin each vCPU to another CPU, or set spec.cpu.policy to shared.',
        );
    }
    const refused = new Map<number, string>();
    for (const id of own) {
      const owner = this.#owner.get(id);
      if (owner) refused.set(id, `the core of CPU ${id} belongs to VM ${owner} alone, whose policy is dedicated too`);
      else if (named.has(id)) refused.set(id, `VM ${named.get(id)} is pinned to CPU ${id}`);
      else if (housekeeping?.includes(id)) refused.set(id, `CPU ${id} is one of the node’s housekeeping CPUs`);
    }
    for (const why of refused.values())
      this.#problem(
        field,
        formatNumberList(pinned),
        `${why}; two VMs never share a core that is dedicated`,
        `Choose another core (${moreCpus}), or let Lodge choose: leave pinning out.`,
      );
    if (refused.size > 0) return null;
    const isLeft = this.#online.some((id) => !own.includes(id) && !this.#owner.has(id));
    if (pinned.length > 0 && !isLeft) {
      this.#problem(
        field,
        formatNumberList(pinned),
        'no core would be left for the machine itself',
        'Leave at least one core to the machine: pin to fewer CPUs, or set spec.cpu.policy to shared.',
      );
      return null;
    }
    const open = numbers.filter((vcpu) => !pins.has(vcpu));
    const cpus = new Map<number, readonly number[]>(pins);
    if (open.length === 0) {
      this.#reasons.push(`All vCPUs are pinned by spec.cpu.pinning; its own: ${cpusText(own)}.`);
      return { cpus, exclusive: own };
    }
    const candidates = coresOf(topology).filter(({ threads }) =>
      threads.every(
        (id) =>
          !this.#housekeeping.includes(id) &&
          !this.#owner.has(id) &&
          !named.has(id) &&
          !own.includes(id) &&
          (affinity === null || affinity.includes(id)),
      ),
    );
    const near = candidates.filter(({ node }) => memoryNodes.includes(node));
    const need = {
      vcpus: open.length,
      threadsPerCore: this.#request.cpu.threadsPerCore ?? 1,
      memoryMib: this.#request.memoryMib,
    };
    const choice = chooseCores(near, topology, need) ?? chooseCores(candidates, topology, need);
    if (!choice) {
      this.#tooFew(open.length, candidates, named);
      return null;
    }
    for (const [index, id] of choice.cpus.entries()) cpus.set(open[index]!, [id]);
    const chosen = choice.cores.flatMap(({ threads }) => threads);
    this.#explain(choice);
    return { cpus, exclusive: [...own, ...chosen].toSorted((a, b) => a - b) };
  }

  #tooFew(count: number, candidates: readonly Core[], named: ReadonlyMap<number, string>): void {
    const whose = [
      `${formatNumberList(this.#housekeeping)} for the machine itself`,
      ...this.#world.others.flatMap(({ name, exclusive }) =>
        exclusive.length > 0 ? [`${formatNumberList(exclusive)} of VM ${name}`] : [],
      ),
      ...(named.size > 0 ? [`${formatNumberList(named.keys())} to which VMs are pinned`] : []),
    ];
    const free = candidates.flatMap(({ threads }) => threads);
    this.#problem(
      'spec.cpu.policy',
      'dedicated',
      `it needs ${count} ${count === 1 ? 'CPU of its' : 'CPUs of their'} own, and there ${free.length === 1 ? 'is 1' : `are ${free.length}`} on cores that are free${free.length > 0 ? ` (${formatNumberList(free)})` : ''}; of the CPUs ${formatNumberList(this.#online)} of the node are taken ${whose.join(', ')}`,
      'Give it fewer vCPUs, stop another dedicated VM, keep fewer CPUs for the machine (lodge node set self housekeepingCpus=…), or set spec.cpu.policy to shared.',
    );
  }

  #explain({ cores, isWholeCores, whyMode, spread }: CoreChoice): void {
    const all = cores.flatMap(({ threads }) => threads);
    this.#reasons.push(
      `Its own: ${cores.length === 1 ? 'core' : 'cores'} ${cores.map(coreText).join(' ')}, free of other VMs and of the machine’s housekeeping (${cpusText(this.#housekeeping)}).`,
    );
    if (spread !== '') this.#reasons.push(spread);
    if (whyMode !== '') this.#reasons.push(whyMode);
    if (isWholeCores && all.length > cores.length)
      this.#reasons.push('The other thread of each core stays idle, so that nobody slows it down.');
    if (all.length > 0 && all.every((id) => this.#byId.get(id)?.isIsolated))
      this.#reasons.push('They are isolated from the scheduler (isolcpus).');
  }

  #emulator(open: readonly number[], isDedicated: boolean, numaNodes: readonly number[]): readonly number[] {
    const { emulatorAffinity } = this.#request.cpu;
    const given = emulatorAffinity === undefined ? null : this.#usable('spec.cpu.emulatorAffinity', emulatorAffinity);
    if (given) return given;
    if (!isDedicated) return open;
    const near = this.#housekeeping.filter((id) => numaNodes.includes(this.#byId.get(id)?.node ?? -1));
    const chosen = near.length > 0 ? near : this.#housekeeping.length > 0 ? this.#housekeeping : open;
    this.#reasons.push(
      `What QEMU does besides runs on the housekeeping ${cpusText(chosen)}${near.length > 0 && near.length < this.#housekeeping.length ? ', those of its NUMA node' : ''}.`,
    );
    return chosen;
  }

  /** NUMA nodes that its spec names for its memory, those that have some. */
  #memoryNodes(): number[] {
    const { numa } = this.#request;
    const { nodes } = this.#world.topology;
    const check = (field: string, list: string): number[] => {
      const wanted = parseNumberList(list);
      const known = new Map(nodes.map((node) => [node.id, node]));
      const missing = wanted.filter((id) => !known.has(id));
      const empty = wanted.filter((id) => known.get(id)?.totalBytes === 0);
      const having = nodes.filter(({ totalBytes }) => totalBytes > 0).map(({ id }) => id);
      const has = `memory have ${formatNumberList(having)}`;
      const hint = 'lodge node topology shows the NUMA nodes with their memory.';
      if (missing.length > 0)
        this.#problem(field, list, `NUMA node ${formatNumberList(missing)} does not exist; ${has}`, hint);
      if (empty.length > 0)
        this.#problem(field, list, `NUMA node ${formatNumberList(empty)} has no memory; ${has}`, hint);
      return wanted.filter((id) => having.includes(id));
    };
    const named = numa?.nodes === undefined ? [] : check('spec.numa.nodes', numa.nodes);
    const cells = (numa?.cells ?? []).flatMap(({ hostNode }, index) =>
      hostNode === undefined ? [] : check(`spec.numa.cells.${index}.hostNode`, String(hostNode)),
    );
    return [...new Set([...named, ...cells])].toSorted((a, b) => a - b);
  }

  #memory(named: readonly number[], near: readonly number[]): VmPlacement['memory'] {
    const { nodes } = this.#world.topology;
    const { numa } = this.#request;
    const withMemory = near.filter((id) => nodes.some((node) => node.id === id && node.totalBytes > 0));
    const numaNodes = named.length > 0 ? [...named] : withMemory;
    if (numaNodes.length === 0 || (nodes.length === 1 && named.length === 0))
      return { policy: 'default', numaNodes: [] };
    const list = formatNumberList(numaNodes);
    if (numa) {
      this.#reasons.push(
        `Memory: ${numa.policy} from NUMA node ${list}, ${named.length > 0 ? 'as spec.numa says' : 'those of its CPUs'}.`,
      );
      return { policy: numa.policy, numaNodes };
    }
    this.#reasons.push(`Memory: by preference from NUMA node ${list}, those of its CPUs.`);
    // The kernel prefers one node; for several, taking turns is the fair way.
    return { policy: numaNodes.length === 1 ? 'preferred' : 'interleave', numaNodes };
  }

  /** All online threads of the cores of these CPUs. */
  #threadsOf(cpus: readonly number[]): number[] {
    const threads = cpus.flatMap((id) => this.#byId.get(id)?.siblings ?? [id]);
    return [...new Set(threads)].filter((id) => this.#online.includes(id)).toSorted((a, b) => a - b);
  }

  #nodesOf(cpus: readonly number[]): number[] {
    return [...new Set(cpus.flatMap((id) => this.#byId.get(id)?.node ?? []))].toSorted((a, b) => a - b);
  }
}
