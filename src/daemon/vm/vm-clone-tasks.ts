// Cloning a VM, as a task: objects for the clones, their disks from one moment of the original, and what a new VM gets.
//
// The task is about its clones and not about their original, which is only looked at: any number of them run at once.
// All clones of one request come to be, or none.
import { mkdir, rm } from 'node:fs/promises';
import * as z from 'zod';
import { cloneMode, cloneTpm } from '../../api/vm-clone.ts';
import { type VmLineage } from '../../api/vm-fork.ts';
import { vmSpec } from '../../api/vm-spec.ts';
import { type Vm } from '../../api/vm.ts';
import { labels } from '../../api/object.ts';
import { type LayerHolder } from '../volume/layer.ts';
import { defineTask, type StepProgress, type TaskRecord, type TaskStep, type TaskType } from '../task/task.ts';
import { imageOf, vmDirectory } from './definition.ts';
import { freezeDisks } from './freeze-disks.ts';
import { needsSeed } from './hardware.ts';
import { alignHardware } from './vm-make-steps.ts';
import { initialVmStatus, vmSubject } from './vm-records.ts';
import { hostTimeoutMs, type VmStepParts } from './vm-step.ts';

const input = z.strictObject({
  /** What they are made of. */
  parent: z.strictObject({ kind: z.enum(['vm', 'template']), id: z.string(), name: z.string() }),
  copies: z.array(z.strictObject({ id: z.string(), name: z.string() })).min(1),
  project: z.string(),
  labels,
  /** What each clone asks for. */
  spec: vmSpec,
  mode: cloneMode,
  /** Frozen layers by the name of the disk; without them, the original's disks are frozen. */
  layers: z.record(z.string(), z.string()).optional(),
  /** Folder with what firmware and TPM of the original remember: the VM's own, or that of a snapshot or a template. */
  firmware: z.string(),
  tpm: cloneTpm,
  isStarted: z.boolean(),
});
export type CloneInput = z.input<typeof input>;
type CloneStep = TaskStep<z.output<typeof input>, { layers: Record<string, string> }, unknown>;

const freezeTimeoutMs = 180_000;
const disksTimeoutMs = 6 * 3_600_000;
/** Clones that are worked on at a time: copying whole disks wants the disk for itself. */
const atOnce = { linked: 8, full: 2 } as const;

export interface CloneTaskParts extends VmStepParts {
  /** Starts a VM by a task of its own. */
  start: (vm: Vm, requestedBy: string) => Promise<TaskRecord>;
  requestedBy: (taskId: string) => string;
}

export function cloneTask(parts: CloneTaskParts): TaskType<CloneInput> {
  return defineTask({
    type: 'vm.clone',
    input,
    exclusiveKey: ({ copies }) => `vm-clone/${copies[0]?.id}`,
    state: z.object({ layers: z.record(z.string(), z.string()) }),
    steps: [
      makeObjects(parts),
      freezeOriginal(parts),
      copyFirmware(parts),
      makeDisks(parts),
      finishClones(parts),
      startClones(parts),
    ],
  });
}

/** For people: "linked clone of VM web1". */
function madeAs({ kind, name }: CloneInput['parent'], mode: string): string {
  return kind === 'template' ? `${mode} copy of template ${name}` : `${mode} clone of VM ${name}`;
}

function holderOf(taskId: string): LayerHolder {
  return { kind: 'clone', id: taskId };
}

/** Objects, users, addresses and folders of the clones. */
function makeObjects(parts: CloneTaskParts): CloneStep {
  const { records } = parts;
  return {
    name: 'prepare the clones',
    timeoutMs: hostTimeoutMs,
    run: async ({ input: { parent, copies, project, labels: ownLabels, spec, mode }, taskId }) => {
      const original = parent.kind === 'vm' ? records.collection.get(parent.id) : null;
      const at = new Date().toISOString();
      const lineage: VmLineage = {
        kind: parent.kind === 'template' ? 'template' : `${mode}-clone`,
        parentId: parent.id,
        parentName: parent.name,
        forkId: taskId,
        at,
        hasOwnIdentity: false,
        identityBy: needsSeed(spec, imageOf(parts, { project, spec })) ? 'cloud-init' : 'agent',
      };
      for (const copy of copies) {
        if (records.collection.get(copy.id)) continue;
        await mkdir(vmDirectory(parts, copy.id), { recursive: true, mode: 0o711 });
        const status: Vm['status'] = {
          ...initialVmStatus(at),
          reason: `It is being made as a ${madeAs(parent, mode)}.`,
          node: parts.node,
          uid: parts.uids.take(records.collection.all()),
          taskId,
          // Its system is to find the hardware that it knows.
          pinned: original?.status.pinned ?? null,
          lineage,
        };
        await records.collection.create({ ...copy, project, labels: ownLabels, spec, status });
      }
      await parts.networks.membersChanged();
    },
    undo: async ({ input: { copies } }) => {
      for (const { id } of copies) {
        await rm(vmDirectory(parts, id), { recursive: true, force: true });
        if (records.collection.get(id)) await records.collection.delete(id);
      }
      await parts.networks.membersChanged();
      parts.images.planShowUsers();
    },
  };
}

/** The disks of the original, as they are in one moment, which are held until the clones have theirs. */
function freezeOriginal(parts: CloneTaskParts): CloneStep {
  return {
    name: 'freeze the disks',
    timeoutMs: freezeTimeoutMs,
    run: async ({
      input: {
        parent: { id },
        layers: given,
      },
      taskId,
      state,
      signal,
      remember,
    }) => {
      if (state.layers) return;
      if (given) {
        await parts.volumes.layers.hold(Object.values(given), holderOf(taskId));
        await remember({ layers: given });
        return;
      }
      const layers = await freezeDisks(parts, id, { key: taskId, holder: holderOf(taskId), signal });
      await remember({ layers });
    },
    undo: ({ taskId }) => parts.volumes.layers.release(holderOf(taskId)),
  };
}

/** Boot entries and keys of the firmware are needed to boot from the disks, and the TPM's to open those that it sealed. */
function copyFirmware(parts: CloneTaskParts): CloneStep {
  const { records, driver } = parts;
  return {
    name: 'copy what the firmware remembers',
    timeoutMs: hostTimeoutMs,
    run: async ({ input: { copies, firmware: from, tpm, spec } }) => {
      for (const { id, name } of copies) {
        const directory = vmDirectory(parts, id);
        const { uid, pinned } = records.byId(id).status;
        await driver.copyFirmware({ from, to: directory, uid, hasTpm: tpm === 'copy', isDurable: true });
        if (tpm === 'new' && spec.tpm?.isEnabled)
          await driver.resetFirmware({ id, name, directory, spec, firmware: pinned?.firmware ?? 'uefi' }, 'tpm');
      }
    },
  };
}

function makeDisks(parts: CloneTaskParts): CloneStep {
  const { records } = parts;
  return {
    name: 'make disks',
    weight: 5,
    timeoutMs: disksTimeoutMs,
    run: async ({ input: { copies, mode }, state, signal, progress }) => {
      const done = new Map<string, number>();
      const tell = (id: string, percent: number, message: string): void => {
        done.set(id, percent);
        const sum = [...done.values()].reduce((total, one) => total + one, 0);
        progress({ percent: sum / copies.length, message } satisfies StepProgress);
      };
      await forEachOf(copies, atOnce[mode], signal, async ({ id, name }) => {
        const vm = records.byId(id);
        const layers = Object.entries(state.layers ?? {});
        const own: Vm['status']['disks'] = [];
        for (const [index, [disk, layerId]] of layers.entries()) {
          const target = { name: disk };
          const onProgress = (percent: number): void =>
            tell(id, (100 * index + percent) / layers.length, `${name}, disk ${disk}`);
          const volume =
            mode === 'linked'
              ? await parts.volumes.provideOn(vm, target, layerId)
              : await parts.volumes.provideCopy(vm, target, layerId, { signal, onProgress });
          const { imageId, virtualSizeMib } = volume.status;
          own.push({ name: disk, volume: volume.id, image: imageId, sizeMib: virtualSizeMib });
        }
        await records.patch(id, { disks: own });
        await alignHardware(parts, id);
        tell(id, 100, name);
      });
    },
    undo: async ({ input: { copies } }) => {
      for (const { id } of copies) await parts.volumes.surrender({ id });
    },
  };
}

/** The clones are complete. */
function finishClones(parts: CloneTaskParts): CloneStep {
  const { records } = parts;
  return {
    name: 'finish',
    timeoutMs: hostTimeoutMs,
    isPivot: true,
    run: async ({ input: { parent, copies, mode }, taskId }) => {
      for (const { id } of copies) {
        const vm = records.collection.get(id);
        if (vm?.status.state !== 'creating') continue;
        await records.transition(id, 'stopped', `It was made as a ${madeAs(parent, mode)}.`);
        await parts.events.record({
          type: 'vm.cloned',
          subject: vmSubject(vm),
          message: `VM ${vm.name} was made as a ${madeAs(parent, mode)}.`,
          details: { parentId: parent.id, mode },
        });
      }
      // From here on the clones themselves need the layers, where they are linked.
      await parts.volumes.layers.release(holderOf(taskId));
    },
  };
}

/** Starts what is to be started. Whether a clone comes up is its own task's to say. */
function startClones(parts: CloneTaskParts): CloneStep {
  const { records } = parts;
  return {
    name: 'start the clones',
    timeoutMs: hostTimeoutMs,
    run: async ({ input: { copies, isStarted }, taskId, log }) => {
      for (const { id } of copies) {
        await records.releaseTask(id, taskId);
        const vm = records.collection.get(id);
        if (!isStarted || vm?.status.state !== 'stopped') continue;
        await parts.start(vm, parts.requestedBy(taskId)).catch(async (error: unknown) => {
          log.warn({ err: error, vm: vm.name }, 'a clone could not be started');
          await parts.events.record({
            type: 'vm.start-failed',
            severity: 'error',
            subject: vmSubject(vm),
            message: `VM ${vm.name} could not be started: ${error instanceof Error ? error.message : 'for no known reason'}`,
          });
        });
      }
    },
  };
}

/** Does something to each, some at a time; ends with the first failure. */
async function forEachOf<Item>(
  items: readonly Item[],
  most: number,
  signal: AbortSignal,
  work: (item: Item) => Promise<void>,
): Promise<void> {
  const left = items.values();
  const failures: unknown[] = [];
  const worker = async (): Promise<void> => {
    for (const item of left) {
      signal.throwIfAborted();
      if (failures.length > 0) return;
      await work(item).catch((error: unknown) => failures.push(error));
    }
  };
  await Promise.all(Array.from({ length: Math.min(most, items.length) }, worker));
  if (failures.length > 0) throw failures[0];
}
