// The steps of tasks on snapshots. All of them have the VM as their target, so that nothing else is done with it meanwhile.
//
// Promise: file systems that were frozen are thawed, and a guest that ran runs, however a step ends and whoever goes on
// with it: both are remembered before they are done.
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { mkdir, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { LodgeError } from '../../api/errors.ts';
import { type SnapshotStatus } from '../../api/snapshot.ts';
import { type Vm } from '../../api/vm.ts';
import { liveVmStates } from '../../api/vm-state.ts';
import { type Volume } from '../../api/volume.ts';
import { type Guest, type MemoryCapture } from '../../drivers/driver.ts';
import { type StepContext, type TaskStep } from '../task/task.ts';
import { vmDirectory } from '../vm/definition.ts';
import { diskVolumes } from '../vm/freeze-disks.ts';
import { newGenerationId } from '../vm/generation-id.ts';
import { vmSubject } from '../vm/vm-records.ts';
import { type VmStepParts } from '../vm/vm-step.ts';
import { type LayerHolder } from '../volume/layer.ts';
import { type LayerMerging } from '../volume/layer-merging.ts';
import { forgetFirmware, keepFirmware, putFirmwareBack, settleFirmware } from './snapshot-firmware.ts';
import { type KeptSnapshot, type SnapshotRecords } from './snapshot-records.ts';

export interface SnapshotStepParts extends VmStepParts {
  snapshots: SnapshotRecords;
  merging: () => LayerMerging;
}

/** What tasks on snapshots are given: the VM, and the snapshot or snapshots. */
export interface SnapshotTaskInput {
  id: string;
  timeoutS?: number | undefined;
  snapshotIds: string[];
  withMemory?: boolean | undefined;
  quiesce?: 'auto' | 'never' | 'required' | undefined;
}

type Step = TaskStep<SnapshotTaskInput, Record<string, unknown>, unknown>;
type Context = StepContext<SnapshotTaskInput, Record<string, unknown>, unknown>;

const hostMs = 60_000;
const memoryMs = 3_600_000;
const mergeMs = 6 * 3_600_000;
/** The longest that an agent may take to freeze, or to thaw, file systems: the guest's programs wait for that. */
const quiesceMs = 10_000;
const thawMs = 30_000;
const beingDeleted = 'It is being deleted.';
const deletionCancelled =
  'Its deletion was cancelled when its disks were partly merged. Nothing can go back to it: delete it again.';

export function memoryPath(parts: Pick<VmStepParts, 'directory'>, vmId: string, snapshotId: string): string {
  return join(vmDirectory(parts, vmId), 'snapshots', `${snapshotId}.memory`);
}

function kept(parts: SnapshotStepParts, { snapshotIds: [id] }: SnapshotTaskInput): KeptSnapshot {
  const found = parts.snapshots.collection.get(id ?? '');
  if (found) return found;
  throw new LodgeError('not_found', 'The snapshot does not exist any more: it was deleted meanwhile.');
}

/** Freezes the disks, and saves the memory of a guest that runs. */
export function take(parts: SnapshotStepParts): Step {
  return {
    name: 'take the snapshot',
    weight: 10,
    timeoutMs: memoryMs,
    undoTimeoutMs: mergeMs,
    run: async (context) => {
      const { input, remember, state } = context;
      const snapshot = kept(parts, input);
      const vm = parts.records.byId(input.id);
      const holder = { kind: 'snapshot', id: snapshot.id } as const;
      const isLive = liveVmStates.has(vm.status.state);
      const guest = isLive ? parts.guests.require(vm) : null;
      if (state['isSaved'] === true) return;
      if (input.withMemory && parts.volumes.layers.hasBegun(snapshot.id))
        throw new LodgeError('hypervisor_failed', `The snapshot ${snapshot.name} of VM ${vm.name} was cut off.`, {
          hint: 'Take it again.',
        });
      const targets = diskVolumes(parts, vm);
      await parts.snapshots.keepOrigin(snapshot.id, vm);
      const before = guest ? await guest.state() : null;
      await remember({ before });
      const quiesced = await quiesce(context, vm, guest, before);
      const takenAt = new Date().toISOString();
      let capture: MemoryCapture | null = null;
      let frozen;
      try {
        frozen = await parts.volumes.layers.freeze({
          key: snapshot.id,
          targets,
          onSwitch:
            guest === null
              ? null
              : async (fresh) => {
                  if (input.withMemory) capture = await captureTo(parts, context, guest, fresh, snapshot.id);
                  else await guest.snapshots.freeze(fresh);
                },
        });
        if (input.withMemory && guest && frozen.size === 0)
          capture = await captureTo(parts, context, guest, [], snapshot.id);
        if (!input.withMemory) await keepFirmware(parts, vm.id, snapshot.id);
      } finally {
        await thaw(context, guest);
      }
      await parts.volumes.layers.hold(
        [...frozen.values()].map(({ id }) => id),
        holder,
      );
      const disks = targets.flatMap(({ disk: name, volume }) => {
        const layer = frozen.get(volume.id);
        return layer ? [{ name, volumeId: volume.id, layerId: layer.id }] : [];
      });
      await settleFirmware(parts, vm.id, snapshot.id);
      const memory = capture ? await finishCapture(parts, context, capture, snapshot.id) : null;
      await parts.snapshots.collection.setStatus(snapshot.id, (status) => ({
        ...status,
        takenAt,
        disks,
        ...(memory ?? quiesced),
        parentId: status.parentId ?? parts.snapshots.currentOf(vm.id)?.id ?? null,
      }));
      await remember({ isSaved: true });
    },
    undo: async (context) => {
      const { input, state } = context;
      const [id = ''] = input.snapshotIds;
      const guest = parts.guests.get(input.id);
      await thaw(context, guest);
      if (guest && state['before'] === 'running' && (await guest.state().catch(() => null)) === 'paused')
        await guest.resume();
      await parts.volumes.layers.release({ kind: 'snapshot', id });
      await rm(memoryPath(parts, input.id, id), { force: true });
      await forgetFirmware(parts, input.id, id);
      const vm = parts.records.collection.get(input.id);
      const trees = vm ? parts.volumes.usedBy(vm).map((volume) => parts.volumes.layers.topOf(volume).treeId) : [];
      await mergeTrees(parts, context, trees);
    },
  };
}

async function captureTo(
  parts: SnapshotStepParts,
  { input, signal, progress }: Context,
  guest: Guest,
  fresh: Parameters<Guest['snapshots']['capture']>[0],
  snapshotId: string,
): Promise<MemoryCapture> {
  const path = memoryPath(parts, input.id, snapshotId);
  await mkdir(dirname(path), { recursive: true, mode: 0o700 });
  return guest.snapshots.capture(fresh, {
    path,
    signal,
    // A firmware has a part of its variables in memory too: both are to be of the same moment.
    onStopped: () => keepFirmware(parts, input.id, snapshotId),
    onProgress: (bytesDone, bytesTotal) => progress({ bytesDone, bytesTotal, message: 'saving memory' }),
  });
}

async function finishCapture(
  parts: SnapshotStepParts,
  { input }: Context,
  capture: MemoryCapture,
  snapshotId: string,
): Promise<Partial<KeptSnapshot['status']>> {
  await capture.finish();
  const path = memoryPath(parts, input.id, snapshotId);
  const { checksum, bytes } = await checksumOf(path);
  return {
    consistency: 'memory',
    consistencyReason: capture.isLive
      ? `The guest went on after ${Math.round(capture.pauseMs)} ms. ${capture.reason}`
      : capture.reason,
    pauseMs: capture.pauseMs,
    memoryBytes: bytes,
    memoryChecksum: checksum,
  };
}

async function checksumOf(path: string): Promise<{ checksum: string; bytes: number }> {
  const hash = createHash('sha256');
  let bytes = 0;
  for await (const chunk of createReadStream(path, { highWaterMark: 2 ** 20 }) as AsyncIterable<Buffer>) {
    hash.update(chunk);
    bytes += chunk.length;
  }
  return { checksum: hash.digest('hex'), bytes };
}

/** Freezes the guest's file systems where that is wanted and possible. How consistent the snapshot is then. */
async function quiesce(
  { input, remember, signal }: Context,
  vm: Vm,
  guest: Guest | null,
  before: string | null,
): Promise<Pick<SnapshotStatus, 'consistency' | 'consistencyReason'>> {
  if (guest === null) return { consistency: 'application', consistencyReason: 'The VM was off.' };
  const crash = (why: string): Pick<SnapshotStatus, 'consistency' | 'consistencyReason'> => {
    if (input.quiesce === 'required')
      throw new LodgeError('agent_unavailable', `The file systems of VM ${vm.name} can’t be frozen: ${why}`, {
        hint: 'Install qemu-guest-agent in the guest, or take the snapshot without (--quiesce auto): it is then as after a power cut.',
      });
    return { consistency: 'crash', consistencyReason: why };
  };
  if (input.withMemory) return { consistency: 'memory', consistencyReason: '' };
  if (input.quiesce === 'never') return crash('Freezing the guest’s file systems was not wanted.');
  if (before !== 'running') return crash(`The guest is ${before}: it can’t freeze its file systems.`);
  if (!(await guest.agent.isAnswering({ signal, timeoutMs: 2000 }).catch(() => false)))
    return crash('No agent answers in the guest.');
  await remember({ isFrozen: true });
  try {
    const count = await guest.agent.freeze({ signal, timeoutMs: quiesceMs });
    return { consistency: 'application', consistencyReason: `The guest’s agent froze ${count} file systems.` };
  } catch (error) {
    signal.throwIfAborted();
    const why = error instanceof LodgeError ? error.message : 'no answer';
    return crash(`The guest’s agent could not freeze its file systems: ${why}`);
  }
}

/** Thaws what may be frozen. A guest thaws by itself at its next start. */
async function thaw({ state, remember, log }: Context, guest: Guest | null): Promise<void> {
  if (state['isFrozen'] !== true) return;
  try {
    await guest?.agent.thaw({ timeoutMs: thawMs });
  } catch (error) {
    log.warn({ err: error, vmId: guest?.id }, 'the file systems of a guest could not be thawed');
  }
  await remember({ isFrozen: false });
}

/** The snapshot is there, and the VM goes on from it. */
export function markTaken(parts: SnapshotStepParts): Step {
  return {
    name: 'finish',
    timeoutMs: hostMs,
    run: async ({ input }) => {
      const { id, name, status } = kept(parts, input);
      if (status.state === 'ready') return;
      await parts.snapshots.setCurrent(input.id, id);
      await parts.snapshots.collection.setStatus(id, (now) => ({ ...now, state: 'ready', reason: 'It is complete.' }));
      const vm = parts.records.byId(input.id);
      await parts.events.record({
        type: 'snapshot.created',
        subject: vmSubject(vm),
        message: `Snapshot ${name} of VM ${vm.name} was taken.`,
      });
    },
    undo: async ({ input }) => {
      const current = parts.snapshots.currentOf(input.id);
      if (current && input.snapshotIds.includes(current.id))
        await parts.snapshots.setCurrent(input.id, current.status.parentId);
    },
  };
}

/** What remains of a snapshot that was not taken goes: its object, as the last thing. */
export function announce(parts: SnapshotStepParts): Step {
  return {
    name: 'begin',
    timeoutMs: hostMs,
    run: ({ input }) => void kept(parts, input),
    undo: async ({ input }) => {
      for (const id of input.snapshotIds) await parts.snapshots.remove(id);
    },
  };
}

/** Gives up snapshots with their memory. There is no way back: a merge begins by changing what they hold. */
export function giveUp(parts: SnapshotStepParts): Step {
  return {
    name: 'give up',
    timeoutMs: hostMs,
    isPivot: true,
    run: async ({ input, remember, state }) => {
      await remember({ trees: state['trees'] ?? treesOf(parts, input.snapshotIds) });
      for (const id of input.snapshotIds) {
        if (!parts.snapshots.collection.get(id)) continue;
        await parts.snapshots.collection.setStatus(id, (status) => ({
          ...status,
          isGivenUp: true,
          memoryBytes: null,
          memoryChecksum: null,
        }));
        await rm(memoryPath(parts, input.id, id), { force: true });
        await forgetFirmware(parts, input.id, id);
      }
    },
  };
}

/**
 * Merges what the snapshots keep apart, while they still stand there: cancelled, they can be deleted again. What can't be
 * merged now is merged later.
 */
export function mergeLayers(parts: SnapshotStepParts): Step {
  return {
    name: 'merge layers',
    weight: 10,
    timeoutMs: mergeMs,
    isInterruptible: true,
    run: async (context) => {
      const { input, signal, state } = context;
      const say = async (reason: string): Promise<void> => {
        for (const id of input.snapshotIds)
          if (parts.snapshots.collection.get(id))
            await parts.snapshots.collection.setStatus(id, (status) => ({ ...status, reason }));
      };
      await say(beingDeleted);
      try {
        const givenUp = input.snapshotIds.map((id) => ({ kind: 'snapshot', id }) as const);
        await mergeTrees(parts, context, (state['trees'] as string[] | undefined) ?? [], givenUp);
      } catch (error) {
        if (signal.aborted) await say(deletionCancelled);
        throw error;
      }
    },
  };
}

/** Removes snapshots that were given up; what only they needed is removed, or merged, by and by. */
export function letGo(parts: SnapshotStepParts): Step {
  return {
    name: 'delete',
    timeoutMs: hostMs,
    run: async ({ input }) => {
      for (const id of input.snapshotIds) {
        const snapshot = parts.snapshots.collection.get(id);
        await parts.volumes.layers.release({ kind: 'snapshot', id });
        await parts.snapshots.remove(id);
        const vm = parts.records.collection.get(input.id);
        if (snapshot && vm)
          await parts.events.record({
            type: 'snapshot.deleted',
            subject: vmSubject(vm),
            message: `Snapshot ${snapshot.name} of VM ${vm.name} was deleted.`,
          });
      }
      parts.images.planShowUsers();
    },
  };
}

async function mergeTrees(
  { merging }: SnapshotStepParts,
  { signal, progress, log }: Context,
  trees: readonly string[],
  givenUp: readonly LayerHolder[] = [],
): Promise<void> {
  for (const [index, treeId] of trees.entries()) {
    try {
      await merging().run(treeId, {
        signal,
        givenUp,
        onProgress: (bytesDone, bytesTotal) =>
          progress({ bytesDone, bytesTotal, message: `disk ${index + 1} of ${trees.length}` }),
      });
    } catch (error) {
      signal.throwIfAborted();
      // The snapshot is gone for whoever asked; the space it took is given back as soon as that is possible.
      log.warn({ err: error, treeId }, 'layers of a deleted snapshot could not be merged; it is tried again');
      merging().retry(treeId);
    }
  }
}

/** The trees that hold layers of these snapshots. */
function treesOf(parts: SnapshotStepParts, snapshotIds: readonly string[]): string[] {
  const layers = snapshotIds.flatMap((id) => parts.volumes.layers.heldBy({ kind: 'snapshot', id }));
  return [...new Set(layers.map(({ treeId }) => treeId))];
}

/** Refuses saved memory that is not what was saved, before anything is given up for it. */
export function checkMemory(parts: SnapshotStepParts): Step {
  return {
    name: 'check saved memory',
    timeoutMs: memoryMs,
    run: async ({ input }) => {
      const { id, name, status } = kept(parts, input);
      if (status.memoryChecksum === null) return;
      const found = await checksumOf(memoryPath(parts, input.id, id)).catch((error: NodeJS.ErrnoException) => {
        if (error.code === 'ENOENT') return null;
        throw error;
      });
      if (found?.checksum === status.memoryChecksum) return;
      throw new LodgeError(
        'checksum_mismatch',
        `The saved memory of snapshot ${name} is ${found ? 'damaged: it is not what was saved' : 'missing'}.`,
        { hint: 'Its disks can still be used: clone them, or revert to another snapshot.' },
      );
    },
  };
}

/** Makes the VM's disks and spec those of the snapshot. The VM is off. */
export function putBack(parts: SnapshotStepParts): Step {
  return {
    name: 'put disks back',
    timeoutMs: hostMs,
    run: async ({ input, taskId }) => {
      const snapshot = kept(parts, input);
      const origin = await parts.snapshots.origin(snapshot.id);
      if (!origin)
        throw new LodgeError('internal', `What VM ${input.id} was at snapshot ${snapshot.name} is not kept.`);
      const { records, volumes } = parts;
      await parts.guests.exclusively(input.id, async () => {
        const vm = records.byId(input.id);
        const tops: { volume: Volume; parentId: string }[] = [];
        for (const { name, volumeId, layerId } of snapshot.status.disks)
          tops.push({ volume: await volumes.retake(vm, { name }, volumeId, layerId), parentId: layerId });
        await volumes.layers.replaceTops(`${taskId} ${snapshot.id}`, tops);
        for (const { volume } of tops) await volumes.noteLayers(volume.id);
        await putFirmwareBack(parts, vm, snapshot.id);
        const volumeOf = new Map(snapshot.status.disks.map(({ name }, index) => [name, tops[index]!.volume.id]));
        await records.collection.update(input.id, undefined, (draft) => {
          draft.spec = origin.spec;
        });
        await records.patch(input.id, {
          disks: origin.status.disks.map((disk) => ({ ...disk, volume: volumeOf.get(disk.name) ?? disk.volume })),
          nics: origin.status.nics.map((nic) => ({ ...nic, hostInterface: null, addresses: [] })),
          pinned: origin.status.pinned,
          // What it does from here on, it has done from here once before.
          generationId: newGenerationId(),
        });
        await parts.snapshots.setCurrent(input.id, snapshot.id);
      });
      await parts.networks.membersChanged();
      parts.images.planShowUsers();
    },
  };
}

/** Makes the VM one that is suspended with the memory of the snapshot. */
export function putMemoryBack(parts: SnapshotStepParts): Step {
  return {
    name: 'put memory back',
    timeoutMs: hostMs,
    run: async ({ input, taskId }) => {
      const snapshot = kept(parts, input);
      const { records, driver, guests } = parts;
      const vm = records.byId(input.id);
      const isWanted = snapshot.status.memoryChecksum !== null && vm.status.state === 'stopped';
      if (isWanted) {
        const origin = await parts.snapshots.origin(snapshot.id);
        await driver.useSavedState(
          { id: vm.id, directory: vmDirectory(parts, vm.id) },
          memoryPath(parts, vm.id, snapshot.id),
        );
        await guests.exclusively(vm.id, () =>
          records.transition(vm.id, 'suspended', `It has the memory of snapshot ${snapshot.name}.`, {
            taskId,
            startedSpec: origin?.status.startedSpec ?? vm.spec,
          }),
        );
      }
      await parts.events.record({
        type: 'snapshot.reverted',
        subject: vmSubject(vm),
        message: `VM ${vm.name} goes on from snapshot ${snapshot.name}.`,
      });
    },
  };
}

/** Takes away what snapshots of a VM keep, because the VM goes. Layers that clones need stay. Can be repeated. */
export async function forgetSnapshots(
  parts: Pick<SnapshotStepParts, 'volumes'> & { snapshots: SnapshotRecords },
  vmId: string,
): Promise<void> {
  for (const { id } of parts.snapshots.of(vmId)) {
    await parts.volumes.layers.release({ kind: 'snapshot', id });
    await parts.snapshots.remove(id);
  }
}
