// Volumes: disks that guests write to. A volume lives as long as its VM, or longer if it was made on its own.
import * as z from 'zod';
import { creation, inProject, listQuery, metadata, objectReference, page, update } from './object.ts';
import { route, type RouteTable } from './route.ts';
import { task } from './task.ts';

/** Largest disk: 64 TiB, in MiB. */
export const maxVolumeMib = 67_108_864;

export const volumeSpec = z
  .strictObject({
    description: z.string().max(1000).default(''),
    sizeMib: z
      .int()
      .min(1)
      .max(maxVolumeMib)
      .optional()
      .describe('Virtual size, MiB; at least that of the image. Without it, the image’s. It can grow, not shrink'),
    image: objectReference.optional().describe('Image it is a copy-on-write copy of; without it, it is blank'),
    format: z.enum(['qcow2', 'raw']).default('qcow2'),
  })
  .meta({ id: 'VolumeSpec' });
export type VolumeSpec = z.output<typeof volumeSpec>;

export const volumeStatus = z
  .object({
    state: z.enum(['pending', 'ready', 'failed', 'deleting']),
    reason: z.string(),
    node: z.string().nullable().describe('Node that holds it'),
    virtualSizeMib: z.int().nullable(),
    allocatedBytes: z.int().nullable().describe('Space it takes on the node'),
    imageId: z.string().nullable().describe('Image its unwritten parts are read from'),
    usedBy: z
      .object({ id: z.string(), name: z.string() })
      .nullable()
      .describe('Id and name of the VM it belongs to or is attached to'),
    isOwnedByVm: z.boolean().describe('Made with its VM and deleted with it'),
  })
  .meta({ id: 'VolumeStatus' });
export type VolumeStatus = z.output<typeof volumeStatus>;

export const volume = z.object({ ...metadata, spec: volumeSpec, status: volumeStatus }).meta({ id: 'Volume' });
export type Volume = z.output<typeof volume>;

export const volumeRoutes = {
  list: route({
    method: 'GET',
    path: '/v1/volumes',
    tag: 'volumes',
    summary: 'List volumes',
    permission: 'volume.read',
    query: listQuery,
    response: page('VolumePage', volume),
    errors: [],
  }),
  create: route({
    method: 'POST',
    path: '/v1/volumes',
    tag: 'volumes',
    summary: 'Create a volume',
    permission: 'volume.create',
    body: creation('VolumeCreate', volumeSpec),
    status: 202,
    response: task,
    errors: [
      'name_taken',
      'not_found',
      'wrong_state',
      'storage_full',
      'insufficient_resources',
      'idempotency_conflict',
    ],
    isIdempotentByKey: true,
  }),
  get: route({
    method: 'GET',
    path: '/v1/volumes/{volume}',
    tag: 'volumes',
    summary: 'Read a volume',
    permission: 'volume.read',
    query: inProject,
    response: volume,
    errors: ['not_found'],
  }),
  update: route({
    method: 'PUT',
    path: '/v1/volumes/{volume}',
    tag: 'volumes',
    summary: 'Change labels or description, or grow a volume',
    permission: 'volume.update',
    query: inProject,
    body: update('VolumeUpdate', volumeSpec),
    response: volume,
    errors: [
      'not_found',
      'revision_conflict',
      'wrong_state',
      'in_use',
      'busy',
      'unsupported',
      'storage_full',
      'insufficient_resources',
      'hypervisor_failed',
      'host_failed',
    ],
  }),
  delete: route({
    method: 'DELETE',
    path: '/v1/volumes/{volume}',
    tag: 'volumes',
    summary: 'Delete a volume that no VM uses',
    permission: 'volume.delete',
    query: inProject,
    status: 202,
    response: task,
    errors: ['not_found', 'in_use', 'busy'],
  }),
} as const satisfies RouteTable;
