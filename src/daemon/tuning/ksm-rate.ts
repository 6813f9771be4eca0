// How many pages KSM looks at in one round, by how short of memory the machine is. Pure: what was read goes in, the next
// number comes out. It rises fast and falls slowly, like ksmtuned of qemu-kvm, from which the numbers are.
//
//   tight: little is available, or work waits for memory  ──▶ + 300
//   ample: well above the threshold, and nothing waits     ──▶ - 50
//   between the two                                        ──▶ as it is, so that it doesn't swing
import { type MemoryLoad } from './memory-load.ts';

const mib = 2 ** 20;

/** Bounds of the pages of one round: some always, so that new guests are found; never so many that it fills a core. */
export const ksmPages = { least: 64, most: 1250 } as const;
const rise = 300;
const fall = 50;
/** Available memory under this share of all is little; on small machines under `leastThresholdMib`, at most the half. */
const thresholdPercent = 20;
const leastThresholdMib = 2048;
/** There is enough only this far above the threshold. */
const amplePercentOfThreshold = 125;
const tightPressurePercent = 5;
const calmPressurePercent = 1;

/** Under so much available memory, KSM works harder; bytes. */
export function ksmThresholdBytes(totalBytes: number): number {
  return Math.min(Math.max((totalBytes * thresholdPercent) / 100, leastThresholdMib * mib), totalBytes / 2);
}

/** The next number of pages of a round. `current` may be anything, as others write it too. */
export function nextKsmPages(current: number, { totalBytes, availableBytes, pressurePercent }: MemoryLoad): number {
  const bounded = (pages: number): number => Math.min(Math.max(Math.trunc(pages), ksmPages.least), ksmPages.most);
  const from = Number.isFinite(current) ? bounded(current) : ksmPages.least;
  const threshold = ksmThresholdBytes(totalBytes);
  const pressure = pressurePercent ?? 0;
  if (availableBytes < threshold || pressure >= tightPressurePercent) return bounded(from + rise);
  const isAmple = availableBytes >= (threshold * amplePercentOfThreshold) / 100 && pressure < calmPressurePercent;
  return isAmple ? bounded(from - fall) : from;
}
