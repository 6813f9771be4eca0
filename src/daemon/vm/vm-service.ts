// What can be asked of VMs: every request is checked here, and becomes a change of an object, a task, or a call to the
// guest.
import { uuidv7 } from 'uuidv7';
import { LodgeError, invalidField } from '../../api/errors.ts';
import { type VmSpec } from '../../api/vm-spec.ts';
import { type VmAction } from '../../api/vm-state.ts';
import { liveVmStates } from '../../api/vm-state.ts';
import { type Vm } from '../../api/vm.ts';
import { type Driver, type Guest } from '../../drivers/driver.ts';
import { type EventService } from '../event/event-service.ts';
import { type NodeService } from '../node/node-service.ts';
import { type TaskEngine } from '../task/task-engine.ts';
import { type TaskRecord } from '../task/task.ts';
import { imageOf, vmDirectory, type DefinitionParts } from './definition.ts';
import { checkSpec, chooseFirmware, effectiveDisks, pendingChanges } from './hardware.ts';
import { hashPassword } from './seed.ts';
import { type VmGuests } from './vm-guests.ts';
import { vmSubject, type VmRecords } from './vm-records.ts';
import { type VmTasks } from './vm-tasks.ts';

export interface VmServiceParts extends DefinitionParts {
  records: VmRecords;
  guests: VmGuests;
  driver: Driver;
  engine: TaskEngine;
  tasks: VmTasks;
  events: EventService;
  nodes: NodeService;
}

export interface VmChange {
  revision?: number | undefined;
  labels?: Record<string, string> | undefined;
  spec: VmSpec;
}

export class VmService {
  readonly #parts: VmServiceParts;

  constructor(parts: VmServiceParts) {
    this.#parts = parts;
  }

  require(project: string, reference: string): Vm {
    return this.#parts.records.collection.require(project, reference);
  }

  async create(
    given: Pick<Vm, 'name' | 'project' | 'labels' | 'spec'>,
    isStarted: boolean,
    requestedBy: string,
  ): Promise<TaskRecord> {
    const { records, engine, tasks, nodes } = this.#parts;
    // Told before the longer checks: most second creations of one name are slips.
    if (records.collection.byName(given.project, given.name)) {
      throw new LodgeError('name_taken', `There is a VM ${given.name} in project ${given.project} already.`);
    }
    await this.#check({ ...given, id: null });
    nodes.requireRoom(given.spec, isStarted);
    const spec = await withHashedPassword(given.spec);
    const id = uuidv7();
    const target = vmSubject({ ...given, id });
    const { record, part } = engine.prepare(isStarted ? tasks.createAndStart : tasks.create, {
      target,
      input: { id },
      requestedBy,
    });
    await records.collection.create({ ...given, spec, id }, part);
    return engine.require(record.id);
  }

  async update(vm: Vm, change: VmChange): Promise<Vm> {
    const { records, nodes } = this.#parts;
    records.requireAllowed(vm, 'update');
    await this.#check({ ...vm, spec: change.spec });
    nodes.requireRoom(change.spec, false);
    const spec = await withHashedPassword(change.spec);
    const updated = await records.collection.update(vm.id, change.revision, (draft) => {
      draft.spec = spec;
      if (change.labels) draft.labels = change.labels;
    });
    const { startedSpec } = updated.status;
    const changed = startedSpec === null ? [] : pendingChanges(startedSpec, updated.spec);
    const shown = await records.patch(vm.id, { pendingChanges: changed });
    await this.#parts.networks.setMembers(shown);
    return records.byId(vm.id);
  }

  start(vm: Vm, requestedBy: string): Promise<TaskRecord> {
    this.#parts.nodes.requireRoom(vm.spec, true);
    return this.#submit(vm, 'start', this.#parts.tasks.start, requestedBy);
  }

  stop(vm: Vm, timeoutS: number | undefined, requestedBy: string): Promise<TaskRecord> {
    return this.#submit(vm, 'stop', this.#parts.tasks.stop, requestedBy, timeoutS);
  }

  restart(vm: Vm, timeoutS: number | undefined, requestedBy: string): Promise<TaskRecord> {
    return this.#submit(vm, 'restart', this.#parts.tasks.restart, requestedBy, timeoutS);
  }

  suspend(vm: Vm, requestedBy: string): Promise<TaskRecord> {
    return this.#submit(vm, 'suspend', this.#parts.tasks.suspend, requestedBy);
  }

  /** Switches off whatever else is being done: a start or suspension is cancelled, a stop cut short. */
  async forceOff(vm: Vm, requestedBy: string): Promise<TaskRecord> {
    const { records, engine, tasks, guests } = this.#parts;
    records.requireAllowed(vm, 'forceOff');
    for (const active of engine.activeOn({ kind: 'vm', id: vm.id })) {
      if (active.type === 'vm.forceOff') return active;
      if (active.type === 'vm.stop') await guests.get(vm.id)?.end();
      else await engine.cancel(active.id).catch(ignoreEnded);
    }
    return engine.submit(tasks.forceOff, { target: vmSubject(vm), input: { id: vm.id }, requestedBy });
  }

  async delete(vm: Vm, isForced: boolean, requestedBy: string): Promise<TaskRecord> {
    const { tasks, engine } = this.#parts;
    if (!isForced || !liveVmStates.has(vm.status.state)) return this.#submit(vm, 'delete', tasks.delete, requestedBy);
    for (const active of engine.activeOn({ kind: 'vm', id: vm.id })) await engine.cancel(active.id).catch(ignoreEnded);
    return engine.submit(tasks.forceDelete, { target: vmSubject(vm), input: { id: vm.id }, requestedBy });
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
      if (state === 'shutdown') return;
      await records.transition(
        vm.id,
        state,
        { reset: 'It was reset.', pause: 'Its vCPUs are stopped.', resume: 'Its vCPUs run.' }[action],
      );
      await events.record({
        type: `vm.${{ reset: 'reset', pause: 'paused', resume: 'resumed' }[action]}`,
        subject: vmSubject(vm),
        message: `VM ${vm.name} was ${{ reset: 'reset', pause: 'paused', resume: 'resumed' }[action]}.`,
      });
    });
    return records.byId(vm.id);
  }

  /** The guest of a VM, for consoles (`console`) or its agent (`guest`). */
  guest(vm: Vm, action: Extract<VmAction, 'console' | 'guest'>): Guest {
    this.#parts.records.requireAllowed(vm, action);
    return this.#parts.guests.require(vm);
  }

  /** Folder and id of a VM, as the driver wants them for what it kept. */
  place(vm: Vm): { id: string; directory: string } {
    return { id: vm.id, directory: vmDirectory(this.#parts, vm.id) };
  }

  async #submit(
    vm: Vm,
    action: VmAction,
    type: VmTasks[keyof VmTasks],
    requestedBy: string,
    timeoutS?: number,
  ): Promise<TaskRecord> {
    this.#requireIdle(vm);
    this.#parts.records.requireAllowed(vm, action);
    return this.#parts.engine.submit(type, { target: vmSubject(vm), input: { id: vm.id, timeoutS }, requestedBy });
  }

  #requireIdle(vm: Vm): void {
    const [active] = this.#parts.engine.activeOn({ kind: 'vm', id: vm.id });
    if (active) {
      throw new LodgeError('busy', `VM ${vm.name} is being worked on: ${active.type}, task ${active.id}.`, {
        hint: `Wait for it (lodge task wait ${active.id}), or cancel it.`,
      });
    }
  }

  /** Refuses a spec before anything is made of it. */
  async #check(vm: Pick<Vm, 'name' | 'project' | 'spec'> & { id: string | null }): Promise<void> {
    const { driver, networks, volumes, records } = this.#parts;
    const { spec } = vm;
    const image = imageOf(this.#parts, vm);
    checkSpec(spec, image);
    await driver.check(spec);
    chooseFirmware(spec, image, await this.#parts.hasUefi());
    for (const [index, nic] of spec.nics.entries()) {
      const network = networks.require(vm.project, nic.network);
      if (nic.ipv4Address) networks.checkReservation(network, vm.id, `spec.nics.${index}.ipv4Address`, nic.ipv4Address);
      if (!nic.mac) continue;
      for (const other of records.collection.all()) {
        if (other.id !== vm.id && other.status.nics.some((taken) => taken.mac === nic.mac))
          throw invalidField(`spec.nics.${index}.mac`, `is the address of a NIC of VM ${other.name}`, nic.mac);
      }
    }
    for (const [index, disk] of effectiveDisks(spec, image).entries())
      volumes.checkDisk(vm, disk, `spec.disks.${index}`);
  }
}

/** A copy whose password is hashed; one that is hashed already stays. */
async function withHashedPassword(spec: VmSpec): Promise<VmSpec> {
  const password = spec.cloudInit?.password;
  if (!spec.cloudInit || !password || password.startsWith('$6$')) return spec;
  return { ...spec, cloudInit: { ...spec.cloudInit, password: await hashPassword(password) } };
}

function ignoreEnded(error: unknown): void {
  if (!(error instanceof LodgeError && error.code === 'wrong_state')) throw error;
}
