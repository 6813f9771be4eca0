// Machines of different arrangement as the files by which a kernel shows them, written from the kernel's documentation
// (sysfs-devices-system-cpu, sysfs-devices-node), so that topology and placement are tried on machines that aren't here.
import { formatNumberList } from '../../src/lib/number-list.ts';
import { recordedMachine, type Recording } from './recorded-machine.ts';
import { type HardwareSource } from '../../src/host/hardware/source.ts';

/** A core with its threads. */
export interface RecordedCore {
  socket?: number;
  die?: number;
  core: number;
  threads: readonly number[];
  node?: number;
  /** Cores with the same number share a cache of the third level. */
  l3?: number;
  kind?: 'performance' | 'efficiency';
}

export interface RecordedArrangement {
  cores: readonly RecordedCore[];
  /** In order. Without it, one with 16 GiB. */
  nodes?: readonly {
    id: number;
    mib: number;
    freeMib?: number;
    distances: readonly number[];
    pools?: RecordedPool[];
  }[];
  offline?: readonly number[];
  isolated?: string;
  /** As the file reads. */
  nohzFull?: string;
  maxKhz?: number;
}

export interface RecordedPool {
  kib: number;
  total: number;
  free: number;
}

/** The files of a machine that is arranged so. */
export function arrangementFiles(arrangement: RecordedArrangement): Recording & { files: Record<string, string> } {
  const { cores, offline = [], maxKhz } = arrangement;
  const nodes = arrangement.nodes ?? [{ id: 0, mib: 16_384, distances: [10] }];
  const isOffline = new Set(offline);
  const all = cores.flatMap(({ threads }) => threads);
  const online = all.filter((id) => !isOffline.has(id));
  const cpu = '/sys/devices/system/cpu';
  const files: Record<string, string> = {
    [`${cpu}/present`]: formatNumberList(all),
    [`${cpu}/online`]: formatNumberList(online),
    [`${cpu}/offline`]: formatNumberList(offline),
    [`${cpu}/isolated`]: arrangement.isolated ?? '',
    ...(arrangement.nohzFull === undefined ? {} : { [`${cpu}/nohz_full`]: arrangement.nohzFull }),
    '/proc/cpuinfo': online.map((id) => `processor\t: ${id}\ncpu MHz\t\t: ${2000 + id}.125\n`).join('\n'),
  };
  const sharing = (matches: (core: RecordedCore) => boolean): string =>
    formatNumberList(cores.filter(matches).flatMap(({ threads }) => threads.filter((id) => !isOffline.has(id))));
  for (const one of cores) {
    for (const id of one.threads) {
      const folder = `${cpu}/cpu${id}`;
      // The folder of a processor stays when it goes offline; what is in it about its place doesn't.
      files[`${folder}/uevent`] = '';
      if (isOffline.has(id)) continue;
      const own = sharing((other) => other === one);
      const put = (file: string, value: string | number): void => {
        files[`${folder}/${file}`] = String(value);
      };
      put('topology/physical_package_id', one.socket ?? 0);
      put('topology/die_id', one.die ?? 0);
      put('topology/core_id', one.core);
      put('topology/thread_siblings_list', own);
      const caches = [
        [1, 'Data', '48K', own],
        [1, 'Instruction', '32K', own],
        [2, 'Unified', '2M', own],
        [3, 'Unified', '32768K', sharing((other) => (other.l3 ?? 0) === (one.l3 ?? 0))],
      ] as const;
      for (const [index, [level, type, size, shared]] of caches.entries()) {
        put(`cache/index${index}/level`, level);
        put(`cache/index${index}/type`, type);
        put(`cache/index${index}/size`, size);
        put(`cache/index${index}/shared_cpu_list`, shared);
      }
      if (maxKhz === undefined) continue;
      put('cpufreq/cpuinfo_max_freq', maxKhz);
      put('cpufreq/cpuinfo_min_freq', 800_000);
      put('cpufreq/base_frequency', 2_000_000);
      put('cpufreq/scaling_cur_freq', 3_100_000);
      put('cpufreq/scaling_governor', 'powersave');
    }
  }
  for (const kind of ['performance', 'efficiency'] as const) {
    const list = sharing((one) => one.kind === kind);
    if (list !== '') files[`/sys/devices/${kind === 'performance' ? 'cpu_core' : 'cpu_atom'}/cpus`] = list;
  }
  for (const { id, mib, freeMib = mib, distances, pools = [] } of nodes) {
    const folder = `/sys/devices/system/node/node${id}`;
    files[`${folder}/cpulist`] = sharing((one) => (one.node ?? 0) === id);
    files[`${folder}/distance`] = distances.join(' ');
    files[`${folder}/meminfo`] = `Node ${id} MemTotal: ${mib * 1024} kB\nNode ${id} MemFree: ${freeMib * 1024} kB\n`;
    for (const { kib, total, free } of pools) {
      files[`${folder}/hugepages/hugepages-${kib}kB/nr_hugepages`] = String(total);
      files[`${folder}/hugepages/hugepages-${kib}kB/free_hugepages`] = String(free);
    }
  }
  return { files };
}

export function arrangedMachine(arrangement: RecordedArrangement): HardwareSource {
  return recordedMachine(arrangementFiles(arrangement));
}

/** One socket, four cores with two threads each, numbered as Linux does: first the first threads of all cores. */
export const oneSocket: RecordedArrangement = {
  cores: [0, 1, 2, 3].map((core) => ({ core, threads: [core, core + 4] })),
  maxKhz: 4_800_000,
};

/** Two sockets, each a NUMA node with four cores of two threads, in two groups of two cores by their last cache. */
export const twoSockets: RecordedArrangement = {
  cores: [0, 1, 2, 3, 4, 5, 6, 7].map((core) => ({
    socket: core < 4 ? 0 : 1,
    core: core % 4,
    threads: [core, core + 8],
    node: core < 4 ? 0 : 1,
    l3: Math.floor(core / 2),
  })),
  nodes: [
    { id: 0, mib: 32_768, freeMib: 8192, distances: [10, 21], pools: [{ kib: 2048, total: 1024, free: 512 }] },
    { id: 1, mib: 32_768, freeMib: 30_000, distances: [21, 10], pools: [{ kib: 2048, total: 0, free: 0 }] },
  ],
};

/** Two performance cores with two threads and four efficiency cores with one. */
export const hybrid: RecordedArrangement = {
  cores: [
    { core: 0, threads: [0, 1], kind: 'performance' },
    { core: 4, threads: [2, 3], kind: 'performance' },
    ...[4, 5, 6, 7].map((id): RecordedCore => ({ core: 8 + id, threads: [id], kind: 'efficiency' })),
  ],
};
