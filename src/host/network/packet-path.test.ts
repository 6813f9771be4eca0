// Packets followed through rules as nft 1.0.6 lists them: Docker's, firewalld's, and what can't be followed.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { findDrops, parseRuleset, remedyFor, type Ruleset, type TestPacket } from './packet-path.ts';

const out: TestPacket = {
  hook: 'forward',
  family: 4,
  inputLink: 'br1',
  outputLink: 'eth0',
  protocol: 'tcp',
  source: '10.88.0.10',
  destination: '203.0.113.1',
  destinationPort: 443,
  state: 'new',
};
const answer: TestPacket = { ...out, inputLink: 'eth0', outputLink: 'br1', state: 'established' };

const equals = (key: string, right: unknown, op = '=='): object => ({ match: { op, left: { meta: { key } }, right } });

function ruleset(
  policy: string,
  rules: Record<string, object[][]>,
  where = { family: 'ip', table: 'filter' },
): Ruleset {
  const names = Object.keys(rules);
  const objects = [
    { metainfo: { version: '1.0.6' } },
    ...names.map((name, index) => ({
      chain: { ...where, name, ...(index === 0 ? { type: 'filter', hook: 'forward', prio: 0, policy } : {}) },
    })),
    ...names.flatMap((chain) =>
      rules[chain]!.map((expr, index) => ({ rule: { ...where, chain, handle: index + 10, expr } })),
    ),
    { set: { ...where, name: 'links', type: 'ifname', elem: ['br1', 'br2'] } },
  ];
  return parseRuleset(JSON.stringify({ nftables: objects }));
}

function places(rules: Ruleset, packet: TestPacket = out): string[] {
  return findDrops(rules, packet, 'lodge').map(
    ({ chain, rule, isCertain }) =>
      `${isCertain ? '' : '?'}${rule ? `${rule.chain} ${rule.handle}` : `policy of ${chain}`}`,
  );
}

test('Docker’s policy drops what it does not know, and an accept in DOCKER-USER lets it pass', () => {
  const docker = (user: object[][]): Ruleset =>
    ruleset('drop', {
      FORWARD: [
        [{ counter: { packets: 0, bytes: 0 } }, { jump: { target: 'DOCKER-USER' } }],
        [equals('iifname', 'docker0'), equals('oifname', 'docker0', '!='), { accept: null }],
      ],
      'DOCKER-USER': [...user, [{ return: null }]],
    });
  assert.deepEqual(places(docker([])), ['policy of FORWARD']);
  const [drop] = findDrops(docker([]), out, 'lodge');
  assert.deepEqual(remedyFor(drop!, out, 'br1'), ['iptables -I DOCKER-USER -i br1 -j ACCEPT']);
  assert.deepEqual(remedyFor(drop!, answer, 'br1'), ['iptables -I DOCKER-USER -o br1 -j ACCEPT']);
  const allowed = docker([[equals('iifname', 'br1'), { counter: {} }, { accept: null }]]);
  assert.deepEqual(places(allowed), []);
  assert.deepEqual(places(allowed, answer), ['policy of FORWARD']);
  assert.deepEqual(places(docker([]), { ...out, family: 6, destination: '2001:db8::1' }), [], 'IPv6 has its own table');
});

test('a rule that drops is told with its chain and handle, and rules before it that match are followed', () => {
  const where = { family: 'inet', table: 'firewalld' };
  const rules = (before: object[]): Ruleset =>
    ruleset('accept', { filter_FORWARD: [before, [{ reject: { type: 'icmpx' } }]] }, where);
  assert.deepEqual(places(rules([equals('iifname', 'lo'), { accept: null }])), ['filter_FORWARD 11']);
  const [drop] = findDrops(rules([{ counter: null }]), out, 'lodge');
  assert.match(remedyFor(drop!, out, 'br1').join(' '), /firewall-cmd .*--add-interface=br1/);
  const state = { match: { op: 'in', left: { ct: { key: 'state' } }, right: ['established', 'related'] } };
  assert.deepEqual(places(rules([state, { accept: null }]), answer), []);
  assert.deepEqual(places(rules([state, { accept: null }])), ['filter_FORWARD 11']);
  for (const right of ['br*', '@links', { set: ['x', 'br1'] }])
    assert.deepEqual(places(rules([equals('iifname', right), { accept: null }])), [], JSON.stringify(right));
  const destination = (right: object): object => ({
    match: { op: '==', left: { payload: { protocol: 'ip', field: 'daddr' } }, right },
  });
  assert.deepEqual(places(rules([destination({ prefix: { addr: '203.0.113.0', len: 24 } }), { accept: null }])), []);
  assert.deepEqual(places(rules([destination({ prefix: { addr: '10.0.0.0', len: 8 } }), { accept: null }])).length, 1);
  const port = {
    match: { op: '==', left: { payload: { protocol: 'tcp', field: 'dport' } }, right: { range: [400, 500] } },
  };
  assert.deepEqual(places(rules([port, { accept: null }])), []);
  const map = { vmap: { key: { meta: { key: 'iifname' } }, data: { set: [['br1', { accept: null }]] } } };
  assert.deepEqual(places(rules([map])), []);
});

test('what can’t be followed makes a drop possible, not certain; Lodge’s own table is not looked at', () => {
  const physdev = [{ xt: { type: 'match', name: 'physdev' } }, { accept: null }];
  assert.deepEqual(places(ruleset('drop', { FORWARD: [physdev] })), ['?policy of FORWARD']);
  const comment = [{ xt: { type: 'match', name: 'comment' } }, { accept: null }];
  assert.deepEqual(places(ruleset('drop', { FORWARD: [comment] })), []);
  const limited = [{ limit: { rate: 1, per: 'second' } }, { drop: null }];
  assert.deepEqual(places(ruleset('accept', { FORWARD: [limited] })), []);
  const target = [{ xt: { type: 'target', name: 'REJECT' } }];
  assert.deepEqual(places(ruleset('accept', { FORWARD: [target] })), ['FORWARD 10']);
  assert.deepEqual(places(ruleset('drop', { forward: [] }, { family: 'inet', table: 'lodge' })), []);
  const loop = { a: [[{ jump: { target: 'a' } }]] };
  assert.deepEqual(places(ruleset('drop', loop)), ['policy of a']);
});
