import assert from 'node:assert/strict';
import { test } from 'node:test';
import { sparkline } from './sparkline.ts';

test('the lowest is an eighth and the highest is full', () => {
  assert.equal(sparkline([0, 1, 2, 3, 4, 5, 6, 7, 8], 20), '▁▂▃▄▅▆▇██');
});

test('more values than characters share one, which shows the highest of them', () => {
  assert.equal(sparkline([0, 0, 0, 8, 0, 0, 0, 0], 4), '▁█▁▁');
});

test('gaps are spaces, and nothing is nothing', () => {
  assert.equal(sparkline([null, 5, null, null, 5], 10), ' █  █');
  assert.equal(sparkline([], 10), '');
  assert.equal(sparkline([null, null], 10), '  ');
  assert.equal(sparkline([0, 0], 10), '▁▁');
});

test('what is small beside the least height stays low', () => {
  assert.equal(sparkline([0.1, 0.2], 10, 100), '▁▁');
});
