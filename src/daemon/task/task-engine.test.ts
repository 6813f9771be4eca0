// The task engine, with made-up tasks on a real store: order, undoing, time, cancelling, progress, keys, limits.
import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import * as z from 'zod';
import { eventually } from '../../../test/support/wait.ts';
import { LodgeError } from '../../api/errors.ts';
import { task as taskSchema } from '../../api/task.ts';
import { engineScene } from './engine-scene.ts';
import { fillTask, hasCode, singleTask, submission, target, timeoutMs, untilAborted, World } from './sample-tasks.ts';
import { runStep, StepAborted } from './step-run.ts';
import { defineTask, toTask, type TaskRecord, type TaskType } from './task.ts';
import { withSteps } from './task.conformance.ts';

suite('The task engine', () => {
  const scene = engineScene();
  const { start } = scene;

  test('runs the steps in order and shows each state on the way', async () => {
    const world = new World();
    const type = fillTask(world);
    const engine = await start([type]);
    const seen: string[] = [];
    engine.onChange(({ object }) =>
      seen.push(`${object.state} ${object.steps.map(({ state }) => state[0]).join('')} ${object.progress.percent}`),
    );
    const { id } = await engine.submit(type, submission());
    const record = await engine.wait(id, { timeoutMs });
    assert.deepEqual(seen, [
      'queued ppp 0',
      'running rpp 0',
      'running rpp 0',
      'running drp 16.7',
      'running drp 16.7',
      'running ddr 50',
      'running ddr 50',
      'succeeded ddd 100',
    ]);
    assert.deepEqual(world.log, ['run a', 'run b', 'run c']);
    assert.equal(record.error, null);
    assert.ok(record.startedAt && record.endedAt && record.deadline);
    assert.deepEqual(engine.get(id), record);
    taskSchema.extend({ id: z.string() }).parse(toTask(record));
    assert.equal('input' in toTask(record), false);
  });

  test('input, state and services have the types of the definition', async () => {
    const results: string[] = [];
    const type = defineTask({
      type: 'vm.typed',
      input: z.object({ sizeMib: z.string().transform(Number) }),
      state: z.object({ half: z.number() }),
      services: { note: (text: string) => void results.push(text) },
      steps: [
        { name: 'one', timeoutMs: 1000, run: (context) => context.remember({ half: context.input.sizeMib / 2 }) },
        {
          name: 'two',
          timeoutMs: 1000,
          run: ({ state, services }) => services.note((state.half ?? 0).toFixed(1)),
        },
      ],
    });
    const engine = await start([type]);
    const { id } = await engine.submit(type, { ...submission(), input: { sizeMib: '5' } });
    await engine.wait(id, { timeoutMs });
    assert.deepEqual(results, ['2.5']);
  });

  test('refuses a definition and an input that make no sense', async () => {
    const step = { name: 'a', timeoutMs: 1, run: () => {} };
    for (const bad of [{ type: 'x' }, { steps: [] }, { steps: [step, step] }, { steps: [{ ...step, timeoutMs: 0 }] }]) {
      assert.throws(() => defineTask({ type: 'vm.x', input: z.unknown(), steps: [step], ...bad }), TypeError);
    }
    const type = fillTask(new World());
    const engine = await start([type]);
    await assert.rejects(
      engine.submit(type, { ...submission(), input: { names: 7 as never } }),
      hasCode('invalid_request'),
    );
    await assert.rejects(
      engine.submit(
        singleTask(() => {}),
        submission(),
      ),
      TypeError,
    );
    assert.deepEqual([...engine.all()], []);
  });

  test('a step that fails is undone with those before it, the last first, and the error is kept', async () => {
    const world = new World();
    const type = withSteps(fillTask(world), (step, index) => ({
      run: async (context) => {
        await step.run(context);
        if (index === 1) throw new LodgeError('storage_full', 'no room for b', { hint: 'make some' });
      },
    }));
    const engine = await start([type]);
    const { id } = await engine.submit(type, submission());
    const record = await engine.wait(id, { timeoutMs });
    assert.equal(record.state, 'failed');
    assert.deepEqual(record.error, { code: 'storage_full', message: 'no room for b', hint: 'make some' });
    assert.deepEqual(
      record.steps.map(({ state }) => state),
      ['undone', 'undone', 'pending'],
    );
    assert.deepEqual(world.log, ['run a', 'run b', 'undo b', 'undo a']);
    assert.equal(world.files.size, 0);
  });

  test('an error that is not meant for people is not shown', async () => {
    const type = singleTask(() => {
      throw new TypeError('secret detail');
    });
    const engine = await start([type]);
    const record = await engine.wait((await engine.submit(type, submission())).id, { timeoutMs });
    assert.equal(record.error?.code, 'internal');
    assert.match(record.error?.message ?? '', /step "work" of vm.single web/);
    assert.doesNotMatch(JSON.stringify(record), /secret/);
  });

  test('undoing is tried again, and what can not be undone is said while the rest is undone', async () => {
    const world = new World();
    let tries = 0;
    const type = withSteps(fillTask(world), (step, index) => ({
      run: async (context) => {
        await step.run(context);
        if (index === 2) throw new LodgeError('timeout', 'too slow');
      },
      undo: async (context) => {
        if (index === 1 || (index === 2 && tries++ < 2)) throw new LodgeError('host_failed', 'rm said no');
        await step.undo?.(context);
      },
    }));
    const engine = await start([type]);
    const record = await engine.wait((await engine.submit(type, submission())).id, { timeoutMs });
    assert.equal(record.state, 'failed');
    assert.deepEqual(
      record.steps.map(({ state }) => state),
      ['undone', 'undo-failed', 'undone'],
    );
    assert.equal(record.error?.code, 'timeout');
    assert.match(record.error?.message ?? '', /too slow; step "write 1" could not be undone: rm said no/);
    assert.deepEqual([...world.files.keys()], ['b']);
  });

  test('a step that takes too long is ended and undone', async () => {
    let isUndone = false;
    const type = singleTask(({ signal }) => untilAborted(signal), { timeoutMs: 5, undo: () => void (isUndone = true) });
    const engine = await start([type]);
    const record = await engine.wait((await engine.submit(type, submission())).id, { timeoutMs });
    assert.equal(record.error?.code, 'timeout');
    assert.match(record.error?.message ?? '', /5 ms/);
    assert.ok(isUndone);
  });

  test('a step that does not heed its signal is given up, undone, and can no longer do harm through its context', async () => {
    const late = Promise.withResolvers<void>();
    const outcome: { error?: unknown } = {};
    const type = defineTask({
      type: 'vm.deaf',
      input: z.unknown(),
      steps: [
        {
          name: 'deaf',
          timeoutMs: 5,
          async run({ remember, progress }) {
            await late.promise;
            progress({ percent: 99 });
            outcome.error = await remember({ late: true }).catch((error: unknown) => error);
          },
        },
      ],
    });
    const engine = await start([type], { graceMs: 5 });
    const record = await engine.wait((await engine.submit(type, submission())).id, { timeoutMs });
    assert.equal(record.error?.code, 'timeout');
    late.resolve();
    await eventually(() => outcome.error);
    assert.ok(outcome.error instanceof LodgeError);
    assert.deepEqual(engine.get(record.id), record);
  });

  test('a step that ends well although its time is over has ended well', async () => {
    const type = singleTask(({ signal }) => untilAborted(signal).catch(() => {}), { timeoutMs: 5 });
    const engine = await start([type]);
    assert.equal((await engine.wait((await engine.submit(type, submission())).id, { timeoutMs })).state, 'succeeded');
  });

  test('the deadline of the whole ends and undoes it', async () => {
    const world = new World();
    const type = {
      ...withSteps(fillTask(world), (step, index) => ({
        run: async (context) => {
          await step.run(context);
          if (index === 1) await untilAborted(context.signal);
        },
      })),
      timeoutMs: 50,
    };
    const engine = await start([type]);
    const record = await engine.wait((await engine.submit(type, submission())).id, { timeoutMs });
    assert.equal(record.state, 'failed');
    assert.equal(record.error?.code, 'timeout');
    assert.match(record.error?.message ?? '', /deadline/);
    assert.equal(world.files.size, 0);
  });

  test('cancelling ends the step under way and undoes it and those before', async () => {
    const world = new World();
    const reached = Promise.withResolvers<void>();
    const type = withSteps(fillTask(world), (step, index) => ({
      run: async (context) => {
        await step.run(context);
        if (index !== 1) return;
        reached.resolve();
        await untilAborted(context.signal);
      },
    }));
    const engine = await start([type]);
    const { id } = await engine.submit(type, submission());
    await reached.promise;
    const cancelling = await engine.cancel(id);
    assert.ok(cancelling.isCancelRequested);
    await engine.cancel(id).catch((error: unknown) => assert.ok(hasCode('wrong_state')(error)));
    const record = await engine.wait(id, { timeoutMs });
    assert.equal(record.state, 'cancelled');
    assert.equal(record.error?.code, 'cancelled');
    assert.deepEqual(world.log, ['run a', 'run b', 'undo b', 'undo a']);
    await assert.rejects(engine.cancel(id), hasCode('wrong_state'));
    await assert.rejects(engine.cancel('unknown'), hasCode('not_found'));
  });

  test('cancelling a task that waits ends it before any step', async () => {
    const gate = Promise.withResolvers<void>();
    let runs = 0;
    const type = singleTask(async () => {
      runs++;
      await gate.promise;
    });
    const engine = await start([type]);
    const first = await engine.submit(type, submission());
    const second = await engine.submit(type, submission());
    assert.equal((await engine.cancel(second.id)).state, 'cancelled');
    gate.resolve();
    assert.equal((await engine.wait(first.id, { timeoutMs })).state, 'succeeded');
    assert.equal(runs, 1);
  });

  test('a cancel that comes when all is done is too late', async () => {
    const reached = Promise.withResolvers<void>();
    const type = singleTask(async ({ signal }) => {
      reached.resolve();
      await untilAborted(signal).catch(() => {});
    });
    const engine = await start([type]);
    const { id } = await engine.submit(type, submission());
    await reached.promise;
    await engine.cancel(id);
    assert.equal((await engine.wait(id, { timeoutMs })).state, 'succeeded');
  });

  test('a cancel that comes while a pivot ends well is too late', async () => {
    const world = new World();
    const cancels: Promise<unknown>[] = [];
    const type: TaskType = withSteps(fillTask(world, { pivot: 1 }), (step, index) => ({
      run: async (context) => {
        await step.run(context);
        if (index === 1) cancels.push(engine.cancel(context.taskId));
      },
    }));
    const engine = await start([type]);
    const { id } = await engine.submit(type, submission());
    assert.equal((await engine.wait(id, { timeoutMs })).state, 'succeeded');
    await Promise.all(cancels);
    assert.deepEqual(world.log, ['run a', 'run b', 'run c']);
  });

  test('after the pivot there is no cancelling', async () => {
    const world = new World();
    const gate = Promise.withResolvers<void>();
    const reached = Promise.withResolvers<void>();
    const type = withSteps(fillTask(world, { pivot: 1 }), (step, index) => ({
      run: async (context) => {
        await step.run(context);
        if (index !== 2) return;
        reached.resolve();
        await gate.promise;
      },
    }));
    const engine = await start([type]);
    const { id } = await engine.submit(type, submission());
    await reached.promise;
    await assert.rejects(engine.cancel(id), hasCode('wrong_state'));
    gate.resolve();
    assert.equal((await engine.wait(id, { timeoutMs })).state, 'succeeded');
  });

  test('an interruptible step after the pivot can be cancelled: what was done stays, and nothing more is done', async () => {
    const world = new World();
    const reached = Promise.withResolvers<void>();
    const type = withSteps(fillTask(world, { pivot: 0 }), (step, index) => ({
      isInterruptible: index === 1,
      run: async (context) => {
        await step.run(context);
        if (index !== 1) return;
        reached.resolve();
        await new Promise((_, reject) => {
          context.signal.addEventListener('abort', () => reject(new Error('it was told to end')));
        });
      },
    }));
    const engine = await start([type]);
    const { id } = await engine.submit(type, submission());
    await reached.promise;
    await engine.cancel(id);
    const record = await engine.wait(id, { timeoutMs });
    assert.deepEqual([record.state, record.error?.code], ['cancelled', 'cancelled']);
    assert.deepEqual(
      record.steps.map(({ state }) => state),
      ['done', 'failed', 'pending'],
    );
    assert.deepEqual(world.log, ['run a', 'run b']);
  });

  test('a step after the pivot that keeps failing fails the task and undoes nothing', async () => {
    const world = new World();
    let tries = 0;
    const type = withSteps(fillTask(world, { pivot: 1 }), (step, index) => ({
      run: async (context) => {
        if (index < 2) return step.run(context);
        tries++;
        throw new LodgeError('host_failed', 'still no');
      },
    }));
    const engine = await start([type]);
    const record = await engine.wait((await engine.submit(type, submission())).id, { timeoutMs });
    assert.equal(record.state, 'failed');
    assert.equal(record.error?.message, 'still no');
    assert.equal(tries, 3);
    assert.deepEqual(
      record.steps.map(({ state }) => state),
      ['done', 'done', 'failed'],
    );
    assert.deepEqual([...world.files.keys()], ['a', 'b']);
  });

  test('tasks with one target run one after the other in their order, others beside them, up to the limit', async () => {
    const order: string[] = [];
    let running = 0;
    let most = 0;
    const onTarget = new Set<string>();
    const type = defineTask({
      type: 'vm.turn',
      input: z.object({ turn: z.int() }),
      steps: [
        {
          name: 'turn',
          timeoutMs: 10_000,
          async run({ input, target: { name } }) {
            assert.ok(!onTarget.has(name), 'two at once on one target');
            onTarget.add(name);
            most = Math.max(most, ++running);
            order.push(`${name}${input.turn}`);
            for (let turn = 0; turn < 3; turn++) await new Promise(setImmediate);
            running--;
            onTarget.delete(name);
          },
        },
      ],
    });
    const engine = await start([type], { maxConcurrent: 3 });
    const names = ['v', 'w', 'x', 'y', 'z'];
    const records: TaskRecord[] = [];
    for (let turn = 0; turn < 4; turn++) {
      for (const name of names)
        records.push(await engine.submit(type, { target: target(name), input: { turn }, requestedBy: 'test' }));
    }
    await Promise.all(records.map(({ id }) => engine.wait(id, { timeoutMs })));
    for (const name of names)
      assert.deepEqual(
        order.filter((entry) => entry.startsWith(name)),
        [0, 1, 2, 3].map((turn) => `${name}${turn}`),
      );
    assert.equal(most, 3);
  });

  test('progress is shown while a step runs, in percent of the whole and in bytes, and does not go back', async () => {
    const gate = Promise.withResolvers<void>();
    const type = defineTask({
      type: 'vm.copy',
      input: z.unknown(),
      steps: [
        {
          name: 'copy',
          weight: 3,
          timeoutMs: 10_000,
          async run({ progress }) {
            progress({ bytesDone: 50, bytesTotal: 100, message: 'half' });
            progress({ bytesDone: 40 });
            await gate.promise;
          },
        },
        { name: 'check', timeoutMs: 10_000, run: () => {} },
      ],
    });
    const engine = await start([type]);
    const { id } = await engine.submit(type, submission());
    await eventually(() => engine.get(id)?.progress.bytesDone);
    assert.deepEqual(engine.get(id)?.progress, { percent: 37.5, bytesDone: 40, bytesTotal: 100, message: 'half' });
    gate.resolve();
    assert.deepEqual((await engine.wait(id, { timeoutMs })).progress, { percent: 100 });
  });

  test('progress that comes all the time is saved once in a while', async () => {
    const type = singleTask((context) => {
      for (let percent = 0; percent < 100; percent++) context.progress({ percent });
    });
    const engine = await start([type], { progressIntervalMs: 60_000 });
    let changes = 0;
    engine.onChange(() => changes++);
    await engine.wait((await engine.submit(type, submission())).id, { timeoutMs });
    assert.equal(changes, 3, 'queued, running, succeeded');
  });

  test('the same idempotency key gives the same task, and another request with it is refused', async () => {
    const world = new World();
    const type = fillTask(world);
    const engine = await start([type]);
    const keyed = { ...submission(), idempotencyKey: 'k/1 ü' };
    const [first, second] = await Promise.all([engine.submit(type, keyed), engine.submit(type, keyed)]);
    assert.equal(first.id, second.id);
    await engine.wait(first.id, { timeoutMs });
    assert.equal((await engine.submit(type, keyed)).id, first.id);
    assert.notEqual((await engine.submit(type, { ...keyed, requestedBy: 'another' })).id, first.id);
    await assert.rejects(
      engine.submit(type, { ...keyed, input: { names: ['x', 'y', 'z'] } }),
      hasCode('idempotency_conflict'),
    );
    await assert.rejects(engine.submit(type, { ...keyed, target: target('db') }), hasCode('idempotency_conflict'));
  });

  test('a prepared task runs once it was written with something else, and not if that was refused', async () => {
    const world = new World();
    const type = fillTask(world);
    const engine = await start([type]);
    const { record, part } = engine.prepare(type, submission());
    const refused = await scene.store.transact({
      compare: [...part.compare, { key: '/x', exists: true }],
      success: part.success,
    });
    assert.equal(refused.succeeded, false);
    assert.equal(engine.get(record.id), null);
    await scene.store.transact({ compare: part.compare, success: [...part.success, { put: '/x', value: '1' }] });
    await eventually(() => engine.get(record.id));
    assert.equal((await engine.wait(record.id, { timeoutMs })).state, 'succeeded');
    assert.equal(world.files.size, 3);
  });

  test('finished tasks beyond the number and age to keep are removed, with their keys', async () => {
    const type = singleTask(() => {});
    const engine = await start([type], { retention: { maxAgeMs: 3_600_000, maxCount: 3 } });
    const ids: string[] = [];
    for (let index = 0; index < 6; index++) {
      const { id } = await engine.submit(type, { ...submission(), idempotencyKey: String(index) });
      ids.push(id);
      await engine.wait(id, { timeoutMs });
    }
    await eventually(() => Array.from(engine.all()).length <= 3);
    assert.deepEqual(Array.from(engine.all(), ({ id }) => id).toSorted(), ids.slice(3).toSorted());
    await engine.stop();
    const { items } = await scene.store.list({ prefix: '/lodge/' });
    assert.equal(items.length, 6);
    const strict = await start([type], { retention: { maxAgeMs: -1, maxCount: 100 } });
    await eventually(() => Array.from(strict.all()).length === 0);
  });

  test('more tasks than may wait are refused', async () => {
    const gate = Promise.withResolvers<void>();
    const type = singleTask(() => gate.promise);
    const engine = await start([type], { maxQueued: 2 });
    const first = await engine.submit(type, submission());
    await eventually(() => engine.get(first.id)?.state === 'running');
    await engine.submit(type, submission());
    await engine.submit(type, submission());
    await assert.rejects(engine.submit(type, submission()), hasCode('rate_limited'));
    gate.resolve();
    await Promise.all(Array.from(engine.all(), ({ id }) => engine.wait(id, { timeoutMs })));
  });

  test('waiting ends with its time, its signal, and for a task that is not there', async () => {
    const gate = Promise.withResolvers<void>();
    const type = singleTask(() => gate.promise);
    const engine = await start([type]);
    const { id } = await engine.submit(type, submission());
    await assert.rejects(engine.wait(id, { timeoutMs: 1 }), hasCode('timeout'));
    await assert.rejects(engine.wait(id, { signal: AbortSignal.abort(new Error('enough')) }), /enough/);
    await assert.rejects(engine.wait('nothing'), hasCode('not_found'));
    assert.deepEqual(
      engine.activeOn({ kind: 'vm', id: 'id-web' }).map((record) => record.id),
      [id],
    );
    gate.resolve();
    await engine.wait(id, { timeoutMs });
    assert.deepEqual(engine.activeOn({ kind: 'vm', id: 'id-web' }), []);
  });
});

suite('A run of a step', () => {
  const never = (signal: AbortSignal): Promise<void> => untilAborted(signal);

  test('ends for the first reason it is given', async () => {
    const run = runStep({ work: never, timeoutMs: 10_000, graceMs: 1000 });
    run.abort('cancelled');
    run.abort('deadline');
    await assert.rejects(run.ended, (error) => error instanceof StepAborted && error.reason === 'cancelled');
  });

  test('tells its own error apart from being ended', async () => {
    const failing = runStep({ work: () => Promise.reject(new Error('own')), timeoutMs: 10_000, graceMs: 1000 });
    await assert.rejects(failing.ended, /^Error: own$/);
    const aborted = runStep({
      work: (signal) => untilAborted(signal).catch(() => Promise.reject(new Error('own'))),
      timeoutMs: 1,
      graceMs: 10_000,
    });
    await assert.rejects(
      aborted.ended,
      (error) => error instanceof StepAborted && error.reason === 'timeout' && String(error.cause) === 'Error: own',
    );
  });
});
