// Which blocks count as used, and which is taken for a new network.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { defaultDhcpAddresses } from './nat-network.ts';
import { defaultSubnets, findOverlap, NoFreeSubnetError, parseRoutes, pickFreeSubnet } from './subnet.ts';

// Recorded from iproute2 6.1: `ip -4 -json route show table all`, shortened.
const routes = `[{"dst":"default","gateway":"192.0.2.1","dev":"eth0","flags":[]},
  {"dst":"10.0.0.0/14","gateway":"192.0.2.9","dev":"eth0","flags":[]},
  {"type":"blackhole","dst":"172.30.0.0/16","flags":[]},
  {"dst":"192.0.2.0/24","dev":"eth0","protocol":"kernel","scope":"link","prefsrc":"192.0.2.2","flags":[]},
  {"type":"local","dst":"127.0.0.0/8","dev":"lo","table":"local","flags":[]},
  {"type":"local","dst":"192.0.2.2","dev":"eth0","table":"local","flags":[]},
  {"type":"broadcast","dst":"192.0.2.255","dev":"eth0","table":"local","flags":[]},
  {"dst":"169.254.0.0/16","dev":"eth0","flags":[]}]`;

test('routes give the blocks that are in use; default, loopback, link-local and broadcast are none', () => {
  assert.deepEqual(parseRoutes(routes, 4), [
    { cidr: '10.0.0.0/14', link: 'eth0' },
    { cidr: '172.30.0.0/16', link: null },
    { cidr: '192.0.2.0/24', link: 'eth0' },
    { cidr: '192.0.2.2/32', link: 'eth0' },
  ]);
  const six =
    '[{"dst":"fd00::/64","dev":"eth0"},{"dst":"fe80::/64","dev":"eth0"},{"dst":"::1","dev":"lo"},{"type":"multicast","dst":"ff00::/8","dev":"eth0"}]';
  assert.deepEqual(parseRoutes(six, 6), [{ cidr: 'fd00::/64', link: 'eth0' }]);
  assert.deepEqual(parseRoutes('', 4), []);
});

test('the first block that nothing overlaps is taken', () => {
  const used = parseRoutes(routes, 4);
  assert.equal(
    pickFreeSubnet(['10.1.0.0/24', '192.0.2.128/25', '172.30.5.0/24', '10.4.0.0/24', '10.5.0.0/24'], used),
    '10.4.0.0/24',
  );
  assert.deepEqual(findOverlap('192.0.0.0/8', used), { cidr: '192.0.2.0/24', link: 'eth0' });
  assert.equal(findOverlap('192.0.2.0/24', used, 'eth0'), null);
  assert.throws(() => pickFreeSubnet(['10.1.0.0/24', '10.2.0.0/24'], used), NoFreeSubnetError);
  assert.equal(pickFreeSubnet(defaultSubnets, used), '10.88.0.0/24');
});

test('a block leaves its first addresses to others and the rest to guests', () => {
  for (const [block, cidr, rangeFirst, rangeLast] of [
    ['10.88.0.0/24', '10.88.0.1/24', '10.88.0.10', '10.88.0.254'],
    ['10.88.0.77/24', '10.88.0.1/24', '10.88.0.10', '10.88.0.254'],
    ['10.0.0.0/16', '10.0.0.1/16', '10.0.0.10', '10.0.255.254'],
    ['192.168.1.64/28', '192.168.1.65/28', '192.168.1.66', '192.168.1.78'],
    ['192.168.1.0/30', '192.168.1.1/30', '192.168.1.2', '192.168.1.2'],
    ['fd00:88::/64', 'fd00:88::1/64', 'fd00:88::a', 'fd00:88::ffff'],
  ] as const) {
    assert.deepEqual(defaultDhcpAddresses(block), { cidr, rangeFirst, rangeLast }, block);
  }
  for (const block of ['192.168.1.0/31', '192.168.1.0/32', 'x'])
    assert.throws(() => defaultDhcpAddresses(block), RangeError, block);
});
