// What can be asked of snapshots: every request is checked here, and becomes a change of an object or a task of the VM.
import { uuidv7 } from 'uuidv7';
import { LodgeError } from '../../api/errors.ts';
import { type Snapshot, type SnapshotCreate } from '../../api/snapshot.ts';
import { type Vm } from '../../api/vm.ts';
import { liveVmStates } from '../../api/vm-state.ts';
import { readDiskSpace } from '../../host/machine.ts';
import { type TaskEngine } from '../task/task-engine.ts';
import { type TaskRecord } from '../task/task.ts';
import { vmSubject } from '../vm/vm-records.ts';
import { requireSavableMemory } from '../vm/shared-folders.ts';
import { firmwarePath } from './snapshot-firmware.ts';
import { type KeptSnapshot, type SnapshotRecords } from './snapshot-records.ts';
import { diskVolumes } from '../vm/freeze-disks.ts';
import { forgetSnapshots, memoryPath, type SnapshotStepParts } from './snapshot-steps.ts';
import { type SnapshotTasks } from './snapshot-tasks.ts';
import { viewSnapshot } from './snapshot-view.ts';

export interface SnapshotServiceParts {
  records: SnapshotRecords;
  engine: TaskEngine;
  tasks: SnapshotTasks;
  steps: SnapshotStepParts;
}

/** States in which the disks of a VM, and of what has its memory saved beside them, can be frozen. */
const takeable = new Set(['stopped', 'running', 'paused']);
const mib = 2 ** 20;
/** Devices, and what the file system needs for itself. */
const memorySlackBytes = 64 * mib;

export class SnapshotService {
  readonly #parts: SnapshotServiceParts;

  constructor(parts: SnapshotServiceParts) {
    this.#parts = parts;
  }

  require(vm: Vm, reference: string): KeptSnapshot {
    const { collection } = this.#parts.records;
    const found = collection.find(vm.id, reference);
    if (found) return found;
    throw new LodgeError('not_found', `VM ${vm.name} has no snapshot ${reference}.`, {
      hint: `lodge snapshot list ${vm.name} shows those it has.`,
    });
  }

  view(vm: Vm, kept: KeptSnapshot): Promise<Snapshot> {
    const { steps, records } = this.#parts;
    const { layers } = steps.volumes;
    return viewSnapshot(
      { records, layers, memoryPath: (vmId, id) => memoryPath(steps, vmId, id) },
      // A VM may be renamed while its snapshots are read.
      this.#parts.steps.records.collection.get(vm.id) ?? vm,
      kept,
    );
  }

  /** A snapshot by its id alone; null: it is gone, or its VM is. */
  async read(id: string): Promise<Snapshot | null> {
    const { records, steps } = this.#parts;
    const kept = records.collection.get(id);
    const vm = kept && steps.records.collection.get(kept.project);
    return kept && vm ? this.view(vm, kept) : null;
  }

  viewAll(vm: Vm): Promise<Snapshot[]> {
    return Promise.all(this.#parts.records.of(vm.id).map((kept) => this.view(vm, kept)));
  }

  /** What a new VM that begins with a snapshot is made from: what the VM was asked to be then, and the frozen layers. */
  async originalOf(
    vm: Vm,
    reference: string,
  ): Promise<{ spec: Vm['spec']; disks: Vm['status']['disks']; layers: Record<string, string>; firmware: string }> {
    const snapshot = this.require(vm, reference);
    requireReady(snapshot);
    const origin = await this.#parts.records.origin(snapshot.id);
    if (!origin) throw new LodgeError('not_found', `What VM ${vm.name} was at snapshot ${snapshot.name} is not known.`);
    const layers = Object.fromEntries(snapshot.status.disks.map(({ name, layerId }) => [name, layerId]));
    const firmware = firmwarePath(this.#parts.steps, vm.id, snapshot.id);
    return { spec: origin.status.startedSpec ?? origin.spec, disks: origin.status.disks, layers, firmware };
  }

  async create(given: Vm, body: SnapshotCreate, requestedBy: string, parentId?: string): Promise<TaskRecord> {
    const { engine, tasks, records, steps } = this.#parts;
    const vm = this.#requireIdle(given);
    const { state } = vm.status;
    if (!takeable.has(state)) {
      const hint =
        state === 'suspended'
          ? 'Start it first: its memory belongs to its disks as they are.'
          : 'Wait until it is running or stopped.';
      throw new LodgeError('wrong_state', `VM ${vm.name} is ${state}: no snapshot can be taken of it.`, { hint });
    }
    if (body.withMemory && !liveVmStates.has(state)) {
      throw new LodgeError('wrong_state', `VM ${vm.name} is ${state} and has no memory to save.`, {
        hint: 'Take the snapshot without memory, or start the VM.',
      });
    }
    if (body.withMemory) requireSavableMemory(vm, 'saved with its memory');
    if (records.collection.byName(vm.id, body.name)) {
      throw new LodgeError('name_taken', `VM ${vm.name} has a snapshot ${body.name} already.`, {
        hint: 'Choose another name, or delete that one.',
      });
    }
    const hasDisks = diskVolumes(steps, vm).length > 0;
    if (!body.withMemory && !hasDisks) {
      throw new LodgeError('unsupported', `VM ${vm.name} has no disk.`, {
        hint: 'A snapshot with memory is possible while it runs.',
      });
    }
    if (hasDisks) await steps.volumes.layers.requireSpace();
    if (body.withMemory) await this.#requireSpace(vm);
    const id = uuidv7();
    const { record, part } = engine.prepare(tasks.create, {
      target: vmSubject(vm),
      input: { id: vm.id, snapshotIds: [id], withMemory: body.withMemory, quiesce: body.quiesce },
      requestedBy,
      parentId,
    });
    await records.collection.create(
      { id, name: body.name, project: vm.id, labels: body.labels, spec: body.spec },
      part,
    );
    return engine.written(record);
  }

  async update(
    vm: Vm,
    snapshot: KeptSnapshot,
    change: {
      revision?: number | undefined;
      name?: string | undefined;
      labels?: Record<string, string> | undefined;
      spec?: Snapshot['spec'] | undefined;
    },
  ): Promise<Snapshot> {
    const updated = await this.#parts.records.collection.update(snapshot.id, change.revision, (draft) => {
      if (change.name !== undefined) draft.name = change.name;
      if (change.labels) draft.labels = change.labels;
      if (change.spec) draft.spec = change.spec;
    });
    return this.view(vm, updated);
  }

  async revert(
    given: Vm,
    snapshot: KeptSnapshot,
    { force, start }: { force: boolean; start: boolean },
    requestedBy: string,
  ): Promise<TaskRecord> {
    const { engine, tasks, steps, records } = this.#parts;
    const vm = this.#requireIdle(given);
    requireReady(snapshot);
    const { state } = vm.status;
    if (state !== 'stopped' && !force) {
      throw new LodgeError('wrong_state', `VM ${vm.name} is ${state}: what it has done since would be lost.`, {
        hint: `Stop it (lodge vm stop ${vm.name}), or revert with --force, which switches it off. --snapshot-first keeps what there is.`,
      });
    }
    if (state === 'creating' || state === 'deleting') throw new LodgeError('wrong_state', `VM ${vm.name} is ${state}.`);
    const origin = await records.origin(snapshot.id);
    // What it was made with must be there still, before anything is given up.
    for (const nic of origin?.spec.nics ?? []) steps.networks.require(vm.project, nic.network);
    const images = [origin?.spec.image, ...(origin?.spec.disks ?? []).map(({ image }) => image)];
    for (const image of images) if (image) steps.images.require(vm.project, image);
    for (const { volumeId, name } of snapshot.status.disks) {
      const user = steps.volumes.get(volumeId)?.status.usedBy;
      if (user && user.id !== vm.id)
        throw new LodgeError('in_use', `Disk ${name} of the snapshot is a volume that VM ${user.name} uses by now.`);
    }
    const isStarted = start || snapshot.status.memoryChecksum !== null;
    return engine.submit(isStarted ? tasks.revertAndStart : tasks.revert, {
      target: vmSubject(vm),
      input: { id: vm.id, snapshotIds: [snapshot.id] },
      requestedBy,
    });
  }

  async delete(given: Vm, snapshot: KeptSnapshot, withChildren: boolean, requestedBy: string): Promise<TaskRecord> {
    const { engine, tasks, records } = this.#parts;
    const vm = this.#requireIdle(given);
    const gone = withChildren ? descendants(records.of(vm.id), snapshot) : [snapshot];
    for (const one of gone) {
      if (one.status.state === 'creating') requireReady(one);
      await records.collection.setStatus(one.id, (status) => ({
        ...status,
        state: 'deleting',
        reason: 'It is being deleted.',
      }));
    }
    return engine.submit(tasks.delete, {
      target: vmSubject(vm),
      // Children first, so that none is given to a parent that goes too.
      input: { id: vm.id, snapshotIds: gone.map(({ id }) => id).toReversed() },
      requestedBy,
    });
  }

  /** The VM is being deleted: its snapshots go with it. Can be repeated. */
  forget(vmId: string): Promise<void> {
    return forgetSnapshots({ volumes: this.#parts.steps.volumes, snapshots: this.#parts.records }, vmId);
  }

  /** After the daemon's start: what is left of VMs that are gone, and of deletions that were never begun. */
  async recover(): Promise<void> {
    const { records, steps, engine } = this.#parts;
    for (const snapshot of [...records.collection.all()]) {
      const vm = steps.records.collection.get(snapshot.project);
      if (!vm) await this.forget(snapshot.project);
      else if (
        engine.activeOn({ kind: 'vm', id: vm.id }).length === 0 &&
        snapshot.status.state === 'deleting' &&
        !snapshot.status.isGivenUp
      )
        await records.collection.setStatus(snapshot.id, (status) => ({
          ...status,
          state: 'ready',
          reason: 'It is complete.',
        }));
    }
  }

  async #requireSpace(vm: Vm): Promise<void> {
    const needed = (vm.status.startedSpec ?? vm.spec).memoryMib * mib + memorySlackBytes;
    const { freeBytes } = await readDiskSpace(this.#parts.steps.directory);
    if (freeBytes >= needed) return;
    throw new LodgeError(
      'storage_full',
      `The memory of VM ${vm.name} may take ${Math.ceil(needed / mib)} MiB, and ${Math.floor(freeBytes / mib)} MiB are free on the node.`,
      { hint: 'Delete snapshots or volumes that are not needed, or take the snapshot without memory.' },
    );
  }

  #requireIdle(given: Vm): Vm {
    const { engine, steps } = this.#parts;
    const vm = steps.records.byId(given.id);
    const [active] = engine.activeOn({ kind: 'vm', id: vm.id });
    if (!active) return vm;
    throw new LodgeError('busy', `VM ${vm.name} is being worked on: ${active.type}, task ${active.id}.`, {
      hint: `Wait for it (lodge task wait ${active.id}), or cancel it.`,
    });
  }
}

function requireReady({ name, status }: KeptSnapshot): void {
  if (status.state === 'ready') return;
  throw new LodgeError('wrong_state', `Snapshot ${name} is ${status.state}: ${status.reason}`, {
    hint: status.state === 'creating' ? 'Wait until it is ready.' : 'Choose another snapshot.',
  });
}

/** A snapshot with all that were taken after it, parents first. */
function descendants(all: readonly KeptSnapshot[], root: KeptSnapshot): KeptSnapshot[] {
  const found = [root];
  for (const one of found) found.push(...all.filter(({ status }) => status.parentId === one.id));
  return found;
}
