import assert from 'node:assert/strict';
import { test } from 'node:test';
import { formatNumberList, parseNumberList } from './number-list.ts';

test('a list of numbers is read and written in the kernel’s form', () => {
  assert.deepEqual(parseNumberList('0-3,8,10-11\n'), [0, 1, 2, 3, 8, 10, 11]);
  assert.deepEqual(parseNumberList('\n'), []);
  assert.equal(formatNumberList([11, 8, 0, 1, 2, 3, 10, 3]), '0-3,8,10-11');
  assert.equal(formatNumberList([]), '');
  for (const bad of ['3-1', '-1', '1-', 'a', '0,,1', '0-99999999999'])
    assert.throws(() => parseNumberList(bad), RangeError, bad);
});
