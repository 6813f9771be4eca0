// The real daemon with the fake driver, under requests of every shape: none may crash it, get a 500, or get an answer in
// another format, and afterwards nothing is stuck.
import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import * as fc from 'fast-check';
import * as z from 'zod';
import { allRoutes } from '../../src/api/contract.ts';
import { errorBody, errorCodes, LodgeError } from '../../src/api/errors.ts';
import { commonErrors, isSchema, type Route } from '../../src/api/route.ts';
import { finalTaskStates } from '../../src/api/task.ts';
import { type LodgeClient } from '../../src/client/client.ts';
import { waitForTaskEnd } from '../../src/client/follow.ts';
import { arbitraryOf, mangled, nastyJson } from '../support/arbitrary.ts';
import { startDaemon, type TestDaemon } from '../support/daemon.ts';
import { networkNamespace } from '../support/namespace.ts';
import { rawRequest } from '../support/stub-http.ts';
import { eventually } from '../support/wait.ts';

/** What requests have deleted is made again before each round. */
const rounds = 10;
/** Requests in all; a thousand take about ten seconds. */
const requestCount = Number(process.env['LODGE_FUZZ_REQUESTS'] ?? 1500);

/** Routes whose answer never ends, and the one that stops all guests for good. */
const skipped = new Set(['event.stream', 'vm.attachConsole', 'node.stopGuests']);

/** Names that are there, by parameter. */
const names: Readonly<Record<string, readonly string[]>> = {
  vm: ['web1', 'web2'],
  volume: ['data'],
  node: ['self'],
  network: ['default', 'lab'],
  image: ['upload'],
  token: ['ci'],
};
/** Names that are not, or are no names. */
const strange = ['nobody', '0198c0de-1234-7abc-8def-0123456789ab', '%2e%2e', 'x'.repeat(250), '%00', 'A', 'ａ'];

/** Makes what requests are to meet, as far as it isn't there. */
async function populate(client: LodgeClient): Promise<void> {
  await client.node.update({ params: { node: 'self' }, body: { spec: { acceptsGuests: true } } });
  const makings = [
    () => client.volume.create({ body: { name: 'data', spec: { sizeMib: 1 } } }),
    () => client.vm.create({ body: { name: 'web1', spec: { memoryMib: 64, nics: [] } } }),
    () => client.vm.create({ body: { name: 'web2', spec: { memoryMib: 64, nics: [] } }, query: { start: true } }),
    () => client.image.create({ body: { name: 'upload', spec: { source: { type: 'upload' } } } }),
    () => client.network.create({ body: { name: 'lab', spec: { mode: 'user' } } }),
    () => client.token.create({ body: { name: 'ci' } }),
  ];
  for (const make of makings) {
    const made = await make().catch((error: unknown) => {
      if (error instanceof LodgeError && error.code === 'name_taken') return null;
      throw error;
    });
    if (made !== null && 'steps' in made) await waitForTaskEnd(client, made.id, { timeoutMs: 20_000 });
  }
}

/** An arbitrary request of one route: sound, mangled, or junk. */
function requestOf(route: Route): fc.Arbitrary<{ path: string; body: string | undefined }> {
  const parameters = [...route.path.matchAll(/\{(\w+)\}/g)].map((match) => match[1] ?? '');
  const values = fc.tuple(
    ...parameters.map((name) =>
      fc.oneof(
        { weight: 4, arbitrary: fc.constantFrom(...(names[name] ?? ['x'])) },
        { weight: 1, arbitrary: fc.constantFrom(...strange) },
      ),
    ),
  );
  const query: fc.Arbitrary<unknown> = route.query
    ? fc.oneof(
        { weight: 4, arbitrary: arbitraryOf(route.query, 'input') },
        { weight: 1, arbitrary: mangled(arbitraryOf(route.query, 'input')) },
      )
    : fc.constant({});
  const body: fc.Arbitrary<unknown> =
    route.body === undefined
      ? fc.constant(undefined)
      : isSchema(route.body)
        ? fc.oneof(
            { weight: 4, arbitrary: arbitraryOf(route.body, 'input') },
            { weight: 2, arbitrary: mangled(arbitraryOf(route.body, 'input')) },
            { weight: 1, arbitrary: nastyJson },
          )
        : fc.constant('bytes');
  const isLikely = fc.nat(9).map((number) => number > 1);
  return fc.tuple(values, query, body, isLikely).map(([chosen, asked, given, likely]) => {
    let path = route.path;
    for (const [index, name] of parameters.entries())
      path = path.replace(`{${name}}`, encodeNonAscii(chosen[index] ?? ''));
    const [shownQuery, shownBody] = likely ? [inDefault(asked), simple(given)] : [asked, given];
    return {
      path: path + queryText(shownQuery),
      body: shownBody === undefined ? undefined : JSON.stringify(harmless(shownBody)),
    };
  });
}

/** In the project where objects are: an arbitrary one would mostly be empty. */
function inDefault(query: unknown): unknown {
  if (typeof query !== 'object' || query === null) return query;
  const {
    project: _project,
    selector: _selector,
    filter: _filter,
    sort: _sort,
    continue: _token,
    ...rest
  } = query as Record<string, unknown>;
  return rest;
}

/** Without references to what isn't there, so that more requests get past their first check. */
function simple(body: unknown): unknown {
  if (typeof body !== 'object' || body === null || Array.isArray(body)) return body;
  const { project: _project, revision: _revision, ...rest } = body as Record<string, unknown>;
  const { spec } = rest;
  if (typeof spec !== 'object' || spec === null || Array.isArray(spec)) return rest;
  const {
    image: _image,
    disks: _disks,
    nics: _nics,
    cloudInit: _cloudInit,
    memoryMib: _memory,
    cpu: _cpu,
    ...kept
  } = spec as Record<string, unknown>;
  return { ...rest, spec: kept };
}

function encodeNonAscii(text: string): string {
  return text.replace(/[^\x21-\x7e]/gu, (character) => encodeURIComponent(character));
}

function queryText(value: unknown): string {
  if (typeof value !== 'object' || value === null) return '';
  const parts = Object.entries(value).map(([name, item]) => {
    const text = typeof item === 'string' ? item : JSON.stringify(item);
    return `${encodeURIComponent(name.toWellFormed())}=${encodeURIComponent((text ?? '').toWellFormed())}`;
  });
  return parts.length === 0 ? '' : `?${parts.join('&')}`;
}

/** Images are not built, downloaded or copied from this machine: everything else is tried. */
function harmless(body: unknown): unknown {
  if (typeof body !== 'object' || body === null || !('spec' in body)) return body;
  const { spec } = body;
  if (typeof spec !== 'object' || spec === null || !('source' in spec)) return body;
  return { ...body, spec: { ...spec, source: { type: 'upload' } } };
}

/** Whether the daemon still does its work: a VM is made, started, and deleted. */
async function worksStill(daemon: TestDaemon): Promise<void> {
  const { client } = daemon;
  const name = 'after-all';
  const made = await client.vm.create({ body: { name, spec: { memoryMib: 64, nics: [] } }, query: { start: true } });
  const ended = await waitForTaskEnd(client, made.id, { timeoutMs: 20_000 });
  assert.equal(ended.state, 'succeeded', JSON.stringify(ended.error));
  await eventually(async () => (await client.vm.get({ params: { vm: name } })).status.state === 'running');
  const gone = await client.vm.delete({ params: { vm: name }, query: { force: true } });
  assert.equal((await waitForTaskEnd(client, gone.id, { timeoutMs: 20_000 })).state, 'succeeded');
}

suite('the whole API of the real daemon', () => {
  test('no request crashes it, gets a 500, or gets an answer in another format', async (t) => {
    // Its bridges and rules are to touch nothing of the machine's.
    const namespace = await networkNamespace(t);
    const daemon = await startDaemon(t, { driver: 'fake', namespace, config: { isDevelopment: true } });
    const { pid } = daemon;
    const routes = allRoutes().filter(({ id }) => !skipped.has(id));
    const request = fc
      .constantFrom(...routes)
      .chain(({ id, route }) => requestOf(route).map((made) => ({ id, route, ...made })));
    for (let round = 0; round < rounds; round += 1) {
      await populate(daemon.client);
      await fc.assert(
        fc.asyncProperty(request, async ({ id, route, path, body }) => {
          const isJson = route.body !== undefined && isSchema(route.body);
          const answer = await rawRequest(daemon.socketPath, route.method, path, {
            ...(body === undefined
              ? {}
              : { body, headers: { 'content-type': isJson ? 'application/json' : 'application/octet-stream' } }),
          });
          const shown = `${id}: ${route.method} ${path} ${body}: ${answer.status} ${answer.text.slice(0, 500)}`;
          assert.notEqual(answer.status, 500, `${shown}\n${(await daemon.log()).split('\n').slice(-4).join('\n')}`);
          if (answer.status < 400) {
            if (isSchema(route.response))
              assert.ok(z.safeParse(route.response, JSON.parse(answer.text)).success, shown);
            return;
          }
          const { error } = errorBody.parse(JSON.parse(answer.text), { error: () => shown });
          assert.equal(errorCodes[error.code].status, answer.status, shown);
          const declared: readonly string[] = [...commonErrors, ...route.errors];
          assert.ok(
            declared.includes(error.code),
            `${id} answers with ${error.code}, which it does not declare: ${shown}`,
          );
        }),
        { numRuns: Math.ceil(requestCount / rounds), endOnFailure: true },
      );
    }
    assert.equal(daemon.pid, pid, 'the daemon has not been restarted');
    await eventually(
      async () => {
        const { items } = await daemon.client.task.list({ query: { limit: 500 } });
        return items.every((task) => finalTaskStates.has(task.state));
      },
      { timeoutMs: 30_000, describe: 'every task has ended' },
    );
    await populate(daemon.client);
    await worksStill(daemon);
  });
});
