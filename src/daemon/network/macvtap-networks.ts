// Networks of mode macvtap: each NIC of a guest has an address of its own on the wire of an interface of the host, without
// a bridge, and the interface stays as it is. What the guests send goes past the host itself, which they don't reach.
import { type Network } from '../../api/network.ts';
import { maxNicQueues } from '../../api/vm-spec.ts';
import { type NicAttachment } from '../../drivers/driver.ts';
import { createMacvtap, findLink, LinkError, type Link } from '../../host/network/link.ts';
import { findMacvtapDevice } from '../../host/network/macvtap.ts';
import { UplinkError } from '../../host/network/uplink-bridge.ts';
import { requireMtu } from './bridged-networks.ts';
import { type NetworkMode, type NicPlace, type ObservedStatus, type PlannedStatus } from './network-mode.ts';
import { type NetworkTaps } from './network-taps.ts';

export class MacvtapNetworks implements NetworkMode {
  readonly readiness = 'Its interface is there and up.';
  readonly mostQueues = maxNicQueues;
  readonly #taps: NetworkTaps;

  constructor(taps: NetworkTaps) {
    this.#taps = taps;
  }

  async plan(): Promise<PlannedStatus> {
    return { bridge: null, ipv4Cidr: null, ipv6Cidr: null, gateway: null, ipv6Gateway: null, dhcpRange: null };
  }

  async ensure(network: Network): Promise<string[]> {
    const uplink = network.spec.uplink ?? '';
    const link = await findLink(uplink);
    requireShareable(uplink, link);
    requireMtu(network, link);
    return [];
  }

  async observe({ spec }: Network): Promise<ObservedStatus> {
    return { uplink: { interface: spec.uplink ?? '', change: 'none', confirmBy: null } };
  }

  async connect({ spec }: Network, nic: NicPlace): Promise<NicAttachment | null> {
    const name = this.#taps.nameOf(nic.vmId, nic.mac);
    const uplink = spec.uplink ?? '';
    try {
      await createMacvtap({
        name,
        mark: this.#taps.markOf(nic.vmId, nic.mac),
        lower: uplink,
        mode: spec.macvtapMode ?? 'bridge',
        macAddress: nic.mac,
        mtu: spec.mtu,
      });
    } catch (error) {
      if (error instanceof LinkError && (error.reason === 'exists' || error.reason === 'missing')) return null;
      throw error;
    }
    return { kind: 'tap', hostInterface: name, device: await findMacvtapDevice(name) };
  }

  hostInterface(vmId: string, mac: string): string {
    return this.#taps.nameOf(vmId, mac);
  }

  refreshMembers = async (): Promise<void> => {};
  leases = async (): Promise<[]> => [];
  remove = async (): Promise<void> => {};
  removeStrays = async (): Promise<string[]> => [];
}

function requireShareable(name: string, link: Link | null): void {
  const other = 'take another interface, or a network in mode bridged';
  if (!link) throw new UplinkError(name, 'is no interface of this host', 'see which there are: ip link');
  if (!link.isEthernet || name === 'lo') throw new UplinkError(name, 'carries no Ethernet frames', other);
  if (link.master !== null)
    throw new UplinkError(name, `is a port of ${link.master}, which takes all its frames`, other);
  if (!link.isUp) throw new UplinkError(name, 'is down', `switch it on (ip link set ${name} up)`);
}
