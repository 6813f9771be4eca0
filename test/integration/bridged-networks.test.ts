// Networks bridged to an interface of the host, on the real kernel: the host's own configuration moves to a bridge under
// guard and back again, seen from a neighbour that talks to the host and to guests all the while.
//
//   guests ── bridge ── uplink of [ host with the daemon ] ── [ neighbour 198.51.100.1, fd00:51::1 ]
import assert from 'node:assert/strict';
import { suite, test, type TestContext } from 'node:test';
import { type Network, type NetworkSpec } from '../../src/api/network.ts';
import { findProcesses, terminateProcess } from '../../src/host/process.ts';
import { type TestDaemon } from '../support/daemon.ts';
import { assertRefused, makeVm, startFakeLodge } from '../support/fake-lodge.ts';
import { cable, connectTo, GUEST_LINK, guestNamespace, tellAddresses } from '../support/guest-namespace.ts';
import { linksIn, networkNamespace, type NetworkNamespace } from '../support/namespace.ts';
import { eventually } from '../support/wait.ts';

const mac1 = '52:54:00:00:00:01';

interface World {
  daemon: TestDaemon;
  host: NetworkNamespace;
  neighbour: NetworkNamespace;
}

async function openWorld(t: TestContext): Promise<World> {
  const { daemon, namespace: host } = await startFakeLodge(t, { config: { networks: { checkIntervalS: 1 } } });
  const neighbour = await networkNamespace(t);
  await cable(host, neighbour, [
    ['uplink', '198.51.100.2/24'],
    ['downlink', '198.51.100.1/24'],
  ]);
  const lines = [
    'address add 198.51.100.3/24 dev uplink label uplink:1',
    'address add fd00:51::2/64 nodad dev uplink',
    'route add default via 198.51.100.1 proto static metric 100',
    'route add 203.0.113.0/24 via 198.51.100.9 src 198.51.100.3',
    'route add 203.0.113.0/24 via 198.51.100.8 table 77',
    'route add ::/0 via fd00:51::1',
  ];
  await host.run(['ip', '-batch', '-'], { input: `${lines.join('\n')}\n` });
  await neighbour.run(['ip', 'address', 'add', 'fd00:51::1/64', 'dev', 'downlink', 'nodad']);
  await tellAddresses(t, host, 22);
  await tellAddresses(t, neighbour, 8080);
  // Its bridge and rules are not to come in between.
  const isUp = async (): Promise<boolean> =>
    (await daemon.client.network.get({ params: { network: 'default' } })).status.state === 'ready';
  await eventually(isUp, { describe: 'the default network is up' });
  await eventually(
    async () => !(await host.run(['ip', '-6', 'address', 'show', 'tentative'])).stdout.includes('inet6'),
  );
  return { daemon, host, neighbour };
}

/** What the host is reached and reaches by, with the link it is on. */
async function configOf(host: NetworkNamespace, link: string): Promise<string[]> {
  const addresses = await host.run(['ip', '-oneline', 'address', 'show', 'dev', link]);
  const routes = await Promise.all(
    ['-4', '-6'].map((family) => host.run(['ip', family, 'route', 'show', 'table', 'all', 'dev', link])),
  );
  const words = addresses.stdout.split('\n').map((line) => /inet6? \S+/.exec(line)?.[0] ?? '');
  return [...words, ...routes.flatMap(({ stdout }) => stdout.split('\n'))]
    .map((line) => line.trim())
    .filter((line) => line !== '' && !line.includes('table local'))
    .toSorted();
}

async function requireReached({ host, neighbour }: World): Promise<void> {
  assert.equal(await connectTo(neighbour, '198.51.100.2', 22), '198.51.100.1');
  assert.equal(await connectTo(neighbour, '198.51.100.3', 22), '198.51.100.1');
  assert.equal(await connectTo(neighbour, 'fd00:51::2', 22), 'fd00:51::1');
  assert.equal(await connectTo(host, '198.51.100.1', 8080), '198.51.100.2');
}

function create({ daemon }: World, spec: Partial<NetworkSpec>, name = 'lan'): Promise<Network> {
  return daemon.client.network.create({ body: { name, spec: { mode: 'bridged', uplink: 'uplink', ...spec } } });
}

const params = { network: 'lan' };

function untilChange(
  { daemon }: World,
  change: NonNullable<Network['status']['uplink']>['change'],
  state: Network['status']['state'],
): Promise<Network> {
  return eventually(
    async () => {
      const network = await daemon.client.network.get({ params });
      assert.deepEqual([network.status.uplink?.change, network.status.state], [change, state], network.status.reason);
      return network;
    },
    { timeoutMs: 60_000, describe: `the change is ${change}` },
  );
}

suite('a network bridged to an interface with the host’s addresses', () => {
  test('takes them along, and once confirmed its guests are neighbours of the host’s neighbours', async (t) => {
    const world = await openWorld(t);
    const { daemon, host, neighbour } = world;
    const before = await configOf(host, 'uplink');
    const made = await create(world, { confirmTimeoutS: 120 });
    assert.deepEqual([made.status.state, made.status.uplink?.change], ['pending', 'waiting'], made.status.reason);
    assert.ok(Date.parse(made.status.uplink?.confirmBy ?? '') > Date.now());
    await requireReached(world);
    const bridge = made.status.bridge!;
    assert.deepEqual(
      await configOf(host, bridge),
      before.map((line) => line.replace('uplink', bridge)),
    );
    assert.deepEqual(await configOf(host, 'uplink'), []);
    await makeVm(daemon, 'early', { nics: [{ network: 'lan' }] });
    await assertRefused(daemon, daemon.client.vm.start({ params: { vm: 'early' } }), 'wrong_state');

    const confirmed = await daemon.client.network.confirm({ params });
    assert.deepEqual([confirmed.status.state, confirmed.status.uplink?.change], ['ready', 'confirmed']);
    await assertRefused(daemon, daemon.client.network.confirm({ params }), 'wrong_state');
    const guest = await guestNamespace(t, host, bridge, mac1);
    await guest.run(['ip', 'address', 'add', '198.51.100.77/24', 'dev', GUEST_LINK]);
    await guest.run(['ip', 'address', 'add', 'fd00:51::77/64', 'dev', GUEST_LINK, 'nodad']);
    await tellAddresses(t, guest, 80);
    assert.equal(await connectTo(neighbour, '198.51.100.77', 80), '198.51.100.1');
    assert.equal(await connectTo(neighbour, 'fd00:51::77', 80), 'fd00:51::1');
    assert.equal(await connectTo(guest, '198.51.100.2', 22), '198.51.100.77');
    const vm = await makeVm(daemon, 'web1', { nics: [{ network: 'lan' }] }, { start: true });
    const tap = vm.status.nics[0]?.hostInterface ?? '';
    assert.match((await host.run(['ip', 'link', 'show', tap])).stdout, new RegExp(`master ${bridge}`));

    await assertRefused(daemon, daemon.client.network.delete({ params }), 'in_use');
    for (const name of ['early', 'web1'])
      await daemon.client.vm.delete({ params: { vm: name }, query: { force: true } });
    await eventually(async () => (await daemon.client.vm.list()).items.length === 0);
    await guest.run(['ip', 'link', 'delete', 'dev', GUEST_LINK]);
    await daemon.client.network.delete({ params });
    assert.deepEqual(await configOf(host, 'uplink'), before);
    assert.doesNotMatch((await host.run(['ip', 'link'])).stdout, new RegExp(bridge));
    await requireReached(world);
  });

  test('is put back when nobody confirms, and says so until it is deleted', async (t) => {
    const world = await openWorld(t);
    const { daemon, host } = world;
    const before = await configOf(host, 'uplink');
    await create(world, { confirmTimeoutS: 5 });
    const failed = await untilChange(world, 'reverted', 'failed');
    assert.match(failed.status.reason, /nobody confirmed/);
    assert.deepEqual(await configOf(host, 'uplink'), before);
    await requireReached(world);
    await assertRefused(daemon, daemon.client.network.confirm({ params }), 'wrong_state');
    await daemon.client.network.delete({ params });
    assert.deepEqual(await configOf(host, 'uplink'), before);
  });

  test('is put back also when the daemon is killed while it waits, and when the guard is killed too', async (t) => {
    const world = await openWorld(t);
    const { daemon, host } = world;
    const before = await configOf(host, 'uplink');
    await create(world, { confirmTimeoutS: 12 });
    await daemon.kill();
    await eventually(async () => assert.deepEqual(await configOf(host, 'uplink'), before) === undefined);
    await requireReached(world);
    await daemon.start();
    await eventually(async () => (await daemon.client.network.list()).items.every(({ name }) => name !== 'lan'));

    await create(world, { confirmTimeoutS: 600 });
    await daemon.kill();
    const guards = await findProcesses({
      matchesArguments: (argv) =>
        (argv[1] ?? '').endsWith('/guarded-change.pl') && (argv[2] ?? '').startsWith(daemon.folder),
    });
    assert.equal(guards.length, 1);
    await terminateProcess(guards[0]!.identity, { termTimeoutMs: 0 });
    await daemon.start();
    await eventually(async () => assert.deepEqual(await configOf(host, 'uplink'), before) === undefined);
    await requireReached(world);
  });

  test('outlives the daemon once it is confirmed, and a bridge that was deleted by hand is made again', async (t) => {
    const world = await openWorld(t);
    const { daemon, host } = world;
    const made = await create(world, { confirmTimeoutS: 600 });
    await daemon.restart('kill');
    await untilChange(world, 'waiting', 'pending');
    await daemon.client.network.confirm({ params });
    const bridge = made.status.bridge!;
    const during = await configOf(host, bridge);
    await daemon.restart('kill');
    await untilChange(world, 'confirmed', 'ready');
    assert.deepEqual(await configOf(host, bridge), during);
    await host.run(['ip', 'link', 'delete', bridge]);
    await eventually(async () => assert.deepEqual(await configOf(host, bridge), during) === undefined);
    await requireReached(world);
  });

  test('is not begun where it can’t be: each refusal names the field and leaves the host as it is', async (t) => {
    const world = await openWorld(t);
    const { daemon, host } = world;
    const extra = [
      'link add name bond-port type veth peer name bond-peer',
      'link add name mv0 link bond-port type macvlan mode bridge',
      'link add name lodgeless type veth peer name lodgeless2',
    ];
    await host.run(['ip', '-batch', '-'], { input: `${extra.join('\n')}\n` });
    await host.run([
      'ip',
      'address',
      'add',
      '192.0.2.7/24',
      'dev',
      'lodgeless',
      'valid_lft',
      '600',
      'preferred_lft',
      '600',
    ]);
    await host.run(['ip', 'link', 'set', 'lodgeless', 'up']);
    const before = await configOf(host, 'uplink');
    const links = await linksIn(host);
    for (const [spec, code, field] of [
      [{ uplink: 'absent0' }, 'host_conflict', 'spec.uplink'],
      [{ uplink: 'lo' }, 'host_conflict', 'spec.uplink'],
      [{ uplink: 'lodgeless' }, 'host_conflict', 'spec.uplink'],
      [{ uplink: undefined }, 'invalid_request', 'spec.uplink'],
      [{ mtu: 9000 }, 'invalid_request', 'spec.mtu'],
      [{ bridge: 'mv0' }, 'host_conflict', 'spec.uplink'],
      [{ ipv4Cidr: '10.1.0.0/24' }, 'invalid_request', 'spec.ipv4Cidr'],
      [{ confirmTimeoutS: 1 }, 'invalid_request', 'spec.confirmTimeoutS'],
    ] as const)
      await assertRefused(daemon, create(world, spec), code, field);
    // The kernel refuses a port that has another receiver; what was begun by then is undone.
    await assertRefused(daemon, create(world, { uplink: 'bond-port' }), 'host_failed');
    assert.deepEqual(await configOf(host, 'uplink'), before);
    assert.deepEqual(await linksIn(host), links);
    await requireReached(world);
  });
});

test('a bridge of the host, or an interface that is a port of one, is used as it is', async (t) => {
  const world = await openWorld(t);
  const { daemon, host, neighbour } = world;
  await host.run(['ip', 'link', 'add', 'br-own', 'type', 'bridge']);
  const before = await configOf(host, 'uplink');
  const lines = ['link set br-own up', 'link set uplink master br-own', 'address flush dev uplink'];
  await host.run(['ip', '-batch', '-'], { input: `${lines.join('\n')}\n` });
  await host.run(['ip', 'address', 'add', '198.51.100.2/24', 'dev', 'br-own']);
  assert.ok(before.length > 0);
  for (const [name, uplink] of [
    ['lan', 'uplink'],
    ['lan2', 'br-own'],
  ] as const) {
    const network = await create(world, { uplink }, name);
    assert.deepEqual(
      [network.status.state, network.status.bridge, network.status.uplink],
      ['ready', 'br-own', { interface: uplink, change: 'none', confirmBy: null }],
    );
  }
  const guest = await guestNamespace(t, host, 'br-own', mac1);
  await guest.run(['ip', 'address', 'add', '198.51.100.77/24', 'dev', GUEST_LINK]);
  await tellAddresses(t, guest, 80);
  assert.equal(await connectTo(neighbour, '198.51.100.77', 80), '198.51.100.1');
  for (const network of ['lan', 'lan2']) await daemon.client.network.delete({ params: { network } });
  assert.match((await host.run(['ip', 'link', 'show', 'uplink'])).stdout, /master br-own/);
});
