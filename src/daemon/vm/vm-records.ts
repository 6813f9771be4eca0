// The VMs as objects: reading them, and the only way their status changes. A state change that the table in
// src/api/vm-state.ts doesn't have is refused here, whoever asks for it.
import { LodgeError } from '../../api/errors.ts';
import { type Vm, type VmStatus } from '../../api/vm.ts';
import { canVm, vmActions, vmTransitions, type VmAction, type VmState } from '../../api/vm-state.ts';
import { type Subject } from '../../api/object.ts';
import { type Collection } from '../store/collection.ts';

/** What an action is called in messages to people. */
export const actionWords: Readonly<Record<VmAction | 'snapshot', string>> = {
  start: 'started',
  stop: 'stopped',
  forceOff: 'switched off',
  restart: 'restarted',
  reset: 'reset',
  pause: 'paused',
  resume: 'resumed',
  suspend: 'suspended',
  delete: 'deleted',
  console: 'opened on a console',
  guest: 'asked through its agent',
  measure: 'measured',
  update: 'changed',
  fork: 'forked',
  clone: 'cloned',
  snapshot: 'captured in a snapshot',
};

/** Status of a VM that has only just been asked for. */
export function initialVmStatus(createdAt: string): VmStatus {
  return {
    state: 'creating',
    reason: 'It is being created.',
    since: createdAt,
    node: null,
    isUp: false,
    upAt: null,
    startedAt: null,
    pid: null,
    uid: null,
    taskId: null,
    pinned: null,
    devices: [],
    disks: [],
    nics: [],
    nicLimits: [],
    publishedPorts: [],
    guest: null,
    agentAdvice: null,
    clockStaleSince: null,
    generationId: null,
    consolePanic: null,
    placement: null,
    bootedOnceFrom: null,
    warnings: [],
    lineage: null,
    lastExit: null,
    restarts: { count: 0, nextAt: null },
    startedSpec: null,
    pendingChanges: [],
    profileChanges: [],
  };
}

export function vmSubject(vm: Pick<Vm, 'id' | 'name' | 'project'>): Subject {
  return { kind: 'vm', id: vm.id, name: vm.name, project: vm.project };
}

export class VmRecords {
  readonly collection: Collection<Vm>;

  constructor(collection: Collection<Vm>) {
    this.collection = collection;
  }

  /** A VM by id that must exist; for code that was given the id by an object that exists. */
  byId(id: string): Vm {
    const vm = this.collection.get(id);
    if (!vm) throw new LodgeError('not_found', `There is no VM with the id ${id}; it was deleted meanwhile.`);
    return vm;
  }

  /** Throws wrong_state unless the action is allowed now. */
  requireAllowed(vm: Vm, action: VmAction): void {
    if (canVm(action, vm.status.state)) return;
    const allowed = vmActions[action].from;
    throw new LodgeError(
      'wrong_state',
      `VM ${vm.name} is ${vm.status.state} and can not be ${actionWords[action]}; that takes a VM that is ${allowed.join(' or ')}.`,
      { hint: hintFor(action, vm.status.state) },
    );
  }

  /** Changes status without changing state. */
  patch(id: string, patch: Partial<Omit<VmStatus, 'state' | 'since'>>): Promise<Vm> {
    return this.collection.setStatus(id, (status) => ({ ...status, ...patch }));
  }

  /** A task has ended: the VM is worked on no more, unless another one has begun already. */
  async releaseTask(id: string, taskId: string): Promise<void> {
    if (this.collection.get(id)?.status.taskId !== taskId) return;
    await this.collection.setStatus(id, (status) => (status.taskId === taskId ? { ...status, taskId: null } : status));
  }

  /** No start is planned any more. Nothing happens where the VM is gone. */
  async dropPlannedStart(id: string): Promise<void> {
    if (!this.collection.get(id)?.status.restarts.nextAt) return;
    await this.collection.setStatus(id, (status) => ({ ...status, restarts: { ...status.restarts, nextAt: null } }));
  }

  /** Moves a VM to another state. In the state already: only reason and patch change. */
  transition(
    id: string,
    to: VmState,
    reason: string,
    patch: Partial<Omit<VmStatus, 'state' | 'since'>> = {},
  ): Promise<Vm> {
    return this.collection.setStatus(id, (status, vm) => {
      if (status.state !== to && !vmTransitions[status.state].includes(to)) {
        throw new LodgeError('internal', `VM ${vm.name} can not go from ${status.state} to ${to}.`);
      }
      const since = status.state === to ? status.since : new Date().toISOString();
      // A guest's clock stands still with its vCPUs.
      const goesOn = status.state === 'paused' && to === 'running' && vm.spec.hasClockSync;
      const clockStaleSince = goesOn ? since : status.clockStaleSince;
      return { ...status, clockStaleSince, ...patch, state: to, reason, since };
    });
  }
}

function hintFor(action: VmAction, state: VmState): string {
  if (state === 'deleting') return 'It will be gone soon; lodge vm delete tries again if its deletion failed.';
  if (state === 'creating') return 'Wait until it is created, or cancel that task.';
  if (state === 'stopped') return 'Start it first: lodge vm start.';
  if (state === 'suspended') return 'Start it, or discard its saved state with lodge vm force-off.';
  if (action === 'start')
    return state === 'paused' ? 'Let it run on: lodge vm resume.' : 'It is up already, or on its way.';
  if (action === 'resume') return 'It runs already, or can not be resumed: a crashed VM is reset, lodge vm reset.';
  if (state === 'paused' && (action === 'guest' || action === 'pause')) return 'Let it run on first: lodge vm resume.';
  if (action === 'delete') return 'Stop it first (lodge vm stop), or delete it with --force.';
  return 'Wait until it has settled; lodge vm show tells what it is doing.';
}
