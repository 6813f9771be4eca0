// The packet filter of an instance's networks: which packets may pass between guests, the host and the world, as one
// table. Packets that concern no bridge of Lodge's fall through two map lookups and are left to others.
//
//   forward   from a bridge:  to itself yes (br_netfilter shows bridged packets here); with a foreign source address no;
//                             from an isolated network nothing else
//             to a bridge:    answers to what its guests asked, and forwarded ports; nothing else, so that networks
//                             are closed to each other and to the outside. To a routed network: everything
//   input     from a bridge:  DHCP, DNS, ping; the rest of the host only where the network allows it
//   nat       from a NAT network's addresses to elsewhere: under the host's own address
import { formatCidr, networkOf, parseCidr } from '../../lib/ip-address.ts';
import { applyTable, compareTable, deleteTable, type NftChain, type NftRule, type NftTable } from './nftables.ts';
import { type NetworkScope } from './netns.ts';

/**
 * Where the guests of a network reach beyond it. `nat`: everywhere, under the host's address, and nobody reaches them.
 * `routed`: everywhere under their own, and from everywhere. `none`: nowhere.
 */
export type NetworkReach = 'nat' | 'routed' | 'none';

/** What the packet filter has to know of a network that the host is the router of. */
export interface FirewallNetwork {
  /** Names its chains: letters, digits, `_`, `.`, `-`. */
  readonly id: string;
  readonly bridgeName: string;
  /** The bridge's address with its prefix length, such as `10.88.0.1/24`. Null: the network has no such addresses. */
  readonly ipv4Cidr: string | null;
  readonly ipv6Cidr: string | null;
  /** What guests reach on the host itself: DHCP, DNS and ping, or everything, or nothing. Default `services`. */
  readonly hostAccess?: 'services' | 'all' | 'none';
  /** Default `nat`. */
  readonly reach?: NetworkReach;
  /** Whether its guests reach TFTP on the host too. Default false. */
  readonly hasTftp?: boolean;
}

/** The name of the table of an instance: `lodge` for the instance `lodge`, `lodge-NAME` for another. */
export function firewallTableName(instance: string): string {
  return instance === 'lodge' ? 'lodge' : `lodge-${instance}`;
}

/** The whole table of an instance for these networks. */
export function buildFirewall(instance: string, networks: readonly FirewallNetwork[]): NftTable {
  const sorted = [...networks].sort((one, other) => (one.id < other.id ? -1 : 1));
  const dispatch = (direction: 'from' | 'to' | 'host'): { link: string; verdict: { jump: string } }[] =>
    sorted.map(({ id, bridgeName }) => ({ link: bridgeName, verdict: { jump: `${direction}_${id}` } }));
  return {
    name: firewallTableName(instance),
    maps: [
      { name: 'forward_from', elements: dispatch('from') },
      { name: 'forward_to', elements: dispatch('to') },
      { name: 'input_from', elements: dispatch('host') },
    ],
    chains: [
      ...sorted.flatMap(networkChains),
      {
        name: 'forward',
        base: { type: 'filter', hook: 'forward', priority: 0, policy: 'accept' },
        rules: [
          { comment: 'what guests send', matches: [], lookup: { key: 'inputLink', map: 'forward_from' } },
          { comment: 'what guests get', matches: [], lookup: { key: 'outputLink', map: 'forward_to' } },
        ],
      },
      {
        name: 'input',
        base: { type: 'filter', hook: 'input', priority: 0, policy: 'accept' },
        rules: [{ comment: 'guests to this host', matches: [], lookup: { key: 'inputLink', map: 'input_from' } }],
      },
      {
        name: 'source_nat',
        base: { type: 'nat', hook: 'postrouting', priority: 100, policy: 'accept' },
        rules: sorted.flatMap(sourceNat),
      },
    ],
  };
}

function networkChains(network: FirewallNetwork): NftChain[] {
  const { id, bridgeName, hostAccess = 'services', reach = 'nat', hasTftp = false } = network;
  const answers = { connectionStates: ['established', 'related'] } as const;
  const from: NftRule[] = [
    { comment: `${id}: among its guests`, matches: [{ outputLink: bridgeName }], verdict: 'accept' },
  ];
  for (const [family, cidr] of [
    [4, network.ipv4Cidr],
    [6, network.ipv6Cidr],
  ] as const) {
    from.push(
      cidr === null
        ? { comment: `${id}: no IPv${family} here`, matches: [{ family }], isCounted: true, verdict: 'drop' }
        : {
            comment: `${id}: forged source`,
            matches: [{ source: block(cidr), isNot: true }],
            isCounted: true,
            verdict: 'drop',
          },
    );
  }
  if (reach === 'none') from.push({ comment: `${id}: isolated`, matches: [], isCounted: true, verdict: 'reject' });
  const to: NftRule[] = [
    { comment: `${id}: among its guests`, matches: [{ inputLink: bridgeName }], verdict: 'accept' },
    ...(reach === 'nat'
      ? ([
          { comment: `${id}: answers`, matches: [answers], verdict: 'accept' },
          { comment: `${id}: forwarded ports`, matches: [{ isDestinationTranslated: true }], verdict: 'accept' },
        ] as const)
      : []),
    reach === 'routed'
      ? { comment: `${id}: open to its neighbours`, matches: [], verdict: 'accept' }
      : { comment: `${id}: closed from outside`, matches: [], isCounted: true, verdict: 'reject' },
  ];
  const host: NftRule[] =
    hostAccess === 'none'
      ? []
      : [
          { comment: `${id}: answers`, matches: [answers], verdict: 'accept' },
          {
            comment: `${id}: DNS, DHCP, DHCPv6`,
            matches: [{ protocol: 'udp', destinationPorts: [53, 67, 547] }],
            verdict: 'accept',
          },
          { comment: `${id}: DNS`, matches: [{ protocol: 'tcp', destinationPorts: [53] }], verdict: 'accept' },
          ...(hasTftp
            ? [
                {
                  comment: `${id}: TFTP`,
                  matches: [{ protocol: 'udp', destinationPorts: [69] }],
                  verdict: 'accept',
                } as const,
              ]
            : []),
          {
            comment: `${id}: ping and neighbour discovery`,
            matches: [{ protocols: ['icmp', 'ipv6-icmp'] }],
            verdict: 'accept',
          },
        ];
  host.push(
    hostAccess === 'all'
      ? { comment: `${id}: the whole host`, matches: [], verdict: 'accept' }
      : { comment: `${id}: nothing else of the host`, matches: [], isCounted: true, verdict: 'reject' },
  );
  return [
    { name: `from_${id}`, rules: from },
    { name: `to_${id}`, rules: to },
    { name: `host_${id}`, rules: host },
  ];
}

function sourceNat({ id, bridgeName, ipv4Cidr, ipv6Cidr, reach = 'nat' }: FirewallNetwork): NftRule[] {
  if (reach !== 'nat') return [];
  return [ipv4Cidr, ipv6Cidr].flatMap((cidr): NftRule[] => {
    if (cidr === null) return [];
    const inside = block(cidr);
    return [
      {
        comment: `${id}: to the world under the host's address`,
        matches: [{ source: inside }, { destination: inside, isNot: true }, { outputLink: bridgeName, isNot: true }],
        verdict: 'masquerade',
      },
    ];
  });
}

function block(cidr: string): string {
  const parsed = parseCidr(cidr);
  if (!parsed) throw new RangeError(`${JSON.stringify(cidr)} is no address with a prefix length`);
  return formatCidr(networkOf(parsed));
}

/**
 * Makes the instance's table be the one for these networks (all networks of the instance; none deletes the table).
 * Returns what was different before, in words; empty when nothing was done.
 */
export async function ensureFirewall(
  instance: string,
  networks: readonly FirewallNetwork[],
  scope: NetworkScope = {},
): Promise<string[]> {
  if (networks.length === 0) {
    const name = firewallTableName(instance);
    return (await deleteTable(name, scope)) ? [`the table inet ${name} was there without a network`] : [];
  }
  const table = buildFirewall(instance, networks);
  const differences = await compareTable(table, scope);
  if (differences.length > 0) await applyTable(table, scope);
  return differences;
}

/** In what the kernel's table differs from the one for these networks, in words. */
export async function observeFirewall(
  instance: string,
  networks: readonly FirewallNetwork[],
  scope: NetworkScope = {},
): Promise<string[]> {
  return compareTable(buildFirewall(instance, networks), scope);
}
