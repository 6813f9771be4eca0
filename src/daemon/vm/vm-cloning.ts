// What can be asked for in the way of copies of VMs that are not running copies: clones.
import { uuidv7 } from 'uuidv7';
import { LodgeError } from '../../api/errors.ts';
import { type VmClone } from '../../api/vm-clone.ts';
import { type Vm } from '../../api/vm.ts';
import { type NodeService } from '../node/node-service.ts';
import { type SnapshotService } from '../snapshot/snapshot-service.ts';
import { type ReferenceLock } from '../store/reference-lock.ts';
import { type TaskEngine } from '../task/task-engine.ts';
import { type TaskRecord, type TaskType } from '../task/task.ts';
import { vmDirectory, type DefinitionParts } from './definition.ts';
import { namesOfCopies, specOfCopy } from './fork-copies.ts';
import { diskVolumes } from './freeze-disks.ts';
import { type CloneInput } from './vm-clone-tasks.ts';
import { type VmRecords } from './vm-records.ts';
import { type VmStepParts } from './vm-step.ts';

export interface VmCloningParts extends Pick<DefinitionParts, 'directory'> {
  records: VmRecords;
  volumes: VmStepParts['volumes'];
  engine: TaskEngine;
  nodes: Pick<NodeService, 'requireRoom'>;
  references: ReferenceLock;
  snapshots: Pick<SnapshotService, 'originalOf'>;
  task: TaskType<CloneInput>;
  /** Refuses a spec that no VM of this project can have. */
  check: (vm: { project: string; spec: Vm['spec'] }) => Promise<void>;
}

/** What new VMs are made of. Without layers, the disks of the VM are frozen for them. */
export interface Original {
  spec: Vm['spec'];
  disks: Vm['status']['disks'];
  layers?: Record<string, string> | undefined;
  /** Folder with what its firmware and TPM remember. */
  firmware: string;
}

interface Parent {
  kind: 'vm' | 'template';
  id: string;
  name: string;
  project: string;
  labels: Vm['labels'];
}

export class VmCloning {
  readonly #parts: VmCloningParts;

  constructor(parts: VmCloningParts) {
    this.#parts = parts;
  }

  /** Makes clones of a VM, whatever else is being done with it; only while it goes from one state to another it can't be. */
  async clone(
    given: Vm,
    { name, count, mode, isStarted, snapshot, tpm }: VmClone,
    requestedBy: string,
  ): Promise<TaskRecord> {
    const original = await this.originalOf(given, snapshot);
    const { id, project, labels } = given;
    return this.make(
      { kind: 'vm', id, name: given.name, project, labels },
      original,
      { name, count, mode, isStarted, tpm },
      requestedBy,
    );
  }

  /** What new VMs begin with: those of a VM as it is now, or those of a snapshot of it. Refuses what can't be frozen. */
  async originalOf(vm: Vm, snapshot: string | undefined): Promise<Original> {
    if (snapshot !== undefined) return this.#parts.snapshots.originalOf(vm, snapshot);
    this.#parts.records.requireAllowed(vm, 'clone');
    requireDisksToCopy(this.#parts, vm);
    return { spec: vm.spec, disks: vm.status.disks, firmware: vmDirectory(this.#parts, vm.id) };
  }

  /** Makes new VMs of what another was: all or none. */
  async make(
    parent: Parent,
    { spec, disks, layers, firmware }: Original,
    { name, count, mode, isStarted, tpm }: Pick<VmClone, 'name' | 'count' | 'mode' | 'isStarted' | 'tpm'>,
    requestedBy: string,
  ): Promise<TaskRecord> {
    const { records, nodes, references, engine, task, check } = this.#parts;
    const sizes = new Map(disks.map((disk) => [disk.name, disk.sizeMib ?? 0]));
    // A volume that was to be attached only at the next start is in no snapshot.
    const copied = spec.disks.filter((disk) => !disk.volume || !layers || disk.name in layers);
    const wanted = specOfCopy({ ...spec, disks: copied }, { networks: null, sizes });
    nodes.requireRoom(wanted, isStarted);
    const { project, labels } = parent;
    await check({ project, spec: wanted });
    return references.hold(async () => {
      const taken = this.#namesOnTheWay(project);
      const names = namesOfCopies(name ?? parent.name, {
        count,
        isWhole: name !== undefined,
        isTaken: (candidate) => taken.has(candidate) || records.collection.byName(project, candidate) !== null,
      });
      return engine.submit(task, {
        target: { kind: parent.kind, id: parent.id, name: parent.name, project },
        input: {
          parent: { kind: parent.kind, id: parent.id, name: parent.name },
          copies: names.map((copy) => ({ id: uuidv7(), name: copy })),
          project,
          labels,
          spec: wanted,
          mode,
          layers,
          firmware,
          tpm,
          isStarted,
        },
        requestedBy,
      });
    });
  }

  /** Names that clones will have which were asked for and are no objects yet. */
  #namesOnTheWay(project: string): Set<string> {
    const names = new Set<string>();
    for (const { type, state, input } of this.#parts.engine.all()) {
      if (type !== this.#parts.task.type || !['queued', 'running'].includes(state)) continue;
      const { copies, project: own } = input as CloneInput;
      if (own === project) for (const copy of copies) names.add(copy.name);
    }
    return names;
  }
}

function requireDisksToCopy(parts: VmCloningParts, vm: Vm): void {
  for (const { disk, volume } of diskVolumes(parts, vm)) {
    const { state, reason } = volume.status;
    if (state !== 'ready')
      throw new LodgeError('wrong_state', `Disk ${disk} of VM ${vm.name} is ${state}: ${reason}`, {
        hint: 'Wait until it is ready.',
      });
  }
}
