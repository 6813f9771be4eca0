// What this machine as a whole has used so far, read from the kernel in a few short reads. Sources: proc(5) (/proc/stat,
// /proc/meminfo, /proc/diskstats, /proc/net/dev), the kernel's Documentation/accounting/psi.rst.
import { readFileSync, readdirSync, statSync } from 'node:fs';
import { parseCpuTimes, type CpuTimes } from './cpu.ts';
import { memoryOf } from './memory.ts';
import { readAllLinkCounters } from './network/tap-usage.ts';

/** Counters of a machine since it started, and what it uses at this moment. */
export interface MachineCounters {
  cpu: CpuTimes;
  memoryUsedMib: number;
  /** Microseconds in which something waited, since the machine started; null where the kernel doesn't count them. */
  pressure: { cpu: number | null; memory: number | null; io: number | null };
  disks: { readBytes: number; writtenBytes: number };
  network: { receivedBytes: number; sentBytes: number };
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
    const memory = memoryOf(readFileSync('/proc/meminfo', 'utf8'));
    const links = readAllLinkCounters(200);
    const network = { receivedBytes: 0, sentBytes: 0 };
    for (const name of this.#links) {
      network.receivedBytes += links.get(name)?.receivedBytes ?? 0;
      network.sentBytes += links.get(name)?.sentBytes ?? 0;
    }
    const pressure = (kind: string): number | null => parsePressureTotal(readOr(`/proc/pressure/${kind}`, ''));
    return {
      cpu: parseCpuTimes(readFileSync('/proc/stat', 'utf8')),
      memoryUsedMib: (memory.totalBytes - memory.availableBytes) / 2 ** 20,
      pressure: { cpu: pressure('cpu'), memory: pressure('memory'), io: pressure('io') },
      disks: parseDiskStats(readOr('/proc/diskstats', ''), (name) => this.#disks.has(name)),
      network,
    };
  }
}
