// The task engine when the daemon dies, stops, is replaced by another version, loses room, or is one of several nodes.
import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import { eventually } from '../../../test/support/wait.ts';
import { LodgeError } from '../../api/errors.ts';
import { silentLog } from '../store/informer.ts';
import { StoreFullError, type Store } from '../store/store.ts';
import { engineScene } from './engine-scene.ts';
import { fillTask, hasCode, singleTask, submission, target, timeoutMs, untilAborted, World } from './sample-tasks.ts';
import { TaskEngine } from './task-engine.ts';
import { TaskRecords } from './task-records.ts';
import { CrashingStore, startEngine, taskConformance, temporaryStore, withSteps } from './task.conformance.ts';

for (const options of [
  { onCrash: 'resume' },
  { onCrash: 'undo' },
  { onCrash: 'undo', pivot: 1 },
  { onCrash: 'resume', pivot: 0 },
] as const) {
  taskConformance(`vm.fill ${JSON.stringify(options)}`, async () => {
    const world = new World();
    world.files.set('other', 'stays');
    return {
      type: fillTask(world, options),
      target: target('web'),
      input: {},
      observe: async () => Array.from(world.files, (file) => file.join()).toSorted(),
      cleanup: async () => {},
    };
  });
}

suite('The task engine, interrupted,', () => {
  const scene = engineScene();
  const { start } = scene;

  test('a deadline that passed while the daemon was down ends it at once', async () => {
    const world = new World();
    const dying = new CrashingStore(scene.store);
    const crashing = withSteps(fillTask(world), () => ({ run: async () => dying.crash() }));
    const first = await start([crashing], {}, dying);
    const { id } = await first.submit(crashing, submission());
    await eventually(() => dying.isCrashed);
    await first.stop();
    const records = new TaskRecords(scene.store, silentLog);
    await records.load();
    await records.update(id, { deadline: new Date(Date.now() - 1).toISOString() }, new AbortController().signal);
    await records.close();
    const record = await (await start([fillTask(world)])).wait(id, { timeoutMs });
    assert.equal(record.error?.code, 'timeout');
    assert.match(record.error?.message ?? '', /deadline/);
    assert.deepEqual(world.log, ['undo undefined']);
  });

  test('stopping leaves a running task for the next engine, which runs the step again', async () => {
    const world = new World();
    const type = fillTask(world);
    const stuck = withSteps(type, (step, index) => ({
      run: async (context) => {
        await step.run(context);
        if (index === 1) await untilAborted(context.signal);
      },
    }));
    const first = await start([stuck]);
    const { id } = await first.submit(stuck, submission());
    const later = await first.submit(stuck, submission());
    const waiting = assert.rejects(first.wait(id), hasCode('unavailable'));
    await eventually(() => world.log.includes('run b'));
    await first.stop();
    await waiting;
    await assert.rejects(first.submit(stuck, submission()), hasCode('unavailable'));
    assert.deepEqual(world.log, ['run a', 'run b']);
    const second = await start([type]);
    assert.equal((await second.wait(id, { timeoutMs })).state, 'succeeded');
    assert.equal((await second.wait(later.id, { timeoutMs })).state, 'succeeded');
    assert.deepEqual(world.log.slice(0, 5), ['run a', 'run b', 'run b', 'run c', 'run a']);
  });

  test('a cancel that was saved before a crash is carried out after it', async () => {
    const world = new World();
    const type = fillTask(world);
    const dying = new CrashingStore(scene.store);
    const reached = Promise.withResolvers<void>();
    const stuck = withSteps(type, (step, index) => ({
      run: async (context) => {
        await step.run(context);
        if (index !== 1) return;
        reached.resolve();
        await new Promise(() => {});
      },
    }));
    const first = await start([stuck], { graceMs: 1 }, dying);
    const { id } = await first.submit(stuck, submission());
    await reached.promise;
    dying.writesLeft = 2;
    await first.cancel(id);
    await first.stop();
    const record = await (await start([type])).wait(id, { timeoutMs });
    assert.equal(record.state, 'cancelled');
    assert.equal(world.files.size, 0);
    assert.equal(world.log.filter((entry) => entry === 'run b').length, 1, 'it is not run again before');
  });

  test('a task of another node is left to it, and a cancel reaches it there, waiting or running', async () => {
    const reached = Promise.withResolvers<void>();
    const type = singleTask(async ({ signal }) => {
      reached.resolve();
      await untilAborted(signal);
    });
    const near = await start([type], { node: 'near' });
    const far = await start([type], { node: 'far' });
    const running = await near.submit(type, { ...submission(), node: 'far' });
    const waiting = await near.submit(type, { ...submission(), node: 'far' });
    await reached.promise;
    await near.cancel(waiting.id);
    assert.equal((await near.wait(waiting.id, { timeoutMs })).state, 'cancelled');
    await near.cancel(running.id);
    assert.equal((await near.wait(running.id, { timeoutMs })).state, 'cancelled');
    assert.equal((await far.wait(running.id, { timeoutMs })).steps[0]?.state, 'failed');
  });

  test('a save keeps the mark that another node has set meanwhile', async () => {
    const type = singleTask(() => {});
    const engine = new TaskEngine({ store: scene.store, types: [type] });
    scene.keep(engine);
    await engine.load();
    const { id } = await engine.submit(type, submission());
    const records = new TaskRecords(scene.store, silentLog);
    await records.load();
    const stored = records.stored(id) ?? assert.fail();
    const { signal } = new AbortController();
    await records.update(id, { isCancelRequested: true }, signal);
    const saved = await records.save(stored, { state: 'running' }, signal);
    assert.equal(saved.record.isCancelRequested, true);
    assert.equal(saved.record.state, 'running');
    await records.close();
  });

  test('tasks of types and steps that this version does not have fail with that as the reason', async () => {
    const world = new World();
    const dying = new CrashingStore(scene.store);
    const type = fillTask(world);
    const crashing = withSteps(type, (step, index) => ({
      run: async (context) => {
        await step.run(context);
        if (index === 1) dying.crash();
      },
    }));
    const first = await start([crashing], {}, dying);
    const { id } = await first.submit(crashing, submission());
    await eventually(() => dying.isCrashed);
    await first.stop();
    const changed = { ...type, steps: type.steps.slice(0, 2) };
    const record = await (await start([changed])).wait(id, { timeoutMs });
    assert.equal(record.error?.code, 'unsupported');
    assert.equal(world.files.size, 0, 'the steps that are still known were undone');
    const other = await start([singleTask(() => {})], { node: 'other' });
    const { record: unknown, part } = (await start([type], { node: 'third' })).prepare(type, {
      ...submission(),
      node: 'other',
    });
    await scene.store.transact(part);
    await eventually(() => other.get(unknown.id));
    const failed = await other.wait(unknown.id, { timeoutMs });
    assert.match(failed.error?.message ?? '', /no tasks of type vm.fill/);
  });

  test('a task waits while the store has no room, and goes on when it has', async () => {
    const world = new World();
    const type = fillTask(world);
    let refusals = 2;
    const full = new Proxy(scene.store, {
      get(inner, name) {
        if (name !== 'transact') {
          const member: unknown = Reflect.get(inner, name, inner);
          return typeof member === 'function' ? member.bind(inner) : member;
        }
        return async (transaction: Parameters<Store['transact']>[0]) => {
          if (JSON.stringify(transaction).includes('file1') && refusals-- > 0) throw new StoreFullError('the disk');
          return inner.transact(transaction);
        };
      },
    });
    const engine = await start([type], {}, full);
    const record = await engine.wait((await engine.submit(type, submission())).id, { timeoutMs });
    assert.equal(record.state, 'succeeded');
    assert.ok(refusals <= 0);
  });

  test('dies again and again, also while it recovers, and ends as it should', async () => {
    for (const [writes, scenario] of [
      [3, 'success'],
      [3, 'failure'],
      [4, 'failure'],
    ] as const) {
      const own = await temporaryStore();
      const world = new World();
      const type = withSteps(fillTask(world), (step, index) => ({
        run: async (context) => {
          await step.run(context);
          if (scenario === 'failure' && index === 2) throw new LodgeError('timeout', 'as planned');
        },
      }));
      let id = '';
      let outcome = '';
      let deaths = -1;
      do {
        assert.ok(++deaths < 30, 'it gets nowhere');
        const dying = new CrashingStore(own.store);
        dying.isLastWriteKept = deaths % 2 === 0;
        const engine = await startEngine(dying, [type]);
        id ||= (await engine.submit(type, submission())).id;
        dying.writesLeft = writes;
        const look = (): string | null => {
          const { state } = engine.require(id);
          return state === 'succeeded' || state === 'failed' ? state : dying.isCrashed ? 'died' : null;
        };
        outcome = await eventually(look, { timeoutMs, intervalMs: 1 });
        await engine.stop();
      } while (outcome === 'died');
      assert.ok(deaths >= 2, `it died only ${deaths} times`);
      assert.equal(outcome, scenario === 'success' ? 'succeeded' : 'failed');
      assert.deepEqual([...world.files.keys()], scenario === 'success' ? ['a', 'b', 'c'] : []);
      await own.remove();
    }
  });

  for (const scenario of ['success', 'failure'] as const) {
    for (const isLastWriteKept of [true, false]) {
      test(`dies at every write of a ${scenario}, ${isLastWriteKept ? 'after' : 'before'} it was kept, and ends as it should`, async () => {
        for (let write = 1; ; write++) {
          const own = await temporaryStore();
          const world = new World();
          const type = withSteps(fillTask(world), (step, index) => ({
            run: async (context) => {
              await step.run(context);
              if (scenario === 'failure' && index === 2) throw new LodgeError('timeout', 'as planned');
            },
          }));
          const dying = new CrashingStore(own.store);
          dying.writesLeft = write;
          dying.isLastWriteKept = isLastWriteKept;
          const first = await startEngine(dying, [type]);
          const submitted = await first.submit(type, submission()).catch(() => null);
          const isOver = (): boolean =>
            dying.isCrashed ||
            (submitted !== null && ['succeeded', 'failed'].includes(first.get(submitted.id)?.state ?? ''));
          await eventually(isOver, { timeoutMs, intervalMs: 1 });
          await first.stop();
          const second = await startEngine(own.store, [type]);
          const [record] = second.all();
          const done = record && (await second.wait(record.id, { timeoutMs }));
          assert.ok(done ?? submitted === null, 'what was acknowledged is there');
          if (done) {
            assert.equal(done.state, scenario === 'success' ? 'succeeded' : 'failed', `write ${write}`);
            if (scenario === 'failure') assert.equal(done.error?.message, 'as planned');
          }
          const expected = done && scenario === 'success' ? ['a', 'b', 'c'] : [];
          assert.deepEqual(Array.from(world.files.keys()), expected, `write ${write}`);
          await second.stop();
          await own.remove();
          if (dying.isCrashed) continue;
          assert.ok(write > 7, `only ${write} writes`);
          return;
        }
      });
    }
  }
});
