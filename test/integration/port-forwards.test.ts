// Ports of the host that lead to guests, by real traffic: the real daemon in a namespace that plays the host, a guest as a
// namespace on its bridge, and a neighbour of the host. And tunnels, which lead through the daemon.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { suite, test, type TestContext } from 'node:test';
import { type PortForward } from '../../src/api/port-forward.ts';
import { type Vm } from '../../src/api/vm.ts';
import { type VmNic } from '../../src/api/vm-spec.ts';
import { commandLine } from '../support/command-line.ts';
import {
  assertRefused,
  done,
  makeVm,
  readVm,
  sharedFakeLodge,
  startFakeLodge,
  untilEvent,
  type FakeLodge,
} from '../support/fake-lodge.ts';
import {
  cable,
  connectTo,
  evaluate,
  GUEST_LINK,
  guestNamespace,
  takeAddress,
  tellAddresses,
} from '../support/guest-namespace.ts';
import { networkNamespace, serveIn, type NetworkNamespace } from '../support/namespace.ts';
import { eventually } from '../support/wait.ts';

const mac1 = '52:54:00:00:00:01';
const mac2 = '52:54:00:00:00:02';
const refused = /^(E(HOSTUNREACH|NETUNREACH|ACCES|CONNREFUSED)|timeout)$/;
type Forward = Partial<PortForward> & Pick<PortForward, 'port'>;

const settings = { config: { networks: { checkIntervalS: 2 } } };
const shared = sharedFakeLodge(settings);

/** The network of the guests; the default one is not to come in between. */
async function withNetwork<Lodge extends FakeLodge>(lodge: Lodge): Promise<Lodge> {
  const { client } = lodge.daemon;
  const isUp = async (): Promise<boolean> =>
    (await client.network.get({ params: { network: 'default' } })).status.state === 'ready';
  await eventually(isUp, { describe: 'the default network is up' });
  await client.network.create({
    body: { name: 'web', spec: { ipv4Cidr: '10.233.0.0/24', ipv6Cidr: 'fd00:233::/64', bridge: 'br-web' } },
  });
  return lodge;
}

async function openWorld(t: TestContext): Promise<FakeLodge & { neighbour: NetworkNamespace }> {
  const lodge = await startFakeLodge(t, settings);
  const { namespace: host } = lodge;
  const neighbour = await networkNamespace(t);
  await cable(host, neighbour, [
    ['uplink', '198.51.100.2/24'],
    ['downlink', '198.51.100.1/24'],
  ]);
  await host.run(['ip', 'address', 'add', 'fd00:51::2/64', 'dev', 'uplink', 'nodad']);
  await neighbour.run(['ip', 'address', 'add', 'fd00:51::1/64', 'dev', 'downlink', 'nodad']);
  return withNetwork({ ...lodge, neighbour });
}

/** Sets the forwards of a VM's first NIC and waits until they are as they are to be. */
async function publish({ daemon }: FakeLodge, name: string, forwards: Forward[]): Promise<Vm> {
  const { spec, status } = await readVm(daemon, name);
  const nics = spec.nics.map((nic, index): VmNic => {
    const mac = status.nics[index]?.mac;
    return { ...nic, ...(mac ? { mac } : {}), ...(index === 0 ? { forwards: forwards as PortForward[] } : {}) };
  });
  return daemon.client.vm.update({ params: { vm: name }, body: { spec: { ...spec, nics } } });
}

/** Answers datagrams with the address they come from. */
async function tellByUdp(t: TestContext, namespace: NetworkNamespace, port: number): Promise<void> {
  const program = `
    const { createSocket } = await import('node:dgram');
    const socket = createSocket('udp4', (_text, from) => socket.send(from.address, from.port, from.address));
    socket.bind(${port}, () => console.log('ready'));`;
  const server = serveIn(t, namespace, program);
  await once(server.stdout, 'data', { signal: AbortSignal.timeout(10_000) });
}

function askByUdp(namespace: NetworkNamespace, address: string, port: number): Promise<string> {
  return evaluate(
    namespace,
    `(async () => {
      const { createSocket } = await import('node:dgram');
      const socket = createSocket('udp4');
      const answer = new Promise((resolve) => {
        socket.once('message', (text) => resolve(String(text)));
        socket.once('error', (error) => resolve(error.code));
        setTimeout(() => resolve('timeout'), 3000);
      });
      socket.connect(${port}, '${address}', () => socket.send('who'));
      return answer;
    })()`,
  );
}

/** What is published follows the VM's spec within moments. */
async function untilPorts(daemon: FakeLodge['daemon'], name: string, wanted: string[]): Promise<void> {
  let seen: string[] = [];
  await eventually(
    async () => {
      seen = (await readVm(daemon, name)).status.publishedPorts.map(({ state, port }) => `${port} ${state}`);
      return seen.join() === wanted.join();
    },
    { describe: `the published ports of ${name} are ${wanted.join(', ')}` },
  );
}

suite('a forwarded port', () => {
  test('leads to its guest from outside, from the host, and from guests, by IPv4, IPv6 and UDP, live and while no daemon runs', async (t) => {
    const world = await openWorld(t);
    const { daemon, namespace: host, neighbour } = world;
    const ports = [
      { port: 8080, guestPort: 80 },
      { protocol: 'udp', port: 5300, guestPort: 53 },
      { port: 9000, lastPort: 9002, guestPort: 80 },
    ] as const;
    await makeVm(daemon, 'web1', {
      nics: [
        { network: 'web', mac: mac1, ipv4Address: '10.233.0.50', ipv6Address: 'fd00:233::50', forwards: [...ports] },
      ],
    });
    await untilPorts(daemon, 'web1', ['8080 waiting', '5300 waiting', '9000 waiting']);
    const guest = await guestNamespace(t, host, 'br-web', mac1);
    await takeAddress(guest, mac1);
    await guest.run(['ip', 'address', 'add', 'fd00:233::50/64', 'dev', GUEST_LINK, 'nodad']);
    await guest.run(['ip', '-6', 'route', 'replace', 'default', 'via', 'fd00:233::1', 'dev', GUEST_LINK]);
    await tellAddresses(t, guest, 80);
    await tellByUdp(t, guest, 53);
    assert.match(await connectTo(neighbour, '198.51.100.2', 8080), refused, 'a VM that is not up has no ports');

    await done(daemon, daemon.client.vm.start({ params: { vm: 'web1' } }));
    const isActive = async (): Promise<boolean> =>
      (await readVm(daemon, 'web1')).status.publishedPorts.every(({ state }) => state === 'active');
    await eventually(isActive, { describe: 'the ports are published' });
    const { publishedPorts } = (await readVm(daemon, 'web1')).status;
    assert.deepEqual(publishedPorts[0]?.guestAddresses, ['10.233.0.50', 'fd00:233::50']);
    // From outside under the address of who asks.
    assert.equal(await connectTo(neighbour, '198.51.100.2', 8080), '198.51.100.1');
    assert.equal(await connectTo(neighbour, 'fd00:51::2', 8080), 'fd00:51::1');
    assert.equal(await askByUdp(neighbour, '198.51.100.2', 5300), '198.51.100.1');
    assert.equal(await connectTo(neighbour, '198.51.100.2', 9000), '198.51.100.1', 'the first of a range');
    assert.match(
      await connectTo(neighbour, '198.51.100.2', 9001),
      refused,
      'the second leads to a port nobody listens on',
    );
    // From the host, at its own addresses and at 127.0.0.1.
    assert.equal(await connectTo(host, '127.0.0.1', 8080), '10.233.0.1');
    assert.equal(await connectTo(host, '198.51.100.2', 8080), '198.51.100.2');
    // From another guest of its network, and from one of another network.
    const other = await guestNamespace(t, host, 'br-web', mac2);
    await takeAddress(other, mac2);
    assert.equal(await connectTo(other, '198.51.100.2', 8080), '10.233.0.1', 'by hairpin, under the bridge’s address');
    assert.equal(await connectTo(other, '10.233.0.1', 8080), '10.233.0.1');
    const defaultNetwork = await daemon.client.network.get({ params: { network: 'default' } });
    const foreign = await guestNamespace(t, host, defaultNetwork.status.bridge!, '52:54:00:00:00:03');
    await takeAddress(foreign, '52:54:00:00:00:03');
    assert.equal(await connectTo(foreign, '198.51.100.2', 8080), '10.233.0.1', 'translated, as all that it sends');
    // What is on 127.0.0.1 of the host is not to be had by a guest that routes there.
    await tellAddresses(t, host, 7000);
    await other.run(['ip', 'link', 'set', 'lo', 'down']);
    await other.run(['ip', 'route', 'replace', '127.0.0.0/8', 'via', '10.233.0.1', 'dev', GUEST_LINK]).catch(() => {});
    assert.match(await connectTo(other, '127.0.0.1', 7000), refused);

    await daemon.kill();
    assert.equal(await connectTo(neighbour, '198.51.100.2', 8080), '198.51.100.1', 'also while no daemon runs');
    await daemon.start();
    await daemon.settled();
    await host.run(['nft', 'delete', 'table', 'inet', `lodge-${daemon.instance}.forwards`]);
    await untilEvent(daemon, 'network.repaired', ({ message }) => message.includes('Forwarded ports'));
    assert.equal(await connectTo(neighbour, '198.51.100.2', 8080), '198.51.100.1', 'and after it was repaired');

    // Another port, while it runs; then none.
    const changed = await publish(world, 'web1', [{ port: 8081, guestPort: 80, listenAddress: '198.51.100.2' }]);
    assert.deepEqual(changed.status.pendingChanges, []);
    await untilPorts(daemon, 'web1', ['8081 active']);
    assert.equal(await connectTo(neighbour, '198.51.100.2', 8081), '198.51.100.1');
    assert.match(await connectTo(neighbour, '198.51.100.2', 8080), refused);
    assert.match(await connectTo(host, '127.0.0.1', 8081), refused, 'another address than the one it is for');
    await publish(world, 'web1', []);
    await untilPorts(daemon, 'web1', []);
    assert.match(await connectTo(neighbour, '198.51.100.2', 8081), refused);
    const { stdout } = await host.run(['nft', 'list', 'tables']);
    assert.doesNotMatch(stdout, /forwards/, 'no table is left');
  });

  test('that can not be is refused with its field, before anything changes', async (t) => {
    const world = await withNetwork(await shared(t));
    const { daemon, namespace: host } = world;
    await daemon.client.network.create({ body: { name: 'cage', spec: { mode: 'isolated' } } });
    await daemon.client.network.create({ body: { name: 'alone', spec: { mode: 'user' } } });
    await makeVm(daemon, 'web1', { nics: [{ network: 'web', forwards: [{ port: 8080, guestPort: 80 }] }] });
    await tellAddresses(t, host, 7001);
    const field = 'spec.nics.0.forwards.0.port';
    for (const [network, forward, code, at, why] of [
      ['web', { port: 8080 }, 'host_conflict', field, /web1/],
      ['web', { port: 8000, lastPort: 8100 }, 'host_conflict', field, /web1/],
      ['web', { port: 7001 }, 'host_conflict', field, /7001 is in use by \S+ \(process/],
      ['web', { port: 22 }, 'invalid_request', field, /SSH/],
      ['web', { port: 9000, lastPort: 8999 }, 'invalid_request', 'spec.nics.0.forwards.0.lastPort', /below/],
      ['web', { port: 9000, lastPort: 19_000 }, 'invalid_request', 'spec.nics.0.forwards.0.lastPort', /1000/],
      ['web', { port: 9000, lastPort: 9010, guestPort: 65_530 }, 'invalid_request', /guestPort/, /room/],
      ['cage', { port: 9000 }, 'invalid_request', 'spec.nics.0.forwards', /isolated/],
      ['alone', { port: 80 }, 'invalid_request', field, /1024/],
      ['alone', { port: 8090, listenAddress: '::1' }, 'invalid_request', /listenAddress/, /IPv4/],
    ] as const) {
      const nics = [{ network, forwards: [{ ...forward }] }];
      const refusal = await assertRefused(
        daemon,
        daemon.client.vm.create({ body: { name: 'web2', spec: { nics } } }),
        code,
        at,
      );
      assert.match(refusal.message, why);
    }
    // The same port of UDP, or of another address, is another one; SSH of one address is its own business.
    const fine = [
      { protocol: 'udp', port: 8080 },
      { port: 22, listenAddress: '198.51.100.77' },
    ] as const;
    await makeVm(daemon, 'web2', { nics: [{ network: 'web', forwards: [...fine] }] });
    const twice = [{ port: 9100 }, { port: 9099, lastPort: 9101 }];
    await assertRefused(daemon, publish(world, 'web2', twice), 'invalid_request', 'spec.nics.0.forwards.1.port');
    assert.equal((await readVm(daemon, 'web2')).spec.nics[0]?.forwards?.length, 2, 'it is as it was');
    // A clone has its own way to be reached: two can't have one port.
    await done(daemon, daemon.client.vm.clone({ params: { vm: 'web1' }, body: { name: 'web3' } }));
    assert.equal((await readVm(daemon, 'web3')).spec.nics[0]?.forwards, undefined);
  });

  test('follows the lease of a guest that has no address reserved', async (t) => {
    const world = await withNetwork(await shared(t));
    const { daemon, namespace: host } = world;
    const nics = [{ network: 'web', mac: mac1, forwards: [{ port: 8080, guestPort: 80 }] }];
    await makeVm(daemon, 'web1', { nics }, { start: true });
    const state = async (): Promise<string | undefined> =>
      (await readVm(daemon, 'web1')).status.publishedPorts[0]?.state;
    await untilPorts(daemon, 'web1', ['8080 waiting']);
    const guest = await guestNamespace(t, host, 'br-web', mac1);
    await takeAddress(guest, mac1);
    await tellAddresses(t, guest, 80);
    await eventually(async () => (await state()) === 'active', { describe: 'the lease is seen' });
    assert.equal(await connectTo(host, '127.0.0.1', 8080), '10.233.0.1');
    await done(daemon, daemon.client.vm.forceOff({ params: { vm: 'web1' } }));
    await eventually(async () => (await state()) === 'waiting', { describe: 'the port goes with the guest' });
    assert.match(await connectTo(host, '127.0.0.1', 8080), refused);
  });
});

suite('a tunnel', () => {
  test('leads from here through the daemon to ports of a guest, several at once, and says why it leads nowhere', async (t) => {
    const world = await withNetwork(await shared(t));
    const { daemon, namespace: host } = world;
    await makeVm(
      daemon,
      'web1',
      { nics: [{ network: 'web', mac: mac1, ipv4Address: '10.233.0.50' }] },
      { start: true },
    );
    const lodge = await commandLine(t, daemon);
    const guest = await guestNamespace(t, host, 'br-web', mac1);
    await takeAddress(guest, mac1);
    await tellAddresses(t, guest, 80);
    await tellAddresses(t, guest, 81);
    const forward = lodge.start(['vm', 'forward', 'web1', '0:80', '0:81', '0:82']);
    let said = '';
    let told = '';
    forward.stdout?.setEncoding('utf8').on('data', (text: string) => (said += text));
    forward.stderr?.setEncoding('utf8').on('data', (text: string) => (told += text));
    const ports = await eventually(
      () => {
        const found = [...said.matchAll(/127\.0\.0\.1:(\d+) → web1 port 8\d/g)].map(([, port]) => Number(port));
        return found.length === 3 ? found : null;
      },
      { describe: 'the command listens' },
    );
    // This process is outside the namespace: what answers came through the daemon.
    const { connect } = await import('node:net');
    const ask = (port: number): Promise<string> =>
      new Promise((resolve, reject) => {
        let text = '';
        const socket = connect(port, '127.0.0.1');
        // It has nothing to say, and waits for the answer.
        socket.end();
        socket.on('data', (data) => (text += String(data)));
        socket.once('end', () => resolve(text));
        socket.once('error', reject);
        socket.once('close', () => resolve(text));
      });
    const answers = await Promise.all(Array.from({ length: 12 }, (_, index) => ask(ports[index % 2]!)));
    assert.deepEqual(new Set(answers), new Set(['10.233.0.1']));
    assert.equal(await ask(ports[2]!), '', 'nobody listens there');
    await eventually(() => /Port 82 of VM web1 does not answer/.test(told), { describe: 'it is said why' });
    forward.kill('SIGINT');
    const [code] = (await once(forward, 'exit')) as [number];
    assert.equal(code, 0);

    await makeVm(daemon, 'off', { nics: [] });
    const ended = await lodge.run(['vm', 'forward', 'off', '8080:80']);
    assert.notEqual(ended.code, 0);
    assert.match(ended.err, /stopped/);
  });
});
