// Which blocks of addresses this machine uses already, and a free one for a new network.
import { run } from '../command.ts';
import { formatCidr, networkOf, overlaps, parseCidr, type Cidr } from '../../lib/ip-address.ts';
import { ipCommand, type NetworkScope } from './netns.ts';

/** A block that this machine reaches by something other than its default route. */
export interface UsedSubnet {
  /** `192.168.1.0/24`. */
  readonly cidr: string;
  /** The link it is reached by; null for routes that lead nowhere (`blackhole`). */
  readonly link: string | null;
}

/** A wanted block has addresses in common with one that this machine uses. */
export class SubnetOverlapError extends Error {
  override name = 'SubnetOverlapError';
  readonly field: string;
  readonly value: string;
  readonly conflict: UsedSubnet;
  constructor(field: string, value: string, conflict: UsedSubnet) {
    const where = conflict.link === null ? 'a route of this machine' : `a route of this machine by ${conflict.link}`;
    super(`${field} ${value} overlaps ${conflict.cidr}, ${where}: choose another block`);
    this.field = field;
    this.value = value;
    this.conflict = conflict;
  }
}

/** None of the blocks that could have been taken is free. */
export class NoFreeSubnetError extends Error {
  override name = 'NoFreeSubnetError';
  readonly candidates: readonly string[];
  constructor(candidates: readonly string[]) {
    super(`each of the ${candidates.length} blocks tried is in use on this machine: give the network's block yourself`);
    this.candidates = candidates;
  }
}

/** Blocks for networks that nobody chose one for: 10.88.0.0/24 to 10.127.255.0/24 in steps, seldom used elsewhere. */
export const defaultSubnets: readonly string[] = Array.from({ length: 40 }, (_, index) => `10.${88 + index}.0.0/24`);

/** The blocks this machine has routes to, the default routes left away: addresses of its links are among them. */
export async function listUsedSubnets(scope: NetworkScope = {}): Promise<UsedSubnet[]> {
  const outputs = await Promise.all(
    ['-4', '-6'].map((family) => run(ipCommand(scope, family, '-json', 'route', 'show', 'table', 'all'))),
  );
  return outputs.flatMap(({ stdout }, index) => parseRoutes(stdout, index === 0 ? 4 : 6));
}

/** Reads what `ip -4 -json route show table all` (or -6) writes. */
export function parseRoutes(json: string, family: 4 | 6): UsedSubnet[] {
  const routes = JSON.parse(json || '[]') as { type?: string; dst?: string; dev?: string; table?: string }[];
  return routes.flatMap(({ type, dst, dev }): UsedSubnet[] => {
    // Broadcast and multicast are no block of their own; a route for one address has no prefix length here.
    if (dst === undefined || dst === 'default' || type === 'broadcast' || type === 'multicast' || type === 'anycast')
      return [];
    const cidr = parseCidr(dst.includes('/') ? dst : `${dst}/${family === 4 ? 32 : 128}`);
    if (!cidr || cidr.prefixLength === 0) return [];
    // Link-local and loopback addresses are on every machine and in nobody's way.
    if (dev === 'lo' || ignored.some((block) => overlaps(block, cidr))) return [];
    return [{ cidr: formatCidr(networkOf(cidr)), link: dev ?? null }];
  });
}

const ignored: readonly Cidr[] = [
  '127.0.0.0/8',
  '169.254.0.0/16',
  '::1/128',
  'fe80::/10',
  'ff00::/8',
  '224.0.0.0/4',
].map((text) => parseCidr(text)!);

/** The first used block that has an address in common with this one. Routes by `exceptLink` don't count. */
export function findOverlap(cidr: string, used: readonly UsedSubnet[], exceptLink?: string): UsedSubnet | null {
  const wanted = parsed(cidr);
  return used.find((other) => other.link !== exceptLink && overlaps(wanted, parsed(other.cidr))) ?? null;
}

/** The first of the preferred blocks that overlaps no used one. Rejects by throwing {@link NoFreeSubnetError}. */
export function pickFreeSubnet(preferred: readonly string[], used: readonly UsedSubnet[]): string {
  const free = preferred.find((cidr) => findOverlap(cidr, used) === null);
  if (free === undefined) throw new NoFreeSubnetError(preferred);
  return free;
}

function parsed(text: string): Cidr {
  const cidr = parseCidr(text);
  if (!cidr) throw new RangeError(`${JSON.stringify(text)} is no block such as 10.88.0.0/24`);
  return cidr;
}
