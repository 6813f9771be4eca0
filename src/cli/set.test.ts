import assert from 'node:assert/strict';
import { test } from 'node:test';
import { LodgeError } from '../api/errors.ts';
import { vmSpec } from '../api/vm-spec.ts';
import { applyChanges, parseChange, possibleValues } from './set.ts';

const vm = {
  name: 'web1',
  revision: 3,
  labels: { app: 'web' },
  spec: vmSpec.parse({
    image: 'debian-12',
    disks: [
      { name: 'root', sizeMib: 1024 },
      { name: 'data', sizeMib: 1 },
    ],
  }),
};
const changed = (...words: string[]) => applyChanges('vm', vm, words.map(parseChange));
type Spec = typeof vm.spec;

test('numbers, texts, sizes, booleans and lists are understood by what the field takes', () => {
  const spec = changed('cpu.count=4', 'memoryMib=2GiB', 'autostart=true', 'cpu.enable=aes,avx2', 'description=42')
    .spec as Spec;
  assert.equal(spec.cpu.count, 4);
  assert.equal(spec.memoryMib, 2048);
  assert.equal(spec.autostart, true);
  assert.deepEqual(spec.cpu.enable, ['aes', 'avx2']);
  assert.equal(spec.description, '42');
});

test('one word is enough for a list of one', () => {
  assert.deepEqual((changed('cpu.enable=aes').spec as Spec).cpu.enable, ['aes']);
});

test('disks are named by their name, labels stand beside the spec, and spec. may be written', () => {
  const after = changed('disks.data.sizeMib=20GiB', 'labels.tier=front', 'labels.app-', 'spec.memoryMib=1024');
  assert.equal((after.spec as Spec).disks[1]?.sizeMib, 20_480);
  assert.equal((after.spec as Spec).memoryMib, 1024);
  assert.deepEqual(after.labels, { tier: 'front' });
});

test('a label whose value looks like a number stays text', () => {
  assert.deepEqual(changed('labels.app=1').labels, { app: '1' });
});

test('an element can be added to a list', () => {
  assert.equal((changed('nics[1]={"network":"lab"}').spec as { nics: unknown[] }).nics.length, 2);
});

test('what the contract refuses is refused before it is sent, with the field and a suggestion', () => {
  const failure = (word: string): LodgeError => {
    try {
      changed(word);
    } catch (error) {
      assert.ok(error instanceof LodgeError);
      return error;
    }
    throw new assert.AssertionError({ message: `${word} was taken` });
  };
  assert.match(JSON.stringify(failure('cpu.cout=4').fields), /did you mean count/);
  assert.match(JSON.stringify(failure('cpu.count=0').fields), /spec\.cpu\.count.*given: 0/);
  assert.match(JSON.stringify(failure('cpu.count=many').fields), /spec\.cpu\.count.*many/);
  assert.match(failure('disks.swap.cache=none').message, /by name: root, data/);
  assert.match(failure('memoryMib=2 furlongs').message, /furlongs/);
  assert.match(failure('cpu.count').hint, /field=value/);
});

test('a text may mean several values', () => {
  assert.deepEqual(possibleValues(['cpu', 'count'], '4'), [4, '4', ['4']]);
  assert.deepEqual(possibleValues(['memoryMib'], '1GiB'), [1024, '1GiB', ['1GiB']]);
});
