// Real guests on the wire of an interface of the host: by macvtap, from their start and plugged in while they run, and by a
// bridge. Seen from a neighbour of the host.
//
//   guests ── macvtap or bridge ── uplinks of [ host with the daemon ] ── [ neighbour 198.51.100.1, 203.0.113.1 ]
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { test } from 'node:test';
import { cable, connectTo, tellAddresses } from '../support/guest-namespace.ts';
import { networkNamespace, type NetworkNamespace } from '../support/namespace.ts';
import { qemuDaemon } from '../support/qemu-daemon.ts';
import { eventually } from '../support/wait.ts';

const query = { project: 'default' } as const;
const mac1 = '52:54:00:00:71:01';
const mac2 = '52:54:00:00:71:02';

/** A port that nobody listens on: that a connection is refused shows that the guest was reached. */
async function untilRefused(from: NetworkNamespace, address: string): Promise<void> {
  await eventually(async () => (await connectTo(from, address, 9)) === 'ECONNREFUSED', {
    describe: `${address} answers`,
  });
}

test('guests are neighbours of the host’s neighbours by macvtap and by bridge, also while no daemon runs', async (t) => {
  const host = await qemuDaemon(t);
  const { namespace } = host;
  const neighbour = await networkNamespace(t);
  await cable(namespace, neighbour, [
    ['wire0', '198.51.100.2/24'],
    ['wire0-far', '198.51.100.1/24'],
  ]);
  await cable(namespace, neighbour, [
    ['wire1', '203.0.113.2/24'],
    ['wire1-far', '203.0.113.1/24'],
  ]);
  await tellAddresses(t, neighbour, 8080);
  const create = (name: string, spec: object): Promise<unknown> => host.client.network.create({ body: { name, spec } });
  await create('direct', { mode: 'macvtap', uplink: 'wire0' });
  await create('lan', { mode: 'bridged', uplink: 'wire1', confirmTimeoutS: 600 });
  await host.client.network.confirm({ params: { network: 'lan' }, query });

  const vm = await host.create('web1', { cpu: { count: 2 }, nics: [{ network: 'direct', mac: mac1 }] });
  const tap = vm.status.nics[0]?.hostInterface ?? '';
  const shown = (await namespace.run(['ip', '-details', 'link', 'show', tap])).stdout;
  assert.match(shown, /wire0/);
  assert.match(shown, /macvtap mode bridge/);
  assert.match(shown, new RegExp(mac1));
  await host.untilUp('web1');
  const inGuest = async (words: string): Promise<string> => {
    const { output, code } = await host.exec('web1', ['sh', '-c', `${words} 2>&1`]);
    assert.equal(code, 0, `${words}: ${output}`);
    return output;
  };
  const linkOf = async (mac: string): Promise<string> => {
    const links = await inGuest('ip -o link');
    return (
      links
        .split('\n')
        .find((line) => line.includes(mac))
        ?.split(': ')[1] ?? ''
    );
  };
  const first = await linkOf(mac1);
  await inGuest(`ip link set ${first} up && ip address add 198.51.100.60/24 dev ${first}`);
  assert.equal(await inGuest('nc -w 20 198.51.100.1 8080 </dev/null'), '198.51.100.60');
  await untilRefused(neighbour, '198.51.100.60');
  // The host itself is on the other side of the wire's end.
  assert.notEqual(await connectTo(namespace, '198.51.100.60', 9), 'ECONNREFUSED');

  // One more while it runs, by a bridge, and one by a macvtap.
  const before = await host.vm('web1');
  const nics = [...before.spec.nics, { network: 'lan', mac: mac2 }];
  await host.client.vm.update({ params: { vm: 'web1' }, query, body: { spec: { ...before.spec, nics } } });
  const second = await eventually(() => linkOf(mac2).then((name) => name || null), { describe: 'the NIC is there' });
  await inGuest(`ip link set ${second} up && ip address add 203.0.113.60/24 dev ${second}`);
  assert.equal(await inGuest('nc -w 20 203.0.113.1 8080 </dev/null'), '203.0.113.60');
  await untilRefused(namespace, '203.0.113.60');

  await host.daemon.kill();
  await untilRefused(neighbour, '198.51.100.60');
  await untilRefused(neighbour, '203.0.113.60');
  await host.daemon.start();
  // The agent is asked anew by the next daemon, which may come before its answer.
  await eventually(() => inGuest('true').then(() => true), { describe: 'the agent answers', timeoutMs: 120_000 });
  assert.equal(await inGuest('nc -w 20 198.51.100.1 8080 </dev/null'), '198.51.100.60');

  await host.done(host.client.vm.delete({ params: { vm: 'web1' }, query: { ...query, force: true } }));
  const links = (await namespace.run(['ip', '-brief', 'link'])).stdout;
  assert.doesNotMatch(links, new RegExp(tap));
  assert.equal(existsSync(`/dev/${tap}`), false);
  for (const network of ['direct', 'lan']) await host.client.network.delete({ params: { network }, query });
  assert.match((await namespace.run(['ip', '-brief', 'address', 'show', 'wire1'])).stdout, /203\.0\.113\.2/);
});
