import assert from 'node:assert/strict';
import { appendFile, stat, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { temporaryFolder } from '../../../test/support/temporary.ts';
import { History, type HistoryLayout } from './history.ts';

/** Seconds for ten minutes, minutes for two hours, hours for two days. */
const layout: HistoryLayout = {
  rings: [
    { stepS: 1, rows: 600 },
    { stepS: 60, rows: 120 },
    { stepS: 3600, rows: 48 },
  ],
  series: { load: 'mean', loadMax: 'max' },
};

/** The begin of an hour. */
const t0 = 1_800_000_000;

async function fileFor(t: TestContext): Promise<string> {
  return join(await temporaryFolder(t), 'a/one.ring');
}

/** Samples each second from `fromS` to `toS`, without the end; written each half minute, as the sampler does. */
async function sample(history: History, fromS: number, toS: number, value: (atS: number) => number): Promise<void> {
  for (let atS = fromS; atS < toS; atS++) {
    history.note(atS, Float32Array.of(value(atS), value(atS)));
    if (atS % 30 === 29) await history.flush(atS + 1);
  }
}

const columns = (rows: readonly (Float32Array | null)[], column: number): (number | null)[] =>
  rows.map((row) => row?.[column] ?? null);

test('what was noted is read, before it is written and after', async (t) => {
  const path = await fileFor(t);
  const history = new History(path, layout);
  await sample(history, t0, t0 + 45, (atS) => atS - t0);
  const part = await history.read(t0, t0 + 45, 1, t0 + 45);
  assert.equal(part.fromS, t0);
  assert.equal(part.stepS, 1);
  assert.deepEqual(
    columns(part.rows, 0),
    Array.from({ length: 45 }, (_, index) => index),
  );
  await history.flush(t0 + 45);
  const again = await new History(path, layout).read(t0 + 40, t0 + 47, 1, t0 + 47);
  assert.deepEqual(columns(again.rows, 0), [40, 41, 42, 43, 44, null, null]);
});

test('minutes and hours are means and maxima of what lies in them', async (t) => {
  const history = new History(await fileFor(t), layout);
  await sample(history, t0, t0 + 2 * 3600 + 60, (atS) => (atS - t0) % 60);
  const now = t0 + 2 * 3600 + 60;
  const minutes = await history.read(now - 3600, now, 60, now);
  assert.equal(minutes.stepS, 60);
  assert.equal(minutes.rows.length, 60);
  assert.ok(columns(minutes.rows, 0).every((value) => value === 29.5));
  assert.ok(columns(minutes.rows, 1).every((value) => value === 59));
  const hours = await history.read(t0, t0 + 2 * 3600, 3600, now);
  assert.deepEqual(columns(hours.rows, 0), [29.5, 29.5]);
  assert.deepEqual(columns(hours.rows, 1), [59, 59]);
});

test('a step between two lengths is put together of the shorter', async (t) => {
  const history = new History(await fileFor(t), layout);
  await sample(history, t0, t0 + 60, (atS) => atS - t0);
  const part = await history.read(t0, t0 + 60, 20, t0 + 60);
  assert.equal(part.stepS, 20);
  assert.deepEqual(columns(part.rows, 0), [9.5, 29.5, 49.5]);
  assert.deepEqual(columns(part.rows, 1), [19, 39, 59]);
});

test('a ring begins again at its first row, and what is older is not taken for new', async (t) => {
  const path = await fileFor(t);
  const history = new History(path, layout);
  await sample(history, t0, t0 + 900, (atS) => atS - t0);
  const now = t0 + 900;
  const last = await history.read(now - 600, now, 1, now);
  assert.deepEqual(
    columns(last.rows, 0),
    Array.from({ length: 600 }, (_, index) => 300 + index),
  );
  // Only minutes reach back to its begin.
  const whole = await history.read(t0, now, 1, now);
  assert.equal(whole.stepS, 60);
  assert.equal(columns(whole.rows, 0)[0], 29.5);
  // A pause longer than the ring: nothing of before shows.
  const later = now + 700;
  await history.flush(later);
  assert.deepEqual(
    columns((await history.read(later - 600, later, 1, later)).rows, 0),
    Array.from({ length: 600 }, () => null),
  );
  const { size } = await stat(path);
  assert.equal(size, 4096 + (600 + 120 + 48) * 12, 'the file has the size it began with');
});

test('a daemon that was restarted goes on, with the minute and the hour it was in', async (t) => {
  const path = await fileFor(t);
  const first = new History(path, layout);
  await sample(first, t0, t0 + 3600 + 30, () => 10);
  const second = new History(path, layout);
  await sample(second, t0 + 3600 + 40, t0 + 2 * 3600 + 30, () => 40);
  const now = t0 + 2 * 3600 + 30;
  const minutes = await second.read(t0 + 3600, t0 + 3720, 60, now);
  assert.deepEqual(columns(minutes.rows, 0), [22, 40], '30 seconds of 10, none for 10, 20 of 40');
  const hours = await second.read(t0, t0 + 2 * 3600, 3600, now);
  assert.equal(columns(hours.rows, 0)[0], 10);
  assert.ok(Math.abs(columns(hours.rows, 0)[1]! - 39.7) < 0.01);
});

test('what was not measured is null, and no part of a mean', async (t) => {
  const history = new History(await fileFor(t), layout);
  history.note(t0, Float32Array.of(10, NaN));
  history.note(t0 + 4, Float32Array.of(20, 7));
  await history.flush(t0 + 90);
  const { rows } = await history.read(t0, t0 + 60, 60, t0 + 90);
  assert.deepEqual([...rows[0]!], [15, 7]);
  const seconds = await history.read(t0, t0 + 3, 1, t0 + 90);
  assert.ok(Number.isNaN(seconds.rows[0]![1]));
  assert.deepEqual(seconds.rows.slice(1), [null, null]);
});

test('what an earlier version has kept is there after series were added, and is written to', async (t) => {
  const path = await fileFor(t);
  const before = new History(path, { ...layout, series: { gone: 'mean', load: 'mean' } });
  for (let atS = t0; atS < t0 + 700; atS++) {
    before.note(atS, Float32Array.of(7, atS - t0));
    if (atS % 30 === 29) await before.flush(atS + 1);
  }
  await before.flush(t0 + 700);
  const now = new History(path, layout);
  const wide: HistoryLayout = { ...layout, series: { ...layout.series, fresh: 'mean' } };
  const minutes = await now.read(t0, t0 + 600, 60, t0 + 700);
  assert.deepEqual(columns(minutes.rows, 0).slice(0, 2), [29.5, 89.5]);
  assert.ok(
    columns(minutes.rows, 1).every((value) => Number.isNaN(value)),
    'nobody has measured it then',
  );
  // Only reading: the file is as it was, and another version reads it in its own way.
  const other = new History(path, wide);
  other.note(t0 + 701, Float32Array.of(1, 2, 3));
  await other.flush(t0 + 702);
  const seconds = await new History(path, wide).read(t0 + 698, t0 + 702, 1, t0 + 702);
  assert.deepEqual(columns(seconds.rows, 0), [698, 699, null, 1]);
  assert.deepEqual(columns(seconds.rows, 2), [NaN, NaN, null, 3]);
  const { size } = await stat(path);
  assert.equal(size, 4096 + (600 + 120 + 48) * 16);
});

for (const [what, damage] of [
  ['cut off', (path: string) => truncate(path, 5000)],
  ['of another kind', (path: string) => writeFile(path, 'not a ring file')],
  ['longer than it should be', (path: string) => appendFile(path, 'x'.repeat(100))],
] as const) {
  test(`a file that is ${what} is no error, and is written to again`, async (t) => {
    const path = await fileFor(t);
    const history = new History(path, layout);
    await sample(history, t0, t0 + 300, () => 1);
    await damage(path);
    const next = new History(path, layout);
    assert.equal((await next.read(t0, t0 + 300, 1, t0 + 300)).rows.length, 300);
    next.note(t0 + 301, Float32Array.of(2, 2));
    await next.flush(t0 + 302);
    assert.deepEqual(columns((await next.read(t0 + 301, t0 + 302, 1, t0 + 302)).rows, 0), [2]);
  });
}

test('nothing measured at all is an empty answer, and makes no file', async (t) => {
  const path = await fileFor(t);
  const history = new History(path, layout);
  await history.flush(t0);
  assert.deepEqual((await history.read(t0 - 3, t0, 1, t0)).rows, [null, null, null]);
  await assert.rejects(stat(path), { code: 'ENOENT' });
});
