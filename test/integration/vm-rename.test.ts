// A VM gets another name: what is named after it follows, what is not stays, and nothing of the guest is touched.
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { type Vm } from '../../src/api/vm.ts';
import { Collection } from '../../src/daemon/store/collection.ts';
import { SqliteStore } from '../../src/daemon/store/sqlite.ts';
import { initialVmStatus } from '../../src/daemon/vm/vm-records.ts';
import {
  assertRefused,
  done,
  makeVm,
  readGuest,
  readVm,
  sharedFakeLodge,
  startFakeLodge,
  untilEvent,
} from '../support/fake-lodge.ts';
import { eventually } from '../support/wait.ts';

const lodge = sharedFakeLodge();
const params = { vm: 'web1' };

test('a running VM is renamed: DNS, disks and whoever shows it follow, the guest runs on', async (t) => {
  const { daemon } = await lodge(t);
  const { client } = daemon;
  await done(daemon, client.volume.create({ body: { name: 'shared', spec: { sizeMib: 2 } } }));
  const disks = [
    { name: 'data', sizeMib: 2 },
    { name: 'more', volume: 'shared' },
  ];
  const before = await makeVm(daemon, 'web1', { nics: [{ network: 'default' }], disks }, { start: true });
  const network = await client.network.get({ params: { network: 'default' } });
  const hosts = (): Promise<string> => readFile(join(daemon.folder, 'run/networks', network.id, 'hosts'), 'utf8');
  assert.match(await hosts(), /web1/);

  const renamed = await client.vm.rename({ params, body: { name: 'web2' } });
  assert.deepEqual([renamed.id, renamed.name, renamed.status.state], [before.id, 'web2', 'running']);
  assert.ok(await readGuest(daemon, before.id));
  const text = await hosts();
  assert.match(text, /web2/);
  assert.doesNotMatch(text, /web1/);
  const volumes = (await client.volume.list()).items.map(({ name, status }) => [name, status.usedBy]);
  assert.deepEqual(volumes, [
    ['shared', { id: before.id, name: 'web2' }],
    ['web2-data', { id: before.id, name: 'web2' }],
  ]);
  await eventually(async () => {
    const { usedBy } = (await client.network.get({ params: { network: 'default' } })).status;
    return usedBy.join() === 'web2';
  });
  assert.match((await untilEvent(daemon, 'vm.renamed')).message, /web1.*web2/);

  // The old name is free, also for disks called after it, and the renamed one keeps its disks over a start.
  await makeVm(daemon, 'web1', { disks: [{ name: 'data', sizeMib: 2 }] });
  await done(daemon, client.vm.restart({ params: { vm: 'web2' }, body: {} }));
  const after = await readVm(daemon, 'web2');
  assert.deepEqual(after.status.disks, before.status.disks);
});

test('a name that is taken, by a VM or for a disk, is refused, and so is a stale revision', async (t) => {
  const { daemon } = await lodge(t);
  const { client } = daemon;
  const { revision } = await makeVm(daemon, 'web1', { disks: [{ name: 'data', sizeMib: 2 }] });
  await makeVm(daemon, 'web2');
  await assertRefused(daemon, client.vm.rename({ params, body: { name: 'web2' } }), 'name_taken');
  await done(daemon, client.volume.create({ body: { name: 'web3-data', spec: { sizeMib: 2 } } }));
  const taken = await assertRefused(daemon, client.vm.rename({ params, body: { name: 'web3' } }), 'name_taken');
  assert.match(taken.message, /web3-data/);
  const stale = client.vm.rename({ params, body: { name: 'web4', revision: revision + 1000 } });
  await assertRefused(daemon, stale, 'revision_conflict');
  await assertRefused(daemon, client.vm.rename({ params, body: { name: 'Web_4' } }), 'invalid_request', 'name');
  await assertRefused(daemon, client.vm.rename({ params: { vm: 'no' }, body: { name: 'web4' } }), 'not_found');
  assert.equal((await client.vm.rename({ params, body: { name: 'web1' } })).revision, revision);
  assert.deepEqual((await client.volume.list()).items.map(({ name }) => name).toSorted(), ['web1-data', 'web3-data']);
});

test('a daemon that died between the VM’s new name and those of its disks goes on with them', async (t) => {
  const { daemon } = await startFakeLodge(t);
  const { id } = await makeVm(daemon, 'web1', { disks: [{ name: 'data', sizeMib: 2 }] });
  await daemon.stop();
  const store = await SqliteStore.open({ file: join(daemon.folder, 'data/lodge.db') });
  const vms = new Collection<Vm>({
    store,
    noun: 'vm',
    plural: 'vms',
    initialStatus: ({ createdAt }) => initialVmStatus(createdAt),
  });
  await vms.load();
  await vms.update(id, undefined, (draft) => {
    draft.name = 'web2';
  });
  await vms.close();
  await store.close();
  await daemon.start();
  const { items } = await daemon.client.volume.list();
  assert.deepEqual(
    items.map(({ name, status }) => [name, status.usedBy]),
    [['web2-data', { id, name: 'web2' }]],
  );
  await done(daemon, daemon.client.vm.start({ params: { vm: 'web2' } }));
});
