// Walks over the whole contract with stub handlers: what is promised for every route, and that nothing a client sends
// crashes the server or gets a 500.
import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import * as fc from 'fast-check';
import * as z from 'zod';
import { allRoutes } from '../../src/api/contract.ts';
import { errorBody, errorCodes, LodgeError } from '../../src/api/errors.ts';
import { roleAllows } from '../../src/api/permission.ts';
import { isSchema, type Route, type Schema } from '../../src/api/route.ts';
import { type ByteAnswer } from '../../src/client/bytes.ts';
import { requestPath } from '../../src/client/client.ts';
import { arbitraryOf, mangled, nastyJson } from '../support/arbitrary.ts';
import { rawRequest, startStub, type StubRequest } from '../support/stub-http.ts';

const routes = allRoutes();
const isWebSocket = (route: Route): boolean => !isSchema(route.response) && route.response.kind === 'websocket';

/** Names for all parameters of a route. */
function someParams(route: Route): Record<string, string> {
  return Object.fromEntries([...route.path.matchAll(/\{(\w+)\}/g)].map((match) => [match[1] ?? '', 'web1']));
}

/** The value again as it is after JSON. */
function overTheWire(value: unknown): unknown {
  return JSON.parse(JSON.stringify(value ?? null)) as unknown;
}

suite('permissions', () => {
  test('without credentials every route but the public ones is refused, before its body is read', async (t) => {
    const { socketPath } = await startStub(t, {}, {});
    for (const { id, route } of routes) {
      const { status, headers } = await rawRequest(
        socketPath,
        route.method,
        requestPath(route, someParams(route), {}),
        {
          headers: { authorization: 'Bearer unknown' },
          body: route.body === undefined ? undefined : 'this is not even JSON',
        },
      );
      if (route.permission === 'public') assert.notEqual(status, 401, id);
      else {
        assert.equal(status, 401, id);
        assert.equal(headers['www-authenticate'], 'Bearer', id);
      }
    }
  });

  test('a viewer is refused whatever the role does not give, and no handler hears of it', async (t) => {
    const called = new Set<string>();
    const own = Object.fromEntries(routes.map(({ id }) => [id, () => called.add(id)]));
    const { socketPath } = await startStub(t, own, { isOutputChecked: false });
    for (const { id, route } of routes) {
      if (route.permission === 'public' || roleAllows('viewer', route.permission)) continue;
      const answer = await rawRequest(socketPath, route.method, requestPath(route, someParams(route), {}), {
        headers: { authorization: 'Bearer viewer-secret', 'content-type': 'application/json' },
        body: '{}',
      });
      assert.equal(answer.status, 403, id);
      const { error } = errorBody.parse(JSON.parse(answer.text));
      assert.equal(error.code, 'forbidden');
      assert.ok(error.message.includes(route.permission), error.message);
    }
    assert.deepEqual([...called], []);
  });

  test('a viewer reads, but changes nothing but its own sessions', () => {
    for (const { id, route } of routes) {
      if (route.permission === 'public' || route.permission === 'session.delete') continue;
      if (roleAllows('viewer', route.permission)) assert.equal(route.method, 'GET', id);
    }
  });
});

test('what can be read answers HEAD as it answers GET, without the body', async (t) => {
  const { socketPath } = await startStub(t);
  for (const { id, route } of routes) {
    if (route.method !== 'GET') continue;
    const path = requestPath(route, someParams(route), id === 'vm.readFile' ? { path: '/x' } : {});
    const [get, head] = [await rawRequest(socketPath, 'GET', path), await rawRequest(socketPath, 'HEAD', path)];
    assert.equal(head.status, get.status, id);
    assert.equal(head.headers['content-type'], get.headers['content-type'], id);
    assert.equal(head.text, '', id);
  }
});

suite('client and server', () => {
  for (const { id, noun, verb, route } of routes) {
    if (isWebSocket(route)) continue;
    test(`${id}: what the client sends arrives, and what is answered comes back`, async (t) => {
      let seen: StubRequest | null = null;
      let answer: unknown;
      const { client } = await startStub(t, {
        [id]: async (request) => {
          seen = { ...request };
          if (route.body !== undefined && !isSchema(route.body)) {
            const chunks: Buffer[] = [];
            for await (const chunk of request.body as AsyncIterable<Buffer>) chunks.push(chunk);
            seen.body = Buffer.concat(chunks).toString();
          }
          return answer;
        },
      });
      const call = (client as unknown as Record<string, Record<string, (input: unknown) => Promise<unknown>>>)[noun]?.[
        verb
      ];
      assert.ok(call);
      const query: fc.Arbitrary<unknown> = route.query ? arbitraryOf(route.query, 'input') : fc.constant(undefined);
      const body: fc.Arbitrary<unknown> =
        route.body === undefined
          ? fc.constant(undefined)
          : isSchema(route.body)
            ? arbitraryOf(route.body, 'input')
            : fc.string({ unit: 'grapheme', maxLength: 50 });
      const response: fc.Arbitrary<unknown> = answersOf(route);
      await fc.assert(
        fc.asyncProperty(query, body, response, async (queryIn, bodyIn, answerOut) => {
          const params = someParams(route);
          answer = toAnswer(route, answerOut);
          const isBytes = route.body !== undefined && !isSchema(route.body);
          const result = await call({
            params,
            query: queryIn,
            body: isBytes ? new TextEncoder().encode(bodyIn as string) : bodyIn,
          });
          assert.ok(seen);
          assert.deepEqual(seen.params, params);
          if (route.query) assert.deepEqual(seen.query, z.parse(route.query, queryIn));
          if (isBytes) assert.equal(seen.body, bodyIn);
          else if (route.body) assert.deepEqual(overTheWire(seen.body), overTheWire(z.parse(route.body, bodyIn)));
          assert.deepEqual(await toValue(route, result), overTheWire(answerOut));
        }),
        { numRuns: 5, endOnFailure: true },
      );
    });
  }
});

function answersOf(route: Route): fc.Arbitrary<unknown> {
  const { response } = route;
  if (isSchema(response)) return arbitraryOf(response, 'output');
  if (response.kind === 'events') return fc.array(arbitraryOf(response.schema, 'output'), { maxLength: 5 });
  return response.kind === 'bytes' ? fc.string({ unit: 'grapheme', maxLength: 50 }) : fc.constant(null);
}

/** What the handler gives for a value of `answersOf`. */
function toAnswer(route: Route, value: unknown): unknown {
  const { response } = route;
  if (isSchema(response)) return value;
  if (response.kind === 'events') {
    return (async function* () {
      yield* value as unknown[];
    })();
  }
  if (response.kind === 'bytes') {
    return (async function* () {
      if (value !== '') yield Buffer.from(value as string);
    })();
  }
  return undefined;
}

/** The value of `answersOf` again from what the client gives. */
async function toValue(route: Route, result: unknown): Promise<unknown> {
  const { response } = route;
  if (isSchema(response)) return result;
  if (response.kind === 'events') {
    const events: unknown[] = [];
    for await (const event of result as AsyncIterable<unknown>) events.push(event);
    return events;
  }
  return response.kind === 'bytes' ? (result as ByteAnswer).text() : (result ?? null);
}

/** Text that may stand in a request target: what is beyond ASCII or white space is encoded, or not well. */
const nastySegment = fc.oneof(
  fc.string({ unit: 'binary', maxLength: 20 }).map((value) => encodeURIComponent(value.toWellFormed())),
  fc.constantFrom(
    '..',
    '.',
    '%2e%2e',
    '%2F',
    '%00',
    '%',
    '%ff',
    '%C0%AF',
    'a%0Ab',
    '~',
    '-',
    'x'.repeat(300),
    '🙂',
    '__proto__',
  ),
);
const nastyQuery = fc
  .array(
    fc.tuple(
      fc.oneof(
        fc.constantFrom(
          'project',
          'limit',
          'sort',
          'filter',
          'continue',
          'selector',
          'since',
          'kinds',
          'path',
          'bytes',
          '__proto__',
        ),
        nastySegment,
      ),
      nastySegment,
    ),
    { maxLength: 4 },
  )
  .map((pairs) => (pairs.length === 0 ? '' : `?${pairs.map((pair) => pair.join('=')).join('&')}`));
const nastyHeaders = fc.record(
  {
    'content-type': fc.constantFrom(
      'application/json',
      'application/JSON; charset=utf-8',
      'text/plain',
      'nonsense',
      'a/b',
      '',
    ),
    'content-encoding': fc.constantFrom('gzip', 'identity'),
    'idempotency-key': fc.constantFrom('k', 'with space', 'x'.repeat(300)),
    'last-event-id': fc.constantFrom('1', '-1', 'abc', '99999999999999999999'),
    accept: fc.constantFrom('*/*', 'text/html'),
    upgrade: fc.constantFrom('h2c', 'websocket'),
    authorization: fc.constantFrom('Bearer admin-secret', 'Basic abc', 'Bearer', ''),
  },
  { requiredKeys: [] },
);

suite('whatever a client sends', () => {
  for (const { id, route } of routes) {
    test(`${id} answers in its own way or in the error format, and never with a 500`, async (t) => {
      const { socketPath, client, logged } = await startStub(t);
      const body: fc.Arbitrary<string | undefined> = fc.oneof(
        nastyJson.map((value) => JSON.stringify(value)),
        fc.constantFrom(
          '{',
          'null',
          '\ufeff{}',
          '{"__proto__":{"a":1}}',
          '{"a":1}{',
          `${'['.repeat(5000)}${']'.repeat(5000)}`,
        ),
        isSchema(route.body ?? ({ kind: 'none', mediaType: '', description: '' } as never))
          ? mangled(arbitraryOf(route.body as Schema, 'input')).map((value) => JSON.stringify(value))
          : fc.constant(undefined),
      );
      const params = [...route.path.matchAll(/\{(\w+)\}/g)].map((match) => match[1] ?? '');
      const segments = fc.tuple(
        ...params.map(() =>
          fc.oneof({ weight: 3, arbitrary: fc.constant('web1') }, { weight: 1, arbitrary: nastySegment }),
        ),
      );
      await fc.assert(
        fc.asyncProperty(
          segments,
          nastyQuery,
          nastyHeaders,
          body,
          fc.oneof(
            { weight: 4, arbitrary: fc.constant<string>(route.method) },
            { weight: 1, arbitrary: fc.constantFrom('PATCH', 'HEAD', 'OPTIONS', 'DELETE', 'PUT', 'QUERY') },
          ),
          async (values, query, headers, text, method) => {
            let path = route.path;
            for (const [index, name] of params.entries()) path = path.replace(`{${name}}`, values[index] ?? '');
            const target = encodeNonAscii(path + query);
            const answer = await rawRequest(socketPath, method, target, {
              headers,
              body: text,
            });
            const shown = `${method} ${target} ${JSON.stringify(headers)} ${text}: ${answer.status} ${answer.text.slice(0, 300)}`;
            assert.notEqual(answer.status, 500, `${shown} ${JSON.stringify(logged.slice(-2))}`);
            if (answer.status < 400 || method === 'HEAD') return;
            const { error } = errorBody.parse(JSON.parse(answer.text), { error: () => shown });
            assert.equal(errorCodes[error.code].status, answer.status, shown);
            assert.ok(error.message !== '' && error.hint !== '', shown);
          },
        ),
        { numRuns: 25, endOnFailure: false },
      );
      assert.ok(['ok', 'starting', 'stopping'].includes((await client.server.healthz()).status));
    });
  }
});

/** http.request refuses what isn't ASCII itself. */
function encodeNonAscii(target: string): string {
  return target.replace(/[^\x21-\x7e]/gu, (character) => encodeURIComponent(character.toWellFormed()));
}

test('a mistake of a handler is a 500 with the request id, and its cause is in the log only', async (t) => {
  const { client, logged } = await startStub(t, {
    'vm.get': () => {
      throw new TypeError('the secret cause');
    },
  });
  const error: unknown = await client.vm.get({ params: { vm: 'web1' } }).catch((failure: unknown) => failure);
  assert.ok(error instanceof LodgeError);
  assert.equal(error.code, 'internal');
  assert.ok(!JSON.stringify(error.toBody()).includes('secret cause'));
  const line = logged.find((entry) => entry['code'] === 'internal');
  assert.equal(line?.['requestId'], error.requestId);
  assert.ok(JSON.stringify(line).includes('the secret cause'));
});
