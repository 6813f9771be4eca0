import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { pino } from 'pino';
import { LodgeError } from '../../api/errors.ts';
import { SqliteStore } from '../store/sqlite.ts';
import { TokenService } from './token-service.ts';

const log = pino({ level: 'silent' });

async function openStore(t: TestContext): Promise<SqliteStore> {
  const folder = await mkdtemp(join(tmpdir(), 'lodge-tokens-'));
  const store = await SqliteStore.open({ file: join(folder, 'lodge.db') });
  t.after(async () => {
    await store.close();
    await rm(folder, { recursive: true, force: true });
  });
  return store;
}

test('a token is recognised by its secret, which is nowhere in the store', async (t) => {
  const store = await openStore(t);
  const tokens = new TokenService(store, log);
  const made = await tokens.create({ name: 'ci', role: 'viewer' }, 'local:root');
  assert.match(made.secret, /^lodge_[A-Za-z0-9_-]{43}$/);
  assert.deepEqual(await tokens.authenticate(made.secret), {
    name: 'token:ci',
    role: 'viewer',
    kind: 'token',
    tokenId: made.id,
  });
  const { items } = await store.list({ prefix: '' });
  assert.ok(items.length > 0);
  assert.ok(!JSON.stringify(items).includes(made.secret.slice('lodge_'.length)));
});

test('no other text is recognised', async (t) => {
  const tokens = new TokenService(await openStore(t), log);
  const { secret } = await tokens.create({ name: 'ci', role: 'admin' }, 'local:root');
  const wrong = [
    '',
    'lodge_',
    secret.slice(0, -1),
    `${secret}x`,
    secret.toUpperCase(),
    `lodge_${'/'.repeat(43)}`,
    '../tokens',
  ];
  for (const text of wrong) assert.equal(await tokens.authenticate(text), null, text);
});

test('an expired token is refused from the moment on', async (t) => {
  let now = Date.parse('2026-01-01T00:00:00Z');
  const tokens = new TokenService(await openStore(t), log, { now: () => now });
  const { secret, expiresAt } = await tokens.create({ name: 'short', role: 'admin', expiresInS: 60 }, 'local:root');
  assert.equal(expiresAt, '2026-01-01T00:01:00.000Z');
  now += 59_999;
  assert.notEqual(await tokens.authenticate(secret), null);
  now += 1;
  assert.equal(await tokens.authenticate(secret), null);
});

test('a name is taken once, also by two creations at the same time, and free again after deletion', async (t) => {
  const tokens = new TokenService(await openStore(t), log);
  const make = (): Promise<unknown> => tokens.create({ name: 'ci', role: 'admin' }, 'local:root');
  const results = await Promise.allSettled([make(), make(), make()]);
  assert.equal(results.filter((result) => result.status === 'fulfilled').length, 1);
  await assert.rejects(make(), (error) => error instanceof LodgeError && error.code === 'name_taken');
  await tokens.delete('ci', 'local:root');
  await make();
});

test('a deleted token, by name or id, is refused at once and leaves nothing behind', async (t) => {
  const store = await openStore(t);
  const tokens = new TokenService(store, log);
  const first = await tokens.create({ name: 'a', role: 'admin' }, 'local:root');
  const second = await tokens.create({ name: 'b', role: 'admin' }, 'local:root');
  await tokens.authenticate(first.secret);
  await tokens.settle();
  await tokens.delete('a', 'local:root');
  await tokens.delete(second.id, 'local:root');
  assert.equal(await tokens.authenticate(first.secret), null);
  assert.equal(await tokens.authenticate(second.secret), null);
  await assert.rejects(
    tokens.delete('a', 'local:root'),
    (error) => error instanceof LodgeError && error.code === 'not_found',
  );
  assert.deepEqual((await store.list({ prefix: '' })).items, []);
});

test('the last use is noted at most every five minutes', async (t) => {
  let now = Date.parse('2026-01-01T00:00:00Z');
  const store = await openStore(t);
  const tokens = new TokenService(store, log, { now: () => now });
  const { secret } = await tokens.create({ name: 'ci', role: 'viewer' }, 'local:root');
  const lastUse = async (): Promise<string | null | undefined> => (await tokens.list())[0]?.lastUsedAt;
  assert.equal(await lastUse(), null);
  await tokens.authenticate(secret);
  await tokens.settle();
  assert.equal(await lastUse(), '2026-01-01T00:00:00.000Z');
  const revision = await store.revision();
  now += 299_000;
  await tokens.authenticate(secret);
  await tokens.settle();
  assert.equal(await store.revision(), revision);
  now += 1_000;
  await tokens.authenticate(secret);
  await tokens.settle();
  assert.equal(await lastUse(), '2026-01-01T00:05:00.000Z');
});
