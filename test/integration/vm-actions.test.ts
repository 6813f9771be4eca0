// One action on many VMs over the API: which are meant, how each ends, cancelling, and a daemon that dies in the middle.
import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import { type Task } from '../../src/api/task.ts';
import { type VmBulkAction } from '../../src/api/vm-action.ts';
import { waitForTaskEnd } from '../../src/client/follow.ts';
import { type TestDaemon } from '../support/daemon.ts';
import {
  assertRefused,
  changeGuest,
  done,
  makeVm,
  readVm,
  sharedFakeLodge,
  startFakeLodge,
} from '../support/fake-lodge.ts';
import { eventually } from '../support/wait.ts';

const lodge = sharedFakeLodge();
const stop = { type: 'stop' } as const;
const web = { role: 'web' };

/** How each item ended, and of the tasks that did it which succeeded. */
async function outcome(daemon: TestDaemon, started: Promise<Task>): Promise<{ task: Task; items: [string, string][] }> {
  const task = await waitForTaskEnd(daemon.client, (await started).id, { timeoutMs: 60_000 });
  return { task, items: task.items.map(({ name, state }) => [name, state]) };
}

function untilItem(daemon: TestDaemon, id: string, name: string, state: string): Promise<Task> {
  return eventually(
    async () => {
      const task = await daemon.client.task.get({ params: { task: id } });
      return task.items.some((item) => item.name === name && item.state === state) ? task : null;
    },
    { describe: `item ${name} is ${state}`, timeoutMs: 60_000 },
  );
}

/** A running VM whose guest doesn't hear the power button, so that a stop of it lasts. */
async function deafVm(daemon: TestDaemon, name: string, labels: Record<string, string> = {}): Promise<string> {
  const { id } = await makeVm(daemon, name, { stopTimeoutS: 600 }, { start: true, labels });
  await changeGuest(daemon, id, { isDeaf: true });
  return id;
}

suite('an action on many VMs', () => {
  test('is for those with the labels, and tells how each of them ended', async (t) => {
    const { daemon } = await lodge(t);
    const { client } = daemon;
    await makeVm(daemon, 'web2', {}, { start: true, labels: web });
    await makeVm(daemon, 'web1', {}, { labels: web });
    await makeVm(daemon, 'db1', {}, { start: true });
    const body = { action: stop, vms: { selector: 'role=web' } };
    const { items: planned } = await client.vm.planAction({ body });
    assert.deepEqual(
      planned.map(({ name, isHit, reason }) => [name, isHit, reason]),
      [
        ['web1', false, 'It is stopped.'],
        ['web2', true, ''],
      ],
    );
    assert.equal((await readVm(daemon, 'web2')).status.state, 'running');
    const { task, items } = await outcome(daemon, client.vm.act({ body }));
    assert.equal(task.state, 'succeeded', task.error?.message);
    assert.deepEqual(items, [
      ['web1', 'skipped'],
      ['web2', 'done'],
    ]);
    assert.deepEqual([task.type, task.target.kind, task.progress.percent], ['vm.act', 'node', 100]);
    const part = await client.task.get({ params: { task: task.items[1]?.taskId ?? '' } });
    assert.deepEqual([part.type, part.parentId, part.state], ['vm.stop', task.id, 'succeeded']);
    assert.equal((await readVm(daemon, 'db1')).status.state, 'running');
    assert.equal((await readVm(daemon, 'web2')).status.state, 'stopped');
  });

  test('fails when one of them fails, and the others are done', async (t) => {
    const { daemon } = await lodge(t);
    await makeVm(daemon, 'web1', {}, { start: true });
    await makeVm(daemon, 'web2');
    const body = { action: stop, vms: { names: ['web1', 'web3', 'web2', 'web1'] } };
    const { task, items } = await outcome(daemon, daemon.client.vm.act({ body }));
    assert.deepEqual(items, [
      ['web1', 'done'],
      ['web3', 'failed'],
      ['web2', 'failed'],
    ]);
    assert.deepEqual([task.state, task.error?.code], ['failed', 'not_found']);
    assert.match(task.error?.message ?? '', /^2 of 3 VMs could not be stopped: web3, web2\./);
    assert.match(task.items[1]?.message ?? '', /no VM web3.*Did you mean web/);
    assert.equal(task.items[2]?.error?.code, 'wrong_state');
  });

  test('can be anything that many VMs can be asked', async (t) => {
    const { daemon } = await lodge(t);
    const { client } = daemon;
    for (const name of ['web1', 'web2']) await makeVm(daemon, name, { disks: [{ name: 'data', sizeMib: 2 }] });
    const actions: [VmBulkAction, string][] = [
      [{ type: 'start' }, 'running'],
      [{ type: 'pause' }, 'paused'],
      [{ type: 'resume' }, 'running'],
      [{ type: 'reset' }, 'running'],
      [{ type: 'restart', timeoutS: 0 }, 'running'],
      [{ type: 'suspend' }, 'suspended'],
      [{ type: 'forceOff' }, 'stopped'],
      [{ type: 'snapshot', name: 'before', description: '', withMemory: false, quiesce: 'auto' }, 'stopped'],
      [
        { type: 'update', labels: { tier: 'front' }, spec: { cpu: { count: 2 }, memoryMib: 64 }, force: false },
        'stopped',
      ],
    ];
    for (const [action, state] of actions) {
      await done(daemon, client.vm.act({ body: { action, vms: { all: true } } }));
      for (const name of ['web1', 'web2'])
        assert.equal((await readVm(daemon, name)).status.state, state, `${name} after ${action.type}`);
    }
    const { spec, labels } = await readVm(daemon, 'web2');
    assert.deepEqual([spec.cpu.count, spec.memoryMib, labels], [2, 64, { tier: 'front' }]);
    assert.equal((await client.snapshot.list({ params: { vm: 'web2' } })).total, 1);
    await done(daemon, client.vm.act({ body: { action: { type: 'delete' }, vms: { selector: 'tier=front' } } }));
    assert.equal((await client.vm.list()).total, 0);
  });

  test('that is cancelled leaves alone what it has not begun, and what it has begun goes on', async (t) => {
    const { daemon } = await lodge(t);
    const { client } = daemon;
    await deafVm(daemon, 'web1');
    await makeVm(daemon, 'web2', {}, { start: true });
    const { id } = await client.vm.act({ body: { action: stop, vms: { names: ['web1', 'web2'] }, parallelism: 1 } });
    await eventually(async () => (await readVm(daemon, 'web1')).status.state === 'stopping');
    await client.task.cancel({ params: { task: id } });
    const { task, items } = await outcome(daemon, client.task.get({ params: { task: id } }));
    assert.equal(task.state, 'cancelled', task.error?.message);
    assert.deepEqual(items, [
      ['web1', 'running'],
      ['web2', 'skipped'],
    ]);
    assert.match(task.error?.message ?? '', /0 of 2 were done/);
    assert.equal((await readVm(daemon, 'web2')).status.state, 'running');
    assert.equal((await readVm(daemon, 'web1')).status.state, 'stopping');
  });

  test('is refused when it names no VM, too many ways to choose, or a field that is not', async (t) => {
    const { daemon } = await lodge(t);
    const { client } = daemon;
    await makeVm(daemon, 'web1');
    await assertRefused(daemon, client.vm.act({ body: { action: stop } as never }), 'invalid_request');
    await assertRefused(
      daemon,
      client.vm.act({ body: { action: stop, vms: { all: true, names: ['a'] } as never } }),
      'invalid_request',
    );
    await assertRefused(daemon, client.vm.act({ body: { action: stop, vms: { selector: 'role=db' } } }), 'not_found');
    await assertRefused(
      daemon,
      client.vm.act({ body: { action: stop, vms: { selector: 'a in b' } } }),
      'invalid_request',
    );
    const action = { type: 'update', spec: { memoryMbi: 1 } } as const;
    const { task } = await outcome(daemon, client.vm.act({ body: { action, vms: { all: true } } }));
    assert.equal(task.error?.code, 'invalid_request');
  });

  test('goes on after the daemon was killed in the middle, and does nothing twice', async (t) => {
    const { daemon } = await startFakeLodge(t);
    const { client } = daemon;
    const deaf = await deafVm(daemon, 'web1');
    await makeVm(daemon, 'web2', {}, { start: true });
    await makeVm(daemon, 'web3', {}, { start: true });
    const { id } = await client.vm.act({ body: { action: { type: 'restart' }, vms: { all: true }, parallelism: 2 } });
    // Of two at a time, the second and then the third are done while the first does not hear.
    await untilItem(daemon, id, 'web3', 'done');
    await daemon.kill();
    await daemon.start();
    await changeGuest(daemon, deaf, { isDeaf: false, state: 'shutdown' });
    const { task, items } = await outcome(daemon, daemon.client.task.get({ params: { task: id } }));
    assert.equal(task.state, 'succeeded', task.error?.message);
    assert.deepEqual(items, [
      ['web1', 'done'],
      ['web2', 'done'],
      ['web3', 'done'],
    ]);
    const { items: parts } = await daemon.client.task.list({ query: { filter: `parentId=${id}` } });
    assert.deepEqual(parts.map(({ target }) => target.name).toSorted(), ['web1', 'web2', 'web3']);
  });
});
