// Who is on which network, read from the VMs as they are: no second record of it that could differ from them.
import { type Lease, type Network } from '../../api/network.ts';
import { type Vm } from '../../api/vm.ts';
import { formatIp, parseIp } from '../../lib/ip-address.ts';
import { type DhcpLease } from '../../host/network/dnsmasq-config.ts';

/** A NIC on a network. */
export interface NetworkMember {
  mac: string;
  /** The name it gets in the network's domain; null: none. */
  hostname: string | null;
  /** Reserved for it. */
  ipv4Address: string | null;
  ipv6Address: string | null;
  /** Id and name of its VM. */
  vmId: string;
  vm: string;
}

export interface NetworkUse {
  members: NetworkMember[];
  /** Names of the VMs with a NIC on the network. */
  users: string[];
}

/** What uses each of these networks, by network id; one pass over all VMs. */
export function readNetworkUse(networks: Iterable<Network>, vms: Iterable<Vm>): Map<string, NetworkUse> {
  const uses = new Map<string, NetworkUse>();
  const ids = new Map<string, string>();
  for (const network of networks) {
    uses.set(network.id, { members: [], users: [] });
    ids.set(`${network.project}/${network.id}`, network.id);
    ids.set(`${network.project}/${network.name}`, network.id);
  }
  const find = (vm: Vm, reference: string): NetworkUse | undefined =>
    uses.get(ids.get(`${vm.project}/${reference}`) ?? '');
  for (const vm of vms) {
    // A running guest has the NICs it was started with, and holds on to those it gets at its next start.
    const now = vm.status.startedSpec ?? vm.spec;
    for (const reference of new Set([...now.nics, ...vm.spec.nics].map((nic) => nic.network)))
      find(vm, reference)?.users.push(vm.name);
    const named = new Set<NetworkUse>();
    for (const [index, nic] of now.nics.entries()) {
      const use = find(vm, nic.network);
      const mac = nic.mac ?? vm.status.nics[index]?.mac;
      if (!use || !mac || vm.status.nics.length === 0) continue;
      // The name belongs to the first NIC on the network; a second one there has only its address.
      const hostname = named.has(use) ? null : vm.name;
      named.add(use);
      const { ipv4Address = null, ipv6Address = null } = nic;
      use.members.push({ mac, hostname, ipv4Address, ipv6Address: canonicalIp(ipv6Address), vmId: vm.id, vm: vm.name });
    }
  }
  return uses;
}

/** An address as everybody writes it: IPv6 has many spellings of one. */
function canonicalIp<Text extends string | null>(text: Text): string | Text {
  const address = text === null ? null : parseIp(text);
  return address ? formatIp(address) : text;
}

/** The VM, other than `exceptVmId`, that has reserved an address on a network, now or at its next start. */
export function reservedBy(network: Network, vms: Iterable<Vm>, address: string, exceptVmId: string | null): Vm | null {
  for (const vm of vms) {
    if (vm.id === exceptVmId || vm.project !== network.project) continue;
    const nics = [...vm.spec.nics, ...(vm.status.startedSpec?.nics ?? [])];
    const hasIt = nics.some(
      (nic) =>
        [nic.ipv4Address, nic.ipv6Address].some(
          (one) => one !== undefined && canonicalIp(one) === canonicalIp(address),
        ) &&
        (nic.network === network.name || nic.network === network.id),
    );
    if (hasIt) return vm;
  }
  return null;
}

/** Leases with the VMs that have them. One whose MAC address isn't known is left away: nobody could say whose it is. */
export function leasesOfMembers(leases: readonly DhcpLease[], members: readonly NetworkMember[]): Lease[] {
  const owners = new Map(members.map((member) => [member.mac, member.vm]));
  return leases.flatMap(({ address, macAddress: mac, hostName, expiresAt }) =>
    mac === null
      ? []
      : [
          {
            address,
            mac,
            hostname: hostName,
            vm: owners.get(mac) ?? null,
            expiresAt: expiresAt?.toISOString() ?? null,
          },
        ],
  );
}
