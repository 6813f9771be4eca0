// What the doctor of networks says, against what really happens to packets: rules such as Docker's and firewalld's are put
// beside Lodge's, guests are seen to be cut off, the doctor's commands are run, and guests are seen to reach out again.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type NetworkFinding } from '../../src/api/network.ts';
import { startFakeLodge } from '../support/fake-lodge.ts';
import { cable, connectTo, guestNamespace, takeAddress, tellAddresses } from '../support/guest-namespace.ts';
import { networkNamespace } from '../support/namespace.ts';

const mac = '52:54:00:00:00:01';
const docker = `table ip filter {
  chain DOCKER-USER { return; }
  chain FORWARD {
    type filter hook forward priority 0; policy drop;
    jump DOCKER-USER
    oifname "docker0" ct state { established, related } accept
  }
}
`;
const strict = `table inet strict {
  chain in {
    type filter hook input priority 5; policy accept;
    ct state { established, related } accept
    iifname "lo" accept
    udp dport 67 accept
    meta l4proto { icmp, ipv6-icmp } accept
    drop
  }
}
`;

test('who drops guests’ packets is told with the command that helps, which does', async (t) => {
  const { daemon, namespace: host } = await startFakeLodge(t);
  const neighbour = await networkNamespace(t);
  await cable(host, neighbour, [
    ['uplink', '198.51.100.2/24'],
    ['downlink', '198.51.100.1/24'],
  ]);
  await host.run(['ip', 'route', 'add', 'default', 'via', '198.51.100.1']);
  await tellAddresses(t, neighbour, 8080);
  const params = { network: 'web' };
  const network = await daemon.client.network.create({ body: { name: 'web', spec: { ipv4Cidr: '10.241.0.0/24' } } });
  const bridge = network.status.bridge!;
  const guest = await guestNamespace(t, host, bridge, mac);
  const { address } = await takeAddress(guest, mac);
  const findings = async (): Promise<NetworkFinding[]> => {
    const { items } = await daemon.client.network.diagnose({ params });
    return items.filter(({ severity }) => severity !== 'ok');
  };
  const reach = (): Promise<string> => connectTo(guest, '198.51.100.1', 8080);
  assert.deepEqual(await findings(), []);
  assert.equal(await reach(), '198.51.100.2');

  await host.run(['nft', '-f', '-'], { input: docker });
  assert.equal(await reach(), 'timeout');
  const [dropped, ...others] = await findings();
  assert.deepEqual(others, []);
  assert.equal(dropped?.severity, 'error');
  assert.match(
    dropped?.message ?? '',
    /from its guests to the world.*policy of the chain FORWARD in the table ip filter/,
  );
  assert.deepEqual(dropped?.remedies.toSorted(), [
    `iptables -I DOCKER-USER -i ${bridge} -j ACCEPT`,
    `iptables -I DOCKER-USER -o ${bridge} -j ACCEPT`,
  ]);
  // What these commands do, in the words of nft: iptables need not be installed.
  for (const direction of ['iifname', 'oifname'])
    await host.run(['nft', 'insert', 'rule', 'ip', 'filter', 'DOCKER-USER', direction, bridge, 'accept']);
  assert.deepEqual(await findings(), []);
  assert.equal(await reach(), '198.51.100.2');

  await host.run(['nft', '-f', '-'], { input: strict });
  await tellAddresses(t, guest, 80);
  assert.equal(await connectTo(host, address, 80), '10.241.0.1', 'answers to the host pass');
  const [name] = await findings();
  assert.match(name?.message ?? '', /^DNS \(IPv4\) from its guests to this host: dropped by rule \d+ of the chain in/);
  for (const remedy of name?.remedies ?? []) await host.run(['sh', '-c', remedy]);
  assert.deepEqual(await findings(), []);
});

test('a network that has nothing on the host has no rule in its way, and one that is broken says so', async (t) => {
  const { daemon, namespace: host } = await startFakeLodge(t);
  await daemon.client.network.create({ body: { name: 'alone', spec: { mode: 'user' } } });
  const alone = await daemon.client.network.diagnose({ params: { network: 'alone' } });
  assert.deepEqual(new Set(alone.items.map(({ severity }) => severity)), new Set(['ok']));
  await daemon.client.network.create({ body: { name: 'web', spec: { ipv4Cidr: '10.242.0.0/24' } } });
  const { items } = await daemon.client.network.diagnose({ params: { network: 'web' } });
  assert.ok(items.some(({ severity, message }) => severity === 'warning' && /no default route/.test(message)));
  assert.match((await host.run(['nft', 'list', 'tables'])).stdout, /table inet lodge/);
});
