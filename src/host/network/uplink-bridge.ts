// A bridge that an interface of this machine is a port of, so that guests are neighbours of what is beyond it. Where the
// machine has such a bridge already, it is used as it is. Else one is made, and what the interface is configured with
// (addresses, routes) moves to it: a change of the machine's own way to the world, made under guard (guarded-change.ts).
//
//   eth0 192.168.1.5/24, default via .1         eth0 ── port of ── bridge 192.168.1.5/24, default via .1
//                                        ◀──▶                        ├── tap of a guest
//
// Promises: a bridge that is made bears the network's mark and the interface's MAC address and MTU. Other links' bridges
// are never changed. Moving is one batch of `ip`, which is undone as a whole when a line of it fails.
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { run } from '../command.ts';
import { makeVlanAware } from './bridge-vlan.ts';
import { startGuardedChange } from './guarded-change.ts';
import { createBridge, deleteLink, LinkError, listLinks, type Link, type LinkMark } from './link.ts';
import { addLines, readLinkConfig, removeLines, whyFixed, type LinkConfig } from './link-config.ts';
import { ipCommand, readKernelFile, writeKernelFile, type NetworkScope } from './netns.ts';

export interface UplinkBridge {
  readonly instance: string;
  /** Of the network that the bridge is made for. */
  readonly id: string;
  /** The interface that leads outside, or a bridge that has one. */
  readonly uplink: string;
  /** Name of the bridge, where one is made. */
  readonly bridgeName: string;
  /** Whether a bridge that is made tells VLANs apart. Default false. */
  readonly isVlanAware?: boolean;
}

/** The interface can't be what guests are bridged to. */
export class UplinkError extends Error {
  override name = 'UplinkError';
  readonly uplink: string;
  /** What to do instead. */
  readonly advice: string;
  constructor(uplink: string, why: string, advice: string) {
    super(`${uplink} ${why}`);
    this.uplink = uplink;
    this.advice = advice;
  }
}

export interface UplinkObservation {
  /** The bridge that guests become ports of; null: it has yet to be made. */
  readonly bridge: Link | null;
  /** Whether it is, or would be, one that this network has made. */
  readonly isOwn: boolean;
}

const ownDevice = 'give another interface, or use a network in mode nat or routed';

export function uplinkMark({ instance, id }: Pick<UplinkBridge, 'instance' | 'id'>): LinkMark {
  return { instance, kind: 'uplink', id };
}

/** Looks which bridge the uplink is, or is a port of. Rejects with {@link UplinkError} when it can be neither. */
export async function observeUplink(definition: UplinkBridge, scope: NetworkScope = {}): Promise<UplinkObservation> {
  const { uplink: name, instance, id, bridgeName } = definition;
  const links = await listLinks(scope);
  const uplink = links.find((link) => link.name === name);
  const isOwn = ({ mark }: Link): boolean => mark?.instance === instance && mark.kind === 'uplink' && mark.id === id;
  if (!uplink) {
    const others = links.filter((link) => link.isEthernet && link.mark === null && link.tap === null);
    const names = others.map((link) => link.name).join(', ');
    throw new UplinkError(name, 'is no interface of this host', names ? `take one of these: ${names}` : ownDevice);
  }
  if (uplink.kind === 'bridge') return { bridge: uplink, isOwn: false };
  const master = links.find((link) => link.name === uplink.master);
  if (master?.kind === 'bridge') return { bridge: master, isOwn: isOwn(master) };
  if (master) throw new UplinkError(name, `is a port of ${master.name}`, `take ${master.name} instead`);
  const taken = links.find((link) => link.name === bridgeName);
  if (taken && !isOwn(taken))
    throw new UplinkError(
      name,
      `can't be put on a bridge ${bridgeName}: there is a link of that name`,
      'choose another name for the bridge',
    );
  return { bridge: null, isOwn: true };
}

/** Rejects with {@link UplinkError} where an interface can't become a port of a bridge, or its configuration can't move. */
export async function requireBridgeable(name: string, scope: NetworkScope = {}): Promise<LinkConfig> {
  if (name === 'lo') throw new UplinkError(name, 'leads nowhere', ownDevice);
  const link = (await listLinks(scope)).find((candidate) => candidate.name === name);
  if (link?.mark) throw new UplinkError(name, 'was made by Lodge for something else', ownDevice);
  if ((await readKernelFile(scope, `/sys/class/net/${name}/phy80211/name`)) !== null)
    throw new UplinkError(name, 'is wireless: an access point takes frames from one address alone', ownDevice);
  if (!link?.isEthernet) throw new UplinkError(name, 'carries no Ethernet frames', ownDevice);
  const rules = (await run(ipCommand(scope, '-json', 'rule', 'show'))).stdout;
  const isRuled = (JSON.parse(rules || '[]') as { iif?: string; oif?: string }[]).some(
    ({ iif, oif }) => iif === name || oif === name,
  );
  const config = await readLinkConfig(name, scope);
  const fixed = isRuled ? 'routing rules (ip rule) name it' : whyFixed(config);
  if (fixed === null) return config;
  throw new UplinkError(
    name,
    `can't be moved to a bridge as it is: ${fixed}`,
    `make a bridge with ${name} as its port in the host’s own network configuration, and give that bridge as the uplink`,
  );
}

/**
 * Makes the bridge and moves the interface's configuration to it. Resolves when it is made and waits for its
 * confirmation, for `confirmTimeoutS` (0: it needs none). Rejects, with everything as before, with {@link UplinkError},
 * LinkError or GuardedChangeError.
 */
export async function makeUplinkBridge(
  definition: UplinkBridge,
  folder: string,
  confirmTimeoutS: number,
  scope: NetworkScope = {},
): Promise<void> {
  const { uplink, bridgeName, instance } = definition;
  const now = await requireBridgeable(uplink, scope);
  const config = await withEarlier(folder, now);
  const link = (await listLinks(scope)).find(({ name }) => name === uplink);
  if (!link?.macAddress) throw new LinkError(uplink, 'missing', `there is no link ${uplink}`);
  // One that an interrupted change has left has nothing yet that would be lost with it.
  await deleteLink(bridgeName, instance, scope);
  await createBridge(
    { name: bridgeName, mark: uplinkMark(definition), macAddress: link.macAddress, mtu: link.mtu },
    scope,
  );
  try {
    if (definition.isVlanAware) await makeVlanAware(bridgeName, scope);
  } catch (error) {
    await deleteLink(bridgeName, instance, scope);
    throw error;
  }
  await copyIpv6Settings(uplink, bridgeName, scope);
  const mode = config.addressMode;
  const toBridge = [
    ...(mode === null ? [] : [`link set dev ${uplink} addrgenmode none`]),
    `link set dev ${uplink} up`,
    `link set dev ${uplink} master ${bridgeName}`,
    ...removeLines(now, uplink),
    `address flush dev ${uplink}`,
    ...addLines(config, bridgeName),
    ...(mode === null || mode === 'none' ? [] : [`link set dev ${bridgeName} addrgenmode ${mode}`]),
  ];
  try {
    const revert = [...backLines(definition, config), ...(link.isUp ? [] : [`link set dev ${uplink} down`])];
    await startGuardedChange({ folder, apply: toBridge, revert, confirmTimeoutS }, scope);
  } catch (error) {
    await deleteLink(bridgeName, instance, scope);
    throw error;
  }
  await writeFile(path.join(folder, 'config.json'), JSON.stringify(config));
}

/** Moves the configuration back to the interface and deletes the bridge. Rejects with everything as before. */
export async function removeUplinkBridge(
  { uplink, bridgeName }: Pick<UplinkBridge, 'uplink' | 'bridgeName'>,
  folder: string,
  scope: NetworkScope = {},
): Promise<void> {
  const config = await readLinkConfig(bridgeName, scope);
  const back = backLines({ uplink, bridgeName }, config);
  const again = [
    `link set dev ${uplink} nomaster`,
    `link set dev ${uplink} master ${bridgeName}`,
    ...addLines(config, bridgeName),
  ];
  await mkdir(folder, { recursive: true, mode: 0o700 });
  await startGuardedChange({ folder, apply: back, revert: again, confirmTimeoutS: 0 }, scope);
}

/** The lines that make the interface have the configuration, and no bridge. */
function backLines({ uplink, bridgeName }: Pick<UplinkBridge, 'uplink' | 'bridgeName'>, config: LinkConfig): string[] {
  const { addressMode: mode } = config;
  return [
    `link set dev ${uplink} nomaster`,
    `link delete dev ${bridgeName}`,
    `link set dev ${uplink} up`,
    ...addLines(config, uplink),
    ...(mode === null ? [] : [`link set dev ${uplink} addrgenmode ${mode}`]),
  ];
}

/** An interface whose bridge somebody deleted has lost what was on the bridge: then what it had before counts. */
async function withEarlier(folder: string, now: LinkConfig): Promise<LinkConfig> {
  if (now.addresses.some(({ scope }) => scope === 'global')) return now;
  try {
    return JSON.parse(await readFile(path.join(folder, 'config.json'), 'utf8')) as LinkConfig;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return now;
    throw error;
  }
}

/** The bridge asks the routers as the interface did, also where this machine forwards. */
async function copyIpv6Settings(from: string, to: string, scope: NetworkScope): Promise<void> {
  for (const key of ['disable_ipv6', 'accept_ra', 'autoconf', 'use_tempaddr']) {
    const value = (await readKernelFile(scope, `/proc/sys/net/ipv6/conf/${from}/${key}`))?.trim();
    if (value !== undefined) await writeKernelFile(scope, `/proc/sys/net/ipv6/conf/${to}/${key}`, value);
  }
}
