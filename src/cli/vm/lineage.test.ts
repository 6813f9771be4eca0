import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Vm } from '../../api/vm.ts';
import { relativesOf, treeLines } from './lineage.ts';

function vm(name: string, parent: string | null = null): Vm {
  const lineage = parent === null ? null : { parentId: parent };
  return { id: name, name, status: { lineage } } as unknown as Vm;
}

const vms = [
  vm('web1'),
  vm('web1-2', 'web1'),
  vm('web1-10', 'web1'),
  vm('web1-2-1', 'web1-2'),
  vm('alone'),
  vm('orphan', 'deleted'),
];

test('each VM stands below the one it was made from, by number', () => {
  assert.deepEqual(
    treeLines(vms, ({ name }) => name),
    ['orphan', 'web1', '├─ web1-2', '│  └─ web1-2-1', '└─ web1-10'],
  );
  assert.deepEqual(
    treeLines([vm('alone')], ({ name }) => name),
    [],
  );
});

test('the family of a VM is all that comes from its first ancestor', () => {
  const family = (name: string): string[] =>
    relativesOf(
      vms,
      vms.find((one) => one.name === name)!,
    ).map((one) => one.name);
  assert.deepEqual(family('web1-2-1'), ['web1', 'web1-2', 'web1-10', 'web1-2-1']);
  assert.deepEqual(family('orphan'), ['orphan']);
});
