// Networks of modes bridged and vlan: guests are neighbours of what is beyond an interface of the host, or of what is in
// some VLANs there. Where that interface has to
// become a port of a bridge first, the change waits for a confirmation and is put back without it.
//
//   none ──▶ waiting ──▶ confirmed          `status.uplink.change`
//               └──────▶ reverted           a network in this state is failed, and is only deleted
//
// Confirmed once, the bridge is made again whenever it is missing (the machine's next start), and asks nobody.
import { join } from 'node:path';
import { LodgeError } from '../../api/errors.ts';
import { type Network, type NetworkStatus } from '../../api/network.ts';
import { maxNicQueues } from '../../api/vm-spec.ts';
import { type NicAttachment } from '../../drivers/driver.ts';
import { addUplinkVlans, isVlanAware, setPortVlan, type PortVlan } from '../../host/network/bridge-vlan.ts';
import {
  confirmGuardedChange,
  removeGuardedChange,
  revertGuardedChange,
  settleGuardedChange,
} from '../../host/network/guarded-change.ts';
import {
  changeLink,
  deriveLinkName,
  findLink,
  listLinks,
  listMarkedLinks,
  type Link,
} from '../../host/network/link.ts';
import { BridgeInUseError } from '../../host/network/nat-network.ts';
import {
  makeUplinkBridge,
  observeUplink,
  removeUplinkBridge,
  UplinkError,
  uplinkMark,
  type UplinkBridge,
} from '../../host/network/uplink-bridge.ts';
import { type NetworkMember } from './network-members.ts';
import {
  portVlanOf,
  type NetworkMode,
  type NicPlace,
  type ObservedStatus,
  type PlannedStatus,
} from './network-mode.ts';
import { type NetworkTaps } from './network-taps.ts';

export class BridgedNetworks implements NetworkMode {
  readonly readiness = 'Its bridge leads to the uplink.';
  readonly mostQueues = maxNicQueues;
  readonly #instance: string;
  /** Folder of the files of changes of uplinks. */
  readonly #folder: string;
  readonly #taps: NetworkTaps;

  constructor(instance: string, folder: string, taps: NetworkTaps) {
    this.#instance = instance;
    this.#folder = folder;
    this.#taps = taps;
  }

  async plan(network: Network): Promise<PlannedStatus> {
    const definition = this.#define(network);
    const { bridge } = await observeUplink(definition);
    return {
      bridge: bridge?.name ?? definition.bridgeName,
      ipv4Cidr: null,
      ipv6Cidr: null,
      gateway: null,
      ipv6Gateway: null,
      dhcpRange: null,
    };
  }

  async ensure(network: Network, members: readonly NetworkMember[]): Promise<string[]> {
    const definition = this.#define(network);
    const { uplink } = definition;
    const folder = this.#folderOf(network);
    const change = await settleGuardedChange(folder);
    if (change.state === 'waiting') return [];
    if (change.state === 'reverted') throw wasReverted(uplink);
    const { bridge, isOwn } = await observeUplink(definition);
    requireMtu(network, bridge ?? (await findLink(uplink)));
    const vlan = portVlanOf(network);
    if (bridge) {
      if (!bridge.isUp) throw new UplinkError(bridge.name, 'is down', `switch it on (ip link set ${bridge.name} up)`);
      if (vlan && !(await isVlanAware(bridge.name)))
        throw new UplinkError(
          bridge.name,
          'does not tell VLANs apart',
          `switch that on (ip link set ${bridge.name} type bridge vlan_filtering 1)`,
        );
      return [];
    }
    const before = network.status.uplink?.change ?? 'none';
    // The machine was started anew before anybody had confirmed: nobody knows whether it can be reached that way.
    if (before === 'waiting' || before === 'reverted') throw wasReverted(uplink);
    const confirmTimeoutS = before === 'confirmed' ? 0 : network.spec.confirmTimeoutS;
    await makeUplinkBridge({ ...definition, isVlanAware: vlan !== undefined }, folder, confirmTimeoutS);
    // Taps of guests that run would come back into the VLAN that every new port has: they get theirs in the same step.
    if (vlan) for (const { vmId, mac } of members) await this.#rejoin(definition, this.#taps.nameOf(vmId, mac), vlan);
    return isOwn ? [`${uplink} became a port of the new bridge ${definition.bridgeName}`] : [];
  }

  async observe(network: Network): Promise<ObservedStatus> {
    const definition = this.#define(network);
    const change = await settleGuardedChange(this.#folderOf(network));
    const uplink = (
      state: NonNullable<NetworkStatus['uplink']>['change'],
      confirmBy: Date | null = null,
    ): ObservedStatus => ({
      uplink: { interface: definition.uplink, change: state, confirmBy: confirmBy?.toISOString() ?? null },
    });
    if (change.state === 'waiting') return uplink('waiting', change.confirmBy);
    if (change.state === 'reverted') return uplink('reverted');
    const { bridge, isOwn } = await observeUplink(definition);
    if (!isOwn) return uplink('none');
    const own = await findLink(definition.uplink);
    const strange = own?.addresses.filter(({ scope }) => scope === 'global').map(({ address }) => address) ?? [];
    const problems =
      bridge && strange.length > 0
        ? [
            `${definition.uplink} is a port of ${bridge.name} and has an address of its own again (${strange.join(', ')}): the host’s network configuration sets it, and has to name the bridge instead.`,
          ]
        : [];
    return { ...uplink('confirmed'), problems };
  }

  /** Takes a change of the uplink for good. */
  async confirm(network: Network): Promise<void> {
    if (await confirmGuardedChange(this.#folderOf(network))) return;
    const { state } = await settleGuardedChange(this.#folderOf(network));
    throw new LodgeError(
      'wrong_state',
      state === 'reverted'
        ? `Nobody confirmed network ${network.name} in time: ${network.spec.uplink} is as it was before.`
        : `Network ${network.name} has no change that waits to be confirmed.`,
      state === 'reverted'
        ? { hint: 'Delete the network and make it again, with a longer spec.confirmTimeoutS if that was too short.' }
        : {},
    );
  }

  async connect(network: Network, nic: NicPlace): Promise<NicAttachment | null> {
    const bridge = network.status.bridge === null ? null : await findLink(network.status.bridge);
    // A port with a smaller MTU would make the host's bridge have it as well: the guest is told its own.
    if (!bridge || !(await this.#taps.make({ ...nic, mtu: bridge.mtu }, bridge.name))) return null;
    const hostInterface = this.#taps.nameOf(nic.vmId, nic.mac);
    const vlan = portVlanOf(network);
    try {
      if (vlan) await this.#putInto(vlan, hostInterface, network.spec.uplink ?? '', bridge.name);
    } catch (error) {
      await this.#taps.removeOne(nic.vmId, nic.mac);
      throw error;
    }
    return { kind: 'tap', hostInterface };
  }

  async #putInto(vlan: PortVlan, tap: string, uplink: string, bridge: string): Promise<void> {
    await setPortVlan(tap, vlan);
    // Where the uplink is a bridge, what its ports carry is the host's own configuration.
    if (uplink !== bridge) await addUplinkVlans(uplink, vlan);
  }

  async #rejoin({ bridgeName, uplink }: UplinkBridge, tap: string, vlan: PortVlan): Promise<void> {
    if (!(await findLink(tap))) return;
    await changeLink(tap, { master: bridgeName, isUp: false }, this.#instance);
    await this.#putInto(vlan, tap, uplink, bridgeName);
    await changeLink(tap, { isUp: true }, this.#instance);
  }

  hostInterface(vmId: string, mac: string): string {
    return this.#taps.nameOf(vmId, mac);
  }

  refreshMembers = async (): Promise<void> => {};
  leases = async (): Promise<[]> => [];

  async remove(network: Network): Promise<void> {
    await this.#takeBack(this.#define(network));
  }

  async removeStrays(networks: readonly Network[]): Promise<string[]> {
    const wanted = new Set(
      networks.filter(({ spec }) => spec.mode === 'bridged' || spec.mode === 'vlan').map(({ id }) => id),
    );
    const removed: string[] = [];
    for (const { mark, name } of await listMarkedLinks(this.#instance, 'uplink')) {
      if (mark === null || wanted.has(mark.id)) continue;
      const ports = (await listLinks()).filter((link) => link.master === name && link.mark === null);
      await this.#takeBack({ instance: this.#instance, id: mark.id, uplink: ports[0]?.name ?? '', bridgeName: name });
      removed.push(`the bridge ${name}`);
    }
    return removed;
  }

  async #takeBack(definition: UplinkBridge): Promise<void> {
    const { id, uplink } = definition;
    const folder = join(this.#folder, id);
    const links = await listLinks();
    const bridge = links.find(
      ({ mark }) => mark !== null && JSON.stringify(mark) === JSON.stringify(uplinkMark(definition)),
    );
    if (bridge) {
      const others = links.filter(({ master, name }) => master === bridge.name && name !== uplink);
      if (others.length > 0)
        throw new BridgeInUseError(
          bridge.name,
          others.map(({ name }) => name),
        );
      // A change that waits is put back the way it came; one that was confirmed, with what the bridge has now.
      if (!(await revertGuardedChange(folder))) await removeUplinkBridge({ uplink, bridgeName: bridge.name }, folder);
    }
    await removeGuardedChange(folder);
  }

  #define({ id, spec }: Network): UplinkBridge {
    if (spec.uplink === undefined) throw new LodgeError('internal', 'A bridged network has no uplink.');
    const bridgeName = spec.bridge ?? deriveLinkName('lb', this.#instance, id);
    return { instance: this.#instance, id, uplink: spec.uplink, bridgeName };
  }

  #folderOf({ id }: Network): string {
    return join(this.#folder, id);
  }
}

function wasReverted(uplink: string): UplinkError {
  return new UplinkError(
    uplink,
    'is as it was before: nobody confirmed in time that this host can still be reached',
    'delete the network and make it again, and confirm it (lodge network confirm NAME)',
  );
}

/** Guests of a bridge can't have larger frames than what it leads to. */
export function requireMtu({ spec }: Network, link: Link | null): void {
  if (!link || spec.mtu <= link.mtu) return;
  const message = `is ${spec.mtu}, and ${link.name} carries ${link.mtu} bytes`;
  throw new LodgeError('invalid_request', `spec.mtu ${message}.`, {
    fields: [{ field: 'spec.mtu', message, value: spec.mtu }],
    hint: `Give the network the MTU ${link.mtu}, or ${link.name} a larger one.`,
  });
}
