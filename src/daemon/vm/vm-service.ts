// What can be asked of VMs: every request is checked here, and becomes a change of an object, a task, or a call to the
// guest.
import { uuidv7 } from 'uuidv7';
import { LodgeError, invalidField } from '../../api/errors.ts';
import { hasOtherSources } from '../../api/expand-spec.ts';
import { type Network } from '../../api/network.ts';
import { type VmFork } from '../../api/vm-fork.ts';
import { type VmNic, type VmSpec, type VmSpecInput } from '../../api/vm-spec.ts';
import { liveVmStates, type VmAction } from '../../api/vm-state.ts';
import { type Vm } from '../../api/vm.ts';
import { type Driver, type Guest } from '../../drivers/driver.ts';
import { type EventService } from '../event/event-service.ts';
import { type PortForwards } from '../network/port-forwards.ts';
import { type TrafficShaping } from '../network/traffic-shaping.ts';
import { type NodeService } from '../node/node-service.ts';
import { type SpecSources } from '../profile/spec-sources.ts';
import { type PlacementService } from '../tuning/placement-service.ts';
import { type ReferenceLock } from '../store/reference-lock.ts';
import { type TaskEngine } from '../task/task-engine.ts';
import { type TaskRecord, type TaskType } from '../task/task.ts';
import { requireBootOnce } from './boot-once.ts';
import { imageOf, networkOf, planHardware, plannedDevices, vmDirectory, type DefinitionParts } from './definition.ts';
import { refuseHiddenSecrets } from './first-boot-secrets.ts';
import { namesOfCopies, requireMemoryForCopies, whyNotForkable } from './fork-copies.ts';
import { checkSpec, effectiveDisks } from './hardware.ts';
import { requireSavableMemory } from './shared-folders.ts';
import { composeSeed, hashPassword } from './seed.ts';
import { type LiveChanges } from './live-changes.ts';
import { type VmGuests } from './vm-guests.ts';
import { vmSubject, type VmRecords } from './vm-records.ts';
import { type ForkInput } from './vm-fork-tasks.ts';
import { type VmTaskInput } from './vm-step.ts';
import { type VmTasks } from './vm-tasks.ts';

export interface VmServiceParts extends DefinitionParts {
  records: VmRecords;
  guests: VmGuests;
  driver: Driver;
  engine: TaskEngine;
  tasks: VmTasks;
  forkTask: TaskType<ForkInput>;
  events: EventService;
  nodes: NodeService;
  references: ReferenceLock;
  sources: SpecSources;
  live: LiveChanges;
  ports: PortForwards;
  placements: Pick<PlacementService, 'check'>;
  shaping: TrafficShaping;
}

/** A new VM that is asked for. */
export interface VmRequest extends Pick<Vm, 'name' | 'project' | 'labels'> {
  /** As it is said: what is left out comes from its profiles and instance type, or is the default. */
  spec: VmSpecInput;
}

export interface VmChange {
  revision?: number | undefined;
  labels?: Record<string, string> | undefined;
  /** As it is said: what is left out comes from the VM's profiles and instance type, or is the default. */
  spec: VmSpecInput;
  /** Takes out disks that the guest has mounted. */
  isForced?: boolean | undefined;
  /** Takes over what profiles and instance type are now, also where they are named already. */
  isRefreshed?: boolean;
}

export class VmService {
  readonly #parts: VmServiceParts;

  constructor(parts: VmServiceParts) {
    this.#parts = parts;
  }

  require(project: string, reference: string): Vm {
    return this.#parts.records.collection.require(project, reference);
  }

  async create(request: VmRequest, isStarted: boolean, requestedBy: string): Promise<TaskRecord> {
    const { records, engine, tasks, references, sources } = this.#parts;
    const spec = await this.checkCreation(request, isStarted);
    const given = { ...request, spec };
    const id = uuidv7();
    const target = vmSubject({ ...given, id });
    return references.hold(async () => {
      this.#checkReferences({ ...given, id });
      sources.require(given.project, spec);
      const { record, part } = engine.prepare(isStarted ? tasks.createAndStart : tasks.create, {
        target,
        input: { id },
        requestedBy,
      });
      await records.collection.create({ ...given, id }, part);
      return engine.written(record);
    });
  }

  /** Refuses a new VM that can't be, is there already, or that the node has no room for. Its spec, as it is kept. */
  async checkCreation(given: Omit<VmRequest, 'labels'>, isStarted: boolean): Promise<VmSpec> {
    const { records, nodes } = this.#parts;
    // Told before the longer checks: most second creations of one name are slips.
    if (records.collection.byName(given.project, given.name)) {
      throw new LodgeError('name_taken', `There is a VM ${given.name} in project ${given.project} already.`);
    }
    const spec = await this.wholeSpec(given.project, given.spec);
    await this.#check({ ...given, spec, id: null });
    nodes.requireRoom(spec, isStarted);
    this.#parts.placements.check({ ...given, spec, id: null }, isStarted);
    return spec;
  }

  /** The spec of a new VM, as it is kept, of what somebody says of it: with what its profiles and its type give. */
  async wholeSpec(project: string, given: VmSpecInput): Promise<VmSpec> {
    const expanded = this.#parts.sources.expand(project, given, null);
    refuseHiddenSecrets(expanded);
    return withHashedPassword(expanded);
  }

  /** What can change while the VM is up is changed by a task, which the answer's status names. */
  async update(vm: Vm, change: VmChange, requestedBy: string): Promise<Vm> {
    const { records, nodes, references, guests, networks, live, sources } = this.#parts;
    records.requireAllowed(vm, 'update');
    const expanded = sources.expand(vm.project, change.spec, vm.spec, change.isRefreshed);
    refuseHiddenSecrets(expanded);
    const spec = await withHashedPassword(expanded);
    await this.#check({ ...vm, spec });
    nodes.requireRoom(spec, false);
    this.#parts.placements.check({ ...vm, spec }, liveVmStates.has(vm.status.state));
    await live.check(vm, spec, change.isForced ?? false);
    // Not while a start is reading the spec: it takes all of the old one, or all of the new.
    await guests.exclusively(vm.id, () =>
      references.hold(async () => {
        const current = records.byId(vm.id);
        records.requireAllowed(current, 'update');
        this.#checkReferences({ ...current, spec });
        if (hasOtherSources(spec, current.spec)) sources.require(current.project, spec);
        const updated = await records.collection.update(vm.id, change.revision, (draft) => {
          draft.spec = spec;
          if (change.labels) draft.labels = change.labels;
        });
        const { startedSpec } = updated.status;
        const devices = startedSpec === null ? await plannedDevices(this.#parts, updated) : updated.status.devices;
        await records.patch(vm.id, {
          devices,
          pendingChanges: await live.pending(updated),
          // Who changes when a VM is started again has seen what is planned.
          ...(spec.restartPolicy.mode === 'never' ? { restarts: { count: 0, nextAt: null } } : {}),
        });
      }),
    );
    await networks.membersChanged();
    await Promise.all([this.#parts.ports.settle(), this.#parts.shaping.settle()]);
    this.#parts.images.planShowUsers();
    const task = await live.begin(vm.id, requestedBy, change.isForced);
    const updated = records.byId(vm.id);
    return task ? { ...updated, status: { ...updated.status, taskId: task.id } } : updated;
  }

  /** Has a VM take over what its profiles and its instance type are now. */
  takeOver(vm: Vm, requestedBy: string): Promise<Vm> {
    return this.update(vm, { revision: vm.revision, spec: vm.spec, isRefreshed: true }, requestedBy);
  }

  /** Gives a VM another name: names of networks and of its own disks follow. Its guest's host name doesn't. */
  async rename(given: Vm, change: { name: string; revision?: number | undefined }): Promise<Vm> {
    const { records, references, volumes, images, networks, events } = this.#parts;
    const { id, project } = given;
    const renamed = await references.hold(async () => {
      const vm = records.byId(id);
      this.#requireIdle(vm);
      records.requireAllowed(vm, 'update');
      if (records.collection.byName(project, change.name) && vm.name !== change.name)
        throw new LodgeError('name_taken', `There is a VM ${change.name} in project ${project} already.`);
      volumes.checkRename(vm, change.name);
      const updated = await records.collection.update(id, change.revision, (draft) => {
        draft.name = change.name;
      });
      await volumes.followRename(updated, vm.name);
      return { before: vm.name, vm: updated };
    });
    await networks.membersChanged();
    images.planShowUsers();
    if (renamed.before !== renamed.vm.name)
      await events.record({
        type: 'vm.renamed',
        subject: vmSubject(renamed.vm),
        message: `VM ${renamed.before} is called ${renamed.vm.name} now.`,
      });
    return records.byId(id);
  }

  /** `isByItself`: the daemon starts it; a start that somebody asks for ends the count of failed ones. */
  async start(
    vm: Vm,
    requestedBy: string,
    options: { isByItself?: boolean; bootOnce?: string | undefined; parentId?: string | undefined } = {},
  ): Promise<TaskRecord> {
    const { isByItself = false, bootOnce, parentId } = options;
    this.#requireIdle(vm);
    this.#parts.records.requireAllowed(vm, 'start');
    this.#parts.nodes.requireRoom(vm.spec, true);
    this.#parts.placements.check(vm, true);
    if (bootOnce !== undefined) {
      if (vm.status.state === 'suspended')
        throw new LodgeError(
          'wrong_state',
          `VM ${vm.name} is suspended: it goes on from its memory and boots nothing.`,
          {
            hint: `Discard its saved memory first: lodge vm force-off ${vm.name}.`,
          },
        );
      await requireBootOnce(this.#parts, vm, bootOnce);
    }
    if (!isByItself) await this.#parts.records.patch(vm.id, { restarts: { count: 0, nextAt: null } });
    return this.#submit(vm, 'start', this.#parts.tasks.start, requestedBy, { bootOnce, parentId });
  }

  stop(vm: Vm, timeoutS: number | undefined, requestedBy: string, parentId?: string): Promise<TaskRecord> {
    return this.#submit(vm, 'stop', this.#parts.tasks.stop, requestedBy, { timeoutS, parentId });
  }

  async restart(
    vm: Vm,
    { timeoutS, bootOnce }: { timeoutS?: number | undefined; bootOnce?: string | undefined },
    requestedBy: string,
    parentId?: string,
  ): Promise<TaskRecord> {
    if (bootOnce !== undefined) await requireBootOnce(this.#parts, vm, bootOnce);
    return this.#submit(vm, 'restart', this.#parts.tasks.restart, requestedBy, { timeoutS, bootOnce, parentId });
  }

  async suspend(vm: Vm, requestedBy: string, parentId?: string): Promise<TaskRecord> {
    requireSavableMemory(vm, 'suspended');
    return this.#submit(vm, 'suspend', this.#parts.tasks.suspend, requestedBy, { parentId });
  }

  /** Makes running copies of a running VM. */
  async fork(given: Vm, { count, name, isIsolated }: VmFork, requestedBy: string): Promise<TaskRecord> {
    const { records, engine, nodes, references, forkTask, guests } = this.#parts;
    this.#requireIdle(given);
    records.requireAllowed(given, 'fork');
    requireSavableMemory(given, 'forked');
    const started = { spec: given.status.startedSpec ?? given.spec, pinned: given.status.pinned };
    const reason = whyNotForkable(started);
    if (reason) throw new LodgeError('unsupported', `VM ${given.name} can not be forked: ${reason}.`);
    nodes.requireCapability('fork', `VM ${given.name} can not be forked`);
    const usage = await guests.require(given).usage();
    requireMemoryForCopies(given, {
      count,
      frozenMib: Math.min(started.spec.memoryMib, usage.memoryMib ?? started.spec.memoryMib),
      availableMib: await nodes.spareMemoryMib(),
      node: nodes.name,
    });
    return references.hold(async () => {
      const vm = records.byId(given.id);
      this.#requireIdle(vm);
      const names = namesOfCopies(name ?? vm.name, {
        count,
        isWhole: name !== undefined,
        isTaken: (candidate) => records.collection.byName(vm.project, candidate) !== null,
      });
      const copies = names.map((copy) => ({ id: uuidv7(), name: copy }));
      return engine.submit(forkTask, {
        target: vmSubject(vm),
        input: { id: vm.id, copies, isIsolated },
        requestedBy,
      });
    });
  }

  /** Switches off whatever else is being done: a start or suspension is cancelled, a stop cut short. */
  async forceOff(given: Vm, requestedBy: string, parentId?: string): Promise<TaskRecord> {
    const { records, engine, tasks, guests } = this.#parts;
    const vm = records.byId(given.id);
    const all = engine.activeOn({ kind: 'vm', id: vm.id });
    const isStarting = all.some(({ type }) => type === tasks.start.type);
    if (!isStarting) records.requireAllowed(vm, 'forceOff');
    const creating = all.find(({ type }) => type === tasks.createAndStart.type);
    if (creating) {
      throw new LodgeError('busy', `VM ${vm.name} is being created and started for the first time.`, {
        hint: `Cancel that (lodge task cancel ${creating.id}), which removes the VM, or wait until it runs.`,
      });
    }
    for (const active of all) {
      if (active.type === tasks.forceOff.type) return active;
      if (active.type === tasks.stop.type) await guests.get(vm.id)?.end();
      else await engine.cancel(active.id).catch(ignoreEnded);
    }
    return engine.submit(tasks.forceOff, { target: vmSubject(vm), input: { id: vm.id }, requestedBy, parentId });
  }

  /** With `isForced`, cancels whatever is being done with the VM and switches it off first. */
  async delete(given: Vm, isForced: boolean, requestedBy: string, parentId?: string): Promise<TaskRecord> {
    const { tasks, engine, records } = this.#parts;
    if (!isForced) return this.#submit(given, 'delete', tasks.delete, requestedBy, { parentId });
    const vm = records.byId(given.id);
    for (const active of engine.activeFor({ kind: 'vm', id: vm.id }, vm.status.taskId)) {
      if ([tasks.delete.type, tasks.forceDelete.type].includes(active.type)) return active;
      if (active.type === tasks.stop.type) await this.#parts.guests.get(vm.id)?.end();
      else await engine.cancel(active.id).catch(ignoreEnded);
    }
    return engine.submit(tasks.forceDelete, { target: vmSubject(vm), input: { id: vm.id }, requestedBy, parentId });
  }

  /** Actions that take no time and need no undo: done at once, when nothing else works on the VM. */
  async actNow(vm: Vm, action: 'reset' | 'pause' | 'resume'): Promise<Vm> {
    const { records, guests, events } = this.#parts;
    this.#requireIdle(vm);
    await guests.exclusively(vm.id, async () => {
      const current = records.byId(vm.id);
      records.requireAllowed(current, action);
      const guest = guests.require(current);
      await guest[action]();
      const state = await guest.state();
      // One that has powered itself off meanwhile tells so by itself.
      if (state === 'shutdown') return;
      await records.transition(
        vm.id,
        state,
        { reset: 'It was reset.', pause: 'Its vCPUs are stopped.', resume: 'Its vCPUs run.' }[action],
      );
      if (action === 'resume') guests.facts.wake(vm.id);
      // A reset is told by the guest, whoever did it.
      if (action === 'reset') return;
      const word = { pause: 'paused', resume: 'resumed' }[action];
      await events.record({ type: `vm.${word}`, subject: vmSubject(vm), message: `VM ${vm.name} was ${word}.` });
    });
    return records.byId(vm.id);
  }

  /** Makes what the firmware or the TPM of a stopped VM keeps anew. */
  async resetFirmware(given: Vm, what: 'variables' | 'tpm'): Promise<Vm> {
    const { records, guests, driver, events } = this.#parts;
    this.#requireIdle(given);
    await guests.exclusively(given.id, async () => {
      const vm = records.byId(given.id);
      if (vm.status.state !== 'stopped') {
        throw new LodgeError(
          'wrong_state',
          `VM ${vm.name} is ${vm.status.state}; what its firmware keeps can be reset while it is stopped.`,
          { hint: `Stop it first: lodge vm stop ${vm.name}.` },
        );
      }
      const { firmware } = await planHardware(this.#parts, vm);
      await driver.resetFirmware({ ...this.place(vm), name: vm.name, spec: vm.spec, firmware }, what);
      await events.record({
        type: 'vm.firmware-reset',
        subject: vmSubject(vm),
        message: `The ${what === 'tpm' ? 'TPM' : 'UEFI variable store'} of VM ${vm.name} was made anew.`,
      });
    });
    return records.byId(given.id);
  }

  /** The guest of a VM, for consoles (`console`), its agent (`guest`), or what its hypervisor counts (`measure`). */
  guest(vm: Vm, action: Extract<VmAction, 'console' | 'guest' | 'measure'>): Guest {
    this.#parts.records.requireAllowed(vm, action);
    if (action === 'guest' && !(vm.status.startedSpec ?? vm.spec).hasAgentChannel) {
      throw new LodgeError(
        'agent_unavailable',
        `VM ${vm.name} has no channel to a guest agent: spec.hasAgentChannel ${vm.spec.hasAgentChannel ? 'was' : 'is'} false.`,
        {
          hint: vm.spec.hasAgentChannel
            ? `It is true now, which takes effect at the next start: lodge vm restart ${vm.name}.`
            : `Set it, and start the VM again: lodge vm set ${vm.name} hasAgentChannel=true`,
          fields: [{ field: 'spec.hasAgentChannel', message: 'the guest agent needs it', value: 'false' }],
        },
      );
    }
    return this.#parts.guests.require(vm);
  }

  /** Folder and id of a VM, as the driver wants them for what it kept. */
  place(vm: Vm): { id: string; directory: string } {
    return { id: vm.id, directory: vmDirectory(this.#parts, vm.id) };
  }

  async #submit(
    given: Vm,
    action: VmAction,
    type: VmTasks[keyof VmTasks],
    requestedBy: string,
    { parentId, ...options }: Pick<VmTaskInput, 'timeoutS' | 'bootOnce'> & { parentId?: string | undefined } = {},
  ): Promise<TaskRecord> {
    const vm = this.#parts.records.byId(given.id);
    this.#requireIdle(vm, { waitsForChange: true });
    this.#parts.records.requireAllowed(vm, action);
    return this.#parts.engine.submit(type, {
      target: vmSubject(vm),
      input: { id: vm.id, ...options },
      requestedBy,
      parentId,
    });
  }

  /** Refuses what can't be done while something else is; `waitsForChange`: a change that is being made is waited for. */
  #requireIdle(vm: Vm, { waitsForChange = false } = {}): void {
    const all = this.#parts.engine.activeFor({ kind: 'vm', id: vm.id }, vm.status.taskId);
    const active = all.find(({ type }) => !waitsForChange || type !== this.#parts.tasks.change.type);
    if (active) {
      throw new LodgeError('busy', `VM ${vm.name} is being worked on: ${active.type}, task ${active.id}.`, {
        hint: `Wait for it (lodge task wait ${active.id}), or cancel it.`,
      });
    }
  }

  /** Refuses what a new VM can't have, whose disks are made otherwise than its spec says. */
  async checkNew({ project, spec }: Pick<Vm, 'project' | 'spec'>): Promise<void> {
    const vm = { id: null, name: '', project, spec };
    checkSpec(spec, imageOf(this.#parts, vm));
    const { hardware } = await planHardware(this.#parts, { ...vm, status: { pinned: null } });
    await this.#parts.driver.check(spec, hardware);
    await this.#parts.sharedFolders.check(spec);
    for (const [index, nic] of spec.nics.entries()) this.#checkNic({ id: null, project }, nic, index);
  }

  #checkNic({ id, project }: Pick<Vm, 'project'> & { id: string | null }, nic: VmNic, index: number): void {
    const { networks, firewall } = this.#parts;
    const network = networkOf(this.#parts, project, nic, index);
    networks.checkNic(network, id, `spec.nics.${index}`, nic);
    firewall.checkNic(project, nic, network, `spec.nics.${index}`);
  }

  /** Refuses a spec before anything is made of it. */
  async #check(
    vm: Pick<Vm, 'name' | 'project' | 'spec'> & { id: string | null; status?: Pick<Vm['status'], 'pinned'> },
  ): Promise<void> {
    const { spec } = vm;
    const image = imageOf(this.#parts, vm);
    checkSpec(spec, image);
    const { hardware } = await planHardware(this.#parts, { ...vm, status: vm.status ?? { pinned: null } });
    await this.#parts.driver.check(spec, hardware);
    await this.#parts.sharedFolders.check(spec);
    if (spec.cloudInit) composeSeed({ ...vm, id: vm.id ?? '', status: { nics: [] } }, { hardware });
    this.#checkReferences(vm);
    await this.#parts.ports.checkListeners(vm);
  }

  /** Refuses what is not there, is going, or is somebody else's. Asked again while references can't change. */
  #checkReferences(vm: Pick<Vm, 'name' | 'project' | 'spec'> & { id: string | null }): void {
    const { volumes, records, images } = this.#parts;
    const { spec } = vm;
    for (const [index, nic] of spec.nics.entries()) {
      this.#checkNic(vm, nic, index);
      if (!nic.mac) continue;
      for (const other of records.collection.all()) {
        if (other.id === vm.id) continue;
        if ([...other.status.nics, ...other.spec.nics].some((taken) => taken.mac === nic.mac))
          throw invalidField(`spec.nics.${index}.mac`, `is the address of a NIC of VM ${other.name}`, nic.mac);
      }
    }
    const networkAt = (index: number): Network => networkOf(this.#parts, vm.project, spec.nics[index]!, index);
    this.#parts.ports.checkReferences(vm, networkAt);
    this.#parts.shaping.checkReferences(vm, networkAt);
    const image = imageOf(this.#parts, vm);
    if (image) images.requireUsable(image, 'spec.image');
    for (const [index, disk] of effectiveDisks(spec, image).entries()) {
      const field = spec.disks.includes(disk) ? `spec.disks.${spec.disks.indexOf(disk)}` : `spec.disks.${index}`;
      volumes.checkDisk(vm, disk, field);
    }
  }
}

/** A copy whose password is hashed; one that is hashed already stays. */
export async function withHashedPassword(spec: VmSpec): Promise<VmSpec> {
  const password = spec.cloudInit?.password;
  if (!spec.cloudInit || !password || password.startsWith('$6$')) return spec;
  return { ...spec, cloudInit: { ...spec.cloudInit, password: await hashPassword(password) } };
}

function ignoreEnded(error: unknown): void {
  if (!(error instanceof LodgeError && error.code === 'wrong_state')) throw error;
}
