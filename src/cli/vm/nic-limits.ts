// Rates of NICs: what lodge vm nic limit makes of its options, and how they are shown.
import type { NicLimits, NicRate, NicLimitStatus } from '../../api/nic-limits.ts';
import type { VmSpec } from '../../api/vm-spec.ts';
import { formatBytes, formatRate } from '../../lib/quantity.ts';
import { usageError } from '../usage-error.ts';

/** Bytes a second, bytes, packets a second. */
export interface LimitOptions {
  inbound?: number;
  outbound?: number;
  burst?: number;
  peak?: number;
  packets?: number;
  guaranteed?: number;
  priority?: string;
  none?: boolean;
}

/** The rates of a NIC, changed by what was said: burst and the rest are for the directions that are named, else for both. */
export function limitsFrom(before: NicLimits | undefined, options: LimitOptions): NicLimits | undefined {
  const { inbound, outbound, burst, peak, packets, guaranteed, priority, none } = options;
  const given = Object.entries(options).filter(([name, value]) => value !== undefined && name !== 'wait');
  if (none) {
    if (given.length > 1) throw usageError('--none takes all rates away, and goes alone');
    return undefined;
  }
  if (given.length === 0)
    throw usageError('no rate is given', {
      hint: 'Give --inbound or --outbound, such as --inbound 100mbit, or --none.',
    });
  const isBoth = inbound === undefined && outbound === undefined;
  const rateOf = (now: NicRate | undefined, rate: number | undefined): NicRate | undefined => {
    const isNamed = isBoth || rate !== undefined;
    const next = {
      ...now,
      ...(rate === undefined ? {} : { bytesPerSecond: rate }),
      ...(isNamed && burst !== undefined ? { burstBytes: burst } : {}),
      ...(isNamed && peak !== undefined ? { peakBytesPerSecond: peak } : {}),
      ...(isNamed && packets !== undefined ? { packetsPerSecond: packets } : {}),
      ...(isNamed && guaranteed !== undefined ? { guaranteedBytesPerSecond: guaranteed } : {}),
    };
    return Object.keys(next).length === 0 ? undefined : next;
  };
  const [to, from] = [rateOf(before?.inbound, inbound), rateOf(before?.outbound, outbound)];
  return {
    ...(to ? { inbound: to } : {}),
    ...(from ? { outbound: from } : {}),
    ...(priority === undefined
      ? before?.priority === undefined
        ? {}
        : { priority: before.priority }
      : { priority: priority as NonNullable<NicLimits['priority']> }),
  };
}

/** The NICs with the rates of one of them changed. */
export function withLimits(nics: VmSpec['nics'], index: number, options: LimitOptions): VmSpec['nics'] {
  return nics.map((nic, at) => {
    if (at !== index) return nic;
    const { limits: before, ...rest } = nic;
    const limits = limitsFrom(before, options);
    return limits === undefined ? rest : { ...rest, limits };
  });
}

/** "in 11.9 MiB/s (burst 1 MiB), out 1000 packets/s; high priority", with what is wrong of it. */
export function limitsText(limits: NicLimits, status: NicLimitStatus | undefined): string {
  const rateText = (name: string, rate: NicRate | undefined): string[] => {
    if (!rate) return [];
    const parts = [
      rate.bytesPerSecond === undefined ? null : formatRate(rate.bytesPerSecond),
      rate.burstBytes === undefined ? null : `burst ${formatBytes(rate.burstBytes)}`,
      rate.peakBytesPerSecond === undefined ? null : `peak ${formatRate(rate.peakBytesPerSecond)}`,
      rate.packetsPerSecond === undefined ? null : `${rate.packetsPerSecond} packets/s`,
      rate.guaranteedBytesPerSecond === undefined ? null : `at least ${formatRate(rate.guaranteedBytesPerSecond)}`,
    ].filter((part) => part !== null);
    return parts.length === 0 ? [] : [`${name} ${parts.join(', ')}`];
  };
  const all = [...rateText('in', limits.inbound), ...rateText('out', limits.outbound)];
  if (limits.priority !== undefined) all.push(`${limits.priority} priority`);
  const problems =
    status === undefined || status.state === 'active' ? '' : ` (${status.state}: ${status.problems.join(' ')})`;
  return `${all.join('; ')}${problems}`;
}
