// What KVM counts of a guest, read by QEMU's query-stats. Names and meanings are the kernel's: Documentation/virt/kvm/api.rst
// (KVM_GET_STATS_FD) and kvm_vcpu_stats_desc of arch/x86/kvm/x86.c.
import { type ExitCounters } from '../measured.ts';
import { type QmpConnection } from './qmp/connection.ts';

/** Kinds of exits that KVM counts; not every kernel has all of them. */
export const exitKinds = [
  ...['io_exits', 'mmio_exits', 'halt_exits', 'irq_exits', 'request_irq_exits', 'irq_window_exits'],
  ...['nmi_window_exits', 'signal_exits', 'notify_window_exits'],
] as const;

const names = [
  ...['exits', ...exitKinds],
  ...['halt_attempted_poll', 'halt_successful_poll', 'halt_poll_success_ns', 'halt_poll_fail_ns'],
];

/** Counters of all vCPUs, summed; null where nobody counts them, as under emulation. */
export async function readKvmExits(qmp: QmpConnection, timeoutMs: number): Promise<ExitCounters | null> {
  const answer = await qmp.execute(
    'query-stats',
    { target: 'vcpu', providers: [{ provider: 'kvm', names }] },
    { timeoutMs },
  );
  if (answer.length === 0) return null;
  const sums = new Map<string, number>();
  for (const { stats } of answer)
    for (const { name, value } of stats) if (typeof value === 'number') sums.set(name, (sums.get(name) ?? 0) + value);
  const of = (name: string): number => sums.get(name) ?? 0;
  return {
    exits: of('exits'),
    byKind: Object.fromEntries(
      exitKinds.filter((name) => sums.has(name)).map((name) => [name.slice(0, -'_exits'.length), of(name)]),
    ),
    haltPolls: {
      attempts: of('halt_attempted_poll'),
      successes: of('halt_successful_poll'),
      successSeconds: of('halt_poll_success_ns') / 1e9,
      failSeconds: of('halt_poll_fail_ns') / 1e9,
    },
  };
}
