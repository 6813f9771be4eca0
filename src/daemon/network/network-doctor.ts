// What keeps guests of a network from what its mode promises, found out without them: packets such as they send and get
// are followed through every rule of the host, whoever made it, and what they need besides rules is looked at.
import { type Network, type NetworkFinding } from '../../api/network.ts';
import { CommandError } from '../../host/command.ts';
import { firewallTableName } from '../../host/network/firewall.ts';
import { readKernelFile } from '../../host/network/netns.ts';
import {
  findDrops,
  readRuleset,
  remedyFor,
  type PacketDrop,
  type Ruleset,
  type TestPacket,
} from '../../host/network/packet-path.ts';
import { listUplinks, type Uplink } from '../../host/network/uplink.ts';
import { boundsOf, formatIp, parseCidr } from '../../lib/ip-address.ts';
import { hasDhcp, isRouterOf } from './router-networks.ts';

/** A packet, and what of the network it stands for. */
interface Probe {
  what: string;
  packet: TestPacket;
}

/** Addresses that stand for everything else: RFC 5737 and RFC 3849. */
const world = { 4: '203.0.113.1', 6: '2001:db8::1' } as const;
/** Somebody's port of a connection out. */
const clientPort = 50_000;

/** Looks at a network as it is now. Without a finding that is not `ok`, nothing was found in its way. */
export async function diagnoseNetwork(network: Network, instance: string): Promise<NetworkFinding[]> {
  const findings: NetworkFinding[] = [lookAtState(network)];
  const { bridge } = network.status;
  if (bridge === null) {
    findings.push(ok('Its guests’ packets pass no rule of this host.'));
    return findings;
  }
  const uplinks = await listUplinks();
  if (network.spec.mode === 'nat' || network.spec.mode === 'routed') findings.push(lookAtUplink(uplinks));
  const isFiltered = (await readKernelFile({}, '/proc/sys/net/bridge/bridge-nf-call-iptables'))?.trim() === '1';
  const probes = probesOf(network, bridge, uplinks, isFiltered);
  const ruleset = await readRuleset().catch((error: unknown) => {
    if (error instanceof CommandError) return null;
    throw error;
  });
  if (ruleset) findings.push(...followAll(ruleset, probes, bridge, firewallTableName(instance)));
  else findings.push(warning('The rules of this host can’t be read (nft list ruleset).', []));
  const legacy = ['ip_tables_names', 'ip6_tables_names'].map((file) => readKernelFile({}, `/proc/net/${file}`));
  if ((await Promise.all(legacy)).some((text) => text?.trim()))
    findings.push(
      warning('There are rules of the old iptables here, which can’t be followed.', ['iptables-legacy -L -v -n']),
    );
  return findings;
}

function lookAtState({ status }: Network): NetworkFinding {
  if (status.state === 'ready') return ok('It is as it should be.');
  return { severity: status.state === 'failed' ? 'error' : 'warning', message: status.reason, remedies: [] };
}

function lookAtUplink(uplinks: readonly Uplink[]): NetworkFinding {
  if (uplinks.length === 0)
    return warning('This host has no default route: its guests reach only what the host has other routes to.', []);
  const ways = uplinks.map(({ family, link, gateway }) => `IPv${family} by ${link}${gateway ? ` and ${gateway}` : ''}`);
  return ok(`The host has a way to the world: ${ways.join(', ')}.`);
}

function probesOf(network: Network, bridge: string, uplinks: readonly Uplink[], isFiltered: boolean): Probe[] {
  const { mode } = network.spec;
  const probes: Probe[] = [];
  for (const [family, cidr] of familiesOf(network)) {
    const [router, guest, other] = cidr === null ? [world[family], world[family], world[family]] : addressesOf(cidr);
    const packet = { hook: 'forward', family, protocol: 'tcp', destinationPort: 443, state: 'new' } as const;
    const name = `IPv${family}`;
    const within = { ...packet, inputLink: bridge, outputLink: bridge, source: guest, destination: other };
    if (isFiltered) probes.push({ what: `${name} among its guests`, packet: within });
    const uplink = uplinks.find((candidate) => candidate.family === family)?.link;
    if (uplink !== undefined && (mode === 'nat' || mode === 'routed')) {
      const out = { ...packet, inputLink: bridge, outputLink: uplink, source: guest, destination: world[family] };
      const back = { ...packet, inputLink: uplink, outputLink: bridge, source: world[family], destination: guest };
      probes.push({ what: `${name} from its guests to the world`, packet: out });
      probes.push({
        what: `${name} answers from the world to its guests`,
        packet: { ...back, state: 'established', destinationPort: clientPort },
      });
      if (mode === 'routed') probes.push({ what: `${name} from the world to its guests`, packet: back });
    }
    if (!hasDhcp(network)) continue;
    const ask = { ...packet, hook: 'input', inputLink: bridge, outputLink: null, protocol: 'udp' } as const;
    const dhcp =
      family === 4
        ? { source: '0.0.0.0', destination: '255.255.255.255', destinationPort: 67 }
        : { source: 'fe80::1', destination: 'ff02::1:2', destinationPort: 547 };
    probes.push({ what: `DHCP (${name}) from its guests to this host`, packet: { ...ask, ...dhcp } });
    const dns = { source: guest, destination: router, destinationPort: 53 };
    probes.push({ what: `DNS (${name}) from its guests to this host`, packet: { ...ask, ...dns } });
  }
  return probes;
}

function familiesOf(network: Network): (readonly [4 | 6, string | null])[] {
  const { ipv4Cidr, ipv6Cidr } = network.status;
  if (!isRouterOf(network)) return [[4, null] as const, [6, null] as const];
  return [
    ...(ipv4Cidr === null ? [] : [[4, ipv4Cidr] as const]),
    ...(ipv6Cidr === null ? [] : [[6, ipv6Cidr] as const]),
  ];
}

/** The host's address on a network, and two that guests may have. */
function addressesOf(cidr: string): [string, string, string] {
  const { first } = boundsOf(parseCidr(cidr)!);
  const at = (offset: bigint): string => formatIp({ family: first.family, value: first.value + offset });
  return [at(1n), at(2n), at(3n)];
}

function followAll(ruleset: Ruleset, probes: readonly Probe[], bridge: string, ownTable: string): NetworkFinding[] {
  const found = new Map<string, { drop: PacketDrop; whats: string[]; remedies: Set<string> }>();
  for (const { what, packet } of probes) {
    for (const drop of findDrops(ruleset, packet, ownTable)) {
      const { family, table, chain, rule, isCertain } = drop;
      const key = JSON.stringify([family, table, chain, rule, isCertain]);
      const entry = found.get(key) ?? { drop, whats: [], remedies: new Set<string>() };
      found.set(key, entry);
      entry.whats.push(what);
      for (const remedy of remedyFor(drop, packet, bridge)) entry.remedies.add(remedy);
    }
  }
  if (found.size === 0 && probes.length > 0)
    return [
      ok(
        `No other program’s rule on this host drops what its guests send and get (${probes.length} packets followed).`,
      ),
    ];
  return [...found.values()].map(({ drop, whats, remedies }) => {
    const { family, table, chain, rule, isCertain } = drop;
    const where = rule ? `rule ${rule.handle} of the chain ${rule.chain}` : `the policy of the chain ${chain}`;
    const message = `${whats.join('; ')}: ${isCertain ? 'dropped' : 'dropped, unless a rule before lets it pass,'} by ${where} in the table ${family} ${table}.`;
    return { severity: isCertain ? 'error' : 'warning', message, remedies: [...remedies] };
  });
}

function ok(message: string): NetworkFinding {
  return { severity: 'ok', message, remedies: [] };
}

function warning(message: string, remedies: string[]): NetworkFinding {
  return { severity: 'warning', message, remedies };
}
