// How short of memory this machine is.
import { readMemory, readMemoryPressure } from '../../host/memory.ts';

export interface MemoryLoad {
  totalBytes: number;
  /** What programs can get without swapping. */
  availableBytes: number;
  /** Share of the last 10 s in which something waited for memory; null where the kernel doesn't measure it. */
  pressurePercent: number | null;
}

export async function readMemoryLoad(): Promise<MemoryLoad> {
  const [{ totalBytes, availableBytes }, pressure] = await Promise.all([readMemory(), readMemoryPressure()]);
  return { totalBytes, availableBytes, pressurePercent: pressure?.somePercent ?? null };
}
