// The store when its process is killed and when its disk is full: what was acknowledged is there, the rest is not there
// in part.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, readdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { test } from 'node:test';
import { SqliteStore } from '../../src/daemon/store/sqlite.ts';
import { StoreFullError, StoreLockedError, type KeyValue, type Store } from '../../src/daemon/store/store.ts';
import { run } from '../../src/host/command.ts';
import { atEnd } from '../support/cleanup.ts';
import { temporaryFolder } from '../support/temporary.ts';

async function readAll(store: Store, prefix: string): Promise<Map<number, KeyValue>> {
  const found = new Map<number, KeyValue>();
  for (let after: string | null = ''; after !== null;) {
    const page = await store.list({ prefix, after });
    for (const item of page.items) found.set(Number(item.key.slice(prefix.length)), item);
    after = page.next;
  }
  return found;
}

test('every acknowledged write survives SIGKILL, none is there in part, and the dead process locks nobody out', async (t) => {
  const file = join(await temporaryFolder(t), 'lodge.db');
  const writer = join(import.meta.dirname, '../support/store-writer.ts');
  const acknowledged = new Map<number, number>();
  const rounds = 8;
  for (let round = 0; round < rounds; round++) {
    const first = round * 1_000_000;
    const child = spawn(process.execPath, [writer, file, String(first)], { stdio: ['ignore', 'pipe', 'inherit'] });
    atEnd(t, () => child.kill('SIGKILL'));
    const enough = 1 + Math.floor(Math.random() * 400);
    let seen = 0;
    for await (const line of createInterface({ input: child.stdout })) {
      if (line === 'open') {
        await assert.rejects(
          SqliteStore.open({ file }),
          (error) => error instanceof StoreLockedError && error.message.includes(`process ${child.pid}`),
        );
        continue;
      }
      const [number = '', revision = ''] = line.split(' ');
      acknowledged.set(Number(number), Number(revision));
      // Lines that come after this are acknowledged too, and counted.
      if (++seen === enough) child.kill('SIGKILL');
    }
    if (child.signalCode === null) await once(child, 'exit');
    assert.equal(child.signalCode, 'SIGKILL');

    const store = await SqliteStore.open({ file });
    const left = await readAll(store, '/left/');
    const right = await readAll(store, '/right/');
    assert.deepEqual([...left.keys()], [...right.keys()], 'both halves of each write, or none');
    for (const [number, revision] of acknowledged) {
      assert.equal(left.get(number)?.modRevision, revision, `write ${number} of round ${round}`);
      assert.equal((JSON.parse(left.get(number)?.value ?? '') as { number: number }).number, number);
    }
    const newest = Math.max(...Array.from(left.values(), ({ modRevision }) => modRevision));
    assert.equal(await store.revision(), newest);
    assert.equal((await store.get('/counter'))?.version, left.size);
    await store.close();
  }
  assert.ok(acknowledged.size >= rounds);
});

test('a full disk refuses writes whole, keeps all that was acknowledged, and takes writes again when there is room', async (t) => {
  const folder = join(await temporaryFolder(t), 'disk');
  await mkdir(folder);
  await run(['mount', '-t', 'tmpfs', '-o', 'size=4m', 'lodge-test', folder]);
  atEnd(t, () => run(['umount', folder]));
  const ballast = join(folder, 'ballast');
  await writeFile(ballast, Buffer.alloc(1024 * 1024));
  const file = join(folder, 'lodge.db');
  const store = await SqliteStore.open({ file });
  atEnd(t, () => store.close());

  const kept: number[] = [];
  let refused = -1;
  for (let number = 0; refused < 0; number++) {
    assert.ok(number < 1000, 'the disk does not fill');
    try {
      const value = String(number).padEnd(50_000, 'x');
      await store.transact({
        success: [
          { put: `/left/${number}`, value },
          { put: `/right/${number}`, value },
        ],
      });
      kept.push(number);
    } catch (error) {
      assert.ok(error instanceof StoreFullError, String(error));
      refused = number;
    }
  }
  assert.ok(kept.length > 3);
  const check = async (opened: Store): Promise<void> => {
    assert.deepEqual(
      [...(await readAll(opened, '/left/')).keys()].toSorted((a, b) => a - b),
      kept,
    );
    assert.deepEqual(
      [...(await readAll(opened, '/right/')).keys()].toSorted((a, b) => a - b),
      kept,
    );
  };
  await check(store);
  await assert.rejects(
    SqliteStore.open({ file: join(folder, 'another.db') }),
    (error) => error instanceof StoreFullError && error.code === 'storage_full',
  );
  assert.deepEqual(
    (await readdir(folder)).filter((name) => name.startsWith('another')),
    [],
  );

  await rm(ballast);
  const value = String(refused).padEnd(50_000, 'x');
  await store.transact({
    success: [
      { put: `/left/${refused}`, value },
      { put: `/right/${refused}`, value },
    ],
  });
  kept.push(refused);
  await check(store);
  await store.close();
  const again = await SqliteStore.open({ file });
  await check(again);
  await again.close();
});
