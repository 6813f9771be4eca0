// Reads what the measuring ROM reported, also when it stopped in the middle. Pure.
import { EXIT_BATCH, EXIT_OPERATIONS, EXIT_SAMPLES, EXIT_TAG, type ExitOperation } from './exit-format.ts';
import { PROBE_MAGIC, PROBE_TAG } from './rom-format.ts';
import { recordsOf } from './report.ts';

/** Durations of one operation, nanoseconds each, one for every batch. */
export type ExitSamples = Readonly<Partial<Record<ExitOperation, readonly number[]>>>;

export interface ExitReport {
  readonly samples: ExitSamples;
  /** The processor has no instruction for hypercalls here. */
  readonly isHypercallRefused: boolean;
  /** It ran to its end. */
  readonly isWhole: boolean;
  /** Where it stopped; null when it ran to its end, or never began. */
  readonly stoppedIn: ExitOperation | null;
}

export function parseExitReport(bytes: Uint8Array): ExitReport {
  const hasMagic = Buffer.from(bytes.subarray(0, PROBE_MAGIC.length)).toString('latin1') === PROBE_MAGIC;
  const records = hasMagic ? recordsOf(bytes) : [];
  const find = (tag: number): number => Number(records.find((record) => record.tag === tag)?.value ?? 0n);
  const nanoseconds = find(PROBE_TAG.calibrationApic);
  const ticksPerNanosecond = nanoseconds > 0 ? find(PROBE_TAG.calibrationTsc) / nanoseconds : 0;
  const end = records.findIndex(({ tag }) => tag === PROBE_TAG.end);
  const isWhole = end >= 0 && records[end]?.value === BigInt(end);
  const isHypercallRefused = find(EXIT_TAG.refused) > 0;
  const samples: Partial<Record<ExitOperation, number[]>> = {};
  EXIT_OPERATIONS.forEach((operation, number) => {
    const ticks = records.filter(({ tag }) => tag === EXIT_TAG.sample + number).map(({ value }) => Number(value));
    // A part of the samples would be those of the time in which something went wrong.
    if (ticks.length < EXIT_SAMPLES || ticksPerNanosecond <= 0) return;
    if (operation === 'hypercall' && isHypercallRefused) return;
    const counted = operation === 'firstTouch' ? ticks : ticks.slice(1);
    samples[operation] = counted.map((each) => each / ticksPerNanosecond / EXIT_BATCH[operation]);
  });
  const begun = records.findLast(({ tag }) => tag >= EXIT_TAG.begin && tag < EXIT_TAG.begin + EXIT_OPERATIONS.length);
  return {
    samples,
    isHypercallRefused,
    isWhole,
    stoppedIn: isWhole || !begun ? null : (EXIT_OPERATIONS[begun.tag - EXIT_TAG.begin] ?? null),
  };
}
