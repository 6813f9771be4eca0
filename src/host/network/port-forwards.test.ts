// The table of forwarded ports.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { renderTable } from './nftables.ts';
import { buildForwardTable, type NatForward } from './port-forwards.ts';

const networks = [{ bridgeName: 'lb0', cidrs: ['10.88.0.0/24', 'fd00:88::/64'] }];
const forward: NatForward = {
  label: 'web1',
  protocol: 'tcp',
  listenAddress: null,
  firstPort: 8080,
  lastPort: 8080,
  guestAddress: '10.88.0.9',
  guestPort: 80,
};

test('forwards become rules of one table, addresses of this machine before all of them', () => {
  const text = renderTable(
    buildForwardTable('lodge', networks, [
      forward,
      { ...forward, guestAddress: 'fd00:88::9' },
      { ...forward, listenAddress: '192.168.1.5', firstPort: 9000, lastPort: 9002, guestPort: 9000 },
      { ...forward, protocol: 'udp', firstPort: 7000, lastPort: 7001, guestPort: 70 },
    ]),
  ).replaceAll(/ counter| comment "[^"]*"/g, '');
  const chain = /chain prerouting \{\n.*\n((?: {4}.*\n)+)/.exec(text)?.[1]?.replaceAll(/^ {4}/gm, '').trimEnd();
  assert.deepEqual(chain?.split('\n'), [
    'ip daddr 192.168.1.5 tcp dport 9000-9002 dnat ip to 10.88.0.9',
    'meta nfproto ipv4 fib daddr type local tcp dport 8080 dnat ip to 10.88.0.9:80',
    'meta nfproto ipv6 fib daddr type local tcp dport 8080 dnat ip6 to [fd00:88::9]:80',
    'meta nfproto ipv4 fib daddr type local udp dport 7000-7001 dnat ip to 10.88.0.9 : udp dport map { 7000 : 70, 7001 : 71 }',
  ]);
  assert.match(text, /table inet lodge\.forwards/);
  assert.match(text, /iifname "lb0" ip daddr 127\.0\.0\.0\/8 drop/);
});
