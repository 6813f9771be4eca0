// Networks over the API on the real kernel, in a network namespace: what is made, refused, changed and deleted, and what
// is put right when somebody else has changed it.
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { suite, test } from 'node:test';
import { type Network } from '../../src/api/network.ts';
import { findProcesses } from '../../src/host/process.ts';
import { type TestDaemon } from '../support/daemon.ts';
import {
  assertRefused,
  done,
  makeVm,
  sharedFakeLodge,
  startFakeLodge,
  untilEvent,
  type FakeLodge,
} from '../support/fake-lodge.ts';
import { type NetworkNamespace } from '../support/namespace.ts';
import { eventually } from '../support/wait.ts';

const lodge = sharedFakeLodge();

interface FoundLink {
  ifname: string;
  mtu: number;
  master?: string;
  addr_info?: { local: string; prefixlen: number; family: string }[];
}

async function links(namespace: NetworkNamespace): Promise<Map<string, FoundLink>> {
  const { stdout } = await namespace.run(['ip', '-json', 'address', 'show']);
  return new Map((JSON.parse(stdout) as FoundLink[]).map((link) => [link.ifname, link]));
}

function addressesOf(link: FoundLink | undefined): string[] {
  return link?.addr_info?.filter(({ family }) => family === 'inet').map((a) => `${a.local}/${a.prefixlen}`) ?? [];
}

async function dhcpServers(daemon: TestDaemon, network: Network): Promise<number[]> {
  const folder = join(daemon.folder, 'run/networks', network.id);
  const found = await findProcesses({ matchesArguments: (argv) => argv.some((word) => word.includes(`${folder}/`)) });
  return found.map(({ identity }) => identity.pid);
}

async function rules(namespace: NetworkNamespace): Promise<string> {
  return (await namespace.run(['nft', 'list', 'ruleset'])).stdout;
}

suite('a network', () => {
  test('is there with bridge, address, rules and DHCP when its creation has answered, and gone after its deletion', async (t) => {
    const { daemon, namespace } = await lodge(t);
    const spec = { ipv4Cidr: '10.211.0.0/24', bridge: 'br-web', mtu: 1400, dnsDomain: 'web.internal' };
    const network = await daemon.client.network.create({ body: { name: 'web', spec } });
    assert.equal(network.status.state, 'ready', network.status.reason);
    assert.deepEqual(
      [network.status.bridge, network.status.ipv4Cidr, network.status.gateway, network.status.dhcpRange],
      ['br-web', '10.211.0.0/24', '10.211.0.1', { first: '10.211.0.10', last: '10.211.0.254' }],
    );
    const bridge = (await links(namespace)).get('br-web');
    assert.equal(bridge?.mtu, 1400);
    assert.deepEqual(addressesOf(bridge), ['10.211.0.1/24']);
    assert.match(await rules(namespace), new RegExp(`from_${network.id}`));
    assert.equal((await dhcpServers(daemon, network)).length, 1);
    assert.deepEqual((await daemon.client.network.leases({ params: { network: 'web' } })).items, []);

    await daemon.client.network.delete({ params: { network: 'web' } });
    assert.equal((await links(namespace)).has('br-web'), false);
    assert.doesNotMatch(await rules(namespace), new RegExp(network.id));
    assert.deepEqual(await dhcpServers(daemon, network), []);
    await assertRefused(daemon, daemon.client.network.get({ params: { network: 'web' } }), 'not_found');
  });

  test('in user mode needs nothing on the host', async (t) => {
    const { daemon, namespace } = await lodge(t);
    const before = [...(await links(namespace)).keys()];
    const network = await daemon.client.network.create({ body: { name: 'alone', spec: { mode: 'user' } } });
    assert.equal(network.status.state, 'ready');
    assert.equal(network.status.bridge, null);
    await makeVm(daemon, 'web1', { nics: [{ network: 'alone' }] }, { start: true });
    assert.deepEqual([...(await links(namespace)).keys()], before);
    const reserved = { network: 'alone', ipv4Address: '10.0.2.20' };
    await assertRefused(
      daemon,
      daemon.client.vm.create({ body: { name: 'web2', spec: { nics: [reserved] } } }),
      'invalid_request',
      'spec.nics.0.ipv4Address',
    );
  });

  test('that can not be made is refused with the field, and leaves nothing', async (t) => {
    const { daemon, namespace } = await lodge(t);
    const { client } = daemon;
    await namespace.run(['ip', 'link', 'add', 'taken0', 'type', 'bridge']);
    await namespace.run(['ip', 'address', 'add', '10.212.0.1/24', 'dev', 'taken0']);
    await namespace.run(['ip', 'link', 'set', 'taken0', 'up']);
    t.after(() => namespace.run(['ip', 'link', 'delete', 'taken0']));
    await client.network.create({ body: { name: 'first', spec: { ipv4Cidr: '10.213.0.0/24', bridge: 'br-first' } } });
    const before = [...(await links(namespace)).keys()].toSorted();
    const rulesBefore = await rules(namespace);
    const create = (spec: object): Promise<unknown> => client.network.create({ body: { name: 'second', spec } });
    for (const [spec, code, field] of [
      [{ bridge: 'br-first' }, 'host_conflict', 'spec.bridge'],
      [{ bridge: 'taken0' }, 'host_conflict', 'spec.bridge'],
      [{ bridge: 'lo' }, 'invalid_request', 'spec.bridge'],
      [{ bridge: 'all' }, 'invalid_request', 'spec.bridge'],
      [{ bridge: 'a/b' }, 'invalid_request', 'spec.bridge'],
      [{ mode: 'user', bridge: 'br-user' }, 'invalid_request', 'spec.bridge'],
      [{ ipv4Cidr: '10.213.0.128/25' }, 'host_conflict', 'spec.ipv4Cidr'],
      [{ ipv4Cidr: '10.212.0.0/16' }, 'host_conflict', 'spec.ipv4Cidr'],
      [{ ipv4Cidr: '10.214.0.7/24' }, 'invalid_request', 'spec.ipv4Cidr'],
      [{ ipv4Cidr: '10.214.0.0/30' }, 'invalid_request', 'spec.ipv4Cidr'],
      [{ ipv4Cidr: '127.0.0.0/16' }, 'invalid_request', 'spec.ipv4Cidr'],
      [{ ipv4Cidr: '224.0.0.0/24' }, 'invalid_request', 'spec.ipv4Cidr'],
      [{ ipv4Cidr: '0.0.0.0/0' }, 'invalid_request', 'spec.ipv4Cidr'],
      [{ ipv4Cidr: '10.214.0.0/24', dhcp: { firstAddress: '10.214.0.20' } }, 'invalid_request', 'spec.dhcp'],
      [
        { ipv4Cidr: '10.214.0.0/24', dhcp: { firstAddress: '10.214.0.20', lastAddress: '10.215.0.30' } },
        'invalid_request',
        'spec.dhcp.lastAddress',
      ],
      [
        { ipv4Cidr: '10.214.0.0/24', dhcp: { firstAddress: '10.214.0.30', lastAddress: '10.214.0.20' } },
        'invalid_request',
        'spec.dhcp.firstAddress',
      ],
      [
        { dhcp: { firstAddress: '10.214.0.20', lastAddress: '10.214.0.30' } },
        'invalid_request',
        'spec.dhcp.firstAddress',
      ],
      [{ mode: 'user', boot: { file: 'http://192.0.2.1/a' } }, 'invalid_request', 'spec.boot'],
      [{ boot: { tftpFolder: '/' } }, 'invalid_request', 'spec.boot'],
      [{ boot: { file: 'pxelinux.0' } }, 'invalid_request', 'spec.boot.file'],
      [{ boot: { file: 'a b', tftpFolder: '/' } }, 'invalid_request', 'spec.boot.file'],
      [{ boot: { file: 'a', tftpFolder: '/', server: '192.0.2.1' } }, 'invalid_request', 'spec.boot.server'],
      [{ boot: { file: 'a', tftpFolder: '/not/there' } }, 'invalid_request', 'spec.boot.tftpFolder'],
      [{ boot: { file: 'a', tftpFolder: '/root' } }, 'invalid_request', 'spec.boot.tftpFolder'],
      [{ mtu: 65_535 }, 'invalid_request', 'spec.mtu'],
      [{ mtu: 0 }, 'invalid_request', 'spec.mtu'],
    ] as const)
      await assertRefused(daemon, create(spec), code, field);
    assert.deepEqual([...(await links(namespace)).keys()].toSorted(), before);
    assert.equal(await rules(namespace), rulesBefore);
    await assertRefused(daemon, client.network.get({ params: { network: 'second' } }), 'not_found');
    await assertRefused(daemon, client.network.create({ body: { name: 'first', spec: {} } }), 'name_taken');
  });

  test('is changed in place where that can be, and goes back to what it was where it can not', async (t) => {
    const { daemon, namespace } = await lodge(t);
    const { client } = daemon;
    const params = { network: 'web' };
    await client.network.create({ body: { name: 'other', spec: { ipv4Cidr: '10.216.0.0/24' } } });
    const made = await client.network.create({ body: { name: 'web', spec: { ipv4Cidr: '10.215.0.0/24' } } });
    const bridge = made.status.bridge ?? '';
    const changed = await client.network.update({
      params,
      body: { revision: made.revision, labels: { a: 'b' }, spec: { ...made.spec, mtu: 1300, dnsDomain: 'x.internal' } },
    });
    assert.equal((await links(namespace)).get(bridge)?.mtu, 1300);
    assert.deepEqual(changed.labels, { a: 'b' });
    await assertRefused(
      daemon,
      client.network.update({ params, body: { revision: made.revision, spec: made.spec } }),
      'revision_conflict',
    );
    const moved = await client.network.update({
      params,
      body: { spec: { ...changed.spec, ipv4Cidr: '10.217.0.0/24', bridge: 'br-moved' } },
    });
    assert.equal(moved.status.gateway, '10.217.0.1');
    const after = await links(namespace);
    assert.equal(after.has(bridge), false, 'the bridge of before is gone');
    assert.deepEqual(addressesOf(after.get('br-moved')), ['10.217.0.1/24']);

    await namespace.run(['ip', 'link', 'add', 'taken1', 'type', 'bridge']);
    t.after(() => namespace.run(['ip', 'link', 'delete', 'taken1']));
    for (const [change, field] of [
      [{ ipv4Cidr: '10.216.0.0/25' }, 'spec.ipv4Cidr'],
      [{ bridge: 'taken1' }, 'spec.bridge'],
    ] as const) {
      const call = client.network.update({ params, body: { spec: { ...moved.spec, ...change } } });
      await assertRefused(daemon, call, 'host_conflict', field);
      const now = await client.network.get({ params });
      assert.deepEqual(now.spec, moved.spec);
      assert.equal(now.status.state, 'ready', now.status.reason);
      assert.deepEqual(addressesOf((await links(namespace)).get('br-moved')), ['10.217.0.1/24']);
    }
    const alone = await client.network.update({ params, body: { spec: { mode: 'user' } } });
    assert.equal(alone.status.state, 'ready');
    assert.equal((await links(namespace)).has('br-moved'), false);
    assert.doesNotMatch(await rules(namespace), new RegExp(made.id));
  });

  test('in use is not deleted or moved, and tells by whom it is used', async (t) => {
    const { daemon } = await lodge(t);
    const { client } = daemon;
    const params = { network: 'web' };
    const made = await client.network.create({ body: { name: 'web', spec: { ipv4Cidr: '10.218.0.0/24' } } });
    await makeVm(daemon, 'web1', { nics: [{ network: 'web' }] });
    await eventually(async () => (await client.network.get({ params })).status.usedBy.join() === 'web1');
    const error = await assertRefused(daemon, client.network.delete({ params }), 'in_use');
    assert.match(error.message, /web1/);
    const moved = { ...made.spec, ipv4Cidr: '10.219.0.0/24' };
    await assertRefused(daemon, client.network.update({ params, body: { spec: moved } }), 'in_use');
    await client.network.update({ params, body: { spec: { ...made.spec, dnsDomain: 'y.internal' } } });
    await done(daemon, client.vm.delete({ params: { vm: 'web1' } }));
    await client.network.delete({ params });
  });

  test('and a VM that is made with it at the moment of its deletion: one of the two is refused', async (t) => {
    const { daemon } = await lodge(t);
    const { client } = daemon;
    for (let round = 0; round < 4; round++) {
      const network = `net${round}`;
      await client.network.create({ body: { name: network, spec: { mode: round % 2 === 0 ? 'nat' : 'user' } } });
      const [made, deleted] = await Promise.allSettled([
        client.vm.create({ body: { name: `web${round}`, spec: { nics: [{ network }] } } }),
        client.network.delete({ params: { network } }),
      ]);
      assert.notEqual(made.status, deleted.status, `round ${round}: ${made.status}`);
      if (made.status === 'fulfilled') await done(daemon, made.value);
    }
  });

  test('has the names and reserved addresses of its VMs, and loses them with the VMs', async (t) => {
    const { daemon } = await lodge(t);
    const { client } = daemon;
    const network = await client.network.create({ body: { name: 'web', spec: { ipv4Cidr: '10.220.0.0/24' } } });
    const hosts = (): Promise<string> => readFile(join(daemon.folder, 'run/networks', network.id, 'hosts'), 'utf8');
    const vm = await makeVm(daemon, 'web1', { nics: [{ network: 'web', ipv4Address: '10.220.0.77' }] });
    const mac = vm.status.nics[0]?.mac;
    assert.equal(await hosts(), `${mac},10.220.0.77,web1\n`);
    for (const [ipv4Address, why] of [
      ['10.220.0.77', /web1/],
      ['10.220.0.1', /host/],
      ['10.220.0.0', /itself/],
      ['10.220.0.255', /itself/],
      ['10.221.0.5', /10\.220\.0\.0\/24/],
    ] as const) {
      const spec = { nics: [{ network: 'web', ipv4Address }] };
      const call = client.vm.create({ body: { name: 'web2', spec } });
      assert.match((await assertRefused(daemon, call, 'invalid_request', 'spec.nics.0.ipv4Address')).message, why);
    }
    for (const [nics, field] of [
      [[{ network: 'web', mac }], 'spec.nics.0.mac'],
      [[{ network: 'web', mac: '00:00:00:00:00:00' }], 'spec.nics.0.mac'],
      [[{ network: 'web', mac: '53:54:00:12:34:56' }], 'spec.nics.0.mac'],
      [[{ network: 'web', ipv6Address: 'fd00:220::5' }], 'spec.nics.0.ipv6Address'],
      [
        [
          { network: 'web', ipv4Address: '10.220.0.79' },
          { network: 'web', ipv4Address: '10.220.0.79' },
        ],
        'spec.nics.1.ipv4Address',
      ],
    ] as const)
      await assertRefused(
        daemon,
        client.vm.create({ body: { name: 'web2', spec: { nics: nics.map((nic) => ({ ...nic })) } } }),
        'invalid_request',
        field,
      );
    // What is planned for a running VM counts when it has ended.
    await done(daemon, client.vm.start({ params: { vm: 'web1' } }));
    const planned = { ...vm.spec, nics: [{ network: 'web', ipv4Address: '10.220.0.78' }] };
    await client.vm.update({ params: { vm: 'web1' }, body: { spec: planned } });
    assert.equal(await hosts(), `${mac},10.220.0.77,web1\n`);
    await done(daemon, client.vm.forceOff({ params: { vm: 'web1' } }));
    await eventually(async () => (await hosts()) === `${mac},10.220.0.78,web1\n`);
    await done(daemon, client.vm.delete({ params: { vm: 'web1' } }));
    assert.equal(await hosts(), '');
  });
});

suite('an IPv6 address that is reserved', () => {
  test('is told to DHCPv6 in its short form, and is nobody else’s', async (t) => {
    const { daemon } = await lodge(t);
    const { client } = daemon;
    const network = await client.network.create({
      body: { name: 'six', spec: { ipv4Cidr: '10.226.0.0/24', ipv6Cidr: 'fd00:226::/64' } },
    });
    const hosts = (): Promise<string> => readFile(join(daemon.folder, 'run/networks', network.id, 'hosts'), 'utf8');
    const nic = { network: 'six', ipv6Address: 'fd00:226:0::77' };
    const vm = await makeVm(daemon, 'six1', { nics: [nic] });
    assert.equal(await hosts(), `${vm.status.nics[0]?.mac},[fd00:226::77],six1\n`);
    for (const [ipv6Address, why] of [
      ['fd00:226::77', /six1/],
      ['fd00:226::1', /host/],
      ['fd00:226::', /itself/],
      ['fd00:227::5', /fd00:226::\/64/],
    ] as const) {
      const call = client.vm.create({ body: { name: 'six2', spec: { nics: [{ network: 'six', ipv6Address }] } } });
      assert.match((await assertRefused(daemon, call, 'invalid_request', 'spec.nics.0.ipv6Address')).message, why);
    }
    await done(daemon, client.vm.delete({ params: { vm: 'six1' } }));
    assert.equal(await hosts(), '');
  });
});

suite('what somebody else has changed', () => {
  const settings = { config: { networks: { checkIntervalS: 1 } } };

  /** Waits for the network to be repaired after `damage`, and gives the words of the event. */
  async function repaired({ daemon }: FakeLodge, damage: () => Promise<unknown>): Promise<string> {
    const since = new Date().toISOString();
    await damage();
    return (await untilEvent(daemon, 'network.repaired', (event) => event.at > since)).message;
  }

  test('is put right within the interval, with an event that says what it was', async (t) => {
    const lodgeOfOwn = await startFakeLodge(t, settings);
    const { daemon, namespace } = lodgeOfOwn;
    const network = await daemon.client.network.create({
      body: { name: 'web', spec: { ipv4Cidr: '10.222.0.0/24', bridge: 'br-web' } },
    });
    const vm = await makeVm(daemon, 'web1', { nics: [{ network: 'web' }] }, { start: true });
    const tap = vm.status.nics[0]?.hostInterface ?? '';
    assert.equal((await links(namespace)).get(tap)?.master, 'br-web');

    assert.match(
      await repaired(lodgeOfOwn, () => namespace.run(['ip', 'link', 'delete', 'br-web'])),
      /bridge br-web.*dnsmasq was/,
    );
    const after = await links(namespace);
    assert.deepEqual(addressesOf(after.get('br-web')), ['10.222.0.1/24']);
    assert.equal(after.get(tap)?.master, 'br-web', 'the guest is connected again');

    assert.match(await repaired(lodgeOfOwn, () => namespace.run(['nft', 'flush', 'ruleset'])), /table|chain/);
    assert.match(await rules(namespace), new RegExp(`from_${network.id}`));

    const [pid] = await dhcpServers(daemon, network);
    assert.match(await repaired(lodgeOfOwn, async () => process.kill(pid!, 'SIGKILL')), /dnsmasq was started/);
    assert.equal((await dhcpServers(daemon, network)).length, 1);

    const address = ['ip', 'address', 'flush', 'dev', 'br-web'];
    assert.match(await repaired(lodgeOfOwn, () => namespace.run(address)), /10\.222\.0\.1\/24/);
    assert.deepEqual(addressesOf((await links(namespace)).get('br-web')), ['10.222.0.1/24']);
  });

  test('is put right before its turn by whoever needs it', async (t) => {
    const { daemon, namespace } = await startFakeLodge(t, { config: { networks: { checkIntervalS: 3600 } } });
    const { client } = daemon;
    // The look at the start is over then, and the next comes in an hour.
    await eventually(
      async () => (await client.network.get({ params: { network: 'default' } })).status.state === 'ready',
      { describe: 'the default network is ready' },
    );
    await client.network.create({ body: { name: 'web', spec: { bridge: 'br-web' } } });
    await namespace.run(['ip', 'link', 'delete', 'br-web']);
    await done(daemon, client.vm.create({ body: { name: 'web1', spec: { nics: [{ network: 'web' }] } } }));
    assert.ok((await links(namespace)).has('br-web'));
    assert.match((await untilEvent(daemon, 'network.repaired')).message, /br-web/);
  });

  test('and can not be put right makes the network failed, with the reason, until it can', async (t) => {
    const lodgeOfOwn = await startFakeLodge(t, settings);
    const { daemon, namespace } = lodgeOfOwn;
    await daemon.client.network.create({ body: { name: 'web', spec: { bridge: 'br-web' } } });
    await namespace.run(['ip', 'link', 'delete', 'br-web']);
    await namespace.run(['ip', 'link', 'add', 'br-web', 'type', 'bridge']);
    const failed = await untilEvent(daemon, 'network.failed');
    assert.match(failed.message, /br-web/);
    const params = { network: 'web' };
    const shown = await daemon.client.network.get({ params });
    assert.equal(shown.status.state, 'failed');
    assert.match(shown.status.reason, /br-web/);
    const body = { name: 'web1', spec: { nics: [{ network: 'web' }] } };
    await assertRefused(daemon, daemon.client.vm.create({ body, query: { start: true } }), 'host_conflict');
    await repaired(lodgeOfOwn, () => namespace.run(['ip', 'link', 'delete', 'br-web']));
    assert.equal((await daemon.client.network.get({ params })).status.state, 'ready');
  });

  test('while no daemon ran is put right by the next one; prefixes that Lodge picked stay', async (t) => {
    const lodgeOfOwn = await startFakeLodge(t);
    const { daemon, namespace } = lodgeOfOwn;
    const made = await daemon.client.network.create({ body: { name: 'web', spec: {} } });
    // A daemon that dies before has not seen this boot of the machine through, in which nothing is to be told.
    await eventually(async () => (await daemon.client.node.get({ params: { node: 'self' } })).status.bootId !== '');
    await daemon.kill();
    await namespace.run(['ip', 'link', 'delete', made.status.bridge ?? '']);
    await namespace.run(['nft', 'flush', 'ruleset']);
    const stray = `link add lbstray type bridge\nlink set lbstray alias lodge:${daemon.instance}:bridge:gone\n`;
    await namespace.run(['ip', '-batch', '-'], { input: stray });
    await daemon.start();
    await untilEvent(daemon, 'network.repaired', (event) => event.subject.name === 'web');
    const now = await daemon.client.network.get({ params: { network: 'web' } });
    assert.equal(now.status.ipv4Cidr, made.status.ipv4Cidr);
    assert.equal(now.status.bridge, made.status.bridge);
    const found = await links(namespace);
    assert.ok(found.has(made.status.bridge ?? ''));
    assert.equal(found.has('lbstray'), false, 'a bridge of no network is removed');
  });
});

test('the default network is made once: whoever deletes it does not get it back', async (t) => {
  const { daemon, namespace } = await startFakeLodge(t);
  const ready = async (): Promise<boolean> =>
    (await daemon.client.network.get({ params: { network: 'default' } })).status.state === 'ready';
  await eventually(ready);
  await daemon.client.network.delete({ params: { network: 'default' } });
  await daemon.restart('kill');
  assert.deepEqual((await daemon.client.network.list()).items, []);
  assert.equal(await rules(namespace), '');
});
