// Groups as objects, and what can be asked of them. A group names its members; which VMs these are is kept by their ids, so
// that a member that is renamed stays one, and another VM that gets its name does not become one.
//
// Invariants:
// - A VM is in one group at most: what is written is checked under the lock of references.
// - A VM that is gone leaves its group; a name that has changed is changed here too. Both also when the daemon was down.
// - What is shown of a group follows from what its VMs are at that moment; what is stored follows that, for those who watch.
import { uuidv7 } from 'uuidv7';
import { invalidField, LodgeError } from '../../api/errors.ts';
import { type Group, type GroupMember, type GroupSpec, type GroupStatus } from '../../api/group.ts';
import { type Subject } from '../../api/object.ts';
import { type Vm } from '../../api/vm.ts';
import { closestWord } from '../../lib/closest-word.ts';
import { type EventService } from '../event/event-service.ts';
import { isAllowed, type Caller } from '../http/context.ts';
import { type Collection } from '../store/collection.ts';
import { type Log } from '../store/informer.ts';
import { type ReferenceLock } from '../store/reference-lock.ts';
import { type TaskEngine } from '../task/task-engine.ts';
import { pendingItem } from '../task/task-items.ts';
import { type TaskRecord } from '../task/task.ts';
import { groupStateOf, orderMembers, stagesOf } from './group-order.ts';
import { type GroupTasks, type PlannedMember } from './group-tasks.ts';

export interface GroupServiceParts {
  groups: Collection<Group>;
  vms: Collection<Vm>;
  engine: TaskEngine;
  tasks: GroupTasks;
  events: EventService;
  references: ReferenceLock;
  log: Log;
}

/** Status of a group of which nothing was observed yet. */
export function initialGroupStatus(): GroupStatus {
  return { state: 'stopped', reason: 'It was not looked at yet.', taskId: null, members: [] };
}

export class GroupService {
  readonly #parts: GroupServiceParts;
  readonly #planned = new Set<string>();
  #isReconcilePlanned = false;
  #isClosed = false;

  constructor(parts: GroupServiceParts) {
    this.#parts = parts;
  }

  /** Puts right what has changed while no daemon ran, and begins to follow the VMs. */
  async begin(): Promise<void> {
    const { vms, engine } = this.#parts;
    await this.#reconcile();
    vms.onChange(({ type, object, previous }) => {
      if (type === 'deleted' || (previous && previous.name !== object.name)) this.#planReconcile();
      if (previous?.status.state === object.status.state && type === 'updated') return;
      const group = this.groupOf(object.id);
      if (group) this.#planRefresh(group.id);
    });
    engine.onChange(({ object }) => {
      if (object.target.kind === 'group') this.#planRefresh(object.target.id);
    });
  }

  close(): void {
    this.#isClosed = true;
  }

  require(project: string, reference: string): Group {
    return this.view(this.#parts.groups.require(project, reference));
  }

  get(id: string): Group | null {
    const found = this.#parts.groups.get(id);
    return found && this.view(found);
  }

  *all(): IterableIterator<Group> {
    for (const group of this.#parts.groups.all()) yield this.view(group);
  }

  /** The group that a VM is in. */
  groupOf(vmId: string): Group | null {
    for (const group of this.#parts.groups.all()) if (group.status.members.some(({ id }) => id === vmId)) return group;
    return null;
  }

  /** A group as its VMs are now. */
  view(group: Group): Group {
    return { ...group, status: this.#observe(group) };
  }

  async create(given: Pick<Group, 'name' | 'project' | 'labels' | 'spec'>, caller: Caller): Promise<Group> {
    requireGuestPermission(given.spec, caller);
    const { groups, references } = this.#parts;
    return references.hold(async () => {
      const id = uuidv7();
      const spec = this.#checked({ id, project: given.project, spec: given.spec });
      const status = this.#observe({ id, project: given.project, spec, status: initialGroupStatus() });
      return this.view(await groups.create({ ...given, id, spec, status }));
    });
  }

  async update(
    given: Group,
    change: { revision?: number | undefined; labels?: Record<string, string> | undefined; spec: GroupSpec },
    caller: Caller,
  ): Promise<Group> {
    requireGuestPermission(change.spec, caller);
    const { groups, references } = this.#parts;
    await this.#reconcile();
    return references.hold(async () => {
      const spec = this.#checked({ ...given, spec: change.spec });
      const updated = await groups.update(given.id, change.revision, (draft) => {
        draft.spec = spec;
        if (change.labels) draft.labels = change.labels;
      });
      await this.#refresh(given.id);
      return this.view(updated);
    });
  }

  async delete(given: Group): Promise<Group> {
    this.#requireIdle(given);
    return this.#parts.groups.delete(given.id);
  }

  async start(group: Group, requestedBy: string): Promise<TaskRecord> {
    return this.#submit(group, 'start', requestedBy, { members: this.#membersOf(group) });
  }

  async stop(group: Group, timeoutS: number | undefined, requestedBy: string): Promise<TaskRecord> {
    return this.#submit(group, 'stop', requestedBy, { members: this.#membersOf(group), timeoutS });
  }

  async restart(group: Group, timeoutS: number | undefined, requestedBy: string): Promise<TaskRecord> {
    return this.#submit(group, 'restart', requestedBy, { members: this.#membersOf(group), timeoutS });
  }

  /**
   * The node has come up: starts in their order the groups that start by themselves, and of the others the members among
   * `wanted`. Answers with the VMs for which that is done.
   */
  async autostart(wanted: ReadonlySet<string>, requestedBy: string): Promise<Set<string>> {
    const taken = new Set<string>();
    for (const group of [...this.#parts.groups.all()]) {
      const members = this.#membersOf(group).filter(({ id }) => group.spec.autostart || wanted.has(id));
      if (members.length === 0) continue;
      for (const { id } of members) taken.add(id);
      try {
        await this.#submit(group, 'start', requestedBy, { members });
        const message = `Group ${group.name} is started: ${group.spec.autostart ? 'it is' : 'members of it are'} to start with the node.`;
        await this.#parts.events.record({ type: 'group.autostart', subject: subjectOf(group), message });
      } catch (error) {
        // One that a daemon before has begun goes on.
        if (!(error instanceof LodgeError && error.code === 'busy')) throw error;
      }
    }
    return taken;
  }

  /** The node goes down: what starts groups ends, so that nothing is started any more. */
  async cancelStarts(): Promise<void> {
    const { engine, tasks } = this.#parts;
    for (const group of this.#parts.groups.all()) {
      for (const active of engine.activeOn({ kind: 'group', id: group.id })) {
        if (active.type === tasks.stop.type) continue;
        await engine.cancel(active.id).catch((error: unknown) => {
          if (!(error instanceof LodgeError && error.code === 'wrong_state')) throw error;
        });
      }
    }
  }

  /** The VMs that have to be down before a VM is stopped. */
  stoppedBefore(vmId: string): string[] {
    const group = this.groupOf(vmId);
    if (!group) return [];
    const stages = stagesOf(this.#membersOf(group)).map((stage) => stage.map(({ id }) => id));
    const own = stages.findIndex((stage) => stage.includes(vmId));
    return stages.slice(own + 1).flat();
  }

  /** Writes what is observed of a group, for those who watch it. */
  async refresh(id: string): Promise<void> {
    await this.#refresh(id);
  }

  async #submit(
    given: Group,
    verb: keyof GroupTasks,
    requestedBy: string,
    { members, timeoutS }: { members: PlannedMember[]; timeoutS?: number },
  ): Promise<TaskRecord> {
    this.#requireIdle(given);
    if (members.length === 0)
      throw new LodgeError('wrong_state', `Group ${given.name} has no members.`, {
        hint: `Give it some: lodge group set ${given.name} --add VM`,
      });
    return this.#parts.engine.submit(this.#parts.tasks[verb], {
      target: subjectOf(given),
      input: { id: given.id, members, timeoutS },
      requestedBy,
      items: stagesOf(members)
        .flat()
        .map(({ id, vm }) => pendingItem({ id, name: vm })),
    });
  }

  #requireIdle({ id, name }: Group): void {
    const [active] = this.#parts.engine.activeOn({ kind: 'group', id });
    if (!active) return;
    throw new LodgeError('busy', `Group ${name} is being worked on: ${active.type}, task ${active.id}.`, {
      hint: `Wait for it (lodge task wait ${active.id}), or cancel it.`,
    });
  }

  /** The members whose VMs there are, with their ids and places. */
  #membersOf(group: Pick<Group, 'project' | 'spec' | 'status'>): PlannedMember[] {
    return orderMembers(group.spec.members).flatMap((member) => {
      const vm = this.#vmOf(group, member);
      return vm ? [{ ...member, id: vm.id }] : [];
    });
  }

  /** The VM that a member is: by the id that is kept for it, else the one that has the name. */
  #vmOf({ project, status }: Pick<Group, 'project' | 'status'>, { vm: name }: GroupMember): Vm | null {
    const { vms } = this.#parts;
    const kept = status.members.find((member) => member.vm === name);
    return kept ? vms.get(kept.id) : vms.byName(project, name);
  }

  #observe(group: Pick<Group, 'id' | 'project' | 'spec' | 'status'>): GroupStatus {
    const { vms, engine } = this.#parts;
    const members = stagesOf(this.#membersOf(group))
      .flat()
      .flatMap(({ id, vm, order }) => {
        const state = vms.get(id)?.status.state;
        return state ? [{ vm, id, order, state }] : [];
      });
    const taskId = engine.activeOn({ kind: 'group', id: group.id })[0]?.id ?? null;
    return { ...groupStateOf(members.map(({ state }) => state)), taskId, members };
  }

  /** The spec with its members by their names. Refuses what is not there, twice, or in another group. */
  #checked({ id, project, spec }: Pick<Group, 'id' | 'project' | 'spec'>): GroupSpec {
    const { vms, groups } = this.#parts;
    const seen = new Set<string>();
    const members = spec.members.map((member, index) => {
      const field = `spec.members.${index}.vm`;
      const vm = vms.find(project, member.vm);
      if (!vm) throw this.#noSuchVm(project, member.vm, field);
      if (seen.has(vm.id)) throw invalidField(field, 'is a member already; a VM is in a group once', member.vm);
      seen.add(vm.id);
      for (const other of groups.all()) {
        if (other.id === id || !other.status.members.some((one) => one.id === vm.id)) continue;
        throw new LodgeError(
          'in_use',
          `${field}: VM ${vm.name} is a member of group ${other.name}, and a VM can be in one group only.`,
          {
            fields: [{ field, message: `is a member of group ${other.name}`, value: member.vm }],
            hint: `Take it out of that group first: lodge group set ${other.name} --remove ${vm.name}`,
          },
        );
      }
      return { ...member, vm: vm.name };
    });
    return { ...spec, members };
  }

  #noSuchVm(project: string, name: string, field: string): LodgeError {
    const names = [...this.#parts.vms.all()].filter((vm) => vm.project === project).map((vm) => vm.name);
    const near = closestWord(name, names);
    const hint = near === null ? 'Make the VM first: lodge vm create.' : `Did you mean ${near}?`;
    return new LodgeError('not_found', `${field}: there is no VM ${name} in project ${project}.`, { hint });
  }

  /** VMs that are gone leave their groups, and those that are called otherwise now are called so here too. */
  async #reconcile(): Promise<void> {
    const { groups, vms, references, events } = this.#parts;
    await references.hold(async () => {
      for (const group of [...groups.all()]) {
        const left = group.spec.members.filter((member) => !this.#vmOf(group, member));
        const isRenamed = group.spec.members.some((member) => {
          const vm = this.#vmOf(group, member);
          return vm !== null && vm.name !== member.vm;
        });
        if (left.length > 0 || isRenamed) {
          // Places that followed from the list are written down: those who stay keep theirs.
          const ordered = left.length > 0 ? orderMembers(group.spec.members) : group.spec.members;
          const members = ordered.flatMap((member): GroupMember[] => {
            const vm = this.#vmOf(group, member);
            return vm ? [{ ...member, vm: vm.name }] : [];
          });
          await groups.update(group.id, undefined, (draft) => {
            draft.spec.members = members;
          });
        }
        for (const { vm: name } of left)
          await events.record({
            type: 'group.member-left',
            subject: subjectOf(group),
            message: `VM ${name} was deleted and is in group ${group.name} no more.`,
          });
        const current = groups.get(group.id);
        if (current) await groups.setStatus(group.id, (status) => this.#kept(current, status, vms));
      }
    });
  }

  /** The status after members were renamed or have left: ids first, so that names that are new are found by them. */
  #kept(group: Group, status: GroupStatus, vms: Collection<Vm>): GroupStatus {
    const members = status.members.flatMap((member) => {
      const vm = vms.get(member.id);
      return vm ? [{ ...member, vm: vm.name }] : [];
    });
    return this.#observe({ ...group, status: { ...status, members } });
  }

  async #refresh(id: string): Promise<void> {
    const { groups } = this.#parts;
    if (!groups.get(id)) return;
    await groups.setStatus(id, (_status, group) => this.#observe(group));
  }

  #planRefresh(id: string): void {
    if (this.#planned.has(id)) return;
    this.#planned.add(id);
    setImmediate(() => {
      this.#planned.delete(id);
      if (!this.#isClosed) this.#refresh(id).catch((error: unknown) => this.#warn(error));
    });
  }

  #planReconcile(): void {
    if (this.#isReconcilePlanned) return;
    this.#isReconcilePlanned = true;
    setImmediate(() => {
      this.#isReconcilePlanned = false;
      if (!this.#isClosed) this.#reconcile().catch((error: unknown) => this.#warn(error));
    });
  }

  #warn(error: unknown): void {
    const isGone = error instanceof LodgeError && error.code === 'not_found';
    if (!this.#isClosed && !isGone) this.#parts.log.warn({ err: error }, 'a group could not be looked at');
  }
}

function subjectOf({ id, name, project }: Group): Subject {
  return { kind: 'group', id, name, project };
}

/** A command in a guest is run for whoever asked for it, so it takes what running one takes. */
function requireGuestPermission(spec: GroupSpec, caller: Caller): void {
  const index = spec.members.findIndex(({ ready }) => ready.type === 'command');
  if (index === -1 || isAllowed(caller, 'vm.guest')) return;
  throw new LodgeError(
    'forbidden',
    `spec.members.${index}.ready: ${caller.name} may not run programs in guests: it takes the permission vm.guest.`,
  );
}
