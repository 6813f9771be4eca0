import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ksmPages, ksmThresholdBytes, nextKsmPages } from './ksm-rate.ts';

const gib = 2 ** 30;
/** A machine of 100 GiB: 20 GiB are its threshold, from 25 GiB on there is enough. */
const load = (availableGib: number, pressurePercent: number | null = 0): Parameters<typeof nextKsmPages>[1] => ({
  totalBytes: 100 * gib,
  availableBytes: availableGib * gib,
  pressurePercent,
});

test('the threshold is a fifth of the memory, at least 2 GiB, and never more than the half', () => {
  assert.equal(ksmThresholdBytes(100 * gib), 20 * gib);
  assert.equal(ksmThresholdBytes(8 * gib), 2 * gib);
  assert.equal(ksmThresholdBytes(2 * gib), gib);
});

test('it rises while little memory is available, up to its bound', () => {
  assert.equal(nextKsmPages(100, load(19.9)), 400);
  assert.equal(nextKsmPages(1100, load(0)), ksmPages.most);
  assert.equal(nextKsmPages(ksmPages.most, load(0)), ksmPages.most);
});

test('it rises when work waits for memory, however much seems available', () => {
  assert.equal(nextKsmPages(100, load(90, 5)), 400);
  assert.equal(nextKsmPages(100, load(90, 100)), 400);
});

test('it falls when there is enough and nothing waits, down to its bound', () => {
  assert.equal(nextKsmPages(400, load(25)), 350);
  assert.equal(nextKsmPages(400, load(90, 0.99)), 350);
  assert.equal(nextKsmPages(70, load(90)), ksmPages.least);
  assert.equal(nextKsmPages(ksmPages.least, load(90)), ksmPages.least);
});

test('between tight and ample it stays', () => {
  assert.equal(nextKsmPages(400, load(20)), 400);
  assert.equal(nextKsmPages(400, load(24.9)), 400);
  assert.equal(nextKsmPages(400, load(90, 1)), 400);
  assert.equal(nextKsmPages(400, load(90, 4.99)), 400);
});

test('where pressure is not measured, available memory decides alone', () => {
  assert.equal(nextKsmPages(400, load(10, null)), 700);
  assert.equal(nextKsmPages(400, load(90, null)), 350);
});

test('whatever was written by others is brought within the bounds', () => {
  for (const current of [Number.NaN, Number.POSITIVE_INFINITY, -5, 0, 1e9])
    for (const availableGib of [0, 22, 100]) {
      const next = nextKsmPages(current, load(availableGib));
      assert.ok(Number.isInteger(next) && next >= ksmPages.least && next <= ksmPages.most, `${current} gave ${next}`);
    }
});

test('a shortage brings it to the most within 5 steps, and enough memory back to the least, without swinging', () => {
  let pages: number = ksmPages.least;
  for (let step = 0; step < 5; step++) pages = nextKsmPages(pages, load(5));
  assert.equal(pages, ksmPages.most);
  for (let step = 0; step < 24; step++) {
    const next = nextKsmPages(pages, load(60));
    assert.ok(next < pages);
    pages = next;
  }
  assert.equal(pages, ksmPages.least);
});
