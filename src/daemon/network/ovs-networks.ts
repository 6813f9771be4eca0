// Networks of mode ovs: guests are ports of a bridge of Open vSwitch, each with the VLANs of its network. A bridge that
// there is already is used as it is; else Lodge makes one, with the uplink as a port where one is given.
import { type Network } from '../../api/network.ts';
import { maxNicQueues } from '../../api/vm-spec.ts';
import { type NicAttachment } from '../../drivers/driver.ts';
import { deriveLinkName, findLink, listLinkNames } from '../../host/network/link.ts';
import { BridgeInUseError } from '../../host/network/nat-network.ts';
import {
  addOvsPort,
  createOvsBridge,
  findOvsBridge,
  listOvsBridges,
  listOvsPorts,
  OvsError,
  removeOvsBridge,
  removeOvsPorts,
} from '../../host/network/open-vswitch.ts';
import { UplinkError } from '../../host/network/uplink-bridge.ts';
import { type NetworkMember } from './network-members.ts';
import {
  portVlanOf,
  type NetworkMode,
  type NicPlace,
  type ObservedStatus,
  type PlannedStatus,
} from './network-mode.ts';
import { type NetworkTaps } from './network-taps.ts';

export class OvsNetworks implements NetworkMode {
  readonly readiness = 'Its bridge in Open vSwitch is there.';
  readonly mostQueues = maxNicQueues;
  readonly #instance: string;
  readonly #taps: NetworkTaps;
  /** Whether there has been such a network since this daemon began: else Open vSwitch need not be asked, nor be there. */
  #isUsed = false;

  constructor(instance: string, taps: NetworkTaps) {
    this.#instance = instance;
    this.#taps = taps;
  }

  async plan(network: Network): Promise<PlannedStatus> {
    const bridge = this.#bridgeName(network);
    return { bridge, ipv4Cidr: null, ipv6Cidr: null, gateway: null, ipv6Gateway: null, dhcpRange: null };
  }

  async ensure(network: Network, members: readonly NetworkMember[]): Promise<string[]> {
    this.#isUsed = true;
    const name = this.#bridgeName(network);
    const { uplink } = network.spec;
    const done: string[] = [];
    let bridge = await findOvsBridge(name);
    if (!bridge) {
      if (await findLink(name))
        throw new UplinkError(name, 'is a link of this host, and no bridge of Open vSwitch', 'choose another name');
      if (uplink !== undefined) await requireFreePort(uplink);
      const datapath = await createOvsBridge(name, this.#ownerOf(network));
      done.push(`made the bridge ${name} in Open vSwitch (datapath ${datapath})`);
      bridge = await findOvsBridge(name);
    }
    if (uplink !== undefined && !bridge?.ports.includes(uplink)) {
      if (bridge?.owner !== this.#ownerOf(network))
        throw new UplinkError(
          uplink,
          `is no port of ${name}, which Lodge did not make`,
          'make it one yourself, or leave the uplink out',
        );
      await requireFreePort(uplink);
      await addOvsPort(name, uplink, this.#ownerOf(network));
      done.push(`${uplink} became a port of ${name}`);
    }
    // The ports of guests that run: somebody may have made the bridge anew.
    const links = await listLinkNames();
    for (const { vmId, mac } of members) {
      const tap = this.#taps.nameOf(vmId, mac);
      if (!links.has(tap) || bridge?.ports.includes(tap)) continue;
      await addOvsPort(name, tap, this.#ownerOf(network), portVlanOf(network));
      done.push(`${tap} became a port of ${name} again`);
    }
    return done;
  }

  async observe({ spec }: Network): Promise<ObservedStatus> {
    return spec.uplink === undefined ? {} : { uplink: { interface: spec.uplink, change: 'none', confirmBy: null } };
  }

  async connect(network: Network, nic: NicPlace): Promise<NicAttachment | null> {
    const { bridge } = network.status;
    if (bridge === null || !(await this.#taps.make({ ...nic, mtu: network.spec.mtu }, null))) return null;
    const hostInterface = this.#taps.nameOf(nic.vmId, nic.mac);
    try {
      await addOvsPort(bridge, hostInterface, this.#ownerOf(network), portVlanOf(network));
    } catch (error) {
      await this.#taps.removeOne(nic.vmId, nic.mac);
      throw error;
    }
    return { kind: 'tap', hostInterface };
  }

  hostInterface(vmId: string, mac: string): string {
    return this.#taps.nameOf(vmId, mac);
  }

  /** Ports whose links are gone would be looked for by Open vSwitch for ever. */
  async forget(links: readonly string[]): Promise<void> {
    if (this.#isUsed) await removeOvsPorts(links);
  }

  refreshMembers = async (): Promise<void> => {};
  leases = async (): Promise<[]> => [];

  async remove(network: Network): Promise<void> {
    const name = this.#bridgeName(network);
    const bridge = await findOvsBridge(name).catch(ignoreAbsence);
    if (bridge?.owner !== this.#ownerOf(network)) return;
    const others = bridge.ports.filter((port) => port !== network.spec.uplink);
    if (others.length > 0) throw new BridgeInUseError(name, others);
    await removeOvsBridge(name);
  }

  async removeStrays(networks: readonly Network[]): Promise<string[]> {
    const own = networks.filter(({ spec }) => spec.mode === 'ovs');
    const bridges = await listOvsBridges().catch(ignoreAbsence);
    if (bridges === null) return [];
    this.#isUsed = own.length > 0;
    const wanted = new Set(own.map((network) => this.#ownerOf(network)));
    const isStray = (owner: string | null): owner is string =>
      owner !== null && owner.startsWith(`${this.#instance}/`) && !wanted.has(owner);
    const removed: string[] = [];
    for (const { name, owner } of bridges) {
      if (!isStray(owner)) continue;
      await removeOvsBridge(name);
      removed.push(`the bridge ${name} in Open vSwitch`);
    }
    const links = await listLinkNames();
    const ports = (await listOvsPorts()).filter(
      ({ name, owner }) => isStray(owner) || (wanted.has(owner) && name.startsWith('lt') && !links.has(name)),
    );
    await removeOvsPorts(ports.map(({ name }) => name));
    return [...removed, ...ports.map(({ name }) => `the port ${name} in Open vSwitch`)];
  }

  #bridgeName({ id, spec }: Network): string {
    return spec.bridge ?? deriveLinkName('lb', this.#instance, id);
  }

  #ownerOf({ id }: Network): string {
    return `${this.#instance}/${id}`;
  }
}

/** An interface with addresses would be cut off: Open vSwitch takes all its frames. */
async function requireFreePort(name: string): Promise<void> {
  const link = await findLink(name);
  if (!link) throw new UplinkError(name, 'is no interface of this host', 'see which there are: ip link');
  if (link.master !== null) throw new UplinkError(name, `is a port of ${link.master}`, 'take another interface');
  const addresses = link.addresses.filter(({ scope }) => scope === 'global').map(({ address }) => address);
  if (addresses.length > 0)
    throw new UplinkError(
      name,
      `has addresses of this host (${addresses.join(', ')}), which would be cut off`,
      'take another interface, or make the bridge in the host’s own configuration and name it by --bridge',
    );
}

function ignoreAbsence(error: unknown): null {
  if (error instanceof OvsError && error.reason !== 'other') return null;
  throw error;
}
