// The memory of this machine: total and available, huge pages, NUMA nodes, and whether it is short (pressure).
// Promises: parsers are pure; sizes are bytes. Sources: proc(5) (/proc/meminfo), the kernel's
// Documentation/admin-guide/mm/hugetlbpage.rst, Documentation/accounting/psi.rst.
import { readFile, readdir } from 'node:fs/promises';
import { parseNumberList } from '../lib/number-list.ts';

/** Memory of the whole machine, in bytes. */
export interface MemoryFacts {
  readonly totalBytes: number;
  /** What new programs can get without swapping, as the kernel estimates it. */
  readonly availableBytes: number;
  readonly swapTotalBytes: number;
  readonly swapFreeBytes: number;
}

/** The pool of huge pages of one size. */
export interface HugePagePool {
  readonly pageBytes: number;
  readonly total: number;
  /** Not in use; some of them may be promised already (`reserved`). */
  readonly free: number;
  readonly reserved: number;
}

/** One NUMA node. */
export interface NumaNode {
  readonly id: number;
  readonly totalBytes: number;
  readonly freeBytes: number;
  readonly processors: readonly number[];
  /** Relative cost of memory of each node for this one, 10 being its own. */
  readonly distances: readonly number[];
}

/** The share of time in which work waited for memory, in percent: psi.rst. */
export interface MemoryPressure {
  /** At least one task waited, mean of 10 s. */
  readonly somePercent: number;
  /** All tasks waited, mean of 10 s. */
  readonly fullPercent: number;
}

/** Reads lines such as `MemTotal:  24684096 kB` (also with `Node 0 ` before them) into bytes. */
export function parseMeminfo(text: string): Map<string, number> {
  const values = new Map<string, number>();
  for (const match of text.matchAll(/^(?:Node \d+ )?([\w()]+):\s+(\d+)( kB)?$/gm)) {
    values.set(match[1] ?? '', Number(match[2]) * (match[3] ? 1024 : 1));
  }
  return values;
}

/** The machine's memory from the text of /proc/meminfo. */
export function memoryOf(meminfo: string): MemoryFacts {
  const values = parseMeminfo(meminfo);
  const value = (name: string): number => values.get(name) ?? 0;
  return {
    totalBytes: value('MemTotal'),
    availableBytes: values.get('MemAvailable') ?? value('MemFree') + value('Cached'),
    swapTotalBytes: value('SwapTotal'),
    swapFreeBytes: value('SwapFree'),
  };
}

/** Reads /proc/pressure/memory. */
export function parsePressure(text: string): MemoryPressure {
  const value = (kind: string): number => Number(new RegExp(`^${kind} avg10=([\\d.]+)`, 'm').exec(text)?.[1] ?? 0);
  return { somePercent: value('some'), fullPercent: value('full') };
}

/** Reads the machine's memory. */
export async function readMemory(): Promise<MemoryFacts> {
  return memoryOf(await readFile('/proc/meminfo', 'utf8'));
}

async function readNumber(path: string): Promise<number> {
  return Number(await readFile(path, 'utf8').catch(() => '0'));
}

/** Reads the pools of huge pages, smallest first; of one NUMA node when its number is given. Empty where there are none. */
export async function readHugePages(node?: number): Promise<HugePagePool[]> {
  const root = node === undefined ? '/sys/kernel/mm/hugepages' : `/sys/devices/system/node/node${node}/hugepages`;
  const pools: HugePagePool[] = [];
  for (const entry of await readdir(root).catch(() => [])) {
    const kib = /^hugepages-(\d+)kB$/.exec(entry)?.[1];
    if (kib === undefined) continue;
    pools.push({
      pageBytes: Number(kib) * 1024,
      total: await readNumber(`${root}/${entry}/nr_hugepages`),
      free: await readNumber(`${root}/${entry}/free_hugepages`),
      // The kernel keeps reservations for the machine only, not by node.
      reserved: node === undefined ? await readNumber(`${root}/${entry}/resv_hugepages`) : 0,
    });
  }
  return pools.toSorted((a, b) => a.pageBytes - b.pageBytes);
}

/** Reads the NUMA nodes with memory, in order. Empty where the kernel has no NUMA. */
export async function readNumaNodes(): Promise<NumaNode[]> {
  const root = '/sys/devices/system/node';
  const nodes: NumaNode[] = [];
  for (const entry of await readdir(root).catch(() => [])) {
    const id = /^node(\d+)$/.exec(entry)?.[1];
    if (id === undefined) continue;
    const text = async (file: string): Promise<string> =>
      await readFile(`${root}/${entry}/${file}`, 'utf8').catch(() => '');
    const meminfo = parseMeminfo(await text('meminfo'));
    nodes.push({
      id: Number(id),
      totalBytes: meminfo.get('MemTotal') ?? 0,
      freeBytes: meminfo.get('MemFree') ?? 0,
      processors: parseNumberList(await text('cpulist')),
      distances: (await text('distance')).split(/\s+/).filter(Boolean).map(Number),
    });
  }
  return nodes.toSorted((a, b) => a.id - b.id);
}

/** Reads the memory pressure; null where the kernel doesn't measure it (it can be switched off with psi=0). */
export async function readMemoryPressure(): Promise<MemoryPressure | null> {
  try {
    return parsePressure(await readFile('/proc/pressure/memory', 'utf8'));
  } catch (error) {
    // EOPNOTSUPP: the kernel has it, but it is switched off.
    if (['ENOENT', 'EOPNOTSUPP'].includes((error as NodeJS.ErrnoException).code ?? '')) return null;
    throw error;
  }
}
