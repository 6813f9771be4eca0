// Groups: VMs that are started together, in an order, each when those before it are ready, and stopped in the opposite order.
//
//   stage 1 ──ready──▶ stage 2 ──ready──▶ stage 3         start
//   stage 1 ◀──down─── stage 2 ◀──down─── stage 3         stop
//
// Members with the same order are one stage and are started at once.
import * as z from 'zod';
import { creation, inProject, listQuery, metadata, objectReference, page, update } from './object.ts';
import { route, type RouteTable } from './route.ts';
import { task } from './task.ts';
import { vmState } from './vm-state.ts';

/** Most members of a group. */
export const maxGroupMembers = 100;

/** When a member counts as ready, so that those after it are started. */
export const groupReadiness = z
  .discriminatedUnion('type', [
    z.strictObject({ type: z.literal('running') }),
    z.strictObject({ type: z.literal('agent') }),
    z.strictObject({
      type: z.literal('port'),
      port: z.int().min(1).max(65_535).describe('A TCP port on which something in the guest listens'),
    }),
    z.strictObject({
      type: z.literal('command'),
      command: z
        .array(z.string().min(1).max(4096))
        .min(1)
        .max(100)
        .describe('Program in the guest with its arguments; no shell. It is ready when this ends with 0'),
    }),
  ])
  .meta({ id: 'GroupReadiness' });
export type GroupReadiness = z.output<typeof groupReadiness>;

export const groupMember = z
  .strictObject({
    vm: objectReference.describe('VM of the same project. It can be in one group only'),
    order: z
      .int()
      .min(1)
      .max(1000)
      .optional()
      .describe(
        'Those with a lower one are started before it, those with the same with it. Without it, after the member before it in the list',
      ),
    delayS: z
      .int()
      .min(0)
      .max(3600)
      .default(0)
      .describe('Wait before it is started, when those before it are ready; seconds'),
    ready: groupReadiness
      .default({ type: 'running' })
      .describe(
        'running: its vCPUs run; agent: its agent answers; port: something in it listens; command: a program in it succeeds',
      ),
    readyTimeoutS: z
      .int()
      .min(1)
      .max(86_400)
      .default(300)
      .describe('How long it may take from its start to be ready, seconds'),
    ifNotReady: z
      .enum(['stop', 'continue'])
      .default('stop')
      .describe(
        'When it can not be started, or is not ready in time. stop: what comes after it is not started; continue: it is, all the same',
      ),
    stopTimeoutS: z
      .int()
      .min(0)
      .max(86_400)
      .optional()
      .describe('How long it may take to shut down before it is switched off, seconds; without it, the VM’s own'),
  })
  .meta({ id: 'GroupMember' });
export type GroupMember = z.output<typeof groupMember>;

export const groupSpec = z
  .strictObject({
    description: z.string().max(1000).default(''),
    members: z.array(groupMember).max(maxGroupMembers).default([]),
    autostart: z
      .boolean()
      .default(false)
      .describe(
        'Started as a whole when the node comes up. Without it, those members are whose own spec says so, in this order',
      ),
  })
  .meta({ id: 'GroupSpec' });
export type GroupSpec = z.output<typeof groupSpec>;
export type GroupSpecInput = z.input<typeof groupSpec>;

export const groupState = z.enum(['running', 'partial', 'stopped']).meta({ id: 'GroupState' });
export type GroupState = z.output<typeof groupState>;

export const groupStatus = z
  .object({
    state: groupState.describe('running: every member runs; stopped: none is up; partial: anything else'),
    reason: z.string(),
    taskId: z.string().nullable().describe('Task that works on it now'),
    members: z
      .array(
        z.object({
          vm: z.string().describe('Its name'),
          id: z.string(),
          order: z.int().describe('Its stage’s place'),
          state: vmState,
        }),
      )
      .describe('In the order in which they are started'),
  })
  .meta({ id: 'GroupStatus' });
export type GroupStatus = z.output<typeof groupStatus>;

export const group = z.object({ ...metadata, spec: groupSpec, status: groupStatus }).meta({ id: 'Group' });
export type Group = z.output<typeof group>;

const stopBody = z
  .strictObject({
    timeoutS: z
      .int()
      .min(0)
      .max(86_400)
      .optional()
      .describe('Seconds before a member is switched off; without it, its stopTimeoutS or that of its VM'),
  })
  .meta({ id: 'GroupStop' });

const one = { tag: 'groups', query: inProject } as const;
const action = { ...one, method: 'POST', permission: 'vm.power', status: 202, response: task } as const;
const actionErrors = ['not_found', 'busy', 'wrong_state'] as const;

export const groupRoutes = {
  list: route({
    method: 'GET',
    path: '/v1/groups',
    tag: 'groups',
    summary: 'List groups',
    permission: 'group.read',
    query: listQuery,
    response: page('GroupPage', group),
    errors: [],
  }),
  create: route({
    method: 'POST',
    path: '/v1/groups',
    tag: 'groups',
    summary: 'Create a group of VMs',
    description: 'A member that is ready when a command in it succeeds needs the permission vm.guest as well.',
    permission: 'group.create',
    body: creation('GroupCreate', groupSpec),
    status: 201,
    response: group,
    errors: ['name_taken', 'not_found', 'in_use', 'idempotency_conflict'],
    isIdempotentByKey: true,
  }),
  get: route({
    ...one,
    method: 'GET',
    path: '/v1/groups/{group}',
    summary: 'Read a group',
    permission: 'group.read',
    response: group,
    errors: ['not_found'],
  }),
  update: route({
    ...one,
    method: 'PUT',
    path: '/v1/groups/{group}',
    summary: 'Change a group',
    description: 'What is being done with it goes on with the members it had when it began.',
    permission: 'group.update',
    body: update('GroupUpdate', groupSpec),
    response: group,
    errors: ['not_found', 'revision_conflict', 'in_use'],
  }),
  delete: route({
    ...one,
    method: 'DELETE',
    path: '/v1/groups/{group}',
    summary: 'Delete a group; its VMs stay as they are',
    permission: 'group.delete',
    response: group,
    errors: ['not_found', 'busy'],
  }),
  start: route({
    ...action,
    path: '/v1/groups/{group}/start',
    summary: 'Start the members of a group in their order',
    description:
      'The task’s items tell how each gets on. What runs already is left alone and only has to be ready. Cancelled, what has not been started is left as it is.',
    errors: actionErrors,
  }),
  stop: route({
    ...action,
    path: '/v1/groups/{group}/stop',
    summary: 'Stop the members of a group in the opposite order',
    body: stopBody,
    errors: actionErrors,
  }),
  restart: route({
    ...action,
    path: '/v1/groups/{group}/restart',
    summary: 'Stop the members of a group, and start them in their order',
    body: stopBody,
    errors: actionErrors,
  }),
} as const satisfies RouteTable;
