// Requests on a real socket with stub handlers: what is refused and how, who asks, and how much at once.
import assert from 'node:assert/strict';
import { stat } from 'node:fs/promises';
import { suite, test } from 'node:test';
import { errorBody, LodgeError } from '../../src/api/errors.ts';
import { type RequestContext } from '../../src/daemon/http/context.ts';
import { createMetrics } from '../../src/daemon/http/metrics.ts';
import { defaultHttpLimits } from '../../src/daemon/http/limits.ts';
import { atEnd } from '../support/cleanup.ts';
import { rawRequest, startStub, errorOf, failureOf, sendRaw } from '../support/stub-http.ts';
import { eventually } from '../support/wait.ts';

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
      assert.equal(answer.headers['allow'], 'GET, HEAD, POST');
      assert.equal(errorOf(answer).code, 'method_not_allowed');
    }
    assert.equal((await rawRequest(socketPath, 'HEAD', `${vmPath}/a/start`)).status, 405);
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

suite('limits', () => {
  test('more requests at once than allowed are rate_limited; health is always answered; room comes back', async (t) => {
    const gate = Promise.withResolvers<void>();
    let begun = 0;
    const { client } = await startStub(
      t,
      {
        'token.list': async () => {
          begun++;
          await gate.promise;
          return { items: [] };
        },
      },
      { limits: { admission: { ...defaultHttpLimits.admission, request: { total: 2, perCaller: 2 } } } },
    );
    const held = [client.token.list(), client.token.list()];
    await eventually(() => begun === 2, { describe: 'two requests are under way' });
    const failure = await failureOf(client.token.list());
    assert.equal(failure.code, 'rate_limited');
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
