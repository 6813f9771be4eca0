// Loads the filter of guests' NICs and reads it back. Two tables an instance: NAME_filter of family bridge, which decides, and
// one of family inet, which tells it what conntrack knows.
//
// Promises:
// - One change is one transaction of both tables: a packet meets the rules before it or those after it.
// - A change writes only what differs, where it is known what is loaded; else both tables are replaced.
// - Other tables are never touched.
import { CommandError, run } from '../command.ts';
import { ipCommand, inScope, readKernelFile, type NetworkScope } from '../network/netns.ts';
import { NftablesError } from '../network/nftables.ts';
import { type FilterMethod, type Ruleset, type RulesetTable } from './filter-ruleset.ts';
import { shortComment } from './filter-text.ts';

type Family = 'bridge' | 'inet';
const families = ['bridge', 'inet'] as const;

/** The name of an instance's tables. Instances have no “_” in their names, so that no table of another is meant. */
export function filterTableName(instance: string): string {
  return instance === 'lodge' ? 'lodge_filter' : `lodge-${instance}_filter`;
}

/** The text for `nft -f` that replaces both tables. Null: they are only taken away. */
export function renderWhole(name: string, ruleset: Ruleset | null): string {
  const lines = families.flatMap((family) => [`table ${family} ${name}`, `delete table ${family} ${name}`]);
  for (const family of families) {
    const table = ruleset?.[family];
    if (!table || isEmpty(table)) continue;
    lines.push(`table ${family} ${name} {`);
    for (const [kind, all] of [
      ['set', table.sets],
      ['map', table.maps],
    ] as const)
      for (const [set, { declaration, elements }] of all) {
        lines.push(`  ${kind} ${set} {`, `    ${declaration}`);
        if (elements.length > 0) lines.push(`    elements = { ${elements.join(', ')} }`);
        lines.push('  }');
      }
    for (const [chain, { base, rules }] of table.chains)
      lines.push(`  chain ${chain} {`, ...[base, ...rules].filter(Boolean).map((line) => `    ${line}`), '  }');
    lines.push('}');
  }
  return `${lines.join('\n')}\n`;
}

/** The text for `nft -f` that makes the one of the other; empty: they are the same. */
export function renderChange(name: string, before: Ruleset, after: Ruleset): string {
  const lines: string[] = [];
  for (const family of families) {
    const [old, next] = [before[family], after[family]];
    if (isEmpty(next)) {
      if (!isEmpty(old)) lines.push(`delete table ${family} ${name}`);
      continue;
    }
    if (isEmpty(old)) lines.push(`add table ${family} ${name}`);
    lines.push(...tableChange(`${family} ${name}`, old, next));
  }
  return lines.length === 0 ? '' : `${lines.join('\n')}\n`;
}

function tableChange(table: string, before: RulesetTable, after: RulesetTable): string[] {
  const lines: string[] = [];
  const late: string[] = [];
  // First what others refer to: sets, then chains, then elements that name chains.
  for (const [set, { declaration, elements }] of after.sets) {
    const old = before.sets.get(set);
    if (!old) lines.push(`add set ${table} ${set} { ${declaration} }`);
    lines.push(...elementChange(`${table} ${set}`, declaration, old?.elements ?? [], elements));
  }
  for (const [map, { declaration }] of after.maps)
    if (!before.maps.has(map)) lines.push(`add map ${table} ${map} { ${declaration} }`);
  for (const [chain, { base }] of after.chains)
    if (!before.chains.has(chain)) lines.push(`add chain ${table} ${chain}${base === '' ? '' : ` { ${base} }`}`);
  for (const [chain, { rules }] of after.chains) {
    const old = before.chains.get(chain);
    if (old && isSame(old.rules, rules)) continue;
    if (old) lines.push(`flush chain ${table} ${chain}`);
    lines.push(...rules.map((rule) => `add rule ${table} ${chain} ${rule}`));
  }
  for (const [map, { declaration, elements }] of after.maps)
    lines.push(...elementChange(`${table} ${map}`, declaration, before.maps.get(map)?.elements ?? [], elements));
  // Then what nobody refers to any more; a chain before those that it names.
  for (const chain of [...before.chains.keys()].toReversed())
    if (!after.chains.has(chain)) late.push(`flush chain ${table} ${chain}`, `delete chain ${table} ${chain}`);
  for (const map of before.maps.keys()) if (!after.maps.has(map)) late.push(`delete map ${table} ${map}`);
  for (const set of before.sets.keys()) if (!after.sets.has(set)) late.push(`delete set ${table} ${set}`);
  return [...lines, ...late];
}

function elementChange(
  set: string,
  declaration: string,
  before: readonly string[],
  after: readonly string[],
): string[] {
  if (isSame(before, after)) return [];
  // Intervals can't be taken out and put in again in parts that overlap: they are given whole, in the same transaction.
  if (declaration.includes('interval'))
    return [
      ...(before.length > 0 ? [`flush set ${set}`] : []),
      ...(after.length > 0 ? [`add element ${set} { ${after.join(', ')} }`] : []),
    ];
  const [had, has] = [new Set(before), new Set(after)];
  const gone = before.filter((element) => !has.has(element)).map((element) => element.split(' : ')[0]);
  const come = after.filter((element) => !had.has(element));
  return [
    ...(gone.length > 0 ? [`delete element ${set} { ${gone.join(', ')} }`] : []),
    ...(come.length > 0 ? [`add element ${set} { ${come.join(', ')} }`] : []),
  ];
}

function isSame(one: readonly string[], other: readonly string[]): boolean {
  return one === other || (one.length === other.length && one.every((text, index) => text === other[index]));
}

function isEmpty({ chains }: RulesetTable): boolean {
  return chains.size === 0;
}

/** What counts for nobody. */
export const emptyRuleset: Ruleset = {
  bridge: { sets: new Map(), maps: new Map(), chains: new Map() },
  inet: { sets: new Map(), maps: new Map(), chains: new Map() },
};

interface ListedObject {
  chain?: { name: string };
  rule?: { chain: string; comment?: string; expr?: { counter?: { packets: number; bytes: number } }[] };
  set?: { name: string; elem?: unknown[] };
  map?: { name: string; elem?: unknown[] };
}

/** In what a listing (`nft -j list table`) differs from a table, in words. */
export function compareTable(family: Family, table: RulesetTable, json: string | null): string[] {
  if (json === null) return isEmpty(table) ? [] : [`the table ${family} of the filter is missing`];
  if (isEmpty(table)) return [`the table ${family} of the filter is there without a NIC to be filtered`];
  const { nftables: objects } = JSON.parse(json) as { nftables: ListedObject[] };
  const differences: string[] = [];
  const chains = new Set(objects.flatMap(({ chain }) => (chain ? [chain.name] : [])));
  const rules = new Map<string, string[]>();
  for (const { rule } of objects)
    if (rule) rules.set(rule.chain, [...(rules.get(rule.chain) ?? []), rule.comment ?? '']);
  for (const [name, chain] of table.chains) {
    if (!chains.delete(name)) differences.push(`the chain ${name} is missing`);
    else if (!isSame(chain.rules.map(commentOf), rules.get(name) ?? []))
      differences.push(`the rules of the chain ${name} were changed`);
  }
  for (const name of chains) differences.push(`there is a chain ${name} too many`);
  const listed = new Map(
    objects.flatMap(({ set, map }) =>
      [set, map].flatMap((one) => (one ? [[one.name, one.elem?.length ?? 0] as const] : [])),
    ),
  );
  for (const [name, { elements }] of [...table.sets, ...table.maps]) {
    const count = listed.get(name);
    listed.delete(name);
    if (count === undefined) differences.push(`the set ${name} is missing`);
    else if (count !== elements.length)
      differences.push(`the set ${name} has ${count} elements, not ${elements.length}`);
  }
  for (const name of listed.keys()) differences.push(`there is a set ${name} too many`);
  return differences;
}

function commentOf(rule: string): string {
  return /comment "([^"]*)"$/.exec(rule)?.[1] ?? '';
}

/** What a rule has decided on since it was loaded. */
export interface RuleCount {
  packets: number;
  bytes: number;
}

/** Packets and bytes by chain and comment without its hash, of rules that count. */
export function readCounters(json: string): Map<string, RuleCount> {
  const { nftables: objects } = JSON.parse(json) as { nftables: ListedObject[] };
  const counters = new Map<string, RuleCount>();
  for (const { rule } of objects) {
    const counter = rule?.expr?.find((one) => one.counter)?.counter;
    if (!rule || !counter) continue;
    const key = `${rule.chain} ${(rule.comment ?? '').replace(/ #[0-9a-f]{8}$/, '')}`;
    const before = counters.get(key) ?? { packets: 0, bytes: 0 };
    counters.set(key, { packets: before.packets + counter.packets, bytes: before.bytes + counter.bytes });
  }
  return counters;
}

/**
 * What the rules of a link have decided on, by their id: of packets from who connects, not of answers. NICs with the same
 * rules share their chains, and so the count. Null: the link has no rules, or what was read is older than the ruleset.
 */
export function countsOfLink(
  { bridge }: Ruleset,
  link: string,
  counters: ReadonlyMap<string, RuleCount>,
): ((id: string) => RuleCount) | null {
  const chains = new Set<string>();
  const add = (chain: string): void => {
    if (chains.has(chain)) return;
    chains.add(chain);
    // To the rules that it shares, and their parts by protocol; those for answers begin in chains of their own.
    for (const rule of bridge.chains.get(chain)?.rules ?? [])
      for (const [, next = ''] of rule.matchAll(/\bgoto ([iep]_[0-9a-f]+)/g)) add(next);
  };
  const start = `"${link}" : jump `;
  for (const map of ['ingress', 'egress'])
    for (const element of bridge.maps.get(map)?.elements ?? [])
      if (element.startsWith(start)) add(element.slice(start.length));
  const counts = new Map<string, RuleCount>();
  for (const [key, { packets, bytes }] of counters) {
    const at = key.indexOf(' ');
    if (!chains.has(key.slice(0, at))) continue;
    const id = key.slice(at + 1);
    const before = counts.get(id) ?? { packets: 0, bytes: 0 };
    counts.set(id, { packets: before.packets + packets, bytes: before.bytes + bytes });
  }
  // Each has a last rule that counts.
  if (counts.size === 0) return null;
  return (id) => counts.get(shortComment(id)) ?? { packets: 0, bytes: 0 };
}

export class FilterTables {
  readonly name: string;
  readonly #scope: NetworkScope;
  /** What the kernel was last given; null: not known. */
  #loaded: Ruleset | null = null;

  constructor(instance: string, scope: NetworkScope = {}) {
    this.name = filterTableName(instance);
    this.#scope = scope;
  }

  /** Makes the kernel have this ruleset; false when it has it already. Throws {@link NftablesError}, and all is as before. */
  async load(ruleset: Ruleset): Promise<boolean> {
    const text = this.#loaded ? renderChange(this.name, this.#loaded, ruleset) : renderWhole(this.name, ruleset);
    if (text === '') return false;
    try {
      await this.#nft(['-f', '-'], text);
    } catch (error) {
      // What is loaded may be other than was thought: somebody has flushed it meanwhile.
      if (this.#loaded === null || !(error instanceof NftablesError)) throw error;
      this.#loaded = null;
      await this.#nft(['-f', '-'], renderWhole(this.name, ruleset));
    }
    this.#loaded = ruleset;
    return true;
  }

  /** Has the next load replace everything, whatever was loaded before. */
  forget(): void {
    this.#loaded = null;
  }

  /** In what the kernel differs from a ruleset, in words. Where it doesn't, that is what is known to be loaded. */
  async observe(ruleset: Ruleset): Promise<string[]> {
    const differences: string[] = [];
    for (const family of families) differences.push(...compareTable(family, ruleset[family], await this.#list(family)));
    this.#loaded = differences.length === 0 ? ruleset : null;
    return differences;
  }

  /** Packets and bytes of the rules of the bridge's table, by chain and what the rule is for. */
  async counters(): Promise<Map<string, RuleCount>> {
    const json = await this.#list('bridge');
    return json === null ? new Map() : readCounters(json);
  }

  /** Takes both tables away, as far as they are there. */
  async remove(): Promise<void> {
    this.#loaded = null;
    await this.#nft(['-f', '-'], renderWhole(this.name, null));
  }

  async #list(family: Family): Promise<string | null> {
    try {
      return await this.#nft(['-j', 'list', 'table', family, this.name]);
    } catch (error) {
      const cause = error instanceof NftablesError ? error.cause : null;
      if (cause instanceof CommandError && /No such file or directory/.test(cause.stderr)) return null;
      throw error;
    }
  }

  async #nft(args: string[], input?: string): Promise<string> {
    try {
      return (await run(inScope(this.#scope, ['nft', ...args]), { input })).stdout;
    } catch (error) {
      if (!(error instanceof CommandError) || error.reason !== 'exit') throw error;
      const said = error.stderr.trim().slice(0, 2000);
      const isUnsupported = /not supported|Protocol error|Protocol family/.test(said);
      throw new NftablesError(
        this.name,
        isUnsupported ? 'unsupported' : /Operation not permitted/.test(said) ? 'denied' : 'other',
        `nft ${args.join(' ')} for the tables ${this.name} failed: ${said}`,
        { cause: error },
      );
    }
  }
}

/**
 * How connections between guests of one bridge can be followed here, found out by trying; `reason` says why not by the
 * better way. nf_conntrack_bridge is loaded by the kernel itself when it is asked for, br_netfilter is not.
 */
export async function chooseMethod(
  instance: string,
  scope: NetworkScope = {},
): Promise<{ method: FilterMethod | 'none'; reason: string }> {
  const probe = `${filterTableName(instance)}_probe`;
  try {
    const text = [
      `table bridge ${probe} {`,
      '  chain state {',
      '    type filter hook prerouting priority -150; policy accept;',
      '    ct state invalid meta mark set meta mark | 0x04000000',
      '  }',
      '}',
      `delete table bridge ${probe}`,
      '',
    ].join('\n');
    await run(inScope(scope, ['nft', '-f', '-']), { input: text });
    return { method: 'bridge-conntrack', reason: 'The kernel follows connections in bridges (nf_conntrack_bridge).' };
  } catch (error) {
    if (!(error instanceof CommandError)) throw error;
  }
  const switchFile = '/proc/sys/net/bridge/bridge-nf-call-iptables';
  if ((await readKernelFile(scope, switchFile)) === null)
    await run(['modprobe', 'br_netfilter']).catch(() => {
      // Looked at below.
    });
  if ((await readKernelFile(scope, switchFile)) !== null)
    return {
      method: 'br-netfilter',
      reason: 'The kernel has no nf_conntrack_bridge; connections in bridges are followed through br_netfilter.',
    };
  return {
    method: 'none',
    reason:
      'The kernel can not follow connections in bridges: it has neither nf_conntrack_bridge nor br_netfilter. Load one of these modules (modprobe nf_conntrack_bridge).',
  };
}

/** Has frames of these bridges shown to conntrack through br_netfilter, and of no others; answers with the bridges that were changed. */
export async function followBridges(bridges: readonly string[], scope: NetworkScope = {}): Promise<string[]> {
  if (bridges.length === 0) return [];
  const { stdout } = await run(ipCommand(scope, '-json', '-details', 'link', 'show', 'type', 'bridge'));
  const links = JSON.parse(stdout) as {
    ifname?: string;
    linkinfo?: { info_data?: { nf_call_iptables?: number; nf_call_ip6tables?: number } };
  }[];
  const changed: string[] = [];
  for (const { ifname, linkinfo } of links) {
    const { nf_call_iptables: ipv4, nf_call_ip6tables: ipv6 } = linkinfo?.info_data ?? {};
    if (ifname === undefined || !bridges.includes(ifname) || (ipv4 === 1 && ipv6 === 1)) continue;
    await run(
      ipCommand(scope, 'link', 'set', ifname, 'type', 'bridge', 'nf_call_iptables', '1', 'nf_call_ip6tables', '1'),
    );
    changed.push(ifname);
  }
  return changed;
}
