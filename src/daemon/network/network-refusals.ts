// What is refused of networks for what others are or have: other networks, and the VMs on them. Pure.
import { LodgeError, invalidField } from '../../api/errors.ts';
import { type Network, type NetworkSpec } from '../../api/network.ts';
import { type Vm } from '../../api/vm.ts';
import { hasDhcp, isRouterOf } from './nat-networks.ts';
import { reservedBy } from './network-members.ts';
import { isWithin, requireNoOverlap } from './network-spec-check.ts';

/** Refuses a network that a VM can't be connected to, and a reserved address that it can't give to this VM. */
export function requireNicPlace(
  network: Network,
  vms: Iterable<Vm>,
  vmId: string | null,
  field: string,
  address: string | undefined,
): void {
  if (network.status.state === 'deleting')
    throw invalidField(`${field}.network`, `network ${network.name} is being deleted`, network.name);
  if (address === undefined) return;
  const addressField = `${field}.ipv4Address`;
  if (!isRouterOf(network) || !hasDhcp(network))
    throw invalidField(
      addressField,
      `network ${network.name} is in mode ${network.spec.mode}${isRouterOf(network) ? ', without DHCP,' : ''} and has no reservations`,
      address,
    );
  const cidr = network.spec.ipv4Cidr ?? network.status.ipv4Cidr;
  if (cidr && !isWithin(cidr, address))
    throw invalidField(addressField, `is not in ${cidr} of network ${network.name}`, address);
  if (cidr && !isWithin(cidr, address, { isHost: true }))
    throw invalidField(addressField, `is an address of network ${network.name} itself`, address);
  if (network.status.gateway === address)
    throw invalidField(addressField, `is the host’s own address on network ${network.name}`, address);
  const other = reservedBy(network, vms, address, vmId);
  if (other) throw invalidField(addressField, `is reserved for VM ${other.name} already`, address);
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
