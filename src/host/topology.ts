// How the processors and the memory of a machine are arranged: sockets, dies, cores and threads, NUMA nodes, caches and
// who shares them, frequencies, and which processors are offline or kept out of the scheduler. Promises: reads through
// HardwareSource, so that recorded machines can be read too; what a machine doesn't show is null or empty, never an error.
// Sources: the kernel's Documentation/ABI/stable/sysfs-devices-system-cpu, sysfs-devices-node,
// Documentation/admin-guide/cputopology.rst, Documentation/admin-guide/kernel-parameters.txt (isolcpus, nohz_full).
import { parseNumberList } from '../lib/number-list.ts';
import { type HardwareSource } from './hardware/source.ts';
import { parseMeminfo, type HugePagePool } from './memory.ts';

/** What a core is built for, on processors that have cores of both kinds. */
export type CoreKind = 'performance' | 'efficiency';

/** One logical processor (a thread of a core), whether it is online or not. */
export interface TopologyProcessor {
  readonly id: number;
  readonly isOnline: boolean;
  /** Places; null while it is offline, since the kernel doesn't tell then. */
  readonly socket: number | null;
  readonly die: number | null;
  /** Unique only within the die. */
  readonly core: number | null;
  /** NUMA node; null where the kernel tells none. */
  readonly node: number | null;
  /** All threads of its core, itself too, ascending. Offline: only itself. */
  readonly siblings: readonly number[];
  /** Null where all cores are alike. */
  readonly kind: CoreKind | null;
  /** Frequencies in MHz; null: the kernel doesn't tell. */
  readonly minMhz: number | null;
  readonly baseMhz: number | null;
  readonly maxMhz: number | null;
  /** What it ran at when it was last looked at. */
  readonly nowMhz: number | null;
  readonly governor: string | null;
  /** Kept out of the scheduler (isolcpus): only what is pinned to it runs there. */
  readonly isIsolated: boolean;
  /** Has no timer tick while one task runs on it (nohz_full). */
  readonly isTickless: boolean;
}

/** One cache. */
export interface ProcessorCache {
  readonly level: number;
  readonly type: 'data' | 'instruction' | 'unified';
  readonly sizeBytes: number;
  /** Those that share it, ascending. */
  readonly processors: readonly number[];
}

/** One NUMA node; it may have no memory, or no processors. */
export interface TopologyNode {
  readonly id: number;
  /** 0: it has no memory. */
  readonly totalBytes: number;
  readonly freeBytes: number;
  /** Online ones, ascending; empty: it has memory only. */
  readonly processors: readonly number[];
  /** Relative cost of memory of each NUMA node for this one, in the order of the nodes, 10 being its own. */
  readonly distances: readonly number[];
  readonly hugePages: readonly HugePagePool[];
}

/** The arrangement of a machine. */
export interface MachineTopology {
  /** By number. */
  readonly processors: readonly TopologyProcessor[];
  /** By level, then by their first processor. */
  readonly caches: readonly ProcessorCache[];
  /** At least one: a machine without NUMA is one node with everything. */
  readonly nodes: readonly TopologyNode[];
}

const cpuRoot = '/sys/devices/system/cpu';
const nodeRoot = '/sys/devices/system/node';

/** A kernel list from a file; empty where there is none, or where it is no list: nohz_full reads "(null)" when unused. */
function listIn(source: HardwareSource, path: string): number[] {
  try {
    return parseNumberList(source.text(path) ?? '');
  } catch (error) {
    if (error instanceof RangeError) return [];
    throw error;
  }
}

function numberIn(source: HardwareSource, path: string): number | null {
  const text = source.text(path);
  const value = text === null || text === '' ? NaN : Number(text);
  return Number.isFinite(value) ? value : null;
}

/** A file in kHz as MHz. */
function mhzIn(source: HardwareSource, path: string): number | null {
  const khz = numberIn(source, path);
  return khz === null || khz <= 0 ? null : Math.round(khz / 1000);
}

/** A size as the kernel writes it for caches: 32K, 1024K, 2M. */
export function parseCacheSize(text: string): number {
  const match = /^(\d+)([KMG]?)$/.exec(text.trim());
  if (!match) return 0;
  return Number(match[1]) * { '': 1, K: 2 ** 10, M: 2 ** 20, G: 2 ** 30 }[match[2] as '' | 'K' | 'M' | 'G'];
}

/** The current frequency of each processor in /proc/cpuinfo, MHz. */
function frequenciesIn(cpuinfo: string): Map<number, number> {
  const frequencies = new Map<number, number>();
  for (const block of cpuinfo.split(/\n\s*\n/)) {
    const id = /^processor\s*: (\d+)/m.exec(block)?.[1];
    const mhz = /^cpu MHz\s*: ([\d.]+)/m.exec(block)?.[1];
    if (id !== undefined && mhz !== undefined) frequencies.set(Number(id), Math.round(Number(mhz)));
  }
  return frequencies;
}

/** Reads how this machine, or a recorded one, is arranged. */
export function readTopology(source: HardwareSource): MachineTopology {
  const online = new Set(listIn(source, `${cpuRoot}/online`));
  const present = listIn(source, `${cpuRoot}/present`);
  const nodes = readNodes(source, [...online]);
  const nodeOf = new Map(nodes.flatMap(({ id, processors }) => processors.map((one) => [one, id] as const)));
  const isolated = new Set(listIn(source, `${cpuRoot}/isolated`));
  const tickless = new Set(listIn(source, `${cpuRoot}/nohz_full`));
  // Only processors with cores of two kinds have these performance monitoring units (Intel).
  const performance = new Set(listIn(source, '/sys/devices/cpu_core/cpus'));
  const efficiency = new Set(listIn(source, '/sys/devices/cpu_atom/cpus'));
  const now = frequenciesIn(source.text('/proc/cpuinfo') ?? '');
  const ids = [...new Set([...(present.length > 0 ? present : [0]), ...online])].toSorted((a, b) => a - b);
  const processors = ids.map((id): TopologyProcessor => {
    const folder = `${cpuRoot}/cpu${id}`;
    // Without the file of those that are online, the processor that reads this is.
    const isOnline = online.size === 0 || online.has(id);
    const place = (file: string): number | null => {
      const value = isOnline ? numberIn(source, `${folder}/topology/${file}`) : null;
      // -1 stands for "unknown" in some virtual machines.
      return value === null ? (isOnline ? 0 : null) : Math.max(0, value);
    };
    const siblings = isOnline ? listIn(source, `${folder}/topology/thread_siblings_list`) : [];
    return {
      id,
      isOnline,
      socket: place('physical_package_id'),
      die: place('die_id'),
      core: isOnline ? (numberIn(source, `${folder}/topology/core_id`) ?? id) : null,
      node: nodeOf.get(id) ?? null,
      siblings: siblings.length > 0 ? siblings : [id],
      kind: performance.has(id) ? 'performance' : efficiency.has(id) ? 'efficiency' : null,
      minMhz: mhzIn(source, `${folder}/cpufreq/cpuinfo_min_freq`),
      baseMhz: mhzIn(source, `${folder}/cpufreq/base_frequency`),
      maxMhz: mhzIn(source, `${folder}/cpufreq/cpuinfo_max_freq`),
      nowMhz: isOnline ? (mhzIn(source, `${folder}/cpufreq/scaling_cur_freq`) ?? now.get(id) ?? null) : null,
      governor: source.text(`${folder}/cpufreq/scaling_governor`),
      isIsolated: isolated.has(id),
      isTickless: tickless.has(id),
    };
  });
  return { processors, caches: readCaches(source, processors), nodes };
}

function readCaches(source: HardwareSource, processors: readonly TopologyProcessor[]): ProcessorCache[] {
  const caches = new Map<string, ProcessorCache>();
  for (const { id, isOnline } of processors) {
    const folder = `${cpuRoot}/cpu${id}/cache`;
    for (const name of isOnline ? source.list(folder) : []) {
      if (!/^index\d+$/.test(name)) continue;
      const type = (source.text(`${folder}/${name}/type`) ?? '').toLowerCase();
      const level = numberIn(source, `${folder}/${name}/level`);
      if (level === null || (type !== 'data' && type !== 'instruction' && type !== 'unified')) continue;
      const shared = listIn(source, `${folder}/${name}/shared_cpu_list`);
      const sharers = shared.length > 0 ? shared : [id];
      caches.set(`${level} ${type} ${sharers.join()}`, {
        level,
        type,
        sizeBytes: parseCacheSize(source.text(`${folder}/${name}/size`) ?? ''),
        processors: sharers,
      });
    }
  }
  return [...caches.values()].toSorted(
    (a, b) => a.level - b.level || a.type.localeCompare(b.type) || a.processors[0]! - b.processors[0]!,
  );
}

function readNodes(source: HardwareSource, online: readonly number[]): TopologyNode[] {
  const ids = source
    .list(nodeRoot)
    .flatMap((name) => /^node(\d+)$/.exec(name)?.[1] ?? [])
    .map(Number)
    .toSorted((a, b) => a - b);
  const nodes = ids.map((id): TopologyNode => {
    const folder = `${nodeRoot}/node${id}`;
    const meminfo = parseMeminfo(source.text(`${folder}/meminfo`) ?? '');
    return {
      id,
      totalBytes: meminfo.get('MemTotal') ?? 0,
      freeBytes: meminfo.get('MemFree') ?? 0,
      processors: listIn(source, `${folder}/cpulist`),
      distances: (source.text(`${folder}/distance`) ?? '').split(/\s+/).filter(Boolean).map(Number),
      hugePages: readPools(source, `${folder}/hugepages`),
    };
  });
  if (nodes.length > 0) return nodes;
  const meminfo = parseMeminfo(source.text('/proc/meminfo') ?? '');
  return [
    {
      id: 0,
      totalBytes: meminfo.get('MemTotal') ?? 0,
      freeBytes: meminfo.get('MemFree') ?? 0,
      processors: online.length > 0 ? online : [0],
      distances: [10],
      hugePages: readPools(source, '/sys/kernel/mm/hugepages'),
    },
  ];
}

function readPools(source: HardwareSource, folder: string): HugePagePool[] {
  return source
    .list(folder)
    .flatMap((name): HugePagePool[] => {
      const kib = /^hugepages-(\d+)kB$/.exec(name)?.[1];
      if (kib === undefined) return [];
      const count = (file: string): number => numberIn(source, `${folder}/${name}/${file}`) ?? 0;
      return [
        {
          pageBytes: Number(kib) * 1024,
          total: count('nr_hugepages'),
          free: count('free_hugepages'),
          reserved: count('resv_hugepages'),
        },
      ];
    })
    .toSorted((a, b) => a.pageBytes - b.pageBytes);
}

/** The processors that are online, ascending. */
export function onlineProcessors({ processors }: Pick<MachineTopology, 'processors'>): number[] {
  return processors.filter(({ isOnline }) => isOnline).map(({ id }) => id);
}
