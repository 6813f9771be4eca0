// Ports of this machine that lead to guests, for networks that it is the router of: a table of nftables of its own, beside
// the packet filter's.
//
//   prerouting  from outside and from guests: the destination becomes the guest's address
//   output      the same for what this machine itself sends, to 127.0.0.1 as well
//   postrouting what a guest sends to a guest of its own network by such a port, and what comes from 127.0.0.1, goes under
//               the bridge's address: else the answer would not come back this way
//   guard       what guests send to 127.0.0.0/8 is dropped, since it could be routed now (net.ipv4.conf.BRIDGE.route_localnet)
//
// Promises: the table is replaced in one transaction; the guard stands before the kernel routes such addresses; connections
// that are open when a forward goes are not cut.
import { type IpFamily, parseIp } from '../../lib/ip-address.ts';
import { firewallTableName } from './firewall.ts';
import { type NetworkScope, readKernelFile, writeKernelFile } from './netns.ts';
import { applyTable, compareTable, deleteTable, type NftMatch, type NftRule, type NftTable } from './nftables.ts';

/** A forward to one address of a guest. */
export interface NatForward {
  /** What it is for, in a few words: the VM's name. */
  readonly label: string;
  readonly protocol: 'tcp' | 'udp';
  /** Address of this machine, of the family of `guestAddress`; null: all. */
  readonly listenAddress: string | null;
  readonly firstPort: number;
  readonly lastPort: number;
  readonly guestAddress: string;
  /** Of the first port. */
  readonly guestPort: number;
}

/** A network that forwards lead into. */
export interface ForwardedNetwork {
  readonly bridgeName: string;
  /** Its blocks, `10.88.0.0/24`. */
  readonly cidrs: readonly string[];
}

/** The table of an instance's forwards. */
export function buildForwardTable(
  instance: string,
  networks: readonly ForwardedNetwork[],
  forwards: readonly NatForward[],
): NftTable {
  // More particular first: an address of this machine goes before all of them.
  const rank = ({ listenAddress }: NatForward): number => (listenAddress === null ? 1 : 0);
  const rules = forwards.toSorted((one, other) => rank(one) - rank(other)).map(ruleOf);
  const hairpin = networks.flatMap(({ bridgeName, cidrs }) => [
    ...cidrs.map((cidr): NftRule => ({
      comment: `${bridgeName}: guests to guests by a port of this host`,
      matches: [{ isDestinationTranslated: true }, { source: cidr }, { destination: cidr }, { outputLink: bridgeName }],
      verdict: 'masquerade',
    })),
    {
      comment: `${bridgeName}: from 127.0.0.1`,
      matches: [{ source: '127.0.0.0/8' }, { outputLink: bridgeName }],
      verdict: 'masquerade',
    } as const,
  ]);
  const guard = networks.map(({ bridgeName }): NftRule => ({
    comment: `${bridgeName}: nobody there is this host`,
    matches: [{ inputLink: bridgeName }, { destination: '127.0.0.0/8' }],
    isCounted: true,
    verdict: 'drop',
  }));
  return {
    name: forwardTableName(instance),
    maps: [],
    chains: [
      { name: 'guard', base: { type: 'filter', hook: 'prerouting', priority: -300, policy: 'accept' }, rules: guard },
      { name: 'prerouting', base: { type: 'nat', hook: 'prerouting', priority: -100, policy: 'accept' }, rules },
      { name: 'output', base: { type: 'nat', hook: 'output', priority: -100, policy: 'accept' }, rules },
      // Before the translation of everything else that leaves a NAT network.
      {
        name: 'postrouting',
        base: { type: 'nat', hook: 'postrouting', priority: 90, policy: 'accept' },
        rules: hairpin,
      },
    ],
  };
}

/** Name of the table: an instance's name has no dots, so it is nobody else's. */
export function forwardTableName(instance: string): string {
  return `${firewallTableName(instance)}.forwards`;
}

function ruleOf(forward: NatForward): NftRule {
  const { label, protocol, listenAddress, firstPort, lastPort, guestAddress, guestPort } = forward;
  const family: IpFamily = parseIp(guestAddress)?.family ?? 4;
  const to: NftMatch[] =
    listenAddress === null ? [{ family }, { isDestinationLocal: true }] : [{ destination: listenAddress }];
  const count = lastPort - firstPort + 1;
  const place =
    count === 1
      ? { port: guestPort }
      : guestPort === firstPort
        ? {}
        : {
            ports: {
              protocol,
              map: Array.from({ length: count }, (_, index) => [firstPort + index, guestPort + index] as const),
            },
          };
  return {
    comment: `${label}: ${protocol} ${firstPort}${count === 1 ? '' : `-${lastPort}`}`,
    matches: [...to, { protocol, firstPort, lastPort }],
    isCounted: true,
    verdict: { destination: guestAddress, ...place },
  };
}

/**
 * Makes the forwards of an instance be these; none removes the table. `bridges`: all bridges of the instance's networks,
 * of which those without a forward are routed no loopback addresses to. Answers with what was different, in words.
 */
export async function ensureForwards(
  instance: string,
  networks: readonly ForwardedNetwork[],
  forwards: readonly NatForward[],
  bridges: readonly string[],
  scope: NetworkScope = {},
): Promise<string[]> {
  const routed = new Set(networks.map(({ bridgeName }) => bridgeName));
  // Taken back before the guard goes, switched on after it stands.
  const done = await setLocalRouting(
    bridges.filter((bridge) => !routed.has(bridge)),
    '0',
    scope,
  );
  if (forwards.length === 0) {
    const name = forwardTableName(instance);
    if (await deleteTable(name, scope)) done.push(`the table inet ${name} was there without a forward`);
    return done;
  }
  const table = buildForwardTable(instance, networks, forwards);
  const differences = await compareTable(table, scope);
  if (differences.length > 0) await applyTable(table, scope);
  return [...done, ...differences, ...(await setLocalRouting([...routed], '1', scope))];
}

/** Whether the kernel routes 127.0.0.0/8 by a link: ip-sysctl of the kernel, route_localnet. */
async function setLocalRouting(bridges: readonly string[], value: '0' | '1', scope: NetworkScope): Promise<string[]> {
  const done: string[] = [];
  for (const bridge of bridges) {
    if (!/^[A-Za-z0-9_.-]{1,15}$/.test(bridge) || /^\.+$/.test(bridge))
      throw new RangeError(`${JSON.stringify(bridge)} is no name of a link`);
    const file = `/proc/sys/net/ipv4/conf/${bridge}/route_localnet`;
    const before = (await readKernelFile(scope, file))?.trim();
    if (before === undefined || before === value) continue;
    await writeKernelFile(scope, file, value);
    done.push(`route_localnet of ${bridge} was ${before}, is ${value}`);
  }
  return done;
}
