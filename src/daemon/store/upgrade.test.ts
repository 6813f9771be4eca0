// Records of an earlier form, on a real store.
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, suite, test } from 'node:test';
import * as z from 'zod';
import { type Log, silentLog } from './informer.ts';
import { SqliteStore } from './sqlite.ts';
import { upgradeRecords, type RecordForm } from './upgrade.ts';

const prefix = '/lodge/things/';
const older = z.strictObject({ size: z.int() });
const today = z.strictObject({ size: z.int(), colour: z.string().default('grey') });

function form(schema: z.ZodType): RecordForm[] {
  return [{ prefix, schema, complete: (value) => z.parse(schema, value) }];
}

suite('records of an earlier form', () => {
  let folder: string;
  let store: SqliteStore;
  const put = (id: string, value: string) => store.transact({ success: [{ put: prefix + id, value }] });
  const get = async (id: string): Promise<unknown> => JSON.parse((await store.get(prefix + id))!.value);

  beforeEach(async () => {
    folder = mkdtempSync(path.join(os.tmpdir(), 'lodge-upgrade-'));
    store = await SqliteStore.open({ file: path.join(folder, 'lodge.db') });
  });
  afterEach(async () => {
    await store.close();
    rmSync(folder, { recursive: true });
  });

  test('get the defaults of the fields that came since', async () => {
    await put('a', '{"size":1}');
    await put('b', '{"size":2,"colour":"red"}');
    assert.equal(await upgradeRecords(store, form(today), silentLog), 1);
    assert.deepEqual(
      [await get('a'), await get('b')],
      [
        { size: 1, colour: 'grey' },
        { size: 2, colour: 'red' },
      ],
    );
  });

  test('are looked at again only when the form has changed', async () => {
    await upgradeRecords(store, form(older), silentLog);
    await put('late', '{"size":1}');
    assert.equal(await upgradeRecords(store, form(older), silentLog), 0);
    assert.equal(await upgradeRecords(store, form(today), silentLog), 1);
  });

  test('stay as they are where they do not fit, and the log names them', async () => {
    await put('odd', '{"size":"large"}');
    await put('torn', '{"size":');
    await put('good', '{"size":1}');
    const named: unknown[] = [];
    const log: Log = { ...silentLog, warn: ({ key }: { key?: string }) => void named.push(key) };
    assert.equal(await upgradeRecords(store, form(today), log), 1);
    assert.deepEqual(await get('odd'), { size: 'large' });
    assert.deepEqual(named, [`${prefix}odd`, `${prefix}torn`]);
  });

  test('are all done in the end when it was interrupted', async () => {
    for (const id of ['a', 'b', 'c']) await put(id, '{"size":1}');
    let writes = 0;
    const failing = new Proxy(store, {
      get: (target, name: keyof SqliteStore) => {
        const member: unknown = target[name];
        if (typeof member !== 'function') return member;
        if (name !== 'transact') return member.bind(target) as unknown;
        return async (transaction: Parameters<SqliteStore['transact']>[0]) => {
          if (++writes === 2) throw new Error('power cut');
          return target.transact(transaction);
        };
      },
    });
    await assert.rejects(upgradeRecords(failing, form(today), silentLog), /power cut/);
    assert.equal(await upgradeRecords(store, form(today), silentLog), 2);
    assert.deepEqual(await get('c'), { size: 1, colour: 'grey' });
  });
});
