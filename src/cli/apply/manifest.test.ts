import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { LodgeError } from '../../api/errors.ts';
import { parseManifests, type Manifest } from './manifest.ts';

const parse = (text: string, project = 'default'): Manifest[] => parseManifests([{ name: 'site.yaml', text }], project);

/** The complaints about a text that must be refused. */
function complaints(text: string): string[] {
  try {
    parse(text);
  } catch (failure) {
    assert.ok(failure instanceof LodgeError, String(failure));
    return failure.fields?.map(({ field, message }) => `${field}: ${message}`) ?? [failure.message];
  }
  throw new assert.AssertionError({ message: `taken: ${text}` });
}

test('several documents are read, with defaults filled in and empty ones skipped', () => {
  const [network, vm, ...rest] = parse(
    '---\nkind: network\nname: lab\n---\n\n---\n{"kind": "Vm", "name": "web1", "project": "shop"}\n',
  );
  assert.equal(rest.length, 0);
  assert.deepEqual(
    [network?.kind, network?.name, network?.project, network?.labels],
    ['Network', 'lab', 'default', undefined],
  );
  assert.equal((network?.spec as { mode?: string } | undefined)?.mode, 'nat');
  assert.deepEqual([vm?.kind, vm?.project, vm?.where], ['Vm', 'shop', 'site.yaml, document 3, line 7']);
});

test('an export is taken: what can only be read is ignored, and a list is several objects', () => {
  const exported = {
    kind: 'Volume',
    id: 'x',
    name: 'data',
    revision: 3,
    createdAt: 'then',
    labels: {},
    spec: { sizeMib: 1 },
    status: { state: 'ready' },
  };
  assert.deepEqual(
    parse(JSON.stringify([exported, { ...exported, name: 'more' }])).map(({ name }) => name),
    ['data', 'more'],
  );
});

test('sizes may have units', () => {
  const [volume] = parse('kind: Volume\nname: data\nspec: {sizeMib: 20GiB}\n');
  assert.equal((volume?.spec as { sizeMib?: number } | undefined)?.sizeMib, 20_480);
  assert.match(
    complaints('kind: Volume\nname: data\nspec: {sizeMib: 20 parsecs}\n').join(),
    /line 3: spec\.sizeMib.*number/,
  );
});

test('every mistake is named with document, line and field', () => {
  assert.deepEqual(
    complaints('kind: Vm\nname: web1\nspec:\n  cpu:\n    count: 0\n    cuont: 2\n---\nkind: Vm\nnmae: web2\n'),
    [
      'site.yaml, document 1, line 5: spec.cpu.count: is at least 1 (given: 0)',
      'site.yaml, document 1, line 6: spec.cpu.cuont: is not a field here (did you mean count?)',
      'site.yaml, document 2, line 9: nmae: is not a field of an object (did you mean name?)',
      'site.yaml, document 2, line 8: name: is missing (string)',
    ],
  );
  assert.match(
    complaints('kind: Vmm\nname: x').join(),
    /line 1: kind: is one of AddressSet, .*, Vm.*did you mean Vm\?/,
  );
  assert.match(complaints('name: x').join(), /has no kind/);
  assert.match(
    complaints('- 1\n- kind: Vm\n  name: UPPER').join('\n'),
    /line 1: \[0\]|line 1: is not an object[^]*line 3: name/,
  );
  assert.match(complaints('just text').join(), /is not an object/);
});

test('a position in a list is named with its line', () => {
  const text = 'kind: Vm\nname: web1\nspec:\n  disks:\n    - name: root\n    - name: data\n      cache: fast\n';
  assert.match(complaints(text).join(), /line 7: spec\.disks\.1\.cache: is one of none, writeback/);
});

test('the same object twice is refused', () => {
  assert.match(
    complaints('kind: Vm\nname: a\n---\nkind: vm\nname: a').join(),
    /document 2, line 4: Vm a was described before, in site\.yaml, document 1, line 1/,
  );
  assert.equal(parse('kind: Vm\nname: a\n---\nkind: Vm\nname: a\nproject: other').length, 2);
});

test('what is not YAML, or is made to harm, is one clear complaint', () => {
  assert.match(complaints('a: [1').join(), /line 1: is not YAML/);
  assert.match(complaints('a: 1\na: 2').join(), /line 2: is not YAML.*unique/i);
  const bomb = [
    'a: &a [x,x,x,x,x,x,x,x,x]',
    ...'bcdefghi'
      .split('')
      .map((name, index) => `${name}: &${name} [${Array(9).fill(`*${'abcdefgh'[index]}`).join(',')}]`),
  ].join('\n');
  assert.match(complaints(bomb).join(), /alias/i);
  assert.match(complaints('['.repeat(100_000)).join(), /is not YAML/);
  assert.match(complaints('').join(), /there is no object/);
  assert.match(complaints('---\nkind: Vm\nname: a\n'.repeat(2001)).join(), /at most 2000/);
});

test('no text makes anything but manifests or complaints', () => {
  const line = fc.constantFrom(
    'kind: Vm',
    'name: a',
    'spec:',
    '  cpu: {count: 1}',
    '---',
    '- x',
    '  - y',
    '&a b',
    '*a',
    '"',
    '? !!set',
    '\t',
    '__proto__: 1',
    '<<: {a: 1}',
  );
  fc.assert(
    fc.property(fc.array(fc.oneof(line, fc.string())), (lines) => {
      try {
        parse(lines.join('\n'));
      } catch (failure) {
        assert.ok(failure instanceof LodgeError, failure instanceof Error ? failure.stack : String(failure));
      }
    }),
  );
});
