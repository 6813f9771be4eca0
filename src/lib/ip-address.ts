// Arithmetic on IPv4, IPv6 and MAC addresses and on CIDR blocks. Pure: text in, numbers and text out.
// Addresses are kept as bigint with their family, so that one set of functions serves both; text is always canonical
// (dotted decimal; RFC 5952 for IPv6; lower case with colons for MAC).

export type IpFamily = 4 | 6;

export interface IpAddress {
  readonly family: IpFamily;
  readonly value: bigint;
}

/** A block of addresses, or the address of an interface with the length of its prefix: `address` may have host bits. */
export interface Cidr {
  readonly address: IpAddress;
  readonly prefixLength: number;
}

const bitsOf = (family: IpFamily): number => (family === 4 ? 32 : 128);

/**
 * Reads an IPv4 address in dotted decimal or an IPv6 address (RFC 4291, also with a dotted tail). Null for anything
 * else: also for leading zeros, which some programs read as octal, and for zones (`%eth0`).
 */
export function parseIp(text: string): IpAddress | null {
  if (text.includes(':')) return parseIpv6(text);
  const value = parseDotted(text);
  return value === null ? null : { family: 4, value };
}

function parseDotted(text: string): bigint | null {
  const parts = text.split('.');
  if (parts.length !== 4) return null;
  let value = 0n;
  for (const part of parts) {
    if (!/^(0|[1-9]\d{0,2})$/.test(part) || Number(part) > 255) return null;
    value = value * 256n + BigInt(part);
  }
  return value;
}

function parseIpv6(text: string): IpAddress | null {
  let rest = text;
  if (rest.includes('.')) {
    const colon = rest.lastIndexOf(':');
    const tail = parseDotted(rest.slice(colon + 1));
    if (tail === null) return null;
    rest = `${rest.slice(0, colon + 1)}${(tail >> 16n).toString(16)}:${(tail & 0xffffn).toString(16)}`;
  }
  const halves = rest.split('::');
  if (halves.length > 2) return null;
  const [head, tail] = halves.map((half) => (half === '' ? [] : half.split(':')));
  const groups = [...head!];
  if (tail) {
    const missing = 8 - head!.length - tail.length;
    if (missing < 1) return null;
    groups.push(...Array.from({ length: missing }, () => '0'), ...tail);
  }
  if (groups.length !== 8) return null;
  let value = 0n;
  for (const group of groups) {
    if (!/^[0-9a-f]{1,4}$/i.test(group)) return null;
    value = value * 65536n + BigInt(`0x${group}`);
  }
  return { family: 6, value };
}

export function formatIp({ family, value }: IpAddress): string {
  if (family === 4) return [24n, 16n, 8n, 0n].map((shift) => String((value >> shift) & 255n)).join('.');
  const groups = Array.from({ length: 8 }, (_, index) => Number((value >> BigInt(112 - 16 * index)) & 0xffffn));
  // RFC 5952, 4.2: the longest run of at least two zero groups is shortened, the first of equals.
  let bestStart = -1;
  let bestLength = 1;
  let start = -1;
  for (let index = 0; index <= 8; index++) {
    if (index < 8 && groups[index] === 0) {
      if (start < 0) start = index;
    } else if (start >= 0) {
      if (index - start > bestLength) [bestStart, bestLength] = [start, index - start];
      start = -1;
    }
  }
  const text = (from: number, to: number): string =>
    groups
      .slice(from, to)
      .map((group) => group.toString(16))
      .join(':');
  return bestStart < 0 ? text(0, 8) : `${text(0, bestStart)}::${text(bestStart + bestLength, 8)}`;
}

/** Reads `address/length`. Host bits are kept: see {@link networkOf}. Null for anything else. */
export function parseCidr(text: string): Cidr | null {
  const match = /^([^/]+)\/(0|[1-9]\d{0,2})$/.exec(text);
  const address = match ? parseIp(match[1]!) : null;
  const prefixLength = Number(match?.[2]);
  return address && prefixLength <= bitsOf(address.family) ? { address, prefixLength } : null;
}

export function formatCidr(cidr: Cidr): string {
  return `${formatIp(cidr.address)}/${cidr.prefixLength}`;
}

/** The block that the address lies in: the same CIDR with its host bits zero. */
export function networkOf(cidr: Cidr): Cidr {
  const hostBits = BigInt(bitsOf(cidr.address.family) - cidr.prefixLength);
  const value = (cidr.address.value >> hostBits) << hostBits;
  return { address: { family: cidr.address.family, value }, prefixLength: cidr.prefixLength };
}

/** The first and the last address of the block: of an IPv4 network, its network and its broadcast address. */
export function boundsOf(cidr: Cidr): { first: IpAddress; last: IpAddress } {
  const { address } = networkOf(cidr);
  const size = 1n << BigInt(bitsOf(address.family) - cidr.prefixLength);
  return { first: address, last: { family: address.family, value: address.value + size - 1n } };
}

export function isInside(address: IpAddress, cidr: Cidr): boolean {
  const { first, last } = boundsOf(cidr);
  return address.family === first.family && address.value >= first.value && address.value <= last.value;
}

/** Whether two blocks have an address in common. Blocks of different families have none. */
export function overlaps(one: Cidr, other: Cidr): boolean {
  return isInside(networkOf(one).address, other) || isInside(networkOf(other).address, one);
}

/** The address `count` further on; null beyond the ends of the family. */
export function addToIp({ family, value }: IpAddress, count: bigint | number): IpAddress | null {
  const sum = value + BigInt(count);
  return sum < 0n || sum >= 1n << BigInt(bitsOf(family)) ? null : { family, value: sum };
}

/** Negative, zero or positive as `one` stands before, at or after `other`; IPv4 stands before IPv6. */
export function compareIp(one: IpAddress, other: IpAddress): number {
  if (one.family !== other.family) return one.family - other.family;
  return one.value < other.value ? -1 : one.value > other.value ? 1 : 0;
}

/** `255.255.255.0` of 24. */
export function netmaskOf(prefixLength: number): string {
  return formatIp({ family: 4, value: (0xffffffffn << BigInt(32 - prefixLength)) & 0xffffffffn });
}

/** Reads a MAC address with colons or hyphens and gives it in lower case with colons; null for anything else. */
export function normalizeMac(text: string): string | null {
  if (!/^[0-9a-f]{2}([:-])(?:[0-9a-f]{2}\1){4}[0-9a-f]{2}$/i.test(text)) return null;
  return text.toLowerCase().replaceAll('-', ':');
}

/** Whether a station may carry this address: not a group (multicast, broadcast) address and not all zero. */
export function isUnicastMac(mac: string): boolean {
  return (parseInt(mac.slice(0, 2), 16) & 1) === 0 && !/^[0:-]+$/.test(mac);
}

/** The MAC address with this prefix (such as `52:54:00`), its other bytes taken from `bytes`. */
export function macFromBytes(prefix: string, bytes: Uint8Array): string {
  const missing = 6 - prefix.split(':').length;
  if (bytes.length < missing) throw new RangeError(`a MAC address after ${prefix} needs ${missing} bytes`);
  return [prefix, ...Array.from(bytes.subarray(0, missing), (byte) => byte.toString(16).padStart(2, '0'))].join(':');
}

/** The IPv6 address that a station with this MAC address has on its link: RFC 4291, appendix A. */
export function linkLocalOf(mac: string): string {
  const bytes = mac.split(':').map((byte) => BigInt(`0x${byte}`));
  bytes[0]! ^= 2n;
  const interfaceId = [...bytes.slice(0, 3), 0xffn, 0xfen, ...bytes.slice(3)].reduce(
    (sum, byte) => (sum << 8n) | byte,
    0n,
  );
  return formatIp({ family: 6, value: (0xfe80n << 112n) | interfaceId });
}
