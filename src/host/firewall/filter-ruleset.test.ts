import assert from 'node:assert/strict';
import { test } from 'node:test';
import { buildRuleset, type Ruleset } from './filter-ruleset.ts';
import { compareTable, countsOfLink, emptyRuleset, renderChange, renderWhole } from './filter-tables.ts';
import { disjoint } from './filter-text.ts';
import { type FilterRule, type FilterSet, type NicFilter } from './nic-filter.ts';

const options = { method: 'br-netfilter', bridges: ['br0'] } as const;

function rule(id: string, more: Partial<FilterRule> = {}): FilterRule {
  return {
    id,
    action: 'allow',
    protocol: 6,
    ports: [{ first: 443, last: 443 }],
    icmpTypes: [],
    peers: null,
    connectionLimit: null,
    isLogged: false,
    ...more,
  };
}

function nic(link: string, rules: FilterRule[], more: Partial<NicFilter> = {}): NicFilter {
  return {
    link,
    addresses: [],
    ingress: { rules, otherwise: 'deny' },
    egress: { rules: [], otherwise: 'allow' },
    isHostAllowed: true,
    guard: null,
    ...more,
  };
}

const unfiltered = { rules: [], otherwise: 'allow' } as const;

function build(nics: NicFilter[], sets: FilterSet[] = [], more: object = {}): Ruleset {
  return buildRuleset({ nics, sets, owners: [] }, { ...options, ...more });
}

/** Rules of all chains of a kind, without their comments. */
function linesOf({ bridge }: Ruleset, kind: string): string[] {
  return [...bridge.chains]
    .filter(([name]) => name.startsWith(`${kind}_`))
    .flatMap(([, { rules }]) => rules.map((text) => text.replace(/ comment ".*"$/, '')));
}

test('NICs with the same rules share their chains, and each has its element', () => {
  const rules = [rule('web/https')];
  const { bridge } = build([nic('a', rules), nic('b', rules)]);
  assert.equal([...bridge.chains.keys()].filter((name) => name.startsWith('i_')).length, 1);
  const elements = bridge.maps.get('ingress')!.elements;
  assert.equal(elements.length, 2);
  const own = elements.map((element) => bridge.chains.get(element.split(' : jump ')[1]!)!.rules);
  assert.deepEqual(
    own.map(([only, ...more]) => [/^goto (\S+)/.exec(only!)?.[1], more.length]),
    [...bridge.chains.keys()].filter((name) => name.startsWith('i_')).flatMap((name) => [0, 1].map(() => [name, 0])),
  );
});

test('what a NIC’s rules have decided on is summed over its chains, without those of answers and of other NICs', () => {
  const ports = Array.from({ length: 7 }, (_, index) =>
    rule(`web/r${index}`, { ports: [{ first: index, last: index }] }),
  );
  const peers = [{ kind: 'block', cidr: '10.0.0.0/8' } as const];
  const rules = [...ports, rule('web/any', { protocol: null, ports: [], peers })];
  const ruleset = build([nic('tap1', rules), nic('tap10', [rule('web/r0')]), nic('free', [], { ingress: unfiltered })]);
  const counters = new Map(
    [...ruleset.bridge.chains].flatMap(([chain, { rules: all }]) =>
      all.flatMap((text) => {
        const id = /counter .*comment "(.*) #[0-9a-f]{8}"$/.exec(text)?.[1];
        return id === undefined ? [] : [[`${chain} ${id}`, { packets: 1, bytes: 100 }] as const];
      }),
    ),
  );
  const counts = countsOfLink(ruleset, 'tap1', counters)!;
  // Of tcp in the part for tcp; of any protocol in those for tcp and udp, and after them.
  assert.deepEqual(counts('web/r0'), { packets: 1, bytes: 100 });
  assert.deepEqual(counts('web/any'), { packets: 3, bytes: 300 });
  assert.deepEqual(counts('default-egress'), { packets: 1, bytes: 100 });
  assert.deepEqual(counts('web/other'), { packets: 0, bytes: 0 });
  assert.deepEqual(countsOfLink(ruleset, 'tap10', counters)!('web/any'), { packets: 0, bytes: 0 });
  assert.equal(countsOfLink(ruleset, 'free', counters), null);
  assert.equal(countsOfLink(ruleset, 'tap1', new Map()), null);
});

test('an answer is held against the rule of its connection, with the ends swapped', () => {
  const peers = [{ kind: 'block', cidr: '10.0.0.0/8' } as const];
  const ruleset = build([nic('a', [rule('web/https', { peers })])]);
  assert.ok(linesOf(ruleset, 'i').includes('meta l4proto 6 th dport 443 ip saddr 10.0.0.0/8 counter return'));
  assert.ok(linesOf(ruleset, 'ia').includes('meta l4proto 6 th sport 443 ip daddr 10.0.0.0/8 counter return'));
});

test('types of ICMP are answered by those that answer them', () => {
  const ping = rule('a/ping', { protocol: 1, ports: [], icmpTypes: [8] });
  const redirect = rule('a/redirect', { protocol: 1, ports: [], icmpTypes: [5] });
  const lines = linesOf(build([nic('a', [ping, redirect])]), 'ia');
  assert.deepEqual(
    lines.filter((line) => line.includes('icmp')),
    ['icmp type { 0 } counter return'],
  );
});

test('a rule that names a set matches its NICs by their ports, and others by their addresses', () => {
  const set: FilterSet = { key: 'group:1', blocks: ['10.0.0.5', 'fd00::5'], links: ['b'] };
  const ruleset = build([nic('a', [rule('db/sql', { peers: [{ kind: 'set', set: 'group:1' }] })])], [set]);
  const names = [...ruleset.bridge.sets.keys()];
  assert.deepEqual(
    names.map((name) => name.split('_')[0]),
    ['l', 'a4', 'a6'],
  );
  const lines = linesOf(ruleset, 'i').filter((line) => line.includes('dport 443'));
  assert.deepEqual(
    lines.map((line) => line.replaceAll(/_[0-9a-f]+/g, '')),
    ['iifname @l', 'ip saddr @a4', 'ip6 saddr @a6'].map((who) => `meta l4proto 6 th dport 443 ${who} counter return`),
  );
});

test('a rule without anybody at the other side matches nothing', () => {
  const lines = linesOf(build([nic('a', [rule('a/nobody', { peers: [] })])]), 'i');
  assert.ok(lines.every((line) => !line.includes('dport 443')));
});

test('many rules are split by protocol, each with the rules of any protocol in their order', () => {
  const rules = Array.from({ length: 10 }, (_, index) => rule(`a/r${index}`, { protocol: index % 2 ? 17 : 6 }));
  rules.splice(5, 0, rule('a/any', { protocol: null, ports: [], action: 'deny' }));
  const { bridge } = build([nic('a', rules)]);
  const order = [...bridge.chains]
    .filter(([name]) => name.startsWith('p_'))
    .map(([, chain]) => chain.rules.map((text) => /comment "(\S+)/.exec(text)?.[1]));
  assert.ok(order.some((ids) => ids.join() === 'a/r0,a/r2,a/r4,a/any,a/r6,a/r8,default-ingress'));
  assert.ok(order.some((ids) => ids.join() === 'a/r1,a/r3,a/any,a/r5,a/r7,a/r9,default-ingress'));
});

test('a NIC without rules has a guard only, and one without either has nothing', () => {
  const open = { ingress: { rules: [], otherwise: 'allow' }, egress: { rules: [], otherwise: 'allow' } } as const;
  const mac = '52:54:00:00:00:01';
  const guard = {
    mac,
    ipv4Only: ['10.0.0.5'],
    ipv6Only: null,
    ipv4Prefix: '10.0.0.0/24',
    ipv6Prefix: null,
    network: 'n',
  };
  const ruleset = build([nic('a', [], { ...open, guard }), nic('b', [], open)]);
  assert.deepEqual(
    ['guard', 'ingress', 'egress'].map((map) => ruleset.bridge.maps.get(map)!.elements.length),
    [1, 0, 0],
  );
  const lines = linesOf(ruleset, 'g');
  assert.ok(lines.includes(`ether saddr != ${mac} counter drop`));
  assert.ok(lines.includes('ip saddr != 0.0.0.0 ip saddr != 10.0.0.5 counter drop'));
  assert.ok(lines.includes('udp sport { 67, 547 } counter drop'));
});

test('what is known to be others’ is no NIC’s to send from, but its own is', () => {
  const guard = {
    mac: '52:54:00:00:00:01',
    ipv4Only: null,
    ipv6Only: null,
    ipv4Prefix: '10.0.0.0/24',
    ipv6Prefix: null,
    network: 'n',
  };
  const owners = [
    { address: '10.0.0.1', mac: null },
    { address: '10.0.0.5', mac: guard.mac },
    { address: 'fd00::1', mac: null },
  ];
  const plan = { nics: [nic('a', [], { guard })], sets: [], owners: [{ network: 'n', owners }] };
  const ruleset = buildRuleset(plan, options);
  assert.ok(linesOf(ruleset, 'g').some((line) => /^ip saddr != 10\.0\.0\.5 ip saddr @o4_\w+ counter drop$/.test(line)));
  const targets = [...ruleset.bridge.sets].find(([name]) => name.startsWith('t6_'))![1];
  assert.deepEqual(targets.elements, ['0xfd000000000000000000000000000001']);
});

test('connections are counted in the bridge where it follows them, and by addresses where it does not', () => {
  const limited = nic('a', [rule('a/few', { connectionLimit: 3 })], { addresses: ['10.0.0.5'] });
  const own = build([limited], [], { method: 'bridge-conntrack' });
  assert.ok(linesOf(own, 'i').includes('meta l4proto 6 th dport 443 ct state new ct count over 3 counter drop'));
  const other = build([limited]);
  const lines = other.inet.chains.get('postrouting')!.rules.join('\n');
  assert.match(
    lines,
    /ct state new ip daddr \{ 10\.0\.0\.5 \} meta l4proto 6 th dport 443 ct count over 3 counter drop/,
  );
  assert.ok(!linesOf(other, 'i').some((line) => line.includes('ct ')), 'there is no conntrack in the bridge');
});

test('what overlaps becomes one, since sets of nftables take nothing that does', () => {
  const blocks = ['10.0.0.0/8', '10.1.0.0/16', '10.1.2.3', '11.0.0.0/8', '10.0.0.0/8', 'fd00::/8'];
  assert.deepEqual(disjoint(blocks, 4), ['10.0.0.0/8', '11.0.0.0/8']);
  assert.deepEqual(disjoint(blocks, 6), ['fd00::/8']);
  const ports = [
    { first: 80, last: 90 },
    { first: 85, last: 100 },
    { first: 101, last: 101 },
    { first: 443, last: 443 },
  ];
  assert.ok(linesOf(build([nic('a', [rule('a/r', { ports })])]), 'i').some((line) => line.includes('{ 80-101, 443 }')));
});

test('a change writes what differs, and nothing where nothing does', () => {
  const before = build([nic('a', [rule('web/https')]), nic('b', [rule('db/sql')])]);
  assert.equal(renderChange('t', before, before), '');
  const after = build([nic('a', [rule('web/https')]), nic('b', [rule('db/other', { protocol: 17 })])]);
  const text = renderChange('t', before, after);
  const [own] = /ni_\w+/.exec(after.bridge.maps.get('ingress')!.elements.find((one) => one.includes('"b"'))!)!;
  assert.match(text, new RegExp(`flush chain bridge t ${own}\nadd rule bridge t ${own} goto i_`));
  assert.doesNotMatch(text, /element/, 'for which nft would read all sets first');
  assert.doesNotMatch(text, /"a"|of a /, 'the other NIC is left alone');
  const steps = text.trim().split('\n');
  const at = (start: string): number => steps.findIndex((line) => line.startsWith(start));
  assert.ok(at('add chain') < at(`flush chain bridge t ${own}`), text);
  assert.ok(at(`add rule bridge t ${own}`) < at('delete chain'), text);
});

test('a set of prefixes is given whole, one of addresses by what differs', () => {
  const peers = [{ kind: 'set', set: 'addresses:1' } as const, { kind: 'set', set: 'group:1' } as const];
  const make = (blocks: string[]): Ruleset =>
    build(
      [nic('a', [rule('a/r', { peers })])],
      [
        { key: 'addresses:1', blocks, links: [] },
        { key: 'group:1', blocks, links: [] },
      ],
    );
  const text = renderChange('t', make(['10.0.0.1']), make(['10.0.0.1', '10.0.0.2']));
  const lines = text
    .trim()
    .split('\n')
    .map((line) => line.replaceAll(/_[0-9a-f]+/g, ''));
  assert.deepEqual(lines.toSorted(), [
    'add element bridge t a4 { 10.0.0.1, 10.0.0.2 }',
    'add element bridge t a4 { 10.0.0.2 }',
    'flush set bridge t a4',
  ]);
});

test('nothing to filter leaves no table', () => {
  const before = build([nic('a', [rule('web/https')])]);
  assert.equal(renderChange('t', before, emptyRuleset), 'delete table bridge t\ndelete table inet t\n');
  assert.doesNotMatch(renderWhole('t', emptyRuleset), /\{/);
});

test('what somebody has changed in the kernel is told', () => {
  const { bridge } = build([nic('a', [rule('web/https')])]);
  const listing = (change: (objects: object[]) => object[]): string => {
    const objects = [
      ...[...bridge.chains].flatMap(([name, { rules }]) => [
        { chain: { name } },
        ...rules.map((text) => ({ rule: { chain: name, comment: /comment "(.*)"$/.exec(text)?.[1] } })),
      ]),
      ...[...bridge.sets].map(([name, { elements }]) => ({ set: { name, elem: elements } })),
      ...[...bridge.maps].map(([name, { elements }]) => ({ map: { name, elem: elements } })),
    ];
    return JSON.stringify({ nftables: change(objects) });
  };
  assert.deepEqual(
    compareTable(
      'bridge',
      bridge,
      listing((all) => all),
    ),
    [],
  );
  assert.match(compareTable('bridge', bridge, null).join(), /the table bridge of the filter is missing/);
  const withoutRule = listing((all) => all.filter((one) => !JSON.stringify(one).includes('web/https')));
  assert.match(compareTable('bridge', bridge, withoutRule).join(), /the rules of the chain i_\w+ were changed/);
  const withoutElement = listing((all) =>
    all.map((one) => ('map' in one ? { map: { ...(one.map as object), elem: [] } } : one)),
  );
  assert.match(compareTable('bridge', bridge, withoutElement).join(), /the set ingress has 0 elements, not 1/);
});
