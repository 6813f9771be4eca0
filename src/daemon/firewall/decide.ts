// What becomes of a connection, by the rules that count for a NIC: the one evaluation of rules outside the kernel, for
// explanations and for trying a policy in shadow. Pure.
import { type FilterPeer, type FilterRule, type FilterSet } from '../../host/firewall/nic-filter.ts';
import { isInside, parseCidr, parseIp, type IpAddress } from '../../lib/ip-address.ts';
import { type NicDirection, type NicRule } from './effective-rules.ts';

/** What begins a connection, as one side sees it. */
export interface FirstPacket {
  /** Number of the protocol over IP. */
  readonly protocol: number;
  /** Port that is connected to; null: not known, or there are none. */
  readonly port: number | null;
  readonly icmpType: number | null;
  /** Of the other side; null: not known. */
  readonly peerAddress: string | null;
  /** Port of this host's bridges that the other side is behind; null: it is no guest here. */
  readonly peerLink: string | null;
}

export interface Decision {
  readonly verdict: 'allow' | 'deny';
  /** Null: the default. */
  readonly rule: NicRule | null;
}

/** The first rule that matches, else the default. */
export function decide(direction: NicDirection, packet: FirstPacket, sets: ReadonlyMap<string, FilterSet>): Decision {
  const rule = direction.rules.find((one) => isMatch(one, packet, sets));
  return rule ? { verdict: rule.action, rule } : { verdict: direction.otherwise, rule: null };
}

export function isMatch(rule: FilterRule, packet: FirstPacket, sets: ReadonlyMap<string, FilterSet>): boolean {
  const { protocol, ports, icmpTypes, peers } = rule;
  if (protocol !== null && protocol !== packet.protocol) return false;
  const { port, icmpType } = packet;
  if (ports.length > 0 && (port === null || !ports.some(({ first, last }) => first <= port && port <= last)))
    return false;
  if (icmpTypes.length > 0 && (icmpType === null || !icmpTypes.includes(icmpType))) return false;
  if (peers === null) return true;
  const address = packet.peerAddress === null ? null : parseIp(packet.peerAddress);
  return peers.some((peer) => isPeer(peer, address, packet.peerLink, sets));
}

function isPeer(
  peer: FilterPeer,
  address: IpAddress | null,
  link: string | null,
  sets: ReadonlyMap<string, FilterSet>,
): boolean {
  if (peer.kind === 'block') return address !== null && isInBlock(address, peer.cidr);
  const set = sets.get(peer.set);
  if (!set) return false;
  if (link !== null && set.links.includes(link)) return true;
  return address !== null && set.blocks.some((block) => isInBlock(address, block));
}

/** Whether an address is this one, or in this prefix. */
export function isInBlock(address: IpAddress, block: string): boolean {
  const one = parseIp(block);
  if (one) return one.family === address.family && one.value === address.value;
  const cidr = parseCidr(block);
  return cidr !== null && isInside(address, cidr);
}
