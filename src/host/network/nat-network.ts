// A network that this machine is the router of (by NAT, by plain routing, or of no way out): a bridge that guests are
// ports of, the host's address on it, forwarding, the packet filter, DHCP and DNS. Each part can be observed, made so, and removed by itself; each call is idempotent and tells
// what it changed, so that a reconciler can plan, execute and report. Order: bridge, addresses, forwarding, firewall,
// dnsmasq; the other way round for removal. The firewall and forwarding are the instance's, shared by its networks.
import { createHash } from 'node:crypto';
import path from 'node:path';
import { addToIp, boundsOf, formatCidr, formatIp, linkLocalOf, macFromBytes, parseCidr } from '../../lib/ip-address.ts';
import { ensureDnsmasq, observeDnsmasq, removeDnsmasq, type DnsmasqChange, type DnsmasqService } from './dnsmasq.ts';
import { type BootService, type DhcpAddresses, type DhcpReservation, type DnsRecord } from './dnsmasq-config.ts';
import { observeFirewall, type FirewallNetwork, type NetworkReach } from './firewall.ts';
import { observeForwarding } from './forwarding.ts';
import {
  addLinkAddress,
  changeLink,
  createBridge,
  deleteLink,
  findLink,
  isLinkName,
  LinkError,
  listLinks,
  removeLinkAddress,
  type Link,
  type LinkMark,
} from './link.ts';
import { type NetworkScope } from './netns.ts';
import { findOverlap, listUsedSubnets, SubnetOverlapError } from './subnet.ts';

export interface NatNetworkDefinition {
  /** The Lodge on this machine that it belongs to: letters, digits, `-`. */
  readonly instance: string;
  readonly id: string;
  /** At most 15 bytes. */
  readonly bridgeName: string;
  /** In bytes. Default 1500. */
  readonly mtu?: number;
  /** The bridge's address, with the range for guests; neither: the host itself is not on the network. */
  readonly ipv4: DhcpAddresses | null;
  readonly ipv6: DhcpAddresses | null;
  /** The domain of its guests' names, such as `lodge.internal`. */
  readonly domain: string;
  /** In seconds. Default 3600. */
  readonly leaseSeconds?: number;
  /** Name servers for everything outside the domain: the host's own (default), or these addresses. */
  readonly upstreamServers?: 'host' | readonly string[];
  /** What guests that boot over the network are told to load. */
  readonly boot?: BootService | undefined;
  /** What guests reach on the host. Default `services`: DHCP, DNS, ping. */
  readonly hostAccess?: FirewallNetwork['hostAccess'];
  /** Where guests reach beyond the network. Default `nat`. */
  readonly reach?: NetworkReach;
}

/** Who and what is on the network: reservations for its guests' network cards, and names that always resolve. */
export interface NatNetworkMembers {
  readonly reservations: readonly DhcpReservation[];
  readonly records: readonly DnsRecord[];
}

export type NatNetworkPart = 'bridge' | 'addresses' | 'forwarding' | 'firewall' | 'dnsmasq';

/** Something that is not as defined. */
export interface NatNetworkDifference {
  readonly part: NatNetworkPart;
  /** In words, with names and numbers. */
  readonly detail: string;
}

export interface NatNetworkObservation {
  /** Null while there is none of the name. */
  readonly bridge: Link | null;
  /** The links that are its ports now. */
  readonly ports: readonly string[];
  /** Empty: the network is as defined. */
  readonly differences: readonly NatNetworkDifference[];
}

/** The bridge's name belongs to a link that this network did not make. */
export class BridgeNameTakenError extends Error {
  override name = 'BridgeNameTakenError';
  readonly field = 'bridgeName';
  readonly value: string;
  constructor(value: string, owner: string) {
    super(`bridgeName ${value} is taken by ${owner} on this machine: choose another name, or remove that link`);
    this.value = value;
  }
}

/** The bridge still has ports that are not to be cut off. */
export class BridgeInUseError extends Error {
  override name = 'BridgeInUseError';
  readonly bridge: string;
  readonly ports: readonly string[];
  constructor(bridge: string, ports: readonly string[]) {
    super(
      `the bridge ${bridge} still has the ports ${ports.join(', ')}: stop or detach what is connected by them first`,
    );
    this.bridge = bridge;
    this.ports = ports;
  }
}

/** What marks the bridge of a network. */
export function bridgeMark({ instance, id }: Pick<NatNetworkDefinition, 'instance' | 'id'>): LinkMark {
  return { instance, kind: 'bridge', id };
}

/** The bridge's MAC address: locally administered, always the same for the network. */
export function bridgeMac({ instance, id }: Pick<NatNetworkDefinition, 'instance' | 'id'>): string {
  // The second lowest bit of the first byte says "locally administered" (IEEE 802); 52:54:00 is what guests have.
  return macFromBytes('0a', createHash('sha256').update(`${instance} ${id} bridge`).digest());
}

/** The part of the definition that the instance's firewall is built of. */
export function firewallNetworkOf(definition: NatNetworkDefinition): FirewallNetwork {
  const { id, bridgeName, ipv4, ipv6, hostAccess, reach, boot } = definition;
  const hasTftp = boot?.tftpFolder !== undefined;
  return { id, bridgeName, ipv4Cidr: ipv4?.cidr ?? null, ipv6Cidr: ipv6?.cidr ?? null, hostAccess, reach, hasTftp };
}

/** The network's dnsmasq, with its files in a folder named after the network below `runtimeFolder`. */
export function dnsmasqServiceOf(
  definition: NatNetworkDefinition,
  members: NatNetworkMembers,
  runtimeFolder: string,
): DnsmasqService {
  const { bridgeName, domain, ipv4, ipv6, leaseSeconds = 3600, reach, mtu, boot } = definition;
  const { upstreamServers = reach === 'none' ? [] : 'host' } = definition;
  const folder = dnsmasqFolder(definition, runtimeFolder);
  const isRouter = reach !== 'none';
  return {
    definition: { folder, link: bridgeName, domain, ipv4, ipv6, leaseSeconds, upstreamServers, mtu, isRouter, boot },
    ...members,
  };
}

export function dnsmasqFolder({ id }: Pick<NatNetworkDefinition, 'id'>, runtimeFolder: string): string {
  if (!/^[A-Za-z0-9][A-Za-z0-9_.-]*$/.test(id)) throw new RangeError(`${JSON.stringify(id)} is no id of a network`);
  return path.join(path.resolve(runtimeFolder), id);
}

/**
 * Compares the whole network with its definition, changing nothing.
 * @param networks all networks of the instance, this one among them: their packet filter is one table.
 */
export async function observeNatNetwork(
  definition: NatNetworkDefinition,
  members: NatNetworkMembers,
  networks: readonly FirewallNetwork[],
  runtimeFolder: string,
  scope: NetworkScope = {},
): Promise<NatNetworkObservation> {
  const links = await listLinks(scope);
  const bridge = links.find(({ name }) => name === definition.bridgeName) ?? null;
  const service = dnsmasqServiceOf(definition, members, runtimeFolder);
  const [forwarding, firewall, dnsmasq] = await Promise.all([
    observeForwarding(familiesOf(definition), scope),
    observeFirewall(definition.instance, networks, scope),
    observeDnsmasq(service, scope),
  ]);
  const tell = (part: NatNetworkPart, details: readonly string[]): NatNetworkDifference[] =>
    details.map((detail) => ({ part, detail }));
  return {
    bridge,
    ports: links.filter(({ master }) => master === definition.bridgeName).map(({ name }) => name),
    differences: [
      ...tell('bridge', compareBridge(definition, bridge)),
      ...tell('addresses', bridge ? compareAddresses(definition, bridge).map(({ detail }) => detail) : []),
      ...tell('forwarding', forwarding),
      ...tell('firewall', firewall),
      ...tell('dnsmasq', dnsmasq.differences),
    ],
  };
}

/**
 * Makes the bridge, or changes it to what is defined. Returns what was done, in words; empty: nothing.
 * Rejects with {@link BridgeNameTakenError} for a link that another network, or nobody known, made.
 */
export async function ensureBridge(definition: NatNetworkDefinition, scope: NetworkScope = {}): Promise<string[]> {
  const { bridgeName: name, mtu = 1500, instance } = definition;
  if (!isLinkName(name))
    throw new BridgeNameTakenError(name, 'no link, but is no valid name of a link (15 bytes at most)');
  const bridge = await findLink(name, scope);
  if (!bridge) {
    try {
      await createBridge({ name, mark: bridgeMark(definition), macAddress: bridgeMac(definition), mtu }, scope);
    } catch (error) {
      if (error instanceof LinkError && error.reason === 'exists') throw new BridgeNameTakenError(name, 'another link');
      throw error;
    }
    return [`made the bridge ${name}`];
  }
  requireOwnBridge(definition, bridge);
  const differences = compareBridge(definition, bridge);
  if (differences.length > 0) {
    await changeLink(name, { isUp: true, mtu, macAddress: bridgeMac(definition) }, instance, scope);
  }
  return differences.map((difference) => `changed: ${difference}`);
}

/**
 * Gives the bridge its addresses and takes others from it. Returns what was done, in words; empty: nothing.
 * Rejects with {@link SubnetOverlapError} when a new address lies in a block that this machine reaches elsewhere.
 */
export async function ensureAddresses(definition: NatNetworkDefinition, scope: NetworkScope = {}): Promise<string[]> {
  const { bridgeName: name, instance } = definition;
  const bridge = await findLink(name, scope);
  if (!bridge) throw new LinkError(name, 'missing', `there is no bridge ${name} to give addresses to`);
  requireOwnBridge(definition, bridge);
  const differences = compareAddresses(definition, bridge);
  const missing = differences.filter(({ isMissing }) => isMissing);
  if (missing.length > 0) await requireFreeSubnets(definition, scope);
  const done: string[] = [];
  for (const { cidr, isMissing, detail } of differences) {
    const change = isMissing ? addLinkAddress : removeLinkAddress;
    if (await change(name, cidr, instance, scope)) done.push(`changed: ${detail}`);
  }
  return done;
}

/** Throws {@link SubnetOverlapError} when the network's block is reached by another link of this machine already. */
export async function requireFreeSubnets(definition: NatNetworkDefinition, scope: NetworkScope = {}): Promise<void> {
  const used = await listUsedSubnets(scope);
  for (const field of ['ipv4', 'ipv6'] as const) {
    const cidr = definition[field]?.cidr;
    if (cidr === undefined) continue;
    const conflict = findOverlap(cidr, used, definition.bridgeName);
    if (conflict) throw new SubnetOverlapError(`${field}.cidr`, cidr, conflict);
  }
}

/** Makes the network's dnsmasq run as defined; null: it did already. The bridge must have its addresses. */
export function ensureNatDnsmasq(
  definition: NatNetworkDefinition,
  members: NatNetworkMembers,
  runtimeFolder: string,
  scope: NetworkScope = {},
): Promise<DnsmasqChange | null> {
  return ensureDnsmasq(dnsmasqServiceOf(definition, members, runtimeFolder), scope);
}

/** Ends the network's dnsmasq and deletes its files, leases included; false when there was nothing. */
export function removeNatDnsmasq(
  definition: Pick<NatNetworkDefinition, 'id'>,
  runtimeFolder: string,
): Promise<boolean> {
  return removeDnsmasq(dnsmasqFolder(definition, runtimeFolder));
}

/**
 * Deletes the bridge and with it its addresses; false when there is none, or one that this network did not make.
 * Rejects with {@link BridgeInUseError} while it has ports.
 */
export async function removeBridge(
  definition: Pick<NatNetworkDefinition, 'instance' | 'id' | 'bridgeName'>,
  scope: NetworkScope = {},
): Promise<boolean> {
  const { bridgeName: name, instance, id } = definition;
  const links = await listLinks(scope);
  const bridge = links.find((link) => link.name === name);
  if (bridge?.mark?.instance !== instance || bridge.mark.id !== id) return false;
  const ports = links.filter(({ master }) => master === name).map((link) => link.name);
  if (ports.length > 0) throw new BridgeInUseError(name, ports);
  return deleteLink(name, instance, scope);
}

/** Which families of addresses the machine has to forward for the network. */
export function familiesOf({ ipv4, ipv6, reach }: Pick<NatNetworkDefinition, 'ipv4' | 'ipv6' | 'reach'>): {
  ipv4: boolean;
  ipv6: boolean;
} {
  return { ipv4: ipv4 !== null && reach !== 'none', ipv6: ipv6 !== null && reach !== 'none' };
}

function requireOwnBridge(definition: NatNetworkDefinition, link: Link): void {
  const { mark, kind, alias } = link;
  if (
    kind === 'bridge' &&
    mark?.instance === definition.instance &&
    mark.kind === 'bridge' &&
    mark.id === definition.id
  )
    return;
  const what = kind === null ? 'a physical or built-in link' : `a link of kind ${kind}`;
  const owner = mark
    ? `${what} of Lodge's instance ${mark.instance} (${mark.kind} ${mark.id})`
    : `${what} that Lodge did not make${alias === null ? '' : ` (alias ${JSON.stringify(alias)})`}`;
  throw new BridgeNameTakenError(link.name, owner);
}

function compareBridge(definition: NatNetworkDefinition, bridge: Link | null): string[] {
  const { bridgeName: name, mtu = 1500 } = definition;
  if (!bridge) return [`the bridge ${name} is missing`];
  try {
    requireOwnBridge(definition, bridge);
  } catch (error) {
    if (error instanceof BridgeNameTakenError) return [error.message];
    throw error;
  }
  const differences: string[] = [];
  if (!bridge.isUp) differences.push(`the bridge ${name} is down`);
  if (bridge.mtu !== mtu) differences.push(`the MTU of ${name} is ${bridge.mtu}, not ${mtu}`);
  const macAddress = bridgeMac(definition);
  if (bridge.macAddress !== macAddress) {
    differences.push(`the MAC address of ${name} is ${bridge.macAddress}, not ${macAddress}`);
  }
  return differences;
}

interface AddressDifference {
  readonly cidr: string;
  readonly isMissing: boolean;
  readonly detail: string;
}

function compareAddresses(definition: NatNetworkDefinition, bridge: Link): AddressDifference[] {
  const { bridgeName: name } = definition;
  const { ipv4, ipv6 } = definition;
  const wanted = [ipv4, ipv6].flatMap((addresses) => (addresses ? [canonical(addresses.cidr)] : []));
  // Router advertisements come from an address of the link itself.
  if (ipv6) wanted.push(`${linkLocalOf(bridgeMac(definition))}/64`);
  const found = bridge.addresses.map(({ address, prefixLength }) => canonical(`${address}/${prefixLength}`));
  return [
    ...found
      .filter((cidr) => !wanted.includes(cidr))
      .map((cidr) => ({ cidr, isMissing: false, detail: `${name} has the address ${cidr} of somebody else` })),
    ...wanted
      .filter((cidr) => !found.includes(cidr))
      .map((cidr) => ({ cidr, isMissing: true, detail: `${name} lacks its address ${cidr}` })),
  ];
}

function canonical(text: string): string {
  const cidr = parseCidr(text);
  if (!cidr) throw new RangeError(`${JSON.stringify(text)} is no address with a prefix length such as 10.88.0.1/24`);
  return formatCidr(cidr);
}

/**
 * The addresses of a block when nobody chose: the first is the router's, ten (in a small block two) stay for others, the
 * rest is given out, of IPv6 the first 65,526.
 */
export function defaultDhcpAddresses(block: string): DhcpAddresses {
  const cidr = parseCidr(block);
  if (!cidr) throw new RangeError(`${JSON.stringify(block)} is no block such as 10.88.0.0/24`);
  const { first, last } = boundsOf(cidr);
  const size = last.value - first.value + 1n;
  const skipped = size >= 64n ? 10n : 2n;
  // The last address of an IPv4 block is its broadcast address.
  const end = first.family === 4 ? size - 2n : size > 0xffffn ? 0xffffn : size - 1n;
  const [router, rangeFirst, rangeLast] = [1n, skipped, end].map((offset) => addToIp(first, offset));
  if (end < skipped || !router || !rangeFirst || !rangeLast) {
    throw new RangeError(`${block} has no room for guests: use a shorter prefix`);
  }
  return {
    cidr: formatCidr({ address: router, prefixLength: cidr.prefixLength }),
    rangeFirst: formatIp(rangeFirst),
    rangeLast: formatIp(rangeLast),
  };
}
