// Volumes as objects: the disks guests write to. A volume made with its VM belongs to it and goes with it; one made on
// its own stays until it is deleted, and serves one VM at a time. What a volume is made of is the layer store's to say.
import { join } from 'node:path';
import { uuidv7 } from 'uuidv7';
import { LodgeError, invalidField } from '../../api/errors.ts';
import { type Image } from '../../api/image.ts';
import { type Subject } from '../../api/object.ts';
import { type Vm } from '../../api/vm.ts';
import { type VmDisk } from '../../api/vm-spec.ts';
import { type Volume, type VolumeSpec, type VolumeStatus } from '../../api/volume.ts';
import { type DiskLayer } from '../../drivers/driver.ts';
import { SerialQueues } from '../../lib/serial-queues.ts';
import { type ImageService } from '../image/image-service.ts';
import { type Collection } from '../store/collection.ts';
import { type ReferenceLock } from '../store/reference-lock.ts';
import { type TaskEngine } from '../task/task-engine.ts';
import { type TaskRecord } from '../task/task.ts';
import { type Layer } from './layer.ts';
import { type VolumeLayers } from './volume-layers.ts';
import { type VolumeFiles } from './volume-files.ts';
import { type VolumeTasks } from './volume-tasks.ts';

export interface VolumeServiceParts {
  volumes: Collection<Volume>;
  images: ImageService;
  engine: TaskEngine;
  tasks: VolumeTasks;
  files: VolumeFiles;
  layers: VolumeLayers;
  /** Folder of the volumes' files. */
  directory: string;
  node: string;
  references: ReferenceLock;
  /** All VMs; they say which volumes they are to have, and whether they run. */
  vms: () => Iterable<Vm>;
}

/** Between them, nobody can tell whether a hypervisor has the file open. */
const growableVmStates = new Set(['running', 'paused', 'crashed', 'stopped', 'suspended']);

export function initialVolumeStatus(): VolumeStatus {
  return {
    state: 'pending',
    reason: 'It is being created.',
    node: null,
    virtualSizeMib: null,
    allocatedBytes: null,
    imageId: null,
    usedBy: null,
    isOwnedByVm: false,
  };
}

export class VolumeService {
  readonly #parts: VolumeServiceParts;
  readonly #changes = new SerialQueues();

  constructor(parts: VolumeServiceParts) {
    this.#parts = parts;
  }

  get(id: string): Volume | null {
    return this.#parts.volumes.get(id);
  }

  require(project: string, reference: string): Volume {
    return this.#parts.volumes.require(project, reference);
  }

  all(): IterableIterator<Volume> {
    return this.#parts.volumes.all();
  }

  /** The file of a volume and what it is based on, top first, for a guest that is about to be started with it. */
  layersForStart(volume: Volume): Promise<DiskLayer[]> {
    return this.#parts.layers.forStart(volume);
  }

  /** The layers that volumes are made of. */
  get layers(): VolumeLayers {
    return this.#parts.layers;
  }

  async create(given: Pick<Volume, 'name' | 'project' | 'labels' | 'spec'>, requestedBy: string): Promise<TaskRecord> {
    const { references, engine, tasks, volumes, files, directory } = this.#parts;
    if (given.spec.format === 'raw') await files.requireFit(directory, given.spec.sizeMib ?? 0);
    return references.hold(async () => {
      files.check(given.spec, this.#imageOf(given), 'spec');
      const id = uuidv7();
      const { record, part } = engine.prepare(tasks.create, {
        target: subject({ ...given, id }),
        input: { id },
        requestedBy,
      });
      await volumes.create({ ...given, id }, part);
      return engine.written(record);
    });
  }

  async update(
    given: Volume,
    change: { revision?: number | undefined; labels?: Record<string, string> | undefined; spec: VolumeSpec },
  ): Promise<Volume> {
    const { volumes } = this.#parts;
    // One after the other: two that grow it would both begin from the same size.
    return this.#changes.run(given.id, async () => {
      const volume = volumes.require(given.project, given.id);
      for (const field of ['image', 'format'] as const) {
        if (change.spec[field] !== volume.spec[field])
          throw invalidField(`spec.${field}`, 'can not be changed', change.spec[field]);
      }
      const before = volume.status.virtualSizeMib ?? 0;
      const wanted = change.spec.sizeMib ?? before;
      if (wanted < before) {
        throw invalidField(
          'spec.sizeMib',
          `can not shrink: the volume has ${before} MiB, and what lies at its end would be lost`,
          wanted,
        );
      }
      // The revision is checked before the file is touched, and the file grows before the object says so.
      if (change.revision !== undefined && change.revision !== volume.revision) {
        throw new LodgeError(
          'revision_conflict',
          `Volume ${volume.name} has revision ${volume.revision}, and this change was based on ${change.revision}.`,
        );
      }
      if (wanted > before) {
        this.#requireGrowable(volume);
        await this.#growFile(volume, wanted);
      }
      const updated = await volumes.update(volume.id, change.revision, (draft) => {
        draft.spec = change.spec;
        if (change.labels) draft.labels = change.labels;
      });
      return wanted > before
        ? volumes.setStatus(volume.id, (status) => ({ ...status, virtualSizeMib: wanted }))
        : updated;
    });
  }

  /** Makes the disk of a VM that is down as large as its spec has it by now. Does nothing where it is. Can be repeated. */
  async growTo(volume: Volume, sizeMib: number): Promise<Volume> {
    const { volumes } = this.#parts;
    return this.#changes.run(volume.id, async () => {
      if (sizeMib <= (volume.status.virtualSizeMib ?? 0)) return volume;
      await this.#growFile(volume, sizeMib);
      await volumes.update(volume.id, undefined, (draft) => {
        draft.spec.sizeMib = sizeMib;
      });
      return volumes.setStatus(volume.id, (status) => ({ ...status, virtualSizeMib: sizeMib }));
    });
  }

  /** The guest that uses it has made it larger. Can be repeated. */
  async noteGrown(id: string, sizeMib: number): Promise<void> {
    await this.#changes.run(id, async () => {
      const volume = this.#parts.volumes.get(id);
      if (!volume || sizeMib <= (volume.status.virtualSizeMib ?? 0)) return;
      await this.#parts.volumes.update(id, undefined, (draft) => {
        draft.spec.sizeMib = sizeMib;
      });
      await this.#parts.volumes.setStatus(id, (status) => ({ ...status, virtualSizeMib: sizeMib }));
    });
  }

  async delete(given: Volume, requestedBy: string): Promise<TaskRecord> {
    const { references, engine, tasks, volumes } = this.#parts;
    return references.hold(async () => {
      const volume = volumes.require(given.project, given.id);
      const user = volume.status.usedBy?.name ?? this.#namedBy(volume);
      if (user !== null) {
        throw new LodgeError('in_use', `Volume ${volume.name} is used by VM ${user}.`, {
          hint: 'Take the disk out of the VM’s spec, or delete the VM.',
        });
      }
      const [active] = engine.activeOn({ kind: 'volume', id: volume.id });
      if (active)
        throw new LodgeError('busy', `Volume ${volume.name} is being worked on by task ${active.id} (${active.type}).`);
      // From here on no VM can take it; without its task, the next start of the daemon removes it.
      await volumes.setStatus(volume.id, (status) => ({
        ...status,
        state: 'deleting',
        reason: 'It is being deleted.',
      }));
      return engine.submit(tasks.delete, { target: subject(volume), input: { id: volume.id }, requestedBy });
    });
  }

  /** Refuses a disk of a VM that can't be made or attached. */
  checkDisk(vm: Pick<Vm, 'name' | 'project'> & { id: string | null }, disk: VmDisk, field: string): void {
    if (disk.volume) {
      const volume = this.require(vm.project, disk.volume);
      const isOther = volume.status.usedBy !== null && volume.status.usedBy.id !== vm.id;
      if (isOther)
        throw new LodgeError(
          'in_use',
          `${field}.volume: volume ${volume.name} is used by VM ${volume.status.usedBy?.name}.`,
          { hint: 'A volume serves one VM at a time.' },
        );
      if (volume.status.state !== 'ready')
        throw new LodgeError('wrong_state', `${field}.volume: volume ${volume.name} is ${volume.status.state}.`, {
          hint: 'Wait until it is ready.',
        });
      return;
    }
    if (disk.device === 'cdrom') {
      if (disk.image) this.#parts.images.require(vm.project, disk.image);
      return;
    }
    const image = disk.image ? this.#parts.images.require(vm.project, disk.image) : null;
    const existing = this.#parts.volumes.byName(vm.project, ownName(vm, disk));
    if (!existing) {
      this.#parts.files.check({ sizeMib: disk.sizeMib, format: 'qcow2' }, image, field);
      return;
    }
    this.#requireOwn(vm, disk, existing);
    const least = existing.status.virtualSizeMib ?? 0;
    if (disk.sizeMib !== undefined && disk.sizeMib < least)
      throw invalidField(`${field}.sizeMib`, `can not shrink: the disk has ${least} MiB`, disk.sizeMib);
  }

  /** Refuses a volume that has the name of a VM's disk and is not that disk. */
  #requireOwn(vm: Pick<Vm, 'name'> & { id: string | null }, disk: Pick<VmDisk, 'name'>, existing: Volume): void {
    if (vm.id !== null && existing.status.isOwnedByVm && existing.status.usedBy?.id === vm.id) return;
    throw new LodgeError(
      'name_taken',
      `The disk ${disk.name} of VM ${vm.name} would be the volume ${existing.name}, and there is one already.`,
      { hint: 'Delete or rename that volume, attach it by its name, or call the disk something else.' },
    );
  }

  /** Makes the disk of a VM, or takes the volume that it names. Can be repeated. */
  async provide(vm: Pick<Vm, 'id' | 'name' | 'project'>, disk: VmDisk): Promise<Volume> {
    if (disk.volume) {
      const volume = this.require(vm.project, disk.volume);
      return this.#parts.volumes.setStatus(volume.id, (status) => {
        if (status.usedBy && status.usedBy.id !== vm.id)
          throw new LodgeError('in_use', `Volume ${volume.name} is used by VM ${status.usedBy.name}.`);
        if (status.state !== 'ready')
          throw new LodgeError('wrong_state', `Volume ${volume.name} is ${status.state}: ${status.reason}`);
        return { ...status, usedBy: { id: vm.id, name: vm.name } };
      });
    }
    const name = ownName(vm, disk);
    const spec: VolumeSpec = {
      description: ownDescription(vm, disk),
      sizeMib: disk.sizeMib,
      image: disk.image,
      format: 'qcow2',
    };
    const existing = this.#parts.volumes.byName(vm.project, name);
    if (existing) this.#requireOwn(vm, disk, existing);
    const status: VolumeStatus = {
      ...initialVolumeStatus(),
      usedBy: { id: vm.id, name: vm.name },
      isOwnedByVm: true,
    };
    const volume =
      existing ?? (await this.#parts.volumes.create({ name, project: vm.project, labels: {}, spec, status }));
    if (volume.status.state === 'ready') return volume;
    return this.make(volume.id);
  }

  /** Makes the file of a volume that doesn't have one yet, and records what it is. Can be repeated. */
  async make(id: string): Promise<Volume> {
    const volume = this.#parts.volumes.get(id);
    if (!volume) throw new LodgeError('not_found', `There is no volume with the id ${id}.`);
    const image = this.#imageOf(volume);
    const facts = await this.#parts.files.make(
      volumePath(this.#parts.directory, volume),
      volume.spec,
      image ? this.#imageLayer(image) : null,
    );
    return this.#setReady(id, { ...facts, imageId: image?.id ?? null });
  }

  /**
   * Makes the disk of a VM as a copy of a frozen layer, which reads from that and keeps only what is written to it: a linked
   * clone, a fork. `sizeMib`: where it is to be larger. The volume belongs to the VM. Can be repeated.
   */
  async provideOn(
    vm: Pick<Vm, 'id' | 'name' | 'project'>,
    disk: Pick<VmDisk, 'name' | 'sizeMib'>,
    layerId: string,
  ): Promise<Volume> {
    const volume = await this.#ownObject(vm, disk);
    if (volume.status.state === 'ready') return volume;
    return this.#takeLayer(volume.id, await this.#parts.layers.addTop(volume, layerId, disk.sizeMib));
  }

  /**
   * Makes the disk of a VM as a copy of a frozen layer that needs nothing of it any more: a full clone. The layer is to be
   * held meanwhile. The volume belongs to the VM. Can be repeated.
   */
  async provideCopy(
    vm: Pick<Vm, 'id' | 'name' | 'project'>,
    disk: Pick<VmDisk, 'name' | 'sizeMib'>,
    layerId: string,
    options: { signal: AbortSignal; onProgress: (percent: number) => void },
  ): Promise<Volume> {
    const { layers, directory, files } = this.#parts;
    const volume = await this.#ownObject(vm, disk);
    if (volume.status.state === 'ready') return volume;
    const path = volumePath(directory, volume);
    await layers.copyTo(layerId, path, options);
    return this.#setReady(volume.id, { ...(await files.make(path, volume.spec, null)), imageId: null });
  }

  /** The object of a disk that is made with a VM. */
  async #ownObject(vm: Pick<Vm, 'id' | 'name' | 'project'>, disk: Pick<VmDisk, 'name' | 'sizeMib'>): Promise<Volume> {
    const { volumes } = this.#parts;
    const name = ownName(vm, disk);
    const existing = volumes.byName(vm.project, name);
    if (existing) this.#requireOwn(vm, disk, existing);
    const status: VolumeStatus = { ...initialVolumeStatus(), usedBy: { id: vm.id, name: vm.name }, isOwnedByVm: true };
    const spec: VolumeSpec = { description: ownDescription(vm, disk), sizeMib: disk.sizeMib, format: 'qcow2' };
    return existing ?? (await volumes.create({ name, project: vm.project, labels: {}, spec, status }));
  }

  /**
   * The volume that a disk of a VM was made of when `layerId` was frozen: the same, also where the VM has let go of it
   * since; where it was deleted, a new one on that layer. Refuses one that another VM has by now. Can be repeated.
   */
  async retake(
    vm: Pick<Vm, 'id' | 'name' | 'project'>,
    disk: Pick<VmDisk, 'name'>,
    volumeId: string,
    layerId: string,
  ): Promise<Volume> {
    const volume = this.#parts.volumes.get(volumeId);
    if (!volume) return this.provideOn(vm, disk, layerId);
    return this.#parts.volumes.setStatus(volumeId, (status) => {
      if (status.usedBy && status.usedBy.id !== vm.id)
        throw new LodgeError(
          'in_use',
          `Disk ${disk.name} was the volume ${volume.name}, which VM ${status.usedBy.name} uses by now.`,
          { hint: 'Take the disk out of that VM’s spec, or clone the snapshot.' },
        );
      const isOwnedByVm = status.isOwnedByVm || volume.name === ownName(vm, disk);
      return { ...status, usedBy: { id: vm.id, name: vm.name }, isOwnedByVm };
    });
  }

  async #takeLayer(id: string, layer: Layer): Promise<Volume> {
    const { layers } = this.#parts;
    const [{ virtualSizeMib, allocatedBytes }, imageId] = [await layers.measure(layer), layers.imageIdOf(layer)];
    return this.#setReady(id, { virtualSizeMib, allocatedBytes, imageId });
  }

  /** The volume is made of other layers than before: shows how large it is now. */
  async noteLayers(id: string): Promise<void> {
    const volume = this.#parts.volumes.get(id);
    if (volume) await this.#takeLayer(id, this.#parts.layers.topOf(volume));
  }

  #setReady(id: string, facts: Pick<VolumeStatus, 'virtualSizeMib' | 'allocatedBytes' | 'imageId'>): Promise<Volume> {
    return this.#parts.volumes.setStatus(id, (status) => ({
      ...status,
      ...facts,
      state: 'ready',
      reason: 'Its file is in place.',
      node: this.#parts.node,
    }));
  }

  #growFile(volume: Volume, sizeMib: number): Promise<void> {
    const { layers, files } = this.#parts;
    return layers.grow(volume, sizeMib, (top) => files.grow(top.path, top.format, sizeMib));
  }

  /** The volumes that a VM has taken or was made with. */
  usedBy(vm: Pick<Vm, 'id'>): Volume[] {
    return [...this.#parts.volumes.all()].filter((volume) => volume.status.usedBy?.id === vm.id);
  }

  /** Refuses a name for a VM whose own disks would then have the names of volumes that are there already. */
  checkRename(vm: Vm, name: string): void {
    for (const volume of this.usedBy(vm)) {
      const next = this.#nameAfterRename(vm, volume, name);
      const taken = next === null ? null : this.#parts.volumes.byName(vm.project, next);
      if (taken && taken.id !== volume.id)
        throw new LodgeError(
          'name_taken',
          `The volume ${volume.name} of VM ${vm.name} would be ${next}, and there is a volume ${next} already.`,
          { hint: 'Choose another name, or delete that volume.' },
        );
    }
  }

  /** A VM has another name than `before`: the disks that were made with it are called after it. Can be repeated. */
  async followRename(vm: Vm, before: string): Promise<void> {
    const { volumes } = this.#parts;
    for (const volume of this.usedBy(vm)) {
      const name = this.#nameAfterRename({ ...vm, name: before }, volume, vm.name);
      if (name !== null)
        await volumes.update(volume.id, undefined, (draft) => {
          const description = ownDescription({ name: before }, { name: this.#diskOf(vm, volume) ?? '' });
          draft.name = name;
          if (draft.spec.description === description)
            draft.spec.description = ownDescription(vm, { name: this.#diskOf(vm, volume) ?? '' });
        });
      await volumes.setStatus(volume.id, (status) => ({ ...status, usedBy: { id: vm.id, name: vm.name } }));
    }
  }

  /** Name of the VM's disk that a volume is. */
  #diskOf(vm: Pick<Vm, 'status'>, volume: Volume): string | null {
    return vm.status.disks.find((disk) => disk.volume === volume.id)?.name ?? null;
  }

  /** What a volume is called when its VM gets another name; null: as before, for it was not called after the VM. */
  #nameAfterRename(vm: Vm, volume: Volume, name: string): string | null {
    const disk = this.#diskOf(vm, volume);
    if (!volume.status.isOwnedByVm || disk === null || volume.name !== ownName(vm, { name: disk })) return null;
    return ownName({ name }, { name: disk });
  }

  /** Gives up what a VM's disks were: own volumes are deleted, others are free again. Can be repeated. */
  async surrender(vm: Pick<Vm, 'id'>): Promise<void> {
    for (const volume of this.usedBy(vm)) {
      if (volume.status.isOwnedByVm) await this.remove(volume.id);
      else await this.#parts.volumes.setStatus(volume.id, (status) => ({ ...status, usedBy: null }));
    }
  }

  /** Frees a volume that its VM has no disk for any more. One that was made with the VM stays, as a volume of its own. */
  async release(id: string): Promise<void> {
    if (this.#parts.volumes.get(id))
      await this.#parts.volumes.setStatus(id, (status) => ({ ...status, usedBy: null, isOwnedByVm: false }));
  }

  /** Removes a volume: first its file, then the object. Can be repeated. */
  async remove(id: string): Promise<void> {
    const volume = this.#parts.volumes.get(id);
    if (!volume) return;
    await this.#parts.layers.removeTop(volume);
    await this.#parts.volumes.delete(id).catch((error: unknown) => {
      if (!(error instanceof LodgeError && error.code === 'not_found')) throw error;
    });
  }

  /** After the daemon's start: volumes that were never finished and belong to nothing are removed, and files of none. */
  async recover(): Promise<void> {
    const vms = new Map([...this.#parts.vms()].map((vm) => [vm.id, vm]));
    for (const volume of [...this.#parts.volumes.all()]) {
      const isWorkedOn = this.#parts.engine.activeOn({ kind: 'volume', id: volume.id }).length > 0;
      const isOrphan = volume.status.isOwnedByVm
        ? !vms.has(volume.status.usedBy?.id ?? '')
        : volume.status.state !== 'ready' && !isWorkedOn;
      if (isOrphan) await this.remove(volume.id);
      else if (volume.status.usedBy && !vms.has(volume.status.usedBy.id))
        await this.#parts.volumes.setStatus(volume.id, (status) => ({ ...status, usedBy: null }));
    }
    // The daemon may have died between a VM's new name and those of its disks.
    for (const vm of vms.values()) {
      const before = this.usedBy(vm).find(({ status }) => status.usedBy && status.usedBy.name !== vm.name)?.status
        .usedBy;
      if (before) await this.followRename(vm, before.name);
    }
    await this.#parts.layers.recover();
    const own = new Set([...this.#parts.volumes.all()].map((volume) => this.#parts.layers.topOf(volume).file));
    await this.#parts.files.removeStrays(
      this.#parts.directory,
      (file) => own.has(file) || this.#parts.layers.isKnownFile(file),
    );
  }

  /** Reads again how much space a volume takes, with all the layers it is made of. */
  async refresh(volume: Volume): Promise<Volume> {
    if (volume.status.state !== 'ready') return volume;
    const { layers } = this.#parts;
    const sizes = await Promise.all(layers.lineOf(volume).map((layer) => layers.sizeOf(layer)));
    // Read and shown, not written: many who look at volumes would fill the store's history with it.
    const allocatedBytes = sizes.reduce((sum, size) => sum + size, 0);
    return { ...volume, status: { ...volume.status, allocatedBytes } };
  }

  /** Refuses what can only be done to a volume that is complete and that no running guest writes to. */
  #requireGrowable(volume: Volume): void {
    const { usedBy, state, reason, isOwnedByVm } = volume.status;
    // Its size stands in the VM's spec, which would have the old one.
    if (isOwnedByVm && usedBy)
      throw new LodgeError('in_use', `Volume ${volume.name} is a disk of VM ${usedBy.name}, and grows with that.`, {
        hint: `Grow the disk: lodge vm disk resize ${usedBy.name} DISK SIZE (lodge vm show ${usedBy.name} names its disks).`,
      });
    if (state !== 'ready')
      throw new LodgeError('wrong_state', `Volume ${volume.name} can not grow: it is ${state}. ${reason}`, {
        hint: 'Wait until it is ready.',
      });
    for (const vm of this.#parts.vms())
      if (vm.id === usedBy?.id && !growableVmStates.has(vm.status.state))
        throw new LodgeError(
          'wrong_state',
          `Volume ${volume.name} can not grow while VM ${vm.name} is ${vm.status.state}.`,
          { hint: 'Wait until it is running or stopped.' },
        );
  }

  /** Name of a VM that names the volume in its spec, whether it has it yet or not. */
  #namedBy(volume: Volume): string | null {
    for (const { name, project, spec, status } of this.#parts.vms()) {
      const disks = [...spec.disks, ...(status.startedSpec?.disks ?? [])];
      const isNamed = disks.some((disk) => disk.volume === volume.name || disk.volume === volume.id);
      if (project === volume.project && isNamed) return name;
    }
    return null;
  }

  #imageOf(volume: Pick<Volume, 'project' | 'spec'>): Image | null {
    return volume.spec.image ? this.#parts.images.require(volume.project, volume.spec.image) : null;
  }

  #imageLayer(image: Image): DiskLayer {
    const files = this.#parts.images.files(image);
    if (files.kind === 'kernel')
      throw invalidField('spec.image', `image ${image.name} holds a kernel and no disk`, image.name);
    return files.layer;
  }
}

function volumePath(directory: string, volume: Pick<Volume, 'id' | 'spec'>): string {
  return join(directory, `${volume.id}.${volume.spec.format}`);
}

function subject(volume: Pick<Volume, 'id' | 'name' | 'project'>): Subject {
  return { kind: 'volume', id: volume.id, name: volume.name, project: volume.project };
}

/** Name of the volume that is made for a VM's disk. */
function ownName(vm: Pick<Vm, 'name'>, disk: Pick<VmDisk, 'name'>): string {
  return `${vm.name}-${disk.name}`.slice(0, 63).replace(/-+$/, '');
}

function ownDescription(vm: Pick<Vm, 'name'>, disk: Pick<VmDisk, 'name'>): string {
  return `Disk ${disk.name} of VM ${vm.name}`;
}
