// The way this machine reaches everything it has no nearer route to: its default routes, and the addresses it has there.
import { run } from '../command.ts';
import { compareIp, isInside, parseCidr, parseIp } from '../../lib/ip-address.ts';
import { listLinks } from './link.ts';
import { ipCommand, type NetworkScope } from './netns.ts';

export interface Uplink {
  readonly family: 4 | 6;
  readonly link: string;
  /** The next router; null where the link itself leads everywhere (a tunnel). */
  readonly gateway: string | null;
  /** The machine's own address towards it, by which its neighbours reach it; null: none that they could. */
  readonly address: string | null;
}

interface ListedRoute {
  dst?: string;
  gateway?: string;
  dev?: string;
  prefsrc?: string;
  metric?: number;
}

/** The default route of each family that is used first, where there is one. */
export async function listUplinks(scope: NetworkScope = {}): Promise<Uplink[]> {
  const links = await listLinks(scope);
  const uplinks: Uplink[] = [];
  for (const family of [4, 6] as const) {
    const { stdout } = await run(ipCommand(scope, `-${family}`, '-json', 'route', 'show', 'default'));
    const routes = (JSON.parse(stdout || '[]') as ListedRoute[]).toSorted(
      (one, other) => (one.metric ?? 0) - (other.metric ?? 0),
    );
    const route = routes[0];
    const link = links.find(({ name }) => name === route?.dev);
    if (!route || !link) continue;
    const global = link.addresses.filter((address) => address.family === family && address.scope === 'global');
    const gateway = route.gateway === undefined ? null : parseIp(route.gateway);
    const near = global.find(({ address, prefixLength }) => {
      const cidr = parseCidr(`${address}/${prefixLength}`);
      return cidr && gateway && isInside(gateway, cidr) && compareIp(gateway, cidr.address) !== 0;
    });
    uplinks.push({
      family,
      link: link.name,
      gateway: route.gateway ?? null,
      address: route.prefsrc ?? (near ?? global[0])?.address ?? null,
    });
  }
  return uplinks;
}
