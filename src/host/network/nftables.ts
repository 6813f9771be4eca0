// Tables of nftables that are Lodge's own: typed rules become one text that the kernel takes as a whole or not at all,
// and what the kernel holds is read back and compared.
//
// Promises: a table is replaced in one transaction, so no packet meets half of it; other tables are never touched.
// Every rule carries a comment with what it is for and a hash of its text. So the comparison needs no copy of what
// was loaded, survives a restart of the daemon, and does not depend on how a version of nft spells a rule.
import { createHash } from 'node:crypto';
import { CommandError, run } from '../command.ts';
import { inScope, type NetworkScope } from './netns.ts';

export type NftVerdict =
  | 'accept'
  | 'drop'
  | 'reject'
  | 'return'
  | 'masquerade'
  | { readonly jump: string }
  /** Another destination. Ports: all to one, or each to its own; without them, the port stays. */
  | {
      readonly destination: string;
      readonly port?: number;
      readonly ports?: { readonly protocol: 'tcp' | 'udp'; readonly map: readonly (readonly [number, number])[] };
    };

/** A condition of a rule. All conditions of a rule must hold. Addresses and blocks are IPv4 or IPv6. */
export type NftMatch =
  | { readonly inputLink: string; readonly isNot?: boolean }
  | { readonly outputLink: string; readonly isNot?: boolean }
  | { readonly source: string; readonly isNot?: boolean }
  | { readonly destination: string; readonly isNot?: boolean }
  | { readonly protocol: 'tcp' | 'udp'; readonly destinationPorts: readonly number[] }
  | { readonly protocols: readonly ('icmp' | 'ipv6-icmp' | 'tcp' | 'udp')[] }
  | { readonly protocol: 'tcp' | 'udp'; readonly firstPort: number; readonly lastPort: number }
  | { readonly family: 4 | 6 }
  /** To an address that this machine has. */
  | { readonly isDestinationLocal: true }
  | { readonly connectionStates: readonly ('established' | 'related' | 'new' | 'invalid')[] }
  /** A connection whose destination was translated: a forwarded port. */
  | { readonly isDestinationTranslated: true };

export interface NftRule {
  /** What it is for, in a few words: shown by `nft list ruleset`. */
  readonly comment: string;
  readonly matches: readonly NftMatch[];
  /** Counts packets and bytes. */
  readonly isCounted?: boolean;
  /** A map of links to verdicts in the same table, asked instead of `verdict`. */
  readonly lookup?: { readonly key: 'inputLink' | 'outputLink'; readonly map: string };
  readonly verdict?: NftVerdict;
}

export interface NftChain {
  readonly name: string;
  /** What makes the kernel call the chain; without it, it is only jumped to. Priority as a number: 0 filter, 100 srcnat. */
  readonly base?: {
    readonly type: 'filter' | 'nat';
    readonly hook: 'prerouting' | 'input' | 'forward' | 'output' | 'postrouting';
    readonly priority: number;
    readonly policy: 'accept' | 'drop';
  };
  readonly rules: readonly NftRule[];
}

/** A map of links to verdicts: one lookup, however many links there are. */
export interface NftLinkMap {
  readonly name: string;
  readonly elements: readonly { readonly link: string; readonly verdict: NftVerdict }[];
}

/** A table of family inet (IPv4 and IPv6). */
export interface NftTable {
  readonly name: string;
  readonly maps: readonly NftLinkMap[];
  readonly chains: readonly NftChain[];
}

/** nft refused a ruleset or could not be asked. Its table is as it was before. */
export class NftablesError extends Error {
  override name = 'NftablesError';
  readonly table: string;
  readonly reason: 'denied' | 'unsupported' | 'other';

  constructor(table: string, reason: NftablesError['reason'], message: string, options?: ErrorOptions) {
    super(message, options);
    this.table = table;
    this.reason = reason;
  }
}

/** The text for `nft -f` that puts this table in place of one of the same name, in one transaction. */
export function renderTable(table: NftTable): string {
  const name = identifier(table.name);
  const lines = [
    // The first line makes sure that there is one to delete: `destroy` does so in one word from nft 1.0.7 on.
    `table inet ${name}`,
    `delete table inet ${name}`,
    `table inet ${name} {`,
  ];
  for (const map of table.maps) {
    lines.push(`  map ${identifier(map.name)} {`, '    type ifname : verdict');
    if (map.elements.length > 0) {
      const elements = map.elements.map(({ link, verdict }) => `${quoted(link)} : ${renderVerdict(verdict)}`);
      lines.push(`    elements = { ${elements.join(', ')} }`);
    }
    lines.push('  }');
  }
  // A jump needs its target to stand before it.
  const chains = [...table.chains].sort((one, other) => Number(!!one.base) - Number(!!other.base));
  for (const chain of chains) {
    lines.push(`  chain ${identifier(chain.name)} {`);
    if (chain.base) {
      const { type, hook, priority, policy } = chain.base;
      lines.push(`    type ${type} hook ${hook} priority ${priority}; policy ${policy};`);
    }
    for (const rule of chain.rules) lines.push(`    ${renderRule(rule)} comment "${ruleComment(rule)}"`);
    lines.push('  }');
  }
  return `${lines.join('\n')}\n}\n`;
}

/** Puts the table in place, whatever was there under its name. */
export async function applyTable(table: NftTable, scope: NetworkScope = {}): Promise<void> {
  await nft(table.name, ['-f', '-'], scope, renderTable(table));
}

/** Deletes a table of family inet; false when there is none. */
export async function deleteTable(name: string, scope: NetworkScope = {}): Promise<boolean> {
  try {
    await nft(name, ['delete', 'table', 'inet', identifier(name)], scope);
    return true;
  } catch (error) {
    if (isMissing(error)) return false;
    throw error;
  }
}

/** In what the kernel's table differs from this one, each difference in a few words; empty when it is the same. */
export async function compareTable(table: NftTable, scope: NetworkScope = {}): Promise<string[]> {
  let json: string;
  try {
    json = await nft(table.name, ['-j', 'list', 'table', 'inet', identifier(table.name)], scope);
  } catch (error) {
    if (isMissing(error)) return [`the table inet ${table.name} is missing`];
    throw error;
  }
  return compareListing(table, json);
}

interface ListedChain {
  name: string;
  type?: string;
  hook?: string;
  prio?: number;
  policy?: string;
}

interface Listing {
  nftables: {
    map?: { name: string; elem?: unknown[] };
    chain?: ListedChain & { family: string; table: string };
    rule?: { chain: string; comment?: string };
  }[];
}

/** The comparison behind {@link compareTable}, on what `nft -j list table` writes. */
export function compareListing(table: NftTable, json: string): string[] {
  const { nftables: objects } = JSON.parse(json) as Listing;
  const differences: string[] = [];

  const chains = new Map(objects.flatMap(({ chain }) => (chain ? [[chain.name, chain] as const] : [])));
  for (const chain of table.chains) {
    const listed = chains.get(chain.name);
    chains.delete(chain.name);
    if (!listed) {
      differences.push(`the chain ${chain.name} is missing`);
      continue;
    }
    const wanted = chain.base && [chain.base.type, chain.base.hook, chain.base.priority, chain.base.policy].join(' ');
    const found = listed.hook && [listed.type, listed.hook, listed.prio, listed.policy].join(' ');
    if (wanted !== found)
      differences.push(`the chain ${chain.name} is ${found ?? 'not hooked'}, not ${wanted ?? 'unhooked'}`);

    const rules = objects.flatMap(({ rule }) =>
      rule?.chain === chain.name ? [rule.comment ?? 'a rule without comment'] : [],
    );
    const comments = chain.rules.map(ruleComment);
    const missing = comments.filter((comment) => !rules.includes(comment));
    const added = rules.filter((comment) => !comments.includes(comment));
    for (const comment of missing) differences.push(`the rule "${comment}" of the chain ${chain.name} is missing`);
    for (const comment of added) differences.push(`the chain ${chain.name} has a rule of somebody else: "${comment}"`);
    if (missing.length + added.length === 0 && rules.join('\n') !== comments.join('\n')) {
      differences.push(`the rules of the chain ${chain.name} are in another order or doubled`);
    }
  }
  for (const name of chains.keys()) differences.push(`there is a chain ${name} of somebody else`);

  const maps = new Map(objects.flatMap(({ map }) => (map ? [[map.name, map.elem ?? []] as const] : [])));
  for (const map of table.maps) {
    const listed = maps.get(map.name);
    maps.delete(map.name);
    const wanted = map.elements.map(({ link, verdict }) => `${link} ${renderVerdict(verdict)}`);
    const found = listed?.map(renderListedElement);
    if (!found) differences.push(`the map ${map.name} is missing`);
    else if (found.sort().join('\n') !== wanted.sort().join('\n')) {
      differences.push(`the map ${map.name} holds [${found.join(', ')}], not [${wanted.join(', ')}]`);
    }
  }
  for (const name of maps.keys()) differences.push(`there is a map ${name} of somebody else`);
  return differences;
}

function renderListedElement(element: unknown): string {
  if (!Array.isArray(element)) return JSON.stringify(element);
  const [link, verdict] = element as [unknown, Record<string, { target?: string } | null> | undefined];
  const [word, detail] = Object.entries(verdict ?? {})[0] ?? [];
  return `${typeof link === 'string' ? link : JSON.stringify(link)} ${word}${detail?.target ? ` ${detail.target}` : ''}`;
}

function renderRule(rule: NftRule): string {
  const words = rule.matches.map(renderMatch);
  if (rule.isCounted) words.push('counter');
  if (rule.lookup)
    words.push(`${rule.lookup.key === 'inputLink' ? 'iifname' : 'oifname'} vmap @${identifier(rule.lookup.map)}`);
  else if (rule.verdict)
    words.push(rule.verdict === 'reject' ? 'reject with icmpx admin-prohibited' : renderVerdict(rule.verdict));
  return words.join(' ');
}

function renderMatch(match: NftMatch): string {
  const operator = 'isNot' in match && match.isNot ? '!= ' : '';
  if ('inputLink' in match) return `iifname ${operator}${quoted(match.inputLink)}`;
  if ('outputLink' in match) return `oifname ${operator}${quoted(match.outputLink)}`;
  if ('source' in match) return `${ipWord(match.source)} saddr ${operator}${match.source}`;
  if ('destination' in match) return `${ipWord(match.destination)} daddr ${operator}${match.destination}`;
  if ('destinationPorts' in match) return `${match.protocol} dport { ${match.destinationPorts.join(', ')} }`;
  if ('firstPort' in match)
    return `${match.protocol} dport ${match.firstPort === match.lastPort ? match.firstPort : `${match.firstPort}-${match.lastPort}`}`;
  if ('isDestinationLocal' in match) return 'fib daddr type local';
  if ('protocols' in match) return `meta l4proto { ${match.protocols.join(', ')} }`;
  if ('family' in match) return `meta nfproto ${match.family === 4 ? 'ipv4' : 'ipv6'}`;
  if ('connectionStates' in match) return `ct state { ${match.connectionStates.join(', ')} }`;
  return 'ct status dnat';
}

function renderVerdict(verdict: NftVerdict): string {
  if (typeof verdict === 'string') return verdict;
  if ('jump' in verdict) return `jump ${identifier(verdict.jump)}`;
  const { destination, port, ports } = verdict;
  const family = ipWord(destination);
  // With a port the colons of an IPv6 address need brackets.
  const address = family === 'ip6' && (port ?? ports) !== undefined ? `[${destination}]` : destination;
  if (ports) {
    const pairs = ports.map.map(([from, to]) => `${from} : ${to}`);
    return `dnat ${family} to ${address} : ${ports.protocol} dport map { ${pairs.join(', ')} }`;
  }
  return `dnat ${family} to ${address}${port === undefined ? '' : `:${port}`}`;
}

/** The comment that a rule stands under: 128 bytes at most (NFTNL_UDATA_COMMENT_MAXLEN of libnftables). */
function ruleComment(rule: NftRule): string {
  const hash = createHash('sha256').update(renderRule(rule)).digest('hex').slice(0, 8);
  return `${rule.comment.replaceAll(/[^\x20-\x7e]|["\\]/g, '?').slice(0, 100)} #${hash}`;
}

function ipWord(address: string): 'ip' | 'ip6' {
  if (!/^[0-9a-f:.]+(\/\d{1,3})?$/i.test(address))
    throw new RangeError(`${JSON.stringify(address)} is no address or block`);
  return address.includes(':') ? 'ip6' : 'ip';
}

function identifier(name: string): string {
  if (/^[A-Za-z][A-Za-z0-9_.-]{0,127}$/.test(name)) return name;
  throw new RangeError(
    `${JSON.stringify(name)} is no name of nftables: use a letter, then letters, digits, "_", "." and "-"`,
  );
}

function quoted(link: string): string {
  if (/^[A-Za-z0-9_.-]{1,15}$/.test(link)) return `"${link}"`;
  throw new RangeError(`${JSON.stringify(link)} is no name of a link`);
}

async function nft(table: string, args: string[], scope: NetworkScope, input?: string): Promise<string> {
  try {
    return (await run(inScope(scope, ['nft', ...args]), { input })).stdout;
  } catch (error) {
    if (!(error instanceof CommandError) || error.reason !== 'exit') throw error;
    const options = { cause: error };
    if (/Operation not permitted|must be root/.test(error.stderr)) {
      throw new NftablesError(table, 'denied', 'packet filters need the capability NET_ADMIN', options);
    }
    if (error.signal !== null) {
      // Seen with nft 1.0.6 (Debian 12) where nft 1.1 had written a table: it crashes even on `list tables`.
      const why =
        error.signal === 'SIGSEGV'
          ? '; it crashes where a newer nft has written tables: update nftables, or restart the machine'
          : '';
      throw new NftablesError(table, 'other', `nft ${args.join(' ')} was ended by ${error.signal}${why}`, options);
    }
    const said = error.stderr.trim().slice(0, 2000);
    const isUnsupported = /not supported|Protocol error|No such file or directory/.test(said) && args[0] === '-f';
    const hint = isUnsupported
      ? '; the kernel may lack a module of nftables (nf_tables, nft_masq, nft_reject_inet, nft_ct)'
      : '';
    throw new NftablesError(
      table,
      isUnsupported ? 'unsupported' : 'other',
      `nft ${args.join(' ')} for the table ${table} failed: ${said}${hint}`,
      options,
    );
  }
}

function isMissing(error: unknown): boolean {
  const cause = error instanceof Error ? error.cause : null;
  return cause instanceof CommandError && /No such file or directory/.test(cause.stderr);
}
