// Networks of mode user: QEMU itself is the router, DHCP and name server of each guest, and the host has nothing of it.
import { type Network } from '../../api/network.ts';
import { type NicAttachment } from '../../drivers/driver.ts';
import { type NetworkMode, type NicPlace, type PlannedStatus } from './network-mode.ts';

/** QEMU's own default: net/slirp.c. */
const defaultCidr = '10.0.2.0/24';

export const userNetworks: NetworkMode = {
  readiness: 'It lives in each guest’s own QEMU and needs nothing on the host.',
  mostQueues: 1,
  async plan({ spec }: Network): Promise<PlannedStatus> {
    const ipv4Cidr = spec.ipv4Cidr ?? defaultCidr;
    return { bridge: null, ipv4Cidr, ipv6Cidr: null, gateway: null, ipv6Gateway: null, dhcpRange: null };
  },
  ensure: async () => [],
  observe: async () => ({}),
  async connect({ spec }: Network, { vm }: NicPlace): Promise<NicAttachment> {
    return { kind: 'user', ipv4Cidr: spec.ipv4Cidr ?? defaultCidr, dnsDomain: spec.dnsDomain, hostname: vm };
  },
  hostInterface: () => null,
  refreshMembers: async () => {},
  leases: async () => [],
  remove: async () => {},
  removeStrays: async () => [],
};
