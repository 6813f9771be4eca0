// Events: what happened, kept for people and programs; and the stream of every change to every object.
import * as z from 'zod';
import { listQuery, page, subject, timestamp } from './object.ts';
import { eventStream, route, type RouteTable } from './route.ts';

export const event = z
  .object({
    id: z.uuid(),
    at: timestamp,
    type: z.string().describe('noun.what-happened, such as vm.guest-shutdown'),
    severity: z.enum(['info', 'warning', 'error']),
    subject,
    project: z.string().describe('Project of the subject'),
    message: z.string().describe('One sentence'),
    details: z.record(z.string(), z.unknown()).describe('Numbers and names behind the sentence'),
  })
  .meta({ id: 'Event' });
export type Event = z.output<typeof event>;

/** Kinds of object whose changes are streamed. */
export const changeKind = z.enum([
  'node',
  'vm',
  'image',
  'volume',
  'snapshot',
  'network',
  'security-group',
  'address-set',
  'template',
  'group',
  'profile',
  'instance-type',
  'task',
  'event',
]);
export type ChangeKind = z.output<typeof changeKind>;

/** One change of one object. `object` has the kind's own schema and is null when it was deleted. */
export const change = z
  .object({
    revision: z.int().nonnegative().describe('Store revision: resume the stream after it with ?since='),
    type: z
      .enum(['created', 'updated', 'deleted', 'synced'])
      .describe('synced: all that happened before the stream began has been sent'),
    kind: changeKind.nullable(),
    id: z.string().nullable(),
    object: z.unknown(),
  })
  .meta({ id: 'Change' });
export type Change = z.output<typeof change>;

export const eventRoutes = {
  list: route({
    method: 'GET',
    path: '/v1/events',
    tag: 'events',
    summary: 'List recorded events, newest first',
    permission: 'event.read',
    query: listQuery,
    response: page('EventPage', event),
    errors: [],
  }),
  stream: route({
    method: 'GET',
    path: '/v1/events/stream',
    tag: 'events',
    summary: 'Follow every change of every object, as server-sent events',
    description:
      'Each event has the store revision as its id. To resume after a break give it as ?since= or Last-Event-ID; 410 revision_gone says that the revision is no longer kept: list again. Without since the stream begins now.',
    permission: 'event.read',
    query: z.strictObject({
      since: z.coerce
        .number<number | string>()
        .int()
        .nonnegative()
        .optional()
        .describe('Revision after which to begin'),
      kinds: z.string().max(200).optional().describe('Only these kinds, comma-separated: vm,task'),
    }),
    response: eventStream(change, 'Changes in the order of their revisions'),
    errors: ['revision_gone'],
  }),
} as const satisfies RouteTable;
