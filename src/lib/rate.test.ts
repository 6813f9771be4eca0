// Rates as people write them.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parseRate } from './rate.ts';

test('a rate is read in bits and in bytes, and never without a unit', () => {
  assert.equal(parseRate('100mbit'), 12_500_000);
  assert.equal(parseRate('1.5 Gbit/s'), 187_500_000);
  assert.equal(parseRate('12MiB/s'), 12 * 2 ** 20);
  assert.equal(parseRate('500KB'), 500_000);
  for (const wrong of ['100', '', 'fast', '10 furlongs', '5/s']) assert.throws(() => parseRate(wrong), wrong);
});
