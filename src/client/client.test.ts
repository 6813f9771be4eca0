import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import { LodgeError } from '../api/errors.ts';
import { createClient, requestPath, type FetchLike } from './client.ts';
import { connectionFailure, errorFromAnswer, systemCode } from './failure.ts';

type Init = Parameters<FetchLike>[1];

/** A client whose requests are answered by a function. */
function clientOf(answer: (url: string, init: Init) => Response | Promise<Response>): ReturnType<typeof createClient> {
  return createClient({
    baseUrl: 'https://host:7443/',
    token: 'secret',
    fetch: async (url, init) => answer(url, init),
  });
}

async function failureOf(promise: Promise<unknown>): Promise<LodgeError> {
  const failure: unknown = await promise.then(
    () => null,
    (error: unknown) => error,
  );
  assert.ok(failure instanceof LodgeError, String(failure));
  return failure;
}

suite('requests', () => {
  test('parameters, query, body, token and key go where they belong', async () => {
    let seen: { url: string; init: Init } | null = null;
    const client = clientOf((url, init) => {
      seen = { url, init };
      return Response.json({ id: 'x' });
    });
    await client.vm.create({ query: { start: true }, body: { name: 'web1', spec: {} }, idempotencyKey: 'k1' });
    assert.ok(seen);
    const { url, init } = seen as { url: string; init: Init };
    assert.equal(url, 'https://host:7443/v1/vms?start=true');
    assert.equal(init.method, 'POST');
    assert.equal(init.headers['authorization'], 'Bearer secret');
    assert.equal(init.headers['idempotency-key'], 'k1');
    assert.equal(init.body, '{"name":"web1","spec":{}}');
  });

  test('a parameter is one segment of the path, whatever is in it', () => {
    const route = { path: '/v1/vms/{vm}/log' };
    assert.equal(requestPath(route, { vm: 'a/b?c#d %' }, {}), '/v1/vms/a%2Fb%3Fc%23d%20%25/log');
    for (const vm of ['', '.', '..']) {
      assert.throws(
        () => requestPath(route, { vm }, {}),
        (error) => error instanceof LodgeError && error.code === 'invalid_request',
      );
    }
    assert.throws(() => requestPath(route, {}, {}), /params\.vm/);
  });

  test('lists in a query are repeated, and what is not given is left out', () => {
    assert.equal(
      requestPath({ path: '/v1/vms' }, {}, { a: ['x', 'y&z'], b: undefined, c: null, d: 0, e: false }),
      '/v1/vms?a=x&a=y%26z&d=0&e=false',
    );
  });

  test('a WebSocket route says how to open it', async () => {
    const failure = await failureOf(clientOf(() => Response.json({})).vm.attachConsole({ params: { ticket: 't' } }));
    assert.equal(failure.code, 'unsupported');
  });
});

suite('failures', () => {
  test('the daemon’s own error comes back whole', async () => {
    const body = new LodgeError('name_taken', 'there is a VM web1 already', {
      hint: 'Choose another.',
      fields: [{ field: 'name', message: 'is taken' }],
      requestId: 'r1',
    }).toBody();
    const failure = await failureOf(clientOf(() => Response.json(body, { status: 409 })).vm.list());
    assert.deepEqual(failure.toBody(), body);
  });

  test('an answer that is not Lodge’s is told apart', async () => {
    assert.equal(errorFromAnswer(502, '<html>Bad gateway', 'https://h').code, 'unavailable');
    assert.equal(errorFromAnswer(404, 'nope', 'https://h').code, 'not_found');
    assert.equal(errorFromAnswer(401, '{"error":"x"}', 'https://h').code, 'unauthenticated');
    const failure = await failureOf(clientOf(() => new Response('<html>', { status: 200 })).vm.list());
    assert.match(failure.message, /not in Lodge’s format/);
  });

  test('a broken connection says what to do', () => {
    const error = (code: string): Error => Object.assign(new Error(code), { code });
    const fetchFailed = new TypeError('fetch failed', { cause: new AggregateError([error('ECONNREFUSED')]) });
    assert.equal(systemCode(fetchFailed), 'ECONNREFUSED');
    assert.match(connectionFailure(error('ENOENT'), '/run/lodge/lodge.sock').hint, /npm start/);
    assert.match(connectionFailure(error('EACCES'), '/run/lodge/lodge.sock').hint, /group lodge/);
    assert.match(connectionFailure(error('SELF_SIGNED_CERT_IN_CHAIN'), 'https://h').hint, /--ca/);
    assert.match(connectionFailure(new TypeError('Failed to fetch'), 'https://h').message, /Failed to fetch/);
    assert.equal(connectionFailure(error('ENOENT'), 'x').code, 'unavailable');
  });

  test('a deadline is a timeout, and an aborted signal throws its own reason', async () => {
    const never = clientOf(
      (_url, init) =>
        new Promise<Response>((_resolve, reject) =>
          init.signal.addEventListener('abort', () => reject(new Error('aborted'))),
        ),
    );
    assert.equal((await failureOf(never.vm.list({}, { timeoutMs: 5 }))).code, 'timeout');
    const controller = new AbortController();
    const reason = new Error('changed my mind');
    const pending = never.vm.list({}, { signal: controller.signal });
    controller.abort(reason);
    await assert.rejects(pending, reason);
    await assert.rejects(never.vm.list({}, { signal: controller.signal }), reason);
  });
});
