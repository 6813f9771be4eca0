// From what users wrote (groups, address sets, policies, networks, VMs) to what counts for each NIC: ordered rules with their
// origin, and the sets they refer to. Pure: the same for whoever loads it, explains it, or tries it in shadow.
//
//   groups of the NIC ∪ of its network ∪ of the project ─▶ with what they include ─▶ enabled rules of one direction
//     ─▶ sorted by priority, deny before allow, nearer before farther ─▶ default of network, else project, else built in
import { isDeepStrictEqual } from 'node:util';
import { type AddressSet } from '../../api/address-set.ts';
import { type FirewallPolicy } from '../../api/firewall-policy.ts';
import { type RuleOrigin } from '../../api/firewall.ts';
import { type Network, type NetworkModeName } from '../../api/network.ts';
import {
  icmpTypes,
  icmpv6Types,
  type RulePeer,
  type RuleDirection,
  type RuleProtocol,
  type SecurityGroup,
  type SecurityRule,
} from '../../api/security-group.ts';
import { type Vm } from '../../api/vm.ts';
import { type VmNic } from '../../api/vm-spec.ts';
import {
  type AddressOwners,
  type FilterPeer,
  type FilterPlan,
  type FilterRule,
  type FilterSet,
  type NicFilter,
  type PortRange,
  type SpoofGuard,
} from '../../host/firewall/nic-filter.ts';
import { formatCidr, formatIp, linkLocalOf, networkOf, parseCidr, parseIp } from '../../lib/ip-address.ts';
import { parseSelector } from '../store/selector.ts';
import { assignMacs, bytesOf } from '../vm/hardware.ts';

/** All that has a say, as it is at one moment. */
export interface FirewallWorld {
  readonly groups: readonly SecurityGroup[];
  readonly addressSets: readonly AddressSet[];
  /** By project. */
  readonly policies: ReadonlyMap<string, FirewallPolicy>;
  readonly networks: readonly Network[];
  readonly vms: readonly Vm[];
  /** Addresses that the networks’ DHCP servers gave, by MAC address. */
  readonly leases: ReadonlyMap<string, readonly string[]>;
  /** Addresses of DNS names, as they were looked up last. */
  readonly names: ReadonlyMap<string, readonly string[]>;
  /** The link on this host that a NIC is connected by; null: none. */
  readonly linkOf: (network: Network, vmId: string, mac: string) => string | null;
}

/** A rule that counts for a NIC. */
export interface NicRule extends FilterRule {
  readonly name: string;
  readonly origin: RuleOrigin;
  readonly direction: RuleDirection;
  readonly priority: number;
  /** What it matches, in words. */
  readonly text: string;
}

export interface NicDirection {
  readonly rules: readonly NicRule[];
  readonly otherwise: 'allow' | 'deny';
  /** Who says so. */
  readonly otherwiseOrigin: RuleOrigin;
}

/** What counts for one NIC. */
export interface NicRules {
  readonly vm: Vm;
  /** Place in spec.nics; of one that the spec has no more, in those it was started with. */
  readonly index: number;
  readonly mac: string;
  /** Null: there is no such network. */
  readonly network: Network | null;
  readonly link: string | null;
  readonly groups: readonly { readonly group: SecurityGroup; readonly via: 'nic' | 'network' | 'project' }[];
  /** Known of it, canonical: reserved, leased, derived from its MAC address, declared. */
  readonly addresses: readonly string[];
  readonly ingress: NicDirection;
  readonly egress: NicDirection;
  readonly isHostAllowed: boolean;
  readonly guard: SpoofGuard | null;
  /** Why it can't be filtered; null: it is. */
  readonly unfiltered: string | null;
  /** What it names and isn't there: such a group counts as one without rules. */
  readonly missing: readonly string[];
}

/** Why NICs on a network of a mode can't be filtered. */
const unfilterable: Partial<Record<NetworkModeName, string>> = {
  user: 'its network is inside QEMU (mode user), where this host sees no frames of it',
  macvtap: 'its frames go straight to the interface of the host (mode macvtap), past every bridge and filter',
  ovs: 'it is a port of Open vSwitch (mode ovs), past the filters of the kernel’s bridges',
};

/** Why NICs on a network can't be filtered; null: they can. */
export function whyUnfiltered({ spec }: Pick<Network, 'spec'>): string | null {
  const why = unfilterable[spec.mode];
  if (why !== undefined) return why;
  return spec.vlan?.trunk ? 'it gets frames with VLAN tags (trunk), whose connections are not followed' : null;
}

/** What counts for every NIC of every VM: of those that run, for the NICs they have and those they are about to get. */
export function effectiveNics(world: FirewallWorld): NicRules[] {
  const index = indexOf(world);
  const nics = world.vms.flatMap((vm) => nicsOf(vm).map((nic) => rulesOfNic(world, index, vm, nic)));
  lastDirections = index.directions;
  return nics;
}

/** What the kernel is to filter. */
export function filterPlan(world: FirewallWorld, nics: readonly NicRules[] = effectiveNics(world)): FilterPlan {
  const filters = nics.flatMap((nic): NicFilter[] =>
    nic.link === null || nic.unfiltered !== null
      ? []
      : [
          {
            link: nic.link,
            addresses: nic.addresses,
            ingress: nic.ingress,
            egress: nic.egress,
            isHostAllowed: nic.isHostAllowed,
            guard: nic.guard,
          },
        ],
  );
  const used = new Set<string>();
  for (const { rules } of new Set(filters.flatMap(({ ingress, egress }) => [ingress, egress])))
    for (const { peers } of rules) for (const peer of peers ?? []) if (peer.kind === 'set') used.add(peer.set);
  return {
    nics: filters,
    sets: filterSets(world, nics, used),
    owners: addressOwners(world, nics),
  };
}

/** The sets with these keys, with who and what is in them now. */
export function filterSets(world: FirewallWorld, nics: readonly NicRules[], keys: ReadonlySet<string>): FilterSet[] {
  const members = new Map<string, NicRules[]>();
  for (const nic of nics)
    for (const { group } of nic.groups) {
      const key = groupKey(group);
      if (keys.has(key)) members.set(key, [...(members.get(key) ?? []), nic]);
    }
  return [...keys].toSorted().map((key): FilterSet => {
    const [kind, ...rest] = key.split(':');
    const text = rest.join(':');
    if (kind === 'group') return setOfNics(key, members.get(key) ?? []);
    if (kind === 'selector') return setOfNics(key, nics.filter(selectorTest(text)));
    if (kind === 'dns') return { key, blocks: (world.names.get(text) ?? []).toSorted(), links: [] };
    const found = world.addressSets.find(({ id }) => id === text);
    return { key, blocks: (found?.spec.addresses ?? []).flatMap(blockOf).toSorted(), links: [] };
  });
}

/** DNS names that enabled rules of a project name, or of all projects. */
export function dnsNamesOf(groups: readonly Pick<SecurityGroup, 'spec'>[]): Set<string> {
  return new Set(
    groups.flatMap(({ spec }) =>
      spec.rules.flatMap(({ isEnabled, peers }) =>
        isEnabled ? peers.flatMap(({ dnsName }) => (dnsName === undefined ? [] : [dnsName])) : [],
      ),
    ),
  );
}

/** A group with all that it includes, each once; a circle ends where it closes. */
export function withIncluded(group: SecurityGroup, find: (reference: string) => SecurityGroup | null): SecurityGroup[] {
  const all = new Map<string, SecurityGroup>();
  const add = (one: SecurityGroup): void => {
    if (all.has(one.id)) return;
    all.set(one.id, one);
    for (const reference of one.spec.includes) {
      const included = find(reference);
      if (included) add(included);
    }
  };
  add(group);
  return [...all.values()];
}

/** What a rule matches, in words: “tcp 80, 443 from 10.0.0.0/8, group db”. */
export function ruleText(rule: SecurityRule): string {
  const { protocol, ports, icmpTypes: types, peers, direction } = rule;
  const what = protocol === 'any' ? 'everything' : typeof protocol === 'number' ? `protocol ${protocol}` : protocol;
  const detail = [...ports, ...types.map(String)].join(', ');
  const who = peers.map(peerText).join(', ');
  const side = direction === 'ingress' ? 'from' : 'to';
  return `${what}${detail === '' ? '' : ` ${detail}`} ${side} ${who === '' ? 'anybody' : who}`;
}

/** One peer, in words. */
export function peerText({ cidr, addressSet, securityGroup, selector, dnsName }: RulePeer): string {
  if (cidr !== undefined) return cidr;
  if (addressSet !== undefined) return `address set ${addressSet}`;
  if (securityGroup !== undefined) return `group ${securityGroup}`;
  if (selector !== undefined) return `VMs with ${selector}`;
  return dnsName ?? 'nobody';
}

/** A prefix without host bits, or an address, as it is kept: canonical, and an address without a length. Nothing: it is none. */
export function blockOf(text: string): string[] {
  const address = parseIp(text);
  if (address) return [formatIp(address)];
  const cidr = parseCidr(text);
  if (!cidr) return [];
  const isOne = cidr.prefixLength === (cidr.address.family === 4 ? 32 : 128);
  return [isOne ? formatIp(cidr.address) : formatCidr(networkOf(cidr))];
}

/** The number of a protocol over IP; null: any. */
export function protocolNumber(protocol: RuleProtocol): number | null {
  if (typeof protocol === 'number') return protocol;
  return { any: null, tcp: 6, udp: 17, icmp: 1, icmpv6: 58, sctp: 132 }[protocol];
}

/** The number of a type of ICMP or ICMPv6; null: there is none of this name. */
export function icmpTypeNumber(protocol: RuleProtocol, type: string | number): number | null {
  if (typeof type === 'number') return type;
  return (protocol === 'icmpv6' || protocol === 58 ? icmpv6Types : icmpTypes)[type] ?? null;
}

/** A port or range as it was written; null: its ends are no ports, or the wrong way round. */
export function portRange(text: string): PortRange | null {
  const [first = 0, last = first] = text.split('-').map(Number);
  return first >= 1 && first <= last && last <= 65_535 ? { first, last } : null;
}

interface WorldIndex {
  group: (project: string, reference: string) => SecurityGroup | null;
  addressSet: (project: string, reference: string) => AddressSet | null;
  network: (project: string, reference: string) => Network | null;
  /** Rules of a group in one direction, made once for all NICs in it. */
  rules: Map<string, readonly NicRule[]>;
  /** What counts in one direction, made once for all NICs in the same groups. */
  directions: Map<string, KnownDirection>;
}

// Of many NICs, a change touches the rules of few. What it doesn't touch is given again as the very same objects, by which
// whoever renders it knows that it has done so before. Objects of the store are never changed, only replaced.

interface KnownDirection {
  /** The rules of each group. */
  parts: readonly (readonly NicRule[])[];
  made: NicDirection;
}

/** Those of the world that was looked at last. */
let lastDirections: ReadonlyMap<string, KnownDirection> = new Map();

/** Rules by what a group says, by direction, via, name and project; with what their references meant. */
const knownRules = new WeakMap<SecurityGroup['spec'], Map<string, { references: string; rules: readonly NicRule[] }>>();

function indexOf({ groups, addressSets, networks }: FirewallWorld): WorldIndex {
  const finder = <Item extends { id: string; name: string; project: string }>(items: readonly Item[]) => {
    const all = new Map<string, Item>();
    for (const item of items) {
      all.set(`${item.project}/${item.name}`, item);
      all.set(`${item.project}/${item.id}`, item);
    }
    return (project: string, reference: string): Item | null => all.get(`${project}/${reference}`) ?? null;
  };
  return {
    group: finder(groups),
    addressSet: finder(addressSets),
    network: finder(networks),
    rules: new Map(),
    directions: new Map(),
  };
}

interface PlacedNic {
  nic: VmNic;
  mac: string;
  index: number;
}

/** The NICs that a VM is to have, and those that it has besides while it runs. What the firewall is told of them counts at once. */
function nicsOf(vm: Vm): PlacedNic[] {
  const macs = assignMacs(vm.spec.nics, vm.status.nics, new Set(), bytesOf(vm.id));
  const wanted = vm.spec.nics.map((nic, index) => ({ nic, mac: nic.mac ?? macs[index] ?? '', index }));
  const { startedSpec } = vm.status;
  if (!startedSpec) return wanted;
  const has = startedSpec.nics.map((nic, index) => ({ nic, mac: nic.mac ?? vm.status.nics[index]?.mac ?? '', index }));
  const now = has.map((one) => {
    const same = wanted.find(({ mac }) => mac === one.mac);
    if (!same) return one;
    const { securityGroups, hasAntiSpoofing, allowedAddresses } = same.nic;
    // It stays on its network until it is taken off, and has the address that it was started with.
    return { ...one, index: same.index, nic: { ...one.nic, securityGroups, hasAntiSpoofing, allowedAddresses } };
  });
  return [...now, ...wanted.filter(({ mac }) => !has.some((one) => one.mac === mac))];
}

function rulesOfNic(world: FirewallWorld, index: WorldIndex, vm: Vm, { nic, mac, index: place }: PlacedNic): NicRules {
  const network = index.network(vm.project, nic.network);
  const policy = world.policies.get(vm.project);
  const onNetwork = network?.spec.firewall;
  const groups: { group: SecurityGroup; via: 'nic' | 'network' | 'project' }[] = [];
  const missing: string[] = [];
  let named = 0;
  for (const [via, references] of [
    ['nic', nic.securityGroups],
    ['network', onNetwork?.securityGroups],
    ['project', policy?.securityGroups],
  ] as const)
    for (const reference of references ?? []) {
      named++;
      const group = index.group(vm.project, reference);
      if (!group) missing.push(reference);
      else if (!groups.some((one) => one.group.id === group.id)) groups.push({ group, via });
    }
  const addresses = addressesOf(world, network, nic, mac);
  const direction = (which: RuleDirection): NicDirection => {
    const inGroups = groups.map(({ group, via }) => `${group.id} ${via}`);
    const key = [which, vm.project, onNetwork?.[which] && network?.name, named > 0, ...inGroups].join(' ');
    const known = index.directions.get(key);
    if (known) return known.made;
    const parts = groups.flatMap(({ group, via }) =>
      withIncluded(group, (reference) => index.group(vm.project, reference)).map((one) =>
        rulesOfGroup(index, one, which, via),
      ),
    );
    const last = lastDirections.get(key);
    const isKnown = last?.parts.length === parts.length && last.parts.every((part, place) => part === parts[place]);
    const rules = isKnown ? last.made.rules : sortRules(parts.flat());
    const made = { rules, ...defaultOf(which, { onNetwork, network, policy, rules, isInGroup: named > 0 }) };
    const same = isKnown && isDeepStrictEqual({ ...made, rules: null }, { ...last.made, rules: null });
    index.directions.set(key, same ? last : { parts, made });
    return same ? last.made : made;
  };
  return {
    vm,
    index: place,
    mac,
    network,
    link: network && world.linkOf(network, vm.id, mac),
    groups,
    addresses,
    ingress: direction('ingress'),
    egress: direction('egress'),
    isHostAllowed: onNetwork?.isHostAllowed ?? policy?.isHostAllowed ?? true,
    guard: (nic.hasAntiSpoofing ?? true) && network ? guardOf(network, nic, mac, addresses) : null,
    unfiltered: network ? whyUnfiltered(network) : 'there is no such network',
    missing,
  };
}

function rulesOfGroup(
  index: WorldIndex,
  group: SecurityGroup,
  direction: RuleDirection,
  via: 'nic' | 'network' | 'project',
): readonly NicRule[] {
  const key = `${direction} ${via} ${group.id}`;
  const known = index.rules.get(key);
  if (known) return known;
  const rules = rulesOfSpec(index, group, direction, via);
  index.rules.set(key, rules);
  return rules;
}

function rulesOfSpec(
  index: WorldIndex,
  group: SecurityGroup,
  direction: RuleDirection,
  via: 'nic' | 'network' | 'project',
): readonly NicRule[] {
  let all = knownRules.get(group.spec);
  if (!all) knownRules.set(group.spec, (all = new Map()));
  const key = `${direction} ${via} ${group.name} ${group.project}`;
  const references = group.spec.rules
    .flatMap(({ peers }) => peers.filter((peer) => (peer.addressSet ?? peer.securityGroup) !== undefined))
    .map((peer) => filterPeers(index, group.project, peer).map((one) => (one.kind === 'set' ? one.set : '')))
    .join(' ');
  const known = all.get(key);
  if (known?.references === references) return known.rules;
  const rules = group.spec.rules
    .filter((rule) => rule.isEnabled && rule.direction === direction)
    .map((rule): NicRule => ({
      id: `${group.name}/${rule.name}`,
      name: rule.name,
      origin: { kind: 'security-group', name: group.name, via },
      direction,
      priority: rule.priority,
      text: ruleText(rule),
      action: rule.action,
      protocol: protocolNumber(rule.protocol),
      ports: rule.ports.flatMap((text) => portRange(text) ?? []),
      icmpTypes: rule.icmpTypes.flatMap((type) => icmpTypeNumber(rule.protocol, type) ?? []),
      peers: rule.peers.length === 0 ? null : rule.peers.flatMap((peer) => filterPeers(index, group.project, peer)),
      connectionLimit: rule.action === 'allow' ? (rule.connectionLimit ?? null) : null,
      isLogged: rule.isLogged,
    }));
  all.set(key, { references, rules });
  return rules;
}

function filterPeers(index: WorldIndex, project: string, peer: RulePeer): FilterPeer[] {
  if (peer.cidr !== undefined) return blockOf(peer.cidr).map((cidr) => ({ kind: 'block', cidr }));
  if (peer.addressSet !== undefined) {
    const found = index.addressSet(project, peer.addressSet);
    return found ? [{ kind: 'set', set: `addresses:${found.id}` }] : [];
  }
  if (peer.securityGroup !== undefined) {
    const found = index.group(project, peer.securityGroup);
    return found ? [{ kind: 'set', set: groupKey(found) }] : [];
  }
  if (peer.selector !== undefined) return [{ kind: 'set', set: `selector:${project}:${peer.selector}` }];
  return peer.dnsName === undefined ? [] : [{ kind: 'set', set: `dns:${peer.dnsName}` }];
}

/** Sorted as they are looked at. The sort is stable: of equals, the group that is named first, and its rule that is written first. */
function sortRules(rules: readonly NicRule[]): NicRule[] {
  const isAllow = ({ action }: NicRule): number => Number(action === 'allow');
  return rules.toSorted((one, other) => one.priority - other.priority || isAllow(one) - isAllow(other));
}

function defaultOf(
  direction: RuleDirection,
  given: {
    onNetwork: FirewallPolicy | undefined;
    network: Network | null;
    policy: FirewallPolicy | undefined;
    rules: readonly NicRule[];
    isInGroup: boolean;
  },
): Omit<NicDirection, 'rules'> {
  const { onNetwork, network, policy, rules, isInGroup } = given;
  const ofNetwork = onNetwork?.[direction];
  if (ofNetwork)
    return {
      otherwise: ofNetwork,
      otherwiseOrigin: { kind: 'network-policy', name: network?.name ?? null, via: null },
    };
  const ofProject = policy?.[direction];
  if (ofProject) return { otherwise: ofProject, otherwiseOrigin: { kind: 'project-policy', name: null, via: null } };
  const isClosed = direction === 'ingress' ? isInGroup : rules.some(({ action }) => action === 'allow');
  return { otherwise: isClosed ? 'deny' : 'allow', otherwiseOrigin: { kind: 'default', name: null, via: null } };
}

function addressesOf(world: FirewallWorld, network: Network | null, nic: VmNic, mac: string): string[] {
  const all = new Set<string>();
  for (const reserved of [nic.ipv4Address, nic.ipv6Address])
    if (reserved !== undefined) for (const block of blockOf(reserved)) all.add(block);
  for (const address of world.leases.get(mac) ?? []) for (const block of blockOf(address)) all.add(block);
  // RFC 4862: what a guest makes of the prefix that it is told, unless it hides its MAC address.
  const prefix = network?.status.ipv6Cidr ? parseCidr(network.status.ipv6Cidr) : null;
  const own = mac === '' ? null : parseIp(linkLocalOf(mac));
  if (prefix && own)
    all.add(formatIp({ family: 6, value: networkOf(prefix).address.value | (own.value & 0xffff_ffff_ffff_ffffn) }));
  for (const text of nic.allowedAddresses ?? [])
    for (const block of blockOf(text)) if (!block.includes('/')) all.add(block);
  return [...all];
}

function guardOf(network: Network, nic: VmNic, mac: string, addresses: readonly string[]): SpoofGuard {
  const declared = (nic.allowedAddresses ?? []).flatMap(blockOf);
  const isIpv6 = (text: string): boolean => text.includes(':');
  const only = (isOfFamily: (text: string) => boolean, isFixed: boolean): string[] | null =>
    isFixed || declared.some(isOfFamily)
      ? [...new Set([...addresses, ...declared].filter(isOfFamily))].toSorted()
      : null;
  return {
    mac,
    ipv4Only: only((text) => !isIpv6(text), nic.ipv4Address !== undefined),
    ipv6Only: only(isIpv6, false),
    ipv4Prefix: network.status.ipv4Cidr,
    ipv6Prefix: network.status.ipv6Cidr,
    network: network.id,
  };
}

function addressOwners({ networks }: FirewallWorld, nics: readonly NicRules[]): AddressOwners[] {
  return networks
    .filter((network) => whyUnfiltered(network) === null)
    .map((network) => {
      const owners = new Map<string, string | null>();
      for (const nic of nics)
        if (nic.network?.id === network.id && nic.guard)
          for (const address of nic.addresses) if (!owners.has(address)) owners.set(address, nic.mac);
      for (const gateway of [network.status.gateway, network.status.ipv6Gateway])
        if (gateway) owners.set(gateway, null);
      return { network: network.id, owners: [...owners].map(([address, mac]) => ({ address, mac })) };
    });
}

function groupKey({ id }: SecurityGroup): string {
  return `group:${id}`;
}

function setOfNics(key: string, nics: readonly NicRules[]): FilterSet {
  const links = nics.flatMap(({ link, unfiltered }) => (link === null || unfiltered !== null ? [] : [link]));
  return {
    key,
    blocks: [...new Set(nics.flatMap(({ addresses }) => addresses))].toSorted(),
    links: [...new Set(links)].toSorted(),
  };
}

/** Whether a NIC is one of a project's VMs with certain labels: `PROJECT:SELECTOR`. */
function selectorTest(text: string): (nic: NicRules) => boolean {
  const at = text.indexOf(':');
  const project = text.slice(0, at);
  const isSelected = parseSelector(text.slice(at + 1));
  return ({ vm }) => vm.project === project && isSelected(vm.labels);
}
