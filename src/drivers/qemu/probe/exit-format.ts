// What the measuring ROM reports: samples of what leaves the guest, each the ticks of a batch. The ROM is written from this,
// and its report is read by it. Magic, records and ports are those of the probe ROM (rom-format.ts).

/** What is timed, in this order; the index is the number in the tags. */
export const EXIT_OPERATIONS = [
  'none',
  'cpuid',
  'portKernel',
  'portQemu',
  'mmioKernel',
  'mmioQemu',
  'msrRead',
  'msrWrite',
  'ipi',
  'halt',
  'firstTouch',
  'hypercall',
] as const;
export type ExitOperation = (typeof EXIT_OPERATIONS)[number];

/** How many of each make one sample. */
export const EXIT_BATCH: Readonly<Record<ExitOperation, number>> = {
  none: 16,
  cpuid: 16,
  portKernel: 16,
  portQemu: 16,
  mmioKernel: 16,
  mmioQemu: 16,
  msrRead: 16,
  msrWrite: 16,
  ipi: 4,
  halt: 4,
  firstTouch: 64,
  hypercall: 16,
};

/** Samples of each. Of all but the first touch, the first one is no sample: it warms up. */
export const EXIT_SAMPLES = 33;

/** Memory that nothing has touched before, in which each page is touched once. */
export const FRESH_MEMORY = 0x100_0000;
/** What the guest needs to have, MiB. */
export const EXIT_GUEST_MIB = 32;

export const EXIT_TAG = {
  /** Plus the number of the operation: the ticks of a batch. */
  sample: 0x80,
  /** Plus the number of the operation: it is begun. */
  begin: 0xa0,
  /** How often the instruction for hypercalls was refused as invalid. */
  refused: 0xc0,
} as const;
