// The whole contract against the real daemon: random sequences of valid, half-valid and nonsensical requests for every
// route. Whatever is asked, the daemon lives, no answer is a 500, every answer is what the contract says, and every task
// comes to its end. Prints its seed; LODGE_SEED runs another, LODGE_PROPERTY_MS longer.
import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import { request as httpRequest } from 'node:http';
import { join } from 'node:path';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { allRoutes } from '../../src/api/contract.ts';
import { errorBody, errorCodes } from '../../src/api/errors.ts';
import { isSchema, type Route } from '../../src/api/route.ts';
import { finalTaskStates, type Task } from '../../src/api/task.ts';
import { requestPath } from '../../src/client/client.ts';
import { arbitraryOf, mangled, nastyJson } from '../support/arbitrary.ts';
import { findMistakes } from '../support/crash/invariants.ts';
import { type TestDaemon } from '../support/daemon.ts';
import { startFakeLodge } from '../support/fake-lodge.ts';
import { eventually } from '../support/wait.ts';

const seed = Number(process.env['LODGE_SEED'] ?? 42);
const limitMs = Number(process.env['LODGE_PROPERTY_MS'] ?? 30_000);

const pools = {
  vm: ['vm0', 'vm1', 'vm2'],
  volume: ['vol0', 'vol1', 'vm0-data'],
  image: ['img0', 'img1'],
  network: ['default', 'net0', 'net1'],
  node: ['self'],
} as const satisfies Record<string, readonly [string, ...string[]]>;

interface Sent {
  id: string;
  route: Route;
  path: string;
  headers: Record<string, string>;
  body: string | undefined;
  /** Else a failure would show the whole schema of the route. */
  [fc.toStringMethod]: () => string;
}

/** Makes of an arbitrary valid value one that has something to do with what there is, and costs little. */
function aim(noun: string, value: unknown, pick: (items: readonly [string, ...string[]]) => string): unknown {
  const walk = (node: unknown, key: string, depth: number): unknown => {
    // Where a VM runs has to fit the machine, and what guards it has to be there.
    if (['pinning', 'cells', 'securityGroups'].includes(key)) return undefined;
    if (Array.isArray(node)) return node.map((item) => walk(item, key, depth + 1));
    if (typeof node === 'object' && node !== null) {
      const entries = Object.entries(node).map(([name, item]) => [name, walk(item, name, depth + 1)] as const);
      const made = Object.fromEntries(entries) as Record<string, unknown>;
      // Building takes minutes, and addresses of the world are not for tests.
      if (made['type'] === 'build') return { type: 'upload' };
      // Of many fields at random one is nearly always wrong; most defaults are right.
      if (key !== 'spec') return made;
      const isKept = (name: string): boolean =>
        ['source', 'sizeMib'].includes(name) || pick(['keep', '', '']) === 'keep';
      return Object.fromEntries(Object.entries(made).filter(([name]) => isKept(name)));
    }
    if (key === 'project') return 'default';
    if (key === 'name' && depth === 1 && noun in pools) return pick(pools[noun as keyof typeof pools]);
    if (key in pools && depth > 1) return pick(pools[key as keyof typeof pools]);
    if (key === 'sizeMib') return Number(node) % 16 || 1;
    if (key === 'memoryMib') return 16 + (Number(node) % 64);
    if (key === 'count') return 1 + (Number(node) % 2);
    if (key === 'model' && depth === 3) return 'auto';
    if (/affinity$|^housekeepingCpus$/i.test(key) || (key === 'nodes' && depth > 2)) return '0';
    if (key === 'policy' && node === 'dedicated') return 'shared';
    if (key === 'vcpusPerCpuLimit' || key === 'memoryLimitPercent') return 1000;
    if (key === 'accelerator') return 'auto';
    if (key === 'minMemoryMib') return 0;
    if (['timeoutS', 'stopTimeoutS'].includes(key)) return Number(node) % 2;
    if (key === 'path') return pick(['/etc/hostname', `${imageFolder}/small.raw`, `${imageFolder}/small.raw`]);
    if (key === 'url') return 'http://127.0.0.1:1/disk.qcow2';
    if (['checksum', 'ipv4Address', 'firstAddress', 'lastAddress'].includes(key)) return undefined;
    if (key === 'ipv4Cidr') return pick(['10.230.0.0/24', '10.231.0.0/24', '10.230.0.128/25']);
    if (key === 'bridge') return pick(['br0', 'br1']);
    if (key === 'command') return 'echo';
    return node;
  };
  return walk(value, '', 0);
}

let imageFolder = '';

/** How often a route is asked: a busy machine serves few requests, and some of them are to start VMs. */
function weightOf(id: string, { method }: Route): number {
  if (id === 'vm.create' || id === 'vm.start') return 12;
  return method !== 'GET' && /^(vm|network|volume|image)\./.test(id) ? 4 : 1;
}

/** A request for a route, from one that should succeed to one that can't. */
function requestFor(id: string, noun: string, route: Route): fc.Arbitrary<Sent> {
  const names = [...route.path.matchAll(/\{(\w+)\}/g)].map((match) => match[1] ?? '');
  const params = fc.tuple(
    ...names.map((name) => {
      const known = pools[name as keyof typeof pools] ?? ['nothing'];
      const nasty = fc.string({ unit: 'binary', minLength: 1, maxLength: 30 }).map((text) => text.toWellFormed());
      return fc.oneof({ weight: 12, arbitrary: fc.constantFrom(...known) }, { weight: 1, arbitrary: nasty });
    }),
  );
  const seeds = fc.array(fc.nat(1000), { minLength: 1, maxLength: 20 });
  const query: fc.Arbitrary<unknown> = route.query
    ? fc.oneof({ weight: 4, arbitrary: arbitraryOf(route.query, 'input') }, { weight: 1, arbitrary: fc.constant({}) })
    : fc.constant({});
  const schema = route.body !== undefined && isSchema(route.body) ? route.body : null;
  const content: fc.Arbitrary<readonly [isAimed: boolean, value: unknown]> =
    schema === null
      ? fc.constant([false, undefined] as const)
      : fc.oneof(
          { weight: 8, arbitrary: arbitraryOf(schema, 'input').map((value) => [true, value] as const) },
          { weight: 3, arbitrary: mangled(arbitraryOf(schema, 'input')).map((value) => [false, value] as const) },
          { weight: 1, arbitrary: nastyJson.map((value) => [false, value] as const) },
        );
  return fc.tuple(params, query, content, seeds).map(([values, rawQuery, [isAimed, value], choices]) => {
    let next = 0;
    const pick = (items: readonly [string, ...string[]]): string =>
      items[(choices[next++ % choices.length] ?? 0) % items.length]!;
    const byName = Object.fromEntries(names.map((name, index) => [name, values[index] ?? 'nothing']));
    const safe = {
      ...(rawQuery as object),
      ...(route.query && 'project' in (rawQuery as object) ? { project: 'default' } : {}),
    };
    const aimed = isAimed ? aim(noun, value, pick) : withoutBuilds(value);
    const isBytes = route.body !== undefined && !isSchema(route.body);
    const path = pathOf(route, byName, safe);
    const body = isBytes ? 'some bytes, and no disk' : aimed === undefined ? undefined : JSON.stringify(aimed);
    return {
      id,
      route,
      path,
      headers: { 'content-type': isBytes ? 'application/octet-stream' : 'application/json' },
      body,
      [fc.toStringMethod]: () => `${route.method} ${path} ${body?.slice(0, 2000) ?? ''}`,
    };
  });
}

/** A mangled request may still be valid: it must not reach out of the test. */
function withoutBuilds(value: unknown): unknown {
  const text = JSON.stringify(value);
  if (text === undefined) return value;
  return JSON.parse(
    text
      .replaceAll('"build"', '"upload"')
      .replaceAll(/"https?:\/\/[^"]*"/g, '"http://127.0.0.1:1/"')
      .replaceAll(/"(timeoutS|stopTimeoutS)":\d+/g, '"$1":1'),
  ) as unknown;
}

function pathOf(route: Route, params: Record<string, string>, query: object): string {
  try {
    return requestPath(route, params, query as Record<string, unknown>);
  } catch {
    // What the client refuses to send ("." and the like) is sent all the same.
    return route.path.replaceAll(/\{\w+\}/g, '%2e');
  }
}

interface Answer {
  status: number;
  contentType: string;
  text: string;
}

/** Sends a request and reads its answer; of one that does not end, the beginning. */
function ask(daemon: TestDaemon, { route, path, headers, body }: Sent): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const length = body === undefined ? {} : { 'content-length': String(Buffer.byteLength(body)) };
    const all = body === undefined ? {} : { ...headers, ...length };
    const request = httpRequest({
      socketPath: daemon.socketPath,
      method: route.method,
      path,
      headers: all,
      timeout: 60_000,
    });
    request.once('response', (message) => {
      let text = '';
      const done = (): void =>
        resolve({
          status: message.statusCode ?? 0,
          contentType: message.headers['content-type'] ?? '',
          text,
        });
      const isEndless = String(message.headers['content-type']).startsWith('text/event-stream');
      message.setEncoding('utf8');
      message.on('data', (chunk: string) => {
        text += chunk;
        if (!isEndless) return;
        done();
        request.destroy();
      });
      message.once('end', done);
      message.once('error', (error) => (isEndless ? done() : reject(error)));
    });
    request.once('timeout', () => request.destroy(new Error('no answer within 60 s')));
    request.on('error', (cause) => {
      const how = request.reusedSocket ? 'a connection that was used before' : 'a new connection';
      const what = `${route.method} ${path} ${body?.slice(0, 2000) ?? 'without a body'}`;
      reject(new Error(`${what}, over ${how}: ${cause.message}`, { cause }));
    });
    request.end(body);
  });
}

/** What a task is about and how far it has come. */
function taskText({ id, type, state, target, steps, createdAt }: Task): string {
  const done = steps.map((step) => `${step.name}: ${step.state}`).join(', ');
  return `${type} of ${target.name} (task ${id}, of ${createdAt}) is ${state} (${done})`;
}

test('whatever is asked, the daemon lives, answers as the contract says, and ends what it began', async (t) => {
  const { daemon } = await startFakeLodge(t);
  const { pid } = daemon;
  imageFolder = daemon.folder;
  const disk = Buffer.alloc(2 ** 20);
  disk.writeUInt16LE(0xaa55, 510);
  await writeFile(join(daemon.folder, 'small.raw'), disk);
  const routes = allRoutes().filter(({ id }) => id !== 'task.cancel' && id !== 'task.get');
  // What changes something comes more often than what only looks.
  const anyRequest = fc.oneof(
    ...routes.map(({ id, noun, route }) => ({
      weight: weightOf(id, route),
      arbitrary: requestFor(id, noun, route),
    })),
  );
  const seen = new Map<string, number>();
  let count = 0;
  const property = fc.asyncProperty(
    fc.array(anyRequest, { minLength: 1, maxLength: 12 }),
    fc.boolean(),
    async (sent, isAtOnce) => {
      const check = async (one: Sent): Promise<void> => {
        const answer = await ask(daemon, one);
        count++;
        seen.set(`${one.id} ${answer.status}`, (seen.get(`${one.id} ${answer.status}`) ?? 0) + 1);
        const shown = `${one.route.method} ${one.path} ${one.body?.slice(0, 2000)}: ${answer.status} ${answer.text.slice(0, 600)}`;
        assert.notEqual(answer.status, 500, shown);
        if (answer.status < 400) {
          assert.equal(answer.status, one.route.status ?? 200, shown);
          return;
        }
        const { error } = errorBody.parse(JSON.parse(answer.text), { error: () => shown });
        assert.equal(errorCodes[error.code].status, answer.status, shown);
        assert.ok(error.message !== '' && error.hint !== '', shown);
      };
      if (isAtOnce) await Promise.all(sent.map(check));
      else for (const one of sent) await check(one);
    },
  );
  await fc.assert(property, {
    seed,
    numRuns: 100_000,
    interruptAfterTimeLimit: limitMs,
    markInterruptAsFailure: false,
    // What the daemon has meanwhile become is part of what failed: smaller inputs would meet another daemon.
    endOnFailure: true,
  });
  const shown = [...seen].map(([what, times]) => `${what}: ${times}`).toSorted();
  console.log(`seed ${seed}: ${count} requests in ${limitMs / 1000} s`);
  if (process.env['LODGE_PROPERTY_SHOW']) console.log(shown.join('\n'));

  assert.equal(daemon.pid, pid, 'it is the same process');
  const ended = await eventually(
    async () => {
      const { items } = await daemon.client.task.list({ query: { limit: 500, sort: '-createdAt' } });
      const open = items.filter(({ state }) => !finalTaskStates.has(state));
      if (open.length > 0) throw new Error(`not so: ${open.map(taskText).join('; ')}`);
      return items;
    },
    { describe: 'every task has ended', timeoutMs: 120_000, intervalMs: 200 },
  );
  assert.deepEqual(
    ended.filter((task) => task.error?.code === 'internal' || task.steps.some((step) => step.state === 'undo-failed')),
    [],
  );
  assert.deepEqual(findMistakes(await daemon.log()).slice(0, 3), []);
  for (const verb of ['create', 'start', 'delete'] as const)
    assert.ok((seen.get(`vm.${verb} 202`) ?? 0) > 0, `no VM was asked to ${verb}:\n${shown.join('\n')}`);
});
