// What a driver measures of its guests, in its words: counters that only grow, and what is so at a moment.
import { type DiskLatency } from '../api/vm-latency.ts';

/** Counters since the guest's process began; null: not known at this moment. */
export interface GuestCounters {
  cpuSeconds: number | null;
  /** Resident memory of the host, MiB. */
  memoryMib: number | null;
  networkReceivedBytes: number | null;
  networkSentBytes: number | null;
}

/** Exits of a guest to its hypervisor, summed over its vCPUs, since its process began. */
export interface ExitCounters {
  exits: number;
  /** Those that the hypervisor counts by kind, by its names; they are not all. */
  byKind: Readonly<Record<string, number>>;
  /** Polling for work when a vCPU halts, before it gives its processor away. */
  haltPolls: { attempts: number; successes: number; successSeconds: number; failSeconds: number };
}

/** What costs more to read than {@link GuestCounters}: the hypervisor is asked. Null: nobody counts it, or no answer came. */
export interface GuestDetail {
  disks: DiskCounters | null;
  exits: ExitCounters | null;
  /** How long its vCPUs could have run and waited for a processor of the host, seconds, summed. Falls when one is taken away. */
  stealSeconds: number | null;
  /** What the guest's own kernel tells of its memory, MiB, as far as it has told. */
  inside: { usedMib: number; cachedMib: number } | null;
  /** What the balloon has taken from the guest, MiB. */
  balloonMib: number | null;
}

/** How the memory that a guest has of the host is made up, MiB. */
export interface GuestMemoryShares {
  /** Proportional: what several processes have in common counts for each in part. */
  pssMib: number | null;
  /** In huge pages, of hugetlbfs and transparent ones. */
  hugeMib: number | null;
  /** Merged with equal pages by KSM. */
  ksmMib: number | null;
  swapMib: number | null;
}

/** What a guest's disks have done since its process began. */
export interface DiskCounters {
  readBytes: number;
  writtenBytes: number;
  /** Reads and writes. */
  operations: number;
  /** Time that these took, each from its begin to its end, seconds. */
  operationSeconds: number;
  latency: readonly DiskLatency[];
}

/** Use of resources since the guest's start. `null` where it can't be read. */
export interface GuestUsage {
  cpuSeconds: number | null;
  /** In memory at all, with what others have too. */
  memoryMib: number | null;
  /** Only here: what would be free again if it ended. */
  memoryPrivateMib: number | null;
  /** Here, and in other processes as well: programs, and what copies of a guest have in common. */
  memorySharedMib: number | null;
  diskReadBytes: number | null;
  diskWrittenBytes: number | null;
  networkReceivedBytes: number | null;
  networkSentBytes: number | null;
}
