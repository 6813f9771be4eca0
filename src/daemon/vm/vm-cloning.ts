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
import { namesOfCopies, specOfCopy } from './fork-copies.ts';
import { diskVolumes } from './freeze-disks.ts';
import { type CloneInput } from './vm-clone-tasks.ts';
import { vmSubject, type VmRecords } from './vm-records.ts';
import { type VmStepParts } from './vm-step.ts';

export interface VmCloningParts {
  records: VmRecords;
  volumes: VmStepParts['volumes'];
  engine: TaskEngine;
  nodes: Pick<NodeService, 'requireRoom'>;
  references: ReferenceLock;
  snapshots: Pick<SnapshotService, 'originalOf'>;
  task: TaskType<CloneInput>;
}

export class VmCloning {
  readonly #parts: VmCloningParts;

  constructor(parts: VmCloningParts) {
    this.#parts = parts;
  }

  /** Makes clones of a VM, whatever else is being done with it; only while it goes from one state to another it can't be. */
  async clone(
    given: Vm,
    { name, count, mode, isStarted, snapshot }: VmClone,
    requestedBy: string,
  ): Promise<TaskRecord> {
    const { records, nodes, references, engine, task, snapshots } = this.#parts;
    if (snapshot === undefined) {
      records.requireAllowed(given, 'clone');
      requireDisksToCopy(this.#parts, given);
    }
    const { spec, disks, layers } =
      snapshot === undefined
        ? { spec: given.spec, disks: given.status.disks, layers: undefined }
        : await snapshots.originalOf(given, snapshot);
    nodes.requireRoom(spec, isStarted);
    const sizes = new Map(disks.map((disk) => [disk.name, disk.sizeMib ?? 0]));
    // A volume that could only be read is in no snapshot.
    const copied = spec.disks.filter((disk) => !disk.volume || !layers || disk.name in layers);
    const wanted = specOfCopy({ ...spec, disks: copied }, { networks: null, sizes });
    return references.hold(async () => {
      const vm = records.byId(given.id);
      const taken = this.#namesOnTheWay(vm.project);
      const names = namesOfCopies(name ?? vm.name, {
        count,
        isWhole: name !== undefined,
        isTaken: (candidate) => taken.has(candidate) || records.collection.byName(vm.project, candidate) !== null,
      });
      const copies = names.map((copy) => ({ id: uuidv7(), name: copy }));
      const { project, labels } = vm;
      return engine.submit(task, {
        target: vmSubject(vm),
        input: {
          id: vm.id,
          copies,
          project,
          labels,
          spec: wanted,
          mode,
          layers,
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
  const { startedSpec } = vm.status;
  const readOnly = startedSpec?.disks.find((disk) => disk.device === 'disk' && disk.isReadOnly && disk.volume);
  if (readOnly)
    throw new LodgeError(
      'unsupported',
      `VM ${vm.name} can not be cloned while it runs: disk ${readOnly.name} is attached read-only, and can not be frozen.`,
      { hint: `Stop it first (lodge vm stop ${vm.name}), or clone a snapshot of it, which goes without that disk.` },
    );
  for (const { disk, volume } of diskVolumes(parts, vm)) {
    const { state, reason } = volume.status;
    if (state !== 'ready')
      throw new LodgeError('wrong_state', `Disk ${disk} of VM ${vm.name} is ${state}: ${reason}`, {
        hint: 'Wait until it is ready.',
      });
  }
}
