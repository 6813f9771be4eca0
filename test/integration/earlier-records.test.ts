// What an earlier version kept must go on to work: the records of a daemon of each released form (test/support/records), as
// they were in its store, are given to the daemon of today. Never edit those files: a field that they lack is what the
// test is about.
import assert from 'node:assert/strict';
import { mkdir, readdir, readFile } from 'node:fs/promises';
import { hostname } from 'node:os';
import { dirname, join } from 'node:path';
import { suite, test } from 'node:test';
import { silentLog } from '../../src/daemon/store/informer.ts';
import { SqliteStore } from '../../src/daemon/store/sqlite.ts';
import { recordForms } from '../../src/daemon/record-forms.ts';
import { upgradeRecords } from '../../src/daemon/store/upgrade.ts';
import { run } from '../../src/host/command.ts';
import { prepareDaemon, type TestDaemon } from '../support/daemon.ts';
import { done, untilState } from '../support/fake-lodge.ts';
import { networkNamespace } from '../support/namespace.ts';
import { temporaryFolder, type Cleanup } from '../support/temporary.ts';

const recordsFolder = join(import.meta.dirname, '../support/records');
const versions = (await readdir(recordsFolder)).map((file) => file.replace(/\.json$/, ''));

interface KeptLayer {
  file: string;
  parentId: string | null;
  imageId: string | null;
}

/** The records of a version, for a daemon in this folder. */
async function readRecords(version: string, folder: string): Promise<Map<string, string>> {
  const text = await readFile(join(recordsFolder, `${version}.json`), 'utf8');
  const here = text
    .replaceAll('@DATA@', join(folder, 'data'))
    .replaceAll('@ROOT@', folder)
    .replaceAll('@NODE@', hostname());
  const records = Object.entries(JSON.parse(here) as Record<string, unknown>);
  return new Map(records.map(([key, value]) => [key, typeof value === 'string' ? value : JSON.stringify(value)]));
}

async function writeStore(file: string, records: ReadonlyMap<string, string>): Promise<SqliteStore> {
  const store = await SqliteStore.open({ file });
  const operations = Array.from(records, ([key, value]) => ({ put: key, value }));
  while (operations.length > 0) await store.transact({ success: operations.splice(0, 50) });
  return store;
}

/** Empty disks where the records say that there are some. */
async function makeDisks(data: string, records: ReadonlyMap<string, string>): Promise<void> {
  const image = (id: string): string => join(data, 'images', id, 'disk.qcow2');
  for (const key of records.keys()) {
    const id = /^\/lodge\/images\/(.+)$/.exec(key)?.[1];
    if (id === undefined) continue;
    await mkdir(dirname(image(id)), { recursive: true });
    await run(['qemu-img', 'create', '-q', '-f', 'qcow2', image(id), '16M']);
  }
  await mkdir(join(data, 'volumes'), { recursive: true });
  // An id begins with its time, so a parent comes before its children.
  for (const [key, value] of records) {
    if (!key.startsWith('/lodge/layers/')) continue;
    const { file, parentId, imageId } = JSON.parse(value) as KeptLayer;
    const below = parentId === null ? null : join(data, 'volumes', `${parentId}.qcow2`);
    const backing = imageId === null ? below : image(imageId);
    const onTopOf = backing === null ? [] : ['-b', backing, '-F', 'qcow2'];
    await run(['qemu-img', 'create', '-q', '-f', 'qcow2', ...onTopOf, join(data, 'volumes', file), '32M']);
  }
}

async function startWithRecords(t: Cleanup, version: string): Promise<TestDaemon> {
  const daemon = await prepareDaemon(t, { driver: 'fake', namespace: await networkNamespace(t) });
  const data = join(daemon.folder, 'data');
  const records = await readRecords(version, daemon.folder);
  await makeDisks(data, records);
  const store = await writeStore(join(data, 'lodge.db'), records);
  await store.close();
  await daemon.start();
  return daemon;
}

for (const version of versions) {
  suite(`what Lodge ${version} kept`, () => {
    test('is shown, starts, goes back to its snapshots, serves as a template, and can be deleted', async (t) => {
      const daemon = await startWithRecords(t, version);
      const { client } = daemon;
      const { items: vms } = await client.vm.list({});
      assert.deepEqual(vms.map(({ name }) => name).toSorted(), ['db1', 'db2', 'web1', 'web2']);
      const params = { vm: 'web1' };
      const [web1] = [await client.vm.get({ params })];
      assert.deepEqual([web1.spec.cpu.count, web1.spec.memoryMib, web1.spec.profiles], [2, 256, ['web']]);
      assert.ok(!(await daemon.log()).includes('not in the form of this version'));
      for (const list of [
        'image',
        'volume',
        'network',
        'template',
        'profile',
        'instanceType',
        'group',
        'task',
      ] as const) {
        assert.ok((await client[list].list({})).items.length > 0, list);
      }
      const { items: snapshots } = await client.snapshot.list({ params });
      assert.deepEqual(snapshots.map(({ name }) => name).toSorted(), ['s1', 's2']);

      await client.vm.update({ params, body: { spec: { ...web1.spec, description: 'kept' } } });
      await done(daemon, client.vm.start({ params: { vm: 'db1' } }));
      await untilState(daemon, 'db1', 'running');
      await done(daemon, client.snapshot.revert({ params: { ...params, snapshot: 's1' }, body: { force: true } }));
      const deploy = { name: 'of-template', isStarted: true };
      await done(daemon, client.template.deploy({ params: { template: 'base-t' }, body: deploy }));
      await untilState(daemon, 'of-template', 'running');
      for (const { name } of (await client.vm.list({})).items) {
        await done(daemon, client.vm.delete({ params: { vm: name }, query: { force: true } }));
      }
    });

    test('is brought into the form of today once, and is not touched at the next start', async (t) => {
      const folder = await temporaryFolder(t);
      const records = await readRecords(version, folder);
      const store = await writeStore(join(folder, 'lodge.db'), records);
      t.after(() => store.close());
      await upgradeRecords(store, recordForms, silentLog);
      const { revision } = await store.list({ prefix: '/lodge/' });
      assert.equal(await upgradeRecords(store, recordForms, silentLog), 0);
      assert.equal((await store.list({ prefix: '/lodge/' })).revision, revision);
    });
  });
}
