// What moves with an interface to a bridge, of recorded output of iproute2 6.1.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { addLines, parseLinkConfig, removeLines, whyFixed, type LinkConfig } from './link-config.ts';

const forever = 4_294_967_295;

function read(addresses: object[], ipv4: object[] = [], ipv6: object[] = []): LinkConfig {
  const links = [{}, { ifname: 'eth0', addr_info: addresses }];
  return parseLinkConfig('eth0', JSON.stringify(links), JSON.stringify(ipv4), JSON.stringify(ipv6), 'eui64');
}

const address = {
  family: 'inet',
  local: '192.168.1.5',
  prefixlen: 24,
  broadcast: '192.168.1.255',
  scope: 'global',
  label: 'eth0',
  valid_life_time: forever,
  preferred_life_time: forever,
};

test('addresses go first, then routes, those to routers after those to neighbours, and the default last', () => {
  const config = read(
    [
      address,
      {
        family: 'inet6',
        local: 'fd00:1::5',
        prefixlen: 64,
        scope: 'global',
        mngtmpaddr: true,
        dynamic: true,
        valid_life_time: 600,
        preferred_life_time: 300,
      },
      { family: 'inet6', local: 'fd00:1::abcd', prefixlen: 64, scope: 'global', temporary: true },
      { family: 'inet6', local: 'fe80::5', prefixlen: 64, scope: 'link' },
    ],
    [
      { dst: 'default', gateway: '192.168.1.1', dev: 'eth0', protocol: 'static', metric: 100, flags: [] },
      {
        dst: '10.0.0.0/8',
        gateway: '192.168.1.7',
        dev: 'eth0',
        table: '77',
        prefsrc: '192.168.1.5',
        flags: ['onlink'],
        metrics: [{ mtu: 1400 }],
      },
      { dst: '192.168.1.0/24', dev: 'eth0', protocol: 'kernel', scope: 'link', prefsrc: '192.168.1.5', flags: [] },
      { dst: '172.16.0.0/16', dev: 'eth0', scope: 'link', flags: ['linkdown'] },
      { type: 'local', dst: '192.168.1.5', dev: 'eth0', table: 'local', protocol: 'kernel' },
      { dst: '10.9.0.0/16', dev: 'eth1' },
    ],
    [
      { dst: 'fe80::/64', dev: 'eth0', protocol: 'kernel', metric: 256, flags: [] },
      { dst: 'fd00:1::/64', dev: 'eth0', protocol: 'kernel', metric: 256, flags: [] },
      { type: 'multicast', dst: 'ff00::/8', dev: 'eth0', table: 'local', protocol: 'kernel', metric: 256 },
      { dst: 'default', gateway: 'fe80::1', dev: 'eth0', protocol: 'ra', metric: 1024, expires: 1700, flags: [] },
    ],
  );
  assert.deepEqual(addLines(config, 'br0'), [
    'address add 192.168.1.5/24 broadcast 192.168.1.255 dev br0',
    'address add fd00:1::5/64 nodad mngtmpaddr valid_lft 600 preferred_lft 300 dev br0',
    'address add fe80::5/64 scope link nodad dev br0',
    'route add 172.16.0.0/16 dev br0 scope link',
    'route add 10.0.0.0/8 via 192.168.1.7 dev br0 table 77 src 192.168.1.5 onlink mtu 1400',
    'route add default via 192.168.1.1 dev br0 proto static metric 100',
    'route add ::/0 via fe80::1 dev br0 proto ra metric 1024 expires 1700',
  ]);
  assert.deepEqual(removeLines(config, 'eth0'), ['route delete ::/0 via fe80::1 dev eth0 metric 1024']);
  assert.equal(whyFixed(config), null);
});

test('a route that somebody made in place of the kernel’s own goes along', () => {
  const config = read(
    [{ ...address, noprefixroute: true, metric: 50 }],
    [
      {
        dst: '192.168.1.0/24',
        dev: 'eth0',
        protocol: 'kernel',
        scope: 'link',
        prefsrc: '192.168.1.5',
        metric: 100,
        flags: [],
      },
    ],
  );
  assert.deepEqual(addLines(config, 'br0'), [
    'address add 192.168.1.5/24 broadcast 192.168.1.255 metric 50 noprefixroute dev br0',
    'route add 192.168.1.0/24 dev br0 proto kernel scope link src 192.168.1.5 metric 100',
  ]);
});

test('an address from DHCP, and a route with several ways, keep a configuration where it is', () => {
  assert.match(
    whyFixed(read([{ ...address, dynamic: true, valid_life_time: 600 }])) ?? '',
    /192\.168\.1\.5 is from DHCP/,
  );
  const nexthops = [
    { gateway: '192.168.1.1', dev: 'eth0' },
    { gateway: '10.0.0.1', dev: 'eth1' },
  ];
  assert.match(
    whyFixed(read([address], [{ dst: 'default', nexthops, flags: [] }])) ?? '',
    /route to default has several ways/,
  );
});
