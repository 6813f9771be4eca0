// The measuring ROM as bytes, and the reading of its reports.
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { test } from 'node:test';
import { EXIT_BATCH, EXIT_OPERATIONS, EXIT_SAMPLES, EXIT_TAG, FRESH_MEMORY, EXIT_GUEST_MIB } from './exit-format.ts';
import { spreadOf } from './exit-measure.ts';
import { parseExitReport } from './exit-report.ts';
import { buildExitRom } from './exit-rom.ts';
import { PROBE_MAGIC, PROBE_RECORD_BYTES, PROBE_TAG } from './rom-format.ts';

test('the ROM is the same every time, and without an operation it does the others', () => {
  const { bytes, listing } = buildExitRom();
  assert.equal(bytes.length, 65_536);
  assert.deepEqual(buildExitRom().bytes, bytes);
  // A change of the code changes this; run test/qemu/measure.test.ts then, and put the new value here.
  assert.equal(
    createHash('sha256').update(bytes).digest('hex'),
    '314d82e105c8bd3561f312fc0e2cbdb3759f1a84aa8d87e1ee2ef9488f0bcfcc',
  );
  for (const operation of EXIT_OPERATIONS) assert.match(listing, new RegExp(`^sample_${operation}:$`, 'm'));
  const fewer = buildExitRom(new Set(['hypercall'])).listing;
  assert.doesNotMatch(fewer, /sample_hypercall:/);
  assert.match(fewer, /sample_firstTouch:/);
});

test('the memory that is touched first lies in the guest’s memory', () => {
  const needed = FRESH_MEMORY + EXIT_SAMPLES * EXIT_BATCH.firstTouch * 4096;
  assert.ok(needed <= EXIT_GUEST_MIB * 2 ** 20);
});

type Records = (readonly [tag: number, value: number])[];

function reportOf(records: Records): Uint8Array {
  const bytes = Buffer.alloc(PROBE_MAGIC.length + records.length * PROBE_RECORD_BYTES);
  bytes.write(PROBE_MAGIC);
  records.forEach(([tag, value], index) => {
    const at = PROBE_MAGIC.length + index * PROBE_RECORD_BYTES;
    bytes.writeUInt8(tag, at);
    bytes.writeBigUInt64LE(BigInt(value), at + 1);
  });
  return bytes;
}

/** Two ticks in a nanosecond. */
const head: Records = [
  [PROBE_TAG.longMode, 0x500],
  [PROBE_TAG.calibrationTsc, 2_000_000],
  [PROBE_TAG.calibrationApic, 1_000_000],
];
/** The first sample is a hundred times as long as the others. */
function samplesOf(number: number, ticks: number): Records {
  return [
    [EXIT_TAG.begin + number, number],
    ...Array.from(
      { length: EXIT_SAMPLES },
      (_, index) => [EXIT_TAG.sample + number, index === 0 ? ticks * 100 : ticks] as const,
    ),
  ];
}
const whole = (records: Records): Records => [...records, [PROBE_TAG.end, records.length]];
const [cpuid, firstTouch, hypercall] = (['cpuid', 'firstTouch', 'hypercall'] as const).map((name) =>
  EXIT_OPERATIONS.indexOf(name),
) as [number, number, number];

test('samples become nanoseconds for one, and the first of them warms up only', () => {
  const report = parseExitReport(reportOf(whole([...head, ...samplesOf(cpuid, 16 * 2 * 50), [EXIT_TAG.refused, 0]])));
  assert.deepEqual(
    report.samples.cpuid,
    Array.from({ length: EXIT_SAMPLES - 1 }, () => 50),
  );
  assert.deepEqual([report.isWhole, report.stoppedIn, report.isHypercallRefused], [true, null, false]);
});

test('of the first touch each sample counts, since nothing warms up', () => {
  const report = parseExitReport(reportOf(whole([...head, ...samplesOf(firstTouch, 128)])));
  assert.equal(report.samples.firstTouch?.length, EXIT_SAMPLES);
  assert.equal(report.samples.firstTouch?.[0], 100);
});

test('hypercalls that were refused are no measurement', () => {
  const report = parseExitReport(reportOf(whole([...head, ...samplesOf(hypercall, 100), [EXIT_TAG.refused, 528]])));
  assert.equal(report.isHypercallRefused, true);
  assert.equal(report.samples.hypercall, undefined);
});

test('where a guest stops is told, and what it had begun is not counted', () => {
  const cut = [...head, ...samplesOf(cpuid, 3200), ...samplesOf(firstTouch, 128).slice(0, 5)];
  const report = parseExitReport(reportOf(cut));
  assert.deepEqual([report.isWhole, report.stoppedIn], [false, 'firstTouch']);
  assert.deepEqual(Object.keys(report.samples), ['cpuid']);
});

test('what is no report holds nothing', () => {
  for (const bytes of [new Uint8Array(), Buffer.from('Segmentation fault'), reportOf(whole(samplesOf(cpuid, 100)))])
    assert.deepEqual(parseExitReport(bytes).samples, {});
});

test('median and quartiles are of all samples, and one that is far off moves neither', () => {
  const samples = [10, 11, 12, 13, 14, 15, 16, 17, 1e6];
  assert.deepEqual(spreadOf('cpuid', samples), {
    operation: 'cpuid',
    medianNs: 14,
    lowNs: 12,
    highNs: 16,
    leastNs: 10,
    samples: 9,
  });
});
