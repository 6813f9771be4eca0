// What a VM's memory is made of on the node, and what it may take of disks and swap.
import * as z from 'zod';

export const vmMemoryBacking = z
  .strictObject({
    pageSize: z
      .enum(['2MiB', '1GiB'])
      .optional()
      .describe(
        'Huge pages of this size for all its memory, which Lodge reserves at the start. Without it, ordinary pages, which the kernel joins to pages of 2 MiB where it can (transparent huge pages)',
      ),
    isLocked: z
      .boolean()
      .optional()
      .describe('All its memory is there from the start and never swapped out. Without it, false'),
    isMergeable: z
      .boolean()
      .optional()
      .describe(
        'KSM may merge its pages with equal ones of other VMs, where the node has KSM on. What is merged can be told by timing: false for VMs with secrets among strangers. Without it, true',
      ),
  })
  .meta({ id: 'VmMemoryBacking' });

export const vmResources = z
  .strictObject({
    ioWeight: z
      .int()
      .min(1)
      .max(10_000)
      .optional()
      .describe('Share of the node’s disks against other VMs, with the schedulers bfq and iocost. Without it, 100'),
    swapMaxMib: z
      .int()
      .min(0)
      .max(16_777_216)
      .optional()
      .describe(
        'Most of its memory that may be swapped out, MiB; 0: none. With control groups of version 1, only 0 can be kept. Without it, no limit',
      ),
    memoryGuaranteedMib: z
      .int()
      .min(16)
      .max(16_777_216)
      .optional()
      .describe(
        'While the node is short of memory, the balloon may leave the guest less than it has, but never less than this, and it gets it back after that, MiB. Without it, nothing is taken. Nor is it of huge or locked pages and of forks, which the node would not get back',
      ),
    oomPriority: z
      .enum(['low', 'normal', 'high'])
      .optional()
      .describe('When the node runs out of memory, VMs of low are ended first, those of high last. Without it, normal'),
  })
  .meta({ id: 'VmResources' });

/** A setting of the machine that Lodge has changed, with what it was. */
export const hostSetting = z
  .object({
    path: z.string().describe('File of the kernel'),
    original: z.string().describe('What it held before, and will again when nothing needs the change any more'),
    current: z.string().describe('What Lodge has written'),
    reason: z.string(),
  })
  .meta({ id: 'HostSetting' });
export type HostSetting = z.output<typeof hostSetting>;
