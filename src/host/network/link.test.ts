// Names, marks and what iproute2 writes: the parts of links that need no kernel.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createTap, deriveLinkName, formatMark, isLinkName, parseLinks, parseMark } from './link.ts';
import { inScope, ipCommand } from './netns.ts';

test('the name of a link follows from its parts, always, and fits the kernel', () => {
  const name = deriveLinkName('lt', 'default', '0197a3c2-7d1e-7000-8000-000000000001', '0');
  assert.equal(name, deriveLinkName('lt', 'default', '0197a3c2-7d1e-7000-8000-000000000001', '0'));
  assert.match(name, /^lt[a-z2-7]{12}$/);
  assert.ok(isLinkName(deriveLinkName('abc', 'x')));
  assert.throws(() => deriveLinkName('abcd', 'x'), RangeError);
  // Parts are kept apart: no two lists of parts run into each other.
  assert.notEqual(deriveLinkName('lt', 'a', 'bc'), deriveLinkName('lt', 'ab', 'c'));
  const names = new Set(Array.from({ length: 20_000 }, (_, index) => deriveLinkName('lt', 'default', String(index))));
  assert.equal(names.size, 20_000);
});

test('only names that the kernel and every program take are names', () => {
  for (const name of ['br0', 'lodge0', 'a', 'eth0.100', 'x-y_z', 'abcdefghijklmno']) assert.ok(isLinkName(name), name);
  for (const name of ['', '.', '..', 'abcdefghijklmnop', 'a b', 'a/b', 'a:b', 'é', '-x', 'a\n', '%d']) {
    assert.ok(!isLinkName(name), JSON.stringify(name));
  }
});

test('a mark is written and read, and other aliases are none', () => {
  const mark = { instance: 'default', kind: 'tap', id: 'vm-1:0' };
  assert.equal(formatMark(mark), 'lodge:default:tap:vm-1:0');
  assert.deepEqual(parseMark(formatMark(mark)), mark);
  for (const alias of [
    null,
    undefined,
    '',
    'lodge',
    'lodge:a:b',
    'lodge:a:b:',
    'xlodge:a:b:c',
    'lodge:a:b:c d',
    'uplink',
  ]) {
    assert.equal(parseMark(alias), null, String(alias));
  }
  for (const bad of [
    { instance: 'a b' },
    { instance: 'a:b' },
    { kind: '' },
    { id: 'x"\nlink delete eth0' },
    { id: 'x'.repeat(300) },
  ]) {
    assert.throws(() => formatMark({ ...mark, ...bad }), RangeError, JSON.stringify(bad));
  }
});

test('what iproute2 writes of a bridge, its tap and the loopback is read', () => {
  // Recorded from iproute2 6.1, unused fields cut.
  const json = `[{"ifindex":1,"ifname":"lo","flags":["LOOPBACK"],"mtu":65536,"operstate":"DOWN","link_type":"loopback",
    "address":"00:00:00:00:00:00","addr_info":[]},{},
    {"ifindex":2,"ifname":"lodgebr0","flags":["NO-CARRIER","BROADCAST","MULTICAST","UP"],"mtu":1500,"operstate":"DOWN",
    "address":"a6:62:5a:1c:69:93","linkinfo":{"info_kind":"bridge","info_data":{"stp_state":0}},
    "ifalias":"lodge:abc:bridge:id","addr_info":[{"family":"inet","local":"192.168.5.1","prefixlen":24,"scope":"global",
    "label":"lodgebr0"},{"family":"inet6","local":"fe80::1","prefixlen":64,"scope":"link"}]},
    {"ifindex":3,"ifname":"lt1","flags":["BROADCAST","MULTICAST","UP","LOWER_UP"],"link_type":"ether","mtu":1400,"master":"lodgebr0",
    "address":"a6:62:5a:1c:69:93","linkinfo":{"info_kind":"tun","info_data":{"type":"tap","pi":false,"vnet_hdr":true,
    "multi_queue":true,"persist":true,"user":"cloudsdk"},"info_slave_kind":"bridge","info_slave_data":{"isolated":false}}}]`;
  assert.deepEqual(parseLinks(json), [
    {
      index: 1,
      name: 'lo',
      kind: null,
      mtu: 65536,
      macAddress: '00:00:00:00:00:00',
      isEthernet: false,
      isUp: false,
      hasCarrier: false,
      master: null,
      alias: null,
      mark: null,
      addresses: [],
      tap: null,
      isIsolatedPort: null,
    },
    {
      index: 2,
      name: 'lodgebr0',
      kind: 'bridge',
      mtu: 1500,
      macAddress: 'a6:62:5a:1c:69:93',
      isEthernet: false,
      isUp: true,
      hasCarrier: false,
      master: null,
      alias: 'lodge:abc:bridge:id',
      mark: { instance: 'abc', kind: 'bridge', id: 'id' },
      addresses: [
        { family: 4, address: '192.168.5.1', prefixLength: 24, scope: 'global' },
        { family: 6, address: 'fe80::1', prefixLength: 64, scope: 'link' },
      ],
      tap: null,
      isIsolatedPort: null,
    },
    {
      index: 3,
      name: 'lt1',
      kind: 'tun',
      mtu: 1400,
      macAddress: 'a6:62:5a:1c:69:93',
      isEthernet: true,
      isUp: true,
      hasCarrier: true,
      master: 'lodgebr0',
      alias: null,
      mark: null,
      addresses: [],
      tap: { isMultiQueue: true, isPersistent: true },
      isIsolatedPort: false,
    },
  ]);
});

test('what could be read as another word of a command is refused before a command is run', async () => {
  const mark = { instance: 'a', kind: 'tap', id: 'x' };
  for (const bad of [
    { name: 'a\nlink delete eth0' },
    { master: 'x y' },
    { macAddress: '1' },
    { mtu: 0 },
    { mtu: 1.5 },
    { ownerUid: -1 },
  ]) {
    await assert.rejects(createTap({ name: 'tap1', mark, ...bad }), RangeError, JSON.stringify(bad));
  }
});

test('a command is run where the scope says', () => {
  assert.deepEqual(inScope({}, ['nft', 'list']), ['nft', 'list']);
  assert.deepEqual(inScope({ netns: 'n1' }, ['nft', 'list']), ['nsenter', '--net=/run/netns/n1', '--', 'nft', 'list']);
  assert.deepEqual(ipCommand({ netns: 'n1' }, 'link'), ['ip', '-n', 'n1', 'link']);
  assert.throws(() => inScope({ netns: '../../proc/1/ns/net' }, ['nft']), RangeError);
});
