// Networks that this host is the router of (modes nat, routed and isolated): from the object to the host's bridge,
// addresses, packet filter, DHCP and DNS. What runs lies in src/host/network.
import { createHash } from 'node:crypto';
import { readdir } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { type Network, type NetworkModeName, type NetworkSpec, type NetworkStatus } from '../../api/network.ts';
import { maxNicQueues } from '../../api/vm-spec.ts';
import { type NicAttachment } from '../../drivers/driver.ts';
import { type DhcpLease, type DhcpReservation } from '../../host/network/dnsmasq-config.ts';
import { listDnsmasqs, readLeases, removeDnsmasq } from '../../host/network/dnsmasq.ts';
import { ensureFirewall, type FirewallNetwork, type NetworkReach } from '../../host/network/firewall.ts';
import { ensureForwarding } from '../../host/network/forwarding.ts';
import { deleteLink, deriveLinkName, listMarkedLinks } from '../../host/network/link.ts';
import {
  defaultDhcpAddresses,
  dnsmasqFolder,
  ensureAddresses,
  ensureBridge,
  ensureNatDnsmasq,
  familiesOf,
  firewallNetworkOf,
  removeBridge,
  removeNatDnsmasq,
  type NatNetworkDefinition,
  type NatNetworkMembers,
} from '../../host/network/nat-network.ts';
import { defaultSubnets, listUsedSubnets, pickFreeSubnet } from '../../host/network/subnet.ts';
import { listUplinks } from '../../host/network/uplink.ts';
import { boundsOf, compareIp, formatCidr, isInside, networkOf, parseCidr, parseIp } from '../../lib/ip-address.ts';
import { type NetworkMember } from './network-members.ts';
import { type NetworkMode, type NicPlace, type PlannedStatus } from './network-mode.ts';
import { type NetworkTaps } from './network-taps.ts';

export class RouterNetworks implements NetworkMode {
  readonly readiness = 'Bridge, addresses, packet filter, DHCP and DNS are as they should be.';
  readonly mostQueues = maxNicQueues;
  readonly #instance: string;
  /** Folder of the files of the networks' dnsmasq processes. */
  readonly #runtimeFolder: string;
  readonly #taps: NetworkTaps;

  constructor(instance: string, runtimeFolder: string, taps: NetworkTaps) {
    this.#instance = instance;
    this.#runtimeFolder = runtimeFolder;
    this.#taps = taps;
  }

  /** Picks a prefix that no other network has, up or not, where the network has none yet. */
  async plan(network: Network, networks: Iterable<Network>): Promise<PlannedStatus> {
    const own = ipv4CidrOf(network);
    if (own !== null || !hasHost(network)) return this.#plannedWith(network, own);
    const others = [...networks].flatMap((other) => {
      const cidr = ipv4CidrOf(other);
      return other.id === network.id || !isRouterOf(other) || cidr === null ? [] : [{ cidr, link: null }];
    });
    return this.#plannedWith(network, pickFreeSubnet(defaultSubnets, [...others, ...(await listUsedSubnets())]));
  }

  async ensure(network: Network, members: readonly NetworkMember[], networks: readonly Network[]): Promise<string[]> {
    const definition = this.#define(network);
    const done = [...(await ensureBridge(definition)), ...(await ensureAddresses(definition))];
    const forwarding = await ensureForwarding(familiesOf(definition));
    done.push(...forwarding.map(({ key, before, after }) => `${key} was ${before}, is ${after}`));
    done.push(...(await this.ensureFirewall(networks)));
    if (hasDhcp(network)) {
      const dnsmasq = await ensureNatDnsmasq(definition, membersOf(definition, members), this.#runtimeFolder);
      if (dnsmasq) done.push(`dnsmasq was ${dnsmasq}`);
    } else if (await removeNatDnsmasq(definition, this.#runtimeFolder)) done.push('dnsmasq was stopped');
    return done;
  }

  /** Others have to be told the way to a routed network: by this host's address on their side. */
  async observe(network: Network): Promise<Pick<NetworkStatus, 'routes'>> {
    if (network.spec.mode !== 'routed') return { routes: [] };
    const uplinks = await listUplinks();
    const { ipv4Cidr, ipv6Cidr } = network.status;
    const routes = [[4, ipv4Cidr] as const, [6, ipv6Cidr] as const].flatMap(([family, destination]) => {
      const via = uplinks.find((uplink) => uplink.family === family)?.address;
      return destination !== null && via ? [{ destination, via }] : [];
    });
    return { routes };
  }

  async connect(network: Network, nic: NicPlace): Promise<NicAttachment | null> {
    const { bridge } = network.status;
    if (bridge === null || !(await this.#taps.make({ ...nic, mtu: network.spec.mtu }, bridge))) return null;
    return { kind: 'tap', hostInterface: this.#taps.nameOf(nic.vmId, nic.mac) };
  }

  hostInterface(vmId: string, mac: string): string {
    return this.#taps.nameOf(vmId, mac);
  }

  /** The packet filter for all networks of the instance that this host is the router of. */
  ensureFirewall(networks: readonly Network[]): Promise<string[]> {
    const wanted: FirewallNetwork[] = networks
      .filter((network) => isRouterOf(network) && network.status.state !== 'deleting')
      .flatMap((network) =>
        ipv4CidrOf(network) !== null || !hasHost(network) ? [firewallNetworkOf(this.#define(network))] : [],
      );
    return ensureFirewall(this.#instance, wanted);
  }

  async refreshMembers(network: Network, members: readonly NetworkMember[]): Promise<void> {
    if (!hasDhcp(network)) return;
    const definition = this.#define(network);
    await ensureNatDnsmasq(definition, membersOf(definition, members), this.#runtimeFolder);
  }

  leases(network: Network): Promise<DhcpLease[]> {
    return readLeases(dnsmasqFolder(network, this.#runtimeFolder));
  }

  async remove(network: Network): Promise<void> {
    await removeNatDnsmasq(network, this.#runtimeFolder);
    await removeBridge({ instance: this.#instance, id: network.id, bridgeName: this.#bridgeName(network) });
  }

  /** Bridges and DHCP servers of networks that are not, or not any more, like this. */
  async removeStrays(networks: readonly Network[]): Promise<string[]> {
    const wanted = new Map<string, string>();
    for (const network of networks) if (isRouterOf(network)) wanted.set(network.id, this.#bridgeName(network));
    const removed: string[] = [];
    for (const link of await listMarkedLinks(this.#instance, 'bridge')) {
      if (wanted.get(link.mark?.id ?? '') === link.name) continue;
      if (await deleteLink(link.name, this.#instance)) removed.push(`the bridge ${link.name}`);
    }
    const folders = new Set((await listDnsmasqs(this.#runtimeFolder)).map(({ folder }) => folder));
    for (const id of await readdir(this.#runtimeFolder)) folders.add(join(this.#runtimeFolder, id));
    for (const folder of folders) {
      const id = dirname(folder) === this.#runtimeFolder ? folder.slice(this.#runtimeFolder.length + 1) : '';
      if (wanted.has(id)) continue;
      await removeDnsmasq(folder);
      removed.push(`the DHCP server in ${folder}`);
    }
    return removed;
  }

  #bridgeName(network: Network): string {
    if (network.spec.bridge) return network.spec.bridge;
    return network.status.bridge ?? deriveLinkName('lb', this.#instance, network.id);
  }

  #define(network: Network): NatNetworkDefinition {
    return this.#defineWith(network, ipv4CidrOf(network));
  }

  #defineWith(network: Network, ipv4Cidr: string | null): NatNetworkDefinition {
    const { spec } = network;
    const addresses = hasHost(network) && ipv4Cidr !== null ? defaultDhcpAddresses(ipv4Cidr) : null;
    const ipv6Cidr = hasHost(network) ? ipv6CidrOf(network) : null;
    return {
      instance: this.#instance,
      id: network.id,
      bridgeName: this.#bridgeName(network),
      mtu: spec.mtu,
      ipv4: addresses && {
        ...addresses,
        rangeFirst: spec.dhcp.firstAddress ?? addresses.rangeFirst,
        rangeLast: spec.dhcp.lastAddress ?? addresses.rangeLast,
      },
      ipv6: ipv6Cidr === null ? null : defaultDhcpAddresses(ipv6Cidr),
      domain: spec.dnsDomain,
      leaseSeconds: spec.dhcp.leaseTimeS,
      boot: spec.boot,
      reach: reaches[spec.mode] ?? 'none',
      ...(spec.dnsServers ? { upstreamServers: spec.dnsServers } : {}),
      ...(hasHost(network) ? {} : { hostAccess: 'none' }),
    };
  }

  #plannedWith(network: Network, ipv4Cidr: string | null): PlannedStatus {
    const { bridgeName, ipv4, ipv6 } = this.#defineWith(network, ipv4Cidr);
    const addressOf = (cidr: string | undefined): string | null => cidr?.split('/')[0] ?? null;
    const blockOf = (cidr: string | undefined): string | null => {
      const parsed = cidr === undefined ? null : parseCidr(cidr);
      return parsed && formatCidr(networkOf(parsed));
    };
    return {
      bridge: bridgeName,
      ipv4Cidr: blockOf(ipv4?.cidr),
      ipv6Cidr: blockOf(ipv6?.cidr),
      gateway: addressOf(ipv4?.cidr),
      ipv6Gateway: addressOf(ipv6?.cidr),
      dhcpRange: ipv4 && hasDhcp(network) ? { first: ipv4.rangeFirst, last: ipv4.rangeLast } : null,
    };
  }
}

/** Modes of networks that this host is the router of, and where their guests reach. */
const reaches: Partial<Record<NetworkModeName, NetworkReach>> = { nat: 'nat', routed: 'routed', isolated: 'none' };

/** Whether this host is the router of a network, or its guests have none. */
export function isRouterOf({ spec }: { spec: Pick<NetworkSpec, 'mode'> }): boolean {
  return reaches[spec.mode] !== undefined;
}

/** Whether the host has an address on a network of its own. */
function hasHost({ spec }: Network): boolean {
  return spec.mode !== 'isolated' || spec.hasHost;
}

export function hasDhcp(network: Network): boolean {
  return isRouterOf(network) && hasHost(network) && network.spec.dhcp.isEnabled;
}

function ipv4CidrOf({ spec, status }: Network): string | null {
  return spec.ipv4Cidr ?? status.ipv4Cidr;
}

/** “auto” is a prefix of RFC 4193 that nobody else has: 40 bits of the network's id, which is never used again. */
function ipv6CidrOf({ id, spec }: Network): string | null {
  if (spec.ipv6Cidr !== 'auto') return spec.ipv6Cidr ?? null;
  const digits = createHash('sha256').update(id).digest('hex');
  const cidr = parseCidr(`fd${digits.slice(0, 2)}:${digits.slice(2, 6)}:${digits.slice(6, 10)}::/64`);
  return cidr && formatCidr(cidr);
}

/** What the DHCP server is told of the members: each address and name once, and only addresses it can give. */
function membersOf(definition: NatNetworkDefinition, members: readonly NetworkMember[]): NatNetworkMembers {
  const seen = new Set<string>();
  const isFirst = (value: string): boolean => seen.size !== seen.add(value).size;
  const usable = (text: string | null, network: NatNetworkDefinition['ipv4']): string | null =>
    text !== null && network !== null && isGivable(text, network.cidr) && isFirst(text) ? text : null;
  const reservations = members.flatMap(({ mac, hostname, ipv4Address, ipv6Address }): DhcpReservation[] => {
    if (!isFirst(mac)) return [];
    const [ipv4, ipv6] = [usable(ipv4Address, definition.ipv4), usable(ipv6Address, definition.ipv6)];
    return [
      {
        macAddress: mac,
        ...(hostname !== null && isFirst(hostname) ? { hostName: hostname } : {}),
        ...(ipv4 === null ? {} : { ipv4 }),
        ...(ipv6 === null ? {} : { ipv6 }),
      },
    ];
  });
  return { reservations, records: [] };
}

/** A network whose prefix was changed may have reservations of the old one; they count for nothing. */
function isGivable(text: string, routerCidr: string): boolean {
  const [address, cidr] = [parseIp(text), parseCidr(routerCidr)];
  if (!address || !cidr || !isInside(address, cidr)) return false;
  const { first, last } = boundsOf(cidr);
  const taken = address.family === 4 ? [cidr.address, first, last] : [cidr.address, first];
  return taken.every((one) => compareIp(one, address) !== 0);
}
