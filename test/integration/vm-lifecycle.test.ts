// What can be asked of a VM, in every state: each action either does what the table of states says, or is refused with
// what to do. The real daemon with the fake driver.
import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import { type Task } from '../../src/api/task.ts';
import { vmActions, type VmAction, type VmState } from '../../src/api/vm-state.ts';
import { type Vm } from '../../src/api/vm.ts';
import {
  assertRefused,
  changeGuest,
  done,
  endOf,
  killGuest,
  makeVm,
  readGuest,
  readVm,
  refusal,
  sharedFakeLodge,
  startFakeLodge,
  untilEvent,
  untilState,
} from '../support/fake-lodge.ts';
import { type TestDaemon } from '../support/daemon.ts';
import { eventually } from '../support/wait.ts';
import { waitForTask } from '../../src/client/follow.ts';

const lodge = sharedFakeLodge();

/** How each action is asked for over the API. */
const calls: Record<VmAction, (daemon: TestDaemon, vm: Vm) => Promise<unknown>> = {
  start: ({ client }, { name }) => client.vm.start({ params: { vm: name } }),
  stop: ({ client }, { name }) => client.vm.stop({ params: { vm: name }, body: {} }),
  forceOff: ({ client }, { name }) => client.vm.forceOff({ params: { vm: name } }),
  restart: ({ client }, { name }) => client.vm.restart({ params: { vm: name }, body: {} }),
  reset: ({ client }, { name }) => client.vm.reset({ params: { vm: name } }),
  pause: ({ client }, { name }) => client.vm.pause({ params: { vm: name } }),
  resume: ({ client }, { name }) => client.vm.resume({ params: { vm: name } }),
  suspend: ({ client }, { name }) => client.vm.suspend({ params: { vm: name } }),
  delete: ({ client }, { name }) => client.vm.delete({ params: { vm: name } }),
  console: ({ client }, { name }) => client.vm.openConsole({ params: { vm: name } }),
  guest: ({ client }, { name }) => client.vm.guestInfo({ params: { vm: name } }),
  measure: ({ client }, { name }) => client.vm.diskLatency({ params: { vm: name } }),
  clone: ({ client }, { name }) => client.vm.clone({ params: { vm: name }, body: {} }),
  fork: ({ client }, { name }) => client.vm.fork({ params: { vm: name }, body: {} }),
  update: ({ client }, { name, spec }) => client.vm.update({ params: { vm: name }, body: { spec } }),
};

/** States that last, each with the way there from running. */
const lasting: Partial<Record<VmState, (daemon: TestDaemon, vm: Vm) => Promise<unknown>>> = {
  running: async () => {},
  stopped: ({ client }, { name }) => client.vm.forceOff({ params: { vm: name } }),
  suspended: ({ client }, { name }) => client.vm.suspend({ params: { vm: name } }),
  paused: ({ client }, { name }) => client.vm.pause({ params: { vm: name } }),
  crashed: (daemon, { id }) => changeGuest(daemon, id, { state: 'crashed' }),
};

/** The fields that wait. */
function fieldsOf({ status }: Vm): string[] {
  return status.pendingChanges.map(({ field }) => field).toSorted();
}

suite('every action from every lasting state', () => {
  for (const [state, bring] of Object.entries(lasting) as [VmState, (typeof lasting)[VmState] & object][]) {
    test(`${state}: what is allowed is done, the rest is refused with what to do instead`, async (t) => {
      const { daemon } = await lodge(t);
      for (const action of Object.keys(calls) as VmAction[]) {
        const name = `vm-${action.toLowerCase()}`;
        const vm = await makeVm(daemon, name, {}, { start: true });
        const way = (await bring(daemon, vm)) as Task | undefined;
        if (way && typeof way === 'object' && 'steps' in way) await done(daemon, way);
        const before = await untilState(daemon, name, state);
        const { from, to } = vmActions[action];
        if (!from.includes(state)) {
          const error = await assertRefused(daemon, calls[action](daemon, before), 'wrong_state');
          assert.ok(error.message.includes(name) && error.message.includes(state), error.message);
          assert.equal(
            (await readVm(daemon, name)).status.state,
            state,
            `${action} changed the VM although it refused`,
          );
          continue;
        }
        const answer = (await calls[action](daemon, before)) as Task | Vm;
        if (typeof answer === 'object' && 'steps' in answer) await done(daemon, answer);
        if (action === 'delete') {
          await assertRefused(daemon, readVm(daemon, name), 'not_found');
          assert.equal(await readGuest(daemon, vm.id), null);
          continue;
        }
        const after = await readVm(daemon, name);
        assert.equal(after.status.state, to ?? state, `${action} from ${state}`);
        const isUp = ['running', 'paused', 'crashed'].includes(after.status.state);
        assert.equal((await readGuest(daemon, vm.id)) !== null, isUp, `${action} from ${state}: the guest`);
      }
    });
  }
});

suite('creating', () => {
  test('with start runs when its task has ended; without, it is stopped', async (t) => {
    const { daemon } = await lodge(t);
    const running = await makeVm(daemon, 'web1', {}, { start: true });
    assert.equal(running.status.state, 'running');
    assert.ok(running.status.startedAt && running.status.pinned && running.status.startedSpec);
    assert.equal((await eventually(async () => (await readVm(daemon, 'web1')).status.guest))?.hostname, 'web1');
    assert.equal((await readVm(daemon, 'web1')).status.isUp, true);
    const stopped = await makeVm(daemon, 'web2');
    assert.equal(stopped.status.state, 'stopped');
    assert.equal(await readGuest(daemon, stopped.id), null);
  });

  test('with a start that fails leaves nothing: no VM, no disk, no folder, no link', async (t) => {
    const { daemon, namespace } = await lodge(t);
    const body = {
      name: 'web1',
      spec: {
        nics: [{ network: 'default' }],
        disks: [{ name: 'data', sizeMib: 4 }],
        firmware: { commandLineExtra: 'fake.fail-start' },
      },
    };
    const error = await refusal(daemon, daemon.client.vm.create({ body, query: { start: true } }));
    assert.equal(error.code, 'hypervisor_failed');
    assert.deepEqual((await daemon.client.vm.list()).items, []);
    assert.deepEqual((await daemon.client.volume.list()).items, []);
    const { stdout } = await namespace.run(['ip', '-brief', 'link', 'show', 'type', 'tun']);
    assert.equal(stdout, '');
    // The name is free again.
    await makeVm(daemon, 'web1', {}, { start: true });
  });

  test('of one name at once makes one VM and tells the other caller so', async (t) => {
    const { daemon } = await lodge(t);
    for (let round = 0; round < 5; round++) {
      const body = { name: `web${round}`, spec: { nics: [] } };
      const results = await Promise.allSettled([1, 2, 3].map(() => daemon.client.vm.create({ body })));
      const made = results.filter((result) => result.status === 'fulfilled');
      assert.equal(made.length, 1);
      for (const result of results)
        if (result.status === 'rejected') assert.equal((result.reason as { code: string }).code, 'name_taken');
      await done(daemon, made[0]!.value);
    }
    assert.equal((await daemon.client.vm.list()).total, 5);
  });

  test('with an idempotency key is done once, also when the answer was lost', async (t) => {
    const { daemon } = await startFakeLodge(t);
    const body = { name: 'web1', spec: { nics: [] } };
    const first = await daemon.client.vm.create({ body, idempotencyKey: 'one' });
    const again = await daemon.client.vm.create({ body, idempotencyKey: 'one' });
    assert.equal(again.id, first.id);
    await done(daemon, first);
    const other = daemon.client.vm.create({ body: { ...body, name: 'web2' }, idempotencyKey: 'one' });
    await assertRefused(daemon, other, 'idempotency_conflict');
    await daemon.restart('kill');
    assert.equal((await daemon.client.vm.create({ body, idempotencyKey: 'one' })).id, first.id);
    assert.equal((await daemon.client.vm.list()).total, 1);
  });

  test('twice with the same MAC or reserved address is refused with the name of the VM that has it', async (t) => {
    const { daemon } = await lodge(t);
    await daemon.client.network.create({ body: { name: 'lan', spec: { ipv4Cidr: '10.210.0.0/24' } } });
    const nics = [{ network: 'lan', mac: '52:54:00:00:00:01', ipv4Address: '10.210.0.20' }];
    await makeVm(daemon, 'web1', { nics });
    const mac = await assertRefused(
      daemon,
      daemon.client.vm.create({ body: { name: 'web2', spec: { nics: [{ network: 'lan', mac: nics[0]!.mac }] } } }),
      'invalid_request',
      'spec.nics.0.mac',
    );
    assert.match(mac.message, /web1/);
    const address = { network: 'lan', ipv4Address: '10.210.0.20' };
    await assertRefused(
      daemon,
      daemon.client.vm.create({ body: { name: 'web2', spec: { nics: [address] } } }),
      'invalid_request',
      'spec.nics.0.ipv4Address',
    );
    const both = ['web3', 'web4'].map((name) =>
      daemon.client.vm.create({ body: { name, spec: { nics: [{ network: 'lan', mac: '52:54:00:00:00:09' }] } } }),
    );
    const results = await Promise.allSettled(both);
    assert.equal(results.filter(({ status }) => status === 'fulfilled').length, 1, 'both were made at once');
  });
});

suite('changing', () => {
  test('on a stale revision is refused and changes nothing; on the newest it is done', async (t) => {
    const { daemon } = await lodge(t);
    const vm = await makeVm(daemon, 'web1');
    const params = { vm: 'web1' };
    const changed = await daemon.client.vm.update({
      params,
      body: { revision: vm.revision, labels: { tier: 'web' }, spec: { ...vm.spec, memoryMib: 64 } },
    });
    assert.ok(changed.revision > vm.revision);
    const stale = daemon.client.vm.update({
      params,
      body: { revision: vm.revision, spec: { ...vm.spec, memoryMib: 32 } },
    });
    await assertRefused(daemon, stale, 'revision_conflict');
    const now = await readVm(daemon, 'web1');
    assert.equal(now.spec.memoryMib, 64);
    assert.deepEqual(now.labels, { tier: 'web' });
  });

  test('while it runs is made at once where it can be; what can not is pending, and in effect after the next start', async (t) => {
    const { daemon } = await lodge(t);
    const vm = await makeVm(daemon, 'web1', { memoryMib: 64 }, { start: true });
    const params = { vm: 'web1' };
    const disks = [{ name: 'data', sizeMib: 4 }];
    const spec = {
      ...vm.spec,
      memoryMib: 128,
      description: 'warm',
      disks,
      display: 'vnc' as const,
      machine: 'pc' as const,
    };
    const changed = await daemon.client.vm.update({ params, body: { spec } });
    assert.deepEqual(fieldsOf(changed), ['spec.disks.data', 'spec.display', 'spec.machine', 'spec.memoryMib']);
    assert.ok(changed.status.taskId, 'the task that makes the changes is named');
    await waitForTask(daemon.client, changed.status.taskId, { timeoutMs: 30_000 });
    const live = await readVm(daemon, 'web1');
    assert.deepEqual(live.status.pendingChanges, [
      {
        field: 'spec.machine',
        current: 'q35',
        wanted: 'pc',
        reason: 'The VM is built with it when it starts.',
        needsRestart: true,
      },
      {
        field: 'spec.display',
        current: 'auto',
        wanted: 'vnc',
        reason: 'The VM is built with it when it starts.',
        needsRestart: true,
      },
    ]);
    assert.equal(live.status.startedSpec?.memoryMib, 128);
    assert.equal(live.status.startedSpec?.machine, 'q35');
    assert.equal((await readGuest(daemon, vm.id))?.hardware.memoryMib, 128);
    const back = await daemon.client.vm.update({
      params,
      body: { spec: { ...spec, display: 'auto', machine: 'q35' } },
    });
    assert.deepEqual(back.status.pendingChanges, []);
    await daemon.client.vm.update({ params, body: { spec } });
    await done(daemon, daemon.client.vm.restart({ params, body: {} }));
    const restarted = await readVm(daemon, 'web1');
    assert.deepEqual(restarted.status.pendingChanges, []);
    assert.equal(restarted.status.startedSpec?.machine, 'pc');
    assert.deepEqual(
      restarted.status.disks.map(({ name, sizeMib }) => ({ name, sizeMib })),
      [{ name: 'data', sizeMib: 4 }],
    );
  });

  test('makes a disk larger at the next start, refuses to make it smaller, and keeps a disk that is taken out', async (t) => {
    const { daemon } = await lodge(t);
    const vm = await makeVm(daemon, 'web1', { disks: [{ name: 'data', sizeMib: 8 }] });
    const params = { vm: 'web1' };
    const smaller = { ...vm.spec, disks: [{ name: 'data', sizeMib: 4 }] };
    await assertRefused(
      daemon,
      daemon.client.vm.update({ params, body: { spec: smaller } }),
      'invalid_request',
      'spec.disks.0.sizeMib',
    );
    await daemon.client.vm.update({ params, body: { spec: { ...vm.spec, disks: [{ name: 'data', sizeMib: 16 }] } } });
    await done(daemon, daemon.client.vm.start({ params }));
    const volume = await daemon.client.volume.get({ params: { volume: 'web1-data' } });
    assert.equal(volume.status.virtualSizeMib, 16);
    assert.equal((await readVm(daemon, 'web1')).status.disks[0]?.sizeMib, 16);
    await done(daemon, daemon.client.vm.forceOff({ params }));
    await daemon.client.vm.update({ params, body: { spec: { ...vm.spec, disks: [] } } });
    await done(daemon, daemon.client.vm.start({ params }));
    const kept = await daemon.client.volume.get({ params: { volume: 'web1-data' } });
    assert.equal(kept.status.usedBy, null);
    assert.equal(kept.status.isOwnedByVm, false);
  });

  test('a suspended VM leaves alone the hardware that its memory was saved with', async (t) => {
    const { daemon } = await lodge(t);
    const vm = await makeVm(daemon, 'web1', { memoryMib: 64 }, { start: true });
    const params = { vm: 'web1' };
    await done(daemon, daemon.client.vm.suspend({ params }));
    const spec = { ...vm.spec, memoryMib: 128, nics: [{ network: 'default' }] };
    const changed = await daemon.client.vm.update({ params, body: { spec } });
    assert.deepEqual(fieldsOf(changed), ['spec.memoryMib', 'spec.nics.0']);
    await done(daemon, daemon.client.vm.start({ params }));
    assert.equal((await readGuest(daemon, vm.id))?.wasRestored, true);
    await eventually(async () => (await readVm(daemon, 'web1')).status.pendingChanges.length === 0, {
      describe: 'what it could not have while it was suspended is changed when it runs again',
    });
    const caughtUp = await readVm(daemon, 'web1');
    assert.equal(caughtUp.status.startedSpec?.memoryMib, 128);
    assert.equal(caughtUp.status.nics.length, 1);
  });

  test('by many at once, each on the newest revision, loses no change', async (t) => {
    const { daemon } = await lodge(t);
    await makeVm(daemon, 'web1');
    const add = async (label: string): Promise<void> => {
      for (;;) {
        const vm = await readVm(daemon, 'web1');
        const body = { revision: vm.revision, labels: { ...vm.labels, [label]: 'yes' }, spec: vm.spec };
        const error: unknown = await daemon.client.vm.update({ params: { vm: 'web1' }, body }).then(
          () => null,
          (failure: unknown) => failure,
        );
        if (error === null) return;
        assert.equal((error as { code: string }).code, 'revision_conflict');
      }
    };
    const labels = ['a', 'b', 'c', 'd', 'e'];
    await Promise.all(labels.map(add));
    assert.deepEqual(Object.keys((await readVm(daemon, 'web1')).labels).toSorted(), labels);
  });
});

test('lists select by label and field, sort, and come in pages that miss nothing', async (t) => {
  const { daemon } = await lodge(t);
  const { client } = daemon;
  for (const [index, name] of ['c', 'a', 'e', 'b', 'd'].entries()) {
    const labels = { tier: index % 2 === 0 ? 'web' : 'db' };
    await makeVm(daemon, name, { memoryMib: 16 * (index + 1) }, { labels, start: name === 'a' });
  }
  const names = async (query: Parameters<typeof client.vm.list>[0] & object): Promise<string[]> =>
    (await client.vm.list(query)).items.map((vm) => vm.name);
  assert.deepEqual(await names({}), ['a', 'b', 'c', 'd', 'e']);
  assert.deepEqual(await names({ query: { selector: 'tier=web' } }), ['c', 'd', 'e']);
  assert.deepEqual(await names({ query: { selector: 'tier in (db,web),tier!=web' } }), ['a', 'b']);
  assert.deepEqual(await names({ query: { filter: 'status.state=running' } }), ['a']);
  assert.deepEqual(await names({ query: { filter: 'spec.memoryMib>=48', sort: '-spec.memoryMib' } }), ['d', 'b', 'e']);
  const first = await client.vm.list({ query: { limit: 2, sort: '-name' } });
  assert.equal(first.total, 5);
  assert.deepEqual(
    first.items.map((vm) => vm.name),
    ['e', 'd'],
  );
  const second = await client.vm.list({ query: { limit: 2, sort: '-name', continue: first.continue ?? '' } });
  const third = await client.vm.list({ query: { limit: 2, sort: '-name', continue: second.continue ?? '' } });
  assert.deepEqual(
    [...second.items, ...third.items].map((vm) => vm.name),
    ['c', 'b', 'a'],
  );
  assert.equal(third.continue, null);
  await assertRefused(daemon, client.vm.list({ query: { filter: 'spec.nonsense=1' } }), 'invalid_request', /filter/);
  await assertRefused(daemon, client.vm.list({ query: { continue: 'nonsense' } }), 'invalid_request', /continue/);
});

suite('stopping', () => {
  test('a guest that does not listen is switched off after the time that was given', async (t) => {
    const { daemon } = await lodge(t);
    const vm = await makeVm(daemon, 'web1', {}, { start: true });
    await changeGuest(daemon, vm.id, { isDeaf: true });
    await done(daemon, daemon.client.vm.stop({ params: { vm: 'web1' }, body: { timeoutS: 1 } }));
    const stopped = await readVm(daemon, 'web1');
    assert.equal(stopped.status.lastExit?.cause, 'forced-off');
    assert.match(stopped.status.lastExit?.message ?? '', /did not shut down in time/);
    const event = await untilEvent(daemon, 'vm.forced-off');
    assert.equal(event.severity, 'warning');
  });

  test('is cut short by force-off', async (t) => {
    const { daemon } = await lodge(t);
    const vm = await makeVm(daemon, 'web1', {}, { start: true });
    await changeGuest(daemon, vm.id, { isDeaf: true });
    const stop = await daemon.client.vm.stop({ params: { vm: 'web1' }, body: { timeoutS: 3600 } });
    await untilState(daemon, 'web1', 'stopping');
    await assertRefused(daemon, daemon.client.vm.start({ params: { vm: 'web1' } }), 'busy');
    await done(daemon, daemon.client.vm.forceOff({ params: { vm: 'web1' } }));
    await done(daemon, stop);
    const stopped = await readVm(daemon, 'web1');
    assert.equal(stopped.status.state, 'stopped');
    assert.equal(stopped.status.lastExit?.cause, 'forced-off');
  });

  test('that is cancelled leaves the guest running, and under control', async (t) => {
    const { daemon } = await lodge(t);
    const vm = await makeVm(daemon, 'web1', {}, { start: true });
    await changeGuest(daemon, vm.id, { isDeaf: true });
    const stop = await daemon.client.vm.stop({ params: { vm: 'web1' }, body: { timeoutS: 3600 } });
    await untilState(daemon, 'web1', 'stopping');
    await daemon.client.task.cancel({ params: { task: stop.id } });
    assert.equal((await endOf(daemon, stop)).state, 'cancelled');
    await untilState(daemon, 'web1', 'running');
    await done(daemon, daemon.client.vm.forceOff({ params: { vm: 'web1' } }));
  });

  test('a guest whose hypervisor dies meanwhile is not said to have shut down', async (t) => {
    const { daemon } = await lodge(t);
    const vm = await makeVm(daemon, 'web1', {}, { start: true });
    await changeGuest(daemon, vm.id, { isDeaf: true });
    const stop = await daemon.client.vm.stop({ params: { vm: 'web1' }, body: { timeoutS: 3600 } });
    await untilState(daemon, 'web1', 'stopping');
    await killGuest(daemon, vm.id);
    await done(daemon, stop);
    assert.equal((await readVm(daemon, 'web1')).status.lastExit?.cause, 'hypervisor-died');
  });
});

suite('deleting', () => {
  test('by force while it starts, stops, or waits for its turn ends in nothing', async (t) => {
    const { daemon } = await lodge(t);
    const { client } = daemon;
    for (const [index, act] of (
      [
        async (vm: string) => client.vm.start({ params: { vm } }),
        async (vm: string) => {
          await done(daemon, client.vm.start({ params: { vm } }));
          await changeGuest(daemon, (await readVm(daemon, vm)).id, { isDeaf: true });
          return client.vm.stop({ params: { vm }, body: { timeoutS: 3600 } });
        },
        async (vm: string) => {
          await done(daemon, client.vm.start({ params: { vm } }));
          return client.vm.suspend({ params: { vm } });
        },
      ] as const
    ).entries()) {
      const name = `web${index}`;
      const vm = await makeVm(daemon, name, { nics: [{ network: 'default' }], disks: [{ name: 'data', sizeMib: 2 }] });
      const other = await act(name);
      await done(daemon, client.vm.delete({ params: { vm: name }, query: { force: true } }));
      await endOf(daemon, other);
      await assertRefused(daemon, readVm(daemon, name), 'not_found');
      assert.equal(await readGuest(daemon, vm.id), null);
    }
    assert.deepEqual((await client.volume.list()).items, []);
  });

  test('by force while it is being created undoes the creation', async (t) => {
    const { daemon } = await lodge(t);
    const { client } = daemon;
    const body = { name: 'web1', spec: { nics: [{ network: 'default' }], disks: [{ name: 'data', sizeMib: 2 }] } };
    const creation = await client.vm.create({ body, query: { start: true } });
    const gone = await client.vm.delete({ params: { vm: 'web1' }, query: { force: true } });
    await done(daemon, gone);
    await endOf(daemon, creation);
    await assertRefused(daemon, readVm(daemon, 'web1'), 'not_found');
    assert.deepEqual((await client.volume.list()).items, []);
  });
});

suite('by itself', () => {
  const restartPolicy = { mode: 'on-failure', backOffS: 1, maxRetries: 2 } as const;

  test('a VM whose hypervisor dies is started again, each time later, and given up after the last try', async (t) => {
    const { daemon } = await lodge(t);
    const vm = await makeVm(daemon, 'web1', { restartPolicy }, { start: true });
    for (const count of [1, 2]) {
      await killGuest(daemon, vm.id);
      const waiting = await eventually(async () => {
        const { status } = await readVm(daemon, 'web1');
        return status.restarts.count === count && status.restarts.nextAt !== null ? status : null;
      });
      const waitMs = Date.parse(waiting.restarts.nextAt!) - Date.parse(waiting.lastExit!.at);
      assert.ok(Math.abs(waitMs - 1000 * 2 ** (count - 1)) < 500, `waits ${waitMs} ms the ${count}. time`);
      await untilState(daemon, 'web1', 'running');
    }
    await killGuest(daemon, vm.id);
    const event = await untilEvent(daemon, 'vm.restart-given-up');
    assert.match(event.message, /2 times/);
    const given = await untilState(daemon, 'web1', 'stopped');
    assert.equal(given.status.restarts.nextAt, null);
    // Whoever starts it begins a new count.
    await done(daemon, daemon.client.vm.start({ params: { vm: 'web1' } }));
    assert.equal((await readVm(daemon, 'web1')).status.restarts.count, 0);
  });

  test('a start of its own that fails is tried again too, later each time, and given up', async (t) => {
    const { daemon } = await lodge(t);
    const vm = await makeVm(daemon, 'web1', { restartPolicy }, { start: true });
    const spec = { ...vm.spec, firmware: { ...vm.spec.firmware, commandLineExtra: 'fake.fail-start' } };
    await daemon.client.vm.update({ params: { vm: 'web1' }, body: { spec } });
    const since = new Date().toISOString();
    await killGuest(daemon, vm.id);
    await untilEvent(daemon, 'vm.restart-given-up', (event) => event.at > since);
    const given = await readVm(daemon, 'web1');
    assert.equal(given.status.state, 'stopped');
    assert.equal(given.status.lastExit?.cause, 'start-failed');
    assert.match(given.status.lastExit?.message ?? '', /told to fail/);
    const { items } = await daemon.client.task.list({ query: { filter: 'type=vm.start,target.name=web1' } });
    assert.equal(items.filter(({ createdAt, state }) => createdAt > since && state === 'failed').length, 2);
  });

  test('a guest that powers itself off stays off, unless it is always to run', async (t) => {
    const { daemon } = await lodge(t);
    const once = await makeVm(daemon, 'once', { restartPolicy }, { start: true });
    const always = await makeVm(
      daemon,
      'always',
      { restartPolicy: { ...restartPolicy, mode: 'always' } },
      { start: true },
    );
    const startedAt = always.status.startedAt;
    await changeGuest(daemon, once.id, { state: 'shutdown' });
    await changeGuest(daemon, always.id, { state: 'shutdown' });
    const off = await untilState(daemon, 'once', 'stopped');
    assert.equal(off.status.lastExit?.cause, 'guest-shutdown');
    assert.equal(off.status.restarts.nextAt, null);
    await eventually(async () => {
      const { status } = await readVm(daemon, 'always');
      return status.state === 'running' && status.startedAt !== startedAt;
    });
  });

  test('a panicked guest is kept for looking at, or started again where the policy says so', async (t) => {
    const { daemon } = await lodge(t);
    const kept = await makeVm(daemon, 'kept', {}, { start: true });
    const again = await makeVm(daemon, 'again', { restartPolicy }, { start: true });
    await changeGuest(daemon, kept.id, { state: 'crashed' });
    await changeGuest(daemon, again.id, { state: 'crashed' });
    await untilState(daemon, 'kept', 'crashed');
    await untilEvent(daemon, 'vm.guest-panicked', (event) => event.subject.name === 'kept');
    const restarted = await eventually(async () => {
      const vm = await readVm(daemon, 'again');
      return vm.status.state === 'running' && vm.status.restarts.count === 1 ? vm : null;
    });
    assert.equal(restarted.status.lastExit?.cause, 'guest-panicked');
    await daemon.client.vm.reset({ params: { vm: 'kept' } });
    assert.equal((await readVm(daemon, 'kept')).status.state, 'running');
  });

  test('a planned start is dropped when the policy is changed, and kept over a restart of the daemon', async (t) => {
    const { daemon } = await startFakeLodge(t);
    const slow = { mode: 'on-failure', backOffS: 3, maxRetries: 2 } as const;
    const names = ['dropped', 'kept'];
    for (const name of names) {
      const vm = await makeVm(daemon, name, { restartPolicy: slow }, { start: true });
      await killGuest(daemon, vm.id);
      await eventually(async () => (await readVm(daemon, name)).status.restarts.nextAt);
    }
    const { spec } = await readVm(daemon, 'dropped');
    const body = { spec: { ...spec, restartPolicy: { ...slow, mode: 'never' as const } } };
    await daemon.client.vm.update({ params: { vm: 'dropped' }, body });
    assert.equal((await readVm(daemon, 'dropped')).status.restarts.nextAt, null);
    await daemon.restart('kill');
    await untilState(daemon, 'kept', 'running');
    assert.equal((await readVm(daemon, 'dropped')).status.state, 'stopped');
  });

  test('stop-guests shuts down all that is up, also what is only starting', async (t) => {
    const { daemon } = await startFakeLodge(t);
    const { client } = daemon;
    for (const name of ['a', 'b', 'c']) await makeVm(daemon, name, {}, { start: true });
    await client.vm.pause({ params: { vm: 'b' } });
    const starting = await makeVm(daemon, 'd');
    const start = await client.vm.start({ params: { vm: 'd' } });
    await done(daemon, client.node.stopGuests({ params: { node: 'self' } }));
    await endOf(daemon, start);
    const vms = (await client.vm.list()).items;
    assert.deepEqual(
      vms.filter((vm) => vm.id !== starting.id).map((vm) => [vm.name, vm.status.state, vm.status.lastExit?.cause]),
      ['a', 'b', 'c'].map((name) => [name, 'stopped', 'stopped']),
    );
  });
});
