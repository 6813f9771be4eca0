// Forwarded ports as objects ask for them, made so on this node and kept so: by the packet filter for networks that this
// host is the router of, by QEMU itself for those of mode user.
//
//   spec.nics[].forwards ─┐
//   leases, reservations ─┼─▶ plan ─▶ nftables, QEMU's monitor ─▶ status.publishedPorts
//   what runs ────────────┘
//
// Invariants:
// - One pass at a time. It begins from what is there, so that a pass after a crash does what the one before has left.
// - A forward leads to an address that the network has given to the NIC, never to one that the guest claims to have.
// - Ports are refused before they are written; what comes in between (another program takes one) is told in the status.
import { isDeepStrictEqual } from 'node:util';
import { LodgeError } from '../../api/errors.ts';
import { type Network } from '../../api/network.ts';
import { type PortForward, type PublishedPort } from '../../api/port-forward.ts';
import { type Vm } from '../../api/vm.ts';
import { type Guest, type UserForward } from '../../drivers/driver.ts';
import { type DhcpLease } from '../../host/network/dnsmasq-config.ts';
import { listListeners, type Listener } from '../../host/network/listeners.ts';
import { ensureForwards, type ForwardedNetwork, type NatForward } from '../../host/network/port-forwards.ts';
import { Passes } from '../../lib/passes.ts';
import { type EventService } from '../event/event-service.ts';
import { type Log } from '../store/informer.ts';
import { isSamePort, rangeOf, requireFreeForwards, requireForwards, requireUnlistened } from './forward-refusals.ts';
import { describeHostProblem } from './host-problem.ts';
import { type NetworkModes } from './network-modes.ts';
import { isRouterOf } from './router-networks.ts';

export interface PortForwardsParts {
  modes: NetworkModes;
  /** All networks of the node. */
  networks: () => Iterable<Network>;
  vms: {
    all: () => Iterable<Vm>;
    get: (id: string) => Vm | null;
    onChange: (listener: (change: { object: Vm; previous: Vm | null }) => void) => () => void;
  };
  /** Addresses of a VM's NICs, those too that it gets at its next start. */
  macsOf: (vm: Vm) => string[];
  setPublished: (id: string, ports: PublishedPort[]) => Promise<unknown>;
  guest: (id: string) => Guest | null;
  events: EventService;
  log: Log;
  /** How often all of it is looked at, milliseconds. */
  checkIntervalMs: number;
  /** For tests. */
  listeners?: () => Promise<Listener[]>;
}

/** How often leases are looked at while a guest has forwards. */
const leaseMs = 2000;

/** A forward with where it is to lead now. */
interface Planned {
  vm: Vm;
  network: Network | null;
  forward: PortForward;
  published: PublishedPort;
}

export class PortForwards {
  readonly #parts: PortForwardsParts;
  readonly #passes = new Passes(() => this.#pass());
  /** Forwards into networks inside QEMU that stand for as long as somebody is connected, by the NIC's address. */
  readonly #held = new Map<string, Set<UserForward>>();
  #timer: NodeJS.Timeout | null = null;
  #stopFollowing: (() => void) | null = null;
  /** What was asked for at the last whole look, and when that was. */
  #last = { text: '', atMs: -Infinity };

  constructor(parts: PortForwardsParts) {
    this.#parts = parts;
  }

  /** Makes all forwards so, and begins to keep them so. */
  async start(): Promise<void> {
    this.#stopFollowing = this.#parts.vms.onChange(({ object, previous }) => {
      if (hasForwards(object) || (previous && hasForwards(previous))) this.#passes.plan();
    });
    await this.settle();
    if (this.#passes.isClosed) return;
    this.#timer = setInterval(() => {
      const isDue = performance.now() - this.#last.atMs > this.#parts.checkIntervalMs;
      if (isDue || [...this.#parts.vms.all()].some((vm) => isUp(vm) && hasForwards(vm))) this.#passes.plan();
    }, leaseMs).unref();
  }

  async close(): Promise<void> {
    const closed = this.#passes.close();
    if (this.#timer) clearInterval(this.#timer);
    this.#stopFollowing?.();
    await closed;
  }

  /** Refuses forwards that can't be, but for what others may take meanwhile. */
  checkReferences(
    vm: Pick<Vm, 'project' | 'spec'> & { id: string | null },
    networkAt: (index: number) => Network,
  ): void {
    for (const [index, nic] of vm.spec.nics.entries())
      if (nic.forwards) requireForwards(networkAt(index), nic, `spec.nics.${index}`);
    requireFreeForwards(vm, this.#parts.vms.all());
  }

  /** Refuses ports that programs of the node listen on. */
  async checkListeners(vm: Pick<Vm, 'spec'> & { id: string | null }): Promise<void> {
    if (!vm.spec.nics.some(({ forwards = [] }) => forwards.length > 0)) return;
    const before = vm.id === null ? null : this.#parts.vms.get(vm.id);
    const listeners = await (this.#parts.listeners ?? listListeners)().catch((error: unknown) => {
      throw describeHostProblem(error, 'spec.nics');
    });
    requireUnlistened(vm, before, listeners, { pid: process.pid });
  }

  /**
   * Where a NIC is reached from this host: what its network has given it. On networks that Lodge gives no addresses on, what
   * the guest tells; on those of mode user, nowhere.
   */
  async addressesOf(network: Network, vm: Vm, nic: Vm['status']['nics'][number]): Promise<string[]> {
    if (network.spec.mode === 'user' || network.spec.mode === 'macvtap') return [];
    if (!isRouterOf(network)) return nic.addresses;
    const macs = this.#parts.macsOf(vm);
    const asked = vm.spec.nics.find((_one, index) => macs[index] === nic.mac);
    const leases = this.#parts.modes.of(network.spec.mode).leases(network);
    return this.#addressesOf(network, asked ?? {}, nic.mac, () => leases);
  }

  /** Resolves when what the VMs ask for now is made. Doesn't reject: what failed stands in their status. */
  settle(): Promise<void> {
    return this.#passes.settle();
  }

  /**
   * Has a port of 127.0.0.1 lead to a port of a NIC on a network inside QEMU, until `release` is called.
   * Throws `host_conflict` where no port can be had.
   */
  async hold(
    guest: Guest,
    mac: string,
    guestPort: number,
    freePort: () => Promise<number>,
  ): Promise<{ port: number; release: () => Promise<void> }> {
    for (let left = 5; ; left--) {
      const forward: UserForward = { protocol: 'tcp', hostAddress: '127.0.0.1', hostPort: await freePort(), guestPort };
      const held = this.#held.get(mac) ?? new Set();
      this.#held.set(mac, held);
      held.add(forward);
      const release = async (): Promise<void> => {
        held.delete(forward);
        if (held.size === 0 && this.#held.get(mac) === held) this.#held.delete(mac);
        await guest.devices.removeForward(mac, forward);
      };
      try {
        await guest.devices.addForward(mac, forward);
        return { port: forward.hostPort, release };
      } catch (error) {
        held.delete(forward);
        // Somebody took the port in between.
        if (left === 1 || !(error instanceof LodgeError) || error.code !== 'host_conflict') throw error;
      }
    }
  }

  async #pass(): Promise<void> {
    const planned = await this.#planned();
    const text = JSON.stringify(planned.map(({ vm, published }) => [vm.id, vm.status.pid, published]));
    const isDue = performance.now() - this.#last.atMs > this.#parts.checkIntervalMs;
    if (text !== this.#last.text || isDue) {
      const isRepair = text === this.#last.text;
      const isWhole = (await this.#makeNat(planned, isRepair)) && (await this.#makeUser(planned));
      // What failed is tried again at the next look.
      this.#last = { text: isWhole ? text : '', atMs: performance.now() };
    }
    await this.#show(planned);
  }

  async #planned(): Promise<Planned[]> {
    const { modes, vms, macsOf } = this.#parts;
    const networks = new Map<string, Network>();
    for (const network of this.#parts.networks())
      for (const reference of [network.id, network.name]) networks.set(`${network.project}/${reference}`, network);
    const leases = new Map<string, Promise<DhcpLease[]>>();
    const leasesOf = (network: Network): Promise<DhcpLease[]> => {
      const known = leases.get(network.id) ?? modes.of(network.spec.mode).leases(network);
      leases.set(network.id, known);
      return known;
    };
    const planned: Planned[] = [];
    // Of two that ask for one port, which a reverted snapshot can lead to, the older one has it.
    for (const vm of [...vms.all()].filter(hasForwards).sort((one, other) => (one.id < other.id ? -1 : 1))) {
      const macs = macsOf(vm);
      for (const [index, nic] of vm.spec.nics.entries()) {
        const network = networks.get(`${vm.project}/${nic.network}`) ?? null;
        const mac = macs[index] ?? '';
        const addresses = network ? await this.#addressesOf(network, nic, mac, leasesOf) : [];
        for (const forward of nic.forwards ?? []) {
          const range = rangeOf(forward);
          const rival = planned.find((other) => isSamePort(rangeOf(other.forward), range));
          const isHere = isUp(vm) && vm.status.nics.some((one) => one.mac === mac && one.network === nic.network);
          const guestAddresses = addresses.filter(
            (one) => range.family === null || one.includes(':') === (range.family === 6),
          );
          const [state, reason] = rival
            ? (['failed', `VM ${rival.vm.name} has this port.`] as const)
            : !isHere
              ? (['waiting', isUp(vm) ? 'The NIC is not attached yet.' : 'The VM is not up.'] as const)
              : guestAddresses.length === 0
                ? (['waiting', 'The guest has asked for no address yet.'] as const)
                : (['active', 'It leads to the guest.'] as const);
          planned.push({
            vm,
            network,
            forward,
            published: {
              mac,
              protocol: range.protocol,
              listenAddress: forward.listenAddress ?? null,
              port: range.first,
              lastPort: forward.lastPort ?? null,
              guestAddresses: state === 'active' ? guestAddresses : [],
              guestPort: range.guestPort,
              state,
              reason,
            },
          });
        }
      }
    }
    return planned;
  }

  /** What the network has given to a NIC, or gives it whenever it asks. */
  async #addressesOf(
    network: Network,
    nic: Pick<Vm['spec']['nics'][number], 'ipv4Address' | 'ipv6Address'>,
    mac: string,
    leasesOf: (network: Network) => Promise<DhcpLease[]>,
  ): Promise<string[]> {
    if (network.spec.mode === 'user') return ['(inside QEMU)'];
    const leased = (await leasesOf(network)).filter(({ macAddress }) => macAddress === mac);
    const ofFamily = (family: 4 | 6): string | undefined => leased.find((lease) => lease.family === family)?.address;
    const found = [nic.ipv4Address ?? ofFamily(4), nic.ipv6Address ?? ofFamily(6)];
    return found.filter((address) => address !== undefined);
  }

  /** False: it could not be made, which the entries say. */
  async #makeNat(planned: readonly Planned[], isRepair: boolean): Promise<boolean> {
    const { modes, events, log } = this.#parts;
    const mine = planned.filter(({ network }) => network !== null && isRouterOf(network));
    const active = mine.filter(({ published }) => published.state === 'active');
    const forwards = active.flatMap(({ vm, forward, published }): NatForward[] => {
      const range = rangeOf(forward);
      return published.guestAddresses.map((guestAddress) => ({
        label: vm.name,
        protocol: range.protocol,
        listenAddress: range.address,
        firstPort: range.first,
        lastPort: range.last,
        guestAddress,
        guestPort: range.guestPort,
      }));
    });
    const used = new Map<string, ForwardedNetwork>();
    for (const { network } of active) {
      const { bridge, ipv4Cidr, ipv6Cidr } = network?.status ?? {};
      if (bridge)
        used.set(bridge, {
          bridgeName: bridge,
          cidrs: [ipv4Cidr, ipv6Cidr].filter((cidr) => typeof cidr === 'string'),
        });
    }
    const bridges = [...this.#parts.networks()].flatMap((network) =>
      isRouterOf(network) && network.status.bridge ? [network.status.bridge] : [],
    );
    try {
      const changed = await ensureForwards(modes.instance, [...used.values()], forwards, bridges);
      const [first] = active;
      if (isRepair && changed.length > 0 && first?.network) {
        const { id, name, project } = first.network;
        await events.record({
          type: 'network.repaired',
          severity: 'warning',
          subject: { kind: 'network', id, name, project },
          message: `Forwarded ports were not as they should be and have been repaired: ${changed.join('; ')}.`,
          details: { changes: changed },
        });
      }
      return true;
    } catch (error) {
      log.warn({ err: error }, 'forwarded ports could not be set');
      const { message } = describeHostProblem(error, 'spec.nics');
      for (const { published } of active) fail(published, message);
      return false;
    }
  }

  /** Asks each guest that has, or may have had, forwards into a network inside its QEMU. */
  async #makeUser(planned: readonly Planned[]): Promise<boolean> {
    const { guest: guestOf, log } = this.#parts;
    const users = new Set(
      [...this.#parts.networks()]
        .filter(({ spec }) => spec.mode === 'user')
        .flatMap(({ id, name, project }) => [`${project}/${id}`, `${project}/${name}`]),
    );
    let isWhole = true;
    for (const vm of users.size === 0 ? [] : [...this.#parts.vms.all()]) {
      const guest = isUp(vm) ? guestOf(vm.id) : null;
      if (!guest) continue;
      for (const { mac, network } of vm.status.nics) {
        if (!users.has(`${vm.project}/${network}`)) continue;
        const mine = planned.filter(
          (one) => one.vm.id === vm.id && one.published.mac === mac && one.published.state === 'active',
        );
        isWhole =
          (await this.#makeUserNic(guest, mac, mine).catch((error: unknown) => {
            // It may be ending at this moment.
            log.warn({ err: error, vm: vm.name }, 'forwarded ports of a guest could not be set');
            for (const { published } of mine)
              fail(published, error instanceof LodgeError ? error.message : 'QEMU could not be asked.');
            return false;
          })) && isWhole;
      }
    }
    return isWhole;
  }

  async #makeUserNic(guest: Guest, mac: string, planned: readonly Planned[]): Promise<boolean> {
    const wanted = new Map(planned.map((one) => [one, userForwardsOf(one.forward)] as const));
    const kept = [...[...wanted.values()].flat(), ...(this.#held.get(mac) ?? [])];
    const isKept = (one: UserForward): boolean => kept.some((other) => isDeepStrictEqual({ ...one }, { ...other }));
    for (const one of await guest.devices.forwards(mac)) if (!isKept(one)) await guest.devices.removeForward(mac, one);
    let isWhole = true;
    for (const [{ published }, forwards] of wanted) {
      try {
        for (const forward of forwards) await guest.devices.addForward(mac, forward);
      } catch (error) {
        isWhole = false;
        fail(published, error instanceof LodgeError ? error.message : 'QEMU could not be asked.');
      }
    }
    return isWhole;
  }

  async #show(planned: readonly Planned[]): Promise<void> {
    for (const vm of [...this.#parts.vms.all()]) {
      const ports = planned
        .filter((one) => one.vm.id === vm.id)
        .map(({ published }) => ({
          ...published,
          guestAddresses: published.guestAddresses.filter((address) => !address.startsWith('(')),
        }));
      if (isDeepStrictEqual(ports, vm.status.publishedPorts ?? [])) continue;
      // It may have been deleted meanwhile.
      if (this.#parts.vms.get(vm.id))
        await this.#parts
          .setPublished(vm.id, ports)
          .catch((error: unknown) =>
            this.#parts.log.warn({ err: error, vm: vm.name }, 'published ports could not be shown'),
          );
    }
  }
}

function fail(published: PublishedPort, reason: string): void {
  published.state = 'failed';
  published.reason = reason;
}

function hasForwards({ spec, status }: Vm): boolean {
  return spec.nics.some(({ forwards = [] }) => forwards.length > 0) || (status.publishedPorts ?? []).length > 0;
}

/** Whether its guest exists, with its NICs connected. */
function isUp({ status }: Vm): boolean {
  return status.state === 'running' || status.state === 'paused';
}

function userForwardsOf(forward: PortForward): UserForward[] {
  const { protocol, address: hostAddress, first, last, guestPort } = rangeOf(forward);
  return Array.from({ length: last - first + 1 }, (_, index) => ({
    protocol,
    hostAddress,
    hostPort: first + index,
    guestPort: guestPort + index,
  }));
}
