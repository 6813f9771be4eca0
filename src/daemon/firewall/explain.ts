// Says what becomes of a connection and why, from the rules that count for the NICs at its ends. Pure.
import { type EffectiveNic, type EffectiveRule, type ExplainedSide, type Explanation } from '../../api/firewall.ts';
import { LodgeError } from '../../api/errors.ts';
import { type RuleDirection } from '../../api/security-group.ts';
import { type FilterSet } from '../../host/firewall/nic-filter.ts';
import { parseIp } from '../../lib/ip-address.ts';
import { decide, type FirstPacket } from './decide.ts';
import { type NicDirection, type NicRule, type NicRules } from './effective-rules.ts';

/** One end of a connection. */
export type Endpoint =
  | { readonly kind: 'nic'; readonly nic: NicRules }
  | { readonly kind: 'host' }
  | { readonly kind: 'address'; readonly address: string; readonly label: string };

export interface ExplainedConnection {
  /** Name as it was given: tcp. */
  readonly protocolName: string;
  readonly protocol: number;
  readonly port: number | null;
  readonly icmpType: number | null;
}

/** An address that no rule is likely to name, for “internet”: TEST-NET-1 of RFC 5737. */
export const someAddress = '192.0.2.1';

/** What is meant by a word: “host”, “internet”, an address (of a NIC, where it is known), or a VM. */
export function findEndpoint(
  word: string,
  other: string,
  project: string,
  nics: readonly NicRules[],
  gateways: ReadonlySet<string>,
): Endpoint {
  if (word === 'host') return { kind: 'host' };
  if (word === 'internet') return { kind: 'address', address: someAddress, label: 'internet' };
  const address = parseIp(word);
  if (address) {
    if (gateways.has(word)) return { kind: 'host' };
    const owner = nics.find((nic) => nic.vm.project === project && nic.addresses.includes(word));
    return owner ? { kind: 'nic', nic: owner } : { kind: 'address', address: word, label: word };
  }
  const own = nics.filter(({ vm }) => vm.project === project && (vm.name === word || vm.id === word));
  if (own.length === 0)
    throw new LodgeError('not_found', `there is no VM "${word}" with a NIC in project "${project}"`, {
      hint: 'Name a VM (lodge vm list), an address, “host” or “internet”.',
    });
  // Of several NICs, the one that shares a network with the other end.
  const others = nics.filter(({ vm }) => vm.project === project && (vm.name === other || vm.id === other));
  const shared = own.find(({ network }) =>
    others.some((one) => one.network !== null && one.network.id === network?.id),
  );
  return { kind: 'nic', nic: shared ?? own[0]! };
}

/** The answer to “may this connection be made?”. */
export function explainConnection(
  from: Endpoint,
  to: Endpoint,
  connection: ExplainedConnection,
  sets: ReadonlyMap<string, FilterSet>,
): Explanation {
  const { protocolName, port, icmpType } = connection;
  const detail = port ?? icmpType;
  const [fromAddress, toAddress] = addressPair(from, to, connection);
  const notes: string[] = [];
  const packet = (address: string | null, end: Endpoint): FirstPacket => ({
    protocol: connection.protocol,
    port,
    icmpType,
    peerAddress: address,
    peerLink: end.kind === 'nic' && end.nic.unfiltered === null ? end.nic.link : null,
  });
  const sides: ExplainedSide[] = [];
  if (from.kind === 'nic') sides.push(explainSide(from.nic, 'egress', packet(toAddress, to), to, sets));
  if (to.kind === 'nic') sides.push(explainSide(to.nic, 'ingress', packet(fromAddress, from), from, sets));
  for (const end of [from, to]) notes.push(...notesOf(end));
  if (from.kind === 'address' && to.kind === 'nic' && to.nic.network?.spec.mode === 'nat')
    notes.push(
      `Network ${to.nic.network.name} is in mode nat: from outside its guests are reached by forwarded ports only.`,
    );
  if (sides.length === 0) notes.push('Neither end is a guest of this node: nothing of Lodge is between them.');
  const denied = sides.find(({ verdict }) => verdict === 'deny');
  const closed = whyNoWay(from, to);
  const named = `${labelOf(from, fromAddress)} to ${labelOf(to, toAddress)}, ${protocolName}${detail === null ? '' : `/${detail}`}`;
  const reason =
    denied || closed !== null
      ? `Denied: ${named}. ${denied?.reason ?? closed}`
      : `Allowed: ${named}. ${sides.map((side) => side.reason).join(' ') || 'Nothing filters it.'}`;
  return {
    verdict: denied || closed !== null ? 'denied' : 'allowed',
    reason,
    from: labelOf(from, fromAddress),
    to: labelOf(to, toAddress),
    connection: `${protocolName}${detail === null ? '' : `/${detail}`}`,
    sides,
    notes: [...new Set(notes)],
  };
}

/** A rule as clients are shown it. */
export function toEffectiveRule(rule: NicRule): EffectiveRule {
  const { id, name, origin, direction, action, priority, text } = rule;
  return { id, name, origin, direction, action, priority, text, packets: null, bytes: null };
}

/** What a NIC’s rule has decided on, by its id. */
export type RuleCounts = (id: string) => { packets: number; bytes: number };

/** A NIC with all that counts for it, as clients are shown it. */
export function toEffectiveNic(nic: NicRules, counts: RuleCounts | null): EffectiveNic {
  const { ingress, egress, isHostAllowed } = nic;
  return {
    nic: nic.index,
    mac: nic.mac,
    network: nic.network?.name ?? '',
    groups: nic.groups.map(({ group }) => group.name),
    hasAntiSpoofing: nic.guard !== null && nic.unfiltered === null,
    addresses: [...nic.addresses],
    unfiltered: nic.unfiltered,
    rules: [
      ...(isHostAllowed ? [hostRule] : []),
      ...ingress.rules.map(toEffectiveRule),
      defaultRule(ingress, 'ingress'),
      ...egress.rules.map(toEffectiveRule),
      defaultRule(egress, 'egress'),
    ].map((rule) => ({ ...rule, ...counts?.(rule.id) })),
  };
}

const hostRule: EffectiveRule = {
  id: 'host',
  name: 'host',
  origin: { kind: 'built-in', name: null, via: null },
  direction: 'ingress',
  action: 'allow',
  priority: null,
  text: 'everything from programs of this host',
  packets: null,
  bytes: null,
};

/** Without them no guest could have an address: always let through, whatever the rules say. */
const addressingRule = (direction: RuleDirection): EffectiveRule => ({
  ...hostRule,
  id: 'addressing',
  name: 'addressing',
  direction,
  text: 'DHCP, and neighbour and router discovery',
});

function defaultRule({ otherwise, otherwiseOrigin }: NicDirection, direction: RuleDirection): EffectiveRule {
  return {
    ...hostRule,
    id: `default-${direction}`,
    name: 'default',
    origin: otherwiseOrigin,
    direction,
    action: otherwise,
    text: 'everything else',
  };
}

function explainSide(
  nic: NicRules,
  direction: RuleDirection,
  packet: FirstPacket,
  other: Endpoint,
  sets: ReadonlyMap<string, FilterSet>,
): ExplainedSide {
  const side = { vm: nic.vm.name, nic: nic.index, direction };
  const where = direction === 'ingress' ? `into ${nic.vm.name}` : `out of ${nic.vm.name}`;
  if (nic.unfiltered !== null)
    return { ...side, verdict: 'allow', rule: null, reason: `Nothing filters ${where}: ${nic.unfiltered}.` };
  if (isAddressing(packet, direction)) {
    const rule = addressingRule(direction);
    return { ...side, verdict: 'allow', rule, reason: `${rule.text} is always let ${where}.` };
  }
  if (direction === 'ingress' && other.kind === 'host' && nic.isHostAllowed)
    return { ...side, verdict: 'allow', rule: hostRule, reason: `Programs of this host are always let ${where}.` };
  const { verdict, rule } = decide(nic[direction], packet, sets);
  const allows = verdict === 'allow' ? 'allows' : 'denies';
  if (rule) {
    const reason = `Rule ${rule.name} of security group ${rule.origin.name} ${allows} it ${where} (${rule.text}).`;
    return { ...side, verdict, rule: toEffectiveRule(rule), reason };
  }
  const shown = defaultRule(nic[direction], direction);
  return { ...side, verdict, rule: shown, reason: `${defaultText(nic, direction)} ${allows} it ${where}.` };
}

function defaultText(nic: NicRules, direction: RuleDirection): string {
  const { otherwiseOrigin, otherwise, rules } = nic[direction];
  const none = rules.length === 0 ? 'There is no rule' : `None of ${rules.length} ${direction} rules matches`;
  switch (otherwiseOrigin.kind) {
    case 'network-policy':
      return `${none}, and the policy of network ${otherwiseOrigin.name}`;
    case 'project-policy':
      return `${none}, and the project’s policy`;
    default: {
      const why =
        otherwise === 'allow'
          ? direction === 'ingress'
            ? 'for a NIC in no group'
            : 'for a NIC without a rule that allows egress'
          : direction === 'ingress'
            ? 'for a NIC in a group'
            : 'for a NIC with a rule that allows egress';
      return `${none}, and the default ${why}`;
    }
  }
}

/** DHCP and neighbour discovery, as the kernel's filter lets them through before any rule. */
function isAddressing({ protocol, port, icmpType }: FirstPacket, direction: RuleDirection): boolean {
  if (protocol === 17) return direction === 'egress' ? port === 67 || port === 547 : port === 68 || port === 546;
  return protocol === 58 && icmpType !== null && ((icmpType >= 130 && icmpType <= 136) || icmpType === 143);
}

/** Addresses of both ends, of one family where both have one. */
function addressPair(from: Endpoint, to: Endpoint, { protocol }: ExplainedConnection): [string | null, string | null] {
  const families = protocol === 58 ? [6] : protocol === 1 ? [4] : [4, 6];
  for (const family of families) {
    const one = addressOf(from, family);
    const other = addressOf(to, family);
    if ((from.kind === 'host' || one !== null) && (to.kind === 'host' || other !== null)) return [one, other];
  }
  const any = (end: Endpoint): string | null => addressOf(end, 4) ?? addressOf(end, 6);
  return [any(from), any(to)];
}

function addressOf(end: Endpoint, family: number): string | null {
  const all = end.kind === 'nic' ? end.nic.addresses : end.kind === 'address' ? [end.address] : [];
  return all.find((text) => parseIp(text)?.family === family) ?? null;
}

function labelOf(end: Endpoint, address: string | null): string {
  if (end.kind === 'host') return 'this host';
  if (end.kind === 'address') return end.label;
  return address === null ? end.nic.vm.name : `${end.nic.vm.name} (${address})`;
}

function notesOf(end: Endpoint): string[] {
  if (end.kind !== 'nic') return [];
  const { nic } = end;
  return [
    ...(nic.addresses.length === 0 && nic.unfiltered === null
      ? [`No address of ${nic.vm.name} is known: rules with prefixes can not match it.`]
      : []),
    ...nic.missing.map(
      (name) => `${nic.vm.name} names security group ${name}, which is not there: it counts as one without rules.`,
    ),
  ];
}

/** Why no packet gets from one network to the other, whatever security groups say; null: it does, as far as Lodge decides. */
function whyNoWay(from: Endpoint, to: Endpoint): string | null {
  const [one, other] = [from, to].map((end) => (end.kind === 'nic' ? end.nic.network : null));
  if (one && other && one.id === other.id) return null;
  if (one?.spec.mode === 'isolated' && to.kind !== 'host')
    return `Guests of network ${one.name} reach nothing outside it (mode isolated).`;
  if (one && other && (other.spec.mode === 'nat' || other.spec.mode === 'isolated'))
    return `Guests of network ${other.name} are not reached from other networks (mode ${other.spec.mode}).`;
  if (other?.spec.mode === 'isolated' && from.kind === 'address')
    return `Guests of network ${other.name} are not reached from outside (mode isolated).`;
  return null;
}
