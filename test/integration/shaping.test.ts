// Rates of links by real transfers: guests are namespaces on a bridge of a namespace that plays the host.
//
//   one ── port ── bridge ── port ── other            host: the bridge's own address
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { suite, test, type TestContext } from 'node:test';
import { bridgeMac } from '../../src/host/network/nat-network.ts';
import { createBridge, listMarkedLinks } from '../../src/host/network/link.ts';
import { ensurePacketRates } from '../../src/host/network/packet-rates.ts';
import { ensureShapes, ifbName, shapeNewLink, type LinkShape } from '../../src/host/network/shaping.ts';
import { evaluate, GUEST_LINK, guestNamespace } from '../support/guest-namespace.ts';
import { assertRefused, done, makeVm, readVm, startFakeLodge, untilEvent } from '../support/fake-lodge.ts';
import { markedName } from '../support/mark.ts';
import { networkNamespace, serveIn, type NetworkNamespace } from '../support/namespace.ts';
import { eventually } from '../support/wait.ts';

const mib = 2 ** 20;
const macs = ['52:54:00:00:00:11', '52:54:00:00:00:12'] as const;
const none = { egress: null, ingress: null };

/** Sends zeros to everyone who connects, for as long as they listen. */
async function sendZeros(t: TestContext, namespace: NetworkNamespace): Promise<void> {
  const program = `
    const { createServer } = await import('node:net');
    const zeros = Buffer.alloc(65_536);
    createServer((socket) => {
      socket.on('error', () => {});
      const fill = () => { while (socket.writable && socket.write(zeros)); };
      socket.on('drain', fill);
      fill();
    }).listen(80, '0.0.0.0', () => console.log('ready'));`;
  const server = serveIn(t, namespace, program);
  await once(server.stdout, 'data', { signal: AbortSignal.timeout(20_000) });
}

/**
 * Bytes a second that come from an address, by the kernel's own counter of the link they come by: a reader that has to wait
 * for its turn would find in one moment what came in many. Begins when the first burst is over.
 */
function rateFrom(
  namespace: NetworkNamespace,
  address: string,
  { counter = `${GUEST_LINK}/statistics/rx_bytes`, burst = 512 * 1024 } = {},
): Promise<number> {
  return evaluate(
    namespace,
    `(async () => {
      const { connect } = await import('node:net');
      const { readFileSync } = await import('node:fs');
      const sample = () => ({ at: performance.now(), bytes: Number(readFileSync('/sys/class/net/${counter}', 'utf8')) });
      const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
      const socket = connect({ host: '${address}', port: 80 });
      socket.on('error', () => {});
      socket.resume();
      const before = sample();
      const deadline = before.at + 15_000;
      while (sample().bytes - before.bytes < ${burst} && performance.now() < deadline) await wait(20);
      const from = sample();
      await wait(700);
      const to = sample();
      socket.destroy();
      return (to.bytes - from.bytes) / (to.at - from.at) * 1000;
    })()`,
  );
}

/** Receives from an address until the answer is called, or the test ends. */
async function receive(t: TestContext, namespace: NetworkNamespace, address: string): Promise<() => void> {
  const program = `
    const { connect } = await import('node:net');
    const socket = connect({ host: '${address}', port: 80 });
    socket.on('error', () => {});
    socket.once('data', () => console.log('ready'));
    socket.resume();`;
  const client = serveIn(t, namespace, program);
  await once(client.stdout, 'data', { signal: AbortSignal.timeout(20_000) });
  return () => void client.kill('SIGKILL');
}

/** Bytes a second that go out by each of these links, in the same time, after their bursts. */
function ratesInto(namespace: NetworkNamespace, links: readonly string[]): Promise<number[]> {
  return evaluate(
    namespace,
    `(async () => {
      const { readFileSync } = await import('node:fs');
      const sample = () => ({
        at: performance.now(),
        bytes: ${JSON.stringify(links)}.map((link) => Number(readFileSync('/sys/class/net/' + link + '/statistics/tx_bytes', 'utf8'))),
      });
      const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
      await wait(1000);
      const from = sample();
      await wait(1200);
      const to = sample();
      return to.bytes.map((bytes, index) => (bytes - from.bytes[index]) / (to.at - from.at) * 1000);
    })()`,
  );
}

interface World {
  instance: string;
  host: NetworkNamespace;
  guests: NetworkNamespace[];
  /** The host's ends of the guests' cables. */
  ports: string[];
  shape: (shapes: LinkShape[]) => Promise<string[]>;
}

async function openWorld(t: TestContext): Promise<World> {
  const instance = markedName();
  const host = await networkNamespace(t);
  const scope = { netns: host.name };
  const mark = { instance, kind: 'bridge', id: 'net' };
  await createBridge({ name: 'br0', mark, macAddress: bridgeMac({ instance, id: 'net' }) }, scope);
  await host.run(['ip', 'address', 'add', '10.9.0.1/24', 'dev', 'br0']);
  const guests: NetworkNamespace[] = [];
  for (const [index, mac] of macs.entries()) {
    const guest = await guestNamespace(t, host, 'br0', mac);
    await guest.run(['ip', 'address', 'add', `10.9.0.1${index}/24`, 'dev', GUEST_LINK]);
    await sendZeros(t, guest);
    guests.push(guest);
  }
  const { stdout } = await host.run(['ip', '-json', 'link', 'show', 'master', 'br0']);
  const ports = (JSON.parse(stdout) as { ifname: string }[]).map(({ ifname }) => ifname);
  const shape = async (shapes: LinkShape[]): Promise<string[]> => {
    const outcomes = await ensureShapes(instance, shapes, [...ports, 'br0'], scope);
    for (const { problems } of outcomes.values()) assert.deepEqual(problems, []);
    return [...outcomes.values()].flatMap(({ changed }) => [...changed]);
  };
  return { instance, host, guests, ports, shape };
}

function assertRate(rate: number, limit: number, what: string): void {
  const factor = rate / limit;
  assert.ok(factor > 0.5 && factor < 1.2, `${what}: ${Math.round(rate)} B/s are ${factor.toFixed(2)} of ${limit}`);
}

suite('a rate', () => {
  test('of a link holds in the direction it is for, is changed while data flows, and goes', async (t) => {
    const { instance, host, guests, ports, shape } = await openWorld(t);
    const [one, other] = guests as [NetworkNamespace, NetworkNamespace];
    const [port] = ports as [string];
    const rate = 2 * mib;
    const unlimited = await rateFrom(one, '10.9.0.11');
    assert.ok(unlimited > 8 * rate, `without a limit: ${Math.round(unlimited)} B/s`);

    const limited = { kind: 'rate', rate: { bytesPerSecond: rate } } as const;
    assert.equal((await shape([{ link: port, egress: limited, ingress: null }])).length, 1);
    assertRate(await rateFrom(one, '10.9.0.11'), rate, 'to the guest');
    assert.ok((await rateFrom(other, '10.9.0.10')) > 4 * rate, 'the other direction is free');

    assert.equal((await shape([{ link: port, egress: null, ingress: limited }])).length, 1);
    assertRate(await rateFrom(other, '10.9.0.10'), rate, 'from the guest');
    assert.deepEqual(await shape([{ link: port, egress: null, ingress: limited }]), [], 'it is so already');

    const faster = {
      kind: 'rate',
      rate: { bytesPerSecond: 2 * rate, burstBytes: mib, peakBytesPerSecond: 4 * rate },
    } as const;
    assert.equal((await shape([{ link: port, egress: null, ingress: faster }])).length, 1);
    assertRate(await rateFrom(other, '10.9.0.10', { burst: 2 * mib }), 2 * rate, 'twice the rate');

    // The queues are gone, or the link they led through: both are made again.
    await host.run(['tc', 'qdisc', 'del', 'dev', port, 'ingress']);
    assert.equal((await shape([{ link: port, egress: null, ingress: faster }])).length, 1);
    await host.run(['ip', 'link', 'del', ifbName(instance, port)]);
    assert.equal((await shape([{ link: port, egress: null, ingress: faster }])).length, 1);

    assert.deepEqual(await shape([]), []);
    assert.ok((await rateFrom(other, '10.9.0.10')) > 4 * rate, 'without a limit again');
    assert.deepEqual(await listMarkedLinks(instance, 'ifb', { netns: host.name }), []);
    const again = await shapeNewLink(instance, { link: port, egress: limited, ingress: limited }, { netns: host.name });
    assert.deepEqual(again.problems, []);
    await shape([]);
  });

  test('of a network is shared by its NICs as guaranteed, and the rest by priority', async (t) => {
    const { instance, host, guests, ports, shape } = await openWorld(t);
    const [one, other] = guests as [NetworkNamespace, NetworkNamespace];
    await sendZeros(t, host);
    const bytesPerSecond = 4 * mib;
    const members = [
      { mac: macs[0], guaranteedBytesPerSecond: 3 * mib, priority: 'normal' },
      { mac: macs[1], guaranteedBytesPerSecond: 0, priority: 'normal' },
    ] as const;
    const ceiling = { kind: 'ceiling', ceiling: { bytesPerSecond, members } } as const;
    await shape([{ link: 'br0', egress: ceiling, ingress: ceiling }]);
    assertRate(await rateFrom(other, '10.9.0.1'), bytesPerSecond, 'alone it has all');
    // Both at once, counted at the host's ends of their cables.
    const stops = [await receive(t, one, '10.9.0.1'), await receive(t, other, '10.9.0.1')];
    const [first, second] = (await ratesInto(host, ports)) as [number, number];
    assert.ok(first > 2 * mib, `what is guaranteed: ${Math.round(first)} and ${Math.round(second)} B/s`);
    assertRate(first + second, bytesPerSecond, 'both together');
    // What is on its way would hold up the answers of what follows.
    for (const stop of stops) stop();
    // And from the guests to the host, where the ceiling is a queue behind the bridge.
    const counter = `${ifbName(instance, 'br0')}/statistics/tx_bytes`;
    assertRate(await rateFrom(host, '10.9.0.11', { counter }), bytesPerSecond, 'from the guest');
    assert.ok((await rateFrom(one, '10.9.0.11')) > 4 * bytesPerSecond, 'guests among themselves are free');
    await shape([{ link: 'br0', ...none }]);
  });

  test('of packets drops what is above it, in the direction it is for', async (t) => {
    const { instance, host, guests, ports, shape } = await openWorld(t);
    const [one, other] = guests as [NetworkNamespace, NetworkNamespace];
    const [port] = ports as [string];
    const scope = { netns: host.name };
    const rates = [{ link: port, sent: 100, received: null }];
    assert.equal((await ensurePacketRates(instance, rates, scope)).length, 1);
    assert.deepEqual(await ensurePacketRates(instance, rates, scope), [], 'it is so already');
    const before = await packetsInto(one);
    const seconds = await sendDatagrams(other, '10.9.0.10', 1000);
    const received = (await packetsInto(one)) - before;
    assert.ok(received >= 5 && received <= 50 + 120 * seconds, `${received} of 1000 have come in ${seconds} s`);
    const beforeOther = await packetsInto(other);
    await sendDatagrams(one, '10.9.0.11', 1000);
    assert.ok((await packetsInto(other)) - beforeOther > 900, 'the other direction is free');
    assert.equal((await ensurePacketRates(instance, [], scope)).length, 1);
    assert.deepEqual(await ensurePacketRates(instance, [], scope), []);
    await shape([]);
  });
});

interface Queue {
  kind: string;
  dev: string;
  root?: boolean;
  options?: { rate?: number };
}

suite('rates that are asked of the API', () => {
  test('are there when the guest runs, are changed live, put right, and told where they are wrong', async (t) => {
    const { daemon, namespace: host } = await startFakeLodge(t, { config: { networks: { checkIntervalS: 1 } } });
    const { client } = daemon;
    const limits = { inboundBytesPerSecond: 10_000_000, outboundBytesPerSecond: 5_000_000 };
    await client.network.create({
      body: { name: 'web', spec: { ipv4Cidr: '10.234.0.0/24', bridge: 'br-web', limits } },
    });
    await client.network.create({ body: { name: 'alone', spec: { mode: 'user' } } });
    const queues = async (dev: string): Promise<string[]> => {
      const { stdout } = await host.run(['tc', '-j', 'qdisc', 'show', 'dev', dev]);
      return (JSON.parse(stdout) as Queue[])
        .filter(({ kind }) => kind !== 'noqueue')
        .map(({ kind, options }) => (options?.rate === undefined ? kind : `${kind} ${options.rate}`))
        .toSorted();
    };
    const nic = {
      network: 'web',
      limits: {
        inbound: { bytesPerSecond: 2_000_000, packetsPerSecond: 5000, guaranteedBytesPerSecond: 1_000_000 },
        outbound: { bytesPerSecond: 1_000_000 },
      },
    };
    for (const [spec, field] of [
      [{ ...nic, network: 'alone' }, 'spec.nics.0.limits'],
      [{ ...nic, limits: { inbound: { burstBytes: 5000 } } }, 'spec.nics.0.limits.inbound.burstBytes'],
      [{ ...nic, limits: { inbound: { bytesPerSecond: 5000, peakBytesPerSecond: 5000 } } }, /peakBytesPerSecond/],
      [{ ...nic, limits: { outbound: { guaranteedBytesPerSecond: 6_000_000 } } }, /guaranteedBytesPerSecond/],
    ] as const)
      await assertRefused(
        daemon,
        client.vm.create({ body: { name: 'web1', spec: { nics: [spec] } } }),
        'invalid_request',
        field,
      );

    const vm = await makeVm(daemon, 'web1', { nics: [nic] }, { start: true });
    const tap = vm.status.nics[0]?.hostInterface ?? '';
    assert.deepEqual(await queues(tap), ['ingress', 'tbf 2000000'], 'before the start has ended');
    const isShown = async (): Promise<boolean> => {
      const { nicLimits } = (await readVm(daemon, 'web1')).status;
      return nicLimits[0]?.state === 'active' && nicLimits[0].problems.length === 0;
    };
    await eventually(isShown, { describe: 'the status says so' });
    const web = async () => (await client.network.get({ params: { network: 'web' } })).status;
    await eventually(async () => (await web()).limits?.state === 'active', { describe: 'the ceiling is active' });
    assert.deepEqual(await queues('br-web'), ['htb', 'ingress']);
    const { stdout: rules } = await host.run(['nft', 'list', 'ruleset']);
    assert.match(rules, /limit rate over 5000\/second/);

    const changed = { ...vm.spec, nics: [{ ...vm.spec.nics[0]!, limits: { inbound: { bytesPerSecond: 3_000_000 } } }] };
    const after = await client.vm.update({ params: { vm: 'web1' }, body: { spec: changed } });
    assert.deepEqual([after.status.pendingChanges, after.status.taskId], [[], null]);
    assert.deepEqual(await queues(tap), ['tbf 3000000']);
    await host.run(['tc', 'qdisc', 'del', 'dev', tap, 'root']);
    await untilEvent(daemon, 'network.repaired', ({ message }) => message.includes('Rates of NICs'));
    assert.deepEqual(await queues(tap), ['tbf 3000000']);

    const { spec } = await client.network.get({ params: { network: 'web' } });
    const { limits: _limits, ...without } = spec;
    await client.network.update({ params: { network: 'web' }, body: { spec: without } });
    await eventually(async () => (await queues('br-web')).length === 0, { describe: 'the ceiling is gone' });
    await eventually(async () => (await web()).limits === null, { describe: 'the status says so' });
    await done(daemon, client.vm.forceOff({ params: { vm: 'web1' } }));
    const ifbs = async (): Promise<number> =>
      (JSON.parse((await host.run(['ip', '-json', 'link', 'show', 'type', 'ifb'])).stdout) as unknown[]).length;
    await eventually(async () => (await ifbs()) === 0, { describe: 'no link is left' });
  });
});

/** Packets that have come to a guest. */
function packetsInto(namespace: NetworkNamespace): Promise<number> {
  return evaluate(
    namespace,
    `import('node:fs').then(({ readFileSync }) => Number(readFileSync('/sys/class/net/${GUEST_LINK}/statistics/rx_packets', 'utf8')))`,
  );
}

/** Answers with how long it took, seconds. */
function sendDatagrams(namespace: NetworkNamespace, address: string, count: number): Promise<number> {
  return evaluate(
    namespace,
    `(async () => {
      const { createSocket } = await import('node:dgram');
      const socket = createSocket('udp4');
      socket.on('error', () => {});
      const from = performance.now();
      for (let sent = 0; sent < ${count}; sent++)
        await new Promise((resolve) => socket.send('x', 9, '${address}', resolve));
      return (performance.now() - from) / 1000;
    })()`,
  );
}
