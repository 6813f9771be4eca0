// Which VM runs on which CPUs of this node: decided when it starts, kept in its status, made so again when the daemon, the
// machine's CPUs or what is asked for have changed.
//
// Invariants:
// - One decision at a time: whoever decides sees what all others were given, so no core is given away twice.
// - A dedicated VM stays where it is as long as that fits what it asks for, whatever becomes free beside it.
// - The placement in a VM's status is what was decided; what its threads do is read from the kernel (`cpus`).
// - Only VMs that are up have a placement: it ends with them (`endedStatus` of vm-guests.ts).
import { isDeepStrictEqual } from 'node:util';
import { LodgeError } from '../../api/errors.ts';
import { type Node } from '../../api/node.ts';
import { type VmCpus, type VmPlacement } from '../../api/vm-placement.ts';
import { type VmSpec } from '../../api/vm-spec.ts';
import { liveVmStates } from '../../api/vm-state.ts';
import { type Vm } from '../../api/vm.ts';
import { type Guest, type GuestDefinition } from '../../drivers/driver.ts';
import { type HardwareSource } from '../../host/hardware/source.ts';
import { onlineProcessors, readTopology, type MachineTopology } from '../../host/topology.ts';
import { formatNumberList, parseNumberList } from '../../lib/number-list.ts';
import { SerialQueues } from '../../lib/serial-queues.ts';
import { type EventService } from '../event/event-service.ts';
import { type Log } from '../store/informer.ts';
import { vmSubject, type VmRecords } from '../vm/vm-records.ts';
import {
  namedCpus,
  placeVm,
  type PlacementProblem,
  type PlacementResult,
  type PlacementWorld,
} from './cpu-placement.ts';
import { placementThatStays } from './fits-still.ts';
import { type HostSettings } from './host-settings.ts';

export interface PlacementServiceParts {
  records: VmRecords;
  guestOf: (id: string) => Guest | null;
  events: EventService;
  /** This node. */
  node: () => Pick<Node, 'id' | 'name' | 'project' | 'spec'>;
  machine: HardwareSource;
  settings: HostSettings;
  log: Log;
}

/** How often the CPUs that are online are looked at. */
const lookMs = 2000;
/** How often the threads of placed VMs are compared with where they belong. */
const verifyMs = 30_000;
/** Memory of NUMA nodes that is free changes all the time; the rest hardly ever. */
const topologyAgeMs = 2000;

/** A shortage of memory begins with it. */
const memoryField = 'spec.memoryBacking';

const onlinePath = '/sys/devices/system/cpu/online';

/** What a VM may take by its spec. */
export function limitsOf({ cpu, resources }: VmSpec): NonNullable<GuestDefinition['limits']> {
  return {
    cpuWeight: cpu.weight ?? null,
    cpuCapPercent: cpu.capPercent ?? null,
    ioWeight: resources?.ioWeight ?? null,
    swapMaxMib: resources?.swapMaxMib ?? null,
    oomPriority: resources?.oomPriority ?? null,
  };
}

/** The limits that its spec gives; those that nobody has touched are the kernel's. */
export function startLimitsOf(spec: VmSpec): NonNullable<GuestDefinition['limits']> {
  const given = Object.entries(limitsOf(spec)).filter(([, value]) => value !== null);
  return Object.fromEntries(given);
}

export class PlacementService {
  readonly #parts: PlacementServiceParts;
  readonly #queue = new SerialQueues();
  /** What was last seen of each VM that decides about its placement. */
  readonly #seen = new Map<string, string>();
  #topology: { atMs: number; online: string; value: MachineTopology } | null = null;
  #online = '';
  #nodeSpec = '';
  #verifiedMs = 0;
  #timer: NodeJS.Timeout | null = null;
  #stopListening: () => void = () => {};
  #working: Promise<void> = Promise.resolve();
  #isClosed = false;

  constructor(parts: PlacementServiceParts) {
    this.#parts = parts;
  }

  /** Puts the guests that are there where they belong, and looks after them from now on. */
  start(): void {
    this.#online = this.#onlineText();
    for (const vm of this.#parts.records.collection.all()) this.#seen.set(vm.id, wishOf(vm));
    this.#stopListening = this.#parts.records.collection.onChange(({ type, object }) => {
      const wish = type === 'deleted' ? '' : wishOf(object);
      if (this.#seen.get(object.id) === wish) return;
      if (type === 'deleted') this.#seen.delete(object.id);
      else this.#seen.set(object.id, wish);
      this.#plan(() => this.#settle({ id: object.id }));
    });
    // What was changed while no daemon ran, or before the last one came to it, is made so now.
    this.#plan(() => this.#settle('all'));
    this.#timer = setInterval(() => this.#look(), lookMs).unref();
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    this.#stopListening();
    if (this.#timer) clearInterval(this.#timer);
    await this.#working;
  }

  /**
   * Refuses what this node can never give; with `isStarting`, also what it can't give now. Nothing is refused where the
   * spec says that it is to start all the same.
   */
  check(vm: { id: string | null; name: string; spec: VmSpec }, isStarting: boolean): void {
    if (vm.spec.onShortage === 'start') return;
    const world = this.#world(vm.id);
    const { problems } = placeVm(requestOf(vm.spec), isStarting ? world : { ...world, others: [] });
    const counting = problems.filter(({ isLasting }) => isStarting || isLasting);
    if (counting.length > 0) throw refusal(vm.name, counting);
  }

  /** Decides where a VM that is being started runs. Throws what it can't have, unless its spec says to start without. */
  async reserve(id: string, spec: VmSpec): Promise<VmPlacement> {
    return this.#queue.run('node', async () => {
      const { records } = this.#parts;
      const vm = records.byId(id);
      const { placement, problems } = this.#decide(vm, { ...spec, cpu: { ...spec.cpu, ...placedFields(vm.spec) } });
      const lack = await this.#provideMemory(id, spec, placement);
      if (lack) problems.push(lack);
      if (problems.length > 0 && vm.spec.onShortage !== 'start') throw refusal(vm.name, problems);
      const given = lack
        ? { ...placement, shortages: [...placement.shortages, `${lack.field}: ${lack.message}`] }
        : placement;
      await records.patch(id, { placement: given });
      return given;
    });
  }

  /** What a VM was given, and what its threads do. */
  async cpus(vm: Vm): Promise<VmCpus> {
    const { placement } = vm.status;
    const guest = liveVmStates.has(vm.status.state) ? this.#parts.guestOf(vm.id) : null;
    if (!guest) return { placement, threads: [], limits: [], pressure: [] };
    const [threads, limits, pressure] = await Promise.all([
      guest.tuning.threads(),
      guest.tuning.limits(limitsOf(vm.spec)),
      guest.tuning.pressure(),
    ]);
    const vcpus = new Map(placement?.vcpus.map(({ vcpu, cpus }) => [vcpu, cpus]));
    return {
      placement,
      threads: threads.map(({ allowed, ...thread }) => {
        const { kind, number } = thread;
        const wanted = !placement
          ? undefined
          : kind === 'vcpu'
            ? vcpus.get(number)
            : kind === 'io-thread'
              ? placement.ioThreads
              : placement.emulator;
        const allowedCpus = formatNumberList(allowed);
        return {
          ...thread,
          allowedCpus,
          wantedCpus: wanted ?? null,
          isAsWanted: wanted === undefined || wanted === allowedCpus,
        };
      }),
      limits,
      pressure,
    };
  }

  /** Sees to the huge pages that a VM asks for. What stands against it. */
  async #provideMemory(
    id: string,
    { memoryBacking, memoryMib }: VmSpec,
    { memory }: VmPlacement,
  ): Promise<PlacementProblem | null> {
    if (!memoryBacking?.pageSize) return null;
    const { nodes } = this.#readTopology();
    const isNuma = this.#parts.machine.list('/sys/devices/system/node').includes(`node${nodes[0]?.id}`);
    const wanted = memory.numaNodes.length > 0 ? memory.numaNodes : nodes.map(({ id }) => id);
    const having = nodes.filter(({ id, totalBytes }) => wanted.includes(id) && totalBytes > 0);
    const free = having.toSorted((a, b) => b.freeBytes - a.freeBytes).map(({ id }) => id);
    // Others that are being started have not taken theirs yet.
    const { pageSize } = memoryBacking;
    const starting = [...this.#parts.records.collection.all()].filter(
      (vm) => vm.id !== id && vm.status.state === 'starting' && vm.spec.memoryBacking?.pageSize === pageSize,
    );
    const promisedMib = starting.reduce((sum, vm) => sum + vm.spec.memoryMib, 0);
    return this.#parts.settings.provideHugePages(pageSize, { memoryMib, promisedMib }, free, isNuma);
  }

  /** Runs when everything planned before is done. */
  #plan(work: () => Promise<void>): void {
    if (this.#isClosed) return;
    this.#working = this.#working.then(async () => {
      if (this.#isClosed) return;
      await work().catch((error: unknown) => this.#parts.log.warn({ err: error }, 'VMs could not be placed on CPUs'));
    });
  }

  #look(): void {
    const online = this.#onlineText();
    if (online !== this.#online) {
      const before = this.#online;
      this.#online = online;
      this.#plan(async () => {
        const node = this.#parts.node();
        const gone = missingIn(before, online);
        await this.#parts.events.record({
          type: 'node.cpus-changed',
          severity: gone.length > 0 ? 'warning' : 'info',
          subject: { kind: 'node', id: node.id, name: node.name, project: node.project },
          message: `CPUs ${online} are online, before ${before}.${gone.length > 0 ? ' VMs that ran on the others are placed anew.' : ''}`,
        });
        await this.#settle('none');
      });
      return;
    }
    const nodeSpec = JSON.stringify(this.#parts.node().spec);
    const isNodeChanged = this.#nodeSpec !== '' && this.#nodeSpec !== nodeSpec;
    this.#nodeSpec = nodeSpec;
    if (isNodeChanged || performance.now() - this.#verifiedMs > verifyMs) this.#plan(() => this.#settle('none'));
    else if (this.#parts.settings.isKsmDue(this.#parts.node().spec.ksm))
      this.#plan(() => this.#queue.run('node', () => this.#settleHost()));
  }

  /** Brings all placements in line. `changed`: VMs whose limits are set too, as their spec may have changed. */
  async #settle(changed: { id: string } | 'all' | 'none'): Promise<void> {
    const { records, guestOf } = this.#parts;
    this.#verifiedMs = performance.now();
    await this.#queue.run('node', () => this.#settleHost());
    const vms = [...records.collection.all()].filter(
      ({ id: one, status: { state } }) => isPlaceable(state) && guestOf(one) !== null,
    );
    // What is dedicated is settled first: the others take what is left.
    const isLater = ({ spec }: Vm): number => (spec.cpu.policy === 'dedicated' ? 0 : 1);
    for (const vm of vms.toSorted((a, b) => isLater(a) - isLater(b)))
      await this.#settleOne(vm.id, changed === 'all' || (changed !== 'none' && vm.id === changed.id)).catch(
        (error: unknown) => this.#parts.log.warn({ err: error, vm: vm.name }, 'a VM could not be placed on CPUs'),
      );
  }

  /** What no VM needs any more is put back. While one is being started, its pages are free and nobody's yet. */
  async #settleHost(): Promise<void> {
    const { records, settings, node, log } = this.#parts;
    const isStarting = [...records.collection.all()].some(({ status: { state } }) => state === 'starting');
    try {
      if (!isStarting) await settings.release();
      await settings.applyKsm(node().spec.ksm);
    } catch (error) {
      log.warn({ err: error }, 'settings of the machine could not be changed');
    }
  }

  async #settleOne(id: string, isChanged: boolean): Promise<void> {
    const { records, guestOf } = this.#parts;
    const decided = await this.#queue.run('node', async () => {
      const vm = records.collection.get(id);
      if (!vm || !isPlaceable(vm.status.state)) return null;
      const spec = vm.status.startedSpec ?? vm.spec;
      const wanted = { ...spec, cpu: { ...spec.cpu, ...placedFields(vm.spec) } };
      const { placement, problems } = this.#decide(vm, wanted);
      const before = vm.status.placement;
      if (!isDeepStrictEqual(before, placement))
        await records.collection.setStatus(id, (status) =>
          isPlaceable(status.state) ? { ...status, placement } : status,
        );
      return { vm, before, placement, problems };
    });
    const guest = guestOf(id);
    if (!decided || !guest) return;
    const { vm, before, placement, problems } = decided;
    if (isChanged) await guest.tuning.limit(limitsOf(vm.spec));
    if (before !== null || !this.#isAnywhere(placement)) await guest.tuning.place(placement);
    await this.#tell(vm, before, placement, problems);
  }

  /** What has changed is an event, and a shortage a warning for as long as it lasts. */
  async #tell(
    vm: Vm,
    before: VmPlacement | null,
    after: VmPlacement,
    problems: readonly PlacementProblem[],
  ): Promise<void> {
    const { events, records } = this.#parts;
    const hasMoved = before !== null && JSON.stringify(before.vcpus) !== JSON.stringify(after.vcpus);
    const message = `It runs without what it asks for: ${after.shortages.join('; ')}.`;
    const isNew = after.shortages.length > 0 && !vm.status.warnings.some((warning) => warning.message === message);
    if (hasMoved || isNew)
      await events.record({
        type: isNew ? 'vm.shortage' : 'vm.placed',
        severity: isNew ? 'warning' : 'info',
        subject: vmSubject(vm),
        message: isNew
          ? `VM ${vm.name}: ${message}`
          : `VM ${vm.name} was placed on other CPUs: ${whereText(after)}, before ${whereText(before ?? after)}.`,
      });
    const others = vm.status.warnings.filter(({ code }) => code !== 'shortage');
    const hint = problems[0]?.hint ?? 'It gets it at its next start, if the node has it then.';
    const warnings = after.shortages.length === 0 ? others : [...others, { code: 'shortage' as const, message, hint }];
    if (isDeepStrictEqual(warnings, vm.status.warnings)) return;
    await records.collection.setStatus(vm.id, (status) =>
      isPlaceable(status.state) ? { ...status, warnings } : status,
    );
  }

  #decide(vm: Vm, spec: VmSpec): PlacementResult {
    const world = this.#world(vm.id);
    const { placement: before } = vm.status;
    const request = requestOf(spec);
    // What memory it was started with, it has until it ends.
    const ofMemory = before?.shortages.filter((shortage) => shortage.startsWith(memoryField)) ?? [];
    const cpusOnly = before && { ...before, shortages: before.shortages.filter((one) => !ofMemory.includes(one)) };
    const kept = cpusOnly && placementThatStays(cpusOnly, request, world);
    const { placement, problems } = kept ? { placement: kept, problems: [] } : placeVm(request, world);
    return { placement: { ...placement, shortages: [...placement.shortages, ...ofMemory] }, problems };
  }

  #world(ownId: string | null): PlacementWorld {
    const { records, node } = this.#parts;
    const { housekeepingCpus } = node().spec;
    const others = [...records.collection.all()].filter(
      ({ id, status }) => id !== ownId && liveVmStates.has(status.state) && status.placement !== null,
    );
    return {
      topology: this.#readTopology(),
      housekeeping: housekeepingCpus === undefined ? null : parseNumberList(housekeepingCpus),
      others: others.map(({ name, spec, status }) => ({
        name,
        exclusive: parseNumberList(status.placement?.exclusiveCpus ?? ''),
        named: namedCpus(spec.cpu),
      })),
    };
  }

  #isAnywhere({ vcpus, emulator }: VmPlacement): boolean {
    const all = formatNumberList(onlineProcessors(this.#readTopology()));
    return emulator === all && vcpus.every(({ cpus }) => cpus === all);
  }

  #onlineText(): string {
    return this.#parts.machine.text(onlinePath) ?? '';
  }

  #readTopology(): MachineTopology {
    const online = this.#onlineText();
    const now = performance.now();
    if (!this.#topology || this.#topology.online !== online || now - this.#topology.atMs > topologyAgeMs)
      this.#topology = { atMs: now, online, value: readTopology(this.#parts.machine) };
    return this.#topology.value;
  }
}

/** A VM whose threads can be placed: it exists and is not on its way out. */
function isPlaceable(state: Vm['status']['state']): boolean {
  return state === 'running' || state === 'paused' || state === 'crashed';
}

/** What a VM's placement depends on, for comparison. */
function wishOf({ spec, status }: Vm): string {
  if (!isPlaceable(status.state)) return liveVmStates.has(status.state) ? 'coming or going' : 'gone';
  return JSON.stringify([placedFields(spec), spec.resources, spec.onShortage, status.startedSpec?.cpu.count]);
}

/** The fields that count at once, as the spec has them now: also those that are not given any more. */
function placedFields({ cpu }: VmSpec): Partial<VmSpec['cpu']> {
  const { policy, pinning, affinity, emulatorAffinity, ioThreadAffinity, weight, capPercent } = cpu;
  return { policy, pinning, affinity, emulatorAffinity, ioThreadAffinity, weight, capPercent };
}

function requestOf({ cpu, numa, memoryMib }: VmSpec): Parameters<typeof placeVm>[0] {
  return { cpu, numa, memoryMib, vcpus: cpu.count };
}

function whereText({ vcpus }: VmPlacement): string {
  const distinct = [...new Set(vcpus.map(({ cpus }) => cpus))];
  return distinct.length === 1 ? `CPUs ${distinct[0]}` : `CPUs ${distinct.join(' ')}`;
}

function missingIn(before: string, after: string): number[] {
  const now = new Set(parseNumberList(after));
  return parseNumberList(before).filter((id) => !now.has(id));
}

function refusal(name: string, problems: readonly PlacementProblem[]): LodgeError {
  const sentences = problems.map(({ field, message }) => `${field}: ${message}`);
  const isInvalid = problems.some(({ message }) => / does not exist|has no memory/.test(message));
  return new LodgeError(
    isInvalid ? 'invalid_request' : 'insufficient_resources',
    `VM ${name} can't have the CPUs or the memory that it asks for: ${sentences.join('; ')}.`,
    {
      fields: problems.map(({ field, message, value }) => ({ field, message, value })),
      hint: `${problems[0]!.hint} With spec.onShortage start, it is started without.`,
    },
  );
}
