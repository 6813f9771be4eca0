// Snapshots of real guests over the API: what the disks and the memory hold after a revert is what they held then, and a
// snapshot goes out of the middle of a chain while the guest writes to it.
import assert from 'node:assert/strict';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { type Snapshot } from '../../src/api/snapshot.ts';
import { type Task } from '../../src/api/task.ts';
import { qemuDaemon } from '../support/qemu-daemon.ts';
import { eventually } from '../support/wait.ts';

test('a guest goes back to its disks and to its memory, and loses nothing when a snapshot is deleted', async (t) => {
  const host = await qemuDaemon(t);
  const { client } = host;
  const params = { vm: 'web1' };
  const done = (task: Promise<Task>): Promise<Task> => host.done(task);
  const sh = async (script: string): Promise<string> => {
    const { output, code } = await host.exec('web1', ['sh', '-c', script]);
    assert.equal(code, 0, output);
    return output.trim();
  };
  const take = async (name: string, body = {}): Promise<Snapshot> => {
    await done(client.snapshot.create({ params, body: { name, ...body } }));
    return client.snapshot.get({ params: { ...params, snapshot: name } });
  };
  const write = (atMib: number, letter: string): Promise<string> =>
    sh(`yes ${letter} | head -c 1048576 | dd of=/dev/vda bs=1M seek=${atMib} conv=fsync 2>/dev/null`);
  const read = (): Promise<string> =>
    sh(
      'echo 3 > /proc/sys/vm/drop_caches; for i in 0 1 2; do dd if=/dev/vda bs=1M skip=$i count=1 2>/dev/null | head -c 1; done',
    );
  // The guest empties the file before each number that it writes.
  const count = async (): Promise<number> =>
    Number(await sh('until n=$(cat /tmp/count) && [ -n "$n" ]; do :; done; echo $n'));
  const untilAgent = (): Promise<unknown> =>
    eventually(() => client.vm.guestInfo({ params }), { timeoutMs: 90_000, describe: 'the agent answers' });

  await host.create('web1', { memoryMib: 256, disks: [{ name: 'data', sizeMib: 64 }] });
  await untilAgent();
  await write(0, 'a');
  const disks = await take('disks');
  assert.equal(disks.status.state, 'ready');
  assert.ok(['application', 'crash'].includes(disks.status.consistency ?? ''), disks.status.consistencyReason);
  t.diagnostic(`disks only: ${disks.status.consistency}, ${disks.status.consistencyReason}`);

  await sh('(i=0; while true; do i=$((i+1)); echo $i > /tmp/count; done) >/dev/null 2>&1 &');
  await write(1, 'b');
  await eventually(async () => (await count()) > 100, {
    timeoutMs: 60_000,
    describe: 'the guest counts',
  });
  const memory = await take('memory', { withMemory: true });
  t.diagnostic(`with memory: the guest stood still for ${Math.round(memory.status.pauseMs ?? -1)} ms`);
  t.diagnostic(memory.status.consistencyReason);
  assert.equal(memory.status.consistency, 'memory');
  assert.equal(memory.status.parentId, disks.id);
  const countAfter = await count();
  await write(0, 'x');
  await write(2, 'c');
  await eventually(async () => (await count()) > countAfter + 500, {
    timeoutMs: 60_000,
    describe: 'the guest has counted on',
  });

  await done(client.snapshot.revert({ params: { ...params, snapshot: 'memory' }, body: { force: true } }));
  await untilAgent();
  const counted = await count();
  assert.ok(counted > 100, `it goes on counting from where it was (${counted})`);
  assert.match(await sh('cat /proc/uptime'), /^\d/);
  assert.equal((await read()).slice(0, 2), 'ab', 'the disk is that of the same moment');
  await eventually(async () => (await count()) > counted, {
    timeoutMs: 60_000,
    describe: 'it counts on',
  });

  // Out of the middle of the chain, while the guest writes.
  await take('last', { quiesce: 'never' });
  await sh(
    '(n=0; while [ ! -e /tmp/stop ]; do n=$((n+1)); printf "%08d" $n | dd of=/dev/vda bs=1M seek=20 conv=fsync,notrunc 2>/dev/null; echo $n > /tmp/last; done; touch /tmp/done) >/dev/null 2>&1 &',
  );
  for (const name of ['memory', 'disks']) await done(client.snapshot.delete({ params: { ...params, snapshot: name } }));
  const last = await sh(
    'touch /tmp/stop; while [ ! -e /tmp/done ]; do sleep 0.1; done; printf "%08d" $(cat /tmp/last)',
  );
  assert.equal((await read()).slice(0, 2), 'ab');
  assert.equal(
    await sh('echo 3 > /proc/sys/vm/drop_caches; dd if=/dev/vda bs=1M skip=20 count=1 2>/dev/null | head -c 8'),
    last,
    'what the guest wrote meanwhile is there',
  );
  await eventually(async () => (await readdir(join(host.daemon.folder, 'data/volumes'))).length === 2, {
    timeoutMs: 60_000,
    describe: 'two layers are left',
  });

  await done(client.vm.forceOff({ params }));
  await done(client.snapshot.revert({ params: { ...params, snapshot: 'last' }, body: { start: true } }));
  await untilAgent();
  assert.equal((await read()).slice(0, 2), 'ab');
  await done(client.vm.delete({ params, query: { force: true } }));
  assert.deepEqual(await readdir(join(host.daemon.folder, 'data/volumes')), []);
});
