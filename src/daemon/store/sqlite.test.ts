// The SQLite store: the conformance suite, a model to compare it with, and what only a file can suffer.
import assert from 'node:assert/strict';
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { suite, test, type TestContext } from 'node:test';
import * as fc from 'fast-check';
import { compareKeys, prefixEnd } from './keys.ts';
import { migrations, openDatabase } from './sqlite-file.ts';
import { SqliteStore } from './sqlite.ts';
import { readWatch, storeConformance } from './store.conformance.ts';
import {
  CompactedError,
  StoreCorruptError,
  StoreFailedError,
  StoreFullError,
  StoreLockedError,
  StoreSchemaError,
  type KeyValue,
  type Operation,
  type Store,
} from './store.ts';

function temporaryFolder(): { folder: string; remove: () => void } {
  const folder = mkdtempSync(path.join(os.tmpdir(), 'lodge-store-'));
  return { folder, remove: () => rmSync(folder, { recursive: true, force: true }) };
}

storeConformance('SQLite', async () => {
  const { folder, remove } = temporaryFolder();
  const file = path.join(folder, 'lodge.db');
  let store = await SqliteStore.open({ file });
  return {
    store,
    reopen: async () => {
      await store.close();
      store = await SqliteStore.open({ file });
      return store;
    },
    cleanup: async () => {
      await store.close();
      remove();
    },
  };
});

/** The store as simple as it can be: a map for each revision. */
class Model {
  states: Map<string, KeyValue>[] = [new Map()];
  base: number;
  compacted = 0;

  constructor(base: number) {
    this.base = base;
  }

  get revision(): number {
    return this.base + this.states.length - 1;
  }

  at(revision: number): Map<string, KeyValue> {
    return this.states[revision - this.base] ?? assert.fail(`no state ${revision}`);
  }

  apply(operations: readonly Operation[]): void {
    const next = new Map(this.at(this.revision));
    const modRevision = this.revision + 1;
    let isChanged = false;
    for (const operation of operations) {
      if ('put' in operation) {
        const old = next.get(operation.put);
        const { put: key, value } = operation;
        const createRevision = old?.createRevision ?? modRevision;
        next.set(key, { key, value, createRevision, modRevision, version: (old?.version ?? 0) + 1, leaseId: null });
        isChanged = true;
      } else if ('delete' in operation && next.delete(operation.delete)) {
        isChanged = true;
      }
    }
    if (isChanged) this.states.push(next);
  }

  list(prefix: string, revision: number): KeyValue[] {
    return Array.from(this.at(revision).values())
      .filter(({ key }) => key.startsWith(prefix))
      .toSorted((left, right) => compareKeys(left.key, right.key));
  }
}

const keyTails = ['', 'a', 'a/', 'a/b', 'b', 'é', '\uffff', '\u{10000}'];
const tail = fc.constantFrom(...keyTails);
const operations = fc.uniqueArray(
  fc.record({ tail, value: fc.option(fc.string({ maxLength: 3, unit: 'grapheme' })) }),
  {
    selector: (operation) => operation.tail,
    minLength: 1,
    maxLength: 4,
  },
);
const command = fc.oneof(
  {
    weight: 8,
    arbitrary: fc.record({
      kind: fc.constant('write' as const),
      operations,
      guard: fc.option(fc.record({ tail, isTrue: fc.boolean() })),
    }),
  },
  {
    weight: 3,
    arbitrary: fc.record({
      kind: fc.constant('list' as const),
      tail,
      back: fc.nat(8),
      limit: fc.integer({ min: 1, max: 4 }),
    }),
  },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('watch' as const), tail, back: fc.nat(8) }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('compact' as const), back: fc.nat(4) }) },
);

suite('The SQLite store', () => {
  const inFolder = (t: TestContext): string => {
    const { folder, remove } = temporaryFolder();
    t.after(remove);
    return path.join(folder, 'data', 'lodge.db');
  };
  const openFor = async (t: TestContext, options: Parameters<typeof SqliteStore.open>[0]): Promise<SqliteStore> => {
    const store = await SqliteStore.open(options);
    t.after(() => store.close());
    return store;
  };

  test('does what the model does, whatever is done to it', async (t) => {
    const store = await openFor(t, { file: inFolder(t) });
    let run = 0;
    await fc.assert(
      fc.asyncProperty(fc.array(command, { minLength: 5, maxLength: 30 }), async (commands) => {
        const prefix = `/run${String(run++).padStart(4, '0')}/`;
        const model = new Model(await store.revision());
        for (const next of commands) {
          if (next.kind === 'write') {
            const then = next.operations.map(({ tail: end, value }): Operation =>
              value === null ? { delete: prefix + end } : { put: prefix + end, value: value.replaceAll('\0', '') },
            );
            const guardKey = next.guard && prefix + next.guard.tail;
            const known = guardKey ? (model.at(model.revision).get(guardKey)?.modRevision ?? 0) : 0;
            const result = await store.transact({
              compare: guardKey ? [{ key: guardKey, modRevision: next.guard?.isTrue ? known : known + 1 }] : [],
              success: then,
            });
            assert.equal(result.succeeded, next.guard?.isTrue ?? true);
            if (result.succeeded) model.apply(then);
            assert.equal(result.revision, model.revision);
          } else if (next.kind === 'list') {
            const revision = Math.max(model.revision - next.back, model.base, model.compacted);
            const items: KeyValue[] = [];
            for (let after: string | null = ''; after !== null;) {
              const page = await store.list({ prefix: prefix + next.tail, limit: next.limit, after, revision });
              items.push(...page.items);
              after = page.next;
            }
            assert.deepEqual(items, model.list(prefix + next.tail, revision));
          } else if (next.kind === 'watch') {
            await compareWatch(store, model, prefix + next.tail, Math.max(model.revision - next.back, model.base) + 1);
          } else {
            model.compacted = Math.max(model.revision - next.back, model.base, model.compacted);
            await store.compact(model.compacted);
          }
        }
      }),
      { numRuns: 40 },
    );
  });

  async function compareWatch(store: Store, model: Model, prefix: string, fromRevision: number): Promise<void> {
    if (fromRevision < model.compacted) {
      await assert.rejects(
        readWatch(store, { prefix, fromRevision }, () => true),
        CompactedError,
      );
      return;
    }
    const expected: { revision: number; puts: KeyValue[]; deletes: string[] }[] = [];
    for (let revision = fromRevision; revision <= model.revision; revision++) {
      const before = model.at(revision - 1);
      const after = model.at(revision);
      const puts = model.list(prefix, revision).filter(({ modRevision }) => modRevision === revision);
      const deletes = [...before.keys()].filter((key) => key.startsWith(prefix) && !after.has(key));
      if (puts.length + deletes.length > 0) expected.push({ revision, puts, deletes: deletes.toSorted(compareKeys) });
    }
    if (expected.length === 0) return;
    const batches = await readWatch(store, { prefix, fromRevision }, ({ length }) => length === expected.length);
    const seen = batches.map(({ revision, events }) => ({
      revision,
      puts: events
        .flatMap((event) => (event.type === 'put' ? [event.current] : []))
        .toSorted((left, right) => compareKeys(left.key, right.key)),
      deletes: events.flatMap((event) => (event.type === 'delete' ? [event.key] : [])).toSorted(compareKeys),
    }));
    assert.deepEqual(seen, expected);
  }

  test('the end of a prefix is after all its keys and before all others', () => {
    assert.equal(prefixEnd('/a/'), '/a0');
    assert.equal(prefixEnd('\ud7ff'), '\ue000');
    assert.equal(prefixEnd(''), '\u{10ffff}');
    const unit = fc.constantFrom('a', 'b', '\ud7ff', '\ue000', '\uffff', '\u{10000}', '\u{10fffe}');
    fc.assert(
      fc.property(fc.string({ unit, minLength: 1 }), fc.string({ unit }), (prefix, key) => {
        const end = prefixEnd(prefix);
        const isInRange = compareKeys(key, prefix) >= 0 && compareKeys(key, end) < 0;
        assert.equal(isInRange, key.startsWith(prefix));
        assert.ok(compareKeys(prefix + key, end) < 0);
      }),
    );
  });

  test('keeps only the history it was told to keep', async (t) => {
    const store = await openFor(t, { file: inFolder(t), historyRevisions: 50 });
    for (let index = 0; index < 200; index++) await store.transact({ success: [{ put: '/a', value: String(index) }] });
    const revision = await store.revision();
    assert.equal((await store.get('/a', { revision: revision - 50 }))?.value, '149');
    await assert.rejects(store.get('/a', { revision: revision - 70 }), CompactedError);
  });

  test('a second opening of the same file is refused and names the holder, and the first goes on', async (t) => {
    const file = inFolder(t);
    const store = await openFor(t, { file });
    await assert.rejects(
      SqliteStore.open({ file }),
      (error) =>
        error instanceof StoreLockedError &&
        error.message.includes(file) &&
        error.message.includes(String(process.pid)),
    );
    await store.transact({ success: [{ put: '/a', value: '1' }] });
    assert.equal((await store.get('/a'))?.value, '1');
  });

  test('only the owner may read the files', async (t) => {
    const file = inFolder(t);
    const store = await openFor(t, { file });
    await store.transact({ success: [{ put: '/a', value: '1' }] });
    for (const name of readdirSync(path.dirname(file))) {
      assert.equal(statSync(path.join(path.dirname(file), name)).mode & 0o777, 0o600, name);
    }
  });

  test('a full store refuses the write, keeps nothing of it, and goes on when there is room', async (t) => {
    const store = await openFor(t, { file: inFolder(t), maxBytes: 400_000, historyRevisions: 1 });
    await store.transact({ success: [{ put: '/a', value: '1' }] });
    const large = 'x'.repeat(150_000);
    const before = await store.revision();
    const watching = readWatch(store, { prefix: '/', fromRevision: before + 1 }, (batches) =>
      batches.some(({ events }) => events.some(({ key }) => key === '/small')),
    );
    const small = store.transact({ success: [{ put: '/small', value: '1' }] });
    const writes = ['/l1', '/l2', '/l3', '/l4'].map((key) =>
      store.transact({
        success: [
          { put: key, value: large },
          { put: '/last', value: key },
        ],
      }),
    );
    const results = await Promise.allSettled(writes);
    const kept = results.filter(({ status }) => status === 'fulfilled').length;
    assert.ok(kept > 0 && kept < 4, `${kept} of 4 fit`);
    for (const result of results) if (result.status === 'rejected') assert.ok(result.reason instanceof StoreFullError);
    await small;
    const { items, revision } = await store.list({ prefix: '/l' });
    await store.transact({ success: [{ put: '/small', value: '2' }] });
    const seen = (await watching).flatMap((batch) => batch.events.map(({ key }) => key));
    assert.ok(
      seen.every((key) => ['/small', '/last', ...items.map((item) => item.key)].includes(key)),
      seen.join(),
    );
    assert.equal(items.length, kept + 1, 'nothing of the refused writes is there');
    assert.equal(
      Math.max(...items.map(({ modRevision }) => modRevision)),
      revision,
      'the refused ones took no revision',
    );
    assert.equal(revision, before + 1 + kept);
    await store.transact({ success: ['/l1', '/l2', '/l3'].map((key) => ({ delete: key })) });
    await store.compact(await store.revision());
    await store.transact({ success: [{ put: '/b', value: large }] });
    assert.equal((await store.get('/b'))?.value, large);
  });

  test('damage is told apart from a new store', async (t) => {
    const file = inFolder(t);
    const make = async (): Promise<void> => {
      rmSync(path.dirname(file), { recursive: true, force: true });
      const store = await SqliteStore.open({ file });
      for (let index = 0; index < 50; index++)
        await store.transact({ success: [{ put: `/${index}`, value: 'x'.repeat(2000) }] });
      await store.close();
    };
    const damages: [string, () => void][] = [
      ['emptied', () => truncateSync(file, 0)],
      ['cut', () => truncateSync(file, 40_000)],
      [
        'text',
        () => writeFileSync(file, 'this is no database, but some text that is long enough to look at '.repeat(100)),
      ],
      [
        'overwritten in the middle',
        () => {
          const bytes = readFileSync(file);
          bytes.fill(0xa5, 4096, bytes.length - 4096);
          writeFileSync(file, bytes);
        },
      ],
      [
        'of another program',
        () => {
          rmSync(file);
          const other = new DatabaseSync(file);
          other.exec('CREATE TABLE t (a)');
          other.close();
        },
      ],
      [
        'gone, with its log left',
        () => {
          rmSync(file);
          writeFileSync(`${file}-wal`, 'x');
        },
      ],
    ];
    for (const [name, damage] of damages) {
      await make();
      damage();
      await assert.rejects(SqliteStore.open({ file }), StoreCorruptError, name);
      await assert.rejects(SqliteStore.open({ file }), StoreCorruptError, `${name}, second try`);
    }
  });

  test('a folder that can not be is named', async (t) => {
    const file = inFolder(t);
    await (await openFor(t, { file })).revision();
    const under = path.join(file, 'below', 'lodge.db');
    await assert.rejects(
      SqliteStore.open({ file: under }),
      (error) => error instanceof StoreFailedError && error.message.includes(under),
    );
  });

  test('a database of a newer schema is refused and left as it is', async (t) => {
    const file = inFolder(t);
    openDatabase(file, { maxBytes: 1e9, migrations: [...migrations, 'CREATE TABLE later (a)'] }).close();
    const before = readFileSync(file);
    await assert.rejects(
      SqliteStore.open({ file }),
      (error) => error instanceof StoreSchemaError && error.message.includes(`schema ${migrations.length + 1}`),
    );
    assert.deepEqual(readFileSync(file), before);
  });

  test('an older schema is brought forward, and a step that fails leaves the database where it was', async (t) => {
    const file = inFolder(t);
    const store = await SqliteStore.open({ file });
    await store.transact({ success: [{ put: '/a', value: '1' }] });
    await store.close();
    const broken = [...migrations, 'CREATE TABLE later (a); INSERT INTO nowhere VALUES (1)'];
    assert.throws(() => openDatabase(file, { maxBytes: 1e9, migrations: broken }), StoreFailedError);
    const same = await SqliteStore.open({ file });
    assert.equal((await same.get('/a'))?.value, '1');
    await same.close();
    const database = openDatabase(file, { maxBytes: 1e9, migrations: [...migrations, 'CREATE TABLE later (a)'] });
    assert.deepEqual({ ...database.prepare('SELECT count(*) AS n FROM later').get() }, { n: 0 });
    database.close();
  });
});
