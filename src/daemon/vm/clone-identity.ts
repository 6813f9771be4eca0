// What is left of a clone's identity when it has booted: host name, machine id and ssh host keys that came with the disk.
// Where cloud-init runs it changes them, and here is seen that it did; elsewhere the guest's agent is asked to.
//
// Promise: status says "its own" only of what the guest itself has told. A guest that can't be given one runs on, and an
// event says so.
import { LodgeError } from '../../api/errors.ts';
import { type Vm } from '../../api/vm.ts';
import { type Guest } from '../../drivers/driver.ts';
import { type EventService } from '../event/event-service.ts';
import { type Log } from '../store/informer.ts';
import { giveIdentity } from './identity.ts';
import { vmSubject, type VmRecords } from './vm-records.ts';
import { isRunningCopy } from './fork-copies.ts';

export interface CloneIdentityParts {
  records: VmRecords;
  events: EventService;
  log: Log;
}

/** Tries for each start: an agent that can't run a shell will not learn it. */
const mostTries = 3;

export class CloneIdentity {
  readonly #parts: CloneIdentityParts;
  readonly #busy = new Set<string>();
  readonly #tries = new Map<string, { startedAt: string | null; count: number }>();

  constructor(parts: CloneIdentityParts) {
    this.#parts = parts;
  }

  /** The guest of a VM has told about itself. */
  async consider(id: string, guest: Guest): Promise<void> {
    const vm = this.#parts.records.collection.get(id);
    const lineage = vm?.status.lineage;
    if (!vm || !lineage || isRunningCopy(lineage) || lineage.hasOwnIdentity || this.#busy.has(id)) return;
    const hostname = vm.spec.cloudInit?.hostname ?? vm.name;
    if (lineage.identityBy === 'cloud-init') {
      if (vm.status.guest?.hostname?.split('.')[0] === hostname) await this.#note(id);
      return;
    }
    const tries = this.#countTry(vm);
    if (tries > mostTries) return;
    this.#busy.add(id);
    try {
      const original = this.#parts.records.collection.get(lineage.parentId);
      const macs = vm.status.nics.flatMap((nic, index) => {
        const before = original?.status.nics[index]?.mac;
        return before ? [{ before, now: nic.mac }] : [];
      });
      await giveIdentity(guest, { hostname, macs });
      await this.#note(id);
      this.#tries.delete(id);
    } catch (error) {
      this.#parts.log.warn({ err: error, vmId: id }, 'a clone could not be given its own identity');
      if (tries < mostTries) return;
      await this.#parts.events.record({
        type: 'vm.identity-missing',
        severity: 'warning',
        subject: vmSubject(vm),
        message: `VM ${vm.name} is a clone of ${lineage.parentName} and still has its host name, machine id and ssh host keys: ${error instanceof LodgeError ? error.message : 'it could not be asked.'}`,
      });
    } finally {
      this.#busy.delete(id);
    }
  }

  /** How many tries there were in this start, this one included. */
  #countTry({ id, status: { startedAt } }: Vm): number {
    const before = this.#tries.get(id);
    const count = (before?.startedAt === startedAt ? before.count : 0) + 1;
    this.#tries.set(id, { startedAt, count });
    return count;
  }

  async #note(id: string): Promise<void> {
    const { records } = this.#parts;
    if (!records.collection.get(id)) return;
    await records.collection.setStatus(id, (status) =>
      status.lineage ? { ...status, lineage: { ...status.lineage, hasOwnIdentity: true } } : status,
    );
  }
}
