// One action on many VMs at once: those named, those with certain labels, or all of a project. A task that has each VM done
// by a task of its own where the action is one, a bounded number at a time, and that tells how each ended.
import * as z from 'zod';
import { labelKey, labelValue, objectName, objectReference, projectName } from './object.ts';
import { type Permission } from './permission.ts';
import { route, type RouteTable } from './route.ts';
import { snapshotQuiesce } from './snapshot.ts';
import { task } from './task.ts';
import { bootOnce } from './vm-firmware.ts';
import { vmState } from './vm-state.ts';

/** Most VMs that one action may be about. */
export const maxActionVms = 500;
/** Most VMs that one action works on at a time: what a node runs of tasks. */
export const maxActionParallelism = 16;

const timeoutS = z
  .int()
  .min(0)
  .max(86_400)
  .optional()
  .describe('Seconds before a guest is switched off; without it, its spec’s stopTimeoutS');

export const vmBulkAction = z
  .discriminatedUnion('type', [
    z.strictObject({ type: z.literal('start'), bootOnce }),
    z.strictObject({ type: z.literal('stop'), timeoutS }),
    z.strictObject({ type: z.literal('forceOff') }),
    z.strictObject({ type: z.literal('restart'), timeoutS, bootOnce }),
    z.strictObject({ type: z.literal('reset') }),
    z.strictObject({ type: z.literal('pause') }),
    z.strictObject({ type: z.literal('resume') }),
    z.strictObject({ type: z.literal('suspend') }),
    z.strictObject({
      type: z.literal('delete'),
      force: z.boolean().default(false).describe('Switch them off first if they run'),
    }),
    z.strictObject({
      type: z.literal('snapshot'),
      name: objectName.describe('Of the snapshot, the same for each VM'),
      description: z.string().max(1000).default(''),
      withMemory: z.boolean().default(false).describe('With the memory of those that run'),
      quiesce: snapshotQuiesce,
    }),
    z.strictObject({
      type: z.literal('update'),
      labels: z
        .record(
          z.string().regex(labelKey, 'is a label key'),
          z.string().regex(labelValue, 'is a label value').nullable(),
        )
        .default({})
        .describe('Labels to set; null removes one'),
      spec: z
        .record(z.string().max(100), z.unknown())
        .default({})
        .describe(
          'Fields of the spec to set, as a JSON merge patch (RFC 7386): null removes a field, lists are replaced',
        ),
      force: z.boolean().default(false).describe('Take out disks that a guest has mounted'),
    }),
  ])
  .meta({ id: 'VmBulkAction' });
export type VmBulkAction = z.output<typeof vmBulkAction>;

/** What a caller must be allowed to do for each action. */
export const bulkActionPermissions: Readonly<Record<VmBulkAction['type'], Permission>> = {
  start: 'vm.power',
  stop: 'vm.power',
  forceOff: 'vm.power',
  restart: 'vm.power',
  reset: 'vm.power',
  pause: 'vm.power',
  resume: 'vm.power',
  suspend: 'vm.power',
  delete: 'vm.delete',
  snapshot: 'snapshot.create',
  update: 'vm.update',
};

/** Which VMs of a project are meant. */
const vmChoice = z
  .union([
    z.strictObject({ names: z.array(objectReference).min(1).max(maxActionVms).describe('These, by name or id') }),
    z.strictObject({
      selector: z.string().min(1).max(2000).describe('Those with these labels: app=web,tier!=db,env in (prod,test)'),
    }),
    z.strictObject({ all: z.literal(true).describe('All of the project') }),
  ])
  .meta({ id: 'VmChoice' });

const body = z
  .strictObject({
    project: projectName,
    action: vmBulkAction,
    vms: vmChoice,
    parallelism: z
      .int()
      .min(1)
      .max(maxActionParallelism)
      .default(8)
      .describe('VMs that are worked on at a time. A node runs 16 tasks at a time in all'),
  })
  .meta({ id: 'VmActions' });
export type VmActions = z.output<typeof body>;
export type VmActionsInput = z.input<typeof body>;

export const plannedVmAction = z
  .object({
    id: z.string().describe('What was asked for where there is no such VM'),
    name: z.string(),
    state: vmState.nullable().describe('null: there is no such VM'),
    isHit: z.boolean().describe('It would be worked on'),
    reason: z.string().describe('Why it would not be, or what would be refused; empty: it is as it should be'),
  })
  .meta({ id: 'PlannedVmAction' });
export type PlannedVmAction = z.output<typeof plannedVmAction>;

const common = {
  method: 'POST',
  tag: 'vms',
  // What the action itself needs is checked too: bulkActionPermissions.
  permission: 'vm.power',
  body,
  errors: ['not_found', 'idempotency_conflict'],
} as const;

export const vmActionRoutes = {
  act: route({
    ...common,
    path: '/v1/vm-actions',
    summary: 'Do one thing to many VMs',
    description: `The task’s items tell how each VM gets on and how it ended; the task has failed when one of them has. Cancelling it leaves those that have not begun as they are, and what has begun goes on. At most ${maxActionVms} VMs. With a selector, or all, those for which there is nothing to do are skipped. Deleting needs vm.delete as well, changing vm.update, snapshots snapshot.create.`,
    status: 202,
    response: task,
    isIdempotentByKey: true,
  }),
  planAction: route({
    ...common,
    path: '/v1/vm-actions/plan',
    summary: 'Tell which VMs an action would be about, and do nothing',
    response: z.object({ items: z.array(plannedVmAction) }).meta({ id: 'VmActionPlan' }),
  }),
} as const satisfies RouteTable;
