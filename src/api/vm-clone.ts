// Clones: new VMs with the disks of another, as these are in one moment.
import * as z from 'zod';
import { type ErrorCode } from './errors.ts';
import { inProject, objectName, objectReference } from './object.ts';
import { route, type RouteTable } from './route.ts';
import { task } from './task.ts';

/** Clones that one request may make. */
export const maxClones = 200;

export const cloneMode = z
  .enum(['linked', 'full'])
  .describe(
    'linked: it reads what it has not written itself from the disks of its original, as they were; it is there at once. full: disks of its own, copied',
  );
export type CloneMode = z.output<typeof cloneMode>;

export const cloneTpm = z
  .enum(['copy', 'new'])
  .describe(
    'For a VM with a TPM. copy: what is sealed in the original’s, such as the key of an encrypted disk, opens in the clone’s too; new: an empty one, with keys that no other VM has',
  );

export type CloneTpm = z.output<typeof cloneTpm>;

export const vmClone = z
  .strictObject({
    name: objectName
      .optional()
      .describe(
        'Several are called name-1, name-2 and so on, by the first numbers that are free; a single one is called just so. Without it, the VM’s own name is what the numbers follow',
      ),
    count: z.int().min(1).max(maxClones).default(1).describe('Clones, all or none; all of the same moment'),
    mode: cloneMode.default('linked'),
    snapshot: objectReference
      .optional()
      .describe('Snapshot of the VM whose disks and spec they are to have. Without it, as the VM is now'),
    tpm: cloneTpm.default('copy'),
    isStarted: z.boolean().default(false).describe('Start them when they are made, each by a task of its own'),
  })
  .meta({ id: 'VmClone' });
export type VmClone = z.output<typeof vmClone>;

/** What can go wrong where VMs are made of another: clones, forks, VMs from a template. */
export const vmFromOtherErrors = [
  'not_found',
  'wrong_state',
  'busy',
  'name_taken',
  'insufficient_resources',
  'storage_full',
  'unsupported',
  'hypervisor_failed',
  'host_failed',
  'idempotency_conflict',
] as const satisfies readonly ErrorCode[];

export const vmCloneRoutes = {
  clone: route({
    method: 'POST',
    path: '/v1/vms/{vm}/clone',
    tag: 'vms',
    summary: 'Make new VMs with the disks of a VM, as these are now',
    description:
      'The VM may run and goes on: its clones are as a computer is after its power was cut. They have what its spec asks for, without MAC addresses, reserved addresses and autostart, and a user, an id and addresses of their own. Host name, machine id and ssh host keys are changed by cloud-init at the first boot, or by the guest agent (status.lineage). They are the VMs whose status.lineage.forkId is the id of the task.',
    permission: 'vm.create',
    query: inProject,
    body: vmClone,
    status: 202,
    response: task,
    errors: vmFromOtherErrors,
    isIdempotentByKey: true,
  }),
} as const satisfies RouteTable;
