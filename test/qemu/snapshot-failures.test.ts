// Snapshots of real guests where something is in the way: no space left, a kernel that can't follow what the guest writes,
// a disk that may only be read, somebody who forgets that the VM runs. The guest goes on, and nothing is half-made.
import assert from 'node:assert/strict';
import { mkdir, readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { LodgeError } from '../../src/api/errors.ts';
import { type Snapshot } from '../../src/api/snapshot.ts';
import { run } from '../../src/host/command.ts';
import { readDiskSpace } from '../../src/host/machine.ts';
import { atEnd } from '../support/cleanup.ts';
import { qemuDaemon, type QemuDaemon } from '../support/qemu-daemon.ts';
import { eventually } from '../support/wait.ts';

const mib = 2 ** 20;
const params = { vm: 'web1' };

interface Scene {
  host: QemuDaemon;
  sh: (script: string) => Promise<string>;
  take: (name: string, body?: object) => Promise<Snapshot>;
  /** Fills the daemon's file system until this much is free. */
  leave: (freeMib: number) => Promise<void>;
  volumeFiles: () => Promise<string[]>;
}

/** A daemon whose data are in a small file system of their own, and which can't use userfaultfd, with a guest. */
async function scene(t: TestContext): Promise<Scene> {
  const host = await qemuDaemon(t, { isStarted: false, withoutUserfaultfd: true });
  const { client } = host;
  const data = join(host.daemon.folder, 'data');
  await mkdir(data, { recursive: true });
  await run(['mount', '-t', 'tmpfs', '-o', 'size=600m,mode=0711', 'lodge-test', data]);
  atEnd(t, () => run(['umount', '--lazy', data]));
  await host.daemon.start();
  await host.provide();
  await client.volume.create({ body: { name: 'shared', spec: { sizeMib: 16 } } });
  await eventually(async () => (await client.volume.get({ params: { volume: 'shared' } })).status.state === 'ready', {
    timeoutMs: 60_000,
    describe: 'the volume is there',
  });
  await host.create('web1', {
    disks: [
      { name: 'data', sizeMib: 64 },
      { name: 'shared', volume: 'shared', isReadOnly: true },
    ],
  });
  await eventually(() => client.vm.guestInfo({ params }), { timeoutMs: 90_000, describe: 'the agent answers' });
  const filler = join(data, 'filler');
  return {
    host,
    sh: async (script) => {
      const { output, code } = await host.exec('web1', ['sh', '-c', script]);
      assert.equal(code, 0, output);
      return output.trim();
    },
    take: async (name, body = {}) => {
      await host.done(client.snapshot.create({ params, body: { name, ...body } }));
      return client.snapshot.get({ params: { ...params, snapshot: name } });
    },
    leave: async (freeMib) => {
      await rm(filler, { force: true });
      const { freeBytes } = await readDiskSpace(data);
      await run(['fallocate', '-l', String(freeBytes - freeMib * mib), filler]);
    },
    volumeFiles: () => readdir(join(data, 'volumes')),
  };
}

async function refused(call: Promise<unknown>): Promise<LodgeError> {
  const error = await call.then(
    () => null,
    (reason: unknown) => reason,
  );
  assert.ok(error instanceof LodgeError, `it was not refused: ${String(error)}`);
  return error;
}

const write = (atMib: number, letter: string): string =>
  `yes ${letter} | head -c ${mib} | dd of=/dev/vda bs=1M seek=${atMib} conv=fsync 2>/dev/null`;
const read = (device: string, atMib: number): string =>
  `echo 3 > /proc/sys/vm/drop_caches; dd if=/dev/${device} bs=1M skip=${atMib} count=1 2>/dev/null | head -c 1 | tr '\\0' -`;

test('what stands in the way of a snapshot is said with numbers, and the guest goes on', async (t) => {
  const { host, sh, take, leave, volumeFiles } = await scene(t);
  const { client } = host;
  await sh(write(0, 'a'));

  await t.test('no space: neither for its disks nor for its memory, and nothing is half-made', async () => {
    const before = await volumeFiles();
    await leave(20);
    const disks = await refused(client.snapshot.create({ params, body: { name: 'full' } }));
    assert.equal(disks.code, 'storage_full');
    assert.match(disks.message, /(19|20) MiB free of 600; 64 MiB/);
    await leave(150);
    const memory = await refused(client.snapshot.create({ params, body: { name: 'full', withMemory: true } }));
    assert.equal(memory.code, 'storage_full');
    assert.match(memory.message, /may take 192 MiB, and (149|150) MiB are free/);
    assert.deepEqual(await volumeFiles(), before);
    assert.deepEqual((await client.snapshot.list({ params })).items, []);
    await sh(write(1, 'b'));
    assert.equal(await sh(read('vda', 1)), 'b');
    await leave(400);
  });

  await t.test('a disk that may only be read is in it, and stays so; its layers are merged as others are', async () => {
    const snapshot = await take('disks');
    assert.deepEqual(
      snapshot.status.disks.map(({ name }) => name),
      ['data', 'shared'],
    );
    assert.equal(await sh('cat /sys/block/vdb/ro'), '1');
    assert.equal(await sh(read('vdb', 0)), '-');
    const clone = { name: 'web2' };
    await host.done(client.vm.clone({ params, body: clone }));
    assert.equal((await host.vm('web2')).status.disks.length, 2);
    await host.done(client.vm.delete({ params: { vm: 'web2' } }));
    await host.done(client.snapshot.delete({ params: { ...params, snapshot: 'disks' } }));
    await eventually(async () => (await volumeFiles()).length === 2, {
      timeoutMs: 90_000,
      describe: 'each disk has one layer again',
    });
    assert.equal(await sh(`${read('vdb', 0)}; ${read('vda', 1)}`), '-b');
    assert.equal((await host.vm('web1')).status.state, 'running');
  });

  await t.test(
    'a kernel that can’t follow the guest’s writes: it stands still until its memory is saved',
    async (test) => {
      await sh(
        '(i=0; while true; do i=$((i+1)); echo $i > /tmp/next; mv /tmp/next /tmp/count; done) >/dev/null 2>&1 &',
      );
      const count = async (): Promise<number> => Number(await sh('cat /tmp/count 2>/dev/null; true'));
      await eventually(async () => (await count()) > 20, { timeoutMs: 60_000, describe: 'the guest counts' });
      const { status } = await take('memory', { withMemory: true });
      test.diagnostic(`it stood still for ${Math.round(status.pauseMs ?? -1)} ms: ${status.consistencyReason}`);
      assert.equal(status.consistency, 'memory');
      assert.match(status.consistencyReason, /can’t follow what the guest writes.*so the guest stood still/);
      assert.ok(status.pauseMs !== null && status.pauseMs > 0);
      const after = await count();
      await sh(write(1, 'x'));
      await eventually(async () => (await count()) > after, { timeoutMs: 60_000, describe: 'it counts on' });

      const revert = (body: object): ReturnType<typeof client.snapshot.revert> =>
        client.snapshot.revert({ params: { ...params, snapshot: 'memory' }, body });
      const running = await refused(revert({}));
      assert.equal(running.code, 'wrong_state');
      assert.match(running.hint, /--force/);
      assert.equal(await sh(read('vda', 1)), 'x', 'the guest was left alone');

      await host.done(revert({ force: true }));
      await eventually(() => client.vm.guestInfo({ params }), { timeoutMs: 90_000, describe: 'the agent answers' });
      assert.equal(await sh(read('vda', 1)), 'b');
      const back = await count();
      await eventually(async () => (await count()) > back, { timeoutMs: 60_000, describe: 'it counts on from then' });
    },
  );
});
