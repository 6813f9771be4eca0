import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { differences, isEqual } from './difference.ts';
import { formatPath, type Json } from './field-path.ts';

const paths = (before: Json, after: Json) => differences(before, after).map((one) => formatPath(one.path));

test('equal documents differ in nothing, whatever the order of their keys', () => {
  assert.deepEqual(differences({ a: 1, b: [1, { c: 2 }] }, { b: [1, { c: 2 }], a: 1 }), []);
});

test('the path of each field that differs is named', () => {
  assert.deepEqual(differences({ cpu: { count: 1, model: 'host' } }, { cpu: { count: 2, model: 'host' } }), [
    { path: ['cpu', 'count'], before: 1, after: 2 },
  ]);
  assert.deepEqual(paths({ a: 1 }, { b: 1 }), ['a', 'b']);
});

test('lists of named things are compared by name, so that an added disk is one difference', () => {
  const root = { name: 'root', sizeMib: 1 };
  const data = { name: 'data', sizeMib: 2 };
  assert.deepEqual(paths({ disks: [root, data] }, { disks: [data] }), ['disks.root']);
  assert.deepEqual(paths({ disks: [root] }, { disks: [{ ...root, sizeMib: 3 }, data] }), [
    'disks.root.sizeMib',
    'disks.data',
  ]);
});

test('named things in another order differ, because the order of disks has a meaning', () => {
  assert.notDeepEqual(paths([{ name: 'a' }, { name: 'b' }], [{ name: 'b' }, { name: 'a' }]), []);
});

test('lists of plain values are compared by position', () => {
  assert.deepEqual(paths({ l: [1, 2] }, { l: [1, 3, 4] }), ['l.1', 'l.2']);
});

test('there is a difference exactly when the documents are not equal', () => {
  const json = fc.jsonValue() as fc.Arbitrary<Json>;
  fc.assert(
    fc.property(json, json, (one, other) => {
      assert.equal(differences(one, other).length === 0, isEqual(one, other));
      assert.deepEqual(differences(one, structuredClone(one)), []);
    }),
  );
});
