// Metrics of this machine for Prometheus, as the sampler has seen them last. Names follow those of VMs beside them.
import { type Registry } from 'prom-client';
import { type MachineCounters } from '../../host/machine-counters.ts';
import { expose, type Sample } from './instrument.ts';

export interface SeenNode {
  /** Name of the node. */
  name: string;
  /** Null: it was not looked at yet. */
  counters: MachineCounters | null;
  processors: number;
  storage: { totalBytes: number; freeBytes: number } | null;
  /** Processor time that the looks at guests and machine have cost, seconds. */
  samplerSeconds: number;
}

type Read = (seen: SeenNode) => readonly Sample[];

/** /proc/stat counts in these. */
const ticksPerSecond = 100;

const plain =
  (value: (seen: SeenNode) => number | null | undefined): Read =>
  (seen) => {
    const now = value(seen);
    return now === null || now === undefined ? [] : [{ labels: {}, value: now }];
  };
const memory = (field: keyof MachineCounters['memory']): Read =>
  plain(({ counters }) => {
    const mib = counters?.memory[field] ?? null;
    return mib === null ? null : mib * 2 ** 20;
  });

const instruments: readonly ['counter' | 'gauge', name: string, help: string, read: Read, label?: string][] = [
  ['gauge', 'lodge_node_processors', 'Processors of the machine', plain(({ processors }) => processors)],
  [
    'counter',
    'lodge_node_cpu_seconds_total',
    'Processor time of the machine: busy, idle, and steal, which the hypervisor below it gave to others',
    ({ counters }) => {
      if (!counters) return [];
      const { busy, total, steal } = counters.cpu;
      return Object.entries({ busy: busy - steal, idle: total - busy, steal }).map(([mode, ticks]) => ({
        labels: { mode },
        value: ticks / ticksPerSecond,
      }));
    },
    'mode',
  ],
  ['gauge', 'lodge_node_memory_total_bytes', 'Memory of the machine', memory('totalMib')],
  ['gauge', 'lodge_node_memory_used_bytes', 'Memory that is not available to new programs', memory('usedMib')],
  ['gauge', 'lodge_node_memory_cached_bytes', 'Memory in which files are kept', memory('cachedMib')],
  ['gauge', 'lodge_node_memory_huge_bytes', 'Memory in huge pages, reserved or transparent', memory('hugeMib')],
  ['gauge', 'lodge_node_memory_ksm_saved_bytes', 'Memory saved by merging equal pages (KSM)', memory('ksmSavedMib')],
  ['gauge', 'lodge_node_swap_used_bytes', 'Used of the swap space', memory('swapUsedMib')],
  [
    'counter',
    'lodge_node_pressure_waiting_seconds_total',
    'Time in which something waited for a resource (PSI some)',
    ({ counters }) =>
      Object.entries(counters?.pressure ?? {}).flatMap(([resource, us]) =>
        us === null ? [] : [{ labels: { resource }, value: us / 1e6 }],
      ),
    'resource',
  ],
  [
    'counter',
    'lodge_node_disk_read_bytes_total',
    'Read from the machine’s disks',
    plain(({ counters }) => counters?.disks.readBytes),
  ],
  [
    'counter',
    'lodge_node_disk_written_bytes_total',
    'Written to the machine’s disks',
    plain(({ counters }) => counters?.disks.writtenBytes),
  ],
  [
    'counter',
    'lodge_node_network_receive_bytes_total',
    'Received by the machine’s own NICs',
    plain(({ counters }) => counters?.network.receivedBytes),
  ],
  [
    'counter',
    'lodge_node_network_transmit_bytes_total',
    'Sent by the machine’s own NICs',
    plain(({ counters }) => counters?.network.sentBytes),
  ],
  [
    'gauge',
    'lodge_node_storage_total_bytes',
    'Size of the file system of the data',
    plain(({ storage }) => storage?.totalBytes),
  ],
  [
    'gauge',
    'lodge_node_storage_free_bytes',
    'Free on the file system of the data',
    plain(({ storage }) => storage?.freeBytes),
  ],
  [
    'counter',
    'lodge_sampler_cpu_seconds_total',
    'Processor time that the looks at guests and machine have cost',
    plain(({ samplerSeconds }) => samplerSeconds),
  ],
];

/** Adds the metrics of the machine to a registry. */
export function exposeNode(registry: Registry, seen: () => SeenNode | null): void {
  for (const [type, name, help, read, label] of instruments)
    expose(registry, {
      type,
      name,
      help,
      labelNames: ['node', ...(label === undefined ? [] : [label])],
      read: () => {
        const now = seen();
        return now ? read(now).map(({ labels, value }) => ({ labels: { node: now.name, ...labels }, value })) : [];
      },
    });
}
