// The HTTP server on a real socket with stub handlers: answers that are kept, its end, and its socket.
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { suite, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { LodgeError } from '../../src/api/errors.ts';
import { IdempotencyRecords, idempotencyKeptMs } from '../../src/daemon/http/idempotency.ts';
import { SqliteStore } from '../../src/daemon/store/sqlite.ts';
import { atEnd } from '../support/cleanup.ts';
import { rawRequest, startStub, errorOf, failureOf } from '../support/stub-http.ts';
import { temporaryFolder } from '../support/temporary.ts';
import { eventually } from '../support/wait.ts';

const json = { 'content-type': 'application/json' };
const vmPath = '/v1/vms';

suite('idempotency keys', () => {
  const create = { body: { name: 'web1', spec: {} }, idempotencyKey: 'key-1' };

  async function keyedStub(
    t: Parameters<typeof startStub>[0],
    more: { now?: () => number } = {},
  ): Promise<{
    stub: Awaited<ReturnType<typeof startStub>>;
    calls: () => number;
    setFailing: (isFailing: boolean) => void;
    store: SqliteStore;
  }> {
    const store = await SqliteStore.open({ file: join(await temporaryFolder(t), 'db') });
    atEnd(t, () => store.close());
    let calls = 0;
    let isFailing = false;
    const handler = async (request: { body: unknown }): Promise<unknown> => {
      calls += 1;
      await delay(20);
      if (isFailing) throw new LodgeError('storage_full', 'no room');
      return { made: calls, request: request.body };
    };
    const stub = await startStub(
      t,
      { 'vm.create': handler },
      { isOutputChecked: false, idempotency: new IdempotencyRecords(store, more) },
    );
    return { stub, calls: () => calls, setFailing: (value) => (isFailing = value), store };
  }

  test('the same key and request give the same answer, made once, also at the same time', async (t) => {
    const { stub, calls } = await keyedStub(t);
    const answers = await Promise.all([1, 2, 3].map(() => stub.client.vm.create(create)));
    answers.push(await stub.client.vm.create(create));
    assert.equal(calls(), 1);
    for (const answer of answers) assert.deepEqual(answer, answers[0]);
  });

  test('the same key with another request is a conflict; the order of fields makes none', async (t) => {
    const { stub, calls } = await keyedStub(t);
    await stub.client.vm.create(create);
    const failure = await failureOf(stub.client.vm.create({ ...create, body: { name: 'web2', spec: {} } }));
    assert.equal(failure.code, 'idempotency_conflict');
    await stub.client.vm.create({ ...create, body: { spec: {}, name: 'web1' } });
    assert.equal(calls(), 1);
  });

  test('another key, no key, or another caller is another request', async (t) => {
    const { stub, calls } = await keyedStub(t);
    await stub.client.vm.create(create);
    await stub.client.vm.create({ ...create, idempotencyKey: 'key-2' });
    await stub.client.vm.create({ body: create.body });
    await rawRequest(stub.socketPath, 'POST', vmPath, {
      headers: { ...json, authorization: 'Bearer admin-secret', 'idempotency-key': 'key-1' },
      body: JSON.stringify(create.body),
    });
    assert.equal(calls(), 4);
  });

  test('a failure is not kept: the request may be tried again', async (t) => {
    const { stub, calls, setFailing } = await keyedStub(t);
    setFailing(true);
    assert.equal((await failureOf(stub.client.vm.create(create))).code, 'storage_full');
    setFailing(false);
    await stub.client.vm.create(create);
    assert.equal(calls(), 2);
  });

  test('a client that goes away does not stop what it has given a key for', async (t) => {
    const { stub, calls } = await keyedStub(t);
    const controller = new AbortController();
    const first = stub.client.vm.create(create, { signal: controller.signal });
    await eventually(() => calls() === 1);
    controller.abort(new Error('gone'));
    await assert.rejects(first, /gone/);
    assert.deepEqual(await stub.client.vm.create(create), {
      made: 1,
      request: {
        ...create.body,
        project: 'default',
        labels: {},
        spec: ((await stub.client.vm.create(create)) as unknown as { request: { spec: unknown } }).request.spec,
      },
    });
    assert.equal(calls(), 1);
  });

  test('an answer is kept for a day, also over a restart, and then swept', async (t) => {
    let now = 1_000_000;
    const { stub, calls, store } = await keyedStub(t, { now: () => now });
    await stub.client.vm.create(create);
    const again = new IdempotencyRecords(store, { now: () => now });
    now += idempotencyKeptMs - 1;
    assert.equal(await again.sweep(), 0);
    await stub.client.vm.create(create);
    assert.equal(calls(), 1);
    now += 1;
    assert.equal(await again.sweep(), 1);
    await stub.client.vm.create(create);
    assert.equal(calls(), 2);
  });

  test('a key that is none is refused', async (t) => {
    const { stub } = await keyedStub(t);
    for (const key of ['', 'a b', 'x'.repeat(201)]) {
      const answer = await rawRequest(stub.socketPath, 'POST', vmPath, {
        headers: { ...json, 'idempotency-key': key },
        body: '{}',
      });
      assert.match(errorOf(answer).message, /Idempotency-Key/, JSON.stringify(key));
    }
  });
});

suite('the end', () => {
  test('requests come to their end, streams and consoles are told, nothing new is taken', async (t) => {
    const gate = Promise.withResolvers<void>();
    let isServing = false;
    const stub = await startStub(t, {
      'token.list': async () => {
        isServing = true;
        await gate.promise;
        return { items: [] };
      },
      'event.stream': () =>
        (async function* () {
          yield { revision: 1, type: 'synced', kind: null, id: null, object: null };
          await new Promise(() => undefined);
        })(),
      'vm.attachConsole': async (_request, context) => {
        const stream = await context.acceptWebSocket();
        stream.resume();
        await new Promise((resolve) => context.signal.addEventListener('abort', resolve));
      },
    });
    const { server, client, connection, socketPath } = stub;
    const pending = client.token.list();
    const stream = (await client.event.stream())[Symbol.asyncIterator]();
    await stream.next();
    const consoleSocket = await connection.openWebSocket('/v1/consoles/t1');
    consoleSocket.stream.resume();
    await eventually(() => isServing);

    const closing = server.close({ graceMs: 5_000 });
    const failure = await failureOf(stream.next());
    assert.match(failure.message, /the daemon is stopping/);
    assert.equal((await consoleSocket.closed).code, 1001);
    assert.equal((await failureOf(client.server.healthz())).code, 'unavailable');
    gate.resolve();
    assert.deepEqual(await pending, { items: [] });
    await closing;
    assert.equal(existsSync(socketPath), false);
  });

  test('what does not end in time is cut', async (t) => {
    const { server, client } = await startStub(t, { 'token.list': () => new Promise(() => undefined) });
    const pending = failureOf(client.token.list());
    await eventually(async () => (await client.server.healthz()).status.length > 0);
    await server.close({ graceMs: 50 });
    assert.equal((await pending).code, 'unavailable');
  });
});

suite('the socket', () => {
  test('one left by a daemon that died is replaced; one that answers is not', async (t) => {
    const { socketPath } = await startStub(t);
    await assert.rejects(
      startStub(t, {}, { listen: { socket: { path: socketPath, group: null } } }),
      (error) => error instanceof LodgeError && error.code === 'host_conflict' && /already listens/.test(error.message),
    );
    const stale = join(await temporaryFolder(t), 's');
    const { spawnSync } = await import('node:child_process');
    const script = `require('net').createServer().listen(${JSON.stringify(stale)}, () => process.kill(process.pid, 'SIGKILL'))`;
    spawnSync(process.execPath, ['-e', script]);
    assert.ok(existsSync(stale));
    const { client } = await startStub(t, {}, { listen: { socket: { path: stale, group: null } } });
    await client.server.healthz();
  });

  test('a file that is no socket is left alone', async (t) => {
    const path = join(await temporaryFolder(t), 'file');
    await writeFile(path, 'precious');
    await assert.rejects(startStub(t, {}, { listen: { socket: { path, group: null } } }), /is no socket/);
    assert.ok(existsSync(path));
  });

  test('a path that is too long for a socket is refused', async (t) => {
    const path = `/tmp/${'x'.repeat(120)}`;
    await assert.rejects(startStub(t, {}, { listen: { socket: { path, group: null } } }), /longer than 107 bytes/);
  });
});
