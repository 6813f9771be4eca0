import assert from 'node:assert/strict';
import { test } from 'node:test';
import { fastifyPath, pathOf, PathTable, queryOf } from './path-pattern.ts';

const table = new PathTable([
  { route: { path: '/v1/vms', method: 'GET' } },
  { route: { path: '/v1/vms', method: 'POST' } },
  { route: { path: '/v1/vms/{vm}', method: 'DELETE' } },
  { route: { path: '/v1/vms/{vm}/disks/{disk}', method: 'GET' } },
  { route: { path: '/openapi.json', method: 'GET' } },
]);

test('a path has the methods of its routes', () => {
  assert.deepEqual(table.methods('/v1/vms'), ['GET', 'HEAD', 'POST']);
  assert.deepEqual(table.methods('/v1/vms/web1'), ['DELETE']);
  assert.deepEqual(table.methods('/v1/vms/'), []);
  assert.deepEqual(table.methods('/openapixjson'), []);
});

test('a route is found with its parameters decoded', () => {
  assert.deepEqual(table.find('GET', '/v1/vms/a%20b/disks/root')?.params, { vm: 'a b', disk: 'root' });
  assert.equal(table.find('POST', '/v1/vms/web1'), null);
  assert.equal(table.find('DELETE', '/v1/vms/%'), null);
});

test('targets are split into path and query', () => {
  assert.equal(pathOf('/a/b?c=d#e'), '/a/b');
  assert.equal(queryOf('/a?b=c?d&e'), 'b=c?d&e');
  assert.equal(queryOf('/a?b#c'), 'b');
  assert.equal(queryOf('/a'), '');
});

test('parameters are spelt as Fastify wants them', () => {
  assert.equal(fastifyPath('/v1/vms/{vm}/disks/{disk}'), '/v1/vms/:vm/disks/:disk');
});
