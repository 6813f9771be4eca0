import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { changesOf, parseKinds, type ChangeSource } from './change-stream.ts';
import { type StoreEvent } from '../store/store.ts';

const objects = new Map<string, unknown>([['a', { id: 'a' }]]);
const sources: ChangeSource[] = [
  { kind: 'vm', prefixes: ['/lodge/vms/', '/lodge/vms-status/'], read: (id) => objects.get(id) ?? null },
];

function put(key: string, createRevision: number, modRevision: number): StoreEvent {
  return { type: 'put', key, current: { key, value: '{}', createRevision, modRevision, version: 1, leaseId: null } };
}

describe('A revision of the store', () => {
  it('is one change for an object whose two parts it wrote', async () => {
    const changes = await changesOf(sources, 5, [
      put('/lodge/vms/a', 5, 5),
      put('/lodge/vms-status/a', 5, 5),
      put('/lodge/names/vm/default/x', 5, 5),
    ]);
    assert.deepEqual(changes, [{ revision: 5, type: 'created', kind: 'vm', id: 'a', object: { id: 'a' } }]);
  });

  it('is an update when only the status was written, even for the first time', async () => {
    const changes = await changesOf(sources, 6, [put('/lodge/vms-status/a', 6, 6)]);
    assert.deepEqual(
      changes.map(({ type }) => type),
      ['updated'],
    );
  });

  it('is a deletion without the object', async () => {
    const changes = await changesOf(sources, 7, [
      { type: 'delete', key: '/lodge/vms/gone' },
      { type: 'delete', key: '/lodge/vms-status/gone' },
    ]);
    assert.deepEqual(changes, [{ revision: 7, type: 'deleted', kind: 'vm', id: 'gone', object: null }]);
  });

  it('leaves out what is gone by now and kinds nobody knows', async () => {
    assert.deepEqual(await changesOf(sources, 8, [put('/lodge/vms/vanished', 8, 8), put('/lodge/tokens/t', 8, 8)]), []);
  });
});

describe('The kinds of a stream', () => {
  it('are a list of known ones', () => {
    assert.deepEqual([...(parseKinds('vm, task') ?? [])], ['vm', 'task']);
    assert.equal(parseKinds(undefined), null);
    assert.throws(() => parseKinds('vm,planet'), { code: 'invalid_request' });
  });
});
