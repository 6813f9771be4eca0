// Snapshots of a VM: its disks, and if wanted its memory, as they were in one moment. Those of a VM form a tree; the VM
// goes on from one of them, the current one.
import * as z from 'zod';
import { inProject, labels, listQuery, metadata, objectName, page, projectName, timestamp } from './object.ts';
import { route, type RouteTable } from './route.ts';
import { task } from './task.ts';

export const snapshotSpec = z
  .strictObject({ description: z.string().max(1000).default('') })
  .meta({ id: 'SnapshotSpec' });

export const snapshotStatus = z
  .object({
    state: z.enum(['creating', 'ready', 'deleting']),
    reason: z.string(),
    vmId: z.string().describe('Id of its VM'),
    vm: z.string().describe('Name of its VM'),
    takenAt: timestamp.nullable().describe('The moment it shows'),
    parentId: z.string().nullable().describe('The snapshot the VM went on from when it was taken; null: none'),
    isCurrent: z.boolean().describe('The VM goes on from it now'),
    consistency: z
      .enum(['application', 'crash', 'memory'])
      .nullable()
      .describe(
        'application: the guest’s file systems were frozen, or the VM was off; crash: as after a power cut; memory: with memory, nothing is lost',
      ),
    consistencyReason: z.string().describe('Why it is not better, or what made it so'),
    memoryBytes: z.int().nullable().describe('Size of the saved memory; null: it has none'),
    pauseMs: z.number().nullable().describe('How long the guest stood still; null: it did not run'),
    disks: z.array(
      z.object({
        name: z.string(),
        volumeId: z.string(),
        layerId: z.string().describe('The frozen layer that holds what was written up to then'),
        sizeBytes: z.int().nullable().describe('Space that this layer takes'),
      }),
    ),
    sizeBytes: z.int().nullable().describe('Space that it takes beyond its parent: its layers, and its memory'),
    depth: z.int().describe('Layers of its deepest disk; each makes reading what it does not hold a little slower'),
    warning: z.string().nullable().describe('What people should know: a chain of layers that is getting long'),
  })
  .meta({ id: 'SnapshotStatus' });
export type SnapshotStatus = z.output<typeof snapshotStatus>;

export const snapshot = z
  .object({
    ...metadata,
    name: objectName.describe('Unique in its VM: a-z, 0-9 and "-", at most 63 characters'),
    spec: snapshotSpec,
    status: snapshotStatus,
  })
  .meta({ id: 'Snapshot' });
export type Snapshot = z.output<typeof snapshot>;

export const snapshotQuiesce = z
  .enum(['auto', 'never', 'required'])
  .default('auto')
  .describe(
    'Freeze the guest’s file systems by its agent meanwhile. auto: where an agent answers; required: fail without',
  );

const createBody = z
  .strictObject({
    name: objectName.describe('Unique in its VM: a-z, 0-9 and "-", at most 63 characters'),
    labels: labels.default({}),
    spec: snapshotSpec.default({ description: '' }),
    withMemory: z
      .boolean()
      .default(false)
      .describe('Save the memory of a running VM too, which then goes on from there'),
    quiesce: snapshotQuiesce,
  })
  .meta({ id: 'SnapshotCreate' });
export type SnapshotCreate = z.output<typeof createBody>;

const common = { tag: 'snapshots', query: inProject } as const;

export const snapshotRoutes = {
  list: route({
    method: 'GET',
    path: '/v1/vms/{vm}/snapshots',
    tag: 'snapshots',
    summary: 'List the snapshots of a VM',
    permission: 'snapshot.read',
    query: listQuery.extend({ project: projectName }),
    response: page('SnapshotPage', snapshot),
    errors: ['not_found'],
  }),
  create: route({
    ...common,
    method: 'POST',
    path: '/v1/vms/{vm}/snapshots',
    summary: 'Take a snapshot of a VM',
    description: 'Of all its disks that it may write to, in one step, whether it runs or not. The VM goes on.',
    permission: 'snapshot.create',
    body: createBody,
    status: 202,
    response: task,
    errors: [
      'not_found',
      'name_taken',
      'wrong_state',
      'busy',
      'unsupported',
      'storage_full',
      'insufficient_resources',
      'agent_unavailable',
      'hypervisor_failed',
      'host_failed',
      'idempotency_conflict',
    ],
    isIdempotentByKey: true,
  }),
  get: route({
    ...common,
    method: 'GET',
    path: '/v1/vms/{vm}/snapshots/{snapshot}',
    summary: 'Read a snapshot',
    permission: 'snapshot.read',
    response: snapshot,
    errors: ['not_found'],
  }),
  update: route({
    ...common,
    method: 'PATCH',
    path: '/v1/vms/{vm}/snapshots/{snapshot}',
    summary: 'Change name, labels or description of a snapshot',
    permission: 'snapshot.update',
    body: z
      .strictObject({
        revision: metadata.revision.optional().describe('Revision this change is based on'),
        name: objectName.optional(),
        labels: labels.optional().describe('Replaces all labels; without it they stay'),
        spec: snapshotSpec.optional(),
      })
      .meta({ id: 'SnapshotUpdate' }),
    response: snapshot,
    errors: ['not_found', 'name_taken', 'revision_conflict', 'busy'],
  }),
  revert: route({
    ...common,
    method: 'POST',
    path: '/v1/vms/{vm}/snapshots/{snapshot}/revert',
    summary: 'Make a VM go on from a snapshot',
    description:
      'Disks and spec are those of the snapshot then. What was written since is lost, unless a snapshot of it is taken first. With memory, the guest runs on from the moment of the snapshot; otherwise the VM is stopped.',
    permission: 'snapshot.revert',
    body: z
      .strictObject({
        force: z.boolean().default(false).describe('Switch the VM off first if it runs; discard its saved state'),
        start: z.boolean().default(false).describe('Start it afterwards; with memory it runs on anyway'),
      })
      .meta({ id: 'SnapshotRevert' }),
    status: 202,
    response: task,
    errors: [
      'not_found',
      'wrong_state',
      'in_use',
      'busy',
      'name_taken',
      'image_invalid',
      'unsupported',
      'insufficient_resources',
      'checksum_mismatch',
      'hypervisor_failed',
      'host_failed',
    ],
  }),
  delete: route({
    method: 'DELETE',
    path: '/v1/vms/{vm}/snapshots/{snapshot}',
    tag: 'snapshots',
    summary: 'Delete a snapshot; those taken after it, and the VM, stay as they are',
    permission: 'snapshot.delete',
    query: inProject.extend({
      withChildren: z.stringbool().or(z.boolean()).default(false).describe('Delete also all that were taken after it'),
    }),
    status: 202,
    response: task,
    errors: ['not_found', 'busy', 'wrong_state'],
  }),
} as const satisfies RouteTable;
