// Snapshots over the API with played guests and real disk files: taking them, their tree, going back, deleting them
// anywhere, and what is refused.
import assert from 'node:assert/strict';
import { readdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { suite, test } from 'node:test';
import { type Change } from '../../src/api/event.ts';
import { type SnapshotCreate, type Snapshot } from '../../src/api/snapshot.ts';
import { run } from '../../src/host/command.ts';
import { type TestDaemon } from '../support/daemon.ts';
import {
  assertRefused,
  changeGuest,
  done,
  endOf,
  makeVm,
  readVm,
  sharedFakeLodge,
  startFakeLodge,
  untilState,
} from '../support/fake-lodge.ts';
import { eventually } from '../support/wait.ts';

const lodge = sharedFakeLodge();
const params = { vm: 'web1' };
const of = (snapshot: string): { vm: string; snapshot: string } => ({ ...params, snapshot });

async function makeWeb(daemon: TestDaemon, isStarted = false): Promise<void> {
  await makeVm(daemon, 'web1', { disks: [{ name: 'data', sizeMib: 4 }] });
  if (isStarted) await done(daemon, daemon.client.vm.start({ params }));
}

async function take(daemon: TestDaemon, name: string, body: Partial<SnapshotCreate> = {}): Promise<Snapshot> {
  await done(daemon, daemon.client.snapshot.create({ params, body: { name, ...body } }));
  return daemon.client.snapshot.get({ params: of(name) });
}

async function all(daemon: TestDaemon): Promise<Snapshot[]> {
  return (await daemon.client.snapshot.list({ params, query: { sort: 'createdAt' } })).items;
}

const revert = (daemon: TestDaemon, name: string, body = {}): Promise<unknown> =>
  done(daemon, daemon.client.snapshot.revert({ params: of(name), body }));

const volumeFolder = (daemon: TestDaemon): string => join(daemon.folder, 'data/volumes');

/** The newest of the disk's files: the one that is written to. */
async function topFile(daemon: TestDaemon): Promise<string> {
  const files = (await readdir(volumeFolder(daemon))).filter((file) => file.endsWith('.qcow2')).toSorted();
  return join(volumeFolder(daemon), files.at(-1)!);
}

async function write(daemon: TestDaemon, atMib: number, letter: string): Promise<void> {
  const pattern = letter.charCodeAt(0);
  await run(['qemu-io', '-f', 'qcow2', '-c', `write -P ${pattern} ${atMib}M 1M`, await topFile(daemon)]);
}

async function holds(daemon: TestDaemon, atMib: number, letter: string): Promise<boolean> {
  const { stdout } = await run([
    'qemu-io',
    '-r',
    '-f',
    'qcow2',
    '-c',
    `read -P ${letter === '-' ? 0 : letter.charCodeAt(0)} ${atMib}M 1M`,
    await topFile(daemon),
  ]);
  return !stdout.includes('Pattern verification failed');
}

suite('a snapshot', () => {
  test('of a VM that is off is of its disks, and the VM goes back to it', async (t) => {
    const { daemon } = await lodge(t);
    await makeWeb(daemon);
    await write(daemon, 0, 'a');
    const first = await take(daemon, 'first', { spec: { description: 'clean' }, labels: { kind: 'base' } });
    assert.equal(first.status.state, 'ready');
    assert.equal(first.status.consistency, 'application');
    assert.deepEqual([first.status.isCurrent, first.status.parentId, first.status.depth], [true, null, 1]);
    assert.deepEqual([first.spec.description, first.labels, first.project], ['clean', { kind: 'base' }, 'default']);
    assert.ok(first.status.sizeBytes! >= 2 ** 20, 'it holds what was written up to then');
    await write(daemon, 0, 'b');
    assert.ok(await holds(daemon, 0, 'b'));
    await revert(daemon, 'first');
    assert.ok(await holds(daemon, 0, 'a'));
    assert.equal((await readdir(volumeFolder(daemon))).length, 2);
    assert.equal((await readVm(daemon, 'web1')).status.state, 'stopped');
    await done(daemon, daemon.client.snapshot.delete({ params: of('first') }));
    assert.deepEqual(await all(daemon), []);
    await eventually(async () => (await readdir(volumeFolder(daemon))).length === 1, { describe: 'one file is left' });
    assert.ok(await holds(daemon, 0, 'a'));
  });

  test('of a running VM is quiesced by its agent, or tells why not; with memory the VM runs on from it', async (t) => {
    const { daemon } = await lodge(t);
    await makeWeb(daemon, true);
    const quiesced = await take(daemon, 'quiesced');
    assert.equal(quiesced.status.consistency, 'application');
    assert.match(quiesced.status.consistencyReason, /froze 1 file system/);
    const unquiesced = await take(daemon, 'unquiesced', { quiesce: 'never' });
    assert.deepEqual(
      [unquiesced.status.consistency, unquiesced.status.parentId, unquiesced.status.memoryBytes],
      ['crash', quiesced.id, null],
    );
    const memory = await take(daemon, 'memory', { withMemory: true });
    assert.equal(memory.status.consistency, 'memory');
    assert.ok(memory.status.memoryBytes! > 0 && memory.status.pauseMs !== null);
    await daemon.client.vm.pause({ params });
    const paused = await take(daemon, 'paused');
    assert.equal(paused.status.consistency, 'crash');
    const required = daemon.client.snapshot.create({ params, body: { name: 'no', quiesce: 'required' } });
    await assertRefused(daemon, required, 'agent_unavailable');
    assert.equal((await all(daemon)).length, 4, 'what was not taken leaves nothing');
    await done(daemon, daemon.client.vm.forceOff({ params }));
    await revert(daemon, 'memory');
    const vm = await readVm(daemon, 'web1');
    assert.equal(vm.status.state, 'running');
    const events = await daemon.client.event.list({ query: { filter: 'type=snapshot.reverted' } });
    assert.equal(events.items.filter(({ subject }) => subject.id === vm.id).length, 1);
    await revert(daemon, 'memory', { force: true });
    assert.equal((await readVm(daemon, 'web1')).status.state, 'running', 'as often as is wanted');
  });

  test('is one of a tree, in which the VM has a place', async (t) => {
    const { daemon } = await lodge(t);
    await makeWeb(daemon);
    for (const name of ['a', 'b', 'c']) await take(daemon, name);
    await revert(daemon, 'a');
    await take(daemon, 'd');
    const tree = async (): Promise<string[]> => {
      const items = await all(daemon);
      const nameOf = (id: string | null): string => items.find((one) => one.id === id)?.name ?? '-';
      return items.map((one) => `${nameOf(one.status.parentId)}>${one.name}${one.status.isCurrent ? '*' : ''}`);
    };
    assert.deepEqual(await tree(), ['->a', 'a>b', 'b>c', 'a>d*']);
    await done(daemon, daemon.client.snapshot.delete({ params: of('b') }));
    assert.deepEqual(await tree(), ['->a', 'a>c', 'a>d*']);
    await done(daemon, daemon.client.snapshot.delete({ params: of('d') }));
    assert.deepEqual(await tree(), ['->a*', 'a>c']);
    await revert(daemon, 'c');
    await done(daemon, daemon.client.snapshot.delete({ params: of('a') }));
    assert.deepEqual(await tree(), ['->c*']);
    for (const name of ['e', 'f']) await take(daemon, name);
    await done(daemon, daemon.client.snapshot.delete({ params: of('c'), query: { withChildren: true } }));
    assert.deepEqual(await tree(), []);
    await eventually(async () => (await readdir(volumeFolder(daemon))).length === 1, { describe: 'one file is left' });
  });

  test('can be renamed, described and labelled, and its names are its VM’s own', async (t) => {
    const { daemon } = await lodge(t);
    await makeWeb(daemon);
    await makeVm(daemon, 'web2', { disks: [{ name: 'data', sizeMib: 4 }] });
    const first = await take(daemon, 'first');
    await done(daemon, daemon.client.snapshot.create({ params: { vm: 'web2' }, body: { name: 'first' } }));
    const body = { revision: first.revision, name: 'clean', labels: { a: 'b' }, spec: { description: 'x' } };
    const changed = await daemon.client.snapshot.update({ params: of('first'), body });
    assert.deepEqual([changed.name, changed.labels, changed.spec], ['clean', { a: 'b' }, { description: 'x' }]);
    await assertRefused(daemon, daemon.client.snapshot.update({ params: of('clean'), body }), 'revision_conflict');
    await assertRefused(daemon, daemon.client.snapshot.get({ params: of('first') }), 'not_found');
    await assertRefused(
      daemon,
      daemon.client.snapshot.get({ params: { vm: 'web2', snapshot: first.id } }),
      'not_found',
    );
  });

  test('brings back spec and disks that the VM had', async (t) => {
    const { daemon } = await lodge(t);
    await makeWeb(daemon);
    await write(daemon, 0, 'a');
    await take(daemon, 'first');
    const { spec } = await readVm(daemon, 'web1');
    await daemon.client.vm.update({ params, body: { spec: { ...spec, memoryMib: 512, disks: [] } } });
    await done(daemon, daemon.client.vm.start({ params }));
    await done(daemon, daemon.client.vm.forceOff({ params }));
    await done(daemon, daemon.client.volume.delete({ params: { volume: 'web1-data' } }));
    await revert(daemon, 'first');
    const vm = await readVm(daemon, 'web1');
    assert.deepEqual([vm.spec.memoryMib, vm.spec.disks.length], [spec.memoryMib, 1]);
    assert.ok(await holds(daemon, 0, 'a'), 'its volume was deleted, and what the snapshot needs of it was kept');
    await done(daemon, daemon.client.vm.start({ params }));
    await done(daemon, daemon.client.vm.delete({ params, query: { force: true } }));
    assert.deepEqual(await readdir(volumeFolder(daemon)), []);
  });

  test('is in the stream of changes, as it is when it is read', async (t) => {
    const { daemon } = await lodge(t);
    await makeWeb(daemon);
    const { revision: since } = await daemon.client.vm.list();
    const { id } = await take(daemon, 'first');
    const changes = async (): Promise<Change[]> => {
      const found: Change[] = [];
      const query = { since, kinds: 'snapshot' };
      for await (const change of await daemon.client.event.stream({ query }, { signal: AbortSignal.timeout(20_000) })) {
        if (change.type === 'synced') break;
        found.push(change);
      }
      return found;
    };
    const made = await changes();
    assert.equal(made[0]?.type, 'created');
    assert.ok(made.every((change) => change.kind === 'snapshot' && change.id === id));
    assert.deepEqual(made.at(-1)?.object, await daemon.client.snapshot.get({ params: of('first') }));
    await done(daemon, daemon.client.snapshot.delete({ params: of('first') }));
    assert.deepEqual(
      (await changes()).map(({ type, kind, object }) => [type, kind, object]),
      [['deleted', 'snapshot', null]],
    );
  });

  test('goes with its VM', async (t) => {
    const { daemon } = await lodge(t);
    await makeWeb(daemon, true);
    for (const name of ['a', 'b']) await take(daemon, name, { withMemory: true });
    await done(daemon, daemon.client.vm.delete({ params, query: { force: true } }));
    assert.deepEqual(await readdir(volumeFolder(daemon)), []);
    assert.deepEqual(await readdir(join(daemon.folder, 'data/vms')), []);
    await makeWeb(daemon);
    assert.deepEqual(await all(daemon), []);
  });
});

test('a deletion that is cancelled while disks are merged leaves the VM whole, and can be asked for again', async (t) => {
  const { daemon } = await startFakeLodge(t);
  await makeWeb(daemon);
  for (const [at, name] of ['a', 'b', 'c'].entries()) {
    await write(daemon, at, name);
    await take(daemon, name);
  }
  const { id } = await done(daemon, daemon.client.vm.start({ params })).then(() => readVm(daemon, 'web1'));
  await changeGuest(daemon, id, { holdsMerges: true });
  const deleting = await daemon.client.snapshot.delete({ params: of('b') });
  const isMerging = async (): Promise<boolean> => {
    const { steps } = await daemon.client.task.get({ params: { task: deleting.id } });
    return steps.some(({ name, state }) => name === 'merge layers' && state === 'running');
  };
  await eventually(isMerging, { timeoutMs: 60_000, describe: 'its layers are being merged' });
  await daemon.client.task.cancel({ params: { task: deleting.id } });
  assert.equal((await endOf(daemon, deleting)).state, 'cancelled');
  const check = async (): Promise<void> => {
    const { status } = await daemon.client.snapshot.get({ params: of('b') });
    assert.equal(status.state, 'deleting');
    assert.match(status.reason, /delete it again/);
    await assertRefused(
      daemon,
      daemon.client.snapshot.revert({ params: of('b'), body: { force: true } }),
      'wrong_state',
    );
    assert.equal((await readVm(daemon, 'web1')).status.state, 'running');
    assert.equal((await readdir(volumeFolder(daemon))).length, 4, 'nothing was merged');
  };
  await check();
  await daemon.kill();
  await daemon.start();
  await check();
  await changeGuest(daemon, id, { holdsMerges: false });
  await done(daemon, daemon.client.snapshot.delete({ params: of('b') }));
  assert.deepEqual(
    (await all(daemon)).map(({ name }) => name),
    ['a', 'c'],
  );
  assert.equal((await readdir(volumeFolder(daemon))).length, 3);
  await revert(daemon, 'c', { force: true });
  for (const [at, name] of ['a', 'b', 'c'].entries()) assert.ok(await holds(daemon, at, name), name);
});

suite('refused', () => {
  test('is what can’t be, with what to do', async (t) => {
    const { daemon } = await lodge(t);
    const create = (body: SnapshotCreate | { name: string; withMemory?: boolean }): Promise<unknown> =>
      daemon.client.snapshot.create({ params, body });
    await assertRefused(daemon, create({ name: 'x' }), 'not_found');
    await makeWeb(daemon);
    await assertRefused(daemon, create({ name: 'x', withMemory: true }), 'wrong_state');
    await take(daemon, 'x');
    await assertRefused(daemon, create({ name: 'x' }), 'name_taken');
    await assertRefused(daemon, daemon.client.snapshot.delete({ params: of('y') }), 'not_found');
    await done(daemon, daemon.client.vm.start({ params }));
    await assertRefused(daemon, daemon.client.snapshot.revert({ params: of('x'), body: {} }), 'wrong_state');
    await done(daemon, daemon.client.vm.suspend({ params }));
    await assertRefused(daemon, create({ name: 'y' }), 'wrong_state');
    await assertRefused(daemon, daemon.client.snapshot.revert({ params: of('x'), body: {} }), 'wrong_state');
    await revert(daemon, 'x', { force: true });
    assert.equal((await readVm(daemon, 'web1')).status.state, 'stopped', 'the saved state was discarded');
    await makeVm(daemon, 'bare', { disks: [] });
    await assertRefused(
      daemon,
      daemon.client.snapshot.create({ params: { vm: 'bare' }, body: { name: 'x' } }),
      'unsupported',
    );
  });

  test('is a second thing at once with one VM, by its name', async (t) => {
    const { daemon } = await lodge(t);
    await makeWeb(daemon);
    const results = await Promise.allSettled(
      ['a', 'b', 'c'].map((name) => daemon.client.snapshot.create({ params, body: { name } })),
    );
    const refused = results.filter(({ status }) => status === 'rejected') as PromiseRejectedResult[];
    for (const { reason } of refused) assert.equal((reason as { code: string }).code, 'busy');
    await eventually(async () => (await all(daemon)).every(({ status }) => status.state === 'ready'), {
      describe: 'those that were taken are complete',
    });
    assert.equal((await all(daemon)).length, 3 - refused.length);
  });

  test('is saved memory that was changed or lost, before the VM is touched', async (t) => {
    const { daemon } = await lodge(t);
    await makeWeb(daemon, true);
    const { id } = await take(daemon, 'memory', { withMemory: true });
    const vm = await readVm(daemon, 'web1');
    const file = join(daemon.folder, 'data/vms', vm.id, 'snapshots', `${id}.memory`);
    const again = (): Promise<unknown> =>
      daemon.client.snapshot.revert({ params: of('memory'), body: { force: true } });
    await writeFile(file, 'memorz');
    await assertRefused(daemon, again(), 'checksum_mismatch');
    await rm(file);
    await assertRefused(daemon, again(), 'checksum_mismatch');
    assert.equal((await readVm(daemon, 'web1')).status.state, 'running');
  });
});

test('a daemon that died while taking a snapshot leaves nothing of it, and what was there is there', async (t) => {
  const { daemon } = await startFakeLodge(t);
  await makeWeb(daemon, true);
  await take(daemon, 'first', { withMemory: true });
  for (let round = 0; round < 3; round++) {
    void daemon.client.snapshot.create({ params, body: { name: `cut${round}`, withMemory: true } }).catch(() => {});
    await new Promise((resolve) => setTimeout(resolve, 15 * round));
    await daemon.kill();
    await daemon.start();
    await eventually(
      async () => {
        const items = await all(daemon);
        return items.every(({ status }) => status.state === 'ready') && items.length > 0;
      },
      { timeoutMs: 60_000, describe: 'what was cut off is settled' },
    );
  }
  await untilState(daemon, 'web1', 'running');
  const snapshots = await all(daemon);
  assert.equal(snapshots[0]?.name, 'first');
  await eventually(async () => (await readdir(volumeFolder(daemon))).length === snapshots.length + 1, {
    timeoutMs: 60_000,
    describe: 'each snapshot has its layer, and nobody else',
  });
});
