// What is refused of networks for what others are or have: other networks, and the VMs on them. Pure.
import { LodgeError, invalidField } from '../../api/errors.ts';
import { type Network, type NetworkSpec } from '../../api/network.ts';
import { type Vm } from '../../api/vm.ts';
import { type VmNic } from '../../api/vm-spec.ts';
import { compareIp, parseIp } from '../../lib/ip-address.ts';
import { hasDhcp, isRouterOf } from './router-networks.ts';
import { reservedBy } from './network-members.ts';
import { isWithin, requireNoOverlap } from './network-spec-check.ts';

/** What a NIC asks of its network. */
export type NicAddresses = Pick<VmNic, 'mac' | 'ipv4Address' | 'ipv6Address'>;

/** Refuses a network that a VM can't be connected to, and reserved addresses that it can't give to this VM. */
export function requireNicPlace(
  network: Network,
  vms: Iterable<Vm>,
  vmId: string | null,
  field: string,
  { mac, ipv4Address, ipv6Address }: NicAddresses,
): void {
  if (network.status.state === 'deleting')
    throw invalidField(`${field}.network`, `network ${network.name} is being deleted`, network.name);
  if (mac === '00:00:00:00:00:00')
    throw invalidField(
      `${field}.mac`,
      'is nobody’s address: take one that begins with 52:54:00, or leave it away',
      mac,
    );
  const all = [...vms];
  for (const [name, address] of Object.entries({ ipv4Address, ipv6Address }))
    if (address !== undefined) requireAddress(network, all, vmId, { field: `${field}.${name}`, address });
}

function requireAddress(
  network: Network,
  vms: readonly Vm[],
  vmId: string | null,
  { field, address }: { field: string; address: string },
): void {
  if (!isRouterOf(network) || !hasDhcp(network))
    throw invalidField(
      field,
      `network ${network.name} is in mode ${network.spec.mode}${isRouterOf(network) ? ', without DHCP,' : ''} and has no reservations`,
      address,
    );
  const isIpv6 = address.includes(':');
  const cidr = isIpv6 ? network.status.ipv6Cidr : (network.spec.ipv4Cidr ?? network.status.ipv4Cidr);
  if (isIpv6 && cidr === null)
    throw invalidField(field, `network ${network.name} has no IPv6 (spec.ipv6Cidr, or --subnet6 auto)`, address);
  if (cidr && !isWithin(cidr, address))
    throw invalidField(field, `is not in ${cidr} of network ${network.name}`, address);
  if (cidr && !isWithin(cidr, address, { isHost: true }))
    throw invalidField(field, `is an address of network ${network.name} itself`, address);
  const gateway = isIpv6 ? network.status.ipv6Gateway : network.status.gateway;
  if (gateway !== null && isSameIp(gateway, address))
    throw invalidField(field, `is the host’s own address on network ${network.name}`, address);
  const other = reservedBy(network, vms, address, vmId);
  if (other) throw invalidField(field, `is reserved for VM ${other.name} already`, address);
}

function isSameIp(one: string, other: string): boolean {
  const [first, second] = [parseIp(one), parseIp(other)];
  return first !== null && second !== null && first.family === second.family && compareIp(first, second) === 0;
}

/** Refuses to take a bridge away that was made for one network and that others use by now. */
export function requireNotShared(network: Network, networks: Iterable<Network>): void {
  const { uplink, bridge } = network.status;
  if (uplink?.change !== 'confirmed') return;
  const others = [...networks].filter(({ id, status }) => id !== network.id && status.bridge === bridge);
  if (others.length === 0) return;
  const names = others.map(({ name }) => name).join(', ');
  throw new LodgeError('in_use', `The bridge ${bridge} of network ${network.name} is also that of ${names}.`, {
    hint: 'Delete those networks first.',
  });
}

/** Refuses a bridge or prefix that another of Lodge's own networks has, whether it is up or not. */
export function requireFree(spec: NetworkSpec, exceptId: string | null, networks: Iterable<Network>): void {
  for (const other of networks) {
    if (other.id === exceptId || !isRouterOf(other) || !isRouterOf({ spec })) continue;
    if (spec.bridge && (other.status.bridge ?? other.spec.bridge) === spec.bridge) {
      const message = `${spec.bridge} is the bridge of network ${other.name}`;
      throw new LodgeError('host_conflict', `spec.bridge: ${message}.`, {
        fields: [{ field: 'spec.bridge', message, value: spec.bridge }],
        hint: 'Choose another name for the bridge, or none: Lodge makes one.',
      });
    }
    requireNoOverlap(spec, other);
  }
}
