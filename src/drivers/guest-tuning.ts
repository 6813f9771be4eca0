// What a driver does about where a guest runs and what it may take of the node: part of driver.ts.
import { type VmLimitReport, type VmPlacement, type VmPressure, type VmThread } from '../api/vm-placement.ts';

export type OomPriority = 'low' | 'normal' | 'high';

/** What a guest may take of the node. Null takes a limit away; what is left out stays as it is. */
export interface GuestLimits {
  /** Share of the processors, 1–10,000. */
  cpuWeight?: number | null | undefined;
  /** Percent of one CPU. */
  cpuCapPercent?: number | null | undefined;
  /** Share of the disks, 1–10,000. */
  ioWeight?: number | null | undefined;
  swapMaxMib?: number | null | undefined;
  /** Null: normal. */
  oomPriority?: OomPriority | null | undefined;
}

/** A thread of the guest's process; `allowed`: CPUs that it may run on. */
export type GuestThread = Omit<VmThread, 'allowedCpus' | 'wantedCpus' | 'isAsWanted'> & { allowed: readonly number[] };

/** Where a guest runs, and how much it may take. Throws `host_failed` with the kernel's words where it refuses. */
export interface GuestTuning {
  /** Puts all threads that there are where they belong. Nothing happens where they are. */
  place(placement: VmPlacement): Promise<void>;
  /** Its threads as the kernel has them: vCPUs, I/O threads, the others. */
  threads(): Promise<GuestThread[]>;
  /** Sets limits, and reads them back. What a node can't limit is told with the reason. */
  limit(limits: GuestLimits): Promise<VmLimitReport[]>;
  /** How long it has waited for what it needs. */
  pressure(): Promise<VmPressure[]>;
  /** Reads limits back. */
  limits(limits: GuestLimits): Promise<VmLimitReport[]>;
}
