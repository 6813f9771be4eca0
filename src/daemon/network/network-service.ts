// Networks as objects: what users asked for, made so on this node and kept so.
//
// Invariants:
// - One change at a time over all networks of the node: the packet filter is one table for all of them.
// - A network that was made so once is looked at again every `checkIntervalMs`, and whatever differs is made so again,
//   with an event that says what was wrong. Guests' traffic doesn't pass through the daemon and goes on without it.
// - The prefix that Lodge picked is kept in status, so that a network keeps its addresses.
// - A network that could not be made leaves nothing, also when the daemon died while it was made.
import { LodgeError } from '../../api/errors.ts';
import { type Lease, type Network, type NetworkFinding, type NetworkSpec } from '../../api/network.ts';
import { type Vm } from '../../api/vm.ts';
import { type NicAttachment } from '../../drivers/driver.ts';
import { SerialQueues } from '../../lib/serial-queues.ts';
import { type EventService } from '../event/event-service.ts';
import { ConditionFailedError, type Collection } from '../store/collection.ts';
import { type Log } from '../store/informer.ts';
import { type ReferenceLock } from '../store/reference-lock.ts';
import { describeHostProblem } from './host-problem.ts';
import { isRouterOf } from './router-networks.ts';
import { leasesOfMembers, readNetworkUse, type NetworkMember } from './network-members.ts';
import { diagnoseNetwork } from './network-doctor.ts';
import { type NetworkMode } from './network-mode.ts';
import { type NetworkModes } from './network-modes.ts';
import { initialNetworkStatus } from './network-status.ts';
import { type NetworkTaps } from './network-taps.ts';
import { requireFree, requireNicPlace, requireNotShared, type NicAddresses } from './network-refusals.ts';
import { checkNetworkSpec } from './network-spec-check.ts';
import { requireServable } from './tftp-folder.ts';

export interface NetworkServiceParts {
  networks: Collection<Network>;
  events: EventService;
  log: Log;
  modes: NetworkModes;
  references: ReferenceLock;
  /** All VMs; they say who is on which network. */
  vms: () => Iterable<Vm>;
  /** How often networks are looked at, in milliseconds. */
  checkIntervalMs: number;
  /** Told when the leases of a network have changed: one address by MAC address, and all of them. */
  onLeases: (leases: ReadonlyMap<string, string>, all: ReadonlyMap<string, readonly string[]>) => Promise<void>;
}

const leaseMs = 2000;
/** Fields that a network can't change under its guests. */
const movedBy = ['mode', 'ipv4Cidr', 'ipv6Cidr', 'hasHost', 'bridge', 'uplink', 'vlan'] as const;
const queueKey = 'networks';
/** Remembers that the default network was made once: whoever deletes it doesn't get it back. */
const defaultMadeKey = '/lodge/flags/default-network';

export class NetworkService {
  readonly #parts: NetworkServiceParts;
  readonly #queue = new SerialQueues();
  readonly #taps: NetworkTaps;
  /** The members that each network's DHCP server was last told of, as text. */
  readonly #told = new Map<string, string>();
  readonly #timers: NodeJS.Timeout[] = [];
  /** Looks at single networks that are to come, by network id. */
  readonly #deadlines = new Map<string, NodeJS.Timeout>();
  #isShowPlanned = false;
  #isClosed = false;
  #lastLeases = '';

  constructor(parts: NetworkServiceParts) {
    this.#parts = parts;
    this.#taps = parts.modes.taps;
  }

  get(id: string): Network | null {
    return this.#parts.networks.get(id);
  }

  require(project: string, reference: string): Network {
    return this.#parts.networks.require(project, reference);
  }

  find(project: string, reference: string): Network | null {
    return this.#parts.networks.find(project, reference);
  }

  all(): IterableIterator<Network> {
    return this.#parts.networks.all();
  }

  /** Makes the object of the default network when Lodge runs for the first time; it is brought up by start(). */
  async prepare(): Promise<void> {
    if (this.#parts.networks.byName('default', 'default')) return;
    const spec: NetworkSpec = {
      description: 'Made by Lodge: guests reach the world through this host, and each other by name.',
      mode: 'nat',
      hasHost: true,
      dhcp: { isEnabled: true, leaseTimeS: 43_200 },
      dnsDomain: 'lodge.internal',
      confirmTimeoutS: 30,
      mtu: 1500,
    };
    try {
      await this.#parts.networks.create(
        { name: 'default', project: 'default', labels: {}, spec },
        {
          compare: [{ key: defaultMadeKey, exists: false }],
          success: [{ put: defaultMadeKey, value: new Date().toISOString() }],
        },
      );
    } catch (error) {
      if (!(error instanceof ConditionFailedError)) throw error;
    }
  }

  /** Brings all networks up, removes what belongs to none, and begins to keep them as they should be. */
  async start(hasRebooted: boolean): Promise<void> {
    await this.#queue.run(queueKey, async () => {
      const strays: string[] = [];
      for (const mode of this.#parts.modes.all)
        strays.push(...(await mode.removeStrays([...this.#parts.networks.all()])));
      if (strays.length > 0) this.#parts.log.info({ strays }, 'what belonged to no network was removed');
    });
    await this.#checkAll({ isStart: true, hasRebooted });
    await this.#readLeases();
    if (this.#isClosed) return;
    this.#timers.push(
      setInterval(
        () => void this.#checkAll({ isStart: false, hasRebooted: false }),
        this.#parts.checkIntervalMs,
      ).unref(),
      setInterval(() => void this.#readLeases(), leaseMs).unref(),
    );
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    for (const timer of [...this.#timers, ...this.#deadlines.values()]) clearTimeout(timer);
    await this.#queue.run(queueKey, async () => {});
  }

  async create(given: Pick<Network, 'name' | 'project' | 'labels' | 'spec'>): Promise<Network> {
    const { networks } = this.#parts;
    checkNetworkSpec(given.spec);
    await requireServable(given.spec);
    return this.#queue.run(queueKey, async () => {
      if (networks.byName(given.project, given.name))
        throw new LodgeError('name_taken', `There is a network ${given.name} in project ${given.project} already.`);
      requireFree(given.spec, null, this.all());
      const created = await networks.create(given);
      try {
        return await this.#ensure(created, null);
      } catch (error) {
        await this.#abandon(created);
        await this.#ensureFirewall().catch((cause: unknown) => this.#warn(created, cause));
        throw describeHostProblem(error, 'spec');
      }
    });
  }

  async update(
    given: Network,
    change: { revision?: number | undefined; labels?: Record<string, string> | undefined; spec: NetworkSpec },
  ): Promise<Network> {
    const { networks, references } = this.#parts;
    checkNetworkSpec(change.spec);
    await requireServable(change.spec);
    return this.#queue.run(queueKey, async () => {
      const network = this.#current(given);
      requireFree(change.spec, network.id, this.all());
      const moved = movedBy.find((field) => change.spec[field] !== network.spec[field]);
      const updated = await references.hold(async () => {
        const users = moved ? this.#usersOf(network) : [];
        if (moved) requireNotShared(network, this.all());
        if (users.length > 0) {
          throw new LodgeError(
            'in_use',
            `spec.${moved} of network ${network.name} can not change while ${users.join(', ')} use it.`,
            { hint: 'Take these VMs off the network first, or make another network.' },
          );
        }
        return networks.update(network.id, change.revision, (draft) => {
          draft.spec = change.spec;
          if (change.labels) draft.labels = change.labels;
        });
      });
      if (JSON.stringify(updated.spec) === JSON.stringify(network.spec)) return updated;
      try {
        if (moved) {
          await this.#modeOf(network).remove(network);
          this.#told.delete(network.id);
          await networks.setStatus(network.id, initialNetworkStatus());
        }
        return await this.#ensure(this.#current(updated), null);
      } catch (error) {
        await this.#revert(network, this.#current(updated), moved !== undefined);
        throw describeHostProblem(error, 'spec');
      }
    });
  }

  async delete(given: Network): Promise<Network> {
    const { networks, references } = this.#parts;
    return this.#queue.run(queueKey, async () => {
      const network = this.#current(given);
      await references.hold(async () => {
        this.#requireUnused(network);
        requireNotShared(network, this.all());
        await networks.setStatus(network.id, (status) => ({
          ...status,
          state: 'deleting',
          reason: 'It is being deleted.',
        }));
      });
      try {
        await this.#modeOf(network).remove(network);
      } catch (error) {
        await networks.setStatus(network.id, network.status);
        throw describeHostProblem(error, 'spec');
      }
      const deleted = await networks.delete(network.id);
      this.#told.delete(network.id);
      // What is left of it in the packet filter names a bridge that is gone; the next look takes it away too.
      await this.#ensureFirewall().catch((error: unknown) => this.#warn(network, error));
      return deleted;
    });
  }

  /** Tells the networks that VMs have come, gone or changed: names and reservations. Does nothing where they are the same. */
  async membersChanged(): Promise<void> {
    await this.#queue.run(queueKey, async () => {
      const uses = readNetworkUse(this.#parts.networks.all(), this.#parts.vms());
      for (const [id, { members }] of uses) {
        const network = this.#parts.networks.get(id);
        const isUp = network?.status.state === 'ready' || network?.status.state === 'degraded';
        if (!network || !isUp || this.#told.get(id) === textOf(members)) continue;
        await this.#modeOf(network)
          .refreshMembers(network, members)
          // Soon after the machine came up, what serves the network is not there yet; later somebody has taken it away.
          .catch(() => this.#ensure(this.#current(network), this.#told.has(id) ? 'repaired' : null))
          .catch((error: unknown) => {
            throw describeHostProblem(error, 'spec.nics');
          });
        this.#told.set(id, textOf(members));
      }
    });
    this.#planShowUsers();
  }

  /** As {@link membersChanged}, for those who can't wait: what fails is tried again at the next look. */
  planMembersChanged(): void {
    this.membersChanged().catch((error: unknown) =>
      this.#parts.log.warn({ err: error }, 'a network could not be told who is on it'),
    );
  }

  /** Refuses a network that a VM can't be connected to, and reserved addresses that it can't give to this VM. */
  checkNic(network: Network, vmId: string | null, field: string, nic: NicAddresses): void {
    requireNicPlace(network, this.#parts.vms(), vmId, field, nic);
  }

  /** Brings the network up if it isn't, and connects a NIC: for a bridge, by a tap made for it. */
  async connect(
    given: Network,
    nic: { vm: Vm; mac: string; field: string; uid: number; queues: number },
  ): Promise<NicAttachment> {
    const { vm, mac, field, uid, queues } = nic;
    const place = { vmId: vm.id, vm: vm.name, mac, uid, queues };
    const network = this.#current(given);
    const mode = this.#modeOf(network);
    try {
      const isUp = network.status.state === 'ready' || network.status.state === 'degraded';
      const attached = isUp ? await mode.connect(network, place) : null;
      if (attached) return attached;
      const ready = await this.#queue.run(queueKey, () => this.#ensure(this.#current(network), null));
      if (ready.status.state === 'pending')
        throw new LodgeError('wrong_state', `Network ${network.name} is not ready: ${ready.status.reason}`, {
          hint: `Confirm it first: lodge network confirm ${network.name}`,
        });
      // One that an interrupted start has left may have another owner, or be a port of nothing.
      await this.#taps.removeOne(vm.id, mac);
      const again = await mode.connect(ready, place);
      if (again) return again;
      throw new LodgeError('host_failed', `NIC ${mac} of VM ${vm.name} could not be connected to ${network.name}.`);
    } catch (error) {
      throw describeHostProblem(error, `${field}.network`);
    }
  }

  /** Pairs of queues that a NIC on the network can have. */
  mostQueues(network: Network): number {
    return this.#modeOf(network).mostQueues;
  }

  /** Name of the link on this host that a NIC is connected by; null where the network's mode needs none. */
  hostInterface(project: string, reference: string, vmId: string, mac: string): string | null {
    const network = this.#parts.networks.find(project, reference);
    return network ? this.#modeOf(network).hostInterface(vmId, mac) : null;
  }

  /** Removes the taps of a VM's NICs. */
  async disconnect(vmId: string, macs: Iterable<string>): Promise<void> {
    const all = [...macs];
    try {
      await this.#taps.remove(vmId, all);
      for (const mode of this.#parts.modes.all) await mode.forget?.(all.map((mac) => this.#taps.nameOf(vmId, mac)));
    } catch (error) {
      throw describeHostProblem(error, 'spec.nics');
    }
  }

  /** Removes taps that belong to no VM that exists or runs; for the start of the daemon. */
  removeStrayTaps(isWanted: (vmId: string) => boolean): Promise<string[]> {
    return this.#taps.removeStrays(isWanted);
  }

  /** What keeps the network's guests from reaching what they should. */
  diagnose(network: Network): Promise<NetworkFinding[]> {
    return diagnoseNetwork(network, this.#parts.modes.instance).catch((error: unknown) => {
      throw describeHostProblem(error, 'spec');
    });
  }

  async leases(network: Network): Promise<Lease[]> {
    return leasesOfMembers(await this.#modeOf(network).leases(network), this.#membersOf(network));
  }

  /** Looks at every network and makes it so again where it isn't. */
  #checkAll(how: { isStart: boolean; hasRebooted: boolean }): Promise<void> {
    return this.#queue.run(queueKey, async () => {
      for (const { id } of [...this.#parts.networks.all()]) {
        if (this.#isClosed) return;
        const network = this.#parts.networks.get(id);
        if (network) await this.#check(network, how);
      }
      // Also when there is no network any more: what the packet filter has of earlier ones goes.
      if (how.isStart)
        await this.#ensureFirewall().catch((error: unknown) =>
          this.#parts.log.warn({ err: error }, 'the packet filter could not be set'),
        );
      await this.#showUsers();
    });
  }

  async #check(network: Network, how: { isStart: boolean; hasRebooted: boolean }): Promise<void> {
    const { networks, events, log } = this.#parts;
    try {
      await this.#ensure(network, how.hasRebooted ? null : 'repaired');
    } catch (error) {
      const problem = describeHostProblem(error, 'spec');
      if (how.isStart && network.status.state === 'pending' && this.#usersOf(network).length === 0) {
        // Nobody was told that it was made, and it can't be.
        log.warn({ err: error, network: network.name }, 'a network whose creation was broken off was removed');
        await this.#abandon(network);
        return;
      }
      if (network.status.reason !== problem.message) {
        log.warn({ err: error, network: network.name }, 'a network is not as it should be');
        await events.record({
          type: 'network.failed',
          severity: 'error',
          subject: subjectOf(network),
          message: `Network ${network.name} is not as it should be: ${problem.message}`,
        });
      }
      const observed = await this.#modeOf(network)
        .observe(network)
        .catch(() => ({}));
      await networks.setStatus(network.id, (status) => ({
        ...status,
        ...observed,
        state: status.state === 'deleting' ? 'deleting' : 'failed',
        reason: problem.message,
        problems: [problem.message],
      }));
    }
  }

  /** Makes a network as it should be and writes down what it is. Within the queue. `report`: tells what had to be done. */
  async #ensure(network: Network, report: 'repaired' | null): Promise<Network> {
    const { networks, events } = this.#parts;
    const mode = this.#modeOf(network);
    if (network.status.state === 'deleting') {
      await mode.remove(network);
      const deleted = await networks.delete(network.id);
      await this.#ensureFirewall();
      return deleted;
    }
    const before = network.status.state;
    const plan = await mode.plan(network, networks.all());
    const planned = { ...network, status: { ...network.status, ...plan } };
    // First written, then made: a daemon that dies in between goes on with the prefix that it has picked.
    if (JSON.stringify(planned.status) !== JSON.stringify(network.status))
      await networks.setStatus(network.id, (status) => ({ ...status, ...plan }));
    const all = [...networks.all()].map((other) => (other.id === network.id ? planned : other));
    const members = this.#membersOf(network);
    const done = await mode.ensure(planned, members, all);
    // What the packet filter has of a network that was in another mode before goes.
    if (!isRouterOf(network)) await this.#ensureFirewall();
    this.#told.set(network.id, textOf(members));
    if (done.length > 0 && plan.bridge !== null) await this.#reattach(network, plan.bridge);
    if (report && done.length > 0 && (before === 'ready' || before === 'failed')) {
      await events.record({
        type: 'network.repaired',
        severity: 'warning',
        subject: subjectOf(network),
        message: `Network ${network.name} was not as it should be and has been repaired: ${done.join('; ')}.`,
        details: { changes: done },
      });
    }
    const observed = await mode.observe(planned);
    const confirmBy = observed.uplink?.confirmBy ?? null;
    if (confirmBy !== null) this.#checkAt(network, new Date(confirmBy));
    const problems = observed.problems ?? [];
    return networks.setStatus(network.id, (status) => ({
      ...status,
      ...plan,
      routes: [],
      uplink: null,
      ...observed,
      problems,
      state: confirmBy !== null ? 'pending' : problems.length > 0 ? 'degraded' : 'ready',
      reason:
        confirmBy === null
          ? (problems[0] ?? mode.readiness)
          : `${network.spec.uplink} is a port of ${plan.bridge} now, and is put back at ${confirmBy} unless that is confirmed.`,
    }));
  }

  /** Takes a change of the host's own configuration for good. */
  async confirm(given: Network): Promise<Network> {
    return this.#queue.run(queueKey, async () => {
      const network = this.#current(given);
      const mode = this.#modeOf(network);
      if (!mode.confirm)
        throw new LodgeError('wrong_state', `Network ${network.name} has no change that waits to be confirmed.`);
      await mode.confirm(network);
      return this.#ensure(network, null).catch((error: unknown) => {
        throw describeHostProblem(error, 'spec');
      });
    });
  }

  /** Looks at a network soon after a moment, at which something of it ends by itself. */
  #checkAt({ id }: Network, at: Date): void {
    clearTimeout(this.#deadlines.get(id));
    const check = (): void => {
      this.#deadlines.delete(id);
      void this.#queue.run(queueKey, async () => {
        const network = this.#isClosed ? null : this.get(id);
        if (network) await this.#check(network, { isStart: false, hasRebooted: false });
      });
    };
    this.#deadlines.set(id, setTimeout(check, Math.max(0, at.getTime() - Date.now()) + 500).unref());
  }

  #modeOf(network: Network): NetworkMode {
    return this.#parts.modes.of(network.spec.mode);
  }

  #ensureFirewall(): Promise<string[]> {
    return this.#parts.modes.routed.ensureFirewall([...this.#parts.networks.all()]);
  }

  /** Puts the taps of running guests back on a bridge that was made anew. */
  async #reattach(network: Network, bridge: string): Promise<void> {
    const mine = new Set(this.#membersOf(network).map(({ vmId, mac }) => this.#taps.nameOf(vmId, mac)));
    if (mine.size > 0) await this.#taps.reattach(bridge, (name) => mine.has(name));
  }

  /** Removes a network that could not be made: first what it has on the host, then the object, unless a VM uses it by now. */
  async #abandon(network: Network): Promise<void> {
    const { networks, references } = this.#parts;
    try {
      await this.#modeOf(network).remove(this.#current(network));
      await references.hold(async () => {
        if (this.#usersOf(network).length === 0) await networks.delete(network.id);
        else
          await networks.setStatus(network.id, (status) => ({
            ...status,
            state: 'failed',
            reason: 'It could not be created.',
          }));
      });
      this.#told.delete(network.id);
    } catch (error) {
      this.#warn(network, error);
    }
  }

  /** What was asked for can't be: the network goes back to what it was. */
  async #revert(before: Network, failed: Network, isMoved: boolean): Promise<void> {
    const { networks, log } = this.#parts;
    try {
      if (isMoved) await this.#modeOf(failed).remove(failed);
      const reverted = await networks.update(before.id, undefined, (draft) => {
        draft.spec = before.spec;
        draft.labels = before.labels;
      });
      await networks.setStatus(before.id, before.status);
      await this.#ensure({ ...reverted, status: before.status }, null);
    } catch (error) {
      log.error({ err: error, network: before.name }, 'a network could not be brought back to what it was');
    }
  }

  async #readLeases(): Promise<void> {
    try {
      const one = new Map<string, string>();
      const all = new Map<string, string[]>();
      for (const network of this.#parts.networks.all()) {
        if (network.status.state !== 'ready' && network.status.state !== 'degraded') continue;
        const leases = await this.#modeOf(network).leases(network);
        // One address a NIC: what it has of IPv4, where it has that.
        for (const { macAddress, address, family } of leases) {
          if (!macAddress) continue;
          if (family === 4 || !one.has(macAddress)) one.set(macAddress, address);
          all.set(macAddress, [...(all.get(macAddress) ?? []), address]);
        }
        if (leases.length !== network.status.leaseCount && this.get(network.id))
          await this.#parts.networks.setStatus(network.id, (status) => ({ ...status, leaseCount: leases.length }));
      }
      const text = [...all].join('\n');
      if (text === this.#lastLeases) return;
      this.#lastLeases = text;
      await this.#parts.onLeases(one, all);
    } catch (error) {
      if (!this.#isClosed) this.#parts.log.warn({ err: error }, 'the leases of the networks could not be read');
    }
  }

  /** Shows who uses a network soon; many changes at once are shown together. */
  #planShowUsers(): void {
    if (this.#isShowPlanned || this.#isClosed) return;
    this.#isShowPlanned = true;
    void this.#queue
      .run(queueKey, async () => {
        this.#isShowPlanned = false;
        await this.#showUsers();
      })
      .catch((error: unknown) => this.#parts.log.warn({ err: error }, 'the users of networks could not be shown'));
  }

  async #showUsers(): Promise<void> {
    for (const [id, { users: usedBy }] of readNetworkUse(this.#parts.networks.all(), this.#parts.vms())) {
      if (this.get(id) && usedBy.join() !== this.get(id)?.status.usedBy.join())
        await this.#parts.networks.setStatus(id, (status) => ({ ...status, usedBy }));
    }
  }

  #use(network: Network): { members: NetworkMember[]; users: string[] } {
    return readNetworkUse([network], this.#parts.vms()).get(network.id) ?? { members: [], users: [] };
  }

  #membersOf(network: Network): NetworkMember[] {
    return this.#use(network).members;
  }

  #usersOf(network: Network): string[] {
    return this.#use(network).users;
  }

  /** The network as it is now; it may have been deleted while its turn came. */
  #current(network: Network): Network {
    return this.#parts.networks.require(network.project, network.id);
  }

  #requireUnused(network: Network): void {
    const users = this.#usersOf(network);
    if (users.length === 0) return;
    throw new LodgeError('in_use', `Network ${network.name} is used by ${users.join(', ')}.`, {
      hint: 'Delete these VMs or take them off the network first.',
    });
  }

  #warn(network: Network, error: unknown): void {
    this.#parts.log.warn({ err: error, network: network.name }, 'something of a network could not be removed');
  }
}

function subjectOf(network: Network): { kind: 'network'; id: string; name: string; project: string } {
  return { kind: 'network', id: network.id, name: network.name, project: network.project };
}

function textOf(members: readonly NetworkMember[]): string {
  return JSON.stringify(members);
}
