// The informer against a store whose watches can be broken off.
import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import { Informer, listAll, type InformerTarget } from './informer.ts';
import { CompactedError, StoreFailedError, type KeyValue, type Page, type Store, type WatchBatch } from './store.ts';

/** A store that serves lists from a map and hands the test the ends of its watches. */
class ScriptedStore {
  values = new Map<string, string>();
  current = 1;
  watches: { fromRevision: number; push: (batch: WatchBatch) => void; fail: (error: Error) => void }[] = [];
  failingLists = 0;

  put(key: string, value: string): WatchBatch {
    this.values.set(key, value);
    this.current++;
    return { revision: this.current, events: [{ type: 'put', key, current: this.keyValue(key) }] };
  }

  keyValue(key: string): KeyValue {
    const value = this.values.get(key) ?? '';
    return { key, value, createRevision: 1, modRevision: this.current, version: 1, leaseId: null };
  }

  async list(): Promise<Page> {
    if (this.failingLists-- > 0) throw new CompactedError(1, 2);
    return { items: Array.from(this.values.keys(), (key) => this.keyValue(key)), revision: this.current, next: null };
  }

  async *watch({ fromRevision }: { fromRevision: number }, signal: AbortSignal): AsyncGenerator<WatchBatch> {
    const queue: (WatchBatch | Error)[] = [];
    let wake = (): void => {};
    signal.addEventListener('abort', () => wake());
    this.watches.push({
      fromRevision,
      push: (batch) => (queue.push(batch), wake()),
      fail: (error) => (queue.push(error), wake()),
    });
    while (!signal.aborted) {
      const next = queue.shift();
      if (next instanceof Error) throw next;
      if (next) yield next;
      else await new Promise<void>((resolve) => (wake = resolve));
    }
  }
}

class Recorder implements InformerTarget<KeyValue> {
  seen: string[] = [];
  throwOn = '';

  decode(item: KeyValue): KeyValue {
    return item;
  }

  reset(items: readonly KeyValue[], revision: number): void {
    this.seen.push(`reset ${items.map(({ key, value }) => key + value).join(',')}@${revision}`);
  }

  apply(batch: WatchBatch): void {
    const [event] = batch.events;
    if (event?.key === this.throwOn) throw new Error('on purpose');
    this.seen.push(`apply ${event?.key}@${batch.revision}`);
  }
}

const until = async (isTrue: () => boolean): Promise<void> => {
  for (let turn = 0; !isTrue(); turn++) {
    assert.ok(turn < 100_000, 'it does not come');
    await new Promise(setImmediate);
  }
};

async function start() {
  const scripted = new ScriptedStore();
  const recorder = new Recorder();
  scripted.put('a', '1');
  const informer = new Informer(scripted as unknown as Store, '', recorder);
  await informer.start();
  await until(() => scripted.watches.length === 1);
  return { scripted, recorder, informer };
}

suite('An informer', () => {
  test('lists, then follows from the next revision', async () => {
    const { scripted, recorder, informer } = await start();
    assert.equal(scripted.watches[0]?.fromRevision, 3);
    const waiting = informer.reached(3);
    scripted.watches[0]?.push(scripted.put('b', '1'));
    assert.equal(await waiting, true);
    assert.deepEqual(recorder.seen, ['reset a1@2', 'apply b@3']);
    await informer.stop();
  });

  test('goes on where it was when a watch breaks', async () => {
    const { scripted, recorder, informer } = await start();
    scripted.watches[0]?.push(scripted.put('b', '1'));
    scripted.watches[0]?.fail(new StoreFailedError('lost'));
    await until(() => scripted.watches.length === 2);
    assert.equal(scripted.watches[1]?.fromRevision, 4);
    scripted.watches[1]?.push(scripted.put('c', '1'));
    assert.equal(await informer.reached(4), true);
    assert.deepEqual(recorder.seen, ['reset a1@2', 'apply b@3', 'apply c@4']);
    await informer.stop();
  });

  test('lists again when what it missed was compacted', async () => {
    const { scripted, recorder, informer } = await start();
    scripted.put('b', '1');
    scripted.failingLists = 2;
    scripted.watches[0]?.fail(new CompactedError(3, 4));
    assert.equal(await informer.reached(3), true);
    assert.deepEqual(recorder.seen, ['reset a1@2', 'reset a1,b1@3']);
    await until(() => scripted.watches.length === 2);
    assert.equal(scripted.watches[1]?.fromRevision, 4);
    await informer.stop();
  });

  test('survives a target that throws', async () => {
    const { scripted, recorder, informer } = await start();
    recorder.throwOn = 'b';
    scripted.watches[0]?.push(scripted.put('b', '1'));
    scripted.watches[0]?.push(scripted.put('c', '1'));
    assert.equal(await informer.reached(4), true);
    assert.deepEqual(recorder.seen, ['reset a1@2', 'apply c@4']);
    await informer.stop();
  });

  test('gives up waiting for a revision that does not come, and when it is stopped', async () => {
    const { informer } = await start();
    assert.equal(await informer.reached(9, 1), false);
    const waiting = informer.reached(9);
    await informer.stop();
    assert.equal(await waiting, false);
    assert.equal(await informer.reached(9), false);
  });

  test('a list is begun again when it is compacted between two pages', async () => {
    const scripted = new ScriptedStore();
    scripted.put('a', '1');
    scripted.failingLists = 1;
    assert.equal((await listAll(scripted as unknown as Store, '', ({ key }) => key)).items.length, 1);
  });
});
