// Changes of VMs that are up: what a new spec means for a guest that runs, and the task that makes it so. Whatever kept a
// change from being made at once (another task, a guest that didn't let go), it is tried again when that is over.
import { LodgeError } from '../../api/errors.ts';
import { type PendingChange, type Vm } from '../../api/vm.ts';
import { type Guest } from '../../drivers/driver.ts';
import { type NodeService } from '../node/node-service.ts';
import { type Log } from '../store/informer.ts';
import { type TaskEngine } from '../task/task-engine.ts';
import { type TaskRecord } from '../task/task.ts';
import {
  effectiveConfiguration,
  pendingFrom,
  pendingWithoutGuest,
  planFor,
  wantedConfiguration,
} from './vm-changes.ts';
import { type VmChangesParts } from './vm-changes.ts';
import { type VmGuests } from './vm-guests.ts';
import { vmSubject } from './vm-records.ts';
import { type VmTasks } from './vm-tasks.ts';

export interface LiveChangesParts extends VmChangesParts {
  guests: VmGuests;
  engine: TaskEngine;
  tasks: VmTasks;
  nodes: NodeService;
  log: Log;
}

export class LiveChanges {
  readonly #parts: LiveChangesParts;
  /** The specs whose changes were tried, by VM: what was refused then is not tried again by itself. */
  readonly #tried = new Map<string, string>();

  constructor(parts: LiveChangesParts) {
    this.#parts = parts;
  }

  /**
   * Refuses a spec before it is written, for what a guest that runs would lose or the node couldn't give: a disk that the
   * guest says it has mounted (unless `isForced`), more memory than there is.
   */
  async check(given: Vm, spec: Vm['spec'], isForced: boolean): Promise<void> {
    const vm = { ...given, spec };
    const now = effectiveConfiguration(this.#parts, vm);
    const guest = this.#guestOf(vm);
    if (!now || !guest) return;
    if (spec.memoryMib > now.spec.memoryMib) this.#parts.nodes.requireMore(spec.memoryMib - now.spec.memoryMib);
    if (isForced || vm.status.state !== 'running') return;
    const kept = new Set(wantedConfiguration(this.#parts, vm).disks.map(({ name }) => name));
    for (const disk of now.disks) {
      if (kept.has(disk.name) || disk.device === 'cdrom') continue;
      const mounted = await guest.devices.mountPoints(disk.name);
      if (!mounted?.length) continue;
      throw new LodgeError(
        'in_use',
        `The guest of VM ${vm.name} has disk ${disk.name} mounted at ${mounted.join(', ')}.`,
        { hint: `Unmount it in the guest first, or take it out all the same: lodge vm disk remove --force.` },
      );
    }
  }

  /** What of a VM's spec isn't in effect now. */
  async pending(vm: Vm): Promise<PendingChange[]> {
    const guest = this.#guestOf(vm);
    if (!guest) return pendingWithoutGuest(this.#parts, vm);
    try {
      return await pendingFrom(this.#parts, vm, guest);
    } catch (error) {
      if (!(error instanceof LodgeError)) throw error;
      return pendingWithoutGuest(this.#parts, vm);
    }
  }

  /** Submits the task that makes what can be made; null: there is nothing to do, or something else has to end first. */
  async begin(id: string, requestedBy: string, isForced = false): Promise<TaskRecord | null> {
    const { records, engine, tasks } = this.#parts;
    const vm = records.collection.get(id);
    const guest = vm && this.#guestOf(vm);
    if (!guest || engine.activeOn({ kind: 'vm', id }).length > 0) return null;
    const plan = await planFor(this.#parts, vm, guest);
    if (!plan || plan.steps.length === 0) return null;
    this.#tried.set(id, JSON.stringify(vm.spec));
    return engine.submit(tasks.change, { target: vmSubject(vm), input: { id, isForced }, requestedBy });
  }

  /**
   * Goes on with what is left to do after something has ended. `isNews`: the guest has told something new of its devices,
   * so that what it refused may be possible now.
   */
  async goOn(id: string, isNews: boolean): Promise<void> {
    const vm = this.#parts.records.collection.get(id);
    if (!vm || vm.status.pendingChanges.length === 0 || !this.#guestOf(vm)) return;
    if (!isNews && this.#tried.get(id) === JSON.stringify(vm.spec)) return;
    try {
      if (await this.begin(id, 'lodge')) return;
      const pendingChanges = await this.pending(vm);
      if (vm.status.taskId === null) await this.#parts.records.patch(id, { pendingChanges });
    } catch (error) {
      this.#parts.log.warn({ err: error, vm: vm.name }, 'changes of a VM could not be gone on with');
    }
  }

  /** A guest that can be changed now. */
  #guestOf(vm: Vm): Guest | null {
    const { state } = vm.status;
    return state === 'running' || state === 'paused' ? this.#parts.guests.get(vm.id) : null;
  }
}
