// What the firmware of a VM remembers, over the API with played guests: snapshots bring it back, clones and what is made of
// a template begin with it.
import assert from 'node:assert/strict';
import { access, readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { type TestDaemon } from '../support/daemon.ts';
import { done, makeVm, readVm, sharedFakeLodge } from '../support/fake-lodge.ts';

const lodge = sharedFakeLodge();
const params = { vm: 'web1' };

async function fileOf(daemon: TestDaemon, name: string): Promise<string> {
  const { id } = await readVm(daemon, name);
  return join(daemon.folder, 'data/vms', id, 'fake-firmware');
}

async function remember(daemon: TestDaemon, name: string, what: string): Promise<void> {
  await writeFile(await fileOf(daemon, name), what);
}

async function remembers(daemon: TestDaemon, name: string): Promise<string> {
  return readFile(await fileOf(daemon, name), 'utf8');
}

test('a snapshot brings back what the firmware remembered, and the VM is of another generation', async (t) => {
  const { daemon } = await lodge(t);
  const { client } = daemon;
  await makeVm(daemon, 'web1', { disks: [{ name: 'data', sizeMib: 4 }] });
  await done(daemon, client.vm.start({ params }));
  const { generationId } = (await readVm(daemon, 'web1')).status;
  assert.ok(generationId);
  await remember(daemon, 'web1', 'first');
  await done(daemon, client.snapshot.create({ params, body: { name: 'disks' } }));
  await remember(daemon, 'web1', 'second');
  await done(daemon, client.snapshot.create({ params, body: { name: 'memory', withMemory: true } }));
  await remember(daemon, 'web1', 'third');
  const seen = new Set([generationId]);
  for (const [snapshot, before] of [
    ['disks', 'first'],
    ['memory', 'second'],
    ['memory', 'second'],
  ] as const) {
    await done(daemon, client.snapshot.revert({ params: { ...params, snapshot }, body: { force: true } }));
    assert.equal(await remembers(daemon, 'web1'), before);
    seen.add((await readVm(daemon, 'web1')).status.generationId ?? '');
    await remember(daemon, 'web1', 'since then');
  }
  assert.equal(seen.size, 4, 'each revert is a generation of its own');

  const folder = join(await fileOf(daemon, 'web1'), '../snapshots');
  assert.equal((await readdir(folder)).filter((name) => name.endsWith('.firmware')).length, 2);
  for (const snapshot of ['disks', 'memory'])
    await done(daemon, client.snapshot.delete({ params: { ...params, snapshot } }));
  assert.deepEqual(await readdir(folder), []);
});

test('clones begin with what the firmware of the VM, of its snapshot or of a template remembered', async (t) => {
  const { daemon } = await lodge(t);
  const { client } = daemon;
  await makeVm(daemon, 'web1', { disks: [{ name: 'data', sizeMib: 4 }] });
  await remember(daemon, 'web1', 'then');
  await done(daemon, client.snapshot.create({ params, body: { name: 'first' } }));
  await done(daemon, client.template.create({ body: { name: 'base', vm: 'web1' } }));
  await remember(daemon, 'web1', 'now');
  await done(daemon, client.vm.clone({ params, body: { name: 'copy' } }));
  await done(daemon, client.vm.clone({ params, body: { name: 'older', snapshot: 'first', mode: 'full' } }));
  await done(daemon, client.template.deploy({ params: { template: 'base' }, body: { name: 'made' } }));
  assert.deepEqual(
    [await remembers(daemon, 'copy'), await remembers(daemon, 'older'), await remembers(daemon, 'made')],
    ['now', 'then', 'then'],
  );
  const kept = join(daemon.folder, 'data/templates');
  assert.equal((await readdir(kept)).length, 1);
  await done(daemon, client.template.delete({ params: { template: 'base' } }));
  assert.deepEqual(await readdir(kept), []);
  assert.equal(await remembers(daemon, 'made'), 'then');
});

test('a VM that has nothing to remember has nothing copied', async (t) => {
  const { daemon } = await lodge(t);
  const { client } = daemon;
  await makeVm(daemon, 'web1', { disks: [{ name: 'data', sizeMib: 4 }] });
  await done(daemon, client.snapshot.create({ params, body: { name: 'first' } }));
  await remember(daemon, 'web1', 'later');
  await done(daemon, client.snapshot.revert({ params: { ...params, snapshot: 'first' }, body: {} }));
  await assert.rejects(access(await fileOf(daemon, 'web1')), { code: 'ENOENT' });
});
