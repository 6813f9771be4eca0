import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { excessOf } from './json-bounds.ts';

const bounds = { maxDepth: 4, maxValues: 10 };
const excess = (text: string): string | null => excessOf(Buffer.from(text), bounds);

test('depth and number of values are bounded, text is not', () => {
  assert.equal(excess('[[[[1]]]]'), null);
  assert.match(excess('[[[[[1]]]]]') ?? '', /more than 4 deep/);
  assert.equal(excess('[1,2,3,4,5,6,7,8]'), null);
  assert.match(excess('[1,2,3,4,5,6,7,8,9,10]') ?? '', /more than 10 values/);
  assert.match(excess(`{${'"a":1,'.repeat(6)}"b":2}`) ?? '', /more than 10 values/);
  assert.equal(excess(JSON.stringify(['[[[[[[,,,,,,,,,,,,,,', '\\', '"[[[[[['])), null);
});

test('whatever is no JSON ends without an error', () => {
  fc.assert(fc.property(fc.uint8Array({ maxLength: 50 }), (bytes) => void excessOf(Buffer.from(bytes), bounds)));
  for (const text of ['', '"', '"\\', ']]]]', '{"a', '"\\\\\\"']) assert.equal(excess(text), null, text);
});

test('JSON within the bounds passes, however its strings look', () => {
  fc.assert(
    fc.property(fc.json({ maxDepth: 3 }), (text) => {
      const values = (value: unknown): number =>
        typeof value === 'object' && value !== null
          ? 1 + Object.values(value).reduce((sum: number, one) => sum + 2 + values(one), 0)
          : 1;
      fc.pre(values(JSON.parse(text)) < 1000);
      assert.equal(excessOf(Buffer.from(text), { maxDepth: 5, maxValues: 3000 }), null);
    }),
  );
});
