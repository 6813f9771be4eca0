import assert from 'node:assert/strict';
import { test } from 'node:test';
import { balloonTargets, quietMs, type BalloonGuest } from './balloon-targets.ts';

const gib = 2 ** 30;
const never = Number.POSITIVE_INFINITY;
/** A machine of 100 GiB: tight under 10, ample from 15 GiB on. */
const load = (availableGib: number, pressurePercent: number | null = 0): Parameters<typeof balloonTargets>[1] => ({
  totalBytes: 100 * gib,
  availableBytes: availableGib * gib,
  pressurePercent,
});
const guest = (id: string, more: Partial<BalloonGuest> = {}): BalloonGuest => ({
  id,
  fullMib: 4000,
  guaranteedMib: 1000,
  nowMib: 4000,
  idleMib: 0,
  ...more,
});
const targets = (guests: BalloonGuest[], ...rest: [ReturnType<typeof load>, number?]): Record<string, number> =>
  Object.fromEntries(balloonTargets(guests, rest[0], rest[1] ?? never).targets);

test('while memory is available, nothing is taken', () => {
  for (const available of [10, 12, 15, 90]) assert.deepEqual(targets([guest('a')], load(available)), {});
  assert.deepEqual(targets([], load(1)), {});
});

test('what is idle is taken first, of the guest with the most of it', () => {
  // 12.5 GiB - 12.3 GiB: the pressure alone asks for a hundredth of 100 GiB, 1024 MiB.
  const guests = [guest('busy'), guest('idle', { idleMib: 3000 }), guest('some', { idleMib: 100 })];
  assert.deepEqual(targets(guests, load(12.3, 10)), { idle: 3600, some: 3600, busy: 3776 });
  const large = guest('idle', { fullMib: 20_000, nowMib: 20_000, idleMib: 3000 });
  assert.deepEqual(targets([guest('busy'), large], load(12.3, 10)), { idle: 18_976 });
});

test('a quarter of what is idle is left until others have nothing idle either', () => {
  const guests = [guest('a', { idleMib: 400 }), guest('b', { idleMib: 300, fullMib: 40_000, nowMib: 40_000 })];
  const next = targets(guests, load(12.3, 10));
  // a: 300 of 400; b: 225 of 300; the missing 499 come from a up to its tenth, and from b.
  assert.deepEqual(next, { a: 3600, b: 39_376 });
});

test('guarantees are kept, whatever the shortage; one above the full memory takes nothing', () => {
  const near = guest('near', { nowMib: 1050, idleMib: 900 });
  assert.deepEqual(targets([near], load(0, 100)), { near: 1000 });
  assert.deepEqual(targets([guest('at', { nowMib: 1000, idleMib: 900 })], load(0, 100)), {});
  assert.deepEqual(targets([guest('all', { guaranteedMib: 9000 })], load(0, 100)), {});
});

test('round by round a shortage brings guests to their guarantees, and no further', () => {
  let now = 4000;
  for (let round = 0; round < 20; round++) now = targets([guest('a', { nowMib: now })], load(1)).a ?? now;
  assert.equal(now, 1000);
});

test('guests that do not tell what is idle come after those that do', () => {
  const silent = guest('silent', { idleMib: null, fullMib: 40_000, nowMib: 40_000 });
  const telling = guest('telling', { idleMib: 2000, fullMib: 40_000, nowMib: 40_000 });
  assert.deepEqual(targets([silent, telling], load(12.3, 10)), { telling: 38_976 });
  assert.deepEqual(targets([silent], load(12.3, 10)), { silent: 38_976 });
});

test('waiting for memory counts only while little is available', () => {
  assert.equal(balloonTargets([guest('a')], load(19, 10), never).kind, 'take');
  assert.equal(balloonTargets([guest('a')], load(20, 100), never).kind, 'stay');
  assert.equal(balloonTargets([guest('a')], load(19, 9.9), never).kind, 'stay');
});

test('it is given back slowly, when there is enough, nothing waits, and nothing was taken for a while', () => {
  const small = guest('a', { nowMib: 3000 });
  assert.deepEqual(targets([small], load(30)), { a: 3120 });
  assert.deepEqual(targets([small], load(30, null)), { a: 3120 });
  assert.deepEqual(targets([small], load(15)), {});
  assert.deepEqual(targets([small], load(30, 1)), {});
  assert.deepEqual(targets([small], load(30), quietMs - 1), {});
  assert.deepEqual(targets([small], load(30), quietMs), { a: 3120 });
  assert.deepEqual(targets([guest('a', { nowMib: 3999 })], load(30)), { a: 4000 });
});

test('who has the least idle gets it back first, and no more than leaves the node ample', () => {
  const guests = [guest('idle', { nowMib: 2000, idleMib: 900 }), guest('busy', { nowMib: 2000, idleMib: 10 })];
  assert.deepEqual(targets(guests, load(15 + 130 / 1024)), { busy: 2120, idle: 2010 });
  assert.deepEqual(targets(guests, load(15 + 100 / 1024)), { busy: 2100 });
});

test('one that has more than its full memory by now is not given any', () => {
  assert.deepEqual(targets([guest('a', { nowMib: 5000 })], load(90)), {});
});

test('in any state, targets lie between the guarantee and the full memory', () => {
  for (const nowMib of [1000, 1004, 1500, 3996, 4000])
    for (const idleMib of [null, 0, 7, 500, 9000])
      for (const available of [0, 5, 12, 16, 90])
        for (const pressure of [null, 0, 5, 60]) {
          const next = targets([guest('a', { nowMib, idleMib })], load(available, pressure)).a;
          if (next === undefined) continue;
          assert.ok(Number.isInteger(next) && next >= 1000 && next <= 4000 && next !== nowMib, `${next}`);
        }
});
