// The guests that exist on this node, and what they tell. This is where the hypervisor's events become status.
//
// Invariants:
// - One serial queue a VM: messages of its guest and whatever else changes its state pass one after the other.
// - While a task works on a VM (status.taskId), the task decides about its state; messages only inform it. When the task
//   has ended, `settle` compares state and guest once more, so nothing that happened meanwhile is lost.
// - `finish` is the one way from a live state to stopped that nobody asked for.
import { LodgeError } from '../../api/errors.ts';
import { type Vm, type VmExit, type VmStatus, type VmWarning } from '../../api/vm.ts';
import { liveVmStates, type VmState } from '../../api/vm-state.ts';
import { type Guest, type GuestMessage, type GuestState } from '../../drivers/driver.ts';
import { type EventService } from '../event/event-service.ts';
import { type Log } from '../store/informer.ts';
import { GuestFacts } from './guest-facts.ts';
import { SerialQueues } from '../../lib/serial-queues.ts';
import { vmSubject, type VmRecords } from './vm-records.ts';

export interface VmGuestsParts {
  records: VmRecords;
  events: EventService;
  log: Log;
  /** Takes away what a VM that ended had on the host: its taps. */
  disconnect: (vm: Vm) => Promise<void>;
  /** Told when something of a guest's devices has changed that nobody is waiting for. */
  onDevices: (id: string) => void;
  /** Told after a VM has ended, however it did: what its spec plans is what it has now. */
  onEnd: () => void;
  /**
   * Told after a VM has ended without being asked to, or powered itself off: the restart policy decides. `vm` is as it
   * was before its end.
   */
  onUnaskedEnd: (vm: Vm, exit: VmExit) => void;
  /** The end of what a VM's serial console has shown. */
  serialLog: (id: string, maxBytes: number) => Promise<Uint8Array>;
  /** Told after a guest has told about itself, through its agent. */
  onAnswer?: (id: string, guest: Guest) => Promise<void>;
}

type EndedMessage = Extract<GuestMessage, { type: 'ended' }>;

interface Entry {
  guest: Guest;
  stopWatching: () => void;
  listeners: Set<(message: GuestMessage) => void>;
}

export class VmGuests {
  readonly #parts: VmGuestsParts;
  readonly #entries = new Map<string, Entry>();
  readonly #queues = new SerialQueues();
  /** How guests ended whose end a task has not accounted for yet. */
  readonly #ends = new Map<string, EndedMessage>();
  /** Guests of an earlier daemon that are being taken over at this moment. */
  readonly #arriving = new Map<string, Promise<unknown>>();
  readonly facts: GuestFacts;

  constructor(parts: VmGuestsParts) {
    this.#parts = parts;
    this.facts = new GuestFacts({
      records: parts.records,
      log: parts.log,
      guestOf: (id) => this.get(id),
      serialLog: parts.serialLog,
      ...(parts.onAnswer ? { onAnswer: parts.onAnswer } : {}),
    });
  }

  get(id: string): Guest | null {
    return this.#entries.get(id)?.guest ?? null;
  }

  /** Notes that a guest is being taken over, for whoever would rather wait for it than do without; passes on the outcome. */
  expect<T>(id: string, work: Promise<T>): Promise<T> {
    const noted = work.finally(() => {
      if (this.#arriving.get(id) === noted) this.#arriving.delete(id);
    });
    this.#arriving.set(id, noted);
    return noted;
  }

  /** The guest; one that is being taken over is waited for. */
  async arrived(id: string): Promise<Guest | null> {
    await this.#arriving.get(id)?.catch(() => {});
    return this.get(id);
  }

  /** The guest of a VM that is in a live state. */
  require(vm: Vm): Guest {
    const guest = this.get(vm.id);
    if (guest) return guest;
    const { state } = vm.status;
    if (state === 'starting' || state === 'stopping' || state === 'suspending') {
      throw new LodgeError('wrong_state', `VM ${vm.name} is ${state}: its hypervisor process is coming or going.`, {
        hint: 'Wait until it has settled; lodge vm show tells what it is doing.',
      });
    }
    throw new LodgeError(
      'hypervisor_failed',
      `VM ${vm.name} is ${state}, but its hypervisor process does not answer.`,
      { hint: 'Lodge keeps trying to reach it. lodge vm force-off ends it.' },
    );
  }

  all(): { id: string; guest: Guest }[] {
    return [...this.#entries].map(([id, { guest }]) => ({ id, guest }));
  }

  /** Runs `work` when nothing else changes this VM’s state. */
  exclusively<T>(id: string, work: () => Promise<T>): Promise<T> {
    return this.#queues.run(id, work);
  }

  /** Takes a guest that was started or adopted. */
  attach(id: string, guest: Guest): void {
    this.#entries.get(id)?.stopWatching();
    const entry: Entry = { guest, stopWatching: () => {}, listeners: new Set() };
    entry.stopWatching = guest.watch((message) => {
      if (message.type === 'ended') this.#ends.set(id, message);
      for (const listener of entry.listeners) listener(message);
      void this.exclusively(id, () => this.#handle(id, entry, message)).catch((error: unknown) => {
        this.#parts.log.error({ err: error, vmId: id, message }, 'a message of a guest could not be handled');
      });
    });
    this.#entries.set(id, entry);
    this.#ends.delete(id);
    this.facts.begin(id);
  }

  /** Forgets a guest that exists no more. */
  detach(id: string): void {
    const entry = this.#entries.get(id);
    entry?.stopWatching();
    this.#entries.delete(id);
    this.facts.end(id);
  }

  /**
   * Waits until the guest tells something that `matches`, or the time is over (null). Begins to listen before `ask` runs
   * for the first time, so what follows from it is not missed; what `ask` answers with counts as told.
   */
  async waitFor(
    id: string,
    matches: (message: GuestMessage) => boolean,
    options: {
      timeoutMs: number;
      signal: AbortSignal;
      ask: () => Promise<GuestMessage | null>;
      /** `ask` runs again and again, with this pause. */
      askAgainMs: number;
    },
  ): Promise<GuestMessage | null> {
    // It may have ended a moment before somebody began to wait.
    const end = this.#ends.get(id);
    if (end && matches(end)) return end;
    const entry = this.#entries.get(id);
    if (!entry) return null;
    const { timeoutMs, signal, askAgainMs } = options;
    const heard = Promise.withResolvers<GuestMessage | null>();
    // It may be aborted while it is being asked and nobody awaits it yet.
    heard.promise.catch(() => {});
    const listener = (message: GuestMessage): void => {
      if (matches(message)) heard.resolve(message);
    };
    const ask = (): Promise<void> =>
      options.ask().then((message) => {
        if (message) listener(message);
      }, heard.reject);
    const onAbort = (): void => heard.reject(signal.reason);
    const timer = setTimeout(() => heard.resolve(null), timeoutMs);
    const again = setInterval(() => void ask(), askAgainMs);
    entry.listeners.add(listener);
    signal.addEventListener('abort', onAbort, { once: true });
    try {
      if (signal.aborted) onAbort();
      void ask();
      return await heard.promise;
    } finally {
      clearTimeout(timer);
      clearInterval(again);
      entry.listeners.delete(listener);
      signal.removeEventListener('abort', onAbort);
    }
  }

  /** Brings status in line with the guest after a task has ended, or at the start of the daemon. */
  async settle(id: string): Promise<void> {
    await this.exclusively(id, async () => {
      const vm = this.#parts.records.collection.get(id);
      if (!vm || vm.status.taskId !== null || !liveVmStates.has(vm.status.state)) return;
      const guest = this.get(id);
      if (guest) {
        await this.#follow(vm, guest);
        return;
      }
      const end = this.#ends.get(id);
      await this.#finish(vm, end?.cause ?? 'hypervisor-died', end?.message ?? 'Its hypervisor process is gone.');
    });
  }

  /** Records that a VM has ended and takes away what it had on the host. For tasks, which know why. */
  async finish(
    vm: Vm,
    cause: VmExit['cause'],
    message: string,
    to: Extract<VmState, 'stopped' | 'suspended'> = 'stopped',
  ): Promise<VmExit> {
    this.detach(vm.id);
    this.#ends.delete(vm.id);
    // What can't be taken away now is found at its next start, or at the daemon's.
    await this.#parts
      .disconnect(vm)
      .catch((error: unknown) =>
        this.#parts.log.warn({ err: error, vm: vm.name }, 'taps of a VM could not be removed'),
      );
    const exit: VmExit = { at: new Date().toISOString(), cause, message };
    await this.#parts.records.transition(vm.id, to, message, endedStatus(vm, exit, to));
    this.#parts.onEnd();
    return exit;
  }

  /** Lets go of all guests; they run on. */
  release(): void {
    for (const id of [...this.#entries.keys()]) this.detach(id);
  }

  async #handle(id: string, entry: Entry, message: GuestMessage): Promise<void> {
    // A message of a guest that was replaced or detached meanwhile says nothing about the VM any more.
    if (this.#entries.get(id) !== entry) return;
    const vm = this.#parts.records.collection.get(id);
    if (!vm) return;
    const { events, records } = this.#parts;
    switch (message.type) {
      case 'agent':
        this.facts.agentChanged(id);
        return;
      case 'reset':
        this.facts.guestReset(id);
        await records.patch(id, { isUp: false, upAt: null, consolePanic: null });
        await events.record({ type: 'vm.reset', subject: vmSubject(vm), message: `VM ${vm.name} was reset.` });
        return;
      case 'disk-error':
        await events.record({
          type: 'vm.disk-error',
          severity: 'error',
          subject: vmSubject(vm),
          message: `Disk ${message.disk} of VM ${vm.name} reported an error: ${message.message}.`,
          details: { disk: message.disk },
        });
        return;
      case 'tpm-died':
        await this.#noteWarning(vm, {
          code: 'tpm-died',
          message: message.message,
          hint: `Start it afresh, so that it has its TPM again: lodge vm restart ${vm.name}. What the TPM keeps is on disk.`,
        });
        return;
      case 'shared-folders-died':
        await this.#noteWarning(vm, {
          code: 'shared-folders-died',
          message: message.message,
          hint: `Start it afresh: lodge vm restart ${vm.name}. What was written before is in the folder.`,
        });
        return;
      case 'devices':
        if (vm.status.taskId === null) this.#parts.onDevices(id);
        return;
      case 'control':
        await events.record({
          type: message.isConnected ? 'vm.control-regained' : 'vm.control-lost',
          severity: message.isConnected ? 'info' : 'warning',
          subject: vmSubject(vm),
          message: message.isConnected
            ? `VM ${vm.name} is under control again.`
            : `The connection to the hypervisor process of VM ${vm.name} broke; the guest runs on.`,
        });
        return;
      case 'state':
        if (vm.status.taskId === null) await this.#follow(vm, entry.guest);
        return;
      case 'ended':
        if (vm.status.taskId === null) await this.#finish(vm, message.cause, message.message);
        else this.detach(id);
    }
  }

  /** A warning is told once, for as long as it lasts. */
  async #noteWarning(vm: Vm, warning: VmWarning): Promise<void> {
    const { events, records } = this.#parts;
    const { warnings } = vm.status;
    if (warnings.some(({ code }) => code === warning.code)) return;
    await records.patch(vm.id, { warnings: [...warnings, warning] });
    await events.record({
      type: `vm.${warning.code}`,
      severity: 'error',
      subject: vmSubject(vm),
      message: `VM ${vm.name}: ${warning.message}`,
    });
  }

  /** Makes the VM’s state that of its guest, as it is now: the message that led here may be older than the last change. */
  async #follow(vm: Vm, guest: Guest): Promise<void> {
    const { records, events } = this.#parts;
    const state = await this.#ask(guest);
    if (state === null) return;
    if (state === 'shutdown') {
      await guest.end();
      await this.#finish(vm, 'guest-shutdown', 'The guest powered itself off.');
      return;
    }
    if (vm.status.state === state && state !== 'crashed') return;
    if (state === 'crashed') {
      if (vm.status.state !== 'crashed') {
        await records.transition(
          vm.id,
          'crashed',
          'The guest’s operating system panicked; its memory is kept until it is reset or switched off.',
        );
        await events.record({
          type: 'vm.guest-panicked',
          severity: 'error',
          subject: vmSubject(vm),
          message: `The operating system of VM ${vm.name} panicked.`,
        });
      }
      if (vm.spec.restartPolicy.mode !== 'never') {
        await guest.end();
        await this.#finish(records.byId(vm.id), 'guest-panicked', 'The guest’s operating system panicked.');
      }
      return;
    }
    await records.transition(vm.id, state, state === 'running' ? 'Its vCPUs run.' : 'Its vCPUs are stopped.');
    if (state === 'running') this.facts.wake(vm.id);
  }

  /** Null where the guest can't tell: its end, or its monitor's return, is told by itself. */
  async #ask(guest: Guest): Promise<GuestState | null> {
    return guest.state().catch((error: unknown) => {
      this.#parts.log.debug({ err: error, vmId: guest.id }, 'a guest did not tell its state');
      return null;
    });
  }

  async #finish(vm: Vm, cause: VmExit['cause'], message: string): Promise<void> {
    const exit = await this.finish(vm, cause, message);
    const isBad = cause !== 'guest-shutdown' && cause !== 'stopped';
    await this.#parts.events.record({
      type: `vm.${cause}`,
      severity: isBad ? 'error' : 'info',
      subject: vmSubject(vm),
      message: `VM ${vm.name}: ${message}`,
    });
    this.#parts.onUnaskedEnd(vm, exit);
  }
}

/** What a VM that has ended doesn't have any longer. Suspended, it still has the hardware that its memory was saved with. */
function endedStatus({ status }: Vm, lastExit: VmExit, to: 'stopped' | 'suspended'): Partial<VmStatus> {
  return {
    lastExit,
    pid: null,
    isUp: false,
    upAt: null,
    startedAt: null,
    guest: null,
    agentAdvice: null,
    clockStaleSince: null,
    consolePanic: null,
    placement: null,
    bootedOnceFrom: null,
    warnings: [],
    nics: status.nics.map((nic) => ({ ...nic, hostInterface: null, addresses: [] })),
    ...(to === 'stopped' ? { startedSpec: null, pendingChanges: [] } : {}),
  };
}
