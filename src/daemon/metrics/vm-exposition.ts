// Metrics of VMs for Prometheus, as the sampler has seen them last: scraping asks no guest. Names follow
// https://prometheus.io/docs/practices/naming/.
import { type Registry } from 'prom-client';
import { latencyEdgesUs, type LatencyCounts } from '../../api/vm-latency.ts';
import { type Vm } from '../../api/vm.ts';
import { type GuestCounters, type GuestDetail, type GuestMemoryShares } from '../../drivers/measured.ts';
import { expose, exposeHistogram, type Labels, type Sample } from './instrument.ts';

/** What was last seen of a guest. */
export interface SeenCounters {
  id: string;
  counters: GuestCounters;
  detail: GuestDetail | null;
  shares: GuestMemoryShares | null;
}

/** A guest with what is known of its VM. */
interface Seen extends SeenCounters {
  vm: Pick<Vm, 'name' | 'project' | 'spec' | 'status'>;
}

type Read = (seen: Seen) => number | null | undefined;

const labelNames = ['vm', 'project', 'id'] as const;
const bytes = (mib: number | null | undefined): number | null =>
  mib === null || mib === undefined ? null : mib * 2 ** 20;
const specOf = ({ vm }: Seen): Vm['spec'] => vm.status.startedSpec ?? vm.spec;

const counters: readonly [name: string, help: string, read: Read][] = [
  ['lodge_vm_cpu_seconds_total', 'Processor time of a VM', (seen) => seen.counters.cpuSeconds],
  [
    'lodge_vm_cpu_steal_seconds_total',
    'Time in which vCPUs could have run and waited for a processor of the host, summed',
    ({ detail }) => detail?.stealSeconds,
  ],
  ['lodge_vm_network_receive_bytes_total', 'Received by a guest', (seen) => seen.counters.networkReceivedBytes],
  ['lodge_vm_network_transmit_bytes_total', 'Sent by a guest', (seen) => seen.counters.networkSentBytes],
  ['lodge_vm_disk_read_bytes_total', 'Read by a guest from its disks', ({ detail }) => detail?.disks?.readBytes],
  ['lodge_vm_disk_written_bytes_total', 'Written by a guest to its disks', ({ detail }) => detail?.disks?.writtenBytes],
  ['lodge_vm_disk_operations_total', 'Reads and writes of a guest', ({ detail }) => detail?.disks?.operations],
  [
    'lodge_vm_disk_operation_seconds_total',
    'Time that reads and writes of a guest took, summed',
    ({ detail }) => detail?.disks?.operationSeconds,
  ],
  ['lodge_vm_exits_total', 'Exits of a guest to KVM', ({ detail }) => detail?.exits?.exits],
];

const gauges: readonly [name: string, help: string, read: Read][] = [
  ['lodge_vm_vcpus', 'vCPUs that a running VM was started with', (seen) => specOf(seen).cpu.count],
  [
    'lodge_vm_memory_configured_bytes',
    'Memory that a running VM was started with',
    (seen) => bytes(specOf(seen).memoryMib),
  ],
  ['lodge_vm_memory_resident_bytes', 'Memory of the host that a VM has', (seen) => bytes(seen.counters.memoryMib)],
  [
    'lodge_vm_memory_proportional_bytes',
    'Memory of the host that a VM has, with its part of what is shared (PSS)',
    ({ shares }) => bytes(shares?.pssMib),
  ],
  ['lodge_vm_memory_huge_bytes', 'Memory of a VM in huge pages', ({ shares }) => bytes(shares?.hugeMib)],
  [
    'lodge_vm_memory_merged_bytes',
    'Memory of a VM merged with equal pages (KSM)',
    ({ shares }) => bytes(shares?.ksmMib),
  ],
  ['lodge_vm_memory_swapped_bytes', 'Memory of a VM that is swapped out', ({ shares }) => bytes(shares?.swapMib)],
  [
    'lodge_vm_memory_balloon_bytes',
    'Memory that the balloon has taken from a guest',
    ({ detail }) => bytes(detail?.balloonMib),
  ],
  [
    'lodge_vm_guest_memory_used_bytes',
    'Memory that the guest’s own system uses',
    ({ detail }) => bytes(detail?.inside?.usedMib),
  ],
  [
    'lodge_vm_guest_memory_cached_bytes',
    'Memory in which the guest’s own system keeps files',
    ({ detail }) => bytes(detail?.inside?.cachedMib),
  ],
];

/** Adds the metrics of VMs to a registry. */
export function exposeVms(
  registry: Registry,
  read: () => readonly SeenCounters[],
  vm: (id: string) => Seen['vm'] | null,
): void {
  const samples = (of: (seen: Seen) => readonly Sample[]): Sample[] =>
    read().flatMap((counted) => {
      const found = vm(counted.id);
      if (!found) return [];
      const own: Labels = { vm: found.name, project: found.project, id: counted.id };
      return of({ ...counted, vm: found }).map(({ labels, value }) => ({ labels: { ...own, ...labels }, value }));
    });
  const one =
    (value: Read): (() => Sample[]) =>
    () =>
      samples((seen) => {
        const now = value(seen);
        return now === null || now === undefined ? [] : [{ labels: {}, value: now }];
      });
  for (const [name, help, value] of counters)
    expose(registry, { type: 'counter', name, help, labelNames, read: one(value) });
  for (const [name, help, value] of gauges)
    expose(registry, { type: 'gauge', name, help, labelNames, read: one(value) });
  expose(registry, {
    type: 'counter',
    name: 'lodge_vm_exits_by_kind_total',
    help: 'Exits of a guest to KVM that it counts by kind; they are not all',
    labelNames: [...labelNames, 'kind'],
    read: () =>
      samples(({ detail }) =>
        Object.entries(detail?.exits?.byKind ?? {}).map(([kind, value]) => ({ labels: { kind }, value })),
      ),
  });
  expose(registry, {
    type: 'counter',
    name: 'lodge_vm_halt_polls_total',
    help: 'Halts of a vCPU that began with polling for work, by whether work came',
    labelNames: [...labelNames, 'result'],
    read: () =>
      samples(({ detail }) => {
        const polls = detail?.exits?.haltPolls;
        if (!polls) return [];
        return [
          { labels: { result: 'success' }, value: polls.successes },
          { labels: { result: 'fail' }, value: Math.max(0, polls.attempts - polls.successes) },
        ];
      }),
  });
  expose(registry, {
    type: 'counter',
    name: 'lodge_vm_halt_poll_seconds_total',
    help: 'Processor time spent on polling for work when a vCPU halts',
    labelNames: [...labelNames, 'result'],
    read: () =>
      samples(({ detail }) => {
        const polls = detail?.exits?.haltPolls;
        if (!polls) return [];
        return [
          { labels: { result: 'success' }, value: polls.successSeconds },
          { labels: { result: 'fail' }, value: polls.failSeconds },
        ];
      }),
  });
  exposeHistogram(registry, {
    name: 'lodge_vm_disk_latency_seconds',
    help: 'How long operations of a VM’s disks took',
    labelNames: [...labelNames, 'operation'],
    edges: latencyEdgesUs.map((us) => us / 1e6),
    read: () =>
      read().flatMap(({ id, detail }) => {
        const found = vm(id);
        if (!found || !detail?.disks) return [];
        const { latency } = detail.disks;
        // Of all disks together; what never happened has no line.
        return (['read', 'write', 'flush'] as const).flatMap((operation) => {
          const sum = sumOf(latency.map((disk) => disk[operation]));
          return sum.counts.some((count) => count > 0)
            ? [{ labels: { vm: found.name, project: found.project, id, operation }, ...sum }]
            : [];
        });
      }),
  });
}

function sumOf(parts: readonly LatencyCounts[]): LatencyCounts {
  return {
    counts: [...latencyEdgesUs, Infinity].map((_, index) =>
      parts.reduce((sum, { counts }) => sum + (counts[index] ?? 0), 0),
    ),
    seconds: parts.reduce((sum, { seconds }) => sum + seconds, 0),
  };
}
