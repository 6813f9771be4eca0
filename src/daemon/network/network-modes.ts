// The modes of networks that this Lodge has, by name.
import { dirname, join } from 'node:path';
import { type NetworkModeName } from '../../api/network.ts';
import { BridgedNetworks } from './bridged-networks.ts';
import { MacvtapNetworks } from './macvtap-networks.ts';
import { RouterNetworks } from './router-networks.ts';
import { type NetworkMode } from './network-mode.ts';
import { NetworkTaps } from './network-taps.ts';
import { OvsNetworks } from './ovs-networks.ts';
import { userNetworks } from './user-networks.ts';

export interface NetworkModes {
  of: (mode: NetworkModeName) => NetworkMode;
  /** Each once. */
  all: readonly NetworkMode[];
  /** The Lodge on this machine that they belong to. */
  instance: string;
  taps: NetworkTaps;
  /** Those that the host is the router of: their packet filter is one table. */
  routed: RouterNetworks;
}

/**
 * @param instance the Lodge on this machine that they belong to.
 * @param runtimeFolder for the files of networks; its content is lost with the machine's next start.
 */
export function makeNetworkModes(instance: string, runtimeFolder: string): NetworkModes {
  const taps = new NetworkTaps(instance);
  const routed = new RouterNetworks(instance, runtimeFolder, taps);
  // Beside the folder of networks, in which everything belongs to a DHCP server.
  const bridged = new BridgedNetworks(instance, join(dirname(runtimeFolder), 'uplinks'), taps);
  const modes: Record<NetworkModeName, NetworkMode> = {
    nat: routed,
    routed,
    isolated: routed,
    bridged,
    vlan: bridged,
    ovs: new OvsNetworks(instance, taps),
    macvtap: new MacvtapNetworks(taps),
    user: userNetworks,
  };
  return { of: (mode) => modes[mode], all: [...new Set(Object.values(modes))], instance, taps, routed };
}
