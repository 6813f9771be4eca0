// The words that rules of the filter are made of: addresses, ports, comments, names. Pure.
import { hash } from 'node:crypto';
import { boundsOf, compareIp, parseCidr, parseIp, type IpAddress } from '../../lib/ip-address.ts';
import { type PortRange } from './nic-filter.ts';

/** Ranges that touch or overlap become one: a set of nftables takes none that do. */
export function portsText(ports: readonly PortRange[]): string {
  const merged: { first: number; last: number }[] = [];
  for (const { first, last } of ports.toSorted((one, other) => one.first - other.first)) {
    const before = merged.at(-1);
    if (before && first <= before.last + 1) before.last = Math.max(before.last, last);
    else merged.push({ first, last });
  }
  const texts = merged.map(({ first, last }) => (first === last ? `${first}` : `${first}-${last}`));
  return texts.length === 1 ? texts[0]! : `{ ${texts.join(', ')} }`;
}

/** The blocks of a family without those that lie in others: sets of nftables take none that overlap. */
export function disjoint(blocks: readonly string[], family: 4 | 6): string[] {
  const ranges = [...new Set(blocks)].flatMap((text) => {
    const address = parseIp(text);
    const cidr = address ? null : parseCidr(text);
    const bounds = address ? { first: address, last: address } : cidr && boundsOf(cidr);
    return bounds?.first.family === family ? [{ text, ...bounds }] : [];
  });
  // Of two that begin at one address, the larger first.
  ranges.sort((one, other) => compareIp(one.first, other.first) || compareIp(other.last, one.last));
  let end: IpAddress | null = null;
  return ranges.flatMap(({ text, last }) => {
    if (end && compareIp(last, end) <= 0) return [];
    end = last;
    return [text];
  });
}

/** Up to so many, matches one by one cost the kernel no more than a set. */
const maxOneByOne = 4;

/** A match of all but these. */
export function noneOf(match: string, values: readonly string[]): string {
  return values.length > maxOneByOne
    ? `${match} != { ${values.join(', ')} }`
    : values.map((value) => `${match} != ${value}`).join(' ');
}

/** What a rule is for, as long as it is kept: comments of the kernel take 128 bytes (NFTNL_UDATA_COMMENT_MAXLEN). */
export function shortComment(comment: string): string {
  return comment.slice(0, 112);
}

/** A rule with what it is for, and a hash of its text, by which one that was changed by hand is told. 128 bytes at most. */
export function commented(rule: string, comment: string): string {
  return `${rule} comment "${shortComment(comment)} #${hash('sha256', rule).slice(0, 8)}"`;
}

/** Part of the name of a chain or set. */
export function shortHash(text: string): string {
  return hash('sha256', text).slice(0, 16);
}
