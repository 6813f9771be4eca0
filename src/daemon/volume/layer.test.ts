// The questions about the forest of layers, on small forests written down by hand.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { choresOf, lineOf, volumesOn, type Layer, type LayerForest } from './layer.ts';

/** `a>b` says that a is based on b; a name in capitals is a volume's top, one with `!` is held by a snapshot. */
function forest(...lines: string[]): LayerForest {
  const layers = new Map<string, Layer>();
  for (const line of lines) {
    const [name = '', parent] = line.split('>');
    const id = name.replace('!', '');
    layers.set(id, {
      id,
      treeId: 'tree',
      file: `${id}.qcow2`,
      format: 'qcow2',
      parentId: parent ?? null,
      imageId: null,
      volumeId: /^[A-Z]/.test(id) ? `volume ${id}` : null,
      holders: name.includes('!') ? [{ kind: 'snapshot', id: `snapshot ${id}` }] : [],
      madeBy: null,
      createdAt: '',
    });
  }
  return {
    get: (id) => layers.get(id) ?? null,
    childrenOf: (id) => [...layers.values()].filter(({ parentId }) => parentId === id),
    all: () => layers.values(),
  };
}

const chores = (...lines: string[]): string[] =>
  choresOf(forest(...lines)).map((chore) =>
    chore.kind === 'remove' ? `remove ${chore.layer.id}` : `merge ${chore.layer.id} with ${chore.child.id}`,
  );

test('a layer stands with everything it is based on', () => {
  const of = forest('base!', 'mid!>base', 'Top>mid', 'Other>base');
  assert.deepEqual(
    lineOf(of, of.get('Top')!).map(({ id }) => id),
    ['Top', 'mid', 'base'],
  );
  assert.deepEqual(volumesOn(of, of.get('base')!).toSorted(), ['volume Other', 'volume Top']);
  assert.deepEqual(volumesOn(of, of.get('mid')!), ['volume Top']);
});

test('what somebody holds, and what a volume writes, is left alone', () => {
  assert.deepEqual(chores('Top'), []);
  assert.deepEqual(chores('snap!', 'Top>snap'), []);
  assert.deepEqual(chores('snap!'), []);
});

test('what is held only by those who give it up counts as held by nobody', () => {
  const of = forest('base!', 'mid!>base', 'Top>mid', 'leaf!>base');
  const without = (...names: string[]): string[] =>
    choresOf(
      of,
      'tree',
      names.map((name) => ({ id: `snapshot ${name}` })),
    ).map(({ kind, layer }) => `${kind} ${layer.id}`);
  assert.deepEqual(without(), []);
  assert.deepEqual(without('mid'), ['merge mid']);
  assert.deepEqual(without('base', 'leaf'), ['remove leaf']);
});

test('a layer nobody holds goes when nothing is on it, is merged when one is, and stays when more are', () => {
  assert.deepEqual(chores('snap'), ['remove snap']);
  assert.deepEqual(chores('base', 'Top>base'), ['merge base with Top']);
  assert.deepEqual(chores('base', 'Top>base', 'Clone>base'), []);
  assert.deepEqual(chores('base!', 'mid>base', 'upper!>mid', 'Top>upper'), ['merge mid with upper']);
  assert.deepEqual(chores('base!', 'stray>base', 'Top>base'), ['remove stray']);
});
