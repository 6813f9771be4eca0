import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { test } from 'node:test';
import * as z from 'zod';
import { allRoutes } from './contract.ts';
import { openApiDocument, examples, tagDescriptions, type Json } from './openapi.ts';
import { permissions } from './permission.ts';
import { isSchema } from './route.ts';

type Node = Record<string, Json>;
const document = openApiDocument() as Record<string, Node>;

function* walk(value: Json | undefined, path = '#'): Generator<{ path: string; node: Node }> {
  if (Array.isArray(value)) {
    for (const [index, item] of value.entries()) yield* walk(item, `${path}/${index}`);
  } else if (typeof value === 'object' && value !== null) {
    yield { path, node: value };
    for (const [key, item] of Object.entries(value)) yield* walk(item, `${path}/${key}`);
  }
}

function operations(): { method: string; path: string; operation: Node }[] {
  return Object.entries(document['paths'] ?? {}).flatMap(([path, item]) =>
    Object.entries(item as Node).map(([method, operation]) => ({ method, path, operation: operation as Node })),
  );
}

test('docs/openapi.json is what the contract gives', async () => {
  const file = await readFile(new URL('../../docs/openapi.json', import.meta.url), 'utf8');
  assert.equal(
    file,
    `${JSON.stringify(document, null, 2)}\n`,
    'the contract has changed: run node tools/generate-openapi.ts and commit docs/openapi.json',
  );
});

test('every reference leads somewhere', () => {
  for (const { path, node } of walk(document)) {
    const reference = node['$ref'];
    if (reference === undefined) continue;
    assert.ok(typeof reference === 'string' && reference.startsWith('#/'), `${path}: not a reference`);
    let target: Json | undefined = document;
    for (const part of reference.slice(2).split('/')) target = (target as Node | undefined)?.[part];
    assert.ok(target !== undefined, `${path} refers to ${reference}, which is not there`);
  }
});

test('every named schema and answer is used', () => {
  const used = new Set([...walk(document)].map(({ node }) => node['$ref']));
  for (const kind of ['schemas', 'responses']) {
    for (const name of Object.keys((document['components'] as Node)[kind] as Node)) {
      assert.ok(used.has(`#/components/${kind}/${name}`), `${kind}/${name} is not used`);
    }
  }
});

test('every route is an operation with its id, permission, success and the errors it may give', () => {
  const found = operations();
  assert.equal(found.length, allRoutes().length);
  for (const { id, route } of allRoutes()) {
    const match = found.find(({ path, method }) => path === route.path && method === route.method.toLowerCase());
    assert.ok(match, id);
    assert.equal(match.operation['operationId'], id);
    assert.equal(match.operation['x-permission'], route.permission);
    const responses = match.operation['responses'] as Node;
    const success = Object.keys(responses).filter((status) => Number(status) < 400);
    const isWebSocket = !isSchema(route.response) && route.response.kind === 'websocket';
    const isEmpty = !isSchema(route.response) && route.response.kind === 'none';
    assert.deepEqual(success, [isWebSocket ? '101' : String(route.status ?? (isEmpty ? 204 : 200))], id);
    assert.ok(responses['400'] && responses['500'], id);
  }
});

test('path parameters are those in the path, and no parameter is there twice', () => {
  for (const { path, operation } of operations()) {
    const parameters = (operation['parameters'] ?? []) as { name: string; in: string; required: boolean }[];
    const inPath = parameters.filter((parameter) => parameter.in === 'path').map(({ name }) => name);
    assert.deepEqual(
      inPath,
      [...path.matchAll(/\{(\w+)\}/g)].map((match) => match[1]),
    );
    assert.equal(new Set(parameters.map((parameter) => `${parameter.in}:${parameter.name}`)).size, parameters.length);
  }
});

test('every declared permission is used by a route, and every route declares one', () => {
  const used = new Set(allRoutes().map(({ route }) => route.permission));
  const known = new Set<string>([...permissions, 'public']);
  for (const { id, route } of allRoutes()) assert.ok(known.has(route.permission), `${id}: ${route.permission}`);
  for (const permission of permissions) assert.ok(used.has(permission), `no route needs ${permission}`);
});

test('only health, documents, signing in and what has a ticket is public', () => {
  const open = allRoutes().filter(({ route }) => route.permission === 'public');
  assert.deepEqual(open.map(({ id }) => id).sort(), [
    'server.healthz',
    'server.openapi',
    'server.readyz',
    'server.reference',
    'session.create',
    'vm.attachConsole',
  ]);
});

test('every tag is described', () => {
  for (const { id, route } of allRoutes()) assert.ok(tagDescriptions[route.tag], `${id}: ${route.tag}`);
});

test('examples are valid and belong to routes', () => {
  for (const [id, example] of Object.entries(examples)) {
    const found = allRoutes().find((entry) => entry.id === id);
    assert.ok(found?.route.body !== undefined && isSchema(found.route.body), id);
    const result = z.safeParse(found.route.body, example);
    assert.ok(result.success, `${id}: ${result.error?.message}`);
  }
});

test('a schema whose defaults make fields optional has two faces, and references keep to theirs', () => {
  const schemas = (document['components'] as Node)['schemas'] as Record<string, Node>;
  const named = (name: string): Node => {
    const schema = schemas[name];
    assert.ok(schema, name);
    return schema;
  };
  assert.equal(named('VmCpuInput')['required'], undefined);
  assert.ok((named('VmCpu')['required'] as string[]).includes('count'));
  const specOf = (name: string): Json | undefined => ((named(name)['properties'] as Node)['spec'] as Node)['$ref'];
  assert.equal(specOf('VmCreate'), '#/components/schemas/VmSpecInput');
  assert.equal(specOf('Vm'), '#/components/schemas/VmSpec');
});
