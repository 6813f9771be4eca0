import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type Snapshot } from '../../api/snapshot.ts';
import { treeLines } from './snapshot.ts';

function one(name: string, parentId: string | null, change: Partial<Snapshot['status']> = {}): Snapshot {
  const status = { parentId, isCurrent: false, sizeBytes: 2 ** 20, memoryBytes: null, ...change };
  return { id: name, name, spec: { description: '' }, status } as Snapshot;
}

test('snapshots are shown as the tree they are, with the place of the VM', () => {
  const lines = treeLines('web1', [
    one('base', null),
    one('upgrade', 'base', { memoryBytes: 5 }),
    one('tested', 'upgrade'),
    one('other', 'base', { isCurrent: true }),
    one('lost', 'gone'),
  ]);
  assert.deepEqual(lines, [
    'web1',
    '├─ base  1 MiB',
    '│  ├─ upgrade  1 MiB, with memory',
    '│  │  └─ tested  1 MiB',
    '│  └─ other  1 MiB  ◀ the VM goes on from here',
    '└─ lost  1 MiB',
  ]);
});
