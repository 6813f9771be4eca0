// Preparing a version of a template, as a task: a VM is made and booted as any other, saved as it is when its guest is up,
// and deleted. What is kept is its memory and the layers that its disks were then, for new VMs to go on from.
//
//   VM made ──► boots ──► its agent answers, and it has come to rest ──► saved ──► shown as a version ──► VM deleted
//
// Until it is saved, a failure leaves nothing: the VM goes, and so does a template that was made for this.
import { copyFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { uuidv7 } from 'uuidv7';
import * as z from 'zod';
import { LodgeError } from '../../api/errors.ts';
import { type TemplateMemory } from '../../api/template.ts';
import { vmSpec } from '../../api/vm-spec.ts';
import { type Vm } from '../../api/vm.ts';
import { type Guest } from '../../drivers/driver.ts';
import { defineTask, type StepContext, type TaskStep, type TaskType } from '../task/task.ts';
import { imageOf, seedPath, vmDirectory } from '../vm/definition.ts';
import { forkDisks } from '../vm/fork-disks.ts';
import { needsSeed } from '../vm/hardware.ts';
import {
  deleteEverything,
  markDefined,
  provideDisks,
  settleIdentity,
  writeFirstBootData,
} from '../vm/vm-make-steps.ts';
import { startGuest } from '../vm/vm-power-steps.ts';
import { initialVmStatus } from '../vm/vm-records.ts';
import { type VmStep } from '../vm/vm-step.ts';
import { holderOf, templateFirmware, type WarmOrigin } from './template-records.ts';
import { forgetVersion, type TemplateTaskParts } from './template-tasks.ts';

const input = z.strictObject({
  /** The template. */
  id: z.string(),
  version: z.int(),
  vmId: z.string(),
  vmName: z.string(),
  project: z.string(),
  /** The VM that is booted. */
  spec: vmSpec,
  /** What it is booted from: an image, or a version of the template. */
  image: z.strictObject({ id: z.string(), name: z.string() }).nullable(),
  from: z.int().nullable(),
});
export type PrepareInput = z.input<typeof input>;
type PrepareStep = TaskStep<z.output<typeof input>, Record<string, unknown>, unknown>;

const objectsMs = 180_000;
/** A whole system under emulation takes minutes to its agent. */
const bootMs = 900_000;
const restMs = 900_000;
/** What is still under way when an agent first answers: other services, and what cloud-init starts last. */
const usualQuietMs = 3000;
const lookMs = 200;
const saveMs = 1_200_000;
const mib = 2 ** 20;
/** Says when first-boot configuration has ended; nothing where there is none. Its own failure is no reason not to go on. */
const configured = 'command -v cloud-init > /dev/null && cloud-init status --wait > /dev/null 2>&1; sync; exit 0';

/** Where the first-boot data lies that the guest has as a disk. */
export function seedOfVersion(
  parts: Pick<TemplateTaskParts, 'templatesDirectory'>,
  id: string,
  version: number,
): string {
  return join(templateFirmware(parts, id, version), 'seed.iso');
}

/** `quietMs`: how long a guest that is up is left alone before it is saved. */
export function prepareTask(
  parts: TemplateTaskParts,
  { quietMs = usualQuietMs }: { quietMs?: number } = {},
): TaskType<PrepareInput> {
  return defineTask({
    type: 'template.prepare',
    input,
    steps: [
      makeObject(parts),
      onVm(settleIdentity(parts)),
      takeVersion(parts),
      onVm(provideDisks(parts)),
      onVm(writeFirstBootData(parts)),
      onVm(markDefined(parts)),
      onVm(startGuest(parts)),
      waitForRest(parts, quietMs),
      save(parts),
      show(parts),
      { ...onVm(deleteEverything(parts)), isPivot: false },
    ],
  });
}

/** A step of those that make, start and delete any VM. */
function onVm(step: VmStep): PrepareStep {
  const about = (context: StepContext<z.output<typeof input>, Record<string, unknown>, unknown>) => ({
    ...context,
    input: { id: context.input.vmId },
  });
  return {
    ...step,
    run: (context) => step.run(about(context)),
    undo: (context) => step.undo?.(about(context)),
  };
}

function makeObject(parts: TemplateTaskParts): PrepareStep {
  const { collection } = parts.records;
  return {
    name: 'make a VM to boot',
    timeoutMs: objectsMs,
    run: async ({ input: { vmId, vmName, project, spec }, taskId }) => {
      if (collection.get(vmId)) return;
      const status = { ...initialVmStatus(new Date().toISOString()), taskId };
      await collection.create({ id: vmId, name: vmName, project, labels: {}, spec, status });
    },
    undo: async ({ input: { id, vmId } }) => {
      if (collection.get(vmId)) await collection.delete(vmId);
      const found = parts.templates.collection.get(id);
      // The first version is what makes a template.
      if (found?.status.state === 'pending') await parts.templates.collection.delete(id);
    },
  };
}

/** The disks of the version that the VM is booted from. */
function takeVersion(parts: TemplateTaskParts): PrepareStep {
  const { records, driver, templates } = parts;
  return {
    name: 'take the disks of the version',
    timeoutMs: objectsMs,
    run: async ({ input: { id, from, vmId } }) => {
      if (from === null) return;
      const origin = await templates.origin(id, from);
      if (!origin) throw new LodgeError('not_found', `Version ${from} of the template was deleted meanwhile.`);
      const vm = records.byId(vmId);
      const disks: Vm['status']['disks'] = [];
      for (const [name, layerId] of Object.entries(origin.layers)) {
        const { id: volume, status } = await parts.volumes.provideOn(vm, { name }, layerId);
        disks.push({ name, volume, image: status.imageId, sizeMib: status.virtualSizeMib });
      }
      await records.patch(vmId, { disks });
      await driver.copyFirmware({
        from: templateFirmware(parts, id, from),
        to: vmDirectory(parts, vmId),
        uid: vm.status.uid,
        hasTpm: false,
        isDurable: false,
      });
    },
    undo: ({ input: { vmId } }) => parts.volumes.surrender({ id: vmId }),
  };
}

function waitForRest(parts: TemplateTaskParts, quietMs: number): PrepareStep {
  const { records, guests } = parts;
  return {
    name: 'wait until its guest is up',
    weight: 10,
    timeoutMs: bootMs + restMs,
    run: async ({ input: { vmId, vmName }, signal, log }) => {
      for (const end = performance.now() + bootMs; !records.byId(vmId).status.isUp;) {
        const { state, reason } = records.byId(vmId).status;
        if (state !== 'running')
          throw new LodgeError('wrong_state', `VM ${vmName}, which was booted to be saved, is ${state}: ${reason}`);
        if (performance.now() > end)
          throw new LodgeError(
            'agent_unavailable',
            `No guest agent has answered in VM ${vmName} for ${bootMs / 1000} s.`,
            {
              hint: 'Only a guest whose agent answers can be prepared: it is given its identity by that.',
            },
          );
        await delay(lookMs, undefined, { signal });
      }
      await untilConfigured(guests.require(records.byId(vmId)), signal).catch((error: unknown) => {
        if (!(error instanceof LodgeError && error.code === 'unsupported')) throw error;
        log.info({ err: error, vmId }, 'a guest that is prepared can’t tell whether its first boot is over');
      });
      await delay(quietMs, undefined, { signal });
    },
  };
}

async function untilConfigured(guest: Guest, signal: AbortSignal): Promise<void> {
  const request = { command: ['/bin/sh', '-c', configured], environment: [], input: null, timeoutMs: restMs };
  for await (const _ of guest.agent.exec(request, { signal, timeoutMs: restMs }));
}

/** Memory, disks and firmware of one moment. */
function save(parts: TemplateTaskParts): PrepareStep {
  const { records, guests, driver, templates } = parts;
  return {
    name: 'save memory and disks',
    weight: 3,
    timeoutMs: saveMs,
    run: async ({ input: { id, version, vmId, image, from }, taskId, signal }) => {
      if (await templates.origin(id, version)) return;
      // What a run that was broken off has saved is of another moment.
      await forgetVersion(parts, id, version);
      const vm = records.byId(vmId);
      const spec = vm.status.startedSpec ?? vm.spec;
      const guest = guests.require(vm);
      const to = templateFirmware(parts, id, version);
      await driver.copyFirmware({ from: vmDirectory(parts, vmId), to, uid: null, hasTpm: false, isDurable: true });
      const disks = forkDisks(parts.volumes, vm, guest, `${taskId}/${uuidv7()}`, holderOf(id, version));
      let memory: WarmOrigin['memory'];
      try {
        const directory = join(to, 'memory');
        ({ memory } = await driver.saveForMany(guest, { spec, directory, signal, onStopped: () => disks.freeze() }));
      } finally {
        await disks.abandon();
      }
      const hasSeed = needsSeed(spec, imageOf(parts, vm));
      if (hasSeed) await copyFile(seedPath(parts, vmId), seedOfVersion(parts, id, version));
      const { pinned, devices, nics } = vm.status;
      const own = vm.status.disks.map((disk) => ({ ...disk, volume: null }));
      await templates.keepOrigin(id, version, {
        spec,
        disks: own,
        layers: await disks.layers(),
        warm: {
          memory,
          status: { pinned, devices, nics, disks: vm.status.disks.filter(({ volume }) => volume === null) },
          hasSeed,
          imageId: image?.id ?? null,
          version: from,
        },
      });
    },
    undo: ({ input: { id, version } }) => forgetVersion(parts, id, version),
  };
}

/** From here on VMs go on from it, and no more from what was prepared of the same before. */
function show(parts: TemplateTaskParts): PrepareStep {
  const { collection } = parts.templates;
  return {
    name: 'add the version',
    timeoutMs: objectsMs,
    isPivot: true,
    run: async ({ input: { id, version, vmName, image, from, spec } }) => {
      const origin = await parts.templates.origin(id, version);
      const found = collection.get(id);
      if (!origin?.warm || !found)
        throw new LodgeError('not_found', 'The template does not exist any more: it was deleted meanwhile.');
      const memory: TemplateMemory = {
        state: 'ready',
        reason: 'New VMs can go on from it.',
        memoryMib: spec.memoryMib,
        savedMib: Math.ceil((await allocatedBytes(join(origin.warm.memory.directory, 'memory'))) / mib),
        image: image?.name ?? null,
        version: from,
      };
      const older = found.status.versions.filter(
        (one) =>
          one.memory && one.version !== version && one.memory.version === from && one.memory.image === memory.image,
      );
      const gone = new Set([version, ...older.map((one) => one.version)]);
      await collection.setStatus(id, (status) => ({
        ...status,
        state: 'ready',
        reason: 'VMs can be made of it.',
        versions: [
          ...status.versions.filter((one) => !gone.has(one.version)),
          {
            version,
            createdAt: new Date().toISOString(),
            vm: vmName,
            snapshot: null,
            disks: origin.disks.map(({ name, sizeMib }) => ({ name, sizeMib })),
            sealed: null,
            memory,
          },
        ].toSorted((left, right) => left.version - right.version),
      }));
      for (const one of older) await forgetVersion(parts, id, one.version);
    },
  };
}

async function allocatedBytes(path: string): Promise<number> {
  // st_blocks counts 512-byte units whatever the file system's block size: stat(2).
  return (await stat(path)).blocks * 512;
}
