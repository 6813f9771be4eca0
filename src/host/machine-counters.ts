// What this machine as a whole has used so far, read from the kernel in a few short reads. Sources: proc(5) (/proc/stat,
// /proc/meminfo, /proc/diskstats, /proc/net/dev), the kernel's Documentation/accounting/psi.rst.
import { readFileSync, readdirSync, statSync } from 'node:fs';
import { parseCpuTimes, type CpuTimes } from './cpu.ts';
import { memoryOf, parseMeminfo } from './memory.ts';
import { readAllLinkCounters } from './network/tap-usage.ts';

/** Counters of a machine since it started, and what it uses at this moment. */
export interface MachineCounters {
  cpu: CpuTimes;
  memory: MachineMemory;
  /** Microseconds in which something waited, since the machine started; null where the kernel doesn't count them. */
  pressure: { cpu: number | null; memory: number | null; io: number | null };
  disks: { readBytes: number; writtenBytes: number };
  network: { receivedBytes: number; sentBytes: number };
}

/** What a machine's memory is used for at this moment, MiB. */
export interface MachineMemory {
  totalMib: number;
  /** Not available to new programs. */
  usedMib: number;
  /** Files kept in memory, which give way to programs. */
  cachedMib: number;
  /** In huge pages: the pools of hugetlbfs, in use or not, and transparent ones. */
  hugeMib: number;
  swapUsedMib: number;
  /** What KSM has saved by merging equal pages; null where the kernel has no KSM. */
  ksmSavedMib: number | null;
}

/** /proc/diskstats counts in these, whatever the disk's own sectors are. */
const sectorBytes = 512;

/** Sums whole disks of /proc/diskstats: fields 6 and 10, sectors read and written; partitions and mapped devices are in them. */
export function parseDiskStats(
  text: string,
  isWholeDisk: (name: string) => boolean,
): { readBytes: number; writtenBytes: number } {
  const sum = { readBytes: 0, writtenBytes: 0 };
  for (const line of text.split('\n')) {
    const fields = line.trim().split(/\s+/);
    if (fields.length < 10 || !isWholeDisk(fields[2]!)) continue;
    sum.readBytes += Number(fields[5]) * sectorBytes;
    sum.writtenBytes += Number(fields[9]) * sectorBytes;
  }
  return sum;
}

/** From the text of /proc/meminfo, and what KSM tells of itself. */
export function parseMachineMemory(meminfo: string, ksmSharing: string | null): MachineMemory {
  const values = parseMeminfo(meminfo);
  const mib = (...names: string[]): number => names.reduce((sum, name) => sum + (values.get(name) ?? 0), 0) / 2 ** 20;
  const memory = memoryOf(meminfo);
  return {
    totalMib: memory.totalBytes / 2 ** 20,
    usedMib: (memory.totalBytes - memory.availableBytes) / 2 ** 20,
    // Shared memory counts as cached there, and is no file that could be dropped.
    cachedMib: Math.max(0, mib('Cached', 'Buffers', 'SReclaimable') - mib('Shmem')),
    hugeMib: mib('Hugetlb', 'AnonHugePages', 'ShmemHugePages'),
    swapUsedMib: (memory.swapTotalBytes - memory.swapFreeBytes) / 2 ** 20,
    // Places that share a page with another: each would be a page of its own (Documentation/admin-guide/mm/ksm.rst).
    ksmSavedMib: ksmSharing === null ? null : (Number(ksmSharing) * 4096) / 2 ** 20,
  };
}

/** The total of the line "some" of a file of /proc/pressure, microseconds. */
export function parsePressureTotal(text: string): number | null {
  const total = /^some .*total=(\d+)/m.exec(text)?.[1];
  return total === undefined ? null : Number(total);
}

function readOr(path: string, fallback: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return fallback;
  }
}

function isThere(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false }) !== undefined;
}

/** Reads the counters of this machine. What hardware there is was looked at once. */
export class MachineMeter {
  /** NICs and disks that are hardware (or look so to this machine): those with a device behind them. */
  readonly #links: ReadonlySet<string>;
  readonly #disks: ReadonlySet<string>;

  constructor() {
    const withDevice = (root: string): Set<string> => {
      try {
        return new Set(readdirSync(root).filter((name) => isThere(`${root}/${name}/device`)));
      } catch {
        return new Set();
      }
    };
    this.#links = withDevice('/sys/class/net');
    this.#disks = withDevice('/sys/block');
  }

  read(): MachineCounters {
    const links = readAllLinkCounters(200);
    const network = { receivedBytes: 0, sentBytes: 0 };
    for (const name of this.#links) {
      network.receivedBytes += links.get(name)?.receivedBytes ?? 0;
      network.sentBytes += links.get(name)?.sentBytes ?? 0;
    }
    const pressure = (kind: string): number | null => parsePressureTotal(readOr(`/proc/pressure/${kind}`, ''));
    return {
      cpu: parseCpuTimes(readFileSync('/proc/stat', 'utf8')),
      memory: parseMachineMemory(
        readFileSync('/proc/meminfo', 'utf8'),
        readOr('/sys/kernel/mm/ksm/pages_sharing', '') || null,
      ),
      pressure: { cpu: pressure('cpu'), memory: pressure('memory'), io: pressure('io') },
      disks: parseDiskStats(readOr('/proc/diskstats', ''), (name) => this.#disks.has(name)),
      network,
    };
  }
}
