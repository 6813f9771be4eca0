import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type Snapshot } from '../../src/api/snapshot.ts';
import { snapshotTree } from './snapshot-tree.ts';

function snapshot(id: string, parentId: string | null, minute: number): Snapshot {
  const createdAt = new Date(Date.UTC(2026, 0, 1, 0, minute)).toISOString();
  return { id, name: id, createdAt, status: { parentId } } as Snapshot;
}

const shown = (snapshots: Snapshot[]): string[] =>
  snapshotTree(snapshots).map(({ snapshot: { id }, depth }) => `${'-'.repeat(depth)}${id}`);

test('children stand below their parents, older ones first', () => {
  const all = [snapshot('c', 'a', 3), snapshot('b', 'a', 2), snapshot('a', null, 1), snapshot('d', 'b', 4)];
  assert.deepEqual(shown(all), ['a', '-b', '--d', '-c']);
});

test('what has lost its parent is not lost itself', () => {
  assert.deepEqual(shown([snapshot('b', 'gone', 2), snapshot('a', null, 1)]), ['a', 'b']);
});

test('a chain of thousands is shown', () => {
  const chain = Array.from({ length: 20_000 }, (_, index) =>
    snapshot(String(index), index === 0 ? null : String(index - 1), index),
  );
  assert.equal(snapshotTree(chain).at(-1)?.depth, 19_999);
});
