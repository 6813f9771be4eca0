// Profiles: named sets of fields of a VM's spec. A VM names several; what it says itself wins. What they give is taken
// over when a VM is made, when its list of profiles changes, and when somebody applies them: expand-spec.ts has the
// rules, docs/decisions/profiles.md the reasons.
import * as z from 'zod';
import { errorBody } from './errors.ts';
import { creation, inProject, listQuery, metadata, objectReference, page, update } from './object.ts';
import { withoutDefaults, type Partially } from './partial-schema.ts';
import { route, type RouteTable } from './route.ts';
import { vmSmbios } from './vm-firmware.ts';
import { vmCloudInit, vmNic, vmSpec, type VmSpecInput } from './vm-spec.ts';

/** Fields that say what one VM is, or hold its data, so that no profile has them. */
const fieldsOfOneVm = {
  description: true,
  image: true,
  disks: true,
  instanceType: true,
  profiles: true,
  inherited: true,
} as const;

const { hostname: _hostname, password: _password, ...firstBoot } = vmCloudInit.shape;
const { uuid: _uuid, serial: _serial, ...machineIdentity } = vmSmbios.shape;

export type ProfileFields = Partially<Omit<VmSpecInput, keyof typeof fieldsOfOneVm>>;
export type ProfileSpec = ProfileFields & { description: string };
export type ProfileSpecInput = ProfileFields & { description?: string | undefined };

/** What a profile may set of a VM's spec, each field checked as that of a VM is. */
export const profileSpec = withoutDefaults({
  ...vmSpec.omit(fieldsOfOneVm).shape,
  cloudInit: withoutDefaults(firstBoot).describe(
    'First-boot data, but for host name and password. userData is shown as (hidden) to who may not change profiles',
  ),
  smbios: withoutDefaults(machineIdentity).describe('What guests are told of their machine, but for UUID and serial'),
  nics: z
    .array(vmNic.omit({ mac: true, ipv4Address: true, ipv6Address: true, forwards: true }))
    .max(32)
    .describe('All NICs, but for their addresses'),
})
  .extend({ description: z.string().max(1000).default('') })
  .meta({ id: 'ProfileSpec' }) as unknown as z.ZodType<ProfileSpec, ProfileSpecInput>;

/** Status of a profile or an instance type. */
export const sourceStatus = z
  .object({
    usedBy: z.array(z.string()).describe('Names of VMs that name it'),
    outdated: z
      .array(z.string())
      .describe('Of these, those that have not taken what it, or another that they name, has changed to'),
  })
  .meta({ id: 'SourceStatus' });
export type SourceStatus = z.output<typeof sourceStatus>;

export const profile = z.object({ ...metadata, spec: profileSpec, status: sourceStatus }).meta({ id: 'Profile' });
export type Profile = z.output<typeof profile>;

/** Which VMs are to be brought up to date. */
export const sourceApply = z
  .strictObject({
    vms: z.array(objectReference).max(1000).optional().describe('Only these. Without it, all that name it'),
  })
  .meta({ id: 'SourceApply' });

/** What became of each VM. */
export const sourceApplied = z
  .object({
    items: z.array(
      z.object({
        id: z.string(),
        name: z.string(),
        result: z
          .enum(['changed', 'unchanged', 'failed'])
          .describe('changed: its spec is. What waits for a restart is in its status.pendingChanges'),
        fields: z.array(z.string()).describe('Fields of its spec that were changed'),
        taskId: z.string().nullable().describe('Task that makes the change while it runs'),
        error: errorBody.shape.error.nullable(),
      }),
    ),
  })
  .meta({ id: 'SourceApplied' });
export type SourceApplied = z.output<typeof sourceApplied>;

const one = { tag: 'profiles', query: inProject } as const;

export const profileRoutes = {
  list: route({
    method: 'GET',
    path: '/v1/profiles',
    tag: 'profiles',
    summary: 'List profiles',
    permission: 'profile.read',
    query: listQuery,
    response: page('ProfilePage', profile),
    errors: [],
  }),
  create: route({
    method: 'POST',
    path: '/v1/profiles',
    tag: 'profiles',
    summary: 'Create a profile',
    permission: 'profile.create',
    body: creation('ProfileCreate', profileSpec),
    status: 201,
    response: profile,
    errors: ['name_taken', 'idempotency_conflict'],
    isIdempotentByKey: true,
  }),
  get: route({
    ...one,
    method: 'GET',
    path: '/v1/profiles/{profile}',
    summary: 'Read a profile',
    permission: 'profile.read',
    response: profile,
    errors: ['not_found'],
  }),
  update: route({
    ...one,
    method: 'PUT',
    path: '/v1/profiles/{profile}',
    summary: 'Change a profile',
    description:
      'VMs that name it stay what they are until apply: status.profileChanges of each shows what it has not taken yet.',
    permission: 'profile.update',
    body: update('ProfileUpdate', profileSpec),
    response: profile,
    errors: ['not_found', 'revision_conflict'],
  }),
  delete: route({
    method: 'DELETE',
    path: '/v1/profiles/{profile}',
    tag: 'profiles',
    summary: 'Delete a profile',
    permission: 'profile.delete',
    query: inProject.extend({
      force: z
        .stringbool()
        .or(z.boolean())
        .default(false)
        .describe('Also when VMs name it: they keep what they have of it as their own'),
    }),
    response: profile,
    errors: ['not_found', 'in_use'],
  }),
  apply: route({
    ...one,
    method: 'POST',
    path: '/v1/profiles/{profile}/apply',
    summary: 'Bring VMs that name a profile up to date',
    description:
      'They take over all their profiles and their instance type as these are now. Each is changed as by an update: what can change while it runs does, the rest waits for a restart.',
    permission: 'vm.update',
    body: sourceApply,
    response: sourceApplied,
    errors: ['not_found'],
  }),
} as const satisfies RouteTable;
