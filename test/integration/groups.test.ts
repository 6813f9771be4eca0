// Groups over the API: members start in their order, each when those before it are ready, and stop in the opposite one.
import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import { type Group, type GroupSpecInput } from '../../src/api/group.ts';
import { type Task } from '../../src/api/task.ts';
import { type TestDaemon } from '../support/daemon.ts';
import {
  assertRefused,
  changeGuest,
  done,
  endOf,
  makeVm,
  playReboot,
  readVm,
  sharedFakeLodge,
  startFakeLodge,
  untilEvent,
  untilState,
} from '../support/fake-lodge.ts';
import { eventually } from '../support/wait.ts';

const lodge = sharedFakeLodge();
const params = { group: 'shop' };
/** The fake guest is ready when somebody has written this file into it. */
const readyFile = { type: 'command' as const, command: ['test', '-e', '/ready'] };
const timeoutMs = 60_000;

type Members = GroupSpecInput['members'];

async function makeGroup(daemon: TestDaemon, members: Members, name = 'shop'): Promise<Group> {
  return daemon.client.group.create({ body: { name, spec: { members } } });
}

function read(daemon: TestDaemon, group = 'shop'): Promise<Group> {
  return daemon.client.group.get({ params: { group } });
}

async function writeInto(daemon: TestDaemon, vm: string, path: string, content = 'x'): Promise<void> {
  await daemon.client.vm.writeFile({ params: { vm }, query: { path }, body: Buffer.from(content) });
}

/** Waits until an item of a task is told so. */
function untilItem(daemon: TestDaemon, id: string, name: string, isIt: RegExp): Promise<Task> {
  return eventually(
    async () => {
      const task = await daemon.client.task.get({ params: { task: id } });
      const item = task.items.find((one) => one.name === name);
      if (!isIt.test(item?.message ?? '')) throw new Error(`${name}: ${item?.state} ${item?.message}`);
      return task;
    },
    { describe: `item ${name} says ${isIt}`, timeoutMs },
  );
}

const states = (task: Task): string[] => task.items.map(({ name, state }) => `${name} ${state}`);

async function startedAt(daemon: TestDaemon, vm: string): Promise<string> {
  return (await readVm(daemon, vm)).status.startedAt ?? '';
}

async function endedAt(daemon: TestDaemon, vm: string): Promise<string> {
  return (await readVm(daemon, vm)).status.lastExit?.at ?? '';
}

async function removeGroups(daemon: TestDaemon): Promise<void> {
  for (const { id } of (await daemon.client.group.list()).items)
    await daemon.client.group.delete({ params: { group: id } });
}

suite('a group', () => {
  test('starts its members in their order when those before are ready, and stops them the other way round', async (t) => {
    const { daemon } = await lodge(t);
    const { client } = daemon;
    for (const name of ['db1', 'web1', 'web2', 'lb1']) await makeVm(daemon, name);
    const made = await makeGroup(daemon, [
      { vm: 'lb1', order: 3, ready: { type: 'agent' } },
      { vm: 'db1', order: 1, ready: readyFile },
      { vm: 'web1', order: 2, ready: { type: 'port', port: 80 } },
      { vm: 'web2', order: 2 },
    ]);
    t.after(() => removeGroups(daemon));
    assert.deepEqual([made.status.state, made.status.reason], ['stopped', '0 of 4 members run.']);
    assert.deepEqual(
      made.status.members.map(({ vm, order }) => `${order} ${vm}`),
      ['1 db1', '2 web1', '2 web2', '3 lb1'],
    );
    const task = await client.group.start({ params });
    assert.equal((await read(daemon)).status.taskId, task.id);
    await assertRefused(daemon, client.group.stop({ params }), 'busy');
    await untilItem(daemon, task.id, 'db1', /not ready/);
    assert.equal((await read(daemon)).status.state, 'partial');
    assert.equal((await readVm(daemon, 'web1')).status.state, 'stopped');
    await writeInto(daemon, 'db1', '/ready');
    await untilItem(daemon, task.id, 'web1', /not ready/);
    await untilItem(daemon, task.id, 'web2', /runs/);
    assert.equal((await readVm(daemon, 'lb1')).status.state, 'stopped');
    const line = '0: 00000000:0050 00000000:0000 0A 0:0 00:0 0 0 0 1';
    await writeInto(daemon, 'web1', '/proc/net/tcp', `header\n ${line}\n`);
    const ended = await done(daemon, task);
    assert.deepEqual(states(ended), ['db1 done', 'web1 done', 'web2 done', 'lb1 done']);
    const { status } = await read(daemon);
    assert.deepEqual([status.state, status.taskId], ['running', null]);
    const [db, web1, web2, lb] = await Promise.all(['db1', 'web1', 'web2', 'lb1'].map((vm) => startedAt(daemon, vm)));
    assert.ok(db! < web1! && db! < web2! && web1! < lb! && web2! < lb!, `${db} ${web1} ${web2} ${lb}`);

    await done(daemon, client.group.stop({ params }));
    const ends = await Promise.all(['lb1', 'web1', 'web2', 'db1'].map((vm) => endedAt(daemon, vm)));
    assert.ok(
      ends[0]! <= ends[1]! && ends[0]! <= ends[2]! && ends[1]! <= ends[3]! && ends[2]! <= ends[3]!,
      ends.join(),
    );
    assert.equal((await read(daemon)).status.state, 'stopped');
    await untilEvent(daemon, 'group.stopped', ({ subject }) => subject.id === made.id);
  });

  test('is not started further when a member is not ready in time, or is where that is allowed', async (t) => {
    const { daemon } = await lodge(t);
    const { client } = daemon;
    for (const name of ['db1', 'web1']) await makeVm(daemon, name);
    const db = { vm: 'db1', ready: { type: 'command' as const, command: ['false'] }, readyTimeoutS: 1 };
    const { id, spec } = await makeGroup(daemon, [db, { vm: 'web1' }]);
    t.after(() => removeGroups(daemon));
    const stopped = await endOf(daemon, client.group.start({ params }));
    assert.deepEqual([stopped.state, stopped.error?.code], ['failed', 'timeout']);
    assert.match(stopped.error?.message ?? '', /VM db1 was not ready within 1 s: false ended with 1/);
    assert.deepEqual(states(stopped), ['db1 failed', 'web1 skipped']);
    assert.match(stopped.items[1]?.message ?? '', /not started because VM db1 is not ready/);
    assert.equal((await read(daemon)).status.state, 'partial');
    await untilEvent(daemon, 'group.start-incomplete', ({ subject }) => subject.id === id);

    const members = spec.members.map((member) => ({ ...member, ifNotReady: 'continue' as const }));
    await client.group.update({ params, body: { spec: { ...spec, members } } });
    const went = await done(daemon, client.group.start({ params }));
    assert.deepEqual(states(went), ['db1 failed', 'web1 done']);
    assert.equal((await read(daemon)).status.state, 'running');
    await untilEvent(daemon, 'group.started', ({ subject, severity }) => subject.id === id && severity === 'warning');
  });

  test('says which member can not be started or has ended, and goes on without it where that is allowed', async (t) => {
    const { daemon } = await lodge(t);
    const { client } = daemon;
    await makeVm(daemon, 'db1', { firmware: { commandLineExtra: 'fake.fail-start' } });
    await makeVm(daemon, 'web1');
    await makeGroup(daemon, [
      { vm: 'db1', ifNotReady: 'continue' },
      { vm: 'web1', ready: readyFile },
    ]);
    t.after(() => removeGroups(daemon));
    const task = await client.group.start({ params });
    await untilItem(daemon, task.id, 'web1', /not ready/);
    const web1 = await readVm(daemon, 'web1');
    await changeGuest(daemon, web1.id, { state: 'shutdown' });
    const ended = await endOf(daemon, task);
    assert.deepEqual(states(ended), ['db1 failed', 'web1 failed']);
    assert.match(ended.items[0]?.message ?? '', /told to fail/);
    assert.match(ended.items[1]?.message ?? '', /web1 is stopped: it ended before it was ready/);
    assert.equal(ended.state, 'failed');
  });

  test('that is cancelled keeps what was started, and starts nothing more', async (t) => {
    const { daemon } = await lodge(t);
    const { client } = daemon;
    for (const name of ['db1', 'web1']) await makeVm(daemon, name);
    await makeGroup(daemon, [{ vm: 'db1' }, { vm: 'web1', delayS: 600 }]);
    t.after(() => removeGroups(daemon));
    const task = await client.group.start({ params });
    await untilItem(daemon, task.id, 'web1', /started in 600 s/);
    await client.task.cancel({ params: { task: task.id } });
    const ended = await endOf(daemon, task);
    assert.equal(ended.state, 'cancelled');
    assert.match(ended.error?.message ?? '', /1 of 2 were done/);
    assert.equal((await readVm(daemon, 'db1')).status.state, 'running');
    assert.equal((await readVm(daemon, 'web1')).status.state, 'stopped');
    assert.equal((await read(daemon)).status.taskId, null);
  });

  test('is restarted as a whole: all are down before the first comes up', async (t) => {
    const { daemon } = await lodge(t);
    const { client } = daemon;
    await makeVm(daemon, 'db1', {}, { start: true });
    await makeVm(daemon, 'web1', {}, { start: true });
    await makeVm(daemon, 'idle1');
    await makeGroup(daemon, [{ vm: 'db1' }, { vm: 'web1' }, { vm: 'idle1' }]);
    t.after(() => removeGroups(daemon));
    const ended = await done(daemon, client.group.restart({ params, body: { timeoutS: 0 } }));
    assert.deepEqual(states(ended), ['db1 done', 'web1 done', 'idle1 done']);
    const [dbEnd, webEnd] = [await endedAt(daemon, 'db1'), await endedAt(daemon, 'web1')];
    assert.ok(webEnd <= dbEnd && dbEnd <= (await startedAt(daemon, 'db1')), `${webEnd} ${dbEnd}`);
    assert.equal((await read(daemon)).status.state, 'running');
  });

  test('refuses a member that is not there, twice, or in another group, and to begin without one', async (t) => {
    const { daemon } = await lodge(t);
    const { client } = daemon;
    const db = await makeVm(daemon, 'db1');
    t.after(() => removeGroups(daemon));
    const missing = await assertRefused(daemon, makeGroup(daemon, [{ vm: 'db2' }]), 'not_found');
    assert.match(missing.message + missing.hint, /spec\.members\.0\.vm.*db2.*Did you mean db1/);
    const twice = makeGroup(daemon, [{ vm: 'db1' }, { vm: db.id }]);
    await assertRefused(daemon, twice, 'invalid_request', 'spec.members.1.vm');
    await makeGroup(daemon, [{ vm: db.id }]);
    assert.equal((await read(daemon)).spec.members[0]?.vm, 'db1');
    const other = await assertRefused(daemon, makeGroup(daemon, [{ vm: 'db1' }], 'other'), 'in_use');
    assert.match(other.message + other.hint, /member of group shop.*lodge group set shop --remove db1/);
    await assertRefused(daemon, makeGroup(daemon, [], 'shop'), 'name_taken');
    await makeGroup(daemon, [], 'empty');
    await assertRefused(daemon, client.group.start({ params: { group: 'empty' } }), 'wrong_state');
    await client.group.update({ params, body: { spec: { members: [] } } });
    await makeGroup(daemon, [{ vm: 'db1' }], 'other');
  });

  test('keeps a member that is renamed, and loses one that is deleted, and not its place', async (t) => {
    const { daemon } = await lodge(t);
    const { client } = daemon;
    for (const name of ['db1', 'web1', 'lb1']) await makeVm(daemon, name);
    await makeGroup(daemon, [{ vm: 'db1' }, { vm: 'web1' }, { vm: 'lb1' }]);
    t.after(() => removeGroups(daemon));
    await client.vm.rename({ params: { vm: 'web1' }, body: { name: 'front1' } });
    const membersAre = (...wanted: string[]): Promise<unknown> =>
      eventually(
        async () => {
          const { spec, status } = await read(daemon);
          assert.deepEqual(
            spec.members.map(({ vm }) => vm),
            wanted,
          );
          return status.members.map(({ vm }) => vm).join() === wanted.join();
        },
        { timeoutMs, describe: `the members are ${wanted.join()}` },
      );
    await membersAre('db1', 'front1', 'lb1');
    await makeVm(daemon, 'web1');
    await done(daemon, client.vm.delete({ params: { vm: 'db1' } }));
    await membersAre('front1', 'lb1');
    const { spec } = await read(daemon);
    assert.deepEqual(
      spec.members.map(({ order }) => order),
      [2, 3],
    );
    await untilEvent(daemon, 'group.member-left', ({ message }) => message.includes('db1'));
  });
});

suite('a group and the daemon', () => {
  test('goes on being started after the daemon was killed, and starts nothing twice', async (t) => {
    const { daemon } = await startFakeLodge(t);
    for (const name of ['db1', 'web1']) await makeVm(daemon, name);
    await makeGroup(daemon, [
      { vm: 'db1', ready: readyFile },
      { vm: 'web1', ready: { type: 'agent' } },
    ]);
    const task = await daemon.client.group.start({ params });
    await untilItem(daemon, task.id, 'db1', /not ready/);
    const before = await startedAt(daemon, 'db1');
    await daemon.kill();
    await daemon.start();
    await untilItem(daemon, task.id, 'db1', /not ready/);
    await writeInto(daemon, 'db1', '/ready');
    const ended = await done(daemon, daemon.client.task.get({ params: { task: task.id } }));
    assert.deepEqual(states(ended), ['db1 done', 'web1 done']);
    assert.equal(await startedAt(daemon, 'db1'), before);
    const { items } = await daemon.client.task.list({ query: { filter: `parentId=${task.id}` } });
    assert.deepEqual(items.map(({ type, target }) => `${type} ${target.name}`).toSorted(), [
      'vm.start db1',
      'vm.start web1',
    ]);
  });

  test('comes up and goes down with the node in its order', async (t) => {
    const { daemon } = await startFakeLodge(t);
    const { client } = daemon;
    for (const name of ['db1', 'web1', 'alone1']) await makeVm(daemon, name, { autostart: name !== 'web1' });
    await makeVm(daemon, 'other1', { autostart: true });
    const spec = { members: [{ vm: 'db1', ready: readyFile }, { vm: 'web1' }], autostart: true };
    await client.group.create({ body: { name: 'shop', spec } });
    await makeGroup(daemon, [{ vm: 'other1' }], 'other');
    await daemon.stop();
    await playReboot(daemon);
    await daemon.start();
    await untilState(daemon, 'db1', 'running');
    await untilState(daemon, 'alone1', 'running');
    await untilState(daemon, 'other1', 'running');
    assert.equal((await readVm(daemon, 'web1')).status.state, 'stopped');
    await writeInto(daemon, 'db1', '/ready');
    await untilState(daemon, 'web1', 'running');
    await eventually(async () => (await read(daemon)).status.taskId === null, { timeoutMs });

    const web = await readVm(daemon, 'web1');
    await changeGuest(daemon, web.id, { isDeaf: true });
    const task = await client.node.stopGuests({ params: { node: 'self' } });
    await untilState(daemon, 'alone1', 'stopped');
    await untilState(daemon, 'web1', 'stopping');
    assert.equal((await readVm(daemon, 'db1')).status.state, 'running');
    await changeGuest(daemon, web.id, { isDeaf: false, state: 'shutdown' });
    await done(daemon, task);
    assert.ok((await endedAt(daemon, 'web1')) <= (await endedAt(daemon, 'db1')));
    for (const vm of ['db1', 'web1', 'alone1', 'other1'])
      assert.equal((await readVm(daemon, vm)).status.state, 'stopped');
  });
});
