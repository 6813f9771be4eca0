// Volumes over the API, with real files: made, grown, attached, freed and deleted, and what is refused.
import assert from 'node:assert/strict';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { suite, test } from 'node:test';
import { type Volume } from '../../src/api/volume.ts';
import { run } from '../../src/host/command.ts';
import { type TestDaemon } from '../support/daemon.ts';
import {
  assertRefused,
  done,
  makeVm,
  readVm,
  sharedFakeLodge,
  startFakeLodge,
  untilState,
} from '../support/fake-lodge.ts';

const lodge = sharedFakeLodge();

function read(daemon: TestDaemon, volume: string): Promise<Volume> {
  return daemon.client.volume.get({ params: { volume } });
}

async function make(daemon: TestDaemon, name: string, spec: object = { sizeMib: 8 }): Promise<Volume> {
  await done(daemon, daemon.client.volume.create({ body: { name, spec } }));
  return read(daemon, name);
}

function fileOf(daemon: TestDaemon, volume: Volume): string {
  return join(daemon.folder, 'data/volumes', `${volume.id}.${volume.spec.format}`);
}

async function sizeInFile(daemon: TestDaemon, volume: Volume): Promise<number> {
  const { stdout } = await run(['qemu-img', 'info', '--output=json', '-f', volume.spec.format, fileOf(daemon, volume)]);
  return (JSON.parse(stdout) as { 'virtual-size': number })['virtual-size'] / 2 ** 20;
}

suite('a volume', () => {
  for (const format of ['qcow2', 'raw'] as const) {
    test(`of format ${format} is a file of its size, grows, never shrinks, and goes`, async (t) => {
      const { daemon } = await lodge(t);
      const params = { volume: 'data' };
      const made = await make(daemon, 'data', { sizeMib: 8, format });
      assert.deepEqual([made.status.state, made.status.virtualSizeMib, made.status.usedBy], ['ready', 8, null]);
      assert.equal(await sizeInFile(daemon, made), 8);
      const body = { revision: made.revision, labels: { a: 'b' }, spec: { ...made.spec, sizeMib: 16 } };
      const grown = await daemon.client.volume.update({ params, body });
      assert.equal(grown.status.virtualSizeMib, 16);
      assert.deepEqual(grown.labels, { a: 'b' });
      assert.equal(await sizeInFile(daemon, made), 16);
      await assertRefused(daemon, daemon.client.volume.update({ params, body }), 'revision_conflict');
      const smaller = { spec: { ...made.spec, sizeMib: 8 } };
      await assertRefused(
        daemon,
        daemon.client.volume.update({ params, body: smaller }),
        'invalid_request',
        'spec.sizeMib',
      );
      const other = { spec: { ...grown.spec, format: format === 'raw' ? ('qcow2' as const) : ('raw' as const) } };
      await assertRefused(
        daemon,
        daemon.client.volume.update({ params, body: other }),
        'invalid_request',
        'spec.format',
      );
      await done(daemon, daemon.client.volume.delete({ params }));
      assert.deepEqual(await readdir(join(daemon.folder, 'data/volumes')), []);
      await assertRefused(daemon, read(daemon, 'data'), 'not_found');
    });
  }

  test('that can not be made is refused, and leaves nothing', async (t) => {
    const { daemon } = await lodge(t);
    const create = (spec: object): Promise<unknown> => daemon.client.volume.create({ body: { name: 'data', spec } });
    await assertRefused(daemon, create({}), 'invalid_request', 'spec.sizeMib');
    await assertRefused(
      daemon,
      create({ sizeMib: 67_108_864, format: 'raw' }),
      'insufficient_resources',
      'spec.sizeMib',
    );
    await assertRefused(daemon, create({ image: 'nothing' }), 'not_found');
    assert.deepEqual(await readdir(join(daemon.folder, 'data/volumes')), []);
    await make(daemon, 'data');
    await assertRefused(daemon, create({ sizeMib: 1 }), 'name_taken');
    await assertRefused(
      daemon,
      daemon.client.volume.update({
        params: { volume: 'data' },
        body: { spec: { sizeMib: 67_108_864, image: 'nothing' } },
      }),
      'invalid_request',
      'spec.image',
    );
  });

  test('serves one VM at a time, is not deleted under it, and is free when the VM is gone', async (t) => {
    const { daemon } = await lodge(t);
    const { client } = daemon;
    const volume = await make(daemon, 'data');
    const disks = [{ name: 'data', volume: 'data' }];
    const vm = await makeVm(daemon, 'web1', { disks }, { start: true });
    assert.equal(vm.status.disks[0]?.volume, volume.id);
    const used = await read(daemon, 'data');
    assert.deepEqual([used.status.usedBy?.name, used.status.isOwnedByVm], ['web1', false]);
    const second = client.vm.create({ body: { name: 'web2', spec: { nics: [], disks } } });
    assert.match((await assertRefused(daemon, second, 'in_use')).message, /web1/);
    await assertRefused(daemon, client.volume.delete({ params: { volume: 'data' } }), 'in_use');
    const larger = { spec: { ...volume.spec, sizeMib: 32 } };
    const grown = await client.volume.update({ params: { volume: 'data' }, body: larger });
    assert.equal(grown.status.virtualSizeMib, 32, 'also while the VM runs, by its hypervisor');
    assert.equal(await sizeInFile(daemon, grown), 32);
    const { status } = await readVm(daemon, 'web1');
    assert.deepEqual([status.state, status.disks[0]?.sizeMib, status.pendingChanges], ['running', 32, []]);
    await done(daemon, client.vm.stop({ params: { vm: 'web1' }, body: {} }));
    await client.volume.update({ params: { volume: 'data' }, body: { spec: { ...volume.spec, sizeMib: 48 } } });
    await done(daemon, client.vm.delete({ params: { vm: 'web1' } }));
    assert.equal((await read(daemon, 'data')).status.usedBy, null);
    await makeVm(daemon, 'web2', { disks });
  });

  test('that was made with its VM goes with it, and its name is not taken from another', async (t) => {
    const { daemon } = await lodge(t);
    const { client } = daemon;
    await makeVm(daemon, 'web1', { disks: [{ name: 'data', sizeMib: 2 }] });
    const own = await read(daemon, 'web1-data');
    assert.deepEqual([own.status.usedBy?.name, own.status.isOwnedByVm], ['web1', true]);
    const larger = { spec: { ...own.spec, sizeMib: 4 } };
    const refused = client.volume.update({ params: { volume: 'web1-data' }, body: larger });
    assert.match((await assertRefused(daemon, refused, 'in_use')).hint, /lodge vm disk resize web1/);
    await done(daemon, client.vm.delete({ params: { vm: 'web1' } }));
    assert.deepEqual((await client.volume.list()).items, []);
    await make(daemon, 'web1-data');
    const again = client.vm.create({
      body: { name: 'web1', spec: { nics: [], disks: [{ name: 'data', sizeMib: 2 }] } },
    });
    await assertRefused(daemon, again, 'name_taken');
    await assertRefused(daemon, readVm(daemon, 'web1'), 'not_found');
    assert.equal((await read(daemon, 'web1-data')).status.usedBy, null);
  });

  test('and a VM that takes it at the moment of its deletion: one of the two is refused', async (t) => {
    const { daemon } = await lodge(t);
    const { client } = daemon;
    for (let round = 0; round < 4; round++) {
      const volume = `data${round}`;
      await make(daemon, volume);
      const disks = [{ name: 'data', volume }];
      const [made, deleted] = await Promise.allSettled([
        client.vm.create({ body: { name: `web${round}`, spec: { nics: [], disks } } }),
        client.volume.delete({ params: { volume } }),
      ]);
      assert.notEqual(made.status, deleted.status, `round ${round}: ${made.status}`);
      if (made.status === 'fulfilled') await done(daemon, made.value);
      if (deleted.status === 'fulfilled') await done(daemon, deleted.value);
    }
  });

  test('is grown by several at once to the largest size that was asked for', async (t) => {
    const { daemon } = await lodge(t);
    const made = await make(daemon, 'data');
    const sizes = [32, 16, 24, 40];
    await Promise.allSettled(
      sizes.map((sizeMib) =>
        daemon.client.volume.update({ params: { volume: 'data' }, body: { spec: { ...made.spec, sizeMib } } }),
      ),
    );
    const grown = await read(daemon, 'data');
    assert.equal(grown.status.virtualSizeMib, 40);
    assert.equal(await sizeInFile(daemon, grown), 40);
  });
});

test('after a kill, volumes that were never finished and files of none are gone, the others as they were', async (t) => {
  const { daemon } = await startFakeLodge(t);
  const { client } = daemon;
  const kept = await make(daemon, 'kept');
  await makeVm(daemon, 'web1', { disks: [{ name: 'data', sizeMib: 2 }] }, { start: true });
  const creations = ['a', 'b', 'c'].map((name) =>
    client.volume.create({ body: { name, spec: { sizeMib: 4 } } }).catch(() => null),
  );
  const deletion = client.volume.delete({ params: { volume: 'kept' } }).catch(() => null);
  await Promise.race([...creations, deletion]);
  await daemon.restart('kill');
  await untilState(daemon, 'web1', 'running');
  const tasks = (await client.task.list()).items;
  assert.ok(tasks.length > 0);
  for (const { id } of (await daemon.client.task.list()).items)
    await done(daemon, daemon.client.task.get({ params: { task: id } }));
  const volumes = (await daemon.client.volume.list()).items;
  assert.ok(volumes.every((volume) => volume.status.state === 'ready'));
  // Who was told that it is being deleted finds it gone.
  if ((await deletion) !== null) assert.ok(!volumes.some((volume) => volume.id === kept.id));
  assert.deepEqual(
    (await readdir(join(daemon.folder, 'data/volumes'))).toSorted(),
    volumes.map((volume) => `${volume.id}.qcow2`).toSorted(),
  );
});
