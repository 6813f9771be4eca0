// What is refused of security groups, address sets and policies before anything changes. Pure: what there is, is given.
import { invalidField, LodgeError } from '../../api/errors.ts';
import { type AddressSet, type AddressSetSpec } from '../../api/address-set.ts';
import { type FirewallPolicy } from '../../api/firewall-policy.ts';
import { type Network } from '../../api/network.ts';
import {
  icmpTypes,
  icmpv6Types,
  maxNicRules,
  peerKinds,
  type RulePeer,
  type SecurityGroup,
  type SecurityGroupSpec,
  type SecurityRule,
} from '../../api/security-group.ts';
import { type VmNic } from '../../api/vm-spec.ts';
import { closestWord } from '../../lib/closest-word.ts';
import { compareIp, formatCidr, networkOf, parseCidr, parseIp } from '../../lib/ip-address.ts';
import { parseSelector } from '../store/selector.ts';
import { blockOf, dnsNamesOf, icmpTypeNumber, portRange, protocolNumber, whyUnfiltered } from './effective-rules.ts';

/** Most DNS names that the rules of a node may name. */
export const maxDnsNames = 256;

/** What rules may refer to, in the project of who refers. */
export interface Referable {
  groups: readonly SecurityGroup[];
  addressSets: readonly AddressSet[];
  networks: readonly Network[];
  /** Whether the host reaches its guests whatever the rules say. */
  isHostAllowed: boolean;
  /** DNS names that other groups of the node name. */
  otherNames: ReadonlySet<string>;
}

/** Throws for the field of a group that can't be. `self`: the group as it is called; its id too, when it is there already. */
export function checkGroup(
  self: { id: string | null; name: string; project: string },
  spec: SecurityGroupSpec,
  around: Referable,
): void {
  const seen = new Map<string, number>();
  for (const [index, rule] of spec.rules.entries()) {
    const field = `spec.rules.${index}`;
    const before = seen.get(rule.name);
    if (before !== undefined) throw invalidField(`${field}.name`, `is the name of rule ${before} too`, rule.name);
    seen.set(rule.name, index);
    checkRule(rule, field, self, around);
  }
  checkIncludes(self, spec, around);
  const names = new Set([...dnsNamesOf([{ spec }]), ...around.otherNames]);
  if (names.size > maxDnsNames)
    throw invalidField(
      'spec.rules',
      `with these the rules of the node name ${names.size} DNS names; at most ${maxDnsNames} are looked up`,
    );
}

function checkRule(
  rule: SecurityRule,
  field: string,
  self: { id: string | null; name: string; project: string },
  around: Referable,
): void {
  const { protocol, ports, icmpTypes: types, peers, action, connectionLimit } = rule;
  const number = protocolNumber(protocol);
  if (ports.length > 0 && number !== 6 && number !== 17 && number !== 132)
    throw invalidField(`${field}.ports`, `goes with protocol tcp, udp or sctp, not ${protocol}`, ports);
  for (const [index, text] of ports.entries())
    if (!portRange(text))
      throw invalidField(`${field}.ports.${index}`, 'is a port from 1 to 65535, or a range with the lower first', text);
  if (types.length > 0 && number !== 1 && number !== 58)
    throw invalidField(`${field}.icmpTypes`, `goes with protocol icmp or icmpv6, not ${protocol}`, types);
  for (const [index, type] of types.entries()) {
    if (icmpTypeNumber(protocol, type) !== null) continue;
    const known = Object.keys(number === 58 ? icmpv6Types : icmpTypes);
    const near = closestWord(String(type), known);
    throw invalidField(
      `${field}.icmpTypes.${index}`,
      `is a number from 0 to 255 or one of ${known.join(', ')}${near === null ? '' : `; did you mean ${near}?`}`,
      type,
    );
  }
  if (connectionLimit !== undefined && action !== 'allow')
    throw invalidField(`${field}.connectionLimit`, 'goes with action allow', connectionLimit);
  if (connectionLimit !== undefined && number === null)
    throw invalidField(`${field}.connectionLimit`, 'needs a protocol', connectionLimit);
  for (const [index, peer] of peers.entries()) checkPeer(peer, `${field}.peers.${index}`, self, around);
  checkFamilies(rule, field, number);
  requireHostReachable(rule, field, around);
}

function checkPeer(
  peer: RulePeer,
  field: string,
  self: { id: string | null; name: string; project: string },
  { groups, addressSets }: Referable,
): void {
  const given = peerKinds.filter((kind) => peer[kind] !== undefined);
  if (given.length !== 1) throw invalidField(field, `has exactly one of ${peerKinds.join(', ')}`, peer);
  if (peer.cidr !== undefined) checkBlock(peer.cidr, `${field}.cidr`);
  if (peer.selector !== undefined) parseSelector(peer.selector, `${field}.selector`);
  if (peer.addressSet !== undefined)
    requireNamed('address set', peer.addressSet, addressSets, `${field}.addressSet`, self);
  if (peer.securityGroup !== undefined && peer.securityGroup !== self.name && peer.securityGroup !== self.id)
    requireNamed('security group', peer.securityGroup, groups, `${field}.securityGroup`, self);
}

/** A rule whose protocol and prefixes are of different families would never match. */
function checkFamilies({ peers, protocol }: SecurityRule, field: string, number: number | null): void {
  const family = number === 1 ? 4 : number === 58 ? 6 : null;
  if (family === null || peers.length === 0) return;
  const isOther = ({ cidr }: RulePeer): boolean =>
    cidr !== undefined && (parseIp(cidr)?.family ?? parseCidr(cidr)?.address.family) !== family;
  if (peers.every(isOther))
    throw invalidField(`${field}.peers`, `has no IPv${family} prefix, so that ${protocol} never matches`, peers);
}

/** Nobody is to lock themselves out of their guests by mistake; who means it says so in the policy first. */
function requireHostReachable({ action, direction, peers }: SecurityRule, field: string, around: Referable): void {
  if (action !== 'deny' || direction !== 'ingress' || !around.isHostAllowed) return;
  for (const [index, { cidr }] of peers.entries()) {
    const address = cidr === undefined ? null : parseIp(blockOf(cidr)[0] ?? '');
    if (!address) continue;
    const network = around.networks.find(({ status }) =>
      [status.gateway, status.ipv6Gateway].some((own) => own !== null && isSame(own, address)),
    );
    if (!network) continue;
    const message = `is this host’s address on network ${network.name}: the rule would lock out management of the guests (lodge vm ssh, readiness checks)`;
    throw new LodgeError('invalid_request', `${field}.peers.${index}.cidr: ${message}`, {
      fields: [{ field: `${field}.peers.${index}.cidr`, message, value: cidr ?? null }],
      hint: 'If that is meant, say first that the host is a peer like any other: lodge firewall set isHostAllowed=false',
    });
  }
}

function isSame(text: string, address: ReturnType<typeof parseIp>): boolean {
  const parsed = parseIp(text);
  return parsed !== null && address !== null && compareIp(parsed, address) === 0;
}

/** Throws for an address set with something that is no address or prefix, or has host bits. */
export function checkAddressSet({ addresses }: AddressSetSpec): void {
  const seen = new Map<string, number>();
  for (const [index, text] of addresses.entries()) {
    const field = `spec.addresses.${index}`;
    checkBlock(text, field);
    const canonical = blockOf(text)[0] ?? text;
    const before = seen.get(canonical);
    if (before !== undefined) throw invalidField(field, `is entry ${before} too`, text);
    seen.set(canonical, index);
  }
}

/** Throws for what is no address and no prefix, or has bits beyond its prefix. */
export function checkBlock(text: string, field: string): void {
  if (parseIp(text)) return;
  const cidr = parseCidr(text);
  if (!cidr) throw invalidField(field, 'is an address or a prefix: 10.20.0.0/16, 192.0.2.7, fd00::/8', text);
  const block = networkOf(cidr);
  if (compareIp(block.address, cidr.address) !== 0)
    throw invalidField(
      field,
      `has bits beyond its prefix set: the prefix is ${formatCidr(block)}, the one address ${text.split('/')[0]}`,
      text,
    );
}

/** What a NIC asks of the firewall. `field`: spec.nics.0. */
export function checkNic(
  nic: Pick<VmNic, 'securityGroups' | 'hasAntiSpoofing' | 'allowedAddresses'>,
  network: Network,
  field: string,
  around: { groups: readonly SecurityGroup[]; project: string; policy: FirewallPolicy | undefined },
): void {
  const why = whyUnfiltered(network);
  if (why !== null)
    for (const asked of ['securityGroups', 'hasAntiSpoofing', 'allowedAddresses'] as const) {
      const value = nic[asked];
      if (value === undefined || value === false || (Array.isArray(value) && value.length === 0)) continue;
      const message = `can not be on network ${network.name}: ${why}`;
      throw new LodgeError('unsupported', `${field}.${asked}: ${message}`, {
        fields: [{ field: `${field}.${asked}`, message, value }],
        hint: 'Connect the NIC to a network in mode nat, routed, isolated, bridged or vlan (access).',
      });
    }
  for (const [index, text] of (nic.allowedAddresses ?? []).entries())
    checkBlock(text, `${field}.allowedAddresses.${index}`);
  const references = [
    ...(nic.securityGroups ?? []).map((name, index) => ({ name, field: `${field}.securityGroups.${index}` })),
    ...(network.spec.firewall?.securityGroups ?? []).map((name) => ({ name, field: `${field}.network` })),
    ...(around.policy?.securityGroups ?? []).map((name) => ({ name, field: `${field}.securityGroups` })),
  ];
  const named = references.map(({ name, field: place }) =>
    requireNamed('security group', name, around.groups, place, around),
  );
  for (const [index, group] of named.slice(0, nic.securityGroups?.length ?? 0).entries())
    if (named.indexOf(group) !== index)
      throw invalidField(`${field}.securityGroups.${index}`, 'is named twice', nic.securityGroups?.[index]);
  const count = countRules([...new Set(named)], around.groups);
  if (count > maxNicRules)
    throw invalidField(
      `${field}.securityGroups`,
      `its groups have ${count} rules together, those of its network and project counted; at most ${maxNicRules} can count for a NIC`,
    );
}

/** What a network or a project gives to every NIC. `field`: spec.firewall. */
export function checkPolicy(
  policy: FirewallPolicy,
  field: string,
  around: { groups: readonly SecurityGroup[]; project: string },
): void {
  const named = policy.securityGroups.map((name, index) =>
    requireNamed('security group', name, around.groups, `${field}.securityGroups.${index}`, around),
  );
  for (const [index, group] of named.entries())
    if (named.indexOf(group) !== index)
      throw invalidField(`${field}.securityGroups.${index}`, 'is named twice', policy.securityGroups[index]);
}

/** A policy on a network whose NICs nobody can filter would be without effect. */
export function checkNetworkPolicy(network: Pick<Network, 'spec'>): void {
  const why = network.spec.firewall ? whyUnfiltered(network) : null;
  if (why === null) return;
  throw new LodgeError('unsupported', `spec.firewall: NICs on this network can not be filtered: ${why}`, {
    fields: [{ field: 'spec.firewall', message: `can not be in this mode: ${why}`, value: network.spec.mode }],
    hint: 'Use mode nat, routed, isolated, bridged or vlan (access), or leave spec.firewall away.',
  });
}

function checkIncludes(
  self: { id: string | null; name: string; project: string },
  spec: SecurityGroupSpec,
  { groups }: Referable,
): void {
  const visit = (includes: readonly string[], path: readonly string[], field: (index: number) => string): void => {
    for (const [index, reference] of includes.entries()) {
      if (reference === self.name || reference === self.id) {
        const circle = [...path, self.name].join(' includes ');
        throw invalidField(field(index), `goes in a circle: ${circle}`, reference);
      }
      const included = requireNamed('security group', reference, groups, field(index), self);
      if (path.includes(included.name)) continue;
      visit(included.spec.includes, [...path, included.name], () => field(index));
    }
  };
  visit(spec.includes, [self.name], (index) => `spec.includes.${index}`);
  const included = spec.includes.map((reference) =>
    requireNamed('security group', reference, groups, 'spec.includes', self),
  );
  const count = spec.rules.length + countRules(included, groups);
  if (count > maxNicRules)
    throw invalidField(
      'spec.includes',
      `with what it includes the group has ${count} rules; at most ${maxNicRules} can count for a NIC`,
    );
}

/** Rules of groups with those that they include, each group once. */
function countRules(named: readonly SecurityGroup[], groups: readonly SecurityGroup[]): number {
  const all = new Set<SecurityGroup>();
  const add = (group: SecurityGroup): void => {
    if (all.has(group)) return;
    all.add(group);
    for (const reference of group.spec.includes) {
      const included = groups.find(({ id, name }) => name === reference || id === reference);
      if (included) add(included);
    }
  };
  for (const group of named) add(group);
  return [...all].reduce((sum, { spec }) => sum + spec.rules.length, 0);
}

function requireNamed<Item extends { id: string; name: string }>(
  noun: 'security group' | 'address set',
  reference: string,
  items: readonly Item[],
  field: string,
  { project }: { project: string },
): Item {
  const found = items.find(({ id, name }) => name === reference || id === reference);
  if (found) return found;
  const near = closestWord(
    reference,
    items.map(({ name }) => name),
  );
  const message = `there is no ${noun} "${reference}" in project "${project}"`;
  const verb = noun === 'address set' ? 'address-set' : 'security-group';
  throw new LodgeError('not_found', `${field}: ${message}`, {
    hint: near === null ? `Make it first: lodge ${verb} create ${reference}` : `Did you mean ${near}?`,
    fields: [{ field, message, value: reference }],
  });
}
