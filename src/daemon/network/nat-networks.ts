// Networks of mode nat on this node: from the object to the host's bridge, addresses, packet filter, DHCP and DNS, and
// from the host's errors to Lodge's. What runs on the host lies in src/host/network.
import { readdir } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { LodgeError } from '../../api/errors.ts';
import { type Network, type NetworkStatus } from '../../api/network.ts';
import { CommandError } from '../../host/command.ts';
import { DnsmasqDefinitionError, type DhcpLease, type DhcpReservation } from '../../host/network/dnsmasq-config.ts';
import { DnsmasqError, listDnsmasqs, readLeases, removeDnsmasq } from '../../host/network/dnsmasq.ts';
import { ensureFirewall, type FirewallNetwork } from '../../host/network/firewall.ts';
import { ensureForwarding, SysctlMissingError } from '../../host/network/forwarding.ts';
import { deleteLink, deriveLinkName, LinkError, listMarkedLinks } from '../../host/network/link.ts';
import { NftablesError } from '../../host/network/nftables.ts';
import {
  BridgeInUseError,
  BridgeNameTakenError,
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
import {
  defaultSubnets,
  listUsedSubnets,
  NoFreeSubnetError,
  pickFreeSubnet,
  SubnetOverlapError,
} from '../../host/network/subnet.ts';
import { boundsOf, compareIp, formatCidr, isInside, networkOf, parseCidr, parseIp } from '../../lib/ip-address.ts';
import { type NetworkMember } from './network-members.ts';

export interface NatPlan {
  definition: NatNetworkDefinition;
  status: Pick<NetworkStatus, 'ipv4Cidr' | 'gateway' | 'dhcpRange'> & { bridge: string };
}

export class NatNetworks {
  readonly #instance: string;
  /** Folder of the files of the networks' dnsmasq processes. */
  readonly #runtimeFolder: string;

  constructor(instance: string, runtimeFolder: string) {
    this.#instance = instance;
    this.#runtimeFolder = runtimeFolder;
  }

  /** What a network is to be on this host; picks a prefix that no other network has, up or not, if it has none yet. */
  async plan(network: Network, networks: Iterable<Network>): Promise<NatPlan> {
    const own = network.spec.ipv4Cidr ?? network.status.ipv4Cidr;
    if (own !== null) return this.#planWith(network, own);
    const others = [...networks].flatMap((other) => {
      const cidr = other.spec.ipv4Cidr ?? other.status.ipv4Cidr;
      return other.id === network.id || other.spec.mode !== 'nat' || cidr === null ? [] : [{ cidr, link: null }];
    });
    return this.#planWith(network, pickFreeSubnet(defaultSubnets, [...others, ...(await listUsedSubnets())]));
  }

  /** Makes it so. Returns what was changed, in words. */
  async ensure(
    network: Network,
    { definition }: NatPlan,
    members: readonly NetworkMember[],
    networks: readonly Network[],
  ): Promise<string[]> {
    const done = [...(await ensureBridge(definition)), ...(await ensureAddresses(definition))];
    const forwarding = await ensureForwarding(familiesOf(definition));
    done.push(...forwarding.map(({ key, before, after }) => `${key} was ${before}, is ${after}`));
    done.push(...(await this.ensureFirewall(networks)));
    if (network.spec.dhcp.isEnabled) {
      const dnsmasq = await ensureNatDnsmasq(definition, membersOf(definition, members), this.#runtimeFolder);
      if (dnsmasq) done.push(`dnsmasq was ${dnsmasq}`);
    } else if (await removeNatDnsmasq(definition, this.#runtimeFolder)) done.push('dnsmasq was stopped');
    return done;
  }

  /** The packet filter for all networks of the instance that have a prefix. */
  ensureFirewall(networks: readonly Network[]): Promise<string[]> {
    const wanted: FirewallNetwork[] = networks
      .filter((network) => network.spec.mode === 'nat' && network.status.state !== 'deleting')
      .flatMap((network) => {
        const block = network.spec.ipv4Cidr ?? network.status.ipv4Cidr;
        return block ? [firewallNetworkOf(this.#planWith(network, block).definition)] : [];
      });
    return ensureFirewall(this.#instance, wanted);
  }

  /** Tells the network's DHCP and DNS who is on it now. */
  async refreshMembers(network: Network, members: readonly NetworkMember[]): Promise<void> {
    if (network.spec.mode !== 'nat' || !network.spec.dhcp.isEnabled) return;
    const { definition } = await this.plan(network, []);
    await ensureNatDnsmasq(definition, membersOf(definition, members), this.#runtimeFolder);
  }

  leases(network: Network): Promise<DhcpLease[]> {
    return readLeases(dnsmasqFolder(network, this.#runtimeFolder));
  }

  /** Takes the network off the host, as far as it is there. */
  async remove(network: Network): Promise<void> {
    if (network.spec.mode !== 'nat') return;
    await removeNatDnsmasq(network, this.#runtimeFolder);
    await removeBridge({ instance: this.#instance, id: network.id, bridgeName: this.#bridgeName(network) });
  }

  /** Removes bridges and DHCP servers of networks that are not, or not any more, like this; for the start of the daemon. */
  async removeStrays(networks: Iterable<Network>): Promise<string[]> {
    const wanted = new Map<string, string>();
    for (const network of networks) if (network.spec.mode === 'nat') wanted.set(network.id, this.#bridgeName(network));
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

  #planWith(network: Network, block: string): NatPlan {
    const { spec } = network;
    const addresses = defaultDhcpAddresses(block);
    const ipv4 = {
      ...addresses,
      rangeFirst: spec.dhcp.firstAddress ?? addresses.rangeFirst,
      rangeLast: spec.dhcp.lastAddress ?? addresses.rangeLast,
    };
    const bridgeName = this.#bridgeName(network);
    const [gateway] = ipv4.cidr.split('/');
    const cidr = parseCidr(block);
    return {
      definition: {
        instance: this.#instance,
        id: network.id,
        bridgeName,
        mtu: spec.mtu,
        ipv4,
        ipv6: null,
        domain: spec.dnsDomain,
        leaseSeconds: spec.dhcp.leaseTimeS,
      },
      status: {
        bridge: bridgeName,
        ipv4Cidr: cidr ? formatCidr(networkOf(cidr)) : block,
        gateway: gateway ?? null,
        dhcpRange: spec.dhcp.isEnabled ? { first: ipv4.rangeFirst, last: ipv4.rangeLast } : null,
      },
    };
  }
}

/** What the DHCP server is told of the members: each address and name once, and only addresses it can give. */
function membersOf(definition: NatNetworkDefinition, members: readonly NetworkMember[]): NatNetworkMembers {
  const cidr = definition.ipv4 ? parseCidr(definition.ipv4.cidr) : null;
  const seen = new Set<string>();
  const isFirst = (value: string): boolean => seen.size !== seen.add(value).size;
  const reservations = members.flatMap(({ mac, hostname, ipv4Address }): DhcpReservation[] => {
    if (!isFirst(mac)) return [];
    const address = ipv4Address === null ? null : parseIp(ipv4Address);
    const bounds = cidr && boundsOf(cidr);
    // A network whose prefix was changed may have reservations of the old one; they count for nothing.
    const isUsable =
      ipv4Address !== null &&
      cidr &&
      bounds &&
      address &&
      isInside(address, cidr) &&
      ![cidr.address, bounds.first, bounds.last].some((taken) => compareIp(taken, address) === 0) &&
      isFirst(ipv4Address);
    return [
      {
        macAddress: mac,
        ...(hostname !== null && isFirst(hostname) ? { hostName: hostname } : {}),
        ...(isUsable ? { ipv4: ipv4Address } : {}),
      },
    ];
  });
  return { reservations, records: [] };
}

/** The host's own error as Lodge's. */
export function describeHostProblem(error: unknown, field: string): LodgeError {
  if (error instanceof LodgeError) return error;
  if (error instanceof BridgeNameTakenError) {
    const message = error.message.replace(/^bridgeName /, '');
    return new LodgeError('host_conflict', `spec.bridge: ${message}.`, {
      cause: error,
      fields: [{ field: 'spec.bridge', message, value: error.value }],
    });
  }
  if (error instanceof SubnetOverlapError) {
    const message = error.message.replace(/^ipv4\.cidr /, '');
    return new LodgeError('host_conflict', `spec.ipv4Cidr: ${message}.`, {
      cause: error,
      fields: [{ field: 'spec.ipv4Cidr', message, value: error.value }],
    });
  }
  if (error instanceof NoFreeSubnetError) return new LodgeError('host_conflict', `${error.message}.`, { cause: error });
  if (error instanceof BridgeInUseError) return new LodgeError('in_use', `${error.message}.`, { cause: error });
  if (error instanceof DnsmasqError && error.reason === 'address-in-use')
    return new LodgeError('host_conflict', `${error.message}.`, {
      cause: error,
      hint: 'See which process listens there (ss -lunp), and stop it or let it listen on its own addresses only.',
    });
  if (error instanceof RangeError || error instanceof DnsmasqDefinitionError)
    return new LodgeError('invalid_request', `${field}: ${error.message}.`, { cause: error });
  if (
    error instanceof LinkError ||
    error instanceof NftablesError ||
    error instanceof DnsmasqError ||
    error instanceof SysctlMissingError ||
    error instanceof CommandError
  ) {
    return new LodgeError('host_failed', `${error.message}.`, { cause: error });
  }
  return new LodgeError('host_failed', 'The network could not be set up on this host.', { cause: error });
}
