import assert from 'node:assert/strict';
import { test } from 'node:test';
import { vmRoutes } from '../api/vm.ts';
import { imageSpec } from '../api/image.ts';
import { choicesAt, fieldNamesAt, issueText, schemaAt } from './schema-fields.ts';

const { body } = vmRoutes.update;

test('fields are found through defaults, options, lists and unions', () => {
  assert.ok(fieldNamesAt(body, []).includes('spec'));
  assert.ok(fieldNamesAt(body, ['spec', 'cpu']).includes('coresPerSocket'));
  assert.ok(fieldNamesAt(body, ['spec', 'disks', 0]).includes('cache'));
  assert.deepEqual(fieldNamesAt(imageSpec, ['source']).toSorted(), [
    'checksum',
    'format',
    'path',
    'recipe',
    'type',
    'url',
  ]);
});

test('the values of a fixed set are known', () => {
  assert.ok(choicesAt(body, ['spec', 'machine']).includes('q35'));
  assert.deepEqual(choicesAt(body, ['spec', 'memoryMib']), []);
});

test('complaints are said in words for people', () => {
  const complaints = (spec: object): string[] => {
    const checked = body.safeParse({ spec });
    return checked.success ? [] : checked.error.issues.map((issue) => issueText(issue));
  };
  assert.deepEqual(complaints({ cpu: { count: 0 } }), ['is at least 1']);
  assert.deepEqual(complaints({ memoryMib: '2' }), ['is a number, not a string']);
  assert.deepEqual(complaints({ machine: 'pdp11' }), ['is one of q35, pc, microvm']);
  assert.deepEqual(complaints({ disks: [{}] }), ['is missing (string)']);
});

test('what is not a field is not found', () => {
  assert.equal(schemaAt(body, ['spec', 'no-such']), null);
  assert.equal(schemaAt(body, ['spec', 'toString']), null);
  assert.deepEqual(fieldNamesAt(body, ['spec', 'memoryMib']), []);
});
