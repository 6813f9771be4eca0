import assert from 'node:assert/strict';
import { test } from 'node:test';
import { readPng } from '../../../test/support/png.ts';
import { type Picture } from '../../lib/picture.ts';
import { Screenshots } from './screenshots.ts';

/** A guest whose display shows one colour. */
class Display {
  colour = 1;
  taken = 0;
  isBroken = false;

  screenshot(): Promise<Picture> {
    this.taken++;
    if (this.isBroken) return Promise.reject(new Error('no picture'));
    return Promise.resolve({ width: 64, height: 32, rgb: Buffer.alloc(64 * 32 * 3, this.colour) });
  }
}

function screenshots(): { shots: Screenshots; clock: { ms: number } } {
  const clock = { ms: 0 };
  return { shots: new Screenshots({ intervalMs: 1000, now: () => clock.ms }), clock };
}

test('however many ask within a second at whatever sizes, one picture is taken', async () => {
  const { shots, clock } = screenshots();
  const guest = new Display();
  const asked = [null, 16, 32, 16, 500].map((width) => shots.take('a', guest, width));
  const sizes = (await Promise.all(asked)).map(({ png }) => readPng(png).width);
  assert.deepEqual(sizes, [64, 16, 32, 16, 64]);
  clock.ms = 999;
  await shots.take('a', guest, 20);
  assert.equal(guest.taken, 1);
  clock.ms = 1000;
  await shots.take('a', guest, 20);
  assert.equal(guest.taken, 2);
  await shots.take('b', new Display(), 20);
  assert.equal(guest.taken, 2);
});

test('the tag stands for pixels and size, and its time for when the display was first seen so', async () => {
  const { shots, clock } = screenshots();
  const guest = new Display();
  const first = await shots.take('a', guest, 16);
  assert.match(first.tag, /^"[\w-]{22}-16"$/);
  assert.notEqual((await shots.take('a', guest, 32)).tag, first.tag);
  clock.ms = 2000;
  const same = await shots.take('a', guest, 16);
  assert.deepEqual([same.tag, same.since], [first.tag, first.since]);
  guest.colour = 2;
  clock.ms = 4000;
  assert.notEqual((await shots.take('a', guest, 16)).tag, first.tag);
});

test('another guest under the same name is looked at at once, and a failure does not last', async () => {
  const { shots, clock } = screenshots();
  const guest = new Display();
  await shots.take('a', guest, null);
  const other = new Display();
  other.isBroken = true;
  await assert.rejects(shots.take('a', other, null), /no picture/);
  await assert.rejects(shots.take('a', other, null), /no picture/);
  assert.equal(other.taken, 1);
  other.isBroken = false;
  clock.ms = 1000;
  assert.equal(readPng((await shots.take('a', other, null)).png).height, 32);
});
