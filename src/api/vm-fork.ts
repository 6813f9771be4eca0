// Forks: running copies of a running VM. What is asked for, and what a VM says of where it comes from.
import * as z from 'zod';
import { inProject, objectName, timestamp } from './object.ts';
import { route, type RouteTable } from './route.ts';
import { task } from './task.ts';
import { vmFromOtherErrors } from './vm-clone.ts';

/** Copies that one request may make. */
export const maxCopies = 200;

export const vmFork = z
  .strictObject({
    count: z.int().min(1).max(maxCopies).default(1).describe('Copies, all or none'),
    name: objectName
      .optional()
      .describe(
        'The copies are called name-1, name-2 and so on, by the first numbers that are free; a single one is called just so. Without it, the VM’s own name is what the numbers follow',
      ),
    isIsolated: z
      .boolean()
      .default(false)
      .describe('The copies get networks of their own, one for each that the VM has; its guests reach each other only'),
  })
  .meta({ id: 'VmFork' });
export type VmFork = z.output<typeof vmFork>;

export const vmLineage = z
  .object({
    kind: z
      .enum(['fork', 'linked-clone', 'full-clone', 'template', 'warm'])
      .describe(
        'fork: it goes on from the memory of a running VM; linked-clone: it began with its disks, and still reads from them what it has not written itself; full-clone: it began with copies of them; template: it was made of a template; warm: it goes on from the memory of a prepared one',
      ),
    parentId: z.string().describe('VM or template it was made from'),
    parentName: z.string().describe('What that was called then'),
    forkId: z.string().describe('The same for all copies of one request: id of the task that made them'),
    at: timestamp,
    hasOwnIdentity: z.boolean().describe('It was given a host name, addresses and keys of its own'),
    identityBy: z
      .enum(['agent', 'cloud-init'])
      .optional()
      .describe(
        'Who gives it these: the guest agent, as soon as it answers, or cloud-init at the first boot. Addresses of NICs are its own from the beginning, but for a fork',
      ),
  })
  .meta({ id: 'VmLineage' });
export type VmLineage = z.output<typeof vmLineage>;

export const vmForkRoutes = {
  fork: route({
    method: 'POST',
    path: '/v1/vms/{vm}/fork',
    tag: 'vms',
    summary: 'Make running copies of a running VM',
    description:
      'The copies go on from where the VM is, and share its memory and disks until they write to them. Each gets a host name, addresses and keys of its own before it is connected to its network; for that, a guest agent has to answer in it. They are the VMs whose status.lineage.forkId is the id of the task.',
    permission: 'vm.create',
    query: inProject,
    body: vmFork,
    status: 202,
    response: task,
    errors: vmFromOtherErrors,
    isIdempotentByKey: true,
  }),
} as const satisfies RouteTable;
