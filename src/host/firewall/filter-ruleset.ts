// The filter of guests' NICs as nftables: from what is decided (nic-filter.ts) to sets, chains and maps. Pure.
//
//   table bridge   prerouting   link ─▶ guard: what may be sent under which address
//                  forward      from link ─▶ egress rules; to link ─▶ ingress rules       guests of one bridge
//                  input        from link ─▶ egress rules                                 to this host, and routed by it
//                  output       to link ─▶ ingress rules                                  from this host, and routed by it
//   table inet     tells the bridge's chains, by bits of the packet's mark, what conntrack knows of its connection
//
// Every packet is decided by the rules as they are now, those of open connections too: a packet that answers is held
// against the same rules, with its ends swapped. So a rule that is gone is gone for what it once let in.
//
// Chains are called by a hash of what is in them and never changed: NICs with the same rules share one, and what the kernel
// has is known by names. Between the maps and them each NIC has a chain of one rule, which sends its packets to what counts
// for it now: other rules are one rule of that chain. As an element of the map they would cost more by the number of NICs,
// since nft reads the elements of a table's sets before it changes any. For the same reason what every NIC has is written
// without sets of its own.
//
// What was made for rules and directions is kept with them, as long as those very objects are used again.
import { commented, disjoint, portsText, shortHash } from './filter-text.ts';
import { commonGuardRules, guardRules, ownedAddresses, tagRules, type OwnedAddresses } from './guard-rules.ts';
import {
  hasRules,
  type AddressOwners,
  type FilterDirection,
  type FilterPeer,
  type FilterPlan,
  type FilterRule,
  type FilterSet,
  type NicFilter,
  type SpoofGuard,
} from './nic-filter.ts';

/** How connections between guests of one bridge are followed: by the bridge's own conntrack, or by the host's through br_netfilter. */
export type FilterMethod = 'bridge-conntrack' | 'br-netfilter';

/** A set or map of the bridge's table. */
export interface RulesetSet {
  /** `type ipv4_addr; flags interval;` */
  readonly declaration: string;
  /** Each as it is written. */
  readonly elements: readonly string[];
}

export interface RulesetChain {
  /** `type filter hook forward priority -200; policy accept;` Empty: it is only jumped to. */
  readonly base: string;
  /** Rules, each with a comment by which it is known again. */
  readonly rules: readonly string[];
}

/** All of one table. Chains stand in an order in which each comes after those that it refers to. */
export interface RulesetTable {
  readonly sets: ReadonlyMap<string, RulesetSet>;
  readonly maps: ReadonlyMap<string, RulesetSet>;
  readonly chains: ReadonlyMap<string, RulesetChain>;
}

export interface Ruleset {
  readonly bridge: RulesetTable;
  readonly inet: RulesetTable;
}

/**
 * Bits of a packet's mark, from the table inet to the table bridge; the other bits are others'. The lower three say what
 * the packet is to its connection: 0 begins it, or is of none that is known.
 */
const bits = {
  mask: '0x07000000',
  others: '0xf0ffffff',
  established: '0x01000000',
  reply: '0x02000000',
  related: '0x03000000',
  invalid: '0x04000000',
  /** The connection was begun by a program of this host. Also in the connection's mark. */
  host: '0x08000000',
} as const;

const tcp = 6;
const udp = 17;
const icmp = 1;
const icmpv6 = 58;
/** Fewer rules are not worth a jump by protocol. */
const splitFrom = 8;
/** New connections that are logged, of each rule. */
const logLimit = 'limit rate 5/second burst 10 packets';

export interface RulesetOptions {
  method: FilterMethod | 'none';
  /** Bridges with NICs that have rules. */
  bridges: readonly string[];
}

/** The whole ruleset of a plan. */
export function buildRuleset(plan: FilterPlan, options: RulesetOptions): Ruleset {
  const builder = new Builder(plan, options);
  return { bridge: builder.bridge(), inet: inetTable(plan, options) };
}

interface Side {
  peer: 's' | 'd';
  /** Port that is connected to. */
  port: 's' | 'd';
  link: 'iifname' | 'oifname';
  isReply: boolean;
}

/** How the other side stands in a packet to the NIC, and in one from it. */
const toNic: Side = { peer: 's', port: 'd', link: 'iifname', isReply: false };
const fromNic: Side = { peer: 'd', port: 'd', link: 'oifname', isReply: false };
const answersFromNic: Side = { peer: 'd', port: 's', link: 'oifname', isReply: true };
const answersToNic: Side = { peer: 's', port: 's', link: 'iifname', isReply: true };

/** What was made for a direction: where its packets go, and the chains and sets that this needs. */
interface Compiled {
  target: string;
  chains: Map<string, RulesetChain>;
  /** Keys of named sets. */
  sets: Set<string>;
}

/** By a direction and what else it was made for. */
const compiled = new WeakMap<FilterDirection, Map<string, Compiled>>();
/** Of one direction there are several only for the links of NICs with limits. */
const maxCompiled = 4096;
/** Lines of rules, by what else they were made for. */
const knownLines = new WeakMap<FilterRule, Map<string, string[]>>();

/** Hashes of the text of rules that are used again. */
const knownHashes = new WeakMap<readonly string[], string>();
/** Chains of NICs' own, by link and where it sends them. */
const knownLinkRules = new Map<string, { name: string; chain: RulesetChain }>();
const maxKnownLinkRules = 20_000;

class Builder {
  readonly #plan: FilterPlan;
  readonly #options: RulesetOptions;
  readonly #chains = new Map<string, RulesetChain>();
  readonly #sets = new Map<string, RulesetSet>();
  readonly #named: ReadonlyMap<string, FilterSet>;
  readonly #owners: ReadonlyMap<string, AddressOwners>;
  readonly #owned = new Map<string, OwnedAddresses>();
  /** What is being made for a direction. */
  #part: Compiled | null = null;

  constructor(plan: FilterPlan, options: RulesetOptions) {
    this.#plan = plan;
    this.#options = options;
    this.#named = new Map(plan.sets.map((set) => [set.key, set]));
    this.#owners = new Map(plan.owners.map((one) => [one.network, one]));
  }

  bridge(): RulesetTable {
    const guard: string[] = [];
    const ingress: string[] = [];
    const egress: string[] = [];
    for (const nic of this.#plan.nics) {
      const isFiltered = hasRules(nic) && this.#options.method !== 'none';
      if (nic.guard || isFiltered) guard.push(`"${nic.link}" : jump ${this.#guardChain(nic.guard)}`);
      if (!isFiltered) continue;
      ingress.push(`"${nic.link}" : jump ${this.#linkChain(nic, 'ingress')}`);
      egress.push(`"${nic.link}" : jump ${this.#linkChain(nic, 'egress')}`);
    }
    const map = (elements: string[]): RulesetSet => ({ declaration: 'type ifname : verdict;', elements });
    const base = (hook: string, priority: number, rules: string[]): RulesetChain => ({
      base: `type filter hook ${hook} priority ${priority}; policy accept;`,
      rules: rules.map((rule) => commented(rule, 'by link')),
    });
    const chains = new Map(this.#chains);
    chains.set('prerouting', base('prerouting', -300, ['iifname vmap @guard']));
    if (this.#options.method === 'bridge-conntrack')
      chains.set('state', {
        base: 'type filter hook prerouting priority -150; policy accept;',
        rules: stateRules().map((rule) => commented(rule, 'state of the connection')),
      });
    // Before br_netfilter shows packets to the host's own rules, at 0.
    chains.set('forward', base('forward', -200, ['iifname vmap @egress', 'oifname vmap @ingress']));
    chains.set('input', base('input', -200, ['iifname vmap @egress']));
    chains.set('output', base('output', -200, ['oifname vmap @ingress']));
    const maps = new Map([
      ['guard', map(guard)],
      ['ingress', map(ingress)],
      ['egress', map(egress)],
    ]);
    return { sets: this.#sets, maps, chains };
  }

  /** What a NIC may send. Also of one without a guard, which may send all but tags: behind one, rules would see nothing. */
  #guardChain(guard: SpoofGuard | null): string {
    if (!guard) return this.#chain('g', tagRules);
    let owned = this.#owned.get(guard.network);
    if (!owned) {
      owned = ownedAddresses(guard.network, this.#owners.get(guard.network)?.owners ?? []);
      this.#owned.set(guard.network, owned);
      for (const [name, set] of owned.sets) this.#sets.set(name, set);
    }
    const common = this.#chain('g', commonGuardRules);
    return this.#chain('g', guardRules(guard, owned, common));
  }

  /** The chain of a NIC's own, which stays when its rules become others. */
  #linkChain(nic: NicFilter, direction: 'ingress' | 'egress'): string {
    const target = this.#nicChain(nic, direction);
    const key = `${direction} ${nic.link} ${target}`;
    let known = knownLinkRules.get(key);
    if (!known) {
      const name = `${direction === 'ingress' ? 'ni' : 'ne'}_${shortHash(nic.link)}`;
      const rules = [commented(`goto ${target}`, `${direction} of ${nic.link}`)];
      known = { name, chain: { base: '', rules } };
      if (knownLinkRules.size >= maxKnownLinkRules) knownLinkRules.clear();
      knownLinkRules.set(key, known);
    }
    this.#chains.set(known.name, known.chain);
    return known.name;
  }

  /** What was made for a direction before, or is made now; with the chains and sets that it needs. */
  #compile(direction: FilterDirection, key: string, make: () => string): string {
    let all = compiled.get(direction);
    if (!all) compiled.set(direction, (all = new Map()));
    const known = all.get(key);
    if (known) {
      for (const [name, chain] of known.chains) if (!this.#chains.has(name)) this.#chains.set(name, chain);
      for (const set of known.sets) this.#namedSets(set);
      return known.target;
    }
    const part: Compiled = { target: '', chains: new Map(), sets: new Set() };
    this.#part = part;
    try {
      part.target = make();
    } finally {
      this.#part = null;
    }
    if (all.size >= maxCompiled) all.clear();
    all.set(key, part);
    return part.target;
  }

  #nicChain(nic: NicFilter, direction: 'ingress' | 'egress'): string {
    const { method } = this.#options;
    const answers = this.#answersChain(nic, direction === 'ingress' ? 'egress' : 'ingress');
    // Of a limit, each NIC has its own count.
    const ownLimits =
      method === 'bridge-conntrack' && nic[direction].rules.some((rule) => rule.connectionLimit !== null);
    const key = `${direction} ${method} ${answers} ${nic.isHostAllowed} ${ownLimits ? nic.link : ''}`;
    return this.#compile(nic[direction], key, () => this.#makeNicChain(nic, direction, answers));
  }

  #makeNicChain(nic: NicFilter, direction: 'ingress' | 'egress', answers: string): string {
    const isIngress = direction === 'ingress';
    const always = isIngress
      ? ['udp sport 67 udp dport 68 return', 'udp sport 547 udp dport 546 return']
      : ['udp sport 68 udp dport 67 return', 'udp sport 546 udp dport 547 return'];
    const rules = [
      commented(`meta mark & ${bits.mask} == ${bits.reply} ${answers}`, 'answers'),
      commented(`meta mark & ${bits.mask} == ${bits.invalid} drop`, 'what belongs to no connection'),
      commented('meta protocol arp return', 'addressing'),
      ...[icmp, icmpv6].map((protocol) =>
        commented(
          `meta mark & ${bits.mask} == ${bits.related} meta l4proto ${protocol} return`,
          'errors of connections',
        ),
      ),
      ...always.map((rule) => commented(rule, 'addressing')),
      // Neighbour, router and multicast listener discovery: RFC 4861, RFC 3810.
      ...['130-136', '143'].map((types) => commented(`icmpv6 type ${types} return`, 'addressing')),
      ...(isIngress && nic.isHostAllowed ? [commented(`meta mark & ${bits.host} != 0 counter return`, 'host')] : []),
      ...this.#ruleLines(nic, direction, isIngress ? toNic : fromNic),
    ];
    return this.#chain(isIngress ? 'i' : 'e', rules);
  }

  /** Where packets go that answer connections of this direction: a verdict. */
  #answersChain(nic: NicFilter, direction: 'ingress' | 'egress'): string {
    const { rules, otherwise } = nic[direction];
    if (otherwise === 'allow' && rules.every(({ action }) => action === 'allow')) return 'return';
    const isIngress = direction === 'ingress';
    const key = `answers to ${direction} ${this.#options.method} ${nic.isHostAllowed}`;
    return this.#compile(nic[direction], key, () => {
      const lines = [
        ...(isIngress && nic.isHostAllowed ? [commented(`meta mark & ${bits.host} != 0 counter return`, 'host')] : []),
        ...this.#ruleLines(nic, direction, isIngress ? answersFromNic : answersToNic),
      ];
      return `goto ${this.#chain(isIngress ? 'ia' : 'ea', lines)}`;
    });
  }

  #ruleLines(nic: NicFilter, direction: 'ingress' | 'egress', side: Side): string[] {
    const { rules, otherwise } = nic[direction];
    const last = commented(`counter ${otherwise === 'allow' ? 'return' : 'drop'}`, `default-${direction}`);
    const lines = (protocol: number | null): string[] =>
      rules
        .filter((rule) => protocol === null || rule.protocol === null || rule.protocol === protocol)
        .flatMap((rule) => this.#lines(rule, nic, direction, side));
    if (rules.length < splitFrom) return [...lines(null), last];
    const parts = [tcp, udp].map((protocol) => {
      const chain = this.#chain('p', [...lines(protocol), last]);
      return commented(`meta l4proto ${protocol} goto ${chain}`, 'by protocol');
    });
    const others = rules
      .filter(({ protocol }) => protocol !== tcp && protocol !== udp)
      .flatMap((rule) => this.#lines(rule, nic, direction, side));
    return [...parts, ...others, last];
  }

  #lines(rule: FilterRule, nic: NicFilter, direction: 'ingress' | 'egress', side: Side): string[] {
    for (const peer of rule.peers ?? []) if (peer.kind === 'set') this.#namedSets(peer.set);
    // A line of a limit names its NIC.
    if (rule.connectionLimit !== null) return this.#makeLines(rule, nic, direction, side);
    let all = knownLines.get(rule);
    if (!all) knownLines.set(rule, (all = new Map()));
    const key = `${direction} ${side.isReply}`;
    const known = all.get(key);
    if (known) return known;
    const lines = this.#makeLines(rule, nic, direction, side);
    all.set(key, lines);
    return lines;
  }

  #makeLines(rule: FilterRule, nic: NicFilter, direction: 'ingress' | 'egress', side: Side): string[] {
    const what = protocolMatch(rule, side);
    if (what === null) return [];
    const verdict = rule.action === 'allow' ? 'return' : 'drop';
    const { method } = this.#options;
    return this.#peerMatches(rule.peers, side).flatMap((who) => {
      const match = [what, who].filter((part) => part !== '').join(' ');
      const lines: string[] = [];
      if (rule.connectionLimit !== null && !side.isReply && method === 'bridge-conntrack')
        lines.push(
          commented(
            `${match} ct state new ct count over ${rule.connectionLimit} counter drop`,
            `limit of ${rule.id} on ${nic.link}`,
          ),
        );
      if (rule.isLogged && !side.isReply)
        lines.push(
          commented(
            `${match} meta mark & ${bits.mask} == 0 ${logLimit} log prefix "${logPrefix(rule, direction)}" level info`,
            `log of ${rule.id}`,
          ),
        );
      lines.push(commented(`${match} counter ${verdict}`.trim(), rule.id));
      return lines;
    });
  }

  /** Matches of the other side, any of which is enough; one that is empty: everybody. */
  #peerMatches(peers: readonly FilterPeer[] | null, { peer, link }: Side): string[] {
    if (peers === null) return [''];
    const blocks = peers.flatMap((one) => (one.kind === 'block' ? [one.cidr] : []));
    const matches = ([4, 6] as const).flatMap((family) => {
      const own = disjoint(blocks, family);
      const word = family === 4 ? 'ip' : 'ip6';
      if (own.length === 0) return [];
      if (own.some((block) => block.endsWith('/0'))) return [`meta protocol ${word}`];
      return [`${word} ${peer}addr ${own.length === 1 ? own[0] : `{ ${own.join(', ')} }`}`];
    });
    for (const one of peers) {
      if (one.kind !== 'set') continue;
      const names = this.#namedSets(one.set);
      matches.push(`${link} @${names.links}`, `ip ${peer}addr @${names.ipv4}`, `ip6 ${peer}addr @${names.ipv6}`);
    }
    return matches;
  }

  /** The sets of the kernel that a named set is. Those of addresses that users list take prefixes, the others single addresses. */
  #namedSets(key: string): { links: string; ipv4: string; ipv6: string } {
    this.#part?.sets.add(key);
    const hash = shortHash(key);
    const names = { links: `l_${hash}`, ipv4: `a4_${hash}`, ipv6: `a6_${hash}` };
    if (this.#sets.has(names.links)) return names;
    const { blocks = [], links = [] } = this.#named.get(key) ?? {};
    const flags = key.startsWith('addresses:') ? ' flags interval;' : '';
    this.#sets.set(names.links, { declaration: 'type ifname;', elements: links.map((link) => `"${link}"`) });
    this.#sets.set(names.ipv4, { declaration: `type ipv4_addr;${flags}`, elements: disjoint(blocks, 4) });
    this.#sets.set(names.ipv6, { declaration: `type ipv6_addr;${flags}`, elements: disjoint(blocks, 6) });
    return names;
  }

  #chain(kind: string, rules: readonly string[]): string {
    let hash = knownHashes.get(rules);
    if (hash === undefined) knownHashes.set(rules, (hash = shortHash(rules.join('\n'))));
    const name = `${kind}_${hash}`;
    const chain = this.#chains.get(name) ?? { base: '', rules };
    this.#chains.set(name, chain);
    this.#part?.chains.set(name, chain);
    return name;
  }
}

/** The state of a packet's connection, as bits of its mark. */
function stateRules(): string[] {
  const set = (value: string): string => `meta mark set meta mark | ${value}`;
  return [
    `meta mark set meta mark & ${bits.others}`,
    `ct state invalid ${set(bits.invalid)} return`,
    `ct state related ${set(bits.related)} return`,
    `ct mark & ${bits.host} != 0 ${set(bits.host)}`,
    `ct direction reply ${set(bits.reply)} return`,
    `ct state established ${set(bits.established)}`,
  ];
}

function inetTable(plan: FilterPlan, { method, bridges }: RulesetOptions): RulesetTable {
  const chains = new Map<string, RulesetChain>();
  const sets = new Map<string, RulesetSet>();
  if (method !== 'none' && bridges.length > 0) {
    const base = (hook: string, priority: number): string =>
      `type filter hook ${hook} priority ${priority}; policy accept;`;
    sets.set('bridges', { declaration: 'type ifname;', elements: bridges.map((bridge) => `"${bridge}"`) });
    chains.set('state', {
      base: '',
      rules: stateRules().map((rule) => commented(rule, 'state of the connection')),
    });
    const limits = method === 'br-netfilter' ? limitRules(plan) : { ingress: [], egress: [] };
    // After conntrack (-200) and before destination NAT (-100).
    const from = method === 'br-netfilter' ? [commented('iifname @bridges jump state', 'from guests')] : [];
    chains.set('prerouting', { base: base('prerouting', -150), rules: [...from, ...limits.egress] });
    chains.set('postrouting', {
      base: base('postrouting', 300),
      rules: [...limits.ingress, commented('oifname @bridges jump state', 'to guests')],
    });
    chains.set('output', {
      base: base('output', -150),
      rules: [
        commented(`oifname @bridges ct state new ct mark set ct mark | ${bits.host}`, 'begun by programs of this host'),
      ],
    });
  }
  return { sets, maps: new Map(), chains };
}

/** Limits of connections where the bridge's chains can't count them: by the addresses that are known of a NIC. */
function limitRules(plan: FilterPlan): { ingress: string[]; egress: string[] } {
  const named = new Map(plan.sets.map((set) => [set.key, set]));
  const linesOf = (nic: NicFilter, direction: 'ingress' | 'egress'): string[] =>
    nic[direction].rules
      .filter(({ connectionLimit }) => connectionLimit !== null)
      .flatMap((rule) => {
        const isIngress = direction === 'ingress';
        const own = ([4, 6] as const).flatMap((family) => {
          const blocks = disjoint(nic.addresses, family);
          return blocks.length === 0 ? [] : [{ family, blocks }];
        });
        const what = protocolMatch(rule, isIngress ? toNic : fromNic);
        return own.flatMap(({ family, blocks }) => {
          const word = family === 4 ? 'ip' : 'ip6';
          const peers = rule.peers?.flatMap((peer) =>
            peer.kind === 'block' ? [peer.cidr] : (named.get(peer.set)?.blocks ?? []),
          );
          const allowed = peers && disjoint(peers, family);
          if (what === null || allowed?.length === 0) return [];
          const [mine, theirs] = isIngress ? ['daddr', 'saddr'] : ['saddr', 'daddr'];
          const who =
            allowed && !allowed.some((block) => block.endsWith('/0'))
              ? ` ${word} ${theirs} { ${allowed.join(', ')} }`
              : '';
          return [
            commented(
              `ct state new ${word} ${mine} { ${blocks.join(', ')} }${who} ${what} ct count over ${rule.connectionLimit} counter drop`,
              `limit of ${rule.id}`,
            ),
          ];
        });
      });
  return {
    ingress: plan.nics.flatMap((nic) => linesOf(nic, 'ingress')),
    egress: plan.nics.flatMap((nic) => linesOf(nic, 'egress')),
  };
}

/** Types of ICMP that answer others: RFC 792, RFC 1256, RFC 4443. */
const icmpAnswers: Readonly<Record<number, readonly number[]>> = { 8: [0], 10: [9], 13: [14], 15: [16], 17: [18] };
const icmpv6Answers: Readonly<Record<number, readonly number[]>> = { 128: [129], 139: [140] };

/** The match of protocol, ports and types; null: there is nothing that could match, as for answers to what has none. */
function protocolMatch({ protocol, ports, icmpTypes }: FilterRule, { port, isReply }: Side): string | null {
  if (protocol === null) return '';
  if (ports.length > 0) return `meta l4proto ${protocol} th ${port}port ${portsText(ports)}`;
  if (icmpTypes.length === 0 || (protocol !== icmp && protocol !== icmpv6)) return `meta l4proto ${protocol}`;
  const answers = protocol === icmp ? icmpAnswers : icmpv6Answers;
  const types = isReply ? icmpTypes.flatMap((type) => answers[type] ?? []) : icmpTypes;
  const unique = [...new Set(types)].toSorted((one, other) => one - other);
  return unique.length === 0 ? null : `${protocol === icmp ? 'icmp' : 'icmpv6'} type { ${unique.join(', ')} }`;
}

/** `lodge web/https in allow: `: what a line of the kernel’s log begins with. At most 127 bytes: NF_LOG_PREFIXLEN of linux/netfilter/nf_log.h. */
function logPrefix({ id, action }: FilterRule, direction: 'ingress' | 'egress'): string {
  return `lodge ${id} ${direction === 'ingress' ? 'in' : 'out'} ${action}: `;
}
