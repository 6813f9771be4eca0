import assert from 'node:assert/strict';
import { test } from 'node:test';
import { rebase } from './rebase.ts';

const original = { labels: { app: 'web' }, spec: { cpu: { count: 1 }, memoryMib: 512, disks: [{ name: 'root' }] } };

test('changes of others in other fields are kept', () => {
  const edited = { ...original, spec: { ...original.spec, cpu: { count: 4 } } };
  const now = { labels: { app: 'shop' }, spec: { ...original.spec, memoryMib: 1024 } };
  assert.deepEqual(rebase(original, edited, now), {
    document: { labels: { app: 'shop' }, spec: { cpu: { count: 4 }, memoryMib: 1024, disks: [{ name: 'root' }] } },
  });
});

test('changes in the same field are named and not overwritten', () => {
  const edited = { ...original, spec: { ...original.spec, memoryMib: 2048 } };
  const now = { ...original, spec: { ...original.spec, memoryMib: 1024 } };
  assert.deepEqual(rebase(original, edited, now), { conflicts: ['spec.memoryMib'] });
});

test('an added disk comes behind those that are there by now, a removed field goes', () => {
  const edited = { labels: {}, spec: { ...original.spec, disks: [{ name: 'root' }, { name: 'data' }] } };
  const now = { ...original, spec: { ...original.spec, disks: [{ name: 'root' }] } };
  assert.deepEqual(rebase(original, edited, now), {
    document: { labels: {}, spec: { ...original.spec, disks: [{ name: 'root' }, { name: 'data' }] } },
  });
});
