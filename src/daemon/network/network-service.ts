// Networks as objects: what users asked for, made so on this node and kept so.
//
// Invariants:
// - One change at a time over all networks of the node: the packet filter is one table for all of them.
// - A network that was made so once is looked at again every `reconcileMs`, and whatever differs is made so again, with
//   an event that says what was wrong. Guests' traffic doesn't pass through the daemon and goes on without it.
// - The prefix that Lodge picked is kept in status, so that a network keeps its addresses.
import { LodgeError, invalidField } from '../../api/errors.ts';
import { type Lease, type Network, type NetworkSpec, type NetworkStatus } from '../../api/network.ts';
import { type Vm } from '../../api/vm.ts';
import { type NicAttachment } from '../../drivers/driver.ts';
import {
  changeLink,
  createTap,
  deleteLink,
  deriveLinkName,
  findLink,
  listMarkedLinks,
} from '../../host/network/link.ts';
import { formatIp, parseCidr, parseIp } from '../../lib/ip-address.ts';
import { type EventService } from '../event/event-service.ts';
import { type Collection } from '../store/collection.ts';
import { type Log } from '../store/informer.ts';
import { SerialQueues } from '../../lib/serial-queues.ts';
import { describeHostProblem, type NatNetworks, type NetworkMember } from './nat-networks.ts';

export interface NetworkServiceParts {
  networks: Collection<Network>;
  events: EventService;
  log: Log;
  nat: NatNetworks;
  instance: string;
  /** Names of VMs with a NIC on a network. */
  usersOf: (network: Network) => string[];
  /** Told when the leases of a network have changed: address by MAC address. */
  onLeases: (leases: ReadonlyMap<string, string>) => Promise<void>;
}

const reconcileMs = 20_000;
const leaseMs = 2000;
const queueKey = 'networks';

export function initialNetworkStatus(): NetworkStatus {
  return {
    state: 'pending',
    reason: 'It is being created.',
    problems: [],
    bridge: null,
    ipv4Cidr: null,
    gateway: null,
    dhcpRange: null,
    leaseCount: 0,
    usedBy: [],
  };
}

export class NetworkService {
  readonly #parts: NetworkServiceParts;
  readonly #queue = new SerialQueues();
  /** Who is on each network, by VM id: reservations and names. */
  readonly #members = new Map<string, Map<string, NetworkMember[]>>();
  readonly #timers: NodeJS.Timeout[] = [];
  #lastLeases = '';

  constructor(parts: NetworkServiceParts) {
    this.#parts = parts;
  }

  get(id: string): Network | null {
    return this.#parts.networks.get(id);
  }

  require(project: string, reference: string): Network {
    return this.#parts.networks.require(project, reference);
  }

  all(): IterableIterator<Network> {
    return this.#parts.networks.all();
  }

  /** Makes the default network if there is none yet, and begins to keep all networks as they should be. */
  async start(): Promise<void> {
    if (!this.#parts.networks.byName('default', 'default')) {
      const spec: NetworkSpec = {
        description: 'Made by Lodge: guests reach the world through this host, and each other by name.',
        mode: 'nat',
        dhcp: { isEnabled: true, leaseTimeS: 43_200 },
        dnsDomain: 'lodge.internal',
        mtu: 1500,
      };
      await this.#parts.networks.create({ name: 'default', project: 'default', labels: {}, spec });
    }
    await this.reconcile();
    this.#timers.push(
      setInterval(() => void this.reconcile(), reconcileMs).unref(),
      setInterval(() => void this.#readLeases(), leaseMs).unref(),
    );
  }

  async close(): Promise<void> {
    for (const timer of this.#timers) clearInterval(timer);
    await this.#queue.run(queueKey, async () => {});
  }

  async create(given: Pick<Network, 'name' | 'project' | 'labels' | 'spec'>): Promise<Network> {
    this.#check(given.spec);
    return this.#queue.run(queueKey, async () => {
      if (given.spec.bridge) this.#requireFreeBridge(given.spec.bridge, null);
      const created = await this.#parts.networks.create(given);
      try {
        return await this.#ensure(created, false);
      } catch (error) {
        await this.#parts.networks.delete(created.id).catch(() => {});
        await this.#parts.nat
          .remove(created)
          .catch((cause: unknown) =>
            this.#parts.log.warn({ err: cause }, 'a network that could not be made was not fully removed'),
          );
        throw describeHostProblem(error, 'spec');
      }
    });
  }

  async update(
    network: Network,
    change: { revision?: number | undefined; labels?: Record<string, string> | undefined; spec: NetworkSpec },
  ): Promise<Network> {
    this.#check(change.spec);
    const isMoved = (['mode', 'ipv4Cidr', 'bridge'] as const).find(
      (field) => change.spec[field] !== network.spec[field],
    );
    const users = this.#parts.usersOf(network);
    if (isMoved && users.length > 0) {
      throw new LodgeError(
        'in_use',
        `spec.${isMoved} of network ${network.name} can not change while ${users.join(', ')} use it.`,
        { hint: 'Take these VMs off the network first, or make another network.' },
      );
    }
    return this.#queue.run(queueKey, async () => {
      const updated = await this.#parts.networks.update(network.id, change.revision, (draft) => {
        draft.spec = change.spec;
        if (change.labels) draft.labels = change.labels;
      });
      if (isMoved) {
        await this.#parts.nat.remove(network);
        await this.#parts.networks.setStatus(network.id, initialNetworkStatus());
      }
      try {
        return await this.#ensure(this.#parts.networks.get(updated.id) ?? updated, false);
      } catch (error) {
        // What was asked for can't be: the network goes back to what it was.
        await this.#parts.networks.update(network.id, undefined, (draft) => {
          draft.spec = network.spec;
        });
        await this.#parts.networks.setStatus(network.id, network.status);
        await this.#ensure(network, false).catch((cause: unknown) =>
          this.#parts.log.error(
            { err: cause, network: network.name },
            'a network could not be brought back to what it was',
          ),
        );
        throw describeHostProblem(error, 'spec');
      }
    });
  }

  async delete(network: Network): Promise<Network> {
    const users = this.#parts.usersOf(network);
    if (users.length > 0) {
      throw new LodgeError('in_use', `Network ${network.name} is used by ${users.join(', ')}.`, {
        hint: 'Delete these VMs or take them off the network first.',
      });
    }
    return this.#queue.run(queueKey, async () => {
      await this.#parts.networks.setStatus(network.id, (status) => ({
        ...status,
        state: 'deleting',
        reason: 'It is being deleted.',
      }));
      try {
        await this.#parts.nat.remove(network);
      } catch (error) {
        await this.#parts.networks.setStatus(network.id, network.status);
        throw describeHostProblem(error, 'spec');
      }
      const deleted = await this.#parts.networks.delete(network.id);
      this.#members.delete(network.id);
      await this.#parts.nat.ensureFirewall([...this.#parts.networks.all()]);
      return deleted;
    });
  }

  /** What the networks know of a VM's NICs: names and reservations. Replaces what was known; no NICs forgets the VM. */
  async setMembers(vm: Pick<Vm, 'id' | 'name' | 'project' | 'spec' | 'status'>, isGone = false): Promise<void> {
    const touched = new Set<string>();
    for (const [networkId, byVm] of this.#members) if (byVm.delete(vm.id)) touched.add(networkId);
    if (!isGone) {
      for (const [index, nic] of vm.spec.nics.entries()) {
        const network = this.#parts.networks.find(vm.project, nic.network);
        const mac = vm.status.nics[index]?.mac;
        if (!network || !mac) continue;
        const byVm = this.#members.get(network.id) ?? new Map<string, NetworkMember[]>();
        // The name belongs to the first NIC on the network; a second one there has only its address.
        const isFirst = !byVm.get(vm.id)?.length;
        byVm.set(vm.id, [
          ...(byVm.get(vm.id) ?? []),
          { mac, hostname: isFirst ? vm.name : null, ipv4Address: nic.ipv4Address ?? null, vm: vm.name },
        ]);
        this.#members.set(network.id, byVm);
        touched.add(network.id);
      }
    }
    await this.#queue.run(queueKey, async () => {
      for (const id of touched) {
        const network = this.#parts.networks.get(id);
        if (network?.status.state === 'ready' || network?.status.state === 'degraded') {
          await this.#parts.nat.refreshMembers(network, this.#membersOf(id)).catch((error: unknown) => {
            throw describeHostProblem(error, 'spec.nics');
          });
        }
      }
      await this.#showUsers();
    });
  }

  /** As {@link setMembers} for many VMs, before the networks are first brought up. */
  loadMembers(vms: Iterable<Vm>): void {
    for (const vm of vms) {
      for (const [index, nic] of vm.spec.nics.entries()) {
        const network = this.#parts.networks.find(vm.project, nic.network);
        const mac = vm.status.nics[index]?.mac;
        if (!network || !mac) continue;
        const byVm = this.#members.get(network.id) ?? new Map<string, NetworkMember[]>();
        byVm.set(vm.id, [
          ...(byVm.get(vm.id) ?? []),
          {
            mac,
            hostname: byVm.get(vm.id)?.length ? null : vm.name,
            ipv4Address: nic.ipv4Address ?? null,
            vm: vm.name,
          },
        ]);
        this.#members.set(network.id, byVm);
      }
    }
  }

  /** Refuses a reserved address that the network can't give to this VM. */
  checkReservation(network: Network, vmId: string | null, field: string, address: string): void {
    if (network.spec.mode !== 'nat')
      throw invalidField(
        field,
        `network ${network.name} is in mode ${network.spec.mode} and has no reservations`,
        address,
      );
    const cidr = network.status.ipv4Cidr ? parseCidr(network.status.ipv4Cidr) : null;
    const ip = parseIp(address);
    if (cidr && ip && !isWithin(network.status.ipv4Cidr!, address))
      throw invalidField(field, `is not in ${network.status.ipv4Cidr} of network ${network.name}`, address);
    if (network.status.gateway === address)
      throw invalidField(field, `is the host’s own address on network ${network.name}`, address);
    for (const [owner, members] of this.#members.get(network.id) ?? []) {
      if (owner === vmId) continue;
      const other = members.find((member) => member.ipv4Address === address);
      if (other) throw invalidField(field, `is reserved for VM ${other.vm} already`, address);
    }
  }

  /** Brings the network up if it isn't, and connects a NIC: for a bridge, by a tap made for it. */
  async connect(network: Network, nic: { vm: Vm; index: number; uid: number }): Promise<NicAttachment> {
    const { vm, index, uid } = nic;
    if (network.spec.mode === 'user') {
      return {
        kind: 'user',
        ipv4Cidr: network.spec.ipv4Cidr ?? '10.0.2.0/24',
        dnsDomain: network.spec.dnsDomain,
        hostname: vm.name,
      };
    }
    return this.#queue.run(queueKey, async () => {
      try {
        const ready =
          network.status.state === 'ready' && network.status.bridge ? network : await this.#ensure(network, false);
        const name = this.interfaceName(vm.id, index);
        const existing = await findLink(name);
        if (existing && existing.master !== ready.status.bridge) await deleteLink(name, this.#parts.instance);
        if (!existing || existing.master !== ready.status.bridge) {
          await createTap({
            name,
            mark: { instance: this.#parts.instance, kind: 'tap', id: `${vm.id}:${index}` },
            ownerUid: uid,
            master: ready.status.bridge ?? undefined,
            mtu: network.spec.mtu,
          });
        }
        return { kind: 'tap', hostInterface: name };
      } catch (error) {
        throw describeHostProblem(error, `spec.nics.${index}.network`);
      }
    });
  }

  /** Name of the tap of a VM's NIC; always the same. */
  interfaceName(vmId: string, index: number): string {
    return deriveLinkName('lt', this.#parts.instance, vmId, String(index));
  }

  /** Removes all taps of a VM. */
  async disconnect(vmId: string, count: number): Promise<void> {
    for (let index = 0; index < count; index++) {
      await deleteLink(this.interfaceName(vmId, index), this.#parts.instance).catch((error: unknown) => {
        throw describeHostProblem(error, 'spec.nics');
      });
    }
  }

  /** Removes taps that belong to no VM that exists or runs; for the start of the daemon. */
  async removeStrayTaps(isWanted: (vmId: string) => boolean): Promise<string[]> {
    const removed: string[] = [];
    for (const link of await listMarkedLinks(this.#parts.instance, 'tap')) {
      const vmId = link.mark?.id.split(':')[0];
      if (vmId && !isWanted(vmId) && (await deleteLink(link.name, this.#parts.instance))) removed.push(link.name);
    }
    return removed;
  }

  async leases(network: Network): Promise<Lease[]> {
    if (network.spec.mode !== 'nat') return [];
    const owners = new Map(this.#membersOf(network.id).map((member) => [member.mac, member.vm]));
    const leases = await this.#parts.nat.leases(network);
    return leases.flatMap((lease) =>
      lease.macAddress
        ? [
            {
              address: lease.address,
              mac: lease.macAddress,
              hostname: lease.hostName,
              vm: owners.get(lease.macAddress) ?? null,
              expiresAt: lease.expiresAt?.toISOString() ?? null,
            },
          ]
        : [],
    );
  }

  /** Looks at every network and makes it so again where it isn't. */
  reconcile(): Promise<void> {
    return this.#queue.run(queueKey, async () => {
      for (const network of [...this.#parts.networks.all()]) {
        try {
          await this.#ensure(network, true);
        } catch (error) {
          const problem = describeHostProblem(error, 'spec');
          if (network.status.reason !== problem.message) {
            await this.#parts.events.record({
              type: 'network.failed',
              severity: 'error',
              subject: subjectOf(network),
              message: `Network ${network.name} is not as it should be: ${problem.message}`,
            });
          }
          await this.#parts.networks.setStatus(network.id, (status) => ({
            ...status,
            state: 'failed',
            reason: problem.message,
            problems: [problem.message],
          }));
        }
      }
      await this.#showUsers();
    });
  }

  /** Makes a network as it should be and writes down what it is. Within the queue. */
  async #ensure(network: Network, isRepair: boolean): Promise<Network> {
    if (network.status.state === 'deleting') {
      await this.#parts.nat.remove(network);
      return this.#parts.networks.delete(network.id);
    }
    if (network.spec.mode === 'user') {
      return this.#parts.networks.setStatus(network.id, (status) => ({
        ...status,
        state: 'ready',
        reason: 'It lives in each guest’s own QEMU and needs nothing on the host.',
        ipv4Cidr: network.spec.ipv4Cidr ?? '10.0.2.0/24',
      }));
    }
    const wasReady = network.status.state === 'ready';
    const plan = await this.#parts.nat.plan(network);
    const networks = [...this.#parts.networks.all()].map((other) =>
      other.id === network.id ? { ...other, status: { ...other.status, ...plan.status } } : other,
    );
    const done = await this.#parts.nat.ensure(network, plan, this.#membersOf(network.id), networks);
    if (isRepair && wasReady && done.length > 0) {
      await this.#reattach(network, plan.status.bridge);
      await this.#parts.events.record({
        type: 'network.repaired',
        severity: 'warning',
        subject: subjectOf(network),
        message: `Network ${network.name} was not as it should be and has been repaired: ${done.join('; ')}.`,
        details: { changes: done },
      });
    } else if (done.length > 0) await this.#reattach(network, plan.status.bridge);
    return this.#parts.networks.setStatus(network.id, (status) => ({
      ...status,
      ...plan.status,
      state: 'ready',
      reason: 'Bridge, addresses, packet filter, DHCP and DNS are as they should be.',
      problems: [],
    }));
  }

  /** Puts the taps of running guests back on a bridge that was made anew. */
  async #reattach(network: Network, bridge: string): Promise<void> {
    const mine = new Set(this.#members.get(network.id)?.keys() ?? []);
    for (const link of await listMarkedLinks(this.#parts.instance, 'tap')) {
      const [vmId] = link.mark?.id.split(':') ?? [];
      if (vmId && mine.has(vmId) && link.master === null)
        await changeLink(link.name, { master: bridge, isUp: true }, this.#parts.instance);
    }
  }

  async #readLeases(): Promise<void> {
    try {
      const all = new Map<string, string>();
      for (const network of this.#parts.networks.all()) {
        if (network.spec.mode !== 'nat' || network.status.state !== 'ready') continue;
        const leases = await this.leases(network);
        for (const lease of leases) all.set(lease.mac, lease.address);
        if (leases.length !== network.status.leaseCount)
          await this.#parts.networks.setStatus(network.id, (status) => ({ ...status, leaseCount: leases.length }));
      }
      const text = [...all].join('\n');
      if (text === this.#lastLeases) return;
      this.#lastLeases = text;
      await this.#parts.onLeases(all);
    } catch (error) {
      this.#parts.log.warn({ err: error }, 'the leases of the networks could not be read');
    }
  }

  async #showUsers(): Promise<void> {
    for (const network of [...this.#parts.networks.all()]) {
      const usedBy = this.#parts.usersOf(network);
      if (usedBy.join() !== network.status.usedBy.join())
        await this.#parts.networks.setStatus(network.id, (status) => ({ ...status, usedBy }));
    }
  }

  #membersOf(networkId: string): NetworkMember[] {
    return [...(this.#members.get(networkId)?.values() ?? [])].flat();
  }

  #requireFreeBridge(bridge: string, exceptId: string | null): void {
    for (const other of this.#parts.networks.all()) {
      if (other.id !== exceptId && other.status.bridge === bridge)
        throw new LodgeError('host_conflict', `spec.bridge ${bridge} is the bridge of network ${other.name}.`, {
          hint: 'Choose another name for the bridge, or none: Lodge makes one.',
        });
    }
  }

  #check(spec: NetworkSpec): void {
    if (spec.ipv4Cidr) {
      const cidr = parseCidr(spec.ipv4Cidr);
      if (!cidr || cidr.prefixLength < 8 || cidr.prefixLength > 29)
        throw invalidField('spec.ipv4Cidr', 'is a prefix from /8 to /29', spec.ipv4Cidr);
    }
    const { firstAddress, lastAddress } = spec.dhcp;
    if ((firstAddress === undefined) !== (lastAddress === undefined))
      throw invalidField('spec.dhcp', 'takes firstAddress and lastAddress together', spec.dhcp);
    for (const [field, address] of Object.entries({ firstAddress, lastAddress })) {
      if (!address) continue;
      if (!spec.ipv4Cidr) throw invalidField(`spec.dhcp.${field}`, 'needs spec.ipv4Cidr', address);
      if (!isWithin(spec.ipv4Cidr, address))
        throw invalidField(`spec.dhcp.${field}`, `is not in ${spec.ipv4Cidr}`, address);
    }
    if (spec.mode === 'user' && spec.bridge)
      throw invalidField('spec.bridge', 'is for networks in mode nat', spec.bridge);
  }
}

function subjectOf(network: Network): { kind: 'network'; id: string; name: string; project: string } {
  return { kind: 'network', id: network.id, name: network.name, project: network.project };
}

/** Whether an address lies in a prefix. */
function isWithin(cidr: string, address: string): boolean {
  const block = parseCidr(cidr);
  const ip = parseIp(address);
  if (!block || !ip || ip.family !== block.address.family) return false;
  const bits = BigInt((ip.family === 4 ? 32 : 128) - block.prefixLength);
  return formatIp(ip) !== '' && ip.value >> bits === block.address.value >> bits;
}
