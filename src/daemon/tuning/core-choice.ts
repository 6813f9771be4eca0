// Which cores a VM gets for itself: as few NUMA nodes as can be, then as few caches, cores of one kind, and one vCPU a
// core where there are enough. Pure.
import { type CoreKind, type MachineTopology } from '../../host/topology.ts';
import { formatNumberList } from '../../lib/number-list.ts';

/** A core with its threads that are online. */
export interface Core {
  threads: readonly number[];
  /** NUMA node; -1: none is told. */
  node: number;
  /** Which last cache it shares; cores with the same number share one. */
  cache: number;
  kind: CoreKind | null;
  isIsolated: boolean;
}

export interface CoreNeed {
  vcpus: number;
  /** Of the guest. */
  threadsPerCore: number;
  memoryMib: number;
}

export interface CoreChoice {
  cores: readonly Core[];
  /** CPUs of the vCPUs, in their order. */
  cpus: readonly number[];
  /** Each vCPU has a core. */
  isWholeCores: boolean;
  /** Why vCPUs share cores or not, a sentence; empty: there is nothing to say. */
  whyMode: string;
  /** How near they are to each other, a sentence. */
  spread: string;
}

export function coreText({ threads }: Pick<Core, 'threads'>): string {
  return `[${threads.join(' ')}]`;
}

/** The cores of a machine that have a thread online, by their first one. */
export function coresOf({ processors, caches }: MachineTopology): Core[] {
  const level = Math.max(0, ...caches.filter(({ type }) => type === 'unified').map((cache) => cache.level));
  const last = caches.filter((cache) => cache.level === level);
  const online = processors.filter(({ isOnline }) => isOnline);
  const cores = new Map<number, Core & { threads: number[] }>();
  for (const { id, siblings, node, kind, isIsolated } of online) {
    const first = Math.min(...siblings);
    const core = cores.get(first);
    if (core) core.threads.push(id);
    else
      cores.set(first, {
        threads: [id],
        node: node ?? -1,
        cache: last.findIndex((cache) => cache.processors.includes(id)),
        kind,
        isIsolated,
      });
  }
  return [...cores.values()].toSorted((a, b) => a.threads[0]! - b.threads[0]!);
}

/** How vCPUs lie on cores. */
interface Mode {
  cores: number;
  /** vCPUs that a core takes. */
  perCore: number;
  why: string;
}

/** Null: there are not enough cores. */
export function chooseCores(free: readonly Core[], topology: MachineTopology, need: CoreNeed): CoreChoice | null {
  const isolated = free.filter(({ isIsolated }) => isIsolated);
  const kinds = new Set(free.map(({ kind }) => kind));
  const pools = [
    // Whoever isolates CPUs does so for VMs of this kind.
    ...(isolated.length > 0 && isolated.length < free.length ? [isolated] : []),
    ...(kinds.size > 1
      ? [free.filter(({ kind }) => kind === 'performance'), free.filter(({ kind }) => kind === 'efficiency')]
      : []),
    free,
  ];
  for (const pool of pools) {
    const modes = modesFor(pool, need);
    for (const isTogether of [true, false])
      for (const mode of modes) {
        const cores = isTogether
          ? onOneNode(pool, topology, mode.cores, need.memoryMib)
          : overNodes(pool, topology, mode.cores);
        if (cores) return describe(cores, mode, need, pool, topology);
      }
  }
  return null;
}

function modesFor(pool: readonly Core[], { vcpus, threadsPerCore }: CoreNeed): Mode[] {
  const threads = Math.min(...pool.map((core) => core.threads.length), 8);
  if (pool.length === 0) return [];
  const whole: Mode = { cores: vcpus, perCore: 1, why: '' };
  if (threads === 1) return [whole];
  const packed: Mode = {
    cores: Math.ceil(vcpus / threads),
    perCore: threads,
    why: `Its vCPUs are the ${threads} threads of each core: there are not enough cores for one each.`,
  };
  if (threadsPerCore === 1) return [{ ...whole, why: vcpus > 1 ? 'Each vCPU has a core.' : '' }, packed];
  const perCore = Math.min(threadsPerCore, threads);
  return [
    {
      cores: Math.ceil(vcpus / perCore),
      perCore,
      why: 'The threads of a core of the guest are threads of one core of the machine.',
    },
  ];
}

/** Cores of one NUMA node: one that has the memory too, and of these the fullest, so that others stay whole. */
function onOneNode(
  pool: readonly Core[],
  { nodes }: MachineTopology,
  count: number,
  memoryMib: number,
): readonly Core[] | null {
  const byNode = Map.groupBy(pool, ({ node }) => node);
  const freeBytes = (id: number): number => nodes.find((node) => node.id === id)?.freeBytes ?? 0;
  const rank = (id: number): number => (freeBytes(id) >= memoryMib * 2 ** 20 ? 0 : freeBytes(id) > 0 ? 1 : 2);
  const [best] = [...byNode]
    .filter(([, cores]) => cores.length >= count)
    .toSorted(([a, ofA], [b, ofB]) => rank(a) - rank(b) || ofA.length - ofB.length || a - b);
  return best ? byCache(best[1], count) : null;
}

/** Cores that share a cache, as far as that can be: the smallest group that holds all, else the largest first. */
function byCache(cores: readonly Core[], count: number): readonly Core[] {
  const groups = [...Map.groupBy(cores, ({ cache }) => cache).values()];
  const [fitting] = groups.filter((group) => group.length >= count).toSorted((a, b) => a.length - b.length);
  if (fitting) return fitting.slice(0, count);
  return groups
    .toSorted((a, b) => b.length - a.length)
    .flat()
    .slice(0, count);
}

/** Cores of several NUMA nodes: the one with the most, then those nearest to it. */
function overNodes(pool: readonly Core[], { nodes }: MachineTopology, count: number): readonly Core[] | null {
  if (pool.length < count || count === 0) return null;
  const byNode = [...Map.groupBy(pool, ({ node }) => node)].toSorted(([, a], [, b]) => b.length - a.length);
  const first = nodes.find(({ id }) => id === byNode[0]?.[0]);
  const distance = (id: number): number => first?.distances[nodes.findIndex((node) => node.id === id)] ?? 255;
  const taken: Core[] = [];
  for (const [, cores] of [byNode[0]!, ...byNode.slice(1).toSorted(([a], [b]) => distance(a) - distance(b))])
    taken.push(...byCache(cores, Math.min(cores.length, count - taken.length)));
  return taken;
}

function describe(
  cores: readonly Core[],
  { perCore, why }: Mode,
  { vcpus }: CoreNeed,
  pool: readonly Core[],
  topology: MachineTopology,
): CoreChoice {
  const cpus = cores.flatMap(({ threads }) => threads.slice(0, perCore)).slice(0, vcpus);
  const nodes = [...new Set(cores.map(({ node }) => node))].toSorted((a, b) => a - b);
  const caches = new Set(cores.map(({ cache }) => cache));
  const kinds = new Set(cores.map(({ kind }) => kind));
  const sentences = [
    ...(topology.nodes.length > 1
      ? [
          nodes.length === 1
            ? `They are all of NUMA node ${nodes[0]}.`
            : `They are of NUMA nodes ${formatNumberList(nodes)}: none has enough free cores alone.`,
        ]
      : []),
    ...(cores.length > 1 && caches.size === 1 && !caches.has(-1) && new Set(pool.map(({ cache }) => cache)).size > 1
      ? ['They share the last cache.']
      : []),
    ...(kinds.size === 1 && !kinds.has(null) ? [`They are ${[...kinds][0]} cores.`] : []),
    ...(kinds.size > 1 ? ['They are of both kinds: there are not enough of one.'] : []),
  ];
  return { cores, cpus, isWholeCores: perCore === 1, whyMode: why, spread: sentences.join(' ') };
}
