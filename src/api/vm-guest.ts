// What the agent in the guest tells and does: facts, programs, files, freezing of file systems.
import * as z from 'zod';
import { inProject } from './object.ts';
import { bytes, eventStream, noContent, route, type RouteTable } from './route.ts';

export const guestInfo = z
  .object({
    agentVersion: z.string(),
    hostname: z.string().nullable(),
    os: z
      .object({
        id: z.string().nullable(),
        name: z.string().nullable(),
        version: z.string().nullable(),
        kernel: z.string().nullable(),
        machine: z.string().nullable(),
      })
      .nullable(),
    interfaces: z.array(
      z.object({
        name: z.string(),
        mac: z.string().nullable(),
        addresses: z.array(z.object({ address: z.string(), prefix: z.int(), family: z.enum(['ipv4', 'ipv6']) })),
      }),
    ),
    fileSystems: z.array(
      z.object({
        mountPoint: z.string(),
        name: z.string(),
        type: z.string(),
        totalBytes: z.number().nullable(),
        usedBytes: z.number().nullable(),
      }),
    ),
    users: z.array(z.object({ name: z.string(), loginAt: z.string().nullable() })),
    missing: z.array(z.string()).describe('What this agent can not tell'),
  })
  .meta({ id: 'GuestInfo' });
export type GuestInfo = z.output<typeof guestInfo>;

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
