// Collections on a real store: two of them on one store stand for two nodes.
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { beforeEach, afterEach, suite, test } from 'node:test';
import { eventually } from '../../../test/support/wait.ts';
import { LodgeError, type ErrorCode } from '../../api/errors.ts';
import { Collection, ConditionFailedError } from './collection.ts';
import type { Change, CollectionObject } from './collection-index.ts';
import { listAll } from './informer.ts';
import { SqliteStore } from './sqlite.ts';

interface Thing extends CollectionObject {
  spec: { size: number; note?: string };
  status: { state: string; detail?: string };
}

const hasCode =
  (code: ErrorCode) =>
  (error: unknown): boolean =>
    error instanceof LodgeError && error.code === code;

suite('A collection', () => {
  let folder: string;
  let store: SqliteStore;
  let things: Collection<Thing>;
  const opened: Collection<Thing>[] = [];

  const open = async (): Promise<Collection<Thing>> => {
    const collection = new Collection<Thing>({
      store,
      noun: 'thing',
      plural: 'things',
      initialStatus: () => ({ state: 'new' }),
    });
    await collection.load();
    opened.push(collection);
    return collection;
  };
  const thing = (name: string, size = 1) => ({ name, project: 'default', labels: {}, spec: { size } });
  const keys = async (): Promise<string[]> => (await listAll(store, '/lodge/', ({ key }) => key)).items;

  beforeEach(async () => {
    folder = mkdtempSync(path.join(os.tmpdir(), 'lodge-collection-'));
    store = await SqliteStore.open({ file: path.join(folder, 'lodge.db'), historyRevisions: 20 });
    things = await open();
  });
  afterEach(async () => {
    for (const collection of opened.splice(0)) await collection.close();
    await store.close();
    rmSync(folder, { recursive: true, force: true });
  });

  test('shows what was created, by id, by name and among all, at once', async () => {
    const created = await things.create({ ...thing('web'), labels: { app: 'x' } });
    assert.deepEqual(created, {
      id: created.id,
      name: 'web',
      project: 'default',
      labels: { app: 'x' },
      spec: { size: 1 },
      status: { state: 'new' },
      revision: created.revision,
      createdAt: created.createdAt,
    });
    assert.match(created.id, /^[0-9a-f]{8}-[0-9a-f]{4}-7/);
    assert.equal(things.get(created.id), created);
    assert.equal(things.byName('default', 'web'), created);
    assert.equal(things.find('default', 'web'), created);
    assert.equal(things.find('default', created.id), created);
    assert.equal(things.find('other', created.id), null);
    assert.deepEqual([...things.all()], [created]);
    assert.ok(things.revision >= created.revision);
    assert.throws(() => things.require('default', 'nothing'), hasCode('not_found'));
    assert.deepEqual(await keys(), [
      `/lodge/names/thing/default/web`,
      `/lodge/things-status/${created.id}`,
      `/lodge/things/${created.id}`,
    ]);
  });

  test('gives a name once in a project, also to twenty that ask at once', async () => {
    const results = await Promise.allSettled(Array.from({ length: 20 }, () => things.create(thing('web'))));
    assert.equal(results.filter(({ status }) => status === 'fulfilled').length, 1);
    for (const result of results) if (result.status === 'rejected') assert.ok(hasCode('name_taken')(result.reason));
    await things.create({ ...thing('web'), project: 'other' });
    assert.equal(things.size, 2);
  });

  test('frees a name with the object, and moves it with a renaming', async () => {
    const web = await things.create(thing('web'));
    const db = await things.create(thing('db'));
    await assert.rejects(
      things.update(web.id, undefined, (draft) => void (draft.name = 'db')),
      hasCode('name_taken'),
    );
    const renamed = await things.update(web.id, web.revision, (draft) => void (draft.name = 'www'));
    assert.equal(things.byName('default', 'web'), null);
    assert.equal(things.byName('default', 'www'), renamed);
    await things.create(thing('web'));
    assert.equal(await things.delete(db.id), db);
    assert.equal(things.byName('default', 'db'), null);
    await things.create(thing('db'));
    assert.equal((await keys()).length, 9);
  });

  test('refuses an update or deletion based on a stale revision, and leaves the object as it is', async () => {
    const first = await things.create(thing('web'));
    const second = await things.update(first.id, first.revision, (draft) => void (draft.spec.size = 2));
    assert.ok(second.revision > first.revision);
    await assert.rejects(
      things.update(first.id, first.revision, (draft) => void (draft.spec.size = 3)),
      hasCode('revision_conflict'),
    );
    await assert.rejects(things.delete(first.id, { revision: first.revision }), hasCode('revision_conflict'));
    assert.equal(things.get(first.id), second);
    assert.equal(second.spec.size, 2);
    assert.equal(first.spec.size, 1, 'what was handed out stays what it was');
  });

  test('keeps the revision when only the status changes, and writes none that is equal', async () => {
    const created = await things.create(thing('web'));
    const running = await things.setStatus(created.id, { state: 'running', detail: undefined });
    assert.equal(running.revision, created.revision);
    assert.deepEqual(things.get(created.id)?.status, { state: 'running' });
    const before = await store.revision();
    await things.setStatus(created.id, { state: 'running', detail: undefined });
    await things.setStatus(created.id, (current) => ({ ...current }));
    await things.update(created.id, created.revision, () => {});
    assert.equal(await store.revision(), before);
    await things.update(created.id, created.revision, (draft) => ({ ...draft, labels: { a: 'b' } }));
  });

  test('makes every change that is based on what is there, however many come at once from two nodes', async () => {
    const other = await open();
    const { id } = await things.create(thing('web', 0));
    await other.setStatus(id, { state: '0' }).catch(async () => {
      // The other node may not have seen the object yet.
      await eventually(() => other.get(id));
      await other.setStatus(id, { state: '0' });
    });
    await Promise.all(
      [things, other].flatMap((collection) =>
        Array.from({ length: 10 }, () => [
          collection.update(id, undefined, (draft) => void draft.spec.size++),
          collection.setStatus(id, ({ state }) => ({ state: String(Number(state) + 1) })),
        ]).flat(),
      ),
    );
    assert.equal((await things.update(id, undefined, () => {})).spec.size, 20);
    assert.equal((await things.setStatus(id, (current) => current)).status.state, '20');
  });

  test('tells of every change once, in order, on every node', async () => {
    const other = await open();
    const told: Change<Thing>[] = [];
    const toldOther: Change<Thing>[] = [];
    const stop = things.onChange((change) => told.push(change));
    other.onChange((change) => toldOther.push(change));
    const created = await things.create(thing('web'));
    const updated = await things.update(created.id, undefined, (draft) => void (draft.spec.size = 2));
    const running = await things.setStatus(created.id, { state: 'running' });
    await things.delete(created.id);
    stop();
    await things.create(thing('unheard'));
    assert.deepEqual(
      told.map(({ type, object, previous }) => [type, object, previous]),
      [
        ['created', created, null],
        ['updated', updated, created],
        ['updated', running, updated],
        ['deleted', running, running],
      ],
    );
    const revisions = told.map(({ storeRevision }) => storeRevision);
    assert.deepEqual(
      revisions,
      revisions.toSorted((left, right) => left - right),
    );
    await eventually(() => toldOther.length >= 5);
    assert.deepEqual(toldOther.slice(0, 4), told);
  });

  test('a listener that throws keeps no one else from hearing', async () => {
    let heard = 0;
    things.onChange(() => {
      throw new Error('on purpose');
    });
    things.onChange(() => heard++);
    await things.create(thing('web'));
    assert.equal(heard, 1);
  });

  test('writes the part of another in the same transaction, or nothing', async () => {
    const extra = { compare: [{ key: '/lodge/lock', exists: false }], success: [{ put: '/lodge/lock', value: '1' }] };
    const created = await things.create(thing('web'), extra);
    assert.equal((await store.get('/lodge/lock'))?.modRevision, created.revision);
    await assert.rejects(things.create(thing('db'), extra), ConditionFailedError);
    await assert.rejects(
      things.update(created.id, undefined, (draft) => void (draft.spec.size = 9), extra),
      ConditionFailedError,
    );
    await assert.rejects(things.delete(created.id, { extra }), ConditionFailedError);
    assert.deepEqual([...things.all()], [created]);
    await assert.rejects(things.create(thing('web'), extra), hasCode('name_taken'));
  });

  test('says that an object is gone, and does not bring it back by its status', async () => {
    const created = await things.create(thing('web'));
    await things.delete(created.id);
    await assert.rejects(things.setStatus(created.id, { state: 'late' }), hasCode('not_found'));
    await assert.rejects(
      things.update(created.id, undefined, () => {}),
      hasCode('not_found'),
    );
    await assert.rejects(things.delete(created.id), hasCode('not_found'));
    const other = await open();
    const next = await other.create(thing('next'));
    // Deleted by someone else between the decision and the write, by one who leaves the status behind.
    let deleting: Promise<unknown> = Promise.resolve();
    const late = other.setStatus(next.id, () => {
      deleting = store.transact({ success: [{ delete: `/lodge/things/${next.id}` }] });
      return { state: 'late' };
    });
    await assert.rejects(late, hasCode('not_found'));
    await deleting;
    assert.equal((await store.get(`/lodge/things-status/${next.id}`))?.version, 1);
    assert.deepEqual(
      (await keys()).filter((key) => key.startsWith('/lodge/things/')),
      [],
    );
  });

  test('objects that were handed out can not be changed', async () => {
    const created = await things.create(thing('web'));
    assert.throws(() => void (created.spec.size = 5), TypeError);
    assert.throws(() => void (created.status.state = 'x'), TypeError);
  });

  test('a new node sees what the others wrote before', async () => {
    const created = await things.create(thing('web'));
    const running = await things.setStatus(created.id, { state: 'running' });
    const other = await open();
    assert.deepEqual(other.byName('default', 'web'), running);
  });

  test('a value that is no JSON hides no other object', async () => {
    await things.create(thing('web'));
    await store.transact({ success: [{ put: '/lodge/things/broken', value: '{' }] });
    const other = await open();
    await other.create(thing('db'));
    assert.deepEqual(Array.from(other.all(), ({ name }) => name).toSorted(), ['db', 'web']);
  });
});
