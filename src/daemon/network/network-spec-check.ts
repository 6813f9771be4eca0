// What a network may be asked to be, checked before anything is made of it. Pure.
import { LodgeError, invalidField } from '../../api/errors.ts';
import { type Network, type NetworkSpec } from '../../api/network.ts';
import {
  boundsOf,
  compareIp,
  formatCidr,
  isInside,
  networkOf,
  overlaps,
  parseCidr,
  parseIp,
} from '../../lib/ip-address.ts';

/** Blocks that no guest can have an address of: RFC 6890. */
const unusable = ['0.0.0.0/8', '127.0.0.0/8', '169.254.0.0/16', '224.0.0.0/4', '240.0.0.0/4'].map((text) =>
  parseCidr(text)!,
);
/** What Linux itself calls by these names in /proc/sys/net. */
const kernelNames = new Set(['all', 'default', 'lo']);
/** The largest MTU dnsmasq can tell guests of. */
const maxDhcpMtu = 65_521;

/** Throws invalid_request that names the field. */
export function checkNetworkSpec(spec: NetworkSpec): void {
  const { ipv4Cidr, bridge, mtu } = spec;
  if (ipv4Cidr !== undefined) checkCidr(ipv4Cidr);
  checkDhcp(spec);
  if (bridge !== undefined && spec.mode !== 'nat')
    throw invalidField('spec.bridge', 'is for networks in mode nat', bridge);
  if (bridge !== undefined && kernelNames.has(bridge))
    throw invalidField('spec.bridge', 'is a name that Linux keeps for itself', bridge);
  if (spec.mode === 'nat' && spec.dhcp.isEnabled && mtu > maxDhcpMtu)
    throw invalidField('spec.mtu', `is at most ${maxDhcpMtu} with DHCP`, mtu);
}

function checkCidr(text: string): void {
  const cidr = parseCidr(text);
  if (!cidr || cidr.prefixLength < 8 || cidr.prefixLength > 29)
    throw invalidField('spec.ipv4Cidr', 'is a prefix from /8 to /29', text);
  if (unusable.some((block) => overlaps(block, cidr)))
    throw invalidField(
      'spec.ipv4Cidr',
      'is not for networks of guests: take one of 10.0.0.0/8 or 192.168.0.0/16',
      text,
    );
  const block = networkOf(cidr);
  if (compareIp(block.address, cidr.address) !== 0)
    throw invalidField('spec.ipv4Cidr', `has bits beyond its prefix set: it is ${formatCidr(block)}`, text);
}

function checkDhcp({ dhcp, ipv4Cidr }: NetworkSpec): void {
  const { firstAddress, lastAddress } = dhcp;
  if ((firstAddress === undefined) !== (lastAddress === undefined))
    throw invalidField('spec.dhcp', 'takes firstAddress and lastAddress together', dhcp);
  for (const [field, address] of Object.entries({ firstAddress, lastAddress })) {
    if (address === undefined) continue;
    if (ipv4Cidr === undefined) throw invalidField(`spec.dhcp.${field}`, 'needs spec.ipv4Cidr', address);
    if (!isWithin(ipv4Cidr, address)) throw invalidField(`spec.dhcp.${field}`, `is not in ${ipv4Cidr}`, address);
    if (!isWithin(ipv4Cidr, address, { isHost: true }))
      throw invalidField(`spec.dhcp.${field}`, `is an address of ${ipv4Cidr} that no guest can have`, address);
  }
  const [first, last] = [parseIp(firstAddress ?? ''), parseIp(lastAddress ?? '')];
  if (first && last && compareIp(first, last) > 0)
    throw invalidField('spec.dhcp.firstAddress', `stands after lastAddress ${lastAddress}`, firstAddress);
}

/** Whether an IPv4 address lies in a prefix; with `isHost`, as one that a guest can have. */
export function isWithin(cidr: string, address: string, { isHost = false } = {}): boolean {
  const block = parseCidr(cidr);
  const ip = parseIp(address);
  if (!block || !ip || ip.family !== block.address.family || !isInside(ip, block)) return false;
  const { first, last } = boundsOf(block);
  return !isHost || (compareIp(ip, first) !== 0 && compareIp(ip, last) !== 0);
}

/** Refuses a prefix that has addresses in common with that of another network of Lodge's. */
export function requireNoOverlap({ ipv4Cidr }: NetworkSpec, other: Network): void {
  const taken = other.spec.ipv4Cidr ?? other.status.ipv4Cidr;
  const [wanted, theirs] = [parseCidr(ipv4Cidr ?? ''), parseCidr(taken ?? '')];
  if (!wanted || !theirs || !overlaps(wanted, theirs)) return;
  const message = `${ipv4Cidr} overlaps ${taken} of network ${other.name}`;
  throw new LodgeError('host_conflict', `spec.ipv4Cidr: ${message}.`, {
    fields: [{ field: 'spec.ipv4Cidr', message, value: ipv4Cidr }],
    hint: 'Choose another prefix, or none: Lodge picks a free one.',
  });
}
