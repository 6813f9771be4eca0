// Ports of the host that lead into a network inside QEMU, and tunnels into it, with a real guest.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { connectTo, tellAddresses } from '../support/guest-namespace.ts';
import { qemuDaemon } from '../support/qemu-daemon.ts';
import { eventually } from '../support/wait.ts';

const query = { project: 'default' } as const;

test('ports lead into a network inside QEMU from the start, change while it runs, and outlive the daemon', async (t) => {
  const host = await qemuDaemon(t);
  const { namespace, client } = host;
  await client.network.create({ body: { name: 'alone', spec: { mode: 'user' } } });
  const nic = { network: 'alone', forwards: [{ port: 8080, guestPort: 80 }] };
  await host.create('web1', { nics: [nic] });
  await host.untilUp('web1');
  const states = async (): Promise<string> =>
    (await host.vm('web1')).status.publishedPorts.map(({ port, state }) => `${port} ${state}`).join();
  await eventually(async () => (await states()) === '8080 active', { describe: 'the port is published' });
  // What runs without end in the guest is what listens there.
  const listen = `while true; do echo hello | nc -l -p 80; done`;
  const { code } = await host.exec('web1', [
    'sh',
    '-c',
    `(${listen}) >/dev/null 2>&1 & ip link set eth0 up; udhcpc -i eth0 -n -q -t 10 >/dev/null 2>&1 || true`,
  ]);
  assert.equal(code, 0);
  const says = (port: number): Promise<boolean> =>
    connectTo(namespace, '127.0.0.1', port).then((text) => text.trim() === 'hello');
  await eventually(() => says(8080), { describe: 'the guest answers by its port', timeoutMs: 90_000 });

  const before = await host.vm('web1');
  const publish = (forwards: { port: number; guestPort: number }[]) =>
    client.vm.update({
      params: { vm: 'web1' },
      query,
      body: {
        spec: {
          ...before.spec,
          nics: [
            {
              ...before.spec.nics[0]!,
              mac: before.status.nics[0]!.mac,
              forwards: forwards.map((one) => ({ ...one, protocol: 'tcp' as const })),
            },
          ],
        },
      },
    });
  const changed = await publish([{ port: 8081, guestPort: 80 }]);
  assert.deepEqual(changed.status.pendingChanges, []);
  assert.equal(changed.status.publishedPorts[0]?.state, 'active');
  await eventually(() => says(8081), { describe: 'the other port' });
  assert.equal(await connectTo(namespace, '127.0.0.1', 8080), 'ECONNREFUSED');

  await host.daemon.kill();
  await eventually(() => says(8081), { describe: 'while no daemon runs' });
  // A port that somebody has taken meanwhile is told, and had again when it is free.
  await host.daemon.start();
  await tellAddresses(t, namespace, 8090);
  await assert.rejects(publish([{ port: 8090, guestPort: 80 }]), /8090/);
  await eventually(() => says(8081), { describe: 'it is as it was' });

  // A tunnel needs no port of the host that anybody has chosen.
  const path = `/v1/vms/web1/tunnel?port=80`;
  const text = await eventually(
    async () => {
      const { stream } = await host.daemon.connection.openWebSocket(path);
      stream.on('error', () => {});
      // Between two of its clients nobody listens in the guest, and the tunnel ends without a word.
      const first = new Promise<string>((resolve) => {
        stream.once('data', (chunk: Buffer) => resolve(String(chunk).trim()));
        for (const end of ['end', 'close', 'error']) stream.once(end, () => resolve(''));
      });
      const said = await first;
      stream.destroy();
      return said || null;
    },
    { describe: 'the guest answers through a tunnel', timeoutMs: 60_000 },
  );
  assert.equal(text, 'hello');
  assert.deepEqual((await publish([])).status.publishedPorts, []);
  assert.equal(await connectTo(namespace, '127.0.0.1', 8081), 'ECONNREFUSED');
});
