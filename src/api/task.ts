// Tasks: operations that take longer than a request should, or touch more than one system.
//
//   queued ─▶ running ─▶ succeeded
//     │          │  └──▶ undoing ─▶ failed
//     │          └─(cancel)─▶ cancelling ─▶ undoing ─▶ cancelled
//     └─(cancel)─▶ cancelled
import * as z from 'zod';
import { errorBody } from './errors.ts';
import { listQuery, page, subject, timestamp } from './object.ts';
import { route, type RouteTable } from './route.ts';

export const taskState = z
  .enum(['queued', 'running', 'cancelling', 'undoing', 'succeeded', 'failed', 'cancelled'])
  .meta({ id: 'TaskState' });
export type TaskState = z.output<typeof taskState>;

/** States from which a task moves no more. */
export const finalTaskStates: ReadonlySet<TaskState> = new Set<TaskState>(['succeeded', 'failed', 'cancelled']);

export const taskStep = z
  .object({
    name: z.string(),
    state: z.enum(['pending', 'running', 'done', 'failed', 'undone', 'undo-failed']),
    startedAt: timestamp.nullable(),
    endedAt: timestamp.nullable(),
  })
  .meta({ id: 'TaskStep' });

export const taskProgress = z
  .object({
    percent: z.number().min(0).max(100).describe('Of the whole task'),
    bytesDone: z.number().nonnegative().optional().describe('Of the current step, where it moves data'),
    bytesTotal: z.number().nonnegative().optional(),
    message: z.string().optional().describe('What the current step is doing'),
  })
  .meta({ id: 'TaskProgress' });

/** One of the objects that a task works on one by one. */
export const taskItem = z
  .object({
    id: z.string().describe('Id of the object; what was asked for where there is no such object'),
    name: z.string(),
    state: z
      .enum(['pending', 'running', 'done', 'failed', 'skipped'])
      .describe('skipped: there was nothing to do, or it was not begun any more'),
    message: z.string().describe('What is being done, or how it ended'),
    taskId: z.string().nullable().describe('The task that does it, where it is one of its own'),
    error: errorBody.shape.error.nullable().describe('Why it failed'),
  })
  .meta({ id: 'TaskItem' });
export type TaskItem = z.output<typeof taskItem>;

export const task = z
  .object({
    id: z.uuid(),
    type: z.string().describe('noun.verb, such as vm.start'),
    target: subject,
    project: z.string(),
    state: taskState,
    steps: z.array(taskStep),
    progress: taskProgress,
    items: z.array(taskItem).describe('Where it works on several objects one by one: how each gets on'),
    parentId: z.string().nullable().describe('The task that this one is a part of'),
    error: errorBody.shape.error.nullable().describe('Why it failed'),
    requestedBy: z.string().describe('Who asked for it: a token, a local user, or the daemon itself'),
    createdAt: timestamp,
    startedAt: timestamp.nullable(),
    endedAt: timestamp.nullable(),
    deadline: timestamp.nullable().describe('It is cancelled and undone when it has not ended by then'),
  })
  .meta({ id: 'Task' });
export type Task = z.output<typeof task>;

export const taskRoutes = {
  list: route({
    method: 'GET',
    path: '/v1/tasks',
    tag: 'tasks',
    summary: 'List tasks, newest first',
    permission: 'task.read',
    query: listQuery,
    response: page('TaskPage', task),
    errors: [],
  }),
  get: route({
    method: 'GET',
    path: '/v1/tasks/{task}',
    tag: 'tasks',
    summary: 'Read a task',
    permission: 'task.read',
    response: task,
    errors: ['not_found'],
  }),
  cancel: route({
    method: 'POST',
    path: '/v1/tasks/{task}/cancel',
    tag: 'tasks',
    summary: 'Cancel a task; what it did is undone',
    permission: 'task.cancel',
    status: 202,
    response: task,
    errors: ['not_found', 'wrong_state'],
  }),
} as const satisfies RouteTable;
