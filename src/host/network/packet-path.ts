// Which rules of this machine a packet would be dropped by, whoever made them: read from the kernel's nftables (which is
// also where today's iptables, Docker, firewalld and libvirt have theirs) and followed in thought. A packet must be
// accepted by every chain of its hook: an accept in Lodge's own table overrules nobody's drop.
//
// Promises: a drop is told only where it is certain. A condition that isn't understood (extensions of iptables) counts as
// one that may hold: if it may let the packet pass, the drop behind it is told as possible, not as certain.
import { run } from '../command.ts';
import { isInside, parseCidr, parseIp } from '../../lib/ip-address.ts';
import { inScope, type NetworkScope } from './netns.ts';

/** A packet to be followed. */
export interface TestPacket {
  readonly hook: 'input' | 'forward';
  readonly family: 4 | 6;
  readonly inputLink: string;
  /** Null at the hook `input`. */
  readonly outputLink: string | null;
  readonly protocol: 'tcp' | 'udp';
  readonly source: string;
  readonly destination: string;
  readonly destinationPort: number;
  /** Of its connection: the first packet, or an answer. */
  readonly state: 'new' | 'established';
}

/** What drops a packet. */
export interface PacketDrop {
  readonly family: string;
  readonly table: string;
  /** The chain that is hooked, whether the drop is in it or in one that it jumps to. */
  readonly chain: string;
  /** The chain with the rule, and the rule's handle (`nft -a list chain`); null: the policy of the hooked chain. */
  readonly rule: { readonly chain: string; readonly handle: number } | null;
  /** False: rules that can't be followed from here may let the packet pass before. */
  readonly isCertain: boolean;
  /** Other chains of the table, by which it is told whose it is. */
  readonly siblings: readonly string[];
}

type Json = null | boolean | number | string | Json[] | { [key: string]: Json };
type JsonObject = { [key: string]: Json };

interface ListedChain {
  family: string;
  table: string;
  name: string;
  hook?: string;
  prio?: number;
  policy?: string;
}

interface ListedRule {
  family: string;
  table: string;
  chain: string;
  handle: number;
  expr: JsonObject[];
}

interface ListedSet {
  family: string;
  table: string;
  name: string;
  elem?: Json[];
}

/** The rules of a machine, as `nft -j list ruleset` writes them. */
export interface Ruleset {
  chains: ListedChain[];
  rules: ListedRule[];
  sets: ListedSet[];
}

export async function readRuleset(scope: NetworkScope = {}): Promise<Ruleset> {
  return parseRuleset((await run(inScope(scope, ['nft', '-j', 'list', 'ruleset']))).stdout);
}

export function parseRuleset(json: string): Ruleset {
  const objects = (JSON.parse(json || '{"nftables":[]}') as { nftables: Record<string, unknown>[] }).nftables;
  const all = <Kind>(...kinds: string[]): Kind[] =>
    objects.flatMap((object) => kinds.flatMap((kind) => (object[kind] ? [object[kind] as Kind] : [])));
  return { chains: all('chain'), rules: all('rule'), sets: all('set', 'map') };
}

/** What drops the packet: of each hooked chain, the first that does. The table `exceptTable` of family inet is Lodge's own. */
export function findDrops(ruleset: Ruleset, packet: TestPacket, exceptTable: string): PacketDrop[] {
  const families = new Set(['inet', packet.family === 4 ? 'ip' : 'ip6']);
  return ruleset.chains
    .filter(({ hook, family }) => hook === packet.hook && families.has(family))
    .filter(({ family, table }) => family !== 'inet' || table !== exceptTable)
    .toSorted((one, other) => (one.prio ?? 0) - (other.prio ?? 0))
    .flatMap((chain) => {
      const walk = new Walk(ruleset, chain, packet);
      const end = walk.follow(chain.name, 0);
      const isDropped = end.verdict === 'drop' || (end.verdict === 'none' && chain.policy === 'drop');
      if (!isDropped) return [];
      const { family, table, name } = chain;
      const siblings = ruleset.chains
        .filter((other) => other.family === family && other.table === table)
        .map((other) => other.name);
      return [
        {
          family,
          table,
          chain: name,
          rule: end.verdict === 'drop' ? end.rule : null,
          isCertain: !walk.mayBeAccepted,
          siblings,
        },
      ];
    });
}

type End = { verdict: 'accept' | 'none' | 'return' } | { verdict: 'drop'; rule: { chain: string; handle: number } };
/** Whether a condition holds; undefined: it can't be said. */
type Truth = boolean | undefined;

/** Deeper than any chain jumps: the kernel's own limit is NFT_JUMP_STACK_SIZE, 16. */
const maxDepth = 16;

class Walk {
  readonly #ruleset: Ruleset;
  readonly #base: ListedChain;
  readonly #packet: TestPacket;
  mayBeAccepted = false;

  constructor(ruleset: Ruleset, base: ListedChain, packet: TestPacket) {
    this.#ruleset = ruleset;
    this.#base = base;
    this.#packet = packet;
  }

  follow(chain: string, depth: number): End {
    if (depth > maxDepth) return { verdict: 'none' };
    const { family, table } = this.#base;
    const rules = this.#ruleset.rules.filter(
      (rule) => rule.family === family && rule.table === table && rule.chain === chain,
    );
    for (const rule of rules) {
      const end = this.#apply(rule, depth);
      if (end.verdict === 'return') return { verdict: 'none' };
      if (end.verdict !== 'none') return end;
    }
    return { verdict: 'none' };
  }

  #apply(rule: ListedRule, depth: number): End {
    let isSure = true;
    for (const expression of rule.expr) {
      const [kind, detail] = Object.entries(expression)[0] ?? ['', null];
      const verdict = kind === 'vmap' ? this.#lookUp(detail as JsonObject) : verdictOf(kind, detail ?? null);
      if (verdict === 'unknown') isSure = false;
      else if (verdict) {
        const end = this.#conclude(rule, verdict.kind, verdict.detail, depth);
        if (isSure) return end;
        if (end.verdict === 'accept') this.mayBeAccepted = true;
        return { verdict: 'none' };
      }
      const truth = this.#holds(kind, detail);
      if (truth === false) return { verdict: 'none' };
      if (truth === undefined) isSure = false;
    }
    return { verdict: 'none' };
  }

  #conclude(rule: ListedRule, kind: string, detail: Json, depth: number): End {
    if (kind === 'drop' || kind === 'reject')
      return { verdict: 'drop', rule: { chain: rule.chain, handle: rule.handle } };
    if (kind === 'return') return { verdict: 'return' };
    if (kind === 'jump' || kind === 'goto') {
      const target = (detail as { target: string }).target;
      const end = this.follow(target, depth + 1);
      return kind === 'goto' && end.verdict === 'none' ? { verdict: 'return' } : end;
    }
    return { verdict: 'accept' };
  }

  #holds(kind: string, detail: Json): Truth {
    if (kind === 'match') return this.#matches(detail as JsonObject);
    if (kind === 'limit' || kind === 'quota' || kind === 'ct count') return undefined;
    if (kind === 'xt') {
      const { type, name } = (detail ?? {}) as { type?: string; name?: string };
      return type === 'target' || name === 'comment' ? true : undefined;
    }
    // Counters, logs, marks: they decide nothing.
    return true;
  }

  #matches({ op, left, right }: JsonObject): Truth {
    const value = this.#valueOf(left as JsonObject);
    if (value === undefined) return undefined;
    const truth = this.#isAmong(value, right ?? null);
    return truth === undefined ? undefined : op === '!=' ? !truth : truth;
  }

  /** What the packet has of a field; null: nothing, undefined: it is not known here. */
  #valueOf(left: JsonObject): string | number | null | undefined {
    const packet = this.#packet;
    const { meta, ct, payload } = left as {
      meta?: { key: string };
      ct?: { key: string };
      payload?: { protocol?: string; field?: string };
    };
    switch (meta?.key) {
      case 'iifname':
      case 'iif':
        return packet.inputLink;
      case 'oifname':
      case 'oif':
        return packet.outputLink;
      case 'nfproto':
        return packet.family === 4 ? 'ipv4' : 'ipv6';
      case 'l4proto':
        return packet.protocol;
      default:
    }
    if (ct?.key === 'state') return packet.state;
    if (ct?.key === 'status') return packet.state === 'new' ? 'none' : 'confirmed';
    const { protocol, field } = payload ?? {};
    if (protocol === 'ip' || protocol === 'ip6') {
      if ((protocol === 'ip') !== (packet.family === 4)) return null;
      if (field === 'saddr') return packet.source;
      if (field === 'daddr') return packet.destination;
      if (field === 'protocol' || field === 'nexthdr') return packet.protocol;
    }
    if (protocol === 'tcp' || protocol === 'udp' || protocol === 'th') {
      if (protocol !== 'th' && protocol !== packet.protocol) return null;
      if (field === 'dport') return packet.state === 'new' ? packet.destinationPort : undefined;
    }
    return protocol === 'icmp' || protocol === 'icmpv6' ? null : undefined;
  }

  #isAmong(value: string | number | null, right: Json): Truth {
    if (value === null) return false;
    if (typeof right === 'string' && right.startsWith('@')) {
      const elements = this.#setOf(right.slice(1))?.elem;
      return elements ? this.#isOneOf(value, elements) : undefined;
    }
    if (Array.isArray(right)) return this.#isOneOf(value, right);
    if (typeof right === 'object' && right !== null) {
      if (Array.isArray(right['set'])) return this.#isOneOf(value, right['set']);
      if ('prefix' in right) {
        const { addr, len } = right['prefix'] as { addr: string; len: number };
        const [cidr, address] = [parseCidr(`${addr}/${len}`), parseIp(String(value))];
        return cidr && address ? isInside(address, cidr) : undefined;
      }
      if (Array.isArray(right['range'])) {
        const [first, last] = right['range'];
        return typeof value === 'number' ? Number(first) <= value && value <= Number(last) : undefined;
      }
      if ('elem' in right) return this.#isAmong(value, (right['elem'] as JsonObject)['val'] ?? null);
      return undefined;
    }
    if (typeof right === 'string' && right.endsWith('*')) return String(value).startsWith(right.slice(0, -1));
    return String(value) === String(right);
  }

  #isOneOf(value: string | number, elements: Json[]): Truth {
    const truths = elements.map((element) => this.#isAmong(value, element));
    return truths.includes(true) ? true : truths.includes(undefined) ? undefined : false;
  }

  /** The verdict of a map for the packet; null: it has none for it. */
  #lookUp({ key, data }: JsonObject): { kind: string; detail: Json } | 'unknown' | null {
    const value = this.#valueOf(key as JsonObject);
    const elements =
      typeof data === 'string'
        ? this.#setOf(data.slice(1))?.elem
        : ((data as JsonObject | null)?.['set'] as Json[] | undefined);
    if (value === undefined || !elements) return 'unknown';
    for (const element of elements) {
      if (!Array.isArray(element) || this.#isAmong(value, element[0] ?? null) !== true) continue;
      const [kind, detail] = Object.entries((element[1] ?? {}) as JsonObject)[0] ?? [];
      return kind === undefined ? 'unknown' : { kind, detail: detail ?? null };
    }
    return null;
  }

  #setOf(name: string): ListedSet | undefined {
    const { family, table } = this.#base;
    return this.#ruleset.sets.find((set) => set.family === family && set.table === table && set.name === name);
  }
}

function verdictOf(kind: string, detail: Json): { kind: string; detail: Json } | null {
  if (['accept', 'drop', 'reject', 'return', 'jump', 'goto', 'queue'].includes(kind)) return { kind, detail };
  const { type, name } = (kind === 'xt' && detail ? detail : {}) as { type?: string; name?: string };
  // Of the targets of iptables, the others change packets or tell of them.
  return type === 'target' && name === 'REJECT' ? { kind: 'reject', detail: null } : null;
}

/** The commands that let guests of a link pass where a packet is dropped, for those who look after this machine. */
export function remedyFor(drop: PacketDrop, { hook, inputLink, outputLink }: TestPacket, ownLink: string): string[] {
  const { family, table, chain, siblings } = drop;
  const isIncoming = inputLink === ownLink;
  if (table === 'firewalld')
    return [`firewall-cmd --permanent --zone=trusted --add-interface=${ownLink}`, 'firewall-cmd --reload'];
  if (siblings.some((name) => name.startsWith('ufw')) && family !== 'inet')
    return hook === 'input'
      ? [`ufw allow in on ${ownLink}`]
      : [`ufw route allow ${isIncoming ? 'in' : 'out'} on ${ownLink}`];
  if (table === 'filter' && family !== 'inet' && /^[A-Z]+$/.test(chain)) {
    const program = family === 'ip6' ? 'ip6tables' : 'iptables';
    // Docker keeps what is in this chain of its users' when it makes its own rules anew.
    const place = hook === 'forward' && siblings.includes('DOCKER-USER') ? 'DOCKER-USER' : chain;
    return [`${program} -I ${place} ${isIncoming ? '-i' : '-o'} ${ownLink} -j ACCEPT`];
  }
  const link = isIncoming ? `iifname "${inputLink}"` : `oifname "${outputLink}"`;
  return [`nft insert rule ${family} ${table} ${chain} ${link} accept`];
}
