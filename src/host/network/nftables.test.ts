// The text that nft gets, and the comparison with what it shows, on recorded output.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { buildFirewall, firewallTableName } from './firewall.ts';
import { compareListing, renderTable, type NftRule, type NftTable } from './nftables.ts';

const table: NftTable = {
  name: 'lodge',
  maps: [{ name: 'from', elements: [{ link: 'br1', verdict: { jump: 'from_net' } }] }],
  chains: [
    {
      name: 'forward',
      base: { type: 'filter', hook: 'forward', priority: 0, policy: 'accept' },
      rules: [{ comment: 'dispatch', matches: [], lookup: { key: 'inputLink', map: 'from' } }],
    },
    {
      name: 'from_net',
      rules: [
        { comment: 'a', matches: [{ outputLink: 'br1' }], verdict: 'accept' },
        { comment: 'b', matches: [{ source: '10.0.0.0/24', isNot: true }], isCounted: true, verdict: 'drop' },
        { comment: 'c', matches: [], isCounted: true, verdict: 'reject' },
      ],
    },
  ],
};

/** What nft 1.0.6 shows of that table, with these comments. */
function listing(change: (objects: Record<string, Record<string, unknown>>[]) => void = () => {}): string {
  const comments = [...renderTable(table).matchAll(/comment "([^"]+)"/g)].map((match) => match[1]);
  const common = { family: 'inet', table: 'lodge' };
  const objects = [
    { metainfo: { version: '1.0.6', json_schema_version: 1 } },
    { table: { family: 'inet', name: 'lodge', handle: 2 } },
    {
      map: {
        ...common,
        name: 'from',
        type: 'ifname',
        map: 'verdict',
        elem: [['br1', { jump: { target: 'from_net' } }]],
      },
    },
    { chain: { ...common, name: 'from_net', handle: 1 } },
    { chain: { ...common, name: 'forward', handle: 2, type: 'filter', hook: 'forward', prio: 0, policy: 'accept' } },
    ...comments.slice(0, 3).map((comment) => ({ rule: { ...common, chain: 'from_net', comment, expr: [] } })),
    { rule: { ...common, chain: 'forward', comment: comments[3], expr: [] } },
  ] as Record<string, Record<string, unknown>>[];
  change(objects);
  return JSON.stringify({ nftables: objects });
}

test('a table becomes one text that replaces it whole, jumped-to chains first', () => {
  const text = renderTable(table).replaceAll(/ #[0-9a-f]{8}"/g, ' #HASH"');
  assert.equal(
    text,
    `table inet lodge
delete table inet lodge
table inet lodge {
  map from {
    type ifname : verdict
    elements = { "br1" : jump from_net }
  }
  chain from_net {
    oifname "br1" accept comment "a #HASH"
    ip saddr != 10.0.0.0/24 counter drop comment "b #HASH"
    counter reject with icmpx admin-prohibited comment "c #HASH"
  }
  chain forward {
    type filter hook forward priority 0; policy accept;
    iifname vmap @from comment "dispatch #HASH"
  }
}
`,
  );
});

test('every condition has its words', () => {
  const rule = (matches: NftRule['matches']): string => {
    const text = renderTable({
      name: 't',
      maps: [],
      chains: [{ name: 'c', rules: [{ comment: 'x', matches, verdict: 'accept' }] }],
    });
    return /^ {4}(.*) accept comment/m.exec(text)![1]!;
  };
  assert.equal(
    rule([{ inputLink: 'br1', isNot: true }, { destination: 'fd00::/64' }]),
    'iifname != "br1" ip6 daddr fd00::/64',
  );
  assert.equal(rule([{ protocol: 'udp', destinationPorts: [53, 67] }]), 'udp dport { 53, 67 }');
  assert.equal(
    rule([{ protocols: ['icmp', 'ipv6-icmp'] }, { family: 6 }]),
    'meta l4proto { icmp, ipv6-icmp } meta nfproto ipv6',
  );
  assert.equal(rule([{ connectionStates: ['established', 'related'] }]), 'ct state { established, related }');
  assert.equal(rule([{ isDestinationTranslated: true }]), 'ct status dnat');
});

test('what could end a word of the text is refused or replaced', () => {
  const withLink = (inputLink: string): NftTable => ({
    name: 't',
    maps: [],
    chains: [{ name: 'c', rules: [{ comment: 'x', matches: [{ inputLink }], verdict: 'accept' }] }],
  });
  assert.throws(() => renderTable(withLink('br1" accept; flush ruleset; "')), RangeError);
  assert.throws(() => renderTable({ name: 'a; flush ruleset', maps: [], chains: [] }), RangeError);
  const rule: NftRule = {
    comment: `"quote" \\ \n é ${'x'.repeat(200)}`,
    matches: [{ source: '10.0.0.1; drop' }],
    verdict: 'accept',
  };
  assert.throws(() => renderTable({ name: 't', maps: [], chains: [{ name: 'c', rules: [rule] }] }), RangeError);
  const text = renderTable({ name: 't', maps: [], chains: [{ name: 'c', rules: [{ ...rule, matches: [] }] }] });
  assert.match(text, /accept comment "\?quote\? \? \? \? x+ #[0-9a-f]{8}"\n/);
  assert.ok(/comment "([^"]*)"/.exec(text)![1]!.length <= 127);
});

test('the same table differs in nothing', () => {
  assert.deepEqual(compareListing(table, listing()), []);
});

test('each kind of difference is told', () => {
  const cases: [RegExp, Parameters<typeof listing>[0]][] = [
    [/^the rule "a #\w+" of the chain from_net is missing$/, (objects) => objects.splice(5, 1)],
    [
      /^the chain from_net has a rule of somebody else: "a rule without comment"$/,
      (objects) => objects.push({ rule: { chain: 'from_net' } }),
    ],
    [/^the rules of the chain from_net are in another order or doubled$/, (objects) => objects.push(objects[5]!)],
    [
      /^the rules of the chain from_net are in another order or doubled$/,
      (objects) => objects.splice(5, 2, objects[6]!, objects[5]!),
    ],
    [/^there is a chain mine of somebody else$/, (objects) => objects.push({ chain: { name: 'mine' } })],
    [/^there is a map mine of somebody else$/, (objects) => objects.push({ map: { name: 'mine' } })],
    [/^the map from is missing$/, (objects) => objects.splice(2, 1)],
    [
      /^the map from holds \[br1 drop\], not \[br1 jump from_net\]$/,
      (objects) => (objects[2]!['map']!['elem'] = [['br1', { drop: null }]]),
    ],
    [
      /^the chain forward is not hooked, not filter forward 0 accept$/,
      (objects) => (objects[4]!['chain'] = { name: 'forward' }),
    ],
    [
      /^the chain forward is filter forward 0 drop, not filter forward 0 accept$/,
      (objects) => (objects[4]!['chain']!['policy'] = 'drop'),
    ],
  ];
  for (const [expected, change] of cases) {
    const differences = compareListing(table, listing(change));
    assert.equal(differences.length, 1, differences.join('\n'));
    assert.match(differences[0]!, expected);
  }
});

test('a rule that changed its text is another rule', () => {
  const [first, ...others] = table.chains[1]!.rules;
  const changed = {
    ...table,
    chains: [table.chains[0]!, { ...table.chains[1]!, rules: [{ ...first!, verdict: 'drop' as const }, ...others] }],
  };
  assert.equal(compareListing(changed, listing()).length, 2);
});

test('the filter of an instance has a map entry and three chains for each network, whatever their order', () => {
  const networks = ['b', 'a'].map((id, index) => ({
    id,
    bridgeName: `br${index}`,
    ipv4Cidr: `10.0.${index}.1/24`,
    ipv6Cidr: null,
  }));
  const one = buildFirewall('lodge', networks);
  assert.equal(renderTable(one), renderTable(buildFirewall('lodge', networks.toReversed())));
  assert.deepEqual(
    one.chains.map(({ name }) => name),
    ['from_a', 'to_a', 'host_a', 'from_b', 'to_b', 'host_b', 'forward', 'input', 'source_nat'],
  );
  assert.equal(
    one.maps.every(({ elements }) => elements.length === 2),
    true,
  );
  // The block is the network's, not the bridge's address; addresses of a family that it lacks go nowhere.
  assert.match(renderTable(one), /ip saddr 10\.0\.0\.0\/24 ip daddr != 10\.0\.0\.0\/24 oifname != "br0" masquerade/);
  assert.match(renderTable(one), /meta nfproto ipv6 counter drop/);
  assert.deepEqual([firewallTableName('lodge'), firewallTableName('two')], ['lodge', 'lodge-two']);
});
