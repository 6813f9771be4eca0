// What every store must do, as tests. Written for stores in the same process and for ones on the network: keys lie under
// a prefix of their own, revisions may jump, watches may take a while, and leases may live longer than asked for.
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { afterEach, beforeEach, suite, test } from 'node:test';
import { setImmediate as nextTurn } from 'node:timers/promises';
import {
  CompactedError,
  FutureRevisionError,
  LeaseNotFoundError,
  maxTransactionOperations,
  maxValueBytes,
  StoreClosedError,
  StoreRequestError,
  type KeyValue,
  type Operation,
  type Store,
  type WatchBatch,
} from './store.ts';

export interface OpenedStore {
  store: Store;
  /** Closes the store and opens the same one again. */
  reopen(): Promise<Store>;
  /** Closes it and removes what it left. */
  cleanup(): Promise<void>;
}

/** Longest that anything here may take. */
const deadlineMs = 60_000;

/** Reads batches until `isEnough`, then ends the watch. Fails when the deadline comes first. */
export async function readWatch(
  store: Store,
  options: { prefix: string; fromRevision: number },
  isEnough: (batches: readonly WatchBatch[]) => boolean,
): Promise<WatchBatch[]> {
  const batches: WatchBatch[] = [];
  const timeout = AbortSignal.timeout(deadlineMs);
  for await (const batch of store.watch(options, timeout)) {
    batches.push(batch);
    if (isEnough(batches)) return batches;
  }
  throw new Error(`the watch gave only ${JSON.stringify(batches)} in ${deadlineMs} ms`);
}

const put = (key: string, value: string, leaseId?: string): Operation =>
  leaseId === undefined ? { put: key, value } : { put: key, value, leaseId };
const summary = ({ key, value }: KeyValue): string => `${key}=${value}`;
const eventSummary = (batch: WatchBatch): string[] =>
  batch.events.map((event) => (event.type === 'put' ? `put ${summary(event.current)}` : `delete ${event.key}`));

/** Registers the suite for one implementation. */
export function storeConformance(name: string, open: () => Promise<OpenedStore>): void {
  suite(`${name} behaves as a store`, () => {
    let opened: OpenedStore;
    let store: Store;
    /** A key under this test's own prefix. */
    let at: (key: string) => string;
    const write = async (...then: Operation[]): Promise<number> => (await store.transact({ success: then })).revision;
    const keysFrom = async (options: Parameters<Store['list']>[0]): Promise<string[]> =>
      (await store.list(options)).items.map(({ key }) => key.slice(at('').length));

    beforeEach(async () => {
      opened = await open();
      store = opened.store;
      const prefix = `/conformance/${randomUUID()}/`;
      at = (key) => prefix + key;
    });
    afterEach(() => opened.cleanup());

    test('a key that was never written is null', async () => {
      assert.equal(await store.get(at('a')), null);
    });

    test('a written key is read back with its revisions and version', async () => {
      const first = await write(put(at('a'), '{"n":1}'));
      assert.deepEqual(await store.get(at('a')), {
        key: at('a'),
        value: '{"n":1}',
        createRevision: first,
        modRevision: first,
        version: 1,
        leaseId: null,
      });
      const second = await write(put(at('a'), '{"n":2}'));
      assert.ok(second > first, `${second} comes after ${first}`);
      assert.deepEqual(await store.get(at('a')), {
        key: at('a'),
        value: '{"n":2}',
        createRevision: first,
        modRevision: second,
        version: 2,
        leaseId: null,
      });
    });

    test('a key that is deleted and written again begins anew', async () => {
      await write(put(at('a'), '1'));
      await write(put(at('a'), '2'));
      await write({ delete: at('a') });
      assert.equal(await store.get(at('a')), null);
      const again = await write(put(at('a'), '3'));
      const found = await store.get(at('a'));
      assert.equal(found?.version, 1);
      assert.equal(found?.createRevision, again);
    });

    test('all writes of a transaction have one revision, which is the store’s', async () => {
      const revision = await write(put(at('a'), '1'), put(at('b'), '2'));
      assert.equal((await store.get(at('a')))?.modRevision, revision);
      assert.equal((await store.get(at('b')))?.modRevision, revision);
      assert.ok((await store.revision()) >= revision);
    });

    test('a transaction that changes nothing takes no revision', async () => {
      const before = await write(put(at('a'), '1'));
      const result = await store.transact({ success: [{ delete: at('missing') }, { get: at('a') }] });
      assert.equal(result.succeeded, true);
      assert.equal(result.revision, before);
      assert.equal(await store.revision(), before);
    });

    test('writing the same value again is a change', async () => {
      const first = await write(put(at('a'), '1'));
      const second = await write(put(at('a'), '1'));
      assert.ok(second > first);
      assert.equal((await store.get(at('a')))?.version, 2);
    });

    test('every kind of comparison decides between the branches', async () => {
      const created = await write(put(at('a'), 'x'));
      const modified = await write(put(at('a'), 'y'));
      const a = at('a');
      const missing = at('missing');
      const cases: [Parameters<Store['transact']>[0]['compare'], boolean][] = [
        [[], true],
        [[{ key: a, exists: true }], true],
        [[{ key: a, exists: false }], false],
        [[{ key: missing, exists: false }], true],
        [[{ key: missing, exists: true }], false],
        [[{ key: a, modRevision: modified }], true],
        [[{ key: a, modRevision: created }], false],
        [[{ key: missing, modRevision: 0 }], true],
        [[{ key: a, createRevision: created }], true],
        [[{ key: a, createRevision: modified }], false],
        [[{ key: missing, createRevision: 0 }], true],
        [[{ key: a, version: 2 }], true],
        [[{ key: a, version: 1 }], false],
        [[{ key: missing, version: 0 }], true],
        [[{ key: a, value: 'y' }], true],
        [[{ key: a, value: 'x' }], false],
        [[{ key: missing, value: '' }], false],
        [
          [
            { key: a, exists: true },
            { key: a, value: 'x' },
          ],
          false,
        ],
        [
          [
            { key: a, exists: true },
            { key: missing, exists: false },
          ],
          true,
        ],
      ];
      for (const [compare, expected] of cases) {
        const result = await store.transact({
          compare,
          success: [{ get: a }],
          failure: [{ get: missing }, { get: a }],
        });
        assert.equal(result.succeeded, expected, JSON.stringify(compare));
        assert.deepEqual(
          result.found.map((found) => found?.value),
          expected ? ['y'] : [undefined, 'y'],
        );
      }
    });

    test('a failed comparison changes nothing but what its failure branch says', async () => {
      await write(put(at('a'), '1'));
      const result = await store.transact({
        compare: [{ key: at('a'), value: 'else' }],
        success: [put(at('a'), '2'), put(at('b'), '2')],
        failure: [put(at('c'), '3')],
      });
      assert.equal(result.succeeded, false);
      assert.deepEqual(await keysFrom({ prefix: at('') }), ['a', 'c']);
      assert.equal((await store.get(at('a')))?.value, '1');
      assert.equal((await store.get(at('c')))?.modRevision, result.revision);
    });

    test('a get in a transaction sees the writes before it', async () => {
      const { found } = await store.transact({ success: [{ get: at('a') }, put(at('a'), '1'), { get: at('a') }] });
      assert.deepEqual(
        found.map((item) => item?.value),
        [undefined, '1'],
      );
    });

    test('of writers that compare with the same revision exactly one wins', async () => {
      const base = await write(put(at('a'), '0'));
      const results = await Promise.all(
        Array.from({ length: 20 }, (_, index) =>
          store.transact({
            compare: [{ key: at('a'), modRevision: base }],
            success: [put(at('a'), String(index + 1))],
          }),
        ),
      );
      assert.equal(results.filter((result) => result.succeeded).length, 1);
      const winner = results.findIndex((result) => result.succeeded);
      assert.equal((await store.get(at('a')))?.value, String(winner + 1));
    });

    test('concurrent writes all happen, each with a revision of its own', async () => {
      const revisions = await Promise.all(Array.from({ length: 50 }, (_, index) => write(put(at(`k${index}`), '1'))));
      assert.equal(new Set(revisions).size, 50);
      assert.equal((await store.list({ prefix: at('') })).items.length, 50);
    });

    test('requests that no store takes are refused and change nothing', async () => {
      const refused: Operation[][] = [
        [put('', '1')],
        [put(at('nul\0'), '1')],
        [put(at('lone\ud800'), '1')],
        [put(at('last\u{10ffff}'), '1')],
        [put(at('a'), 'lone\udfff')],
        [put(at('x'.repeat(2000)), '1')],
        [put(at('a'), 'x'.repeat(maxValueBytes + 1))],
        [put(at('a'), '1'), put(at('a'), '2')],
        [put(at('a'), '1'), { delete: at('a') }],
        Array.from({ length: maxTransactionOperations + 1 }, (_, index) => put(at(`k${index}`), '1')),
      ];
      for (const then of refused) await assert.rejects(store.transact({ success: then }), StoreRequestError);
      for (const limit of [0, -1, 1.5, 1_000_000]) {
        await assert.rejects(store.list({ prefix: at(''), limit }), StoreRequestError);
      }
      assert.deepEqual(await keysFrom({ prefix: at('') }), []);
    });

    test('values up to the limit and of any script are kept as they are', async () => {
      const values = ['', '"\u{1f600} \uffff é\n\u0001"', 'x'.repeat(maxValueBytes)];
      for (const value of values) {
        await write(put(at('a'), value));
        assert.equal((await store.get(at('a')))?.value, value);
      }
    });

    test('a list is in the order of the UTF-8 bytes of its keys', async () => {
      const keys = [
        '',
        '!',
        '-',
        '/',
        '0',
        'A',
        'a',
        'a!',
        'a/b',
        'aa',
        'é',
        '中',
        '\ue000',
        '\uffff',
        '\u{10000}',
        '\u{1f600}',
      ];
      for (const key of keys.toReversed()) await write(put(at(`x${key}`), '1'));
      assert.deepEqual(
        await keysFrom({ prefix: at('x') }),
        keys.map((key) => `x${key}`),
      );
    });

    test('a prefix takes in what begins with it and nothing else', async () => {
      await write(...['vm', 'vm/', 'vm/1', 'vm/2', 'vm-status/1', 'vm0', 'vn'].map((key) => put(at(key), '1')));
      assert.deepEqual(await keysFrom({ prefix: at('vm/') }), ['vm/', 'vm/1', 'vm/2']);
      assert.deepEqual(await keysFrom({ prefix: at('vm') }), ['vm', 'vm-status/1', 'vm/', 'vm/1', 'vm/2', 'vm0']);
      assert.deepEqual(await keysFrom({ start: at('vm/1'), end: at('vn') }), ['vm/1', 'vm/2', 'vm0']);
    });

    test('pages join up to the whole, at the revision of the first, whatever is written between them', async () => {
      const keys = Array.from({ length: 25 }, (_, index) => `k${String(index).padStart(2, '0')}`);
      await write(...keys.map((key) => put(at(key), 'old')));
      const seen: string[] = [];
      let page = await store.list({ prefix: at(''), limit: 10 });
      const { revision } = page;
      for (;;) {
        seen.push(...page.items.map(summary));
        assert.equal(page.revision, revision);
        if (page.next === null) break;
        await write(put(at('k24'), 'new'), { delete: at('k23') }, put(at(`k10-${seen.length}`), 'new'));
        page = await store.list({ prefix: at(''), limit: 10, after: page.next, revision });
      }
      assert.deepEqual(
        seen,
        keys.map((key) => `${at(key)}=old`),
      );
    });

    test('a page that is exactly full and last has no next', async () => {
      await write(put(at('a'), '1'), put(at('b'), '1'));
      assert.equal((await store.list({ prefix: at(''), limit: 2 })).next, null);
      assert.equal((await store.list({ prefix: at(''), limit: 1 })).next, at('a'));
    });

    test('the past can be read until it is compacted', async () => {
      const first = await write(put(at('a'), '1'), put(at('b'), '1'));
      const second = await write(put(at('a'), '2'), { delete: at('b') });
      const third = await write(put(at('a'), '3'), put(at('b'), '3'));
      const read = async (revision: number): Promise<string[]> => {
        const { items } = await store.list({ prefix: at(''), revision });
        for (const item of items) assert.deepEqual(await store.get(item.key, { revision }), item);
        return items.map(({ key, value }) => `${key.slice(at('').length)}=${value}`);
      };
      assert.deepEqual(await read(first), ['a=1', 'b=1']);
      assert.deepEqual(await read(second), ['a=2']);
      assert.equal(await store.get(at('b'), { revision: second }), null);
      assert.deepEqual(await read(third), ['a=3', 'b=3']);
      await store.compact(second);
      await assert.rejects(store.get(at('a'), { revision: first }), CompactedError);
      await assert.rejects(store.list({ prefix: at(''), revision: first }), CompactedError);
      assert.deepEqual(await read(second), ['a=2']);
      assert.deepEqual(await read(third), ['a=3', 'b=3']);
      await store.compact(first);
    });

    test('the future can be neither read nor compacted', async () => {
      const revision = await store.revision();
      await assert.rejects(store.get(at('a'), { revision: revision + 1000 }), FutureRevisionError);
      await assert.rejects(store.list({ prefix: at(''), revision: revision + 1000 }), FutureRevisionError);
      await assert.rejects(store.compact(revision + 1000), FutureRevisionError);
    });

    test('a watch gives each transaction as one batch, in order, past and future', async () => {
      const first = await write(put(at('w/a'), '1'), put(at('other'), '1'), put(at('w/b'), '1'));
      const watching = readWatch(store, { prefix: at('w/'), fromRevision: first }, ({ length }) => length === 4);
      const second = await write({ delete: at('w/a') }, put(at('w/c'), '2'));
      await write(put(at('other'), '2'));
      await nextTurn();
      const third = await write(put(at('w/b'), '3'));
      const fourth = await write({ delete: at('w/missing') }, put(at('w/a'), '4'));
      const batches = await watching;
      assert.deepEqual(
        batches.map(({ revision }) => revision),
        [first, second, third, fourth],
      );
      assert.deepEqual(batches.map(eventSummary), [
        [`put ${at('w/a')}=1`, `put ${at('w/b')}=1`],
        [`delete ${at('w/a')}`, `put ${at('w/c')}=2`],
        [`put ${at('w/b')}=3`],
        [`put ${at('w/a')}=4`],
      ]);
      const [event] = batches[3]?.events ?? [];
      assert.ok(event?.type === 'put');
      assert.deepEqual(event.current, await store.get(at('w/a')));
    });

    test('a watch from the future begins there', async () => {
      const now = await store.revision();
      const watching = readWatch(store, { prefix: at(''), fromRevision: now + 3 }, ({ length }) => length > 0);
      let revision = now;
      while (revision < now + 3) revision = await write(put(at('a'), String(revision)));
      const [batch] = await watching;
      assert.ok((batch?.revision ?? 0) >= now + 3, `the first batch is ${batch?.revision}`);
    });

    for (const isLate of [false, true]) {
      test(`a reader that is slow ${isLate ? 'and comes late ' : ''}misses nothing and gets nothing twice`, async () => {
        const expected: { revision: number; key: string }[] = [];
        const writeSome = async (count: number): Promise<void> => {
          for (let start = 0; start < count; start += 100) {
            const keys = Array.from({ length: 100 }, (_, index) => at(`k${(start + index) % 40}`));
            const revisions = await Promise.all(keys.map((key) => write(put(key, '1'))));
            expected.push(...keys.map((key, index) => ({ key, revision: revisions[index] ?? 0 })));
          }
        };
        const fromRevision = (await store.revision()) + 1;
        if (isLate) await writeSome(500);
        const controller = new AbortController();
        const batches = store.watch({ prefix: at(''), fromRevision }, controller.signal);
        await writeSome(1300);
        const seen: typeof expected = [];
        const giveUp = setTimeout(() => controller.abort(), deadlineMs);
        for await (const { revision, events } of batches) {
          seen.push(...events.map(({ key }) => ({ key, revision })));
          // Some come while it reads.
          if (seen.length === 700) await writeSome(200);
          if (seen.length >= expected.length) break;
        }
        clearTimeout(giveUp);
        assert.deepEqual(
          seen,
          expected.toSorted((left, right) => left.revision - right.revision),
        );
      });
    }

    test('writes that are made together resolve in the order of their revisions', async () => {
      const order: number[] = [];
      await Promise.all(
        Array.from({ length: 20 }, (_, index) =>
          write(put(at(`k${index}`), '1')).then((revision) => order.push(revision)),
        ),
      );
      assert.deepEqual(
        order,
        order.toSorted((left, right) => left - right),
      );
    });

    test('a watch ends when its signal aborts, waiting or not', async () => {
      const controller = new AbortController();
      const watch = store.watch({ prefix: at(''), fromRevision: 1_000_000_000 }, controller.signal);
      const iterator = watch[Symbol.asyncIterator]();
      const waiting = iterator.next();
      controller.abort();
      assert.equal((await waiting).done, true);
      assert.equal((await iterator.next()).done, true);
      for await (const batch of store.watch({ prefix: at(''), fromRevision: 1 }, AbortSignal.abort())) {
        assert.fail(`an aborted watch gave ${JSON.stringify(batch)}`);
      }
    });

    test('a watch from a compacted revision says so, and one from a later revision misses nothing', async () => {
      const first = await write(put(at('a'), '1'));
      await write(put(at('a'), '2'));
      const third = await write({ delete: at('a') });
      const fourth = await write(put(at('b'), '4'));
      await store.compact(third);
      await assert.rejects(
        readWatch(store, { prefix: at(''), fromRevision: first }, () => true),
        (error) =>
          error instanceof CompactedError && error.compactedRevision >= third && error.code === 'revision_gone',
      );
      const batches = await readWatch(store, { prefix: at(''), fromRevision: third + 1 }, () => true);
      assert.deepEqual(
        batches.map(({ revision }) => revision),
        [fourth],
      );
    });

    test('a watch under way is not disturbed by compaction', async () => {
      const first = await write(put(at('a'), '1'));
      const watching = readWatch(store, { prefix: at(''), fromRevision: first }, ({ length }) => length === 2);
      await nextTurn();
      await store.compact(first);
      await write(put(at('a'), '2'));
      assert.deepEqual((await watching).map(eventSummary), [[`put ${at('a')}=1`], [`put ${at('a')}=2`]]);
    });

    test('keys die with their lease, in one revision', async () => {
      const lease = await store.grantLease(20);
      assert.ok(lease.ttlMs >= 20);
      const revision = await write(put(at('a'), '1', lease.id), put(at('b'), '1', lease.id), put(at('c'), '1'));
      assert.equal((await store.get(at('a')))?.leaseId, lease.id);
      const [batch] = await readWatch(store, { prefix: at(''), fromRevision: revision + 1 }, () => true);
      assert.deepEqual(eventSummary(batch ?? assert.fail()), [`delete ${at('a')}`, `delete ${at('b')}`]);
      assert.deepEqual(await keysFrom({ prefix: at('') }), ['c']);
      await assert.rejects(store.keepLeaseAlive(lease.id), LeaseNotFoundError);
    });

    test('a lease that is kept alive outlives one that is not', async () => {
      // A busy machine may miss the time of a short lease: then with a longer one.
      for (let ttlMs = 100; ; ttlMs *= 4) {
        const kept = await store.grantLease(ttlMs);
        const left = await store.grantLease(ttlMs);
        await write(put(at('kept'), '1', kept.id), put(at('left'), '1', left.id));
        try {
          const giveUpAt = performance.now() + deadlineMs + left.ttlMs;
          while (await store.get(at('left'))) {
            assert.ok(performance.now() < giveUpAt, 'the lease does not expire');
            await store.keepLeaseAlive(kept.id);
            await nextTurn();
          }
          assert.ok(await store.get(at('kept')));
          await store.revokeLease(kept.id);
          return;
        } catch (error) {
          if (!(error instanceof LeaseNotFoundError) || ttlMs > 5000) throw error;
        }
      }
    });

    test('a revoked lease takes its keys along at once', async () => {
      const lease = await store.grantLease(60_000);
      await write(put(at('a'), '1', lease.id));
      await store.revokeLease(lease.id);
      assert.equal(await store.get(at('a')), null);
      await assert.rejects(store.revokeLease(lease.id), LeaseNotFoundError);
      await assert.rejects(store.keepLeaseAlive(lease.id), LeaseNotFoundError);
    });

    test('a write without a lease takes the key off its lease', async () => {
      const lease = await store.grantLease(60_000);
      await write(put(at('a'), '1', lease.id));
      await write(put(at('a'), '2'));
      await store.revokeLease(lease.id);
      assert.equal((await store.get(at('a')))?.value, '2');
    });

    test('a write with a lease that does not exist changes nothing', async () => {
      await assert.rejects(write(put(at('a'), '1'), put(at('b'), '1', '7')), LeaseNotFoundError);
      assert.deepEqual(await keysFrom({ prefix: at('') }), []);
    });

    test('everything is there after reopening: values, history, compaction, revision, leases', async () => {
      const lease = await store.grantLease(60_000);
      const first = await write(put(at('a'), '1'), put(at('leased'), '1', lease.id));
      const second = await write(put(at('a'), '2'));
      const third = await write({ delete: at('a') }, put(at('b'), '3'));
      await store.compact(second);
      store = await opened.reopen();
      assert.ok((await store.revision()) >= third);
      assert.deepEqual(await keysFrom({ prefix: at('') }), ['b', 'leased']);
      assert.equal((await store.get(at('a'), { revision: second }))?.value, '2');
      await assert.rejects(store.get(at('a'), { revision: first }), CompactedError);
      const batches = await readWatch(store, { prefix: at(''), fromRevision: third }, () => true);
      assert.deepEqual(batches.map(eventSummary), [[`delete ${at('a')}`, `put ${at('b')}=3`]]);
      await store.revokeLease(lease.id);
      assert.deepEqual(await keysFrom({ prefix: at('') }), ['b']);
      assert.ok((await write(put(at('c'), '1'))) > third);
    });

    test('a closed store refuses work and ends its watches', async () => {
      const fromRevision = (await store.revision()) + 1;
      const watch = store.watch({ prefix: at('w/'), fromRevision }, AbortSignal.timeout(deadlineMs));
      const iterator = watch[Symbol.asyncIterator]();
      const waiting = assert.rejects(iterator.next(), StoreClosedError);
      const underWay = write(put(at('a'), '1'));
      await store.close();
      await waiting;
      await underWay;
      await assert.rejects(store.get(at('a')), StoreClosedError);
      await assert.rejects(write(put(at('a'), '2')), StoreClosedError);
      await assert.rejects(store.grantLease(1000), StoreClosedError);
      await store.close();
      store = await opened.reopen();
      assert.equal((await store.get(at('a')))?.value, '1');
    });
  });
}
