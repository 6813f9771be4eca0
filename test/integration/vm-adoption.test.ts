// Guests outlive the daemon: what a new one finds of those that an old one has left, whatever happened to them meanwhile
// and whatever the old one was doing when it was killed.
import assert from 'node:assert/strict';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { suite, test } from 'node:test';
import { type Task } from '../../src/api/task.ts';
import { type TestDaemon } from '../support/daemon.ts';
import { findProblems } from '../support/crash/invariants.ts';
import {
  changeGuest,
  done,
  endOf,
  killGuest,
  makeVm,
  playReboot,
  readGuest,
  readVm,
  startFakeLodge,
  type FakeLodge,
  untilEvent,
  untilState,
} from '../support/fake-lodge.ts';
import { eventually } from '../support/wait.ts';

/** Waits until nothing is wrong any more: tasks, objects, files, links. */
async function untilConsistent({ daemon, namespace }: FakeLodge): Promise<void> {
  const look = async (): Promise<boolean> => {
    const problems = await findProblems({ daemon, namespace, driver: 'fake' });
    if (problems.length > 0) throw new Error(problems.join('\n'));
    return true;
  };
  await eventually(look, { describe: 'everything is consistent', timeoutMs: 20_000, intervalMs: 100 });
}

test('what guests did while no daemon ran is what the next one shows', async (t) => {
  const lodge = await startFakeLodge(t);
  const { daemon } = lodge;
  const nics = [{ network: 'default' }];
  const names = ['runs', 'paused', 'resumed', 'off', 'crashed', 'vanished', 'stopped', 'suspended'] as const;
  const ids = new Map<string, string>();
  for (const name of names) ids.set(name, (await makeVm(daemon, name, { nics }, { start: true })).id);
  const idOf = (name: (typeof names)[number]): string => ids.get(name) ?? '';
  const before = await readVm(daemon, 'runs');
  await daemon.client.vm.pause({ params: { vm: 'resumed' } });
  await done(daemon, daemon.client.vm.forceOff({ params: { vm: 'stopped' } }));
  await done(daemon, daemon.client.vm.suspend({ params: { vm: 'suspended' } }));

  await daemon.kill();
  await changeGuest(daemon, idOf('paused'), { state: 'paused' });
  await changeGuest(daemon, idOf('resumed'), { state: 'running' });
  await changeGuest(daemon, idOf('off'), { state: 'shutdown' });
  await changeGuest(daemon, idOf('crashed'), { state: 'crashed' });
  await killGuest(daemon, idOf('vanished'));
  await daemon.start();

  // At once: the API answers when guests have been taken over.
  const { items } = await daemon.client.vm.list();
  assert.deepEqual(Object.fromEntries(items.map((vm) => [vm.name, vm.status.state])), {
    runs: 'running',
    paused: 'paused',
    resumed: 'running',
    off: 'stopped',
    crashed: 'crashed',
    vanished: 'stopped',
    stopped: 'stopped',
    suspended: 'suspended',
  });
  const runs = await readVm(daemon, 'runs');
  assert.equal(runs.status.startedAt, before.status.startedAt, 'it was not started again');
  assert.deepEqual(runs.status.nics[0]?.hostInterface, before.status.nics[0]?.hostInterface);
  assert.equal((await readVm(daemon, 'off')).status.lastExit?.cause, 'guest-shutdown');
  assert.equal(await readGuest(daemon, idOf('off')), null, 'the process of a guest that is off is ended');
  assert.equal((await readVm(daemon, 'vanished')).status.lastExit?.cause, 'hypervisor-died');
  const died = await untilEvent(daemon, 'vm.hypervisor-died', (event) => event.subject.name === 'vanished');
  assert.equal(died.details['whileDaemonWasDown'], true);
  await untilEvent(daemon, 'vm.guest-panicked', (event) => event.subject.name === 'crashed');
  await untilConsistent(lodge);

  // They are under control: messages are heard, and actions done.
  await changeGuest(daemon, idOf('runs'), { state: 'paused' });
  await untilState(daemon, 'runs', 'paused');
  await daemon.client.vm.resume({ params: { vm: 'runs' } });
  await done(daemon, daemon.client.vm.stop({ params: { vm: 'runs' }, body: {} }));
  await done(daemon, daemon.client.vm.start({ params: { vm: 'suspended' } }));
  assert.equal((await readGuest(daemon, idOf('suspended')))?.wasRestored, true);
});

test('the restart policy counts for guests that died while no daemon ran', async (t) => {
  const { daemon } = await startFakeLodge(t);
  const restartPolicy = { mode: 'on-failure', backOffS: 1 } as const;
  const vm = await makeVm(daemon, 'web1', { restartPolicy }, { start: true });
  // A daemon that has not come to the end of its start yet leaves what the machine's start asks for to the next.
  await daemon.settled();
  await daemon.kill();
  await killGuest(daemon, vm.id);
  await daemon.start();
  const again = await eventually(async () => {
    const now = await readVm(daemon, 'web1');
    return now.status.state === 'running' && now.status.restarts.count === 1 ? now : null;
  });
  assert.notEqual(again.status.startedAt, vm.status.startedAt);
});

test('a guest of a VM that does not exist is ended, and an event tells of it', async (t) => {
  const lodge = await startFakeLodge(t);
  const { daemon } = lodge;
  const vm = await makeVm(daemon, 'web1', {}, { start: true });
  const stranger = await readGuest(daemon, vm.id);
  await daemon.kill();
  const id = '0190a000-0000-7000-8000-000000000001';
  await writeFile(join(daemon.folder, 'data/fake-guests', `${id}.json`), JSON.stringify(stranger));
  // Of guests whose VMs were deleted, more than the process may have stayed.
  await mkdir(join(daemon.folder, 'data/images/0190a000-0000-7000-8000-000000000002'));
  await writeFile(join(daemon.folder, 'data/volumes/0190a000-0000-7000-8000-000000000003.qcow2'), '');
  await daemon.start();
  const event = await untilEvent(daemon, 'vm.orphan-ended');
  assert.ok(event.message.includes(id));
  assert.equal(await readGuest(daemon, id), null);
  assert.equal((await readVm(daemon, 'web1')).status.state, 'running');
  await untilConsistent(lodge);
});

test('with the machine start those VMs that are to, and only those', async (t) => {
  const { daemon } = await startFakeLodge(t);
  await makeVm(daemon, 'auto', { autostart: true });
  await makeVm(daemon, 'manual');
  const ids = new Map<string, string>();
  for (const [name, mode] of [
    ['always', 'always'],
    ['failing', 'on-failure'],
  ] as const)
    ids.set(name, (await makeVm(daemon, name, { restartPolicy: { mode } }, { start: true })).id);
  await daemon.settled();
  await daemon.restart('kill');
  assert.equal((await readVm(daemon, 'auto')).status.state, 'stopped', 'a new daemon is no new machine');
  await daemon.stop();
  await playReboot(daemon);
  for (const name of ['always', 'failing']) await killGuest(daemon, ids.get(name) ?? '');
  await daemon.start();
  await untilState(daemon, 'auto', 'running');
  await untilState(daemon, 'always', 'running');
  assert.equal((await readVm(daemon, 'manual')).status.state, 'stopped');
  const failing = await readVm(daemon, 'failing');
  assert.equal(failing.status.state, 'stopped');
  assert.equal(failing.status.lastExit?.cause, 'host-restarted');
});

/** Waits until a task is in a step, and kills the daemon there, or right after: a step may take a millisecond. */
async function killInStep(daemon: TestDaemon, begin: () => Promise<Task>, step: number): Promise<string> {
  const abort = new AbortController();
  const stream = await daemon.client.event.stream({ query: { kinds: 'task' } }, { signal: abort.signal });
  const { id } = await begin();
  for await (const change of stream) {
    const task = change.object as Task | null;
    if (task?.id !== id) continue;
    if (task.steps[step]?.state !== 'pending') break;
  }
  await daemon.kill();
  abort.abort();
  return id;
}

suite('a daemon that is killed in the middle of a task', () => {
  const spec = { nics: [{ network: 'default' }], disks: [{ name: 'data', sizeMib: 2 }], cloudInit: { sshKeys: [] } };

  test('creates and starts a VM all the same, whichever step it was in', async (t) => {
    const lodge = await startFakeLodge(t);
    const { daemon } = lodge;
    for (let step = 0; step < 5; step++) {
      const name = `web${step}`;
      const begin = (): Promise<Task> => daemon.client.vm.create({ body: { name, spec }, query: { start: true } });
      const id = await killInStep(daemon, begin, step);
      await daemon.start();
      const task = await endOf(daemon, daemon.client.task.get({ params: { task: id } }));
      assert.equal(task.state, 'succeeded', task.error?.message);
      assert.equal((await readVm(daemon, name)).status.state, 'running');
      await untilConsistent(lodge);
    }
  });

  test('restarts, stops, suspends, starts and deletes a VM all the same', async (t) => {
    const lodge = await startFakeLodge(t);
    const { daemon } = lodge;
    const { client } = daemon;
    const vm = await makeVm(daemon, 'web1', spec, { start: true });
    const params = { vm: 'web1' };
    const kills: [string, () => Promise<Task>, number, string | null][] = [
      ['restart', () => client.vm.restart({ params, body: {} }), 0, 'running'],
      ['restart', () => client.vm.restart({ params, body: {} }), 2, 'running'],
      ['restart', () => client.vm.restart({ params, body: {} }), 3, 'running'],
      ['suspend', () => client.vm.suspend({ params }), 0, 'suspended'],
      ['start', () => client.vm.start({ params }), 1, 'running'],
      ['stop', () => client.vm.stop({ params, body: {} }), 1, 'stopped'],
      ['start', () => client.vm.start({ params }), 0, 'running'],
      ['delete', () => client.vm.delete({ params, query: { force: true } }), 1, null],
    ];
    for (const [what, begin, step, state] of kills) {
      const id = await killInStep(daemon, begin, step);
      await daemon.start();
      const task = await endOf(daemon, client.task.get({ params: { task: id } }));
      assert.equal(task.state, 'succeeded', `${what}: ${task.error?.message}`);
      if (state !== null) assert.equal((await readVm(daemon, 'web1')).status.state, state, what);
      await untilConsistent(lodge);
    }
    assert.deepEqual((await client.vm.list()).items, []);
    assert.equal(await readGuest(daemon, vm.id), null);
  });

  test('goes on waiting for a guest that it has asked to shut down', async (t) => {
    const { daemon } = await startFakeLodge(t);
    const vm = await makeVm(daemon, 'web1', {}, { start: true });
    await changeGuest(daemon, vm.id, { isDeaf: true });
    const stop = await daemon.client.vm.stop({ params: { vm: 'web1' }, body: { timeoutS: 3600 } });
    await untilState(daemon, 'web1', 'stopping');
    await daemon.restart('kill');
    assert.equal((await readVm(daemon, 'web1')).status.state, 'stopping');
    await changeGuest(daemon, vm.id, { state: 'shutdown' });
    await done(daemon, stop);
    assert.equal((await readVm(daemon, 'web1')).status.lastExit?.cause, 'stopped');
  });
});
