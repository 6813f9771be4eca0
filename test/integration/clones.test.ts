// Clones over the API, with real disk files and played guests: many at once, what a clone takes over and what not, and
// what becomes of its disks when its original goes.
import assert from 'node:assert/strict';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { suite, test } from 'node:test';
import { type VmClone } from '../../src/api/vm-clone.ts';
import { type Vm } from '../../src/api/vm.ts';
import { run } from '../../src/host/command.ts';
import { type TestDaemon } from '../support/daemon.ts';
import { assertRefused, done, makeVm, readVm, sharedFakeLodge, untilState } from '../support/fake-lodge.ts';
import { eventually } from '../support/wait.ts';

const lodge = sharedFakeLodge();
const original = { disks: [{ name: 'data', sizeMib: 4 }], memoryMib: 64, nics: [{ network: 'default' }] };

async function clone(daemon: TestDaemon, vm: string, body: Partial<VmClone>): Promise<Vm[]> {
  const { id } = await done(daemon, daemon.client.vm.clone({ params: { vm }, body }));
  const page = await daemon.client.vm.list({ query: { filter: `status.lineage.forkId=${id}`, limit: 500 } });
  return page.items.toSorted((one, other) => one.name.localeCompare(other.name, 'en', { numeric: true }));
}

/** The files that a volume of a VM reads from, top first, as the file itself names them. */
async function filesOf(daemon: TestDaemon, vm: string): Promise<string[]> {
  const [disk] = (await readVm(daemon, vm)).status.disks;
  const folder = join(daemon.folder, 'data/volumes');
  const top = (await readdir(folder)).find((file) => file.startsWith(`${disk?.volume}.`));
  if (!top) return [];
  const { stdout } = await run(['qemu-img', 'info', '-U', '--output=json', '--backing-chain', join(folder, top)]);
  const chain = JSON.parse(stdout) as { filename: string }[];
  return chain.map(({ filename }) => filename);
}

suite('a clone', () => {
  for (const mode of ['linked', 'full'] as const) {
    test(`that is ${mode} of a VM that is off has a disk, an id and addresses of its own`, async (t) => {
      const { daemon } = await lodge(t);
      const { status } = await daemon.client.network.get({ params: { network: 'default' } });
      const ipv4Address = status.ipv4Cidr?.replace(/\d+\/\d+$/, '50');
      const web1 = await makeVm(daemon, 'web1', {
        ...original,
        autostart: true,
        description: 'the shop',
        nics: [{ network: 'default', mac: '52:54:00:00:00:01', ipv4Address }],
      });
      const [web2, ...others] = await clone(daemon, 'web1', { name: 'web2', mode });
      assert.ok(web2 && others.length === 0);
      assert.deepEqual([web2.name, web2.status.state, web2.status.taskId], ['web2', 'stopped', null]);
      assert.deepEqual(
        [
          web2.spec.description,
          web2.spec.memoryMib,
          web2.spec.autostart,
          web2.spec.nics[0]?.mac,
          web2.spec.nics[0]?.ipv4Address,
        ],
        ['the shop', 64, false, undefined, undefined],
      );
      assert.notEqual(web2.status.nics[0]?.mac, web1.status.nics[0]?.mac);
      assert.notEqual(web2.status.uid, web1.status.uid);
      assert.notEqual(web2.status.disks[0]?.volume, web1.status.disks[0]?.volume);
      assert.equal(web2.status.disks[0]?.sizeMib, 4);
      const { lineage } = web2.status;
      assert.deepEqual(
        [lineage?.kind, lineage?.parentId, lineage?.parentName, lineage?.hasOwnIdentity, lineage?.identityBy],
        [`${mode}-clone`, web1.id, 'web1', false, 'agent'],
      );
      const volume = await daemon.client.volume.get({ params: { volume: 'web2-data' } });
      assert.deepEqual([volume.status.isOwnedByVm, volume.status.usedBy?.name], [true, 'web2']);
      if (mode === 'full') assert.equal((await filesOf(daemon, 'web2')).length, 1);
    });
  }

  test('of a VM that runs is made without stopping it, and starts', async (t) => {
    const { daemon } = await lodge(t);
    await makeVm(daemon, 'web1', original, { start: true });
    const before = await readVm(daemon, 'web1');
    const clones = await clone(daemon, 'web1', { count: 2, isStarted: true });
    assert.deepEqual(
      clones.map(({ name }) => name),
      ['web1-1', 'web1-2'],
    );
    for (const { name } of clones) await untilState(daemon, name, 'running');
    const after = await readVm(daemon, 'web1');
    assert.deepEqual([after.status.state, after.status.pid], ['running', before.status.pid]);
  });

  test('reads from its original’s disk after that was deleted, and its disks go with it', async (t) => {
    const { daemon } = await lodge(t);
    await makeVm(daemon, 'web1', original);
    await clone(daemon, 'web1', { name: 'web2' });
    const params = { vm: 'web1' };
    await done(daemon, daemon.client.vm.delete({ params }));
    await done(daemon, daemon.client.vm.start({ params: { vm: 'web2' } }));
    await done(daemon, daemon.client.vm.forceOff({ params: { vm: 'web2' } }));
    await done(daemon, daemon.client.vm.delete({ params: { vm: 'web2' } }));
    await eventually(async () => (await readdir(join(daemon.folder, 'data/volumes'))).length === 0);
  });

  test('of a snapshot has what the VM was then, also when the VM runs on and the snapshot goes', async (t) => {
    const { daemon } = await lodge(t);
    await makeVm(daemon, 'web1', original);
    const params = { vm: 'web1' };
    await done(daemon, daemon.client.snapshot.create({ params, body: { name: 'before' } }));
    const { spec } = await readVm(daemon, 'web1');
    await daemon.client.vm.update({ params, body: { spec: { ...spec, memoryMib: 128 } } });
    const [web2] = await clone(daemon, 'web1', { name: 'web2', snapshot: 'before' });
    assert.equal(web2?.spec.memoryMib, 64);
    await done(daemon, daemon.client.snapshot.delete({ params: { ...params, snapshot: 'before' } }));
    await done(daemon, daemon.client.vm.start({ params: { vm: 'web2' } }));
    const missing = daemon.client.vm.clone({ params, body: { snapshot: 'before' } });
    await assertRefused(daemon, missing, 'not_found');
  });

  for (const isRunning of [false, true]) {
    test(`is one of fifty that were asked for at once, of a VM that ${isRunning ? 'runs' : 'is off'}`, async (t) => {
      const { daemon } = await lodge(t);
      await makeVm(daemon, 'web1', original, { start: isRunning });
      const names = Array.from({ length: 50 }, (_, index) => `copy-${index}`);
      const asked = names.map((name) => daemon.client.vm.clone({ params: { vm: 'web1' }, body: { name } }));
      // Asked for at once; waited for one by one, as a client has not as many connections.
      for (const task of await Promise.all(asked)) await done(daemon, task);
      const made = await Promise.all(names.map((name) => readVm(daemon, name)));
      assert.deepEqual(
        made.map(({ name }) => name),
        names,
      );
      const fields: ((vm: Vm) => unknown)[] = [
        ({ status }) => status.nics[0]?.mac,
        ({ status }) => status.uid,
        ({ status }) => status.disks[0]?.volume,
      ];
      for (const field of fields) assert.equal(new Set(made.map((vm) => field(vm))).size, 50);
      assert.equal((await readVm(daemon, 'web1')).status.state, isRunning ? 'running' : 'stopped');
      // What is off was not written to in between: its disk got one layer more, and not fifty.
      if (!isRunning) assert.equal((await readdir(join(daemon.folder, 'data/volumes'))).length, 52);
    });
  }

  test('is refused with a name that is taken, of a VM that is not there, and of one that is being made', async (t) => {
    const { daemon } = await lodge(t);
    await makeVm(daemon, 'web1', original);
    const ask = (vm: string, body: Partial<VmClone>) => daemon.client.vm.clone({ params: { vm }, body });
    await assertRefused(daemon, ask('web1', { name: 'web1' }), 'name_taken');
    await assertRefused(daemon, ask('web0', {}), 'not_found');
    await assertRefused(daemon, ask('web1', { count: 0 }), 'invalid_request', 'count');
    await assertRefused(daemon, ask('web1', { name: 'Web' }), 'invalid_request', 'name');
  });
});
