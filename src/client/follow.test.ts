import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import type { Change } from '../api/event.ts';
import { LodgeError } from '../api/errors.ts';
import type { Task } from '../api/task.ts';
import type { LodgeClient } from './client.ts';
import { followChanges, waitForTask, waitForTaskEnd } from './follow.ts';

const broken = (): LodgeError => new LodgeError('unavailable', 'the connection broke');

function taskIn(state: Task['state'], percent = 0): Task {
  return {
    id: 't1',
    type: 'vm.start',
    target: { kind: 'vm', id: 'v1', name: 'web1', project: 'default' },
    project: 'default',
    state,
    steps: [],
    progress: { percent },
    items: [],
    parentId: null,
    error: state === 'failed' ? new LodgeError('busy', 'it is busy').toBody().error : null,
    requestedBy: 'test',
    createdAt: '2026-01-01T00:00:00Z',
    startedAt: null,
    endedAt: null,
    deadline: null,
  };
}

function change(revision: number, id: string, more: Partial<Change> = {}): Change {
  return { revision, type: 'updated', kind: 'vm', id, object: null, ...more };
}

type Item = Change | Error;

/** A client whose event streams are given, one for each connection, and whose task reads are given in order. */
function fakeClient(
  streams: (Item[] | Error)[],
  tasks: (Task | Error)[] = [],
): { client: LodgeClient; since: (number | undefined)[]; reads: () => number } {
  const since: (number | undefined)[] = [];
  let connection = 0;
  let reads = 0;
  const client = {
    event: {
      stream: async (input: { query: { since?: number } }) => {
        since.push(input.query.since);
        const items = streams[Math.min(connection, streams.length - 1)] ?? [];
        connection += 1;
        if (items instanceof Error) throw items;
        return (async function* () {
          for (const item of items) {
            if (item instanceof Error) throw item;
            yield item;
          }
        })();
      },
    },
    task: {
      get: async () => {
        const answer = tasks[Math.min(reads, tasks.length - 1)];
        reads += 1;
        if (answer === undefined) throw new Error('no task');
        if (answer instanceof Error) throw answer;
        return answer;
      },
    },
  } as unknown as LodgeClient;
  return { client, since, reads: () => reads };
}

async function take(changes: AsyncIterable<Change>, count: number): Promise<string[]> {
  const seen: string[] = [];
  for await (const item of changes) {
    seen.push(`${item.revision}/${item.id}`);
    if (seen.length === count) break;
  }
  return seen;
}

suite('followChanges', () => {
  test('after a break each change comes once, also when the break was inside a revision', async () => {
    const { client, since } = fakeClient([
      [change(5, 'a'), change(6, 'b'), change(6, 'c'), broken()],
      [change(6, 'b'), change(6, 'c'), change(6, 'd'), change(7, 'e')],
    ]);
    assert.deepEqual(await take(followChanges(client, { since: 4 }), 5), ['5/a', '6/b', '6/c', '6/d', '7/e']);
    assert.deepEqual(since, [4, 5]);
  });

  test('what was synced is not asked for again', async () => {
    const synced = change(9, '', { type: 'synced', kind: null, id: null });
    const { client, since } = fakeClient([[synced, broken()], [change(10, 'a')]]);
    assert.deepEqual(await take(followChanges(client), 2), ['9/null', '10/a']);
    assert.deepEqual(since, [undefined, 9]);
  });

  test('a stream that just ends is resumed', async () => {
    const { client } = fakeClient([[change(1, 'a')], [change(1, 'a'), change(2, 'b')]]);
    assert.deepEqual(await take(followChanges(client, { since: 0 }), 2), ['1/a', '2/b']);
  });

  test('revisions that are no longer kept are the caller’s affair', async () => {
    const gone = new LodgeError('revision_gone', 'compacted');
    await assert.rejects(take(followChanges(fakeClient([gone]).client, { since: 1 }), 1), gone);
  });

  test('a daemon that stays away is an error after the time given', async () => {
    const error = broken();
    await assert.rejects(take(followChanges(fakeClient([error]).client, { reconnectMs: 0 }), 1), error);
  });

  test('an aborted signal ends it without an error', async () => {
    const controller = new AbortController();
    const { client } = fakeClient([broken()]);
    const changes = followChanges(client, { signal: controller.signal, onBreak: () => controller.abort() });
    assert.deepEqual(await take(changes, 1), []);
  });
});

suite('waitForTask', () => {
  test('it follows the task through the stream to its end', async () => {
    const seen: string[] = [];
    const done = change(3, 't1', { kind: 'task', object: taskIn('succeeded', 100) });
    const half = change(2, 't1', { kind: 'task', object: taskIn('running', 50) });
    const { client } = fakeClient([[change(1, 'other', { kind: 'task' }), half, half, done]], [taskIn('queued')]);
    const task = await waitForTask(client, 't1', { onProgress: ({ state }) => seen.push(state) });
    assert.equal(task.state, 'succeeded');
    assert.deepEqual(seen, ['queued', 'running', 'succeeded']);
  });

  test('a task that has ended already needs no stream event', async () => {
    const { client } = fakeClient([[]], [taskIn('succeeded')]);
    assert.equal((await waitForTask(client, 't1')).state, 'succeeded');
  });

  test('after a break the task is read again', async () => {
    const { client, reads } = fakeClient([[broken()], []], [taskIn('running'), taskIn('succeeded')]);
    assert.equal((await waitForTask(client, 't1')).state, 'succeeded');
    assert.equal(reads(), 2);
  });

  test('without the permission to follow events it asks again and again', async () => {
    const { client } = fakeClient([new LodgeError('forbidden', 'no')], [taskIn('running'), taskIn('succeeded')]);
    assert.equal((await waitForTask(client, 't1')).state, 'succeeded');
  });

  test('a failed task throws its error; waitForTaskEnd gives it', async () => {
    const failed = fakeClient([[]], [taskIn('failed')]).client;
    await assert.rejects(waitForTask(failed, 't1'), (error) => error instanceof LodgeError && error.code === 'busy');
    assert.equal((await waitForTaskEnd(failed, 't1')).state, 'failed');
    const cancelled = fakeClient([[]], [taskIn('cancelled')]).client;
    await assert.rejects(
      waitForTask(cancelled, 't1'),
      (error) => error instanceof LodgeError && error.code === 'cancelled',
    );
  });

  test('a missing task is an error at once', async () => {
    const missing = new LodgeError('not_found', 'no task t1');
    await assert.rejects(waitForTask(fakeClient([[]], [missing]).client, 't1'), missing);
  });

  test('a deadline ends the wait and says that the task goes on', async () => {
    const { client } = fakeClient([new LodgeError('forbidden', 'no')], [taskIn('running')]);
    await assert.rejects(
      waitForTask(client, 't1', { timeoutMs: 5 }),
      (error) => error instanceof LodgeError && error.code === 'timeout' && /goes on/.test(error.hint),
    );
  });

  test('an aborted signal throws its reason', async () => {
    const controller = new AbortController();
    const reason = new Error('enough');
    const { client } = fakeClient([new LodgeError('forbidden', 'no')], [taskIn('running')]);
    const waiting = waitForTask(client, 't1', {
      signal: controller.signal,
      onProgress: () => controller.abort(reason),
    });
    await assert.rejects(waiting, reason);
  });
});
