// What is known from inside a guest: whether it is up, its host name, system and addresses. Asked of its agent when the
// agent appears and then now and then; leases of the networks are merged in. Nothing here decides anything.
import { setTimeout as delay } from 'node:timers/promises';
import { type GuestInfo } from '../../api/vm-guest.ts';
import { type Vm } from '../../api/vm.ts';
import { type Guest } from '../../drivers/driver.ts';
import { type Log } from '../store/informer.ts';
import { type VmRecords } from './vm-records.ts';

export interface GuestFactsParts {
  records: VmRecords;
  log: Log;
  guestOf: (id: string) => Guest | null;
}

/** How often a guest that is up is asked again. */
const refreshMs = 60_000;
/** How often one whose agent hasn't answered yet is tried: an agent that was there before the daemon tells nothing anew. */
const retryMs = 5000;
const answerTimeoutMs = 5000;

/** States in which a guest's own programs may run. */
const runningStates: ReadonlySet<Vm['status']['state']> = new Set(['starting', 'running', 'stopping']);

/** The asking of one guest. */
interface Loop {
  abort: AbortController;
  wake: AbortController;
  /** Something happened while the guest was being asked: it is asked again at once. */
  isWoken: boolean;
}

export class GuestFacts {
  readonly #parts: GuestFactsParts;
  readonly #loops = new Map<string, Loop>();
  /** Addresses by MAC address, as the networks’ DHCP servers gave them. */
  readonly #leased = new Map<string, string>();

  constructor(parts: GuestFactsParts) {
    this.#parts = parts;
  }

  /** Begins to ask a guest. */
  begin(id: string): void {
    this.end(id);
    const loop = { abort: new AbortController(), wake: new AbortController(), isWoken: false };
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

  /** The agent opened or closed its channel. */
  agentChanged(id: string): void {
    const loop = this.#loops.get(id);
    if (!loop) return;
    loop.isWoken = true;
    loop.wake.abort();
  }

  guestReset(id: string): void {
    this.begin(id);
  }

  /** Takes the current leases of a network: MAC address to IP address. */
  async setLeases(leases: ReadonlyMap<string, string>): Promise<void> {
    const { records } = this.#parts;
    for (const [mac, address] of leases) this.#leased.set(mac, address);
    for (const vm of records.collection.all()) {
      const nics = withAddresses(vm.status.nics, this.#leased, null);
      if (vm.status.nics.some((nic, index) => nic.addresses.join() !== nics[index]!.addresses.join()))
        await records.patch(vm.id, { nics });
    }
  }

  async #run(id: string, loop: Loop): Promise<void> {
    const { signal } = loop.abort;
    while (!signal.aborted) {
      const guest = this.#parts.guestOf(id);
      const vm = this.#parts.records.collection.get(id);
      if (!guest || !vm) return;
      loop.isWoken = false;
      const isUp =
        vm.spec.hasAgentChannel && runningStates.has(vm.status.state) && (await this.#ask(vm, guest, signal));
      if (loop.isWoken) continue;
      loop.wake = new AbortController();
      await delay(isUp ? refreshMs : retryMs, undefined, { signal: loop.wake.signal, ref: false }).catch(() => {});
    }
  }

  async #ask(vm: Vm, guest: Guest, signal: AbortSignal): Promise<boolean> {
    try {
      if (!(await guest.agent.isAnswering({ timeoutMs: answerTimeoutMs, signal }))) {
        if (vm.status.guest?.hasAgent)
          await this.#parts.records.patch(vm.id, { guest: { ...vm.status.guest, hasAgent: false } });
        return false;
      }
      if (signal.aborted) return false;
      // Told at once: what else there is to know may take the guest a moment to find out.
      const before = this.#parts.records.byId(vm.id).status;
      if (!before.isUp)
        await this.#parts.records.patch(vm.id, { isUp: true, upAt: before.upAt ?? new Date().toISOString() });
      const info = await guest.agent.info({ timeoutMs: answerTimeoutMs * 2, signal });
      if (signal.aborted) return false;
      const now = this.#parts.records.byId(vm.id).status;
      await this.#parts.records.patch(vm.id, {
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
      });
      return true;
    } catch (error) {
      if (!signal.aborted) this.#parts.log.debug({ err: error, vmId: vm.id }, 'the guest agent did not answer');
      return false;
    }
  }
}

/** The NICs with what is known of their addresses: what the guest itself says, else what it was leased. */
export function withAddresses(
  nics: Vm['status']['nics'],
  leased: ReadonlyMap<string, string>,
  info: GuestInfo | null,
): Vm['status']['nics'] {
  return nics.map((nic) => {
    const own =
      info?.interfaces
        .filter((candidate) => candidate.mac?.toLowerCase() === nic.mac)
        .flatMap((candidate) => candidate.addresses.map(({ address }) => address)) ?? [];
    const told = own.filter((address) => !address.startsWith('fe80:'));
    const lease = leased.get(nic.mac);
    if (told.length > 0) return { ...nic, addresses: told };
    if (lease) return { ...nic, addresses: nic.addresses.includes(lease) ? nic.addresses : [lease] };
    return nic;
  });
}
