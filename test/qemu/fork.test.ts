// Forks of a running guest through the whole daemon: the copies go on from where it was, each with its own identity and on
// its own from there, and all of them are on the network.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type Vm } from '../../src/api/vm.ts';
import { qemuDaemon, type QemuDaemon } from '../support/qemu-daemon.ts';
import { eventually } from '../support/wait.ts';

const query = { project: 'default' } as const;

function networkIsReady(host: QemuDaemon): Promise<unknown> {
  return eventually(
    async () => (await host.client.network.get({ params: { network: 'default' } })).status.state === 'ready',
    { timeoutMs: 60_000, describe: 'the default network is ready' },
  );
}

async function copiesOf(host: QemuDaemon, taskId: string): Promise<Vm[]> {
  const { items } = await host.client.vm.list({ query: { filter: `status.lineage.forkId=${taskId}` } });
  return items.toSorted((one, other) => one.name.localeCompare(other.name));
}

async function inGuest(host: QemuDaemon, name: string, script: string): Promise<string> {
  const { output, code } = await host.exec(name, ['sh', '-c', script]);
  assert.equal(code, 0, `${script}: ${output}`);
  return output.trim();
}

/** The address that the guest itself says it has, when it has one by DHCP. */
function addressOf(host: QemuDaemon, name: string): Promise<string> {
  return eventually(
    async () => /inet (\d+\.\d+\.\d+\.\d+)/.exec(await inGuest(host, name, 'ip -4 address show dev eth0'))?.[1] ?? null,
    { timeoutMs: 60_000, describe: `${name} has an address`, intervalMs: 200 },
  );
}

function writeToDisk(host: QemuDaemon, name: string, text: string): Promise<string> {
  return inGuest(host, name, `printf '%-512s' '${text}' | dd of=/dev/vda bs=512 count=1 conv=fsync 2>/dev/null`);
}

function readFromDisk(host: QemuDaemon, name: string): Promise<string> {
  return inGuest(host, name, 'echo 3 > /proc/sys/vm/drop_caches; dd if=/dev/vda bs=512 count=1 2>/dev/null');
}

test('a running guest is forked', { timeout: 600_000 }, async (context) => {
  const host = await qemuDaemon(context);
  await networkIsReady(host);
  await host.client.volume.create({ body: { name: 'manuals', spec: { sizeMib: 4 } } });
  await host.create('web1', {
    nics: [{ network: 'default' }],
    disks: [
      { name: 'data', sizeMib: 8 },
      { name: 'manuals', volume: 'manuals', isReadOnly: true },
    ],
    maxMemoryMib: 512,
  });
  await host.untilUp('web1');
  const address = await addressOf(host, 'web1');
  // It counts in memory, and has written something down.
  await inGuest(
    host,
    'web1',
    'echo before > /tmp/note; (n=0; while :; do n=$((n+1)); echo $n > /tmp/count; sleep 0.2; done) >/dev/null 2>&1 &',
  );
  await inGuest(host, 'web1', 'while [ ! -s /tmp/count ]; do sleep 0.1; done');
  await writeToDisk(host, 'web1', 'before');
  const before = await host.vm('web1');

  const task = await host.done(host.client.vm.fork({ params: { vm: 'web1' }, query, body: { count: 2 } }));
  const copies = await copiesOf(host, task.id);

  await context.test('the copies run with their lineage, and the guest has only stood still', async () => {
    assert.deepEqual(
      copies.map(({ name }) => name),
      ['web1-1', 'web1-2'],
    );
    for (const { status } of copies) {
      assert.equal(status.state, 'running', status.reason);
      assert.equal(status.lineage?.parentId, before.id);
      assert.equal(status.lineage.hasOwnIdentity, true, status.reason);
      assert.equal(status.taskId, null);
    }
    const after = await host.vm('web1');
    assert.equal(after.status.state, 'running');
    assert.equal(after.status.pid, before.status.pid);
    const forked = (await host.events(after)).find(({ type }) => type === 'vm.forked');
    assert.ok(forked && Number(forked.details?.['pauseMs']) < 5000);
    assert.ok(!(await host.events(after)).some(({ type }) => type === 'vm.paused'));
  });

  await context.test('each goes on counting, on its own', async () => {
    for (const name of ['web1', 'web1-1', 'web1-2']) {
      assert.equal(await inGuest(host, name, 'cat /tmp/note'), 'before');
      await inGuest(host, name, `n=$(cat /tmp/count); while [ "$(cat /tmp/count)" = "$n" ]; do sleep 0.1; done`);
      await inGuest(host, name, `echo ${name} > /tmp/note`);
    }
    for (const name of ['web1', 'web1-1', 'web1-2']) assert.equal(await inGuest(host, name, 'cat /tmp/note'), name);
  });

  await context.test('what one writes to its disk, no other sees', async () => {
    const names = ['web1', 'web1-1', 'web1-2'];
    for (const name of names) assert.equal(await readFromDisk(host, name), 'before');
    for (const name of names) await writeToDisk(host, name, `by ${name}`);
    for (const name of names) assert.equal(await readFromDisk(host, name), `by ${name}`);
    const { items } = await host.client.volume.list({});
    const own = ['web1-1-data', 'web1-1-manuals', 'web1-2-data', 'web1-2-manuals', 'web1-data'];
    assert.deepEqual(items.map(({ name }) => name).toSorted(), ['manuals', ...own]);
    for (const name of names) {
      const script =
        'cat /sys/block/vdb/ro; dd if=/dev/vdb of=/dev/null bs=64k 2>&1 | head -1; ! dd if=/dev/zero of=/dev/vdb count=1';
      assert.match(await inGuest(host, name, script), /^1\n64\+0 records in/, 'one that may only be read is there');
    }
  });

  await context.test('each has a name and addresses of its own, and reaches its gateway', async () => {
    const names = ['web1', 'web1-1', 'web1-2'];
    const hostnames = await Promise.all(names.map((name) => inGuest(host, name, 'hostname')));
    assert.deepEqual(hostnames, ['web1', 'web1-1', 'web1-2']);
    const macs = await Promise.all(names.map((name) => inGuest(host, name, 'cat /sys/class/net/eth0/address')));
    const expected = await Promise.all(names.map(async (name) => (await host.vm(name)).status.nics[0]?.mac));
    assert.deepEqual(macs, expected);
    assert.equal(new Set(macs).size, 3);
    const local = await Promise.all(names.map((name) => inGuest(host, name, 'cat /proc/net/if_inet6 | grep eth0')));
    assert.equal(new Set(local).size, 3, local.join(' '));
    const addresses = await Promise.all(names.map((name) => addressOf(host, name)));
    assert.equal(new Set(addresses).size, 3, addresses.join(' '));
    assert.equal(addresses[0], address, 'the guest itself keeps its address');
    const gateway = (await host.client.network.get({ params: { network: 'default' } })).status.gateway;
    for (const name of names) await inGuest(host, name, `ping -c 1 -W 10 ${gateway}`);
    const random = await Promise.all(names.map((name) => inGuest(host, name, 'head -c 16 /dev/urandom | md5sum')));
    assert.equal(new Set(random).size, 3);
  });

  await context.test('a copy can be forked in its turn, and started afresh', async () => {
    const again = await host.done(
      host.client.vm.fork({ params: { vm: 'web1-1' }, query, body: { name: 'grandchild' } }),
    );
    const [grandchild] = await copiesOf(host, again.id);
    assert.equal(grandchild?.name, 'grandchild');
    assert.equal(grandchild.status.lineage?.parentName, 'web1-1');
    assert.equal(await inGuest(host, 'grandchild', 'cat /tmp/note; hostname'), 'web1-1\ngrandchild');
    await host.done(host.client.vm.forceOff({ params: { vm: 'web1-2' }, query }));
    await host.done(host.client.vm.start({ params: { vm: 'web1-2' }, query }));
    await host.untilUp('web1-2');
    assert.equal(await inGuest(host, 'web1-2', 'cat /tmp/note || echo new'), 'new');
  });

  await context.test('copies share memory, which is told', async () => {
    const { items } = await host.client.vm.usage({});
    const usage = items.find(({ name }) => name === 'web1-1');
    assert.ok(usage?.memoryMib && usage.memorySharedMib && usage.memorySharedMib > 10, JSON.stringify(usage));
    assert.ok(usage.memoryPrivateMib && usage.memoryPrivateMib < usage.memoryMib);
  });

  await context.test('isolated copies are on a network of their own', async () => {
    const forked = await host.done(
      host.client.vm.fork({ params: { vm: 'web1' }, query, body: { name: 'apart', isIsolated: true } }),
    );
    const [apart] = await copiesOf(host, forked.id);
    const network = apart?.status.nics[0]?.network ?? '';
    assert.ok(network.startsWith('default-fork-'), network);
    const { ipv4Cidr } = (await host.client.network.get({ params: { network } })).status;
    const prefix = ipv4Cidr?.split('.').slice(0, 3).join('.');
    assert.ok((await addressOf(host, 'apart')).startsWith(`${prefix}.`));
  });

  await context.test('a guest that got a disk while it ran has it in its copies', async () => {
    const changed = await host.change('web1', (spec) => ({
      ...spec,
      disks: [...spec.disks, { name: 'late', sizeMib: 4, device: 'disk', isReadOnly: false, cache: 'writeback' }],
    }));
    assert.deepEqual(changed.status.pendingChanges, []);
    const see = 'cat /sys/block/vd*/serial';
    const before = await inGuest(host, 'web1', see);
    assert.match(before, /late/);
    await host.done(host.client.vm.fork({ params: { vm: 'web1' }, query, body: { name: 'grown' } }));
    assert.equal(await inGuest(host, 'grown', see), before);
    assert.deepEqual((await host.vm('grown')).status.pendingChanges, []);
    await host.done(host.client.vm.forceOff({ params: { vm: 'grown' }, query }));
  });

  await context.test('a guest whose agent is gone keeps its copy off the network, and says so', async () => {
    await inGuest(host, 'web1', '(sleep 0.3; killall -STOP qemu-ga) >/dev/null 2>&1 &');
    const isSilent = async (): Promise<boolean> =>
      host.client.vm.guestInfo({ params: { vm: 'web1' }, query }).then(
        () => false,
        () => true,
      );
    await eventually(isSilent, { timeoutMs: 60_000, describe: 'the agent of web1 is silent' });
    const forked = await host.done(host.client.vm.fork({ params: { vm: 'web1' }, query, body: { name: 'mute' } }));
    const [mute] = await copiesOf(host, forked.id);
    assert.equal(mute?.status.state, 'running');
    assert.equal(mute.status.lineage?.hasOwnIdentity, false);
    assert.equal(mute.spec.nics[0]?.isConnected, false);
    assert.match(mute.status.reason, /disconnected/);
    assert.ok((await host.events(mute)).some(({ type }) => type === 'vm.identity-missing'));
  });

  await context.test('a guest that got memory while it ran is refused, and runs on', async () => {
    await host.change('grown', (spec) => ({ ...spec, maxMemoryMib: 512 }));
    await host.done(host.client.vm.start({ params: { vm: 'grown' }, query }));
    await host.untilUp('grown');
    await host.change('grown', (spec) => ({ ...spec, memoryMib: spec.memoryMib + 128 }));
    const forked = host.client.vm.fork({ params: { vm: 'grown' }, query, body: { name: 'refused' } });
    await assert.rejects(forked, /memory was changed while it ran; after a restart it can be/);
    await inGuest(host, 'grown', 'true');
  });
});
