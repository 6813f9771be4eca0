// How long the operations of a VM's disks take: counted by the hypervisor, in classes of duration.
import * as z from 'zod';
import { inProject, timestamp } from './object.ts';
import { route, type RouteTable } from './route.ts';

/** Upper edges of the classes, microseconds: from what a page cache needs to what a guest gives up at. */
export const latencyEdgesUs: readonly number[] = [
  ...[25, 50, 100, 200, 500],
  ...[1000, 2000, 5000, 10_000, 20_000, 50_000],
  ...[100_000, 200_000, 500_000, 1_000_000, 2_000_000, 5_000_000],
];

export const latencyCounts = z
  .object({
    counts: z
      .array(z.int())
      .describe(
        'How many operations took less than each of edgesUs, and not less than the one before; the last number is of those that took longer',
      ),
    seconds: z.number().describe('How long all of them took together, seconds'),
  })
  .meta({ id: 'LatencyCounts' });
/** How long operations of one kind took, since counting began. */
export type LatencyCounts = z.output<typeof latencyCounts>;

export const diskLatency = z
  .object({
    disk: z.string().describe('Name of the disk'),
    read: latencyCounts,
    write: latencyCounts,
    flush: latencyCounts.describe('The guest had what it has written made durable'),
  })
  .meta({ id: 'DiskLatency' });
/** How long the operations of one disk took. */
export type DiskLatency = z.output<typeof diskLatency>;

export const vmLatency = z
  .object({
    at: timestamp,
    edgesUs: z.array(z.int()).describe('Upper edges of the classes, microseconds'),
    disks: z
      .array(diskLatency)
      .nullable()
      .describe('Since the VM was started or the disk was attached; null: the hypervisor did not answer in time'),
  })
  .meta({ id: 'VmLatency' });
export type VmLatency = z.output<typeof vmLatency>;

/**
 * The duration that a share of the operations did not exceed, microseconds: the upper edge of the class it lies in. Null
 * where there was no operation; infinite where it lies above the last edge.
 */
export function latencyQuantileUs(counts: readonly number[], share: number, edgesUs = latencyEdgesUs): number | null {
  const all = counts.reduce((sum, count) => sum + count, 0);
  if (all === 0) return null;
  let below = 0;
  const index = counts.findIndex((count) => (below += count) >= share * all);
  return edgesUs[index] ?? Infinity;
}

export const vmLatencyRoutes = {
  diskLatency: route({
    method: 'GET',
    path: '/v1/vms/{vm}/disk-latency',
    tag: 'vms',
    summary: 'Read how long the operations of a running VM’s disks take',
    description:
      'Histograms of reads, writes and flushes, disk by disk, as the guest waits for them. They only grow: two readings tell what happened in between.',
    permission: 'vm.read',
    query: inProject,
    response: vmLatency,
    errors: ['not_found', 'wrong_state', 'hypervisor_failed'],
  }),
} as const satisfies RouteTable;
