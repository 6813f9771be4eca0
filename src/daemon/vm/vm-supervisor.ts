// What happens to VMs without anybody asking: finding the guests of an earlier daemon again, starting what is to start
// with the node, restarting what failed, and tidying up after what the last daemon left half-done.
//
// At the start of the daemon, in this order, and before any task goes on:
//   discover ─▶ adopt what is known ─▶ end what is unknown ─▶ settle VMs whose guest is gone ─▶ (tasks go on) ─▶ autostart
import { LodgeError } from '../../api/errors.ts';
import { type Vm, type VmExit } from '../../api/vm.ts';
import { liveVmStates } from '../../api/vm-state.ts';
import { finalTaskStates } from '../../api/task.ts';
import { type Driver } from '../../drivers/driver.ts';
import { unlessSlow } from '../../lib/unless-slow.ts';
import { type EventService } from '../event/event-service.ts';
import { type Log } from '../store/informer.ts';
import { type TaskEngine } from '../task/task-engine.ts';
import { type TaskRecord } from '../task/task.ts';
import { vmDirectory, type DefinitionParts } from './definition.ts';
import { type VmGuests } from './vm-guests.ts';
import { vmSubject, type VmRecords } from './vm-records.ts';
import { type LiveChanges } from './live-changes.ts';
import { type VmService } from './vm-service.ts';

export interface VmSupervisorParts extends Pick<DefinitionParts, 'directory'> {
  records: VmRecords;
  guests: VmGuests;
  driver: Driver;
  engine: TaskEngine;
  events: EventService;
  service: VmService;
  live: LiveChanges;
  /** Starts VMs that are to start with the node in the order of their groups. The ids of those it has taken on. */
  startGroups: (wanted: ReadonlySet<string>) => Promise<ReadonlySet<string>>;
  log: Log;
}

const daemon = 'lodge';
const maxBackOffMs = 300_000;
/** A VM that ran this long has recovered: its next failure counts from the beginning. */
const recoveredMs = 600_000;
const adoptRetryMs = 5000;
/** How long nothing may happen before the guests that have not answered yet are taken for slow, and not waited for. */
const slowMs = 1000;
/** Reason of a VM whose hypervisor process has not answered since the daemon was started. */
const lostReason = 'Control over it was lost, and is being regained: its hypervisor process does not answer.';

/** How long to wait before a VM is started again after its n-th failure in a row. */
export function backOffMs(firstS: number, count: number): number {
  return Math.min(firstS * 1000 * 2 ** Math.min(count, 20), maxBackOffMs);
}

/** Whether the restart policy wants a VM that ended this way to be started again. */
export function wantsRestart(mode: Vm['spec']['restartPolicy']['mode'], cause: VmExit['cause']): boolean {
  if (mode === 'never' || ['stopped', 'forced-off', 'suspended'].includes(cause)) return false;
  // As with containers, what ended with the host is started again by "always" or by autostart.
  return mode === 'always' || !['guest-shutdown', 'host-restarted'].includes(cause);
}

export class VmSupervisor {
  readonly #parts: VmSupervisorParts;
  readonly #timers = new Map<string, NodeJS.Timeout>();
  /** The VMs that there were when the daemon started: what is made since is nobody's leftover. */
  #found: string[] = [];
  #isClosed = false;

  constructor(parts: VmSupervisorParts) {
    this.#parts = parts;
  }

  /**
   * Takes over what an earlier daemon left. `hasRebooted`: the machine was started since. Guests that do not answer are
   * left for later when the others are under control (`late`): one that hangs does not keep the daemon from its work.
   */
  async adoptAll(hasRebooted: boolean): Promise<{ adopted: number; ended: number; unknown: number; late: number }> {
    const { driver, records, engine, guests } = this.#parts;
    const found = await driver.discover();
    const vms = [...records.collection.all()];
    this.#found = vms.map((vm) => vm.id);
    const counts = { adopted: 0, ended: 0, unknown: 0, late: 0 };
    engine.onChange(({ type, object }) => {
      if (type !== 'deleted' && object.target.kind === 'vm' && finalTaskStates.has(object.state))
        void this.#afterTask(object);
    });
    await Promise.all(
      [...found].map(async (id) => {
        if (records.collection.get(id)) return;
        counts.unknown++;
        await driver.endUnknown(id);
        await this.#parts.events.record({
          type: 'vm.orphan-ended',
          severity: 'warning',
          subject: { kind: 'vm', id, name: id, project: 'default' },
          message: `A hypervisor process of a VM that does not exist (${id}) was ended.`,
        });
      }),
    );
    const take = async (vm: Vm): Promise<void> => {
      const outcome = found.has(vm.id) ? await guests.expect(vm.id, this.#adopt(vm)) : 'gone';
      if (outcome === 'adopted') counts.adopted++;
      if (outcome !== 'gone') return;
      // One that was slow may have been worked on meanwhile.
      const current = records.collection.get(vm.id);
      if (!current || !liveVmStates.has(current.status.state) || this.#activeTask(current) !== null) return;
      counts.ended++;
      await this.#settleGone(current, hasRebooted);
    };
    const late = await unlessSlow(
      vms.map((vm) => ({ key: vm, work: take(vm), isWaitedFor: !found.has(vm.id) })),
      slowMs,
    );
    counts.late = late.length;
    for (const { key: vm, work } of late) {
      await this.#noteLost(vm);
      work.catch((error: unknown) =>
        this.#parts.log.error({ err: error, vm: vm.name }, 'a guest could not be taken over'),
      );
    }
    for (const vm of [...records.collection.all()])
      if (vm.status.taskId !== null && this.#activeTask(vm) === null) await records.patch(vm.id, { taskId: null });
    return counts;
  }

  /** Goes on with what was left half-done without a task, and starts what is to start with the node. */
  async begin(hasRebooted: boolean): Promise<void> {
    const { records, service, log } = this.#parts;
    const wanted = new Map<string, string>();
    for (const id of this.#found) {
      const vm = records.collection.get(id);
      if (!vm || this.#isClosed || this.#activeTask(vm) !== null) continue;
      await this.#parts.live.goOn(id, false);
      const { state, restarts, lastExit } = vm.status;
      if (state === 'deleting' || state === 'creating') {
        await service
          .delete(vm, true, daemon)
          .catch((error: unknown) =>
            log.warn({ err: error, vm: vm.name }, 'a VM that was left half-made could not be removed'),
          );
      } else if (state !== 'stopped') continue;
      else if (vm.spec.autostart && hasRebooted) wanted.set(id, 'it is to start with the node');
      else if (restarts.nextAt !== null)
        this.#schedule(vm, Math.min(maxBackOffMs, Math.max(0, Date.parse(restarts.nextAt) - Date.now())));
      else if (
        hasRebooted &&
        lastExit?.cause === 'host-restarted' &&
        wantsRestart(vm.spec.restartPolicy.mode, lastExit.cause)
      )
        wanted.set(id, 'its restart policy is always');
    }
    if (this.#isClosed || !hasRebooted) return;
    const taken = await this.#parts.startGroups(new Set(wanted.keys()));
    for (const [id, why] of wanted) {
      const vm = records.collection.get(id);
      if (vm?.status.state === 'stopped' && !taken.has(id) && !this.#isClosed && this.#activeTask(vm) === null)
        await this.#start(vm, why);
    }
  }

  /** A VM ended without being asked to: starts it again if its policy says so. `vm` is as it was before. */
  considerRestart(vm: Vm, exit: VmExit): void {
    const { restartPolicy } = vm.spec;
    if (this.#isClosed || !wantsRestart(restartPolicy.mode, exit.cause)) return;
    const ranMs = vm.status.startedAt ? Date.now() - Date.parse(vm.status.startedAt) : 0;
    const count = ranMs > recoveredMs ? 0 : vm.status.restarts.count;
    if (restartPolicy.maxRetries > 0 && count >= restartPolicy.maxRetries) {
      void this.#parts.events.record({
        type: 'vm.restart-given-up',
        severity: 'error',
        subject: vmSubject(vm),
        message: `VM ${vm.name} has been started again ${count} times in a row, has ended each time, and is not started any more.`,
      });
      return;
    }
    const waitMs = backOffMs(restartPolicy.backOffS, count);
    const nextAt = new Date(Date.now() + waitMs).toISOString();
    void this.#parts.records
      .patch(vm.id, { restarts: { count: count + 1, nextAt } })
      .then((updated) => this.#schedule(updated, waitMs))
      .catch((error: unknown) =>
        this.#parts.log.error({ err: error, vm: vm.name }, 'a restart could not be scheduled'),
      );
  }

  close(): void {
    this.#isClosed = true;
    for (const timer of this.#timers.values()) clearTimeout(timer);
    this.#timers.clear();
  }

  #schedule(vm: Vm, waitMs: number): void {
    if (this.#isClosed) return;
    clearTimeout(this.#timers.get(vm.id));
    const run = (): void => {
      this.#timers.delete(vm.id);
      const current = this.#parts.records.collection.get(vm.id);
      // The policy may have been changed, or the VM started and stopped by somebody, since.
      if (current?.status.state !== 'stopped' || current.status.restarts.nextAt === null) return;
      if (current.spec.restartPolicy.mode === 'never')
        void this.#parts.records.patch(vm.id, { restarts: { count: 0, nextAt: null } }).catch(() => {});
      else void this.#start(current, 'its restart policy says so');
    };
    this.#timers.set(vm.id, setTimeout(run, waitMs).unref());
  }

  async #start(vm: Vm, why: string): Promise<void> {
    const { records, events, service, log } = this.#parts;
    try {
      // Only when its task is kept is the plan dropped: who dies in between leaves the one or the other.
      await service.start(records.byId(vm.id), daemon, { isByItself: true });
      await records.dropPlannedStart(vm.id);
      await events.record({
        type: 'vm.autostart',
        subject: vmSubject(vm),
        message: `VM ${vm.name} is started: ${why}.`,
      });
    } catch (error) {
      log.warn({ err: error, vm: vm.name }, 'a VM could not be started by itself');
      const message = error instanceof LodgeError ? error.message : 'an unexpected error';
      await events.record({
        type: 'vm.autostart-failed',
        severity: 'error',
        subject: vmSubject(vm),
        message: `VM ${vm.name} could not be started by itself: ${message}`,
      });
      await records
        .dropPlannedStart(vm.id)
        .catch((cause: unknown) => log.warn({ err: cause, vm: vm.name }, 'a planned start could not be dropped'));
    }
  }

  /** Takes control of a guest. While its monitor doesn't answer, tries again now and then. */
  async #adopt(vm: Vm): Promise<'adopted' | 'gone' | 'left' | 'unreachable'> {
    const { driver, guests, records, log } = this.#parts;
    const { pinned, state } = vm.status;
    if (!pinned || state === 'creating' || state === 'deleting') {
      // Its start was broken off before it was complete; the task that started it goes on, or nobody wants it.
      if (this.#activeTask(vm) !== null) return 'left';
      await driver.endUnknown(vm.id);
      return 'gone';
    }
    try {
      const guest = await driver.adopt({
        id: vm.id,
        name: vm.name,
        directory: vmDirectory(this.#parts, vm.id),
        pinned,
      });
      if (!guest) return 'gone';
      guests.attach(vm.id, guest);
      if (this.#activeTask(vm) !== null) return 'adopted';
      // The process is there, whatever was written down last.
      if (!liveVmStates.has(state))
        await records.transition(vm.id, 'starting', 'Its hypervisor process was found running.');
      await records.patch(vm.id, { taskId: null, pid: guest.pid });
      await guests.settle(vm.id);
      await this.#noteRegained(vm.id);
      return 'adopted';
    } catch (error) {
      log.warn({ err: error, vm: vm.name }, 'a guest could not be taken over yet');
      setTimeout(() => void this.#retry(vm.id), adoptRetryMs).unref();
      return 'unreachable';
    }
  }

  async #noteLost(vm: Vm): Promise<void> {
    if (!liveVmStates.has(vm.status.state) || this.#activeTask(vm) !== null) return;
    if (vm.status.reason !== lostReason) await this.#parts.records.patch(vm.id, { reason: lostReason });
    await this.#parts.events.record({
      type: 'vm.control-lost',
      severity: 'warning',
      subject: vmSubject(vm),
      message: `The hypervisor process of VM ${vm.name} does not answer; the guest is left alone, and Lodge keeps trying.`,
    });
  }

  async #noteRegained(id: string): Promise<void> {
    const vm = this.#parts.records.collection.get(id);
    if (vm?.status.reason !== lostReason) return;
    await this.#parts.records.patch(id, {
      reason: vm.status.state === 'running' ? 'Its vCPUs run.' : 'Its hypervisor process answers again.',
    });
    await this.#parts.events.record({
      type: 'vm.control-regained',
      subject: vmSubject(vm),
      message: `VM ${vm.name} is under control again.`,
    });
  }

  async #retry(id: string): Promise<void> {
    const { records, guests, driver, log } = this.#parts;
    try {
      const vm = records.collection.get(id);
      if (!vm || this.#isClosed || guests.get(id)) return;
      const outcome = (await driver.discover()).has(id) ? await guests.expect(id, this.#adopt(vm)) : 'gone';
      if (outcome === 'gone' && liveVmStates.has(vm.status.state) && this.#activeTask(vm) === null)
        await this.#settleGone(vm, false);
    } catch (error) {
      log.error({ err: error, vmId: id }, 'a guest could not be taken over');
    }
  }

  /** A VM that was up when the last daemon wrote it down, and whose guest is gone now. */
  async #settleGone(vm: Vm, hasRebooted: boolean): Promise<void> {
    const { guests, events, driver } = this.#parts;
    const place = { id: vm.id, directory: vmDirectory(this.#parts, vm.id) };
    const words = hasRebooted
      ? { cause: 'host-restarted' as const, message: 'It ended when its host was restarted.' }
      : await driver.lastWords(place);
    const exit = await guests.exclusively(vm.id, () => guests.finish(vm, words.cause, words.message));
    await events.record({
      type: `vm.${words.cause}`,
      severity: 'error',
      subject: vmSubject(vm),
      message: `VM ${vm.name}: ${words.message}`,
      details: { whileDaemonWasDown: true },
    });
    if (!hasRebooted) this.considerRestart(vm, exit);
  }

  async #afterTask(task: TaskRecord): Promise<void> {
    const { records, guests, log } = this.#parts;
    const { id } = task.target;
    try {
      await records.releaseTask(id, task.id);
      await guests.settle(id);
      await this.#parts.live.goOn(id, false);
      // A start of the daemon's own that fails is one more failure in a row; whoever starts a VM themselves sees it fail.
      const vm = records.collection.get(id);
      if (task.state === 'failed' && task.requestedBy === daemon && vm?.status.lastExit?.cause === 'start-failed')
        this.considerRestart(vm, vm.status.lastExit);
    } catch (error) {
      if (!(error instanceof LodgeError && error.code === 'not_found'))
        log.error({ err: error, vmId: id }, 'a VM could not be settled after its task');
    }
  }

  #activeTask(vm: Vm): string | null {
    return this.#parts.engine.activeFor({ kind: 'vm', id: vm.id }, vm.status.taskId)[0]?.id ?? null;
  }
}
