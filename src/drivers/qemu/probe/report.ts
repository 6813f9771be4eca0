// Reads what the probe ROM reported, also when it stopped in the middle, and puts into words how far it got. Pure.
import {
  PROBE_CHECKS,
  PROBE_KERNEL_CHECKS,
  PROBE_MAGIC,
  PROBE_MEASUREMENTS,
  PROBE_RECORD_BYTES,
  PROBE_TAG,
  type ProbeMeasurement,
} from './rom-format.ts';

/** What the probe guest found. */
export interface ProbeReport {
  /** It reached long mode. */
  readonly isInLongMode: boolean;
  /** All checks that every guest needs passed, and the measurements that belong to them were made. */
  readonly isRomFit: boolean;
  /** What an operating system's kernel needs works too, and the guest ran to its end. */
  readonly isKernelFit: boolean;
  /** What stopped it, as the rest of a sentence about the guest; null when it ran to its end. */
  readonly problem: string | null;
  /** CPUID's vendor: `GenuineIntel`. */
  readonly cpuVendor: string;
  /** CPUID's signature of the hypervisor: `KVMKVMKVM`, `TCGTCGTCGTCG`; empty when there is none. */
  readonly hypervisor: string;
  /** Ticks of the guest's time stamp counter in a millisecond; null when it was not measured. */
  readonly tscKhz: number | null;
  /** The least that one of each took in three rounds, in nanoseconds. */
  readonly costs: Partial<Record<ProbeMeasurement, number>>;
}

interface ProbeRecord {
  readonly tag: number;
  readonly value: bigint;
}

/** The records behind the magic, as far as they are whole. */
export function recordsOf(bytes: Uint8Array): ProbeRecord[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const records: ProbeRecord[] = [];
  for (let at = PROBE_MAGIC.length; at + PROBE_RECORD_BYTES <= bytes.length; at += PROBE_RECORD_BYTES) {
    records.push({ tag: view.getUint8(at), value: view.getBigUint64(at + 1, true) });
  }
  return records;
}

function signature(...values: readonly [bigint | undefined, number][]): string {
  const bytes = values.flatMap(([value = 0n, length]) =>
    Array.from({ length }, (_, index) => Number((value >> BigInt(8 * index)) & 0xffn)),
  );
  return bytes.every((byte) => byte === 0 || (byte >= 0x20 && byte < 0x7f))
    ? String.fromCharCode(...bytes.filter((byte) => byte !== 0))
    : '';
}

/** The costs in nanoseconds: of each measurement the best round, since others were disturbed by the machine's other work. */
function costsOf(records: readonly ProbeRecord[], ticksPerNanosecond: number): ProbeReport['costs'] {
  const costs: ProbeReport['costs'] = {};
  PROBE_MEASUREMENTS.forEach((name, number) => {
    const counts = records.filter(({ tag }) => tag === PROBE_TAG.count + number);
    const ticks = records.filter(({ tag }) => tag === PROBE_TAG.ticks + number);
    ticks.forEach(({ value }, round) => {
      const count = Number(counts[round]?.value ?? 0n);
      if (count === 0) return;
      const nanoseconds = Number(value) / ticksPerNanosecond / count;
      costs[name] = Math.min(costs[name] ?? Number.POSITIVE_INFINITY, Math.round(nanoseconds * 100) / 100);
    });
  });
  return costs;
}

function problemOf(records: readonly ProbeRecord[], isEndReached: boolean): string | null {
  if (isEndReached) return null;
  const kernelCheck = records.findLast(({ tag }) => tag === PROBE_TAG.kernelCheck);
  const tried = kernelCheck ? PROBE_KERNEL_CHECKS[Number(kernelCheck.value)] : undefined;
  const failed = records.find(({ tag }) => tag === PROBE_TAG.failedCheck);
  if (failed) return `found that ${PROBE_CHECKS[Number(failed.value)] ?? `its check ${failed.value} failed`}`;
  const frame = records.filter(({ tag }) => tag === PROBE_TAG.unexpected);
  if (frame.length > 0) {
    const words = frame.map(({ value }) => `0x${value.toString(16)}`).join(' ');
    return `got an exception it did not expect${tried ? ` when it tried ${tried}` : ''} (${words})`;
  }
  if (tried) return `stopped when it tried ${tried}`;
  const last = records.at(-1);
  if (kernelCheck) return 'stopped while it measured user mode';
  if (last && last.tag >= PROBE_TAG.count) {
    const number = (last.tag - PROBE_TAG.count) % (PROBE_TAG.ticks - PROBE_TAG.count);
    return `stopped in its measurements, after ${PROBE_MEASUREMENTS[number] ?? 'an unknown one'}`;
  }
  return 'stopped in its first checks';
}

/** Reads a report, whole or cut off anywhere. Bytes that are no report give one in which nothing was reached. */
export function parseProbeReport(bytes: Uint8Array): ProbeReport {
  const hasMagic = Buffer.from(bytes.subarray(0, PROBE_MAGIC.length)).toString('latin1') === PROBE_MAGIC;
  const records = hasMagic ? recordsOf(bytes) : [];
  const find = (tag: number): bigint | undefined => records.find((record) => record.tag === tag)?.value;
  const end = records.findIndex(({ tag }) => tag === PROBE_TAG.end);
  // A record that was lost or invented on the way would show here.
  const isEndReached = end >= 0 && records[end]?.value === BigInt(end);
  const efer = find(PROBE_TAG.longMode);
  const isInLongMode = efer !== undefined && (efer & 0x400n) !== 0n;
  const kernelChecks = records.filter(({ tag }) => tag === PROBE_TAG.kernelCheck);
  const tsc = Number(find(PROBE_TAG.calibrationTsc) ?? 0n);
  const apic = Number(find(PROBE_TAG.calibrationApic) ?? 0n);
  const ticksPerNanosecond = apic > 0 ? tsc / apic : 0;
  return {
    isInLongMode,
    isRomFit: isInLongMode && kernelChecks.length > 0,
    isKernelFit: isEndReached && Number(kernelChecks.at(-1)?.value) === PROBE_KERNEL_CHECKS.length,
    problem: isInLongMode ? problemOf(records, isEndReached) : 'never reached long mode',
    cpuVendor: signature([find(PROBE_TAG.vendorFirst), 8], [find(PROBE_TAG.vendorLast), 4]),
    hypervisor: signature([find(PROBE_TAG.hypervisorFirst), 8], [find(PROBE_TAG.hypervisorLast), 4]),
    tscKhz: ticksPerNanosecond > 0 ? Math.round(ticksPerNanosecond * 1e6) : null,
    costs: ticksPerNanosecond > 0 ? costsOf(records, ticksPerNanosecond) : {},
  };
}
