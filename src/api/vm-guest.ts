// What the agent in the guest tells and does: facts, programs, files, freezing of file systems.
import * as z from 'zod';
import { inProject } from './object.ts';
import { bytes, eventStream, noContent, route, type RouteTable } from './route.ts';
import { guestInfo, guestMetrics } from './vm-guest-info.ts';

export const execRequest = z
  .strictObject({
    command: z.array(z.string().max(131_072)).min(1).max(1000).describe('Program and arguments; no shell'),
    environment: z
      .array(z.string().regex(/^[A-Za-z_][A-Za-z0-9_]*=/, 'is NAME=value'))
      .max(200)
      .default([]),
    input: z.base64().max(1_048_576).optional().describe('For its standard input, base64'),
    timeoutS: z.int().min(1).max(86_400).default(600).describe('Seconds; then the wait ends'),
  })
  .meta({ id: 'GuestExec' });

export const execOutput = z
  .discriminatedUnion('type', [
    z.object({ type: z.literal('started'), pid: z.int() }),
    z.object({ type: z.literal('stdout'), data: z.base64() }),
    z.object({ type: z.literal('stderr'), data: z.base64() }),
    z.object({ type: z.literal('exit'), code: z.int().nullable(), signal: z.int().nullable() }),
  ])
  .meta({ id: 'GuestExecOutput' });
export type ExecOutput = z.output<typeof execOutput>;

const guestPath = z
  .string()
  .min(1)
  .max(4096)
  .regex(/^[^\0]+$/, 'is a path in the guest');
const errors = ['not_found', 'wrong_state', 'agent_unavailable', 'unsupported', 'hypervisor_failed'] as const;
const frozen = z
  .object({ fileSystems: z.int().describe('How many were frozen or thawed') })
  .meta({ id: 'FrozenFileSystems' });

export const vmGuestRoutes = {
  guestInfo: route({
    method: 'GET',
    path: '/v1/vms/{vm}/guest',
    tag: 'guest agent',
    summary: 'Ask the guest about itself',
    permission: 'vm.read',
    query: inProject,
    response: guestInfo,
    errors,
  }),
  guestMetrics: route({
    method: 'GET',
    path: '/v1/vms/{vm}/guest/metrics',
    tag: 'guest agent',
    summary: 'Ask the guest what it measures of itself',
    description:
      'Load, memory, vCPU time, disks and interfaces as the guest counts them. What the node measures from outside is in GET /v1/vms-usage.',
    permission: 'vm.read',
    query: inProject,
    response: guestMetrics,
    errors,
  }),
  exec: route({
    method: 'POST',
    path: '/v1/vms/{vm}/exec',
    tag: 'guest agent',
    summary: 'Run a program in the guest and follow its output',
    permission: 'vm.guest',
    query: inProject,
    body: execRequest,
    response: eventStream(execOutput, 'Output as it comes, then its exit'),
    errors,
  }),
  readFile: route({
    method: 'GET',
    path: '/v1/vms/{vm}/files',
    tag: 'guest agent',
    summary: 'Copy a file out of the guest',
    permission: 'vm.guest',
    query: inProject.extend({ path: guestPath }),
    response: bytes('application/octet-stream', 'Content of the file'),
    errors,
  }),
  writeFile: route({
    method: 'PUT',
    path: '/v1/vms/{vm}/files',
    tag: 'guest agent',
    summary: 'Copy a file into the guest',
    permission: 'vm.guest',
    query: inProject.extend({ path: guestPath }),
    body: bytes('application/octet-stream', 'Content of the file'),
    status: 204,
    response: noContent,
    errors,
  }),
  freeze: route({
    method: 'POST',
    path: '/v1/vms/{vm}/freeze',
    tag: 'guest agent',
    summary: 'Freeze the guest’s file systems',
    permission: 'vm.guest',
    query: inProject,
    response: frozen,
    errors,
  }),
  thaw: route({
    method: 'POST',
    path: '/v1/vms/{vm}/thaw',
    tag: 'guest agent',
    summary: 'Thaw the guest’s file systems',
    permission: 'vm.guest',
    query: inProject,
    response: frozen,
    errors,
  }),
} as const satisfies RouteTable;
