import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { unlessSlow } from './unless-slow.ts';

/** Works that end when they are told to. */
function worksOf(...waitedFor: boolean[]): { works: Parameters<typeof unlessSlow<number>>[0]; end: (() => void)[] } {
  const ends = waitedFor.map(() => Promise.withResolvers<void>());
  return {
    works: ends.map(({ promise }, key) => ({ key, work: promise, isWaitedFor: waitedFor[key]! })),
    end: ends.map(({ resolve }) => resolve),
  };
}

test('as long as one work after the other ends, all are waited for', async (context) => {
  context.mock.timers.enable({ apis: ['setTimeout'] });
  const { works, end } = worksOf(false, false, false);
  const left = unlessSlow(works, 1000);
  for (const endOne of end) {
    context.mock.timers.tick(999);
    endOne();
    await nextTurn();
  }
  assert.deepEqual(await left, []);
});

test('when none has ended for a while, the rest is left to itself, but not what must be waited for', async (context) => {
  context.mock.timers.enable({ apis: ['setTimeout'] });
  const { works, end } = worksOf(false, true, false);
  let hasReturned = false;
  const left = unlessSlow(works, 1000).finally(() => (hasReturned = true));
  end[2]!();
  await nextTurn();
  context.mock.timers.tick(1000);
  await nextTurn();
  assert.equal(hasReturned, false);
  end[1]!();
  assert.deepEqual(
    (await left).map(({ key }) => key),
    [0],
  );
});

test('a work that fails in time fails the whole', async () => {
  const work = Promise.reject(new Error('broken'));
  await assert.rejects(unlessSlow([{ key: 'a', work, isWaitedFor: false }], 1000), /broken/);
});
