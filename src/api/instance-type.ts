// Instance types: named sizes of VMs, their vCPUs and memory. Those of the project `default` are there for all projects.
import * as z from 'zod';
import { creation, inProject, listQuery, metadata, page, update } from './object.ts';
import { sourceApplied, sourceApply, sourceStatus } from './profile.ts';
import { route, type RouteTable } from './route.ts';
import { vmCpu, vmSpec } from './vm-spec.ts';

const { count, maxCount, sockets, coresPerSocket, threadsPerCore } = vmCpu.shape;

export const instanceTypeSpec = z
  .strictObject({
    description: z.string().max(1000).default(''),
    cpu: z.strictObject({
      count: count.unwrap().describe('vCPUs'),
      maxCount,
      sockets,
      coresPerSocket,
      threadsPerCore,
    }),
    memoryMib: vmSpec.shape.memoryMib.unwrap().describe('MiB'),
    maxMemoryMib: vmSpec.shape.maxMemoryMib,
  })
  .meta({ id: 'InstanceTypeSpec' });

export const instanceType = z
  .object({ ...metadata, spec: instanceTypeSpec, status: sourceStatus })
  .meta({ id: 'InstanceType' });
export type InstanceType = z.output<typeof instanceType>;

/** Instance types that are there from the start: vCPUs and memory in MiB. */
export const firstInstanceTypes: Readonly<Record<string, { count: number; memoryMib: number }>> = {
  micro: { count: 1, memoryMib: 512 },
  small: { count: 1, memoryMib: 1024 },
  medium: { count: 2, memoryMib: 4096 },
  large: { count: 4, memoryMib: 8192 },
  xlarge: { count: 8, memoryMib: 16_384 },
  '2xlarge': { count: 16, memoryMib: 32_768 },
};

const one = { tag: 'instance types', query: inProject } as const;

export const instanceTypeRoutes = {
  list: route({
    method: 'GET',
    path: '/v1/instance-types',
    tag: 'instance types',
    summary: 'List instance types',
    description: 'Of a project, or of all. Those of the project default can be used in every project.',
    permission: 'instance-type.read',
    query: listQuery,
    response: page('InstanceTypePage', instanceType),
    errors: [],
  }),
  create: route({
    method: 'POST',
    path: '/v1/instance-types',
    tag: 'instance types',
    summary: 'Create an instance type',
    permission: 'instance-type.create',
    body: creation('InstanceTypeCreate', instanceTypeSpec),
    status: 201,
    response: instanceType,
    errors: ['name_taken', 'idempotency_conflict'],
    isIdempotentByKey: true,
  }),
  get: route({
    ...one,
    method: 'GET',
    path: '/v1/instance-types/{instanceType}',
    summary: 'Read an instance type',
    permission: 'instance-type.read',
    response: instanceType,
    errors: ['not_found'],
  }),
  update: route({
    ...one,
    method: 'PUT',
    path: '/v1/instance-types/{instanceType}',
    summary: 'Change an instance type',
    description:
      'VMs of the type stay what they are until apply: status.profileChanges of each shows what they have not taken yet.',
    permission: 'instance-type.update',
    body: update('InstanceTypeUpdate', instanceTypeSpec),
    response: instanceType,
    errors: ['not_found', 'revision_conflict'],
  }),
  delete: route({
    method: 'DELETE',
    path: '/v1/instance-types/{instanceType}',
    tag: 'instance types',
    summary: 'Delete an instance type',
    permission: 'instance-type.delete',
    query: inProject.extend({
      force: z
        .stringbool()
        .or(z.boolean())
        .default(false)
        .describe('Also when VMs are of this type: they keep their vCPUs and memory as their own'),
    }),
    response: instanceType,
    errors: ['not_found', 'in_use'],
  }),
  apply: route({
    ...one,
    method: 'POST',
    path: '/v1/instance-types/{instanceType}/apply',
    summary: 'Bring VMs of an instance type up to date',
    description: 'As applying a profile does.',
    permission: 'vm.update',
    body: sourceApply,
    response: sourceApplied,
    errors: ['not_found'],
  }),
} as const satisfies RouteTable;
