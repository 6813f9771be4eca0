// What VMs and nodes have used over time: series of numbers in equal steps, as charts and sparklines take them.
import * as z from 'zod';
import { inProject, timestamp } from './object.ts';
import { route, type RouteTable } from './route.ts';

/** What is kept, coarser the longer ago: length of a step and how far back it reaches, both in seconds. */
export const metricsRetention = [
  { stepS: 1, reachS: 3600 },
  { stepS: 60, reachS: 31 * 86_400 },
  { stepS: 3600, reachS: 730 * 86_400 },
] as const;

/** The most steps of one answer. */
export const maxMetricsSteps = 5000;
/** How many steps an answer has at most where no step is asked for. */
export const defaultMetricsSteps = 300;

const points = z.array(z.number().nullable());

/** An object with the points of each series. */
function seriesOf<Name extends string>(meanings: Readonly<Record<Name, string>>) {
  const entries = Object.entries<string>(meanings).map(([name, meaning]) => [name, points.describe(meaning)]);
  return z
    .object(Object.fromEntries(entries) as Record<Name, typeof points>)
    .describe('A number for each step; null: nothing was measured in it');
}

/** The series of a VM, with what they mean. */
export const vmSeries = {
  cpuPercent: 'Processor time, percent of one processor: 200 is two processors busy. Includes what QEMU itself needs',
  cpuPercentMax: 'The highest of cpuPercent in a step',
  memoryMib: 'Memory of the host that the VM has (resident), MiB',
  diskReadBytesPerS: 'Read by the guest from its disks, bytes a second',
  diskWriteBytesPerS: 'Written by the guest to its disks, bytes a second',
  diskOperationsPerS: 'Reads and writes of the guest, a second',
  diskLatencyMs: 'Mean time of a read or write, milliseconds',
  networkReceiveBytesPerS: 'Received by the guest, bytes a second',
  networkSendBytesPerS: 'Sent by the guest, bytes a second',
  stealPercent:
    'Time in which its vCPUs could have run and waited for a processor of the host, percent of one processor',
  exitsPerS: 'Exits of the guest to KVM, a second; nobody counts them under emulation',
  memoryPssMib:
    'Memory of the host that the VM has, with its part of what it shares with other processes (proportional set size), MiB',
  memoryHugeMib: 'Part of the VM’s memory in huge pages, reserved or transparent, MiB',
  memoryKsmMib: 'Part of the VM’s memory that the kernel has merged with equal pages (KSM), MiB',
  balloonMib: 'Taken from the guest by its balloon, MiB',
  guestUsedMib: 'Memory that the guest’s own system uses, as its balloon’s driver tells, MiB',
  guestCachedMib: 'Memory in which the guest’s own system keeps files, MiB',
} as const;
export type VmSeries = keyof typeof vmSeries;

/** The series of a node, with what they mean. */
export const nodeSeries = {
  cpuPercent: 'Busy processors, percent of the whole machine',
  cpuPercentMax: 'The highest of cpuPercent in a step',
  memoryUsedMib: 'Memory that is not available to new programs, MiB',
  cpuPressurePercent: 'Share of time in which something waited for a processor (PSI some)',
  memoryPressurePercent: 'Share of time in which something waited for memory (PSI some)',
  ioPressurePercent: 'Share of time in which something waited for a disk (PSI some)',
  diskReadBytesPerS: 'Read from the machine’s disks, bytes a second',
  diskWriteBytesPerS: 'Written to the machine’s disks, bytes a second',
  networkReceiveBytesPerS: 'Received by the machine’s own NICs, bytes a second',
  networkSendBytesPerS: 'Sent by the machine’s own NICs, bytes a second',
  storageUsedMib: 'Used on the file system of the data, MiB',
  stealPercent: 'Processor time that the hypervisor below gave to others, percent of the whole machine; 0 on hardware',
  memoryCachedMib: 'Files kept in memory, which give way to programs, MiB',
  memoryHugeMib: 'Memory in huge pages: reserved pools, in use or not, and transparent ones, MiB',
  memoryKsmSavedMib: 'Memory saved by merging equal pages (KSM), MiB',
  swapUsedMib: 'Used of the swap space, MiB',
} as const;
export type NodeSeries = keyof typeof nodeSeries;

const metricsQuery = {
  from: timestamp.optional().describe('Begin; an hour ago where it is left out'),
  to: timestamp.optional().describe('End; now where it is left out'),
  stepS: z.coerce
    .number<number | string>()
    .int()
    .min(1)
    .max(86_400 * 31)
    .optional()
    .describe(
      `Length of a step in seconds, a mean over what lies in it; where it is left out, such that there are at most ${defaultMetricsSteps} steps`,
    ),
};

const window = {
  from: timestamp.describe('Begin of the first step'),
  stepS: z.int().describe('Length of a step, seconds'),
  count: z.int().describe('Number of steps'),
};

export const vmMetrics = z
  .object({
    ...window,
    series: seriesOf(vmSeries),
  })
  .meta({ id: 'VmMetrics' });

export const nodeMetrics = z
  .object({
    ...window,
    series: seriesOf(nodeSeries),
  })
  .meta({ id: 'NodeMetrics' });

/** Series in equal steps. */
export interface Metrics<Name extends string> {
  from: string;
  stepS: number;
  count: number;
  series: Record<Name, (number | null)[]>;
}

const kept = 'Kept are steps of a second for an hour, of a minute for a month, of an hour for two years.';

export const vmMetricsRoutes = {
  metrics: route({
    method: 'GET',
    path: '/v1/vms/{vm}/metrics',
    tag: 'vms',
    summary: 'Read what a VM has used over time',
    description: kept,
    permission: 'vm.read',
    query: inProject.extend(metricsQuery),
    response: vmMetrics,
    errors: ['not_found', 'host_failed'],
  }),
} as const satisfies RouteTable;

export const nodeMetricsRoutes = {
  metrics: route({
    method: 'GET',
    path: '/v1/nodes/{node}/metrics',
    tag: 'nodes',
    summary: 'Read what a node has used over time',
    description: kept,
    permission: 'node.read',
    query: z.strictObject(metricsQuery),
    response: nodeMetrics,
    errors: ['not_found', 'host_failed'],
  }),
} as const satisfies RouteTable;
