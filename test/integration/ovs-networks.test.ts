// Networks of Open vSwitch and of VLANs on a bridge, on the real kernel. Open vSwitch has its datapath in user space here.
//
//   guests ── bridge of Open vSwitch ── wire0 ── [ neighbour: a trunk with VLANs 100 and 200 ]
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type NetworkSpec } from '../../src/api/network.ts';
import { assertRefused, makeVm, startFakeLodge } from '../support/fake-lodge.ts';
import { connectTo, GUEST_LINK, tellAddresses } from '../support/guest-namespace.ts';
import { markedName } from '../support/mark.ts';
import { linksIn, networkNamespace, type NetworkNamespace } from '../support/namespace.ts';
import { startOpenVswitch } from '../support/open-vswitch.ts';
import { temporaryFolder } from '../support/temporary.ts';
import { eventually } from '../support/wait.ts';

const mac = '52:54:00:00:00:01';

/**
 * What the kernel leaves to a network card (the checksums of what it sends), a switch in user space would have to do:
 * ETHTOOL_STXCSUM by SIOCETHTOOL, of linux/ethtool.h and linux/sockios.h.
 */
const checksumOff = `
  socket my $socket, 2, 2, 0 or die $!;
  my $value = pack 'L L', 0x17, 0;
  ioctl $socket, 0x8946, pack('a16 P x16', $ARGV[0], $value) or die $!;`;

test('a network of Open vSwitch keeps its VLAN apart, is repaired, and goes without a trace', async (t) => {
  const folder = await temporaryFolder(t);
  const { daemon, namespace: host } = await startFakeLodge(t, {
    env: { OVS_RUNDIR: folder },
    config: { networks: { checkIntervalS: 1 } },
  });
  const body = { name: 'web', spec: { mode: 'ovs', vlan: { access: 100 } } } as const;
  const missing = await assertRefused(daemon, daemon.client.network.create({ body }), 'unsupported');
  assert.match(`${missing.message} ${missing.hint}`, /does not answer.*start/);
  const { vsctl } = await startOpenVswitch(t, host, folder);

  const network = await daemon.client.network.create({ body });
  assert.equal(network.status.state, 'ready', network.status.reason);
  const bridge = network.status.bridge!;
  const vm = await makeVm(daemon, 'web1', { nics: [{ network: 'web', mac }] }, { start: true });
  const tap = vm.status.nics[0]?.hostInterface ?? '';
  assert.equal(await vsctl('port-to-br', tap), bridge);
  assert.equal(await vsctl('get', 'port', tap, 'tag'), '100');
  assert.equal(await vsctl('get', 'interface', tap, 'error'), '[]');

  // The same bridge, for another VLAN and for a trunk.
  const spec: Partial<NetworkSpec> = { mode: 'ovs', bridge, vlan: { trunk: [100, 200], native: 200 } };
  await daemon.client.network.create({ body: { name: 'trunk', spec } });
  const router = await makeVm(daemon, 'router', { nics: [{ network: 'trunk' }] }, { start: true });
  const trunk = router.status.nics[0]?.hostInterface ?? '';
  assert.deepEqual(
    [await vsctl('get', 'port', trunk, 'vlan_mode'), await vsctl('get', 'port', trunk, 'trunks')],
    ['native-untagged', '[100, 200]'],
  );

  // Frames in one VLAN reach no other: three guests, of which two share one.
  const guests: NetworkNamespace[] = [];
  for (const [index, tag] of [100, 100, 200].entries()) {
    const guest = await networkNamespace(t);
    const port = `p${markedName()}`;
    await host.run([
      'ip',
      'link',
      'add',
      'name',
      port,
      'type',
      'veth',
      'peer',
      'name',
      GUEST_LINK,
      'netns',
      guest.name,
    ]);
    await host.run(['ip', 'link', 'set', 'dev', port, 'up']);
    await guest.run(['ip', 'link', 'set', 'dev', GUEST_LINK, 'up']);
    await guest.run(['ip', 'address', 'add', `10.9.0.${index + 1}/24`, 'dev', GUEST_LINK]);
    await guest.run(['ip', 'address', 'add', `fd00:9::${index + 1}/64`, 'dev', GUEST_LINK, 'nodad']);
    await guest.run(['perl', '-e', checksumOff, GUEST_LINK]);
    await tellAddresses(t, guest, 80);
    await vsctl('add-port', bridge, port, `tag=${tag}`);
    guests.push(guest);
  }
  await eventually(async () => (await connectTo(guests[0]!, '10.9.0.2', 80)) === '10.9.0.1');
  await eventually(async () => (await connectTo(guests[0]!, 'fd00:9::2', 80)) === 'fd00:9::1');
  assert.match(await connectTo(guests[0]!, '10.9.0.3', 80), /^(EHOSTUNREACH|timeout)$/);

  await vsctl('del-port', tap);
  await eventually(async () => (await vsctl('--if-exists', 'get', 'port', tap, 'tag')) === '100');
  await daemon.kill();
  assert.equal(await connectTo(guests[0]!, '10.9.0.2', 80), '10.9.0.1', 'it carries on without a daemon');
  await vsctl(
    'add-br',
    'lbstray',
    '--',
    'set',
    'bridge',
    'lbstray',
    'datapath_type=netdev',
    `external_ids:lodge=${daemon.instance}/gone`,
  );
  await daemon.start();
  await eventually(async () => !(await vsctl('list-br')).includes('lbstray'));

  await assertRefused(daemon, daemon.client.network.delete({ params: { network: 'web' } }), 'in_use');
  for (const name of ['web1', 'router'])
    await daemon.client.vm.delete({ params: { vm: name }, query: { force: true } });
  await eventually(async () => (await daemon.client.vm.list()).items.length === 0);
  assert.doesNotMatch(await vsctl('list-ports', bridge), new RegExp(`${tap}|${trunk}`));
  for (const port of (await vsctl('list-ports', bridge)).split('\n').filter(Boolean)) await vsctl('del-port', port);
  for (const name of ['trunk', 'web']) await daemon.client.network.delete({ params: { network: name } });
  assert.equal(await vsctl('list-br'), '');
});

test('a VLAN on a bridge is kept apart where the kernel can, and refused where it can’t, with nothing left', async (t) => {
  const { daemon, namespace: host } = await startFakeLodge(t);
  // Its bridge is not to come in between.
  const isUp = async (): Promise<boolean> =>
    (await daemon.client.network.get({ params: { network: 'default' } })).status.state === 'ready';
  await eventually(isUp, { describe: 'the default network is up' });
  await host.run(['ip', 'link', 'add', 'wire0', 'type', 'veth', 'peer', 'name', 'wire1']);
  for (const name of ['wire0', 'wire1']) await host.run(['ip', 'link', 'set', name, 'up']);
  const before = await linksIn(host);
  const probe = ['ip', 'link', 'add', 'probe', 'type', 'bridge', 'vlan_filtering', '1'];
  const { exitCode } = await host.run(probe, { okExitCodes: [0, 1, 2] });
  if (exitCode === 0) await host.run(['ip', 'link', 'delete', 'probe']);
  const body = { name: 'web', spec: { mode: 'vlan', uplink: 'wire0', vlan: { access: 100 } } } as const;
  for (const [vlan, field] of [
    [undefined, 'spec.vlan'],
    [{}, 'spec.vlan'],
    [{ access: 5, trunk: [6] }, 'spec.vlan'],
    [{ access: 5, native: 6 }, 'spec.vlan.native'],
    [{ access: 4095 }, 'spec.vlan.access'],
    [{ trunk: [1, 1] }, 'spec.vlan.trunk'],
  ] as const) {
    const bad = {
      name: 'bad',
      spec: { ...body.spec, vlan: vlan && { ...vlan, trunk: 'trunk' in vlan ? [...vlan.trunk] : undefined } },
    };
    await assertRefused(daemon, daemon.client.network.create({ body: bad }), 'invalid_request', field);
  }
  if (exitCode !== 0) {
    const error = await assertRefused(daemon, daemon.client.network.create({ body }), 'unsupported');
    assert.match(error.message, /VLAN filtering/);
    assert.deepEqual(await linksIn(host), before);
    return;
  }
  const network = await daemon.client.network.create({ body });
  await daemon.client.network.confirm({ params: { network: 'web' } });
  const vm = await makeVm(daemon, 'web1', { nics: [{ network: 'web' }] }, { start: true });
  const tap = vm.status.nics[0]?.hostInterface ?? '';
  const vlans = (await host.run(['bridge', 'vlan', 'show', 'dev', tap])).stdout;
  assert.match(vlans, /100 PVID Egress Untagged/);
  assert.doesNotMatch(vlans, /^\S+\s+1 /m);
  assert.match((await host.run(['bridge', 'vlan', 'show', 'dev', 'wire0'])).stdout, / 100$/m);
  assert.ok(network.status.bridge);
});
