// Counters of VMs for Prometheus, as the sampler has seen them last: scraping asks no guest. Names follow
// https://prometheus.io/docs/practices/naming/.
import { Counter, Gauge, type Registry } from 'prom-client';
import { type Vm } from '../../api/vm.ts';
import { type DiskCounters, type GuestCounters } from '../../drivers/driver.ts';

/** What was last seen of a guest. */
export interface SeenCounters {
  id: string;
  counters: GuestCounters;
  disks: DiskCounters | null;
}

const labelNames = ['vm', 'project', 'id'] as const;

const counters: readonly [name: string, help: string, value: (seen: SeenCounters) => number | null][] = [
  ['lodge_vm_cpu_seconds_total', 'Processor time of a VM', ({ counters: seen }) => seen.cpuSeconds],
  ['lodge_vm_network_receive_bytes_total', 'Received by a guest', ({ counters: seen }) => seen.networkReceivedBytes],
  ['lodge_vm_network_transmit_bytes_total', 'Sent by a guest', ({ counters: seen }) => seen.networkSentBytes],
  ['lodge_vm_disk_read_bytes_total', 'Read by a guest from its disks', ({ disks }) => disks?.readBytes ?? null],
  ['lodge_vm_disk_written_bytes_total', 'Written by a guest to its disks', ({ disks }) => disks?.writtenBytes ?? null],
  ['lodge_vm_disk_operations_total', 'Reads and writes of a guest', ({ disks }) => disks?.operations ?? null],
  [
    'lodge_vm_disk_operation_seconds_total',
    'Time that reads and writes of a guest took, summed',
    ({ disks }) => disks?.operationSeconds ?? null,
  ],
];

/** Adds the metrics of VMs to a registry. */
export function exposeVms(
  registry: Registry,
  read: () => readonly SeenCounters[],
  vm: (id: string) => Pick<Vm, 'name' | 'project'> | null,
): void {
  const fill = (
    value: (seen: SeenCounters) => number | null,
    set: (labels: Record<(typeof labelNames)[number], string>, value: number) => void,
  ): void => {
    for (const seen of read()) {
      const found = vm(seen.id);
      const now = value(seen);
      if (found && now !== null) set({ vm: found.name, project: found.project, id: seen.id }, now);
    }
  };
  for (const [name, help, value] of counters) {
    const counter: Counter<(typeof labelNames)[number]> = new Counter({
      name,
      help,
      labelNames,
      registers: [registry],
      collect: () => {
        counter.reset();
        fill(value, (labels, now) => counter.inc(labels, now));
      },
    });
  }
  const gauge: Gauge<(typeof labelNames)[number]> = new Gauge({
    name: 'lodge_vm_memory_resident_bytes',
    help: 'Memory of the host that a VM has',
    labelNames,
    registers: [registry],
    collect: () => {
      gauge.reset();
      fill(
        (seen) => (seen.counters.memoryMib === null ? null : seen.counters.memoryMib * 2 ** 20),
        (labels, now) => gauge.set(labels, now),
      );
    },
  });
}
