// The HTTP server on real sockets with stub handlers: refusals, streams, limits, and its end.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { stat, writeFile } from 'node:fs/promises';
import { connect as connectSocket } from 'node:net';
import { join } from 'node:path';
import { suite, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { WebSocket } from 'ws';
import { errorBody, LodgeError, type ErrorBody } from '../../src/api/errors.ts';
import { type ByteSource, type RequestContext } from '../../src/daemon/http/context.ts';
import { IdempotencyRecords, idempotencyKeptMs } from '../../src/daemon/http/idempotency.ts';
import { createMetrics } from '../../src/daemon/http/metrics.ts';
import { defaultHttpLimits } from '../../src/daemon/http/limits.ts';
import { SqliteStore } from '../../src/daemon/store/sqlite.ts';
import { atEnd } from '../support/cleanup.ts';
import { rawRequest, startStub, type RawAnswer } from '../support/stub-http.ts';
import { temporaryFolder } from '../support/temporary.ts';
import { eventually } from '../support/wait.ts';

function errorOf(answer: RawAnswer): ErrorBody['error'] {
  return errorBody.parse(JSON.parse(answer.text)).error;
}
async function failureOf(promise: Promise<unknown>): Promise<LodgeError> {
  const failure: unknown = await promise.then(
    () => null,
    (error: unknown) => error,
  );
  assert.ok(failure instanceof LodgeError, String(failure));
  return failure;
}

/** Sends bytes as they are, and gives all that comes back until the server closes. */
async function sendRaw(socketPath: string, text: string): Promise<string> {
  const socket = connectSocket(socketPath);
  let answer = '';
  socket.setEncoding('utf8').on('data', (chunk: string) => (answer += chunk));
  socket.setTimeout(10_000, () => socket.destroy(new Error('no answer within 10 s')));
  socket.write(text);
  await once(socket, 'close');
  return answer;
}

const json = { 'content-type': 'application/json' };
const vmPath = '/v1/vms';

suite('refusals', () => {
  test('an unknown path is not_found, with the request id in header and body', async (t) => {
    const { socketPath } = await startStub(t);
    for (const path of [
      '/',
      '/v1',
      '/v2/vms',
      '/v1/vms/a/b/c',
      '//v1/vms',
      '/v1/vms/../nodes/x/y',
      '/docs/../etc/passwd',
    ]) {
      const answer = await rawRequest(socketPath, 'GET', path);
      const error = errorOf(answer);
      assert.equal(answer.status, 404, path);
      assert.equal(error.code, 'not_found');
      assert.equal(error.requestId, answer.headers['x-request-id']);
      assert.match(String(answer.headers['content-type']), /^application\/json/);
    }
  });

  test('another method is method_not_allowed, and Allow has those there are', async (t) => {
    const { socketPath } = await startStub(t);
    for (const method of ['PATCH', 'OPTIONS', 'PUT', 'DELETE', 'QUERY', 'PROPFIND']) {
      const answer = await rawRequest(socketPath, method, vmPath, { headers: json, body: '{}' });
      assert.equal(answer.status, 405, method);
      assert.equal(answer.headers['allow'], 'GET, POST');
      assert.equal(errorOf(answer).code, 'method_not_allowed');
    }
    assert.equal((await rawRequest(socketPath, 'HEAD', vmPath)).status, 405);
  });

  test('a body that is no JSON, or nothing like it, is refused with the reason', async (t) => {
    const { socketPath } = await startStub(t);
    const cases: [Record<string, string>, string, number, RegExp][] = [
      [json, '{"name":', 400, /is not JSON/],
      [json, '{"__proto__":{}}', 400, /__proto__/],
      [json, `${'['.repeat(1000)}${']'.repeat(1000)}`, 400, /nested deeper/],
      [json, '[]', 400, /must be an object/],
      [json, 'null', 400, /must be an object/],
      [json, '', 400, /name: is missing/],
      [{ 'content-type': 'text/plain' }, '{}', 415, /media type "text\/plain"/],
      [{}, '{}', 415, /no Content-Type/],
      [{ 'content-type': ';;;' }, '{}', 415, /Content-Type/],
      [{ ...json, 'content-encoding': 'gzip' }, '{}', 415, /content encoding/],
    ];
    for (const [headers, body, status, pattern] of cases) {
      const answer = await rawRequest(socketPath, 'POST', vmPath, { headers, body });
      assert.equal(answer.status, status, body);
      assert.match(errorOf(answer).message, pattern);
    }
  });

  test('a body that is too large is refused, announced or not, and the answer arrives', async (t) => {
    const { socketPath, client } = await startStub(t);
    const body = JSON.stringify({ name: 'x'.repeat(10_000_000) });
    for (const headers of [json, { ...json, 'transfer-encoding': 'chunked' }]) {
      const answer = await rawRequest(socketPath, 'POST', vmPath, { headers, body });
      assert.equal(answer.status, 413);
      assert.equal(errorOf(answer).code, 'body_too_large');
    }
    const failure = await failureOf(
      client.vm.create({ body: { name: 'a', spec: { description: 'x'.repeat(5_000_000) } } }),
    );
    assert.equal(failure.code, 'body_too_large');
  });

  test('a body where none belongs is refused unless it is empty', async (t) => {
    const { socketPath } = await startStub(t);
    const path = '/v1/vms/web1/pause';
    assert.equal((await rawRequest(socketPath, 'POST', path, { headers: json, body: '{}' })).status, 200);
    const answer = await rawRequest(socketPath, 'POST', path, { headers: json, body: '{"force":true}' });
    assert.equal(answer.status, 400);
    assert.match(errorOf(answer).message, /takes no body/);
  });

  test('paths that are not well-formed, or too long, are refused', async (t) => {
    const { socketPath } = await startStub(t);
    for (const path of [
      '/v1/vms/%',
      '/v1/vms/%ff',
      '/v1/vms/%2e%2e',
      '/v1/vms/a%2fb',
      `/v1/vms/${'a'.repeat(3000)}`,
      '/v1/vms/a%00',
    ]) {
      const answer = await rawRequest(socketPath, 'GET', path);
      assert.equal(answer.status, 400, path);
      assert.equal(errorOf(answer).code, 'invalid_request');
    }
  });

  test('what is not HTTP gets one answer in the error format, and the connection ends', async (t) => {
    const { socketPath, client } = await startStub(t);
    const cases = [
      'nonsense\r\n\r\n',
      'GET /v1/vms HTTP/9.9\r\n\r\n',
      'GET /v1/vms HTTP/1.1\r\nhost: a\r\ncontent-length: x\r\n\r\n',
      'GET /v1/vms HTTP/1.1\r\nhost: a\r\nbad header\r\n\r\n',
      'POST /v1/vms HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n',
      `GET /v1/vms HTTP/1.1\r\nhost: a\r\nx: ${'y'.repeat(20_000)}\r\n\r\n`,
      `GET /${'y'.repeat(20_000)} HTTP/1.1\r\nhost: a\r\n\r\n`,
      '\x16\x03\x01\x02\x00\x01\x00',
    ];
    for (const text of cases) {
      const answer = await sendRaw(socketPath, text);
      const [head = '', body = ''] = answer.split('\r\n\r\n');
      assert.match(head, /^HTTP\/1\.1 400 /, JSON.stringify(text.slice(0, 60)));
      assert.equal(errorBody.parse(JSON.parse(body)).error.code, 'invalid_request');
    }
    await client.server.healthz();
  });

  test('two requests in one go are both answered', async (t) => {
    const { socketPath } = await startStub(t);
    const one = 'GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n';
    const answer = await sendRaw(socketPath, `${one}GET /nowhere HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n`);
    assert.deepEqual(answer.match(/HTTP\/1\.1 \d+/g), ['HTTP/1.1 200', 'HTTP/1.1 404']);
  });

  test('an answer with what the contract does not have is a mistake that shows in development', async (t) => {
    const own = { 'token.list': () => ({ items: [], hash: 'leaked' }) };
    const { client } = await startStub(t, own);
    assert.equal((await failureOf(client.token.list())).code, 'internal');
    const production = await startStub(t, own, { isOutputChecked: false });
    await production.client.token.list();
  });
});

suite('who asks', () => {
  test('over the unix socket it is the local user, by name where something is changed', async (t) => {
    const names: string[] = [];
    const note = (_request: unknown, context: RequestContext): never => {
      names.push(context.caller.name);
      throw new LodgeError('not_found', 'no such VM');
    };
    const { client } = await startStub(t, { 'vm.get': note, 'vm.pause': note });
    await failureOf(client.vm.get({ params: { vm: 'a' } }));
    await failureOf(client.vm.pause({ params: { vm: 'a' } }));
    const user = process.env['USER'] ?? 'root';
    assert.equal(names[0], 'local');
    assert.ok(names[1] === `local:${user}` || /^local:[a-z0-9_-]+$/.test(names[1] ?? ''), names[1]);
  });

  test('a token counts also there', async (t) => {
    const { socketPath } = await startStub(t, {
      'vm.list': () => ({ items: [], total: 0, continue: null, revision: 0 }),
    });
    const get = async (authorization: string): Promise<number> =>
      (await rawRequest(socketPath, 'GET', vmPath, { headers: { authorization } })).status;
    assert.equal(await get('Bearer viewer-secret'), 200);
    assert.equal(await get('bearer viewer-secret'), 200);
    assert.equal(await get('Bearer wrong'), 401);
    assert.equal(await get('Basic YTpi'), 401);
    assert.equal(await get('Bearer a b'), 401);
  });

  test('the socket is for its owner and group only', async (t) => {
    const { socketPath } = await startStub(t);
    assert.equal((await stat(socketPath)).mode & 0o777, 0o660);
  });
});

suite('event streams', () => {
  const event = { type: 'stdout', data: 'eA==' } as const;

  test('a failure at the start is an ordinary answer, also that of a generator', async (t) => {
    const { client } = await startStub(t, {
      'vm.exec': () =>
        (async function* () {
          await delay(1);
          if (event.type === 'stdout') throw new LodgeError('agent_unavailable', 'no agent');
          yield event;
        })(),
    });
    const failure = await failureOf(client.vm.exec({ params: { vm: 'a' }, body: { command: ['x'] } }));
    assert.equal(failure.code, 'agent_unavailable');
  });

  test('a failure in the middle comes after what was sent before it', async (t) => {
    const { client } = await startStub(t, {
      'vm.exec': () =>
        (async function* () {
          yield event;
          throw new TypeError('secret');
        })(),
    });
    const stream = (await client.vm.exec({ params: { vm: 'a' }, body: { command: ['x'] } }))[Symbol.asyncIterator]();
    assert.deepEqual((await stream.next()).value, event);
    const failure = await failureOf(stream.next());
    assert.equal(failure.code, 'internal');
    assert.ok(!failure.message.includes('secret'));
  });

  test('revisions are ids, and Last-Event-ID stands for since', async (t) => {
    const seen: unknown[] = [];
    const change = { revision: 7, type: 'updated', kind: 'vm', id: 'x', object: null } as const;
    const { socketPath, client } = await startStub(t, {
      'event.stream': (request) => {
        seen.push(request.query['since']);
        return (async function* () {
          yield change;
        })();
      },
    });
    const { text } = await rawRequest(socketPath, 'GET', '/v1/events/stream', { headers: { 'last-event-id': '6' } });
    assert.equal(text, `id: 7\ndata: ${JSON.stringify(change)}\n\n`);
    for await (const item of await client.event.stream({ query: { since: 3 } }, { lastEventId: '6' }))
      assert.deepEqual(item, change);
    assert.deepEqual(seen, [6, 3]);
    assert.equal(
      (await rawRequest(socketPath, 'GET', '/v1/events/stream', { headers: { 'last-event-id': 'x' } })).status,
      400,
    );
  });

  test('a silent stream is kept alive by comments', async (t) => {
    const end = new AbortController();
    const { client } = await startStub(
      t,
      {
        'vm.exec': () =>
          (async function* () {
            yield event;
            await delay(200, undefined, { signal: end.signal });
            yield event;
          })(),
      },
      { limits: { keepAliveMs: 10 } },
    );
    const stream = await client.vm.exec({ params: { vm: 'a' }, body: { command: ['x'] } }, { idleTimeoutMs: 100 });
    let count = 0;
    for await (const _item of stream) count += 1;
    assert.equal(count, 2);
  });

  test('when the client goes away the handler hears of it and its source is released', async (t) => {
    let isReleased = false;
    let signal: AbortSignal | null = null;
    const { client } = await startStub(t, {
      'vm.exec': (_request, context) => {
        signal = context.signal;
        return (async function* () {
          try {
            for (;;) {
              yield event;
              await delay(5, undefined, { signal: context.signal });
            }
          } finally {
            isReleased = true;
          }
        })();
      },
    });
    for await (const _item of await client.vm.exec({ params: { vm: 'a' }, body: { command: ['x'] } })) break;
    await eventually(() => isReleased && signal?.aborted, { describe: 'the source is released' });
  });

  test('a client that takes nothing holds back the source, and is cut off', async (t) => {
    let produced = 0;
    let isOver = false;
    const { socketPath } = await startStub(
      t,
      {
        'vm.exec': () =>
          (async function* () {
            try {
              for (;;) {
                produced += 1;
                yield { type: 'stdout', data: 'A'.repeat(65_536) };
              }
            } finally {
              isOver = true;
            }
          })(),
      },
      { limits: { stalledMs: 300 }, isOutputChecked: false },
    );
    const socket = connectSocket(socketPath);
    const body = '{"command":["x"]}';
    socket.write(
      `POST /v1/vms/a/exec HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: ${body.length}\r\n\r\n${body}`,
    );
    socket.pause();
    await eventually(() => isOver, { describe: 'the stream is cut off' });
    socket.destroy();
    assert.ok(produced < 100, `${produced} events of 64 KiB were made for a client that took none`);
  });
});

suite('bytes', () => {
  const upload = { params: { vm: 'a' }, query: { path: '/x' } };

  async function* chunks(count: number, size = 65_536): AsyncGenerator<Uint8Array> {
    for (let index = 0; index < count; index += 1) yield new Uint8Array(size).fill(index);
  }

  test('large uploads and downloads arrive whole, in every form a client may send', async (t) => {
    let received = 0;
    const { client } = await startStub(t, {
      'vm.writeFile': async (request) => {
        received = 0;
        for await (const chunk of request.body as ByteSource) received += chunk.length;
      },
      'vm.readFile': () => chunks(160),
    });
    const whole = new Uint8Array(10_000_000).fill(7);
    for (const body of [whole, new Blob([whole]), new Blob([whole]).stream(), chunks(160, 62_500)]) {
      await client.vm.writeFile({ ...upload, body: body as Uint8Array });
      assert.equal(received, 10_000_000);
    }
    const answer = await client.vm.readFile({ params: { vm: 'a' }, query: { path: '/x' } });
    assert.equal((await answer.bytes()).length, 160 * 65_536);
  });

  test('a handler that refuses while the client still sends is heard', async (t) => {
    const { client } = await startStub(t, {
      'vm.writeFile': async (request) => {
        for await (const _chunk of request.body as ByteSource) throw new LodgeError('agent_unavailable', 'no agent');
      },
    });
    const failure = await failureOf(client.vm.writeFile({ ...upload, body: chunks(400) }));
    assert.equal(failure.code, 'agent_unavailable');
  });

  test('an upload over the limit is refused, announced or counted', async (t) => {
    const own = {
      'vm.writeFile': async (request: { body: unknown }) => {
        for await (const chunk of request.body as ByteSource) void chunk;
      },
    };
    const { client } = await startStub(t, own, { limits: { maxUploadBytes: 100_000 } });
    assert.equal(
      (await failureOf(client.vm.writeFile({ ...upload, body: new Uint8Array(100_001) }))).code,
      'body_too_large',
    );
    assert.equal((await failureOf(client.vm.writeFile({ ...upload, body: chunks(3) }))).code, 'body_too_large');
    await client.vm.writeFile({ ...upload, body: new Uint8Array(100_000) });
  });

  test('a silent upload times out, and one that breaks off is not taken for whole', async (t) => {
    const ends: unknown[] = [];
    let begins = 0;
    const { client } = await startStub(
      t,
      {
        'vm.writeFile': async (request) => {
          try {
            for await (const _chunk of request.body as ByteSource) begins += 1;
            ends.push('whole');
          } catch (failure) {
            ends.push((failure as LodgeError).code);
            throw failure;
          }
        },
      },
      { limits: { uploadIdleMs: 50 } },
    );
    const silent = (async function* () {
      yield new Uint8Array(10);
      await delay(3_000, undefined, { ref: false });
    })();
    assert.equal((await failureOf(client.vm.writeFile({ ...upload, body: silent }))).code, 'timeout');
    const controller = new AbortController();
    const broken = (async function* () {
      yield new Uint8Array(10);
      await eventually(() => begins === 2, { describe: 'the second upload has begun' });
      controller.abort(new Error('gone'));
    })();
    await assert.rejects(client.vm.writeFile({ ...upload, body: broken }, { signal: controller.signal }));
    await eventually(() => ends.length === 2, { describe: 'both uploads have ended' });
    assert.equal(ends[0], 'timeout');
    assert.notEqual(ends[1], 'whole');
  });

  test('a form or JSON where bytes belong is refused', async (t) => {
    const { socketPath } = await startStub(t);
    const answer = await rawRequest(socketPath, 'PUT', '/v1/vms/a/files?path=/x', { headers: json, body: '{}' });
    assert.equal(answer.status, 415);
  });

  test('an answer that breaks off, or is shorter than announced, is an error for the client', async (t) => {
    const { client } = await startStub(t, {
      'vm.readFile': () => ({
        byteLength: 1000,
        async *[Symbol.asyncIterator]() {
          yield new Uint8Array(10);
        },
      }),
      'vm.log': () =>
        (async function* () {
          yield new Uint8Array(10);
          await delay(30);
          throw new Error('disk on fire');
        })(),
    });
    // Where it breaks before anything has left, there is not even a head.
    const short = client.vm.readFile({ params: { vm: 'a' }, query: { path: '/x' } }).then((answer) => answer.bytes());
    assert.equal((await failureOf(short)).code, 'unavailable');
    const broken = await client.vm.log({ params: { vm: 'a' } });
    assert.equal((await failureOf(broken.text())).code, 'unavailable');
  });
});

suite('limits', () => {
  test('more requests at once than allowed are rate_limited; health is always answered; room comes back', async (t) => {
    const gate = Promise.withResolvers<void>();
    const { client } = await startStub(
      t,
      {
        'token.list': async () => {
          await gate.promise;
          return { items: [] };
        },
      },
      { limits: { admission: { ...defaultHttpLimits.admission, request: { total: 2, perCaller: 2 } } } },
    );
    const held = [client.token.list(), client.token.list()];
    const failure = await eventually(async () => {
      const outcome = await client.token.list({}, { timeoutMs: 200 }).catch((error: unknown) => error);
      return outcome instanceof LodgeError && outcome.code === 'rate_limited' ? outcome : null;
    });
    assert.match(failure.message, /2 requests at once/);
    await client.server.healthz();
    gate.resolve();
    await Promise.all(held);
    await eventually(() => client.token.list());
  });

  test('a handler that takes too long is a timeout, and its signal aborts', async (t) => {
    let signal: AbortSignal | null = null;
    const { client } = await startStub(
      t,
      {
        'token.list': async (_request, context) => {
          signal = context.signal;
          await new Promise((resolve) => context.signal.addEventListener('abort', resolve));
          return { items: [] };
        },
      },
      { limits: { handlerTimeoutMs: 30 } },
    );
    assert.equal((await failureOf(client.token.list())).code, 'timeout');
    assert.equal((signal as AbortSignal | null)?.aborted, true);
  });

  test('a body that does not arrive is a timeout', async (t) => {
    const { socketPath } = await startStub(t, {}, { limits: { jsonTimeoutMs: 30 } });
    const answer = await sendRaw(
      socketPath,
      'POST /v1/tokens HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 10\r\n\r\n{',
    );
    assert.match(answer, /^HTTP\/1\.1 504 /);
    assert.match(answer, /did not arrive within/);
  });

  test('requests are counted and timed for /metrics', async (t) => {
    const metrics = createMetrics();
    atEnd(t, () => metrics.close());
    metrics.gauge('lodge_test', 'A test', () => 42);
    metrics.gauge('lodge_broken', 'Breaks', () => {
      throw new Error('no');
    });
    const { client, socketPath } = await startStub(t, {}, { metrics });
    await client.server.healthz();
    await rawRequest(socketPath, 'GET', '/nowhere');
    const text = await eventually(async () => {
      const found = await metrics.text();
      return found.includes('route="none"') ? found : null;
    });
    assert.match(
      text,
      /lodge_http_request_duration_seconds_count\{route="server\.healthz",method="GET",status="200"\} 1/,
    );
    assert.match(text, /^lodge_test 42$/m);
    assert.match(text, /^process_resident_memory_bytes \d/m);
    assert.match(text, /^nodejs_eventloop_lag_seconds /m);
  });
});

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

suite('WebSockets', () => {
  test('bytes go both ways, and the end of the handler closes in order', async (t) => {
    const { connection } = await startStub(t, {
      'vm.attachConsole': async (request, context) => {
        const stream = await context.acceptWebSocket();
        stream.write(`welcome ${request.params['ticket']}`);
        for await (const chunk of stream) {
          if (String(chunk) === 'bye') break;
          stream.write(chunk);
        }
      },
    });
    const { stream, closed } = await connection.openWebSocket('/v1/consoles/t1');
    let text = '';
    stream.on('data', (chunk: Buffer) => (text += chunk.toString()));
    stream.write('hello');
    await eventually(() => text === 'welcome t1hello');
    stream.write('bye');
    assert.equal((await closed).code, 1000);
  });

  test('a refusal before the upgrade is an ordinary answer', async (t) => {
    const { connection } = await startStub(t, {
      'vm.attachConsole': () => {
        throw new LodgeError('not_found', 'this ticket is not known');
      },
    });
    assert.equal((await failureOf(connection.openWebSocket('/v1/consoles/t1'))).code, 'not_found');
    assert.equal((await failureOf(connection.openWebSocket('/v1/consoles/a%00b'))).code, 'invalid_request');
    assert.equal((await failureOf(connection.openWebSocket('/v1/nowhere'))).code, 'not_found');
    assert.equal((await failureOf(connection.openWebSocket('/v1/server'))).code, 'unavailable');
  });

  test('a failure after the upgrade is the reason of the close', async (t) => {
    const { connection } = await startStub(t, {
      'vm.attachConsole': async (_request, context) => {
        await context.acceptWebSocket();
        throw new LodgeError('hypervisor_failed', `QEMU has died: ${'ä'.repeat(200)}`);
      },
    });
    const { stream, closed } = await connection.openWebSocket('/v1/consoles/t1');
    stream.resume();
    const { code, reason } = await closed;
    assert.equal(code, 1011);
    assert.match(reason, /^hypervisor_failed: QEMU has died: ä+$/);
  });

  test('when the client goes away, in order or not, the handler hears of it', async (t) => {
    let ends = 0;
    const { connection, socketPath } = await startStub(t, {
      'vm.attachConsole': async (_request, context) => {
        const stream = await context.acceptWebSocket();
        stream.resume();
        await new Promise((resolve) => context.signal.addEventListener('abort', resolve));
        ends += 1;
      },
    });
    const { stream } = await connection.openWebSocket('/v1/consoles/t1');
    stream.end();
    await eventually(() => ends === 1, { describe: 'the first console has ended' });
    const rude = new WebSocket(`ws+unix:${socketPath}:/v1/consoles/t2`);
    await once(rude, 'open');
    rude.terminate();
    await eventually(() => ends === 2, { describe: 'the second console has ended' });
  });

  test('a peer that is gone without a word is found by pings', async (t) => {
    let isOver = false;
    const { socketPath } = await startStub(
      t,
      {
        'vm.attachConsole': async (_request, context) => {
          await context.acceptWebSocket();
          await new Promise((resolve) => context.signal.addEventListener('abort', resolve));
          isOver = true;
        },
      },
      { limits: { pingMs: 30 } },
    );
    const dead = new WebSocket(`ws+unix:${socketPath}:/v1/consoles/t1`, { autoPong: false });
    dead.on('error', () => undefined);
    await once(dead, 'open');
    await eventually(() => isOver, { describe: 'the dead peer is cut off' });
  });

  test('a client that takes nothing holds back the handler', async (t) => {
    let written = 0;
    const { socketPath } = await startStub(t, {
      'vm.attachConsole': async (_request, context) => {
        const stream = await context.acceptWebSocket();
        while (!context.signal.aborted) {
          written += 65_536;
          if (!stream.write(Buffer.alloc(65_536)))
            await Promise.race([once(stream, 'drain'), once(context.signal, 'abort')]);
        }
      },
    });
    const slow = new WebSocket(`ws+unix:${socketPath}:/v1/consoles/t1`);
    slow.on('open', () => slow.pause());
    await once(slow, 'open');
    let before = -1;
    await eventually(
      () => {
        const isStill = before === written && written > 0;
        before = written;
        return isStill;
      },
      { intervalMs: 100, describe: 'the handler waits' },
    );
    assert.ok(written < 8_000_000, `${written} bytes were written for a client that took none`);
    slow.terminate();
  });

  test('a plain request to a WebSocket, and a wrong handshake, are refused', async (t) => {
    const { socketPath } = await startStub(t, { 'vm.attachConsole': (_request, context) => context.acceptWebSocket() });
    const answer = await rawRequest(socketPath, 'GET', '/v1/consoles/t1');
    assert.equal(answer.status, 400);
    assert.match(errorOf(answer).message, /is a WebSocket/);
    const wrong = await sendRaw(
      socketPath,
      'GET /v1/consoles/t1 HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: short\r\n\r\n',
    );
    assert.match(wrong, /^HTTP\/1\.1 400 /);
    assert.match(wrong, /handshake/);
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
