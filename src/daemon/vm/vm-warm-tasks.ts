// Making VMs that go on from the saved memory of a prepared version of a template, as a task: objects, disks on the layers
// of the version, and then as with copies of a running VM (vm-fork-tasks.ts): they run with their cables pulled out until
// each has an identity of its own.
import { copyFile, mkdir } from 'node:fs/promises';
import * as z from 'zod';
import { LodgeError } from '../../api/errors.ts';
import { labels } from '../../api/object.ts';
import { vmSpec } from '../../api/vm-spec.ts';
import { type Vm } from '../../api/vm.ts';
import { type GuestDefinition, type SavedMemory } from '../../drivers/driver.ts';
import { defineTask, type TaskStep, type TaskType } from '../task/task.ts';
import { type LayerHolder } from '../volume/layer.ts';
import { defineGuest, seedPath, vmDirectory } from './definition.ts';
import { statusOfCopy, type CopiedGuest } from './fork-copies.ts';
import { newGenerationId } from './generation-id.ts';
import { assignMacs } from './hardware.ts';
import { endCopy, noteRunning, removeCopy, settleCopies } from './vm-fork-tasks.ts';
import { initialVmStatus, vmSubject } from './vm-records.ts';
import { hostTimeoutMs, type VmStepParts } from './vm-step.ts';

const input = z.strictObject({
  /** The version that they go on from. */
  parent: z.strictObject({ id: z.string(), name: z.string(), version: z.int() }),
  copies: z.array(z.strictObject({ id: z.string(), name: z.string() })).min(1),
  project: z.string(),
  labels,
  /** What each asks for. */
  spec: vmSpec,
});
export type WarmInput = z.input<typeof input>;
type WarmStep = TaskStep<z.output<typeof input>, Record<string, unknown>, unknown>;

/** What there is of a prepared version for VMs to go on from. */
export interface PreparedGuest {
  memory: SavedMemory;
  status: CopiedGuest['status'];
  disks: Vm['status']['disks'];
  /** Frozen layers by the name of the disk. */
  layers: Readonly<Record<string, string>>;
  /** Folder with what its firmware remembers. */
  firmware: string;
  /** Its first-boot data; null: it had none. */
  seed: string | null;
}

export interface WarmTaskParts extends VmStepParts {
  /** Null: the version is gone. */
  prepared: (templateId: string, version: number) => Promise<PreparedGuest | null>;
  /** The files of the version are not what was saved. */
  noteDamage: (templateId: string, version: number, reason: string) => Promise<void>;
}

const startTimeoutMs = 600_000;
const identityTimeoutMs = 600_000;
/** As many as a fork starts at a time. */
const startsAtOnce = 24;

export function warmTask(parts: WarmTaskParts): TaskType<WarmInput> {
  return defineTask({
    type: 'vm.createWarm',
    input,
    exclusiveKey: ({ copies }) => `vm-warm/${copies[0]?.id}`,
    steps: [makeObjects(parts), startGuests(parts), giveIdentities(parts)],
  });
}

function whatOf({ name, version }: WarmInput['parent']): string {
  return `template ${name}@${version}`;
}

function holderOf(taskId: string): LayerHolder {
  return { kind: 'clone', id: taskId };
}

async function requirePrepared(parts: WarmTaskParts, parent: WarmInput['parent']): Promise<PreparedGuest> {
  const prepared = await parts.prepared(parent.id, parent.version);
  if (prepared) return prepared;
  throw new LodgeError('not_found', `What was prepared as ${whatOf(parent)} was deleted meanwhile.`, {
    hint: 'Prepare it again (lodge vm prepare), or create the VM without --warm.',
  });
}

/** Objects, users, addresses and folders. The layers are held until the VMs have disks on them. */
function makeObjects(parts: WarmTaskParts): WarmStep {
  const { records } = parts;
  return {
    name: 'prepare the VMs',
    timeoutMs: hostTimeoutMs,
    run: async ({ input: { parent, copies, project, labels: ownLabels, spec }, taskId }) => {
      const prepared = await requirePrepared(parts, parent);
      await parts.volumes.layers.hold(Object.values(prepared.layers), holderOf(taskId));
      const at = new Date().toISOString();
      const inUse = new Set([...records.collection.all()].flatMap((vm) => vm.status.nics.map((nic) => nic.mac)));
      const lineage = {
        kind: 'warm' as const,
        parentId: parent.id,
        parentName: `${parent.name}@${parent.version}`,
        forkId: taskId,
        at,
        hasOwnIdentity: false,
      };
      await Promise.all(copies.map((copy) => mkdir(vmDirectory(parts, copy.id), { recursive: true, mode: 0o711 })));
      const made = copies.map(async (copy) => {
        if (records.collection.get(copy.id)) return;
        const uid = parts.uids.take(records.collection.all());
        const macs = assignMacs(spec.nics, [], inUse);
        for (const mac of macs) inUse.add(mac);
        const own = { spec, node: parts.node, uid, macs, taskId, lineage, generationId: newGenerationId() };
        const copied = { what: whatOf(parent), status: prepared.status };
        const status = statusOfCopy(copied, initialVmStatus(at), own);
        await records.collection.create({ ...copy, project, labels: ownLabels, spec, status });
      });
      await Promise.allSettled(made);
      await Promise.all(made);
    },
    undo: async ({ input: { copies }, taskId }) => {
      for (const { id } of copies) await removeCopy(parts, id);
      await parts.volumes.layers.release(holderOf(taskId));
      await parts.networks.membersChanged();
      parts.images.planShowUsers();
    },
  };
}

function startGuests(parts: WarmTaskParts): WarmStep {
  const { records, guests, events } = parts;
  return {
    name: 'start from the saved memory',
    weight: 5,
    timeoutMs: startTimeoutMs,
    isPivot: true,
    run: async ({ input: { parent, copies }, taskId, signal }) => {
      const prepared = await requirePrepared(parts, parent);
      const left = copies.values();
      const failures: unknown[] = [];
      const work = async (): Promise<void> => {
        for (const { id } of left) {
          signal.throwIfAborted();
          if (failures.length > 0) return;
          if (records.collection.get(id)?.status.state === 'running' && guests.get(id) !== null) continue;
          await startOne(parts, prepared, parent, id, signal).catch((error: unknown) => failures.push(error));
        }
      };
      await Promise.all(Array.from({ length: Math.min(startsAtOnce, copies.length) }, work));
      if (failures.length > 0) throw await explained(parts, parent, failures[0]);
      // The VMs themselves need the layers now.
      await parts.volumes.layers.release(holderOf(taskId));
      parts.images.planShowUsers();
      for (const { id } of copies) {
        const vm = records.byId(id);
        await events.record({
          type: 'vm.warm-started',
          subject: vmSubject(vm),
          message: `VM ${vm.name} was made and goes on from the memory of ${whatOf(parent)}.`,
        });
      }
    },
    undo: async ({ input: { copies } }) => {
      for (const { id } of copies) await endCopy(parts, id);
    },
  };
}

async function startOne(
  parts: WarmTaskParts,
  prepared: PreparedGuest,
  parent: WarmInput['parent'],
  id: string,
  signal: AbortSignal,
): Promise<void> {
  const { records, guests, volumes, driver } = parts;
  // What a run that was broken off has begun has run for an unknown time.
  await endCopy(parts, id);
  const before = records.byId(id);
  const own = new Map<string, Vm['status']['disks'][number]>();
  for (const [name, layerId] of Object.entries(prepared.layers)) {
    const volume = await volumes.provideOn(before, { name }, layerId);
    const { imageId, virtualSizeMib } = volume.status;
    own.set(name, { name, volume: volume.id, image: imageId, sizeMib: virtualSizeMib });
  }
  const vm = await records.patch(id, { disks: prepared.disks.map((disk) => own.get(disk.name) ?? disk) });
  const directory = vmDirectory(parts, id);
  if (prepared.seed !== null) await copyFile(prepared.seed, seedPath(parts, id));
  await driver.copyFirmware({
    from: prepared.firmware,
    to: directory,
    uid: vm.status.uid,
    hasTpm: false,
    isDurable: false,
  });
  const definition = await defineGuest(parts, vm, { isRestoring: true });
  const unplugged: GuestDefinition = {
    ...definition,
    nics: definition.nics.map((nic) => ({ ...nic, isConnected: false })),
  };
  const guest = await driver.start(unplugged, { from: prepared.memory, signal });
  await guests.exclusively(id, async () => {
    guests.attach(id, guest);
    await noteRunning(parts, `${whatOf(parent)} was saved`, guest);
  });
  guests.facts.wake(id);
}

/** Damage is noted, so that the next VM is not made of it. */
async function explained(parts: WarmTaskParts, parent: WarmInput['parent'], error: unknown): Promise<unknown> {
  if (!(error instanceof LodgeError && error.code === 'image_invalid')) return error;
  await parts.noteDamage(parent.id, parent.version, error.message);
  return new LodgeError('image_invalid', `No VM can go on from ${whatOf(parent)}. ${error.message}`, {
    hint: 'Create it without --warm, which boots it, or prepare it again: lodge vm prepare.',
    cause: error,
  });
}

function giveIdentities(parts: WarmTaskParts): WarmStep {
  return {
    name: 'give each its own identity',
    weight: 3,
    timeoutMs: identityTimeoutMs,
    run: async ({ input: { parent, copies }, signal, progress }) => {
      const prepared = await parts.prepared(parent.id, parent.version);
      const macs = prepared?.status.nics.map(({ mac }) => mac) ?? [];
      await settleCopies(parts, copies, macs, { signal, progress });
    },
  };
}
