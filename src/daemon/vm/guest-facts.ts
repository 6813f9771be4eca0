// What is known from inside a guest: whether it is up, its host name, system and addresses. Asked of its agent when the
// agent appears and then now and then; leases of the networks are merged in. Nothing here decides anything.
import { setTimeout as delay } from 'node:timers/promises';
import { isDeepStrictEqual } from 'node:util';
import { LodgeError } from '../../api/errors.ts';
import { type GuestGlance } from '../../api/vm-guest-info.ts';
import { type Vm } from '../../api/vm.ts';
import { liveVmStates } from '../../api/vm-state.ts';
import { type Guest } from '../../drivers/driver.ts';
import { printable } from '../../lib/printable.ts';
import { type Log } from '../store/informer.ts';
import { agentAdvice } from './agent-install.ts';
import { type VmRecords } from './vm-records.ts';
import { isRunningCopy } from './fork-copies.ts';

export interface GuestFactsParts {
  records: VmRecords;
  log: Log;
  guestOf: (id: string) => Guest | null;
  serialLog: (id: string, maxBytes: number) => Promise<Uint8Array>;
  /** Told after a guest has told about itself. */
  onAnswer?: (id: string, guest: Guest) => Promise<void>;
  /** How long a guest may take before it is said what to do about its agent. */
  adviseAfterMs?: number;
}

/** How often a guest that is up is asked again. */
const refreshMs = 60_000;
/** How often one whose agent hasn't answered yet is tried: an agent that was there before the daemon tells nothing anew. */
const retryMs = 5000;
const answerTimeoutMs = 5000;
/** How long a guest may boot, and install an agent, before it is said what to do about it. */
const defaultAdviseAfterMs = 120_000;
/** How much of the serial console's end is looked at for a kernel panic, which prints a page or two. */
const consoleBytes = 8192;
const maxPanicLength = 200;
/** Of a NIC; a guest may claim any number. */
const maxAddresses = 32;

/** States in which a guest's own programs may run. */
const runningStates: ReadonlySet<Vm['status']['state']> = new Set(['starting', 'running', 'stopping']);

/** The asking of one guest. */
interface Loop {
  abort: AbortController;
  /** Aborted to ask at once. Replaced before each round, so that what happens during one is not missed. */
  wake: AbortController;
  /** The end of the serial console when the asking began: what stands there is of an earlier run. */
  before: Promise<string>;
  /** When the guest has last been known to have no agent for a good reason, on the clock of `performance`. */
  silentSince: number;
}

export class GuestFacts {
  readonly #parts: GuestFactsParts;
  readonly #loops = new Map<string, Loop>();
  /** Addresses by MAC address, as the networks’ DHCP servers gave them. */
  #leased: ReadonlyMap<string, string> = new Map();

  constructor(parts: GuestFactsParts) {
    this.#parts = parts;
  }

  /** Begins to ask a guest. */
  begin(id: string): void {
    this.end(id);
    const loop: Loop = {
      abort: new AbortController(),
      wake: new AbortController(),
      before: this.#console(id),
      silentSince: performance.now(),
    };
    this.#loops.set(id, loop);
    void this.#run(id, loop).catch((error: unknown) =>
      this.#parts.log.warn({ err: error, vmId: id }, 'asking a guest about itself failed'),
    );
  }

  end(id: string): void {
    const loop = this.#loops.get(id);
    loop?.abort.abort();
    loop?.wake.abort();
    this.#loops.delete(id);
  }

  /** Asks a guest now rather than at its next turn: its vCPUs have begun to run. */
  wake(id: string): void {
    this.#loops.get(id)?.wake.abort();
  }

  /** The agent opened or closed its channel. */
  agentChanged(id: string): void {
    this.wake(id);
  }

  guestReset(id: string): void {
    this.begin(id);
  }

  /** Takes the current leases of all networks: MAC address to IP address. */
  async setLeases(leases: ReadonlyMap<string, string>): Promise<void> {
    const { collection } = this.#parts.records;
    this.#leased = new Map(leases);
    for (const { id, status } of [...collection.all()]) {
      if (!liveVmStates.has(status.state)) continue;
      const nics = withAddresses(status.nics, this.#leased, null);
      if (status.nics.every((nic, index) => nic.addresses.join() === nics[index]!.addresses.join())) continue;
      await collection
        .setStatus(id, (now) => ({ ...now, nics: withAddresses(now.nics, this.#leased, null) }))
        .catch(ignoreGone);
    }
  }

  async #run(id: string, loop: Loop): Promise<void> {
    const { signal } = loop.abort;
    while (!signal.aborted) {
      loop.wake = new AbortController();
      const guest = this.#parts.guestOf(id);
      const vm = this.#parts.records.collection.get(id);
      if (!guest || !vm) return;
      const isUp =
        vm.spec.hasAgentChannel && runningStates.has(vm.status.state) && (await this.#ask(vm, guest, signal));
      if (!isUp && runningStates.has(vm.status.state)) await this.#lookForPanic(vm, loop);
      const isSilent = !isUp && runningStates.has(vm.status.state);
      if (!isSilent) loop.silentSince = performance.now();
      await this.#advise(vm.id, isSilent ? performance.now() - loop.silentSince : null, loop.abort.signal);
      const either = AbortSignal.any([loop.wake.signal, signal]);
      await delay(isUp ? refreshMs : retryMs, undefined, { signal: either, ref: false }).catch(() => {});
    }
  }

  /** Says what to do about an agent that has not answered for long, and takes it back when it does. */
  async #advise(id: string, silentMs: number | null, signal: AbortSignal): Promise<void> {
    const { records, adviseAfterMs = defaultAdviseAfterMs } = this.#parts;
    const vm = records.collection.get(id);
    if (!vm || signal.aborted || !liveVmStates.has(vm.status.state)) return;
    const advice = silentMs === null ? null : agentAdvice(vm, silentMs, adviseAfterMs);
    if (isDeepStrictEqual(vm.status.agentAdvice, advice)) return;
    await records.collection
      .setStatus(id, (now) => (signal.aborted || !liveVmStates.has(now.state) ? now : { ...now, agentAdvice: advice }))
      .catch(ignoreGone);
  }

  /** Sets the clock of a guest that went on after it had stood still. One that can't be set is left stale, and shown so. */
  async #setClock(id: string, guest: Guest, signal: AbortSignal): Promise<void> {
    const { collection } = this.#parts.records;
    const since = collection.get(id)?.status.clockStaleSince ?? null;
    if (since === null) return;
    try {
      await guest.agent.setTime(Date.now(), { timeoutMs: answerTimeoutMs, signal });
    } catch (error) {
      if (!cannotSetClock(error)) throw error;
      this.#parts.log.debug({ err: error, vmId: id }, 'the clock of a guest that went on could not be set');
      return;
    }
    // It may have been paused once more meanwhile.
    await collection.setStatus(id, (now) => (now.clockStaleSince === since ? { ...now, clockStaleSince: null } : now));
  }

  /** A guest whose agent doesn't answer may have ended where the hypervisor doesn't see it. */
  async #lookForPanic(vm: Vm, loop: Loop): Promise<void> {
    const consolePanic = panicIn(newOf(await loop.before, await this.#console(vm.id)));
    const { signal } = loop.abort;
    if (consolePanic === null || consolePanic === vm.status.consolePanic || signal.aborted) return;
    await this.#parts.records.collection
      .setStatus(vm.id, (now) => (signal.aborted || !liveVmStates.has(now.state) ? now : { ...now, consolePanic }))
      .catch(ignoreGone);
  }

  async #console(id: string): Promise<string> {
    const log = await this.#parts.serialLog(id, consoleBytes).catch(() => new Uint8Array());
    return Buffer.from(log).toString('latin1');
  }

  async #ask(vm: Vm, guest: Guest, signal: AbortSignal): Promise<boolean> {
    const { collection } = this.#parts.records;
    try {
      if (!(await guest.agent.isAnswering({ timeoutMs: answerTimeoutMs, signal }))) {
        if (vm.status.guest?.hasAgent)
          await collection.setStatus(vm.id, (now) => ({
            ...now,
            guest: now.guest && { ...now.guest, hasAgent: false },
          }));
        return false;
      }
      // Told at once: what else there is to know may take the guest a moment to find out.
      await collection.setStatus(vm.id, (now) =>
        signal.aborted || now.isUp || !runningStates.has(now.state)
          ? now
          : { ...now, isUp: true, consolePanic: null, upAt: now.upAt ?? new Date().toISOString() },
      );
      // What a copy knows of itself now is its original's, and asking would take the processor from those that are being made.
      if (isBeingForked(collection.get(vm.id))) return true;
      await this.#setClock(vm.id, guest, signal);
      const info = await guest.agent.glance({ timeoutMs: answerTimeoutMs * 2, signal });
      // What a guest said before it ended or was reset says nothing about the VM now.
      await collection.setStatus(vm.id, (now) =>
        signal.aborted || !liveVmStates.has(now.state)
          ? now
          : {
              ...now,
              isUp: true,
              upAt: now.upAt ?? new Date().toISOString(),
              guest: {
                hasAgent: true,
                agentVersion: info.agentVersion,
                hostname: info.hostname,
                osName: info.os?.name ?? null,
                kernel: info.os?.kernel ?? null,
              },
              nics: withAddresses(now.nics, this.#leased, info),
            },
      );
      if (!signal.aborted)
        void this.#parts
          .onAnswer?.(vm.id, guest)
          .catch((error: unknown) =>
            this.#parts.log.warn({ err: error, vmId: vm.id }, 'what a guest told had no effect'),
          );
      return true;
    } catch (error) {
      if (!signal.aborted) this.#parts.log.debug({ err: error, vmId: vm.id }, 'the guest agent did not answer');
      return false;
    }
  }
}

function isBeingForked(vm: Vm | null): boolean {
  if (!vm?.status.lineage || vm.status.taskId === null) return false;
  return isRunningCopy(vm.status.lineage) && !vm.status.lineage.hasOwnIdentity;
}

/** Whether the agent of this guest has no way to set its clock. */
function cannotSetClock(error: unknown): boolean {
  return error instanceof LodgeError && (error.code === 'unsupported' || error.code === 'hypervisor_failed');
}

function ignoreGone(error: unknown): void {
  if (!(error instanceof LodgeError && error.code === 'not_found')) throw error;
}

/** What of the end of a log came after an earlier look at its end. */
export function newOf(before: string, now: string): string {
  const end = before.slice(-200);
  const at = end === '' ? -1 : now.lastIndexOf(end);
  return at === -1 ? now : now.slice(at + end.length);
}

/** The kernel panic that a console shows, as Linux and BSDs word it; null: none. */
export function panicIn(text: string): string | null {
  const last = [...text.matchAll(/(?:Kernel panic - not syncing|^panic): ?[^\r\n]*/gm)].at(-1)?.[0];
  // Linux ends with the line again, between "---[ end" and "]---".
  return last ? printable(last.replace(/ ?\]---$/, '')).slice(0, maxPanicLength) : null;
}

/** The NICs with what is known of their addresses: what the guest itself says, else what it was leased. */
export function withAddresses(
  nics: Vm['status']['nics'],
  leased: ReadonlyMap<string, string>,
  info: Pick<GuestGlance, 'interfaces'> | null,
): Vm['status']['nics'] {
  return nics.map((nic) => {
    const own =
      info?.interfaces
        .filter((candidate) => candidate.mac?.toLowerCase() === nic.mac)
        .flatMap((candidate) => candidate.addresses.map(({ address }) => address)) ?? [];
    const told = own.filter((address) => !address.startsWith('fe80:')).slice(0, maxAddresses);
    const lease = leased.get(nic.mac);
    if (told.length > 0) return { ...nic, addresses: told };
    if (lease) return { ...nic, addresses: nic.addresses.includes(lease) ? nic.addresses : [lease] };
    return nic;
  });
}
