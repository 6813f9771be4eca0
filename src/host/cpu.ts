// The processors of this machine: what they are, how they are arranged, which of them are online, and how busy they
// are. Promises: parsers are pure; what a machine doesn't show has a stated fallback. Sources: the kernel's
// Documentation/ABI/stable/sysfs-devices-system-cpu, Documentation/admin-guide/cputopology.rst, proc(5).
import { readFile, readdir } from 'node:fs/promises';
import { parseNumberList } from '../lib/number-list.ts';

/** Hardware assistance for virtualization that the processor shows: Intel's VT-x or AMD's AMD-V. */
export type HardwareVirtualization = 'vmx' | 'svm' | 'none';

/** One logical processor that is online. */
export interface LogicalProcessor {
  /** The kernel's number of it. */
  readonly id: number;
  readonly socket: number;
  /** Unique only within the socket. */
  readonly core: number;
  /** NUMA node; 0 where the machine has none. */
  readonly node: number;
}

/** What the processors of a machine are. */
export interface CpuFacts {
  readonly vendor: string;
  readonly model: string;
  readonly flags: ReadonlySet<string>;
  readonly virtualization: HardwareVirtualization;
  /** Logical processors online. */
  readonly count: number;
  readonly sockets: number;
  readonly coresPerSocket: number;
  readonly threadsPerCore: number;
  readonly processors: readonly LogicalProcessor[];
}

/** Processor time since the machine started, in clock ticks, summed over all processors. */
export interface CpuTimes {
  readonly busy: number;
  readonly total: number;
  /** Part of `busy`: the hypervisor that this machine itself runs on gave it to others. 0 on hardware. */
  readonly steal: number;
}

/** Reads the first processor of /proc/cpuinfo; they are alike on the machines Lodge runs on. */
export function parseCpuInfo(text: string): Pick<CpuFacts, 'vendor' | 'model' | 'flags' | 'virtualization'> {
  const first = text.split('\n\n', 1)[0] ?? '';
  const field = (name: string): string => new RegExp(`^${name}\\s*: (.*)$`, 'm').exec(first)?.[1]?.trim() ?? '';
  const flags = new Set(field('flags').split(/\s+/).filter(Boolean));
  return {
    vendor: field('vendor_id') || 'unknown',
    model: field('model name') || 'unknown',
    flags,
    virtualization: flags.has('vmx') ? 'vmx' : flags.has('svm') ? 'svm' : 'none',
  };
}

/** Counts sockets, cores and threads. On a machine whose sockets differ, the largest counts. */
export function arrangementOf(
  processors: readonly LogicalProcessor[],
): Pick<CpuFacts, 'sockets' | 'coresPerSocket' | 'threadsPerCore'> {
  const sockets = new Map<number, Map<number, number>>();
  for (const { socket, core } of processors) {
    const cores = sockets.get(socket) ?? new Map<number, number>();
    cores.set(core, (cores.get(core) ?? 0) + 1);
    sockets.set(socket, cores);
  }
  const largest = (values: Iterable<number>): number => Math.max(1, ...values);
  return {
    sockets: Math.max(1, sockets.size),
    coresPerSocket: largest([...sockets.values()].map((cores) => cores.size)),
    threadsPerCore: largest([...sockets.values()].map((cores) => largest(cores.values()))),
  };
}

/** Reads the first line of /proc/stat. Guest time is part of user time there; waiting for disks counts as idle. */
export function parseCpuTimes(text: string): CpuTimes {
  const match = /^cpu\s+(.*)$/m.exec(text);
  const [user = 0, nice = 0, system = 0, idle = 0, iowait = 0, irq = 0, softirq = 0, steal = 0] = (match?.[1] ?? '')
    .split(' ')
    .map(Number);
  const busy = user + nice + system + irq + softirq + steal;
  return { busy, total: busy + idle + iowait, steal };
}

/** How busy the machine was between two readings, in percent of all processors; 0 when no time passed. */
export function busyPercent(before: CpuTimes, after: CpuTimes): number {
  const total = after.total - before.total;
  if (total <= 0) return 0;
  return Math.min(100, Math.max(0, ((after.busy - before.busy) / total) * 100));
}

/** How much of the machine's processor time the hypervisor below it gave to others between two readings, in percent. */
export function stealPercent(before: CpuTimes, after: CpuTimes): number {
  const total = after.total - before.total;
  return total <= 0 ? 0 : Math.min(100, Math.max(0, ((after.steal - before.steal) / total) * 100));
}

async function readOr(path: string, fallback: string): Promise<string> {
  return await readFile(path, 'utf8').catch(() => fallback);
}

/** The NUMA node of each processor, from /sys/devices/system/node. Empty where the kernel has no NUMA. */
async function readNodesOfProcessors(): Promise<Map<number, number>> {
  const nodes = new Map<number, number>();
  const entries = await readdir('/sys/devices/system/node').catch(() => []);
  for (const entry of entries) {
    const node = /^node(\d+)$/.exec(entry)?.[1];
    if (node === undefined) continue;
    for (const id of parseNumberList(await readOr(`/sys/devices/system/node/${entry}/cpulist`, '')))
      nodes.set(id, Number(node));
  }
  return nodes;
}

/** Reads what the processors of this machine are. Changes only when processors go on- or offline. */
export async function readCpu(): Promise<CpuFacts> {
  const info = parseCpuInfo(await readFile('/proc/cpuinfo', 'utf8'));
  const nodes = await readNodesOfProcessors();
  const processors: LogicalProcessor[] = [];
  for (const id of parseNumberList(await readOr('/sys/devices/system/cpu/online', '0'))) {
    const topology = `/sys/devices/system/cpu/cpu${id}/topology`;
    // -1 stands for "unknown" in sockets of some virtual machines.
    const socket = Math.max(0, Number(await readOr(`${topology}/physical_package_id`, '0')));
    const core = Number(await readOr(`${topology}/core_id`, String(id)));
    processors.push({ id, socket, core, node: nodes.get(id) ?? 0 });
  }
  return { ...info, count: processors.length, ...arrangementOf(processors), processors };
}

/** Reads the processor time used so far; two readings give {@link busyPercent}. */
export async function readCpuTimes(): Promise<CpuTimes> {
  return parseCpuTimes(await readFile('/proc/stat', 'utf8'));
}
