import assert from 'node:assert/strict';
import { test } from 'node:test';
import { linesSeen } from './serial-lines.ts';

test('what a console begins with is printed once, wherever it overlaps with what was read before', () => {
  const read = ['one', 'two', 'three', 'four'];
  assert.equal(linesSeen(['three', 'four', 'five'], read), 2);
  assert.equal(linesSeen(['ree', 'four', 'five'], read), 2, 'its first line may be the rest of one');
  assert.equal(linesSeen(read, read), 4);
  assert.equal(linesSeen(['five', 'six'], read), 0, 'more than the console keeps came in between');
  assert.equal(linesSeen(['one', 'two', 'three', 'four', 'five'], ['four']), 0);
  assert.equal(linesSeen([], read), 0);
  assert.equal(linesSeen(['one'], []), 0);
  assert.equal(linesSeen(['a', 'a', 'a', 'b'], ['a', 'a', 'a']), 3);
});
