// What a mode of networks is to the rest of Lodge. A network's `spec.mode` picks one of these objects (network-modes.ts);
// everything that differs between modes is behind it, so that an overlay network, or one on DPDK, is another object.
//
//   plan ─▶ ensure ─▶ connect … disconnect ─▶ remove        and after a crash: removeStrays, ensure again
//
// Promises of every mode:
// - `ensure` may be called at any time, also on what an interrupted call has left, and tells in words what it changed:
//   nothing, where all is as it should be. That is also how a daemon adopts what an earlier one has made.
// - What is on the host carries the network's mark or lies in its folder, so that `remove` and `removeStrays` find it
//   whatever the daemon died of. Nothing without a mark is deleted.
// - Errors are those of src/host; the service makes Lodge's of them.
import { type Network, type NetworkStatus } from '../../api/network.ts';
import { type PortVlan } from '../../host/network/bridge-vlan.ts';
import { type NicAttachment } from '../../drivers/driver.ts';
import { type DhcpLease } from '../../host/network/dnsmasq-config.ts';
import { type NetworkMember } from './network-members.ts';

/** What a network is to have here, shown in its status before it is made. */
export type PlannedStatus = Pick<
  NetworkStatus,
  'bridge' | 'ipv4Cidr' | 'ipv6Cidr' | 'gateway' | 'ipv6Gateway' | 'dhcpRange'
>;

/** What is observed of a network that is up. */
export type ObservedStatus = Partial<Pick<NetworkStatus, 'routes' | 'problems' | 'uplink'>>;

/** A NIC that is to be connected. */
export interface NicPlace {
  vmId: string;
  /** Name of its VM. */
  vm: string;
  /** Address of the NIC, which it has for life. */
  mac: string;
  /** The user that the guest's process runs as. */
  uid: number;
  /** Pairs of queues of the NIC. */
  queues: number;
}

export interface NetworkMode {
  /** Why it is ready, in a sentence for people. */
  readonly readiness: string;
  /** Pairs of queues that a NIC can have. */
  readonly mostQueues: number;
  /** Decides what is left open, the same at every call for a network that has its status. */
  plan(network: Network, networks: Iterable<Network>): Promise<PlannedStatus>;
  /** Makes a network, with its planned status, be on the host. Answers with what was changed, in words. */
  ensure(network: Network, members: readonly NetworkMember[], networks: readonly Network[]): Promise<string[]>;
  /** What is worth telling about a network that is up, observed now; nothing where there is no such thing. */
  observe(network: Network): Promise<ObservedStatus>;
  /** Takes a change of the host's own configuration for good, which is put back otherwise; where there is such a thing. */
  confirm?(network: Network): Promise<void>;
  /** Makes what QEMU's NIC is attached to. Null: something is in the way, and is made anew by `ensure`. */
  connect(network: Network, nic: NicPlace): Promise<NicAttachment | null>;
  /** Name of the link on this host that a NIC is connected by; null: it needs none. */
  hostInterface(vmId: string, mac: string): string | null;
  /** Tells the network's DHCP and DNS who is on it now. */
  refreshMembers(network: Network, members: readonly NetworkMember[]): Promise<void>;
  /** Who has an address, as far as the mode knows. */
  leases(network: Network): Promise<DhcpLease[]>;
  /** Told that links of NICs are gone; where something else knows of them. */
  forget?(links: readonly string[]): Promise<void>;
  /** Takes the network off the host, as far as it is there. */
  remove(network: Network): Promise<void>;
  /** Removes what belongs to none of these networks; for the start of the daemon. Answers with what it was, in words. */
  removeStrays(networks: readonly Network[]): Promise<string[]>;
}

/** The VLANs of a network's NICs, as a bridge takes them. */
export function portVlanOf({ spec }: Pick<Network, 'spec'>): PortVlan | undefined {
  const { access, trunk, native } = spec.vlan ?? {};
  if (access !== undefined) return { access };
  return trunk === undefined ? undefined : { trunk, native };
}
