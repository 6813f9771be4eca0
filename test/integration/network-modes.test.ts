// The modes of networks, each by real traffic: the real daemon in a namespace that plays the host, guests as namespaces
// on its bridges, and a neighbour of the host. What is allowed is seen to arrive, what is not is seen not to.
//
//   guests ── bridge ── [ host with the daemon ] ── uplink ── [ neighbour 198.51.100.1, fd00:51::1, tells who connects ]
import assert from 'node:assert/strict';
import { suite, test, type TestContext } from 'node:test';
import { type Network, type NetworkSpec } from '../../src/api/network.ts';
import { type TestDaemon } from '../support/daemon.ts';
import { assertRefused, makeVm, startFakeLodge } from '../support/fake-lodge.ts';
import {
  askDhcp,
  cable,
  connectTo,
  GUEST_LINK,
  guestNamespace,
  lookUp,
  takeAddress,
  tellAddresses,
} from '../support/guest-namespace.ts';
import { linksIn, networkNamespace, type NetworkNamespace } from '../support/namespace.ts';
import { eventually } from '../support/wait.ts';

const mac1 = '52:54:00:00:00:01';
const mac2 = '52:54:00:00:00:02';
const refused = /^(E(HOSTUNREACH|NETUNREACH|ACCES|CONNREFUSED)|timeout)$/;

interface World {
  daemon: TestDaemon;
  host: NetworkNamespace;
  neighbour: NetworkNamespace;
}

async function openWorld(t: TestContext): Promise<World> {
  const { daemon, namespace: host } = await startFakeLodge(t);
  const neighbour = await networkNamespace(t);
  await cable(host, neighbour, [
    ['uplink', '198.51.100.2/24'],
    ['downlink', '198.51.100.1/24'],
  ]);
  await host.run(['ip', 'address', 'add', 'fd00:51::2/64', 'dev', 'uplink', 'nodad']);
  await neighbour.run(['ip', 'address', 'add', 'fd00:51::1/64', 'dev', 'downlink', 'nodad']);
  await host.run(['ip', 'route', 'add', 'default', 'via', '198.51.100.1']);
  await host.run(['ip', '-6', 'route', 'add', 'default', 'via', 'fd00:51::1']);
  await tellAddresses(t, neighbour, 8080);
  // Its bridge and rules are not to come in between.
  const isUp = async (): Promise<boolean> =>
    (await daemon.client.network.get({ params: { network: 'default' } })).status.state === 'ready';
  await eventually(isUp, { describe: 'the default network is up' });
  return { daemon, host, neighbour };
}

function createNetwork({ daemon }: World, name: string, spec: Partial<NetworkSpec>): Promise<Network> {
  return daemon.client.network.create({ body: { name, spec } });
}

/** A guest with addresses by DHCP (IPv4) and by hand (IPv6), which tells who connects. */
async function joinGuest(
  t: TestContext,
  { host }: World,
  network: Network,
  mac: string,
  ipv6?: string,
): Promise<{ guest: NetworkNamespace; address: string; router: string | undefined }> {
  const guest = await guestNamespace(t, host, network.status.bridge!, mac);
  const { address, router } = await takeAddress(guest, mac);
  if (ipv6 !== undefined) {
    await guest.run(['ip', 'address', 'add', `${ipv6}/64`, 'dev', GUEST_LINK, 'nodad']);
    await guest.run(['ip', '-6', 'route', 'replace', 'default', 'via', network.status.ipv6Gateway!, 'dev', GUEST_LINK]);
  }
  await tellAddresses(t, guest, 80);
  return { guest, address, router };
}

suite('an isolated network', () => {
  test('lets its guests reach each other by both families and by name, and nothing else, nor the other way', async (t) => {
    const world = await openWorld(t);
    const { host, neighbour, daemon } = world;
    const spec = { mode: 'isolated', ipv4Cidr: '10.231.0.0/24', ipv6Cidr: 'fd00:231::/64' } as const;
    const network = await createNetwork(world, 'db', spec);
    assert.deepEqual(
      [network.status.ipv4Cidr, network.status.ipv6Cidr, network.status.gateway, network.status.ipv6Gateway],
      ['10.231.0.0/24', 'fd00:231::/64', '10.231.0.1', 'fd00:231::1'],
    );
    await makeVm(daemon, 'db1', { nics: [{ network: 'db', mac: mac1 }] });
    const one = await joinGuest(t, world, network, mac1, 'fd00:231::100');
    const two = await joinGuest(t, world, network, mac2, 'fd00:231::101');
    assert.equal(one.router, undefined, 'guests are told of no router');
    assert.equal(await connectTo(two.guest, one.address, 80), two.address);
    assert.equal(await connectTo(two.guest, 'fd00:231::100', 80), 'fd00:231::101');
    assert.deepEqual(await lookUp(two.guest, '10.231.0.1', 'db1.lodge.internal'), [one.address]);
    // Also a guest that makes the host its router by itself is let nowhere.
    await one.guest.run(['ip', 'route', 'replace', 'default', 'via', '10.231.0.1']);
    assert.match(await connectTo(one.guest, '198.51.100.1', 8080), refused);
    assert.match(await connectTo(one.guest, 'fd00:51::1', 8080), refused);
    await neighbour.run(['ip', 'route', 'add', '10.231.0.0/24', 'via', '198.51.100.2']);
    await neighbour.run(['ip', '-6', 'route', 'add', 'fd00:231::/64', 'via', 'fd00:51::2']);
    assert.match(await connectTo(neighbour, one.address, 80), refused);
    assert.match(await connectTo(neighbour, 'fd00:231::100', 80), refused);
    // Nor into a network of another mode on this host, and from there.
    const nat = await createNetwork(world, 'web', { ipv4Cidr: '10.232.0.0/24' });
    const web = await joinGuest(t, world, nat, mac1);
    assert.match(await connectTo(one.guest, web.address, 80), refused);
    assert.match(await connectTo(web.guest, one.address, 80), refused);
    assert.equal(await connectTo(web.guest, '198.51.100.1', 8080), '198.51.100.2');
    assert.equal(await connectTo(host, one.address, 80), '10.231.0.1', 'the host reaches its guests');
  });

  test('without the host has neither address nor DHCP there, and its guests still reach each other', async (t) => {
    const world = await openWorld(t);
    const { host, daemon } = world;
    const network = await createNetwork(world, 'alone', { mode: 'isolated', hasHost: false });
    const { bridge, ipv4Cidr, gateway, dhcpRange, state } = network.status;
    assert.deepEqual([ipv4Cidr, gateway, dhcpRange, state], [null, null, null, 'ready']);
    const guests = [];
    for (const [index, mac] of [mac1, mac2].entries()) {
      const guest = await guestNamespace(t, host, bridge!, mac);
      await guest.run(['ip', 'address', 'add', `10.9.9.${index + 1}/24`, 'dev', GUEST_LINK]);
      await guest.run(['ip', 'address', 'add', `fd00:9::${index + 1}/64`, 'dev', GUEST_LINK, 'nodad']);
      await tellAddresses(t, guest, 80);
      guests.push(guest);
    }
    assert.equal(await connectTo(guests[0]!, '10.9.9.2', 80), '10.9.9.1');
    assert.equal(await connectTo(guests[0]!, 'fd00:9::2', 80), 'fd00:9::1');
    assert.equal((await host.run(['ip', '-brief', 'address', 'show', 'dev', bridge!])).stdout.includes('/'), false);
    const reserved = { name: 'vm1', spec: { nics: [{ network: 'alone', ipv4Address: '10.9.9.7' }] } };
    await assertRefused(
      daemon,
      daemon.client.vm.create({ body: reserved }),
      'invalid_request',
      'spec.nics.0.ipv4Address',
    );
  });
});

suite('a routed network', () => {
  test('is reached at its own addresses, goes out under them, and tells the way to itself', async (t) => {
    const world = await openWorld(t);
    const { neighbour } = world;
    const spec = { mode: 'routed', ipv4Cidr: '10.233.0.0/24', ipv6Cidr: 'fd00:233::/64' } as const;
    const network = await createNetwork(world, 'office', spec);
    assert.deepEqual(network.status.routes, [
      { destination: '10.233.0.0/24', via: '198.51.100.2' },
      { destination: 'fd00:233::/64', via: 'fd00:51::2' },
    ]);
    for (const { destination, via } of network.status.routes)
      await neighbour.run(['ip', 'route', 'add', destination, 'via', via]);
    const { guest, address } = await joinGuest(t, world, network, mac1, 'fd00:233::100');
    assert.equal(await connectTo(guest, '198.51.100.1', 8080), address, 'under its own address');
    assert.equal(await connectTo(guest, 'fd00:51::1', 8080), 'fd00:233::100');
    assert.equal(await connectTo(neighbour, address, 80), '198.51.100.1');
    assert.equal(await connectTo(neighbour, 'fd00:233::100', 80), 'fd00:51::1');
    // Two of them reach each other; a NAT network reaches a routed one, and is reached by none.
    const other = await createNetwork(world, 'branch', { mode: 'routed', ipv4Cidr: '10.234.0.0/24' });
    const branch = await joinGuest(t, world, other, mac1);
    assert.equal(await connectTo(branch.guest, address, 80), branch.address);
    const nat = await createNetwork(world, 'web', { ipv4Cidr: '10.235.0.0/24' });
    const web = await joinGuest(t, world, nat, mac1);
    assert.equal(await connectTo(web.guest, address, 80), '10.233.0.1');
    assert.match(await connectTo(guest, web.address, 80), refused);
  });

  test('carries its traffic while no daemon runs, and what was damaged meanwhile is repaired by the next', async (t) => {
    const world = await openWorld(t);
    const { daemon, host, neighbour } = world;
    const network = await createNetwork(world, 'office', { mode: 'routed', ipv4Cidr: '10.236.0.0/24' });
    await neighbour.run(['ip', 'route', 'add', '10.236.0.0/24', 'via', '198.51.100.2']);
    const { guest, address } = await joinGuest(t, world, network, mac1);
    await eventually(async () => (await daemon.client.node.get({ params: { node: 'self' } })).status.bootId !== '');
    await daemon.kill();
    assert.equal(await connectTo(neighbour, address, 80), '198.51.100.1');
    await host.run(['nft', 'flush', 'ruleset']);
    await host.run(['sysctl', '-qw', 'net.ipv4.ip_forward=0']);
    await daemon.start();
    await eventually(async () => (await connectTo(neighbour, address, 80)) === '198.51.100.1');
    const rules = (await host.run(['nft', 'list', 'ruleset'])).stdout;
    assert.match(rules, new RegExp(`from_${network.id}`));
    assert.equal((await askDhcp(guest, 4, mac1)).address, address);
    await guest.run(['ip', 'link', 'delete', 'dev', GUEST_LINK]);
    await daemon.client.network.delete({ params: { network: 'office' } });
    const after = (await host.run(['ip', 'link', 'show', 'type', 'bridge'])).stdout;
    assert.doesNotMatch(after, new RegExp(network.status.bridge!));
    assert.doesNotMatch((await host.run(['nft', 'list', 'ruleset'])).stdout, new RegExp(network.id));
  });
});

test('an IPv6 prefix of Lodge’s own choice is private, stays, and is advertised to guests', async (t) => {
  const world = await openWorld(t);
  const network = await createNetwork(world, 'web', { ipv4Cidr: '10.237.0.0/24', ipv6Cidr: 'auto' });
  const prefix = network.status.ipv6Cidr ?? '';
  assert.match(prefix, /^fd[0-9a-f:]+\/64$/);
  const guest = await guestNamespace(t, world.host, network.status.bridge!, mac1);
  const expected = prefix.replace('::/64', ':0:5054:ff:fe00:1');
  await eventually(async () => {
    const { stdout } = await guest.run(['ip', '-6', 'address', 'show', 'dev', GUEST_LINK, 'scope', 'global']);
    assert.ok(stdout.includes(expected) && !stdout.includes('tentative'), `${expected} is not in ${stdout}`);
    return true;
  });
  // It has no route of its own beyond the host, which therefore stands in for it.
  assert.equal(await connectTo(guest, 'fd00:51::1', 8080), 'fd00:51::2');
  const leased = await askDhcp(guest, 6, mac1);
  assert.ok(leased.address.startsWith(prefix.replace('::/64', ':')), leased.address);
  await eventually(async () => {
    const { items } = await world.daemon.client.network.leases({ params: { network: 'web' } });
    return items.some(({ address, mac }) => address === leased.address && mac === mac1);
  });
});

test('what a mode can not have is refused by the field’s name', async (t) => {
  const world = await openWorld(t);
  const before = await linksIn(world.host);
  for (const [spec, field] of [
    [{ mode: 'routed' }, 'spec.ipv4Cidr'],
    [{ mode: 'user', ipv6Cidr: 'auto' }, 'spec.ipv6Cidr'],
    [{ mode: 'user', dnsServers: ['192.0.2.1'] }, 'spec.dnsServers'],
    [{ mode: 'nat', hasHost: false }, 'spec.hasHost'],
    [{ mode: 'isolated', hasHost: false, ipv4Cidr: '10.238.0.0/24' }, 'spec.ipv4Cidr'],
    [{ mode: 'isolated', ipv6Cidr: 'fd00:1::/48' }, 'spec.ipv6Cidr'],
    [{ mode: 'isolated', ipv6Cidr: 'fe80::/64' }, 'spec.ipv6Cidr'],
    [{ mode: 'isolated', ipv6Cidr: 'fd00:1::7/64' }, 'spec.ipv6Cidr'],
    [{ mode: 'nat', ipv6Cidr: 'auto', mtu: 1200 }, 'spec.mtu'],
  ] as const)
    await assertRefused(
      world.daemon,
      createNetwork(world, 'bad', spec as Partial<NetworkSpec>),
      'invalid_request',
      field,
    );
  assert.deepEqual(await linksIn(world.host), before);
});

test('a macvtap network refuses an interface that can’t have macvtaps, and leaves it as it is', async (t) => {
  const world = await openWorld(t);
  const { daemon, host } = world;
  await host.run(['ip', 'link', 'add', 'br-own', 'type', 'bridge']);
  await host.run(['ip', 'link', 'add', 'port0', 'type', 'veth', 'peer', 'name', 'port1']);
  await host.run(['ip', 'link', 'set', 'port0', 'master', 'br-own', 'up']);
  for (const [spec, code, field] of [
    [{}, 'invalid_request', 'spec.uplink'],
    [{ uplink: 'absent0' }, 'host_conflict', 'spec.uplink'],
    [{ uplink: 'lo' }, 'host_conflict', 'spec.uplink'],
    [{ uplink: 'port0' }, 'host_conflict', 'spec.uplink'],
    [{ uplink: 'port1' }, 'host_conflict', 'spec.uplink'],
    [{ uplink: 'uplink', mtu: 9000 }, 'invalid_request', 'spec.mtu'],
    [{ uplink: 'uplink', bridge: 'br7' }, 'invalid_request', 'spec.bridge'],
  ] as const)
    await assertRefused(daemon, createNetwork(world, 'bad', { mode: 'macvtap', ...spec }), code, field);
  const network = await createNetwork(world, 'fast', { mode: 'macvtap', uplink: 'uplink', macvtapMode: 'private' });
  assert.deepEqual([network.status.state, network.status.bridge], ['ready', null]);
  const vm = await makeVm(daemon, 'web1', { nics: [{ network: 'fast', mac: mac1 }] }, { start: true });
  const link = vm.status.nics[0]?.hostInterface ?? '';
  assert.match((await host.run(['ip', '-details', 'link', 'show', link])).stdout, /macvtap mode private/);
  // One that a daemon has left which died is found by its mark.
  await daemon.kill();
  await host.run(['ip', 'link', 'set', link, 'alias', `lodge:${daemon.instance}:tap:gone:525400000001`]);
  await daemon.start();
  await eventually(async () => !(await host.run(['ip', '-brief', 'link'])).stdout.includes(link));
});
