// The daemon dies and comes back while its guests live on: what it finds then is what happened.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readFile, writeFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { join } from 'node:path';
import { suite, test } from 'node:test';
import { type Vm } from '../../src/api/vm.ts';
import { QmpClient } from '../../src/drivers/qemu/qmp/client.ts';
import { isAlive, identifyProcess } from '../../src/host/process.ts';
import { qemuDaemon, type QemuDaemon } from '../support/qemu-daemon.ts';
import { groupsOf } from '../support/qemu-guest.ts';
import { eventually } from '../support/wait.ts';

const query = { project: 'default' } as const;

/** What the kernel does when the memory of this group has run out is wanted: leaves it a little more than it has. */
async function limitMemory(vm: Vm, moreBytes: number): Promise<void> {
  const [folder] = (await groupsOf(vm.id)).filter(
    (path) => /\/memory\//.test(path) || !/\/sys\/fs\/cgroup\/\w+\//.test(path),
  );
  assert.ok(folder, 'its group is in a hierarchy with the memory controller');
  const isV1 = folder.includes('/memory/');
  const usage = join(folder, isV1 ? 'memory.usage_in_bytes' : 'memory.current');
  const limit = join(folder, isV1 ? 'memory.limit_in_bytes' : 'memory.max');
  // A guest that takes memory between the two makes the kernel refuse a limit that is below its use (EBUSY).
  await eventually(
    async () => {
      await writeFile(limit, String(Number(await readFile(usage, 'utf8')) + moreBytes));
      return true;
    },
    { describe: 'the limit is taken' },
  );
}

async function untilGone(pid: number, what: string): Promise<void> {
  await eventually(() => identifyProcess(pid) === null, { timeoutMs: 60_000, describe: what });
}

/** Asks a guest's QEMU while there is no daemon that holds its monitor. */
async function runState(host: QemuDaemon, vm: Vm): Promise<string> {
  const qmp = await QmpClient.connect(join(host.daemon.folder, 'data/vms', vm.id, 'qemu/qmp.sock'));
  try {
    return (await qmp.execute('query-status')).status;
  } finally {
    qmp.close();
  }
}

suite('after a SIGKILL of the daemon', { timeout: 300_000 }, () => {
  test('it controls its guests again and knows what has become of each', async (context) => {
    const host = await qemuDaemon(context);
    const { daemon } = host;
    const lasting = await host.create('lasting', { nics: [{ network: 'user' }] });
    const leaving = await host.create('leaving');
    const killed = await host.create('killed');
    await host.create('paused');
    const paused = await host.client.vm.pause({ params: { vm: 'paused' }, query });
    await host.untilUp('lasting');
    await host.untilUp('leaving');
    const hungry = await host.create('hungry');
    // It powers itself off when nobody is there to see it.
    await host.exec('leaving', ['sh', '-c', '(sleep 2; poweroff) >/dev/null 2>&1 &']);

    await daemon.kill();
    process.kill(killed.status.pid!, 'SIGKILL');
    await limitMemory(hungry, 1024 ** 2);
    await untilGone(killed.status.pid!, 'the killed guest is gone');
    await untilGone(hungry.status.pid!, 'the guest that has no memory left is gone');
    await eventually(async () => (await runState(host, leaving)) === 'shutdown', {
      timeoutMs: 60_000,
      describe: 'the guest has powered itself off',
    });
    const identity = identifyProcess(lasting.status.pid!);
    assert.ok(identity);
    const began = performance.now();
    await daemon.start();
    assert.ok(performance.now() - began < 30_000);

    const now = async (name: string): Promise<Vm['status']> => (await host.vm(name)).status;
    assert.equal((await now('lasting')).state, 'running');
    assert.equal((await now('lasting')).pid, lasting.status.pid);
    assert.ok(isAlive(identity), 'the same process, with not a moment’s break');
    assert.deepEqual((await now('lasting')).pinned, lasting.status.pinned);
    assert.equal((await now('paused')).state, 'paused');
    assert.equal((await now('paused')).pid, paused.status.pid);

    const ends = { leaving: 'guest-shutdown', killed: 'hypervisor-died', hungry: 'out-of-memory' } as const;
    for (const [name, cause] of Object.entries(ends)) {
      const vm = await host.until(name, `ended as ${cause}`, ({ status }) => status.state === 'stopped', 10_000);
      assert.equal(vm.status.lastExit?.cause, cause, vm.status.lastExit?.message);
      assert.equal(vm.status.pid, null);
      const types = (await host.events(vm)).map(({ type }) => type);
      assert.ok(types.includes(`vm.${cause}`), `${name}: ${types.join()}`);
      assert.deepEqual(await groupsOf(vm.id), [], `${name} has no group left`);
    }

    // It is not only seen: it obeys, and talks.
    assert.equal((await host.exec('lasting', ['echo', 'still here'])).output, 'still here\n');
    await host.untilUp('lasting');
    await host.client.vm.resume({ params: { vm: 'paused' }, query });
    assert.equal((await now('paused')).state, 'running');
    await host.done(host.client.vm.stop({ params: { vm: 'lasting' }, query, body: { timeoutS: 60 } }));
    assert.equal((await now('lasting')).lastExit?.cause, 'stopped');
    await host.done(host.client.vm.start({ params: { vm: 'killed' }, query }));
    assert.equal((await now('killed')).state, 'running');
  });

  test('a guest of which it knows nothing is ended', async (context) => {
    const host = await qemuDaemon(context);
    const { daemon } = host;
    const vm = await host.create('forgotten');
    await daemon.stop();
    assert.ok(identifyProcess(vm.status.pid!), 'a daemon that stops leaves its guests alone');
    // Another database: what an operator has who restores an old one.
    await writeFile(
      daemon.configPath,
      (await readFile(daemon.configPath, 'utf8')).replace(/"dataDir": "([^"]+)"/, '"dataDir": "$1-restored"'),
    );
    await daemon.start();
    await untilGone(vm.status.pid!, 'the unknown guest is ended');
    const { items } = await host.client.event.list({ query: {} });
    assert.ok(items.some(({ type, subject }) => type === 'vm.orphan-ended' && subject?.id === vm.id));
    assert.deepEqual(await groupsOf(vm.id), []);
  });
});

test('an end by the out-of-memory killer is told as what it was', { timeout: 120_000 }, async (context) => {
  const host = await qemuDaemon(context);
  const vm = await host.create('hungry');
  await limitMemory(vm, 1024 ** 2);
  const ended = await host.until('hungry', 'has ended', ({ status }) => status.state === 'stopped');
  assert.equal(ended.status.lastExit?.cause, 'out-of-memory', ended.status.lastExit?.message);
  assert.match(ended.status.lastExit.message, /memory/);
  // The group with the limit went with it.
  await host.done(host.client.vm.start({ params: { vm: 'hungry' }, query }));
  assert.equal((await host.vm('hungry')).status.state, 'running');
});

test('a monitor that hangs is regained when it answers again', { timeout: 120_000 }, async (context) => {
  const host = await qemuDaemon(context);
  const vm = await host.create('frozen');
  const pid = vm.status.pid!;
  process.kill(pid, 'SIGSTOP');
  context.after(() => identifyProcess(pid) && process.kill(pid, 'SIGCONT'));
  await host.daemon.kill();
  // The socket of a stopped process still takes connections; nobody greets.
  await host.daemon.start();
  const waiting = await host.vm('frozen');
  assert.equal(waiting.status.state, 'running', 'what can not be asked is as it was last seen');
  assert.match(waiting.status.reason, /^Control over it was lost, and is being regained/);
  assert.match(await host.daemon.log(), /"late":1/, 'it was ready without having waited for it');
  assert.ok(identifyProcess(pid), 'and is not taken for dead');
  process.kill(pid, 'SIGCONT');
  await eventually(
    async () => (await host.client.vm.pause({ params: { vm: 'frozen' }, query })).status.state === 'paused',
    { timeoutMs: 60_000, describe: 'it obeys again' },
  );
  const types = (await host.events(vm)).map(({ type }) => type);
  assert.deepEqual(
    types.filter((type) => type.startsWith('vm.control')),
    ['vm.control-lost', 'vm.control-regained'],
  );
});

test('a console that was open ends with the daemon, and can be opened again', { timeout: 120_000 }, async (context) => {
  const host = await qemuDaemon(context);
  const vm = await host.create('talking');
  const path = join(host.daemon.folder, 'data/vms', vm.id, 'qemu/serial.sock');
  const open = async (): Promise<{ ended: Promise<unknown>; send: () => void }> => {
    const { path: ticketPath } = await host.client.vm.openConsole({ params: { vm: 'talking' }, query, body: {} });
    const { stream, closed } = await host.daemon.connection.openWebSocket(ticketPath);
    stream.on('error', () => {});
    stream.resume();
    return { ended: closed, send: () => void stream.write('\n') };
  };
  const first = await open();
  await host.daemon.kill();
  await first.ended;
  await host.daemon.start();
  const second = await open();
  second.send();
  // QEMU serves one client at a time: had the first connection stayed, the second would hang in the queue.
  const probe = connect(path);
  await once(probe, 'connect');
  probe.destroy();
  await host.daemon.stop();
  await second.ended;
});
