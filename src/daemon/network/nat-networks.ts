// Networks of mode nat on this node: from the object to the host's bridge, addresses, packet filter, DHCP and DNS, and
// from the host's errors to Lodge's. What runs on the host lies in src/host/network.
import { LodgeError } from '../../api/errors.ts';
import { type Network, type NetworkStatus } from '../../api/network.ts';
import { CommandError } from '../../host/command.ts';
import { type DhcpLease } from '../../host/network/dnsmasq-config.ts';
import { DnsmasqError, readLeases } from '../../host/network/dnsmasq.ts';
import { ensureFirewall, type FirewallNetwork } from '../../host/network/firewall.ts';
import { ensureForwarding, SysctlMissingError } from '../../host/network/forwarding.ts';
import { deriveLinkName, LinkError } from '../../host/network/link.ts';
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

/** A NIC on a network. */
export interface NetworkMember {
  mac: string;
  /** The name it gets in the network's domain; null: none. */
  hostname: string | null;
  /** Reserved for it. */
  ipv4Address: string | null;
  /** Name of its VM. */
  vm: string;
}

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

  /** What a network is to be on this host; picks a prefix if it has none yet. */
  async plan(network: Network): Promise<NatPlan> {
    const block =
      network.spec.ipv4Cidr ?? network.status.ipv4Cidr ?? pickFreeSubnet(defaultSubnets, await listUsedSubnets());
    return this.#planWith(network, block);
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
      const dnsmasq = await ensureNatDnsmasq(definition, membersOf(members), this.#runtimeFolder);
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
    const { definition } = await this.plan(network);
    await ensureNatDnsmasq(definition, membersOf(members), this.#runtimeFolder);
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
    const [gateway, prefixLength] = ipv4.cidr.split('/');
    const base = block.split('/')[0];
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
        ipv4Cidr: `${base}/${prefixLength}`,
        gateway: gateway ?? null,
        dhcpRange: spec.dhcp.isEnabled ? { first: ipv4.rangeFirst, last: ipv4.rangeLast } : null,
      },
    };
  }
}

function membersOf(members: readonly NetworkMember[]): NatNetworkMembers {
  return {
    reservations: members.map(({ mac, hostname, ipv4Address }) => ({
      macAddress: mac,
      ...(hostname === null ? {} : { hostName: hostname }),
      ...(ipv4Address === null ? {} : { ipv4: ipv4Address }),
    })),
    records: [],
  };
}

/** The host's own error as Lodge's. */
export function describeHostProblem(error: unknown, field: string): LodgeError {
  if (error instanceof LodgeError) return error;
  if (error instanceof BridgeNameTakenError)
    return new LodgeError('host_conflict', `${field}.bridge: ${error.message}.`, {
      cause: error,
      fields: [{ field: `${field}.bridge`, message: error.message, value: error.value }],
    });
  if (error instanceof SubnetOverlapError)
    return new LodgeError('host_conflict', `${error.message}.`, {
      cause: error,
      fields: [{ field: 'spec.ipv4Cidr', message: error.message, value: error.value }],
    });
  if (error instanceof NoFreeSubnetError) return new LodgeError('host_conflict', `${error.message}.`, { cause: error });
  if (error instanceof BridgeInUseError) return new LodgeError('in_use', `${error.message}.`, { cause: error });
  if (error instanceof DnsmasqError && error.reason === 'address-in-use')
    return new LodgeError('host_conflict', `${error.message}.`, {
      cause: error,
      hint: 'See which process listens there (ss -lunp), and stop it or let it listen on its own addresses only.',
    });
  if (error instanceof RangeError)
    return new LodgeError('invalid_request', `${field}: ${error.message}.`, { cause: error });
  if (
    error instanceof LinkError ||
    error instanceof DnsmasqError ||
    error instanceof SysctlMissingError ||
    error instanceof CommandError
  ) {
    return new LodgeError('host_failed', `${error.message}.`, { cause: error });
  }
  return new LodgeError('host_failed', 'The network could not be set up on this host.', { cause: error });
}
