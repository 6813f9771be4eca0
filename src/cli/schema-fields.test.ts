import assert from 'node:assert/strict';
import { test } from 'node:test';
import { vmRoutes } from '../api/vm.ts';
import { imageSpec } from '../api/image.ts';
import { fieldNamesAt, schemaAt } from './schema-fields.ts';

const { body } = vmRoutes.update;

test('fields are found through defaults, options, lists and unions', () => {
  assert.ok(fieldNamesAt(body, []).includes('spec'));
  assert.ok(fieldNamesAt(body, ['spec', 'cpu']).includes('coresPerSocket'));
  assert.ok(fieldNamesAt(body, ['spec', 'disks', 0]).includes('cache'));
  assert.deepEqual(fieldNamesAt(imageSpec, ['source']).toSorted(), ['checksum', 'path', 'recipe', 'type', 'url']);
});

test('what is not a field is not found', () => {
  assert.equal(schemaAt(body, ['spec', 'no-such']), null);
  assert.equal(schemaAt(body, ['spec', 'toString']), null);
  assert.deepEqual(fieldNamesAt(body, ['spec', 'memoryMib']), []);
});
