// What a link of the machine is configured with (addresses and routes), and the lines that move all of it to another
// link: what happens to an interface that becomes the port of a bridge, and back again.
import { run } from '../command.ts';
import { formatCidr, networkOf, parseCidr } from '../../lib/ip-address.ts';
import { ipCommand, readKernelFile, type NetworkScope } from './netns.ts';

/** An address, in the words of `ip -json address`. */
export interface ConfiguredAddress {
  family: 'inet' | 'inet6';
  local: string;
  /** The other end, of a point-to-point address. */
  address?: string;
  prefixlen: number;
  broadcast?: string;
  scope: string;
  label?: string;
  metric?: number;
  dynamic?: boolean;
  temporary?: boolean;
  mngtmpaddr?: boolean;
  noprefixroute?: boolean;
  /** In seconds; 4294967295: for ever. */
  valid_life_time?: number;
  preferred_life_time?: number;
}

/** A route, in the words of `ip -json route`. */
export interface ConfiguredRoute {
  family: 4 | 6;
  type?: string;
  dst: string;
  gateway?: string;
  via?: { family: string; host: string };
  dev?: string;
  table?: string;
  protocol?: string;
  scope?: string;
  prefsrc?: string;
  metric?: number;
  flags?: string[];
  expires?: number;
  metrics?: { mtu?: number; advmss?: number }[];
  nexthops?: { dev?: string }[];
}

/** Everything about a link that goes with it when it moves. */
export interface LinkConfig {
  addresses: ConfiguredAddress[];
  routes: ConfiguredRoute[];
  /** How the kernel makes the link-local address: addr_gen_mode of Documentation/networking/ip-sysctl.rst; null: no IPv6. */
  addressMode: string | null;
}

const forever = 4_294_967_295;
/** The values of addr_gen_mode by the names that `ip link set addrgenmode` has for them. */
const addressModes: Readonly<Record<string, string>> = {
  '0': 'eui64',
  '1': 'none',
  '2': 'stable_secret',
  '3': 'random',
};

/** Reads what a link is configured with now. */
export async function readLinkConfig(link: string, scope: NetworkScope = {}): Promise<LinkConfig> {
  const addresses = await run(ipCommand(scope, '-json', '-details', 'address', 'show', 'dev', link));
  const [v4, v6] = await Promise.all(
    (['-4', '-6'] as const).map((family) => run(ipCommand(scope, family, '-json', 'route', 'show', 'table', 'all'))),
  );
  const mode = (await readKernelFile(scope, `/proc/sys/net/ipv6/conf/${link}/addr_gen_mode`))?.trim();
  return parseLinkConfig(link, addresses.stdout, v4!.stdout, v6!.stdout, addressModes[mode ?? ''] ?? null);
}

/** The reading behind {@link readLinkConfig}, of what `ip` writes. */
export function parseLinkConfig(
  link: string,
  addressJson: string,
  ipv4RouteJson: string,
  ipv6RouteJson: string,
  addressMode: string | null,
): LinkConfig {
  const listed = JSON.parse(addressJson || '[]') as { ifname?: string; addr_info?: ConfiguredAddress[] }[];
  const addresses = (listed.find(({ ifname }) => ifname === link)?.addr_info ?? []).filter(
    // Temporary ones (RFC 8981) are made anew from the address that they stand for.
    ({ temporary }) => !temporary,
  );
  const routes = ([4, 6] as const).flatMap((family) =>
    (JSON.parse((family === 4 ? ipv4RouteJson : ipv6RouteJson) || '[]') as Omit<ConfiguredRoute, 'family'>[]).map(
      (route) => ({ ...route, family }),
    ),
  );
  const own = routes.filter(
    (route) =>
      (route.dev === link || route.nexthops?.some(({ dev }) => dev === link)) &&
      // The kernel makes these itself, with the address or the link.
      route.table !== 'local' &&
      route.type !== 'multicast' &&
      !isMadeByKernel(route, addresses),
  );
  return { addresses, routes: own.toSorted((one, other) => rank(one) - rank(other)), addressMode };
}

/** Why a configuration can't be moved, in words; null: it can. */
export function whyFixed(config: LinkConfig): string | null {
  const leased = config.addresses.find(({ family, dynamic }) => family === 'inet' && dynamic);
  if (leased)
    return `its address ${leased.local} is from DHCP, and the program that renews it would go on doing so on the interface`;
  const multipath = config.routes.find(({ nexthops }) => nexthops);
  if (multipath) return `the route to ${multipath.dst} has several ways, of which it is one`;
  return null;
}

/** Lines for `ip -batch` that give a link the addresses, then the routes. */
export function addLines(config: LinkConfig, link: string): string[] {
  return [...config.addresses.map((address) => addressLine(address, link)), ...routeLines(config, link)];
}

function addressLine(address: ConfiguredAddress, link: string): string {
  const { family, local, prefixlen, scope, valid_life_time: valid, preferred_life_time: preferred } = address;
  const words = ['address', 'add'];
  words.push(address.address === undefined ? `${local}/${prefixlen}` : `${local} peer ${address.address}/${prefixlen}`);
  if (address.broadcast !== undefined) words.push('broadcast', address.broadcast);
  if (scope !== 'global') words.push('scope', scope);
  if (address.metric !== undefined) words.push('metric', String(address.metric));
  if (address.noprefixroute) words.push('noprefixroute');
  // It was this machine's a moment ago: nobody else has it.
  if (family === 'inet6') words.push('nodad', ...(address.mngtmpaddr ? ['mngtmpaddr'] : []));
  if (valid !== undefined && valid !== forever) words.push('valid_lft', String(valid));
  if (valid !== undefined && valid !== forever && preferred !== undefined)
    words.push('preferred_lft', String(preferred));
  words.push('dev', link);
  return words.join(' ');
}

/** Lines that take from a link what stays when it has lost its addresses: routes of IPv6. */
export function removeLines({ routes }: LinkConfig, link: string): string[] {
  return routes
    .filter(({ family }) => family === 6)
    .map((route) => {
      const { gateway, table, metric } = route;
      const words = ['route', 'delete', ...destinationWords(route)];
      if (gateway !== undefined) words.push('via', gateway);
      words.push('dev', link);
      if (table !== undefined) words.push('table', table);
      if (metric !== undefined) words.push('metric', String(metric));
      return words.join(' ');
    });
}

function routeLines({ routes }: LinkConfig, link: string): string[] {
  return routes.map((route) => {
    const words = ['route', 'add', ...destinationWords(route)];
    if (route.gateway !== undefined) words.push('via', route.gateway);
    else if (route.via) words.push('via', route.via.family, route.via.host);
    words.push('dev', link);
    if (route.table !== undefined) words.push('table', route.table);
    if (route.protocol !== undefined) words.push('proto', route.protocol);
    if (route.scope !== undefined && route.family === 4) words.push('scope', route.scope);
    if (route.prefsrc !== undefined) words.push('src', route.prefsrc);
    if (route.metric !== undefined) words.push('metric', String(route.metric));
    if (route.expires !== undefined) words.push('expires', String(route.expires));
    if (route.flags?.includes('onlink')) words.push('onlink');
    for (const { mtu, advmss } of route.metrics ?? []) {
      if (mtu !== undefined) words.push('mtu', String(mtu));
      if (advmss !== undefined) words.push('advmss', String(advmss));
    }
    return words.join(' ');
  });
}

/** Within a batch the family is what the addresses say. */
function destinationWords({ family, type, dst }: ConfiguredRoute): string[] {
  return [...(type ? [type] : []), family === 6 && dst === 'default' ? '::/0' : dst];
}

function isMadeByKernel(route: ConfiguredRoute, addresses: readonly ConfiguredAddress[]): boolean {
  if (route.protocol !== 'kernel') return false;
  if (route.dst === 'fe80::/64') return true;
  const maker = addresses.find(({ local, address, prefixlen }) => {
    const cidr = parseCidr(`${address ?? local}/${prefixlen}`);
    return (
      cidr !== null &&
      formatCidr(networkOf(cidr)) === (route.dst.includes('/') ? route.dst : `${route.dst}/${prefixlen}`)
    );
  });
  return maker !== undefined && !maker.noprefixroute;
}

/** Routers must be reachable before routes lead by them. */
function rank({ gateway, via, dst }: ConfiguredRoute): number {
  return (gateway !== undefined || via ? 1 : 0) + (dst === 'default' ? 1 : 0);
}
