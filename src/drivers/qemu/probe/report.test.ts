// Reading the guest's report: whole, cut off, and nonsense.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parseProbeReport } from './report.ts';
import { PROBE_MAGIC, PROBE_MEASUREMENTS, PROBE_TAG } from './rom-format.ts';

type Records = readonly (readonly [tag: number, value: bigint])[];

function reportOf(records: Records): Uint8Array {
  const bytes = Buffer.alloc(PROBE_MAGIC.length + records.length * 9);
  bytes.write(PROBE_MAGIC, 'latin1');
  records.forEach(([tag, value], index) => {
    bytes.writeUInt8(tag, PROBE_MAGIC.length + index * 9);
    bytes.writeBigUInt64LE(value, PROBE_MAGIC.length + index * 9 + 1);
  });
  return bytes;
}

const text = (value: string): bigint => Buffer.from(value.padEnd(8, '\0')).readBigUInt64LE();

const CHECKS: Records = [
  [PROBE_TAG.longMode, 0xd01n],
  [PROBE_TAG.vendorFirst, text('Authenti')],
  [PROBE_TAG.vendorLast, text('cAMD')],
  [PROBE_TAG.features, 0n],
  [PROBE_TAG.hypervisorFirst, text('KVMKVMKV')],
  [PROBE_TAG.hypervisorLast, text('M')],
  [PROBE_TAG.paging, 1n],
  [PROBE_TAG.efer, 0n],
  [PROBE_TAG.calibrationTsc, 2_600_000n],
  [PROBE_TAG.calibrationApic, 1_000_000n],
  [PROBE_TAG.interrupts, 1n],
];

/** Two rounds: 26 ticks (10 ns) and 52 ticks (20 ns) for one of each. */
const measured = (from: number, to: number): Records =>
  [26n, 52n].flatMap((ticks) =>
    PROBE_MEASUREMENTS.slice(from, to).flatMap((_, index) => [
      [PROBE_TAG.count + from + index, 100n] as const,
      [PROBE_TAG.ticks + from + index, ticks * 100n] as const,
    ]),
  );

const BASE = [...CHECKS, ...measured(0, 9)];
const KERNEL = [0n, 1n, 2n, 3n, 4n].map((number) => [PROBE_TAG.kernelCheck, number] as const);
const ALL = [...BASE, ...KERNEL, ...measured(9, 11)];
const WHOLE: Records = [...ALL, [PROBE_TAG.end, BigInt(ALL.length)]];

test('a whole report tells processor, hypervisor, clock and the best cost of each measurement', () => {
  const report = parseProbeReport(reportOf(WHOLE));
  assert.deepEqual(
    [report.isInLongMode, report.isRomFit, report.isKernelFit, report.problem],
    [true, true, true, null],
  );
  assert.equal(report.cpuVendor, 'AuthenticAMD');
  assert.equal(report.hypervisor, 'KVMKVMKVM');
  assert.equal(report.tscKhz, 2_600_000);
  assert.deepEqual(report.costs, Object.fromEntries(PROBE_MEASUREMENTS.map((name) => [name, 10])));
});

test('a report cut off anywhere is never fit for a kernel and says where it stopped', () => {
  const whole = reportOf(WHOLE);
  for (let length = 0; length < whole.length; length += 1) {
    const report = parseProbeReport(whole.subarray(0, length));
    assert.equal(report.isKernelFit, false, String(length));
    assert.notEqual(report.problem, null, String(length));
  }
  const problem = (records: Records): string | null => parseProbeReport(reportOf(records)).problem;
  assert.equal(problem([]), 'never reached long mode');
  assert.equal(problem(CHECKS), 'stopped in its first checks');
  assert.equal(problem([...CHECKS, ...measured(0, 2)]), 'stopped in its measurements, after kernelWorkHigh');
  assert.equal(problem([...BASE, ...KERNEL.slice(0, 4)]), 'stopped when it tried a breakpoint in kernel mode (INT3)');
  assert.equal(problem([...BASE, ...KERNEL]), 'stopped while it measured user mode');
});

test('a guest that stops at a kernel check is fit for ROM guests only', () => {
  const stopped = parseProbeReport(reportOf([...BASE, ...KERNEL.slice(0, 1)]));
  assert.deepEqual([stopped.isRomFit, stopped.isKernelFit], [true, false]);
  assert.equal(stopped.costs.kernelWorkHigh, 10);
  assert.equal(stopped.costs.userWork, undefined);
});

test('failed checks and unexpected exceptions are put into words', () => {
  const failed = parseProbeReport(reportOf([...CHECKS.slice(0, 6), [PROBE_TAG.failedCheck, 3n]]));
  assert.equal(failed.problem, 'found that a page moved under a virtual address still showed its old content');
  const unknown = parseProbeReport(reportOf([...CHECKS, [PROBE_TAG.failedCheck, 99n]]));
  assert.equal(unknown.problem, 'found that its check 99 failed');
  const frame = [0x15n, 0x10634n, 0x3bn, 0x10634n].map((value) => [PROBE_TAG.unexpected, value] as const);
  const trapped = parseProbeReport(reportOf([...BASE, ...KERNEL.slice(0, 1), ...frame]));
  assert.equal(
    trapped.problem,
    'got an exception it did not expect when it tried user mode, entered with IRETQ and left with SYSCALL (0x15 0x10634 0x3b 0x10634)',
  );
});

test('a lost record, a missing magic and noise make no good report', () => {
  const lost = [
    ...ALL.slice(1),
    [PROBE_TAG.longMode, 0xd01n] as const,
    [PROBE_TAG.end, BigInt(ALL.length + 1)] as const,
  ];
  assert.equal(parseProbeReport(reportOf(lost)).isKernelFit, false);
  const noise = Buffer.from('SeaBIOS (version 1.16.3)\nnot a report at all');
  assert.deepEqual(parseProbeReport(noise), {
    isInLongMode: false,
    isRomFit: false,
    isKernelFit: false,
    problem: 'never reached long mode',
    cpuVendor: '',
    hypervisor: '',
    tscKhz: null,
    costs: {},
  });
  // Long mode was asked for but is not active.
  assert.equal(parseProbeReport(reportOf([[PROBE_TAG.longMode, 0x901n]])).isInLongMode, false);
});
