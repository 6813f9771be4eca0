import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as fc from 'fast-check';
import {
  FieldPathError,
  formatPath,
  parsePath,
  valueAt,
  withoutValueAt,
  withValueAt,
  type Json,
} from './field-path.ts';

const spec: Json = { cpu: { count: 2 }, disks: [{ name: 'root', cache: 'none' }, { name: 'data' }], tags: [] };

test('paths name keys, list elements by index or by name, and keys with dots in quotes', () => {
  assert.deepEqual(parsePath('cpu.count'), ['cpu', 'count']);
  assert.deepEqual(parsePath('disks[0].cache'), ['disks', 0, 'cache']);
  assert.deepEqual(parsePath('disks.0.cache'), ['disks', 0, 'cache']);
  assert.deepEqual(parsePath('labels["a.b/c"]'), ['labels', 'a.b/c']);
});

test('text that is not a path is refused', () => {
  for (const text of ['', '.', 'a..b', 'a[', 'a[x]', 'a]', 'a["b]']) {
    assert.throws(() => parsePath(text), FieldPathError, text);
  }
});

test('an index is written as the daemon names it', () => {
  assert.equal(formatPath(parsePath('spec.disks[0].cache')), 'spec.disks.0.cache');
  assert.equal(formatPath(['labels', '0']), 'labels["0"]');
});

test('a formatted path parses to itself', () => {
  const part = fc.oneof(fc.nat(50), fc.string({ minLength: 1 }));
  fc.assert(
    fc.property(fc.array(part, { minLength: 1, maxLength: 5 }), (parts) => {
      assert.deepEqual(parsePath(formatPath(parts)), parts);
    }),
  );
});

test('values are read, set and removed without touching the document', () => {
  const before = structuredClone(spec);
  assert.equal(valueAt(spec, parsePath('disks.root.cache')), 'none');
  assert.equal(valueAt(spec, parsePath('disks[7].cache')), undefined);
  assert.deepEqual(withValueAt(spec, parsePath('cpu.count'), 4), { ...before, cpu: { count: 4 } });
  assert.deepEqual(withValueAt(spec, parsePath('cloudInit.user'), 'ann'), { ...before, cloudInit: { user: 'ann' } });
  assert.deepEqual(withValueAt(spec, parsePath('tags[0]'), 'x'), { ...before, tags: ['x'] });
  assert.deepEqual(withoutValueAt(spec, parsePath('disks.root')), { ...before, disks: [{ name: 'data' }] });
  assert.equal(withoutValueAt(spec, parsePath('no.such')), spec);
  assert.deepEqual(spec, before);
});

test('a path that leads nowhere says what there is', () => {
  assert.throws(() => withValueAt(spec, parsePath('disks.swap.cache'), 'x'), /by name: root, data/);
  assert.throws(() => withValueAt(spec, parsePath('disks[5]'), 'x'), /it has 2 \(0 to 1, or by name/);
  assert.throws(() => withValueAt(spec, parsePath('cpu.count.x'), 1), /cpu\.count is 2 and has no fields/);
});

test('the key __proto__ is an ordinary key', () => {
  const changed = withValueAt({}, ['__proto__', 'x'], 1);
  assert.equal(({} as { x?: unknown }).x, undefined);
  assert.deepEqual(Object.keys(changed as object), ['__proto__']);
});
