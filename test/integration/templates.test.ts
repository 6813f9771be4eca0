// Templates over the API: versions, VMs of them, and what stays when templates and originals go.
import assert from 'node:assert/strict';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { suite, test } from 'node:test';
import { type Template } from '../../src/api/template.ts';
import { type TestDaemon } from '../support/daemon.ts';
import { assertRefused, done, endOf, makeVm, readVm, sharedFakeLodge, untilState } from '../support/fake-lodge.ts';
import { eventually } from '../support/wait.ts';

const lodge = sharedFakeLodge();
const original = { disks: [{ name: 'data', sizeMib: 4 }], memoryMib: 64, nics: [{ network: 'default' }] };
const params = { template: 'base' };

function read(daemon: TestDaemon): Promise<Template> {
  return daemon.client.template.get({ params });
}

function volumeFiles(daemon: TestDaemon): Promise<string[]> {
  return readdir(join(daemon.folder, 'data/volumes'));
}

suite('a template', () => {
  test('has versions, of which the newest is the default, and VMs of it have its spec with changes', async (t) => {
    const { daemon } = await lodge(t);
    const { client } = daemon;
    await makeVm(daemon, 'web1', original, { start: true });
    await done(daemon, client.template.create({ body: { name: 'base', vm: 'web1' } }));
    const { spec } = await readVm(daemon, 'web1');
    await client.vm.update({ params: { vm: 'web1' }, body: { spec: { ...spec, description: 'second' } } });
    await done(daemon, client.template.addVersion({ params, body: { vm: 'web1' } }));
    const { status } = await read(daemon);
    assert.deepEqual(
      [status.state, ...status.versions.map(({ version, vm, snapshot }) => [version, vm, snapshot])],
      ['ready', [1, 'web1', null], [2, 'web1', null]],
    );
    const changes = { memoryMib: 128, cpu: { count: 2 } };
    await done(daemon, client.template.deploy({ params, body: { name: 'new', changes, isStarted: true } }));
    const made = await untilState(daemon, 'new', 'running');
    assert.deepEqual(
      [made.spec.description, made.spec.memoryMib, made.spec.cpu.count, made.status.disks[0]?.sizeMib],
      ['second', 128, 2, 4],
    );
    assert.deepEqual([made.status.lineage?.kind, made.status.lineage?.parentName], ['template', 'base@2']);
    await done(daemon, client.template.deploy({ params, body: { name: 'old', version: 1, mode: 'full' } }));
    assert.equal((await readVm(daemon, 'old')).spec.description, '');
    await done(daemon, client.template.delete({ params }));
  });

  test('may go while VMs of it are there, and its disks go with the last that needs them', async (t) => {
    const { daemon } = await lodge(t);
    const { client } = daemon;
    await makeVm(daemon, 'web1', original);
    await done(daemon, client.template.create({ body: { name: 'base', vm: 'web1' } }));
    await done(daemon, client.vm.delete({ params: { vm: 'web1' } }));
    await done(daemon, client.template.deploy({ params, body: { name: 'copy', count: 3 } }));
    await done(daemon, client.template.delete({ params }));
    await assertRefused(daemon, read(daemon), 'not_found');
    for (const vm of ['copy-1', 'copy-2', 'copy-3']) {
      await done(daemon, client.vm.start({ params: { vm } }));
      await done(daemon, client.vm.delete({ params: { vm }, query: { force: true } }));
    }
    await eventually(async () => (await volumeFiles(daemon)).length === 0);
  });

  test('is refused by a taken name, without its VM, for a version it has not, and as the last version', async (t) => {
    const { daemon } = await lodge(t);
    const { client } = daemon;
    await makeVm(daemon, 'web1', original);
    await assertRefused(daemon, client.template.create({ body: { name: 'base', vm: 'web0' } }), 'not_found');
    await done(daemon, client.template.create({ body: { name: 'base', vm: 'web1' } }));
    await assertRefused(daemon, client.template.create({ body: { name: 'base', vm: 'web1' } }), 'name_taken');
    await assertRefused(daemon, client.template.deploy({ params, body: { name: 'x', version: 7 } }), 'not_found');
    await assertRefused(daemon, client.template.deploy({ params, body: { name: 'web1' } }), 'name_taken');
    await assertRefused(daemon, client.template.delete({ params, query: { version: 1 } }), 'wrong_state');
    await done(daemon, client.template.delete({ params }));
  });

  test('can be sealed: a copy takes out of itself what tells of the VM, which stays as it is', async (t) => {
    const { daemon } = await lodge(t);
    const { client } = daemon;
    const before = await makeVm(daemon, 'web1', original, { start: true });
    await done(daemon, client.template.create({ body: { name: 'base', vm: 'web1', isSealed: true } }));
    const { status } = await read(daemon);
    assert.deepEqual(
      status.versions.map(({ version, vm, sealed }) => [version, vm, sealed]),
      [[1, 'web1', ['machine-id', 'logs']]],
    );
    const after = await readVm(daemon, 'web1');
    assert.deepEqual([after.status.state, after.spec], ['running', before.spec]);
    assert.deepEqual(
      (await client.vm.list()).items.map(({ name }) => name),
      ['web1'],
    );
    await done(daemon, client.template.addVersion({ params, body: { vm: 'web1', isSealed: true } }));
    await done(daemon, client.template.deploy({ params, body: { name: 'new', isStarted: true } }));
    const made = await untilState(daemon, 'new', 'running');
    assert.deepEqual([made.spec.nics[0]?.isConnected, made.status.lineage?.parentName], [true, 'base@2']);
    await done(daemon, client.template.delete({ params }));
  });

  test('is not made of what can not be sealed, and a sealing that fails leaves nothing', async (t) => {
    const { daemon } = await lodge(t);
    const { client } = daemon;
    await makeVm(daemon, 'mute', { ...original, hasAgentChannel: false });
    await makeVm(daemon, 'win', { ...original, os: 'windows' });
    const seal = (vm: string): Promise<unknown> =>
      client.template.create({ body: { name: 'base', vm, isSealed: true } });
    assert.match((await assertRefused(daemon, seal('mute'), 'unsupported')).message, /no channel to a guest agent/);
    assert.match((await assertRefused(daemon, seal('win'), 'unsupported')).hint, /sysprep/);
    await makeVm(daemon, 'web1', original, { start: true });
    const task = await client.template.create({ body: { name: 'base', vm: 'web1', isSealed: true } });
    await client.task.cancel({ params: { task: task.id } });
    assert.equal((await endOf(daemon, task)).state, 'cancelled');
    assert.deepEqual((await client.vm.list()).items.map(({ name }) => name).toSorted(), ['mute', 'web1', 'win']);
    await assertRefused(daemon, read(daemon), 'not_found');
  });

  test('has labels and a description that can be changed', async (t) => {
    const { daemon } = await lodge(t);
    const { client } = daemon;
    await makeVm(daemon, 'web1', original);
    await done(daemon, client.template.create({ body: { name: 'base', vm: 'web1' } }));
    const { revision } = await read(daemon);
    const body = { revision, labels: { team: 'shop' }, spec: { description: 'with agents' } };
    const changed = await client.template.update({ params, body });
    assert.deepEqual(
      [changed.labels, changed.spec.description, changed.status.versions.length],
      [body.labels, 'with agents', 1],
    );
    await assertRefused(daemon, client.template.update({ params, body }), 'revision_conflict');
    await done(daemon, client.template.delete({ params }));
  });
});
