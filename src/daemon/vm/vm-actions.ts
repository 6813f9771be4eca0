// One action on many VMs: which are meant, whether there is anything to do for each, and the task that does it.
import { uuidv7 } from 'uuidv7';
import { invalidField, LodgeError } from '../../api/errors.ts';
import { type Subject } from '../../api/object.ts';
import { type TaskItem } from '../../api/task.ts';
import {
  bulkActionPermissions,
  maxActionVms,
  type PlannedVmAction,
  type VmActions as Request,
  type VmBulkAction,
} from '../../api/vm-action.ts';
import { vmSpec } from '../../api/vm-spec.ts';
import { canVm } from '../../api/vm-state.ts';
import { type Vm } from '../../api/vm.ts';
import { closestWord } from '../../lib/closest-word.ts';
import { type Json } from '../../lib/field-path.ts';
import { mergePatch } from '../../lib/merge-patch.ts';
import { isAllowed, type Caller } from '../http/context.ts';
import { type SnapshotService } from '../snapshot/snapshot-service.ts';
import { parseSelector } from '../store/selector.ts';
import { type TaskEngine } from '../task/task-engine.ts';
import { pendingItem } from '../task/task-items.ts';
import { type TaskRecord, type TaskType } from '../task/task.ts';
import { type VmActionInput } from './vm-action-task.ts';
import { type VmRecords } from './vm-records.ts';
import { type VmService } from './vm-service.ts';

export interface VmActionsParts {
  records: VmRecords;
  service: VmService;
  snapshots: SnapshotService;
  engine: TaskEngine;
  task: TaskType<VmActionInput>;
  /** The node that does it. */
  node: () => Subject;
}

/** States in which a snapshot can be taken. */
const capturable: ReadonlySet<Vm['status']['state']> = new Set(['stopped', 'running', 'paused']);

export class VmActions {
  readonly #parts: VmActionsParts;

  constructor(parts: VmActionsParts) {
    this.#parts = parts;
  }

  /** The VMs that are meant, in the order of their names. */
  plan(request: Request, caller: Caller): PlannedVmAction[] {
    requirePermission(request.action, caller);
    const { project, vms } = request;
    if ('names' in vms) return this.#named(project, vms.names);
    return this.#selected(project, 'selector' in vms ? vms.selector : undefined).map((vm) => {
      const reason = whyNot(request.action, vm);
      return { id: vm.id, name: vm.name, state: vm.status.state, isHit: reason === '', reason };
    });
  }

  async act(request: Request, caller: Caller): Promise<TaskRecord> {
    const { action, parallelism } = request;
    const items = this.plan(request, caller).map((planned): TaskItem => {
      const item = pendingItem(planned);
      if (planned.state === null) return { ...item, ...failed(missing(planned)) };
      return planned.isHit ? item : { ...item, state: 'skipped', message: planned.reason };
    });
    return this.#parts.engine.submit(this.#parts.task, {
      target: this.#parts.node(),
      project: request.project,
      input: { key: uuidv7(), action, parallelism },
      requestedBy: caller.name,
      items,
    });
  }

  /** Begins the action on one VM; null: it is done. */
  async actOnOne(given: Vm, action: VmBulkAction, requestedBy: string, parentId: string): Promise<TaskRecord | null> {
    const { records, service, snapshots, engine } = this.#parts;
    const vm = records.byId(given.id);
    switch (action.type) {
      case 'start':
        return service.start(vm, requestedBy, { bootOnce: action.bootOnce, parentId });
      case 'stop':
        return service.stop(vm, action.timeoutS, requestedBy, parentId);
      case 'restart':
        return service.restart(vm, { timeoutS: action.timeoutS, bootOnce: action.bootOnce }, requestedBy, parentId);
      case 'forceOff':
        return service.forceOff(vm, requestedBy, parentId);
      case 'suspend':
        return service.suspend(vm, requestedBy, parentId);
      case 'delete':
        return service.delete(vm, action.force, requestedBy, parentId);
      case 'reset':
      case 'pause':
      case 'resume':
        await service.actNow(vm, action.type);
        return null;
      case 'snapshot': {
        const { name, description, withMemory, quiesce } = action;
        const body = { name, labels: {}, spec: { description }, withMemory, quiesce };
        return snapshots.create(vm, body, requestedBy, parentId);
      }
      case 'update': {
        const labels = mergePatch(vm.labels, action.labels) as Record<string, string>;
        const spec = patchedSpec(vm, action.spec);
        const isForced = action.force;
        const { status } = await service.update(vm, { revision: vm.revision, labels, spec, isForced }, requestedBy);
        const change = status.taskId === null ? null : engine.get(status.taskId);
        return change?.type === 'vm.change' ? change : null;
      }
    }
  }

  #selected(project: string, selector: string | undefined): Vm[] {
    const matches = parseSelector(selector ?? '');
    const found = [...this.#parts.records.collection.all()]
      .filter((vm) => vm.project === project && matches(vm.labels))
      .toSorted((left, right) => (left.name < right.name ? -1 : 1));
    if (found.length === 0) {
      const what = selector === undefined ? 'no VM' : `no VM with the labels ${selector}`;
      throw new LodgeError('not_found', `There is ${what} in project ${project}.`);
    }
    if (found.length > maxActionVms) {
      const field = selector === undefined ? 'vms.all' : 'vms.selector';
      throw invalidField(field, `finds ${found.length} VMs, and one action takes at most ${maxActionVms}`, selector);
    }
    return found;
  }

  #named(project: string, references: readonly string[]): PlannedVmAction[] {
    const { collection } = this.#parts.records;
    const found = new Map<string, PlannedVmAction>();
    for (const reference of references) {
      const vm = collection.find(project, reference);
      const { id, name } = vm ?? { id: reference, name: reference };
      found.set(id, {
        id,
        name,
        state: vm?.status.state ?? null,
        isHit: vm !== null,
        reason: vm ? '' : this.#missingHint(project, reference),
      });
    }
    return [...found.values()];
  }

  #missingHint(project: string, name: string): string {
    const names = [...this.#parts.records.collection.all()].filter((vm) => vm.project === project);
    const near = closestWord(
      name,
      names.map((vm) => vm.name),
    );
    return `There is no VM ${name} in project ${project}.${near === null ? '' : ` Did you mean ${near}?`}`;
  }
}

function missing({ reason }: PlannedVmAction): LodgeError {
  return new LodgeError('not_found', reason);
}

function failed(error: LodgeError): Pick<TaskItem, 'state' | 'message' | 'error'> {
  return { state: 'failed', message: error.message, error: error.toBody().error };
}

function requirePermission({ type }: VmBulkAction, caller: Caller): void {
  const permission = bulkActionPermissions[type];
  if (isAllowed(caller, permission)) return;
  throw new LodgeError('forbidden', `${caller.name} is not allowed to do this: it takes the permission ${permission}.`);
}

/** Why there is nothing to do for a VM that a selector has found; empty: there is. */
function whyNot({ type }: VmBulkAction, { status }: Vm): string {
  // What can't be deleted or changed now is told, and not passed over: it would be thought to be.
  if (type === 'delete' || type === 'update') return '';
  const can = type === 'snapshot' ? capturable.has(status.state) : canVm(type, status.state);
  return can ? '' : `It is ${status.state}.`;
}

/** A VM's spec with a merge patch applied. */
function patchedSpec(vm: Vm, patch: Record<string, unknown>): Vm['spec'] {
  const current = JSON.parse(JSON.stringify(vm.spec)) as Json;
  const checked = vmSpec.safeParse(mergePatch(current, patch as Json));
  if (checked.success) return checked.data;
  const [issue] = checked.error.issues;
  throw invalidField(['action.spec', ...(issue?.path ?? [])].join('.'), issue?.message ?? 'is not valid');
}
