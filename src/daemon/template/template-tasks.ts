// The long operations on templates: adding a version, which is the first for a new one, and deleting.
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import * as z from 'zod';
import { LodgeError } from '../../api/errors.ts';
import { vmSpec } from '../../api/vm-spec.ts';
import { type Vm } from '../../api/vm.ts';
import { defineTask, type TaskStep, type TaskType } from '../task/task.ts';
import { freezeDisks } from '../vm/freeze-disks.ts';
import { type VmStepParts } from '../vm/vm-step.ts';
import { holderOf, templateFirmware, type TemplateRecords } from './template-records.ts';

const versionInput = z.strictObject({
  /** The template. */
  id: z.string(),
  version: z.int(),
  vm: z.strictObject({ id: z.string(), name: z.string() }),
  snapshot: z.string().nullable(),
  spec: vmSpec,
  disks: z.array(z.strictObject({ name: z.string(), volume: z.null(), image: z.null(), sizeMib: z.int().nullable() })),
  /** Frozen layers by the name of the disk; without them, the VM's disks are frozen. */
  layers: z.record(z.string(), z.string()).optional(),
  /** Folder with what the VM's firmware remembers. */
  firmware: z.string(),
  /** What was taken out of its system; null: it is as it was. */
  sealed: z.array(z.string()).nullable(),
});
export type VersionInput = z.input<typeof versionInput>;
const deletionInput = z.strictObject({ id: z.string(), version: z.int().nullable() });
type VersionStep = TaskStep<z.output<typeof versionInput>, Record<string, unknown>, unknown>;

export interface TemplateTasks {
  addVersion: TaskType<z.input<typeof versionInput>>;
  delete: TaskType<z.input<typeof deletionInput>>;
}

export interface TemplateTaskParts extends VmStepParts {
  templates: TemplateRecords;
  /** Folder in which every template has its own. */
  templatesDirectory: string;
}

const freezeTimeoutMs = 180_000;
const hostTimeoutMs = 60_000;

export function templateTasks(parts: TemplateTaskParts): TemplateTasks {
  return {
    addVersion: defineTask({
      type: 'template.addVersion',
      input: versionInput,
      steps: [keepDisks(parts), showVersion(parts)],
    }),
    delete: defineTask({
      type: 'template.delete',
      input: deletionInput,
      steps: [
        {
          name: 'give up the disks',
          timeoutMs: hostTimeoutMs,
          isPivot: true,
          run: async ({ input: { id, version } }) => {
            const { collection } = parts.templates;
            const found = collection.get(id);
            if (!found) return;
            const { versions } = found.status;
            const gone = versions.filter((one) => version === null || one.version === version);
            for (const one of gone) await forgetVersion(parts, id, one.version);
            if (version === null) {
              await rm(join(parts.templatesDirectory, id), { recursive: true, force: true });
              await collection.delete(id);
            } else
              await collection.setStatus(id, (status) => ({
                ...status,
                versions: status.versions.filter((one) => one.version !== version),
              }));
          },
        },
      ],
    }),
  };
}

/** The frozen disks of the VM, held by the version, and what it was asked to be. */
function keepDisks(parts: TemplateTaskParts): VersionStep {
  return {
    name: 'freeze the disks',
    timeoutMs: freezeTimeoutMs,
    run: async ({ input: { id, version, vm, spec, disks, layers: given, firmware: from }, taskId, signal }) => {
      if (await parts.templates.origin(id, version)) return;
      const holder = holderOf(id, version);
      if (given) await parts.volumes.layers.hold(Object.values(given), holder);
      const layers = given ?? (await freezeDisks(parts, vm.id, { key: taskId, holder, signal }));
      // Keys in a TPM are one VM's: those that are made of the template begin with a TPM of their own.
      const to = templateFirmware(parts, id, version);
      await parts.driver.copyFirmware({ from, to, uid: null, hasTpm: false, isDurable: true });
      const own: Vm['status']['disks'] = disks;
      await parts.templates.keepOrigin(id, version, { spec, disks: own, layers });
    },
    undo: async ({ input: { id, version } }) => {
      await forgetVersion(parts, id, version);
      const found = parts.templates.collection.get(id);
      // The first version is what makes a template.
      if (found?.status.versions.length === 0) await parts.templates.collection.delete(id);
    },
  };
}

function showVersion(parts: TemplateTaskParts): VersionStep {
  return {
    name: 'finish',
    timeoutMs: hostTimeoutMs,
    run: async ({ input: { id, version, vm, snapshot, disks, sealed } }) => {
      const at = new Date().toISOString();
      if (!parts.templates.collection.get(id))
        throw new LodgeError('not_found', 'The template does not exist any more: it was deleted meanwhile.');
      await parts.templates.collection.setStatus(id, (status) => ({
        ...status,
        state: 'ready',
        reason: 'VMs can be made of it.',
        versions: [
          ...status.versions.filter((one) => one.version !== version),
          {
            version,
            createdAt: at,
            vm: vm.name,
            snapshot,
            disks: disks.map(({ name, sizeMib }) => ({ name, sizeMib })),
            sealed,
            memory: null,
          },
        ].toSorted((left, right) => left.version - right.version),
      }));
    },
    undo: async ({ input: { id, version } }) => {
      if (!parts.templates.collection.get(id)) return;
      await parts.templates.collection.setStatus(id, (status) => ({
        ...status,
        versions: status.versions.filter((one) => one.version !== version),
      }));
    },
  };
}

/** Gives up what is kept of a version. Can be repeated. */
export async function forgetVersion(parts: TemplateTaskParts, id: string, version: number): Promise<void> {
  await rm(templateFirmware(parts, id, version), { recursive: true, force: true });
  await parts.templates.forgetOrigin(id, version);
  await parts.volumes.layers.release(holderOf(id, version));
}
