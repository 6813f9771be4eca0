// Templates: disks and spec of a VM, kept in versions, for new VMs to begin with.
import * as z from 'zod';
import {
  inProject,
  labels,
  listQuery,
  metadata,
  objectName,
  objectReference,
  page,
  projectName,
  timestamp,
  update,
} from './object.ts';
import { route, type RouteTable } from './route.ts';
import { task } from './task.ts';
import { cloneMode, vmFromOtherErrors } from './vm-clone.ts';
import { maxMemoryMib, maxVcpus, minMemoryMib, vmCloudInit, vmNic, vmSpec } from './vm-spec.ts';

export const templateSpec = z
  .strictObject({ description: z.string().max(1000).default('') })
  .meta({ id: 'TemplateSpec' });

const versionNumber = z.int().min(1).max(1_000_000_000);

export const templateMemory = z
  .object({
    state: z
      .enum(['ready', 'outdated', 'damaged'])
      .describe('outdated: QEMU or the processor is another since; damaged: its files are not as they were saved'),
    reason: z.string(),
    memoryMib: z.int().describe('Of a VM that goes on from it, MiB'),
    savedMib: z.int().describe('What is kept of it on disk, MiB'),
    image: z.string().nullable().describe('Image that the VM was booted from which was saved; null: from a version'),
    version: z.int().nullable().describe('Version of this template that it was booted from; null: from an image'),
  })
  .meta({ id: 'TemplateMemory' });
export type TemplateMemory = z.output<typeof templateMemory>;

export const templateVersion = z
  .object({
    version: versionNumber,
    createdAt: timestamp,
    vm: z.string().describe('VM it was made from, by the name that this had'),
    snapshot: z.string().nullable().describe('Snapshot of that VM; null: as the VM was at that moment'),
    disks: z.array(z.object({ name: z.string(), sizeMib: z.int().nullable() })),
    sealed: z
      .array(z.string())
      .nullable()
      .describe('What its guest found and took out of itself: machine-id, logs; null: it was not sealed'),
    memory: templateMemory
      .nullable()
      .describe('Memory of a booted guest, from which new VMs go on instead of booting (lodge vm prepare)'),
  })
  .meta({ id: 'TemplateVersion' });

export const templateStatus = z
  .object({
    state: z.enum(['pending', 'ready', 'deleting']),
    reason: z.string(),
    lastVersion: z.int().min(0).describe('The highest number that was given to a version'),
    versions: z.array(templateVersion).describe('Oldest first'),
  })
  .meta({ id: 'TemplateStatus' });
export type TemplateStatus = z.output<typeof templateStatus>;

export const template = z.object({ ...metadata, spec: templateSpec, status: templateStatus }).meta({ id: 'Template' });
export type Template = z.output<typeof template>;

const source = {
  vm: objectReference.describe('VM whose disks and spec it is to have'),
  snapshot: objectReference.optional().describe('Snapshot of that VM. Without it, as the VM is now'),
  isSealed: z
    .boolean()
    .default(false)
    .describe(
      'Take out of its system what no two should have in common: machine id, ssh host keys, cloud-init’s state, logs, histories. A copy of the VM is started for it, without network, and its guest agent asked; the VM itself stays as it is. For Linux with an agent',
    ),
};

const createBody = z
  .strictObject({
    name: objectName,
    project: projectName,
    labels: labels.default({}),
    spec: templateSpec.prefault({}),
    ...source,
  })
  .meta({ id: 'TemplateCreate' });
export type TemplateCreate = z.output<typeof createBody>;

const prepareBody = z
  .strictObject({
    project: projectName,
    name: objectName
      .optional()
      .describe('With a spec: the template that is made, or gets another version. Without it, the image’s name'),
    spec: vmSpec.optional().describe('The VM that is booted and saved'),
    template: objectReference.optional().describe('Instead of a spec: a template of which a VM is booted and saved'),
    version: versionNumber.optional().describe('Of that template. Without it, the newest without memory'),
  })
  .meta({ id: 'TemplatePrepare' });
export type TemplatePrepare = z.output<typeof prepareBody>;

const deployBody = z
  .strictObject({
    name: objectName.describe('Name of the new VM; with a count above 1, what the numbers follow'),
    count: z.int().min(1).max(200).default(1).describe('New VMs, all or none'),
    version: versionNumber.optional().describe('Without it, the newest; only with isWarm one that has memory'),
    isWarm: z
      .boolean()
      .default(false)
      .describe(
        'Go on from the memory of a prepared version, where there is one for what is asked; else boot, and the event vm.started-cold says why',
      ),
    mode: cloneMode.default('linked'),
    isStarted: z.boolean().default(false).describe('Start them when they are made, each by a task of its own'),
    labels: labels.default({}),
    changes: z
      .strictObject({
        description: z.string().max(1000).optional(),
        cpu: z.strictObject({ count: z.int().min(1).max(maxVcpus) }).optional(),
        memoryMib: z.int().min(minMemoryMib).max(maxMemoryMib).optional().describe('MiB'),
        nics: z.array(vmNic).max(32).optional(),
        cloudInit: vmCloudInit.optional(),
        autostart: z.boolean().optional(),
        instanceType: objectReference.optional(),
        profiles: z.array(objectReference).max(20).optional(),
      })
      .prefault({})
      .describe('Fields of the spec that are to be other than in the template'),
  })
  .meta({ id: 'TemplateDeploy' });
export type TemplateDeploy = z.output<typeof deployBody>;

const one = { tag: 'templates', query: inProject } as const;

export const templateRoutes = {
  list: route({
    method: 'GET',
    path: '/v1/templates',
    tag: 'templates',
    summary: 'List templates',
    permission: 'template.read',
    query: listQuery,
    response: page('TemplatePage', template),
    errors: [],
  }),
  create: route({
    method: 'POST',
    path: '/v1/templates',
    tag: 'templates',
    summary: 'Make a template of a VM or its snapshot',
    description: 'Its first version. The VM may run, and goes on.',
    permission: 'template.create',
    body: createBody,
    status: 202,
    response: task,
    errors: vmFromOtherErrors,
    isIdempotentByKey: true,
  }),
  get: route({
    ...one,
    method: 'GET',
    path: '/v1/templates/{template}',
    summary: 'Read a template with its versions',
    permission: 'template.read',
    response: template,
    errors: ['not_found'],
  }),
  update: route({
    ...one,
    method: 'PUT',
    path: '/v1/templates/{template}',
    summary: 'Change labels or description of a template',
    permission: 'template.update',
    body: update('TemplateUpdate', templateSpec),
    response: template,
    errors: ['not_found', 'revision_conflict', 'wrong_state'],
  }),
  addVersion: route({
    ...one,
    method: 'POST',
    path: '/v1/templates/{template}/versions',
    summary: 'Add a version to a template',
    permission: 'template.create',
    body: z.strictObject(source).meta({ id: 'TemplateAddVersion' }),
    status: 202,
    response: task,
    errors: vmFromOtherErrors,
    isIdempotentByKey: true,
  }),
  prepare: route({
    method: 'POST',
    path: '/v1/templates/prepare',
    tag: 'templates',
    summary: 'Boot a VM and keep it, booted, for new VMs to go on from',
    description:
      'Makes a VM, waits until the agent in its guest answers, saves its memory and disks as a version of a template, and deletes the VM. New VMs that ask for it (warm) go on from there. It takes the place of what was prepared from the same image or version before.',
    permission: 'template.create',
    body: prepareBody,
    status: 202,
    response: task,
    errors: [...vmFromOtherErrors, 'agent_unavailable'],
    isIdempotentByKey: true,
  }),
  deploy: route({
    ...one,
    method: 'POST',
    path: '/v1/templates/{template}/deploy',
    summary: 'Make new VMs of a template',
    description:
      'As clones of a VM are made, also what becomes of their identity. They are the VMs whose status.lineage.forkId is the id of the task.',
    permission: 'vm.create',
    body: deployBody,
    status: 202,
    response: task,
    errors: vmFromOtherErrors,
    isIdempotentByKey: true,
  }),
  delete: route({
    method: 'DELETE',
    path: '/v1/templates/{template}',
    tag: 'templates',
    summary: 'Delete a template, or a version of it',
    description: 'VMs that were made of it stay, with what they read from its disks.',
    permission: 'template.delete',
    query: inProject.extend({
      version: z.coerce
        .number<number | string>()
        .int()
        .min(1)
        .optional()
        .describe('Only this version. Without it, the template with all of them'),
    }),
    status: 202,
    response: task,
    errors: ['not_found', 'busy', 'wrong_state'],
  }),
} as const satisfies RouteTable;
