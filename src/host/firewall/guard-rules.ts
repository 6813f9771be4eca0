// What keeps a guest from sending under others' addresses, as rules of nftables. Pure.
import { parseIp } from '../../lib/ip-address.ts';
import { type RulesetSet } from './filter-ruleset.ts';
import { commented, disjoint, noneOf, shortHash } from './filter-text.ts';
import { type AddressOwners, type SpoofGuard } from './nic-filter.ts';

/** Known addresses of a network, as sets, and whose they are. */
export interface OwnedAddresses {
  readonly sets: ReadonlyMap<string, RulesetSet>;
  /** By MAC address, as they are written. */
  readonly ipv4: ReadonlyMap<string, readonly string[]>;
  readonly ipv6: ReadonlyMap<string, readonly string[]>;
  /** IPv6 addresses as numbers. */
  readonly targets: ReadonlyMap<string, readonly string[]>;
}

/** Rules by what they were made for: the same array for the same guard. */
const knownGuards = new Map<string, readonly string[]>();
const maxKnownGuards = 20_000;

function drop(match: string, why: string): string {
  return commented(`${match} counter drop`, `anti-spoofing: ${why}`);
}

/** For every NIC, guarded or not: what has a VLAN tag is not sent. */
export const tagRules: readonly string[] = [drop('ether type { 8021q, 8021ad }', 'VLAN tag')];

/** What no guarded NIC may send, whatever its addresses. */
export const commonGuardRules: readonly string[] = [
  ...tagRules,
  drop('udp sport { 67, 547 }', 'DHCP server'),
  drop('icmpv6 type { 134, 137 }', 'router advertisement'),
];

/** What a NIC may send; `common`: the chain of {@link commonGuardRules}. */
export function guardRules(guard: SpoofGuard, owned: OwnedAddresses, common: string): readonly string[] {
  const own = [owned.ipv4, owned.ipv6, owned.targets].map((all) => all.get(guard.mac) ?? []);
  const key = JSON.stringify([guard, own, common]);
  const known = knownGuards.get(key);
  if (known) return known;
  const rules = makeGuardRules(guard, own, common);
  if (knownGuards.size >= maxKnownGuards) knownGuards.clear();
  knownGuards.set(key, rules);
  return rules;
}

function makeGuardRules(
  { mac, ipv4Only, ipv6Only, ipv4Prefix, ipv6Prefix, network }: SpoofGuard,
  [known4 = [], known6 = [], targets = []]: readonly (readonly string[])[],
  common: string,
): string[] {
  const rules = [drop(`ether saddr != ${mac}`, 'MAC address'), drop(`arp saddr ether != ${mac}`, 'ARP')];
  const own4 = ipv4Only ?? (ipv4Prefix === null ? null : [ipv4Prefix]);
  const own6 = ipv6Only ?? (ipv6Prefix === null ? null : [ipv6Prefix]);
  // While it has no address, a guest asks for one without: RFC 2131, RFC 5227, RFC 4862.
  if (own4) {
    const allowed = disjoint(['0.0.0.0', ...own4], 4);
    rules.push(drop(noneOf('arp saddr ip', allowed), 'ARP'), drop(noneOf('ip saddr', allowed), 'IPv4 address'));
  }
  if (own6) rules.push(drop(noneOf('ip6 saddr', disjoint(['::', 'fe80::/10', ...own6], 6)), 'IPv6 address'));
  const name = shortHash(network);
  const other = (match: string, own: readonly string[], set: string): string =>
    `${own.length === 0 ? '' : `${noneOf(match, own)} `}${match} @${set}`;
  rules.push(
    drop(other('arp saddr ip', known4, `o4_${name}`), 'ARP of another'),
    drop(other('ip saddr', known4, `o4_${name}`), 'IPv4 address of another'),
    drop(other('ip6 saddr', known6, `o6_${name}`), 'IPv6 address of another'),
    // The target of a neighbour advertisement stands 8 bytes into ICMPv6: RFC 4861, 4.4.
    drop(`icmpv6 type 136 ${other('@th,64,128', targets, `t6_${name}`)}`, 'neighbour advertisement of another'),
    commented(`goto ${common}`, 'anti-spoofing: what no guest may send'),
  );
  return rules;
}

/** The sets of the addresses that are known of a network. */
export function ownedAddresses(network: string, owners: AddressOwners['owners']): OwnedAddresses {
  const name = shortHash(network);
  const sets = new Map<string, RulesetSet>();
  const add = (family: 4 | 6, set: string, declaration: string, write: (address: string) => string) => {
    const byMac = new Map<string, string[]>();
    const elements: string[] = [];
    for (const { address, mac } of owners) {
      if (parseIp(address)?.family !== family) continue;
      const text = write(address);
      elements.push(text);
      if (mac !== null) byMac.set(mac, [...(byMac.get(mac) ?? []), text]);
    }
    sets.set(set, { declaration, elements });
    return byMac;
  };
  return {
    ipv4: add(4, `o4_${name}`, 'type ipv4_addr;', (address) => address),
    ipv6: add(6, `o6_${name}`, 'type ipv6_addr;', (address) => address),
    targets: add(6, `t6_${name}`, 'typeof @th,64,128;', hexOf),
    sets,
  };
}

function hexOf(address: string): string {
  return `0x${(parseIp(address)?.value ?? 0n).toString(16).padStart(32, '0')}`;
}
