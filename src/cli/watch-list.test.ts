// What a watched list tells of two readings, and what a terminal is sent.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { changesBetween, fitRows, redraw } from './watch-list.ts';

interface One {
  id: string;
  state: string;
  at?: number;
}

const byId = (items: One[]): Map<string, One> => new Map(items.map((item) => [item.id, item]));
const textOf = ({ state }: One): string => state;

test('the first reading lists everything', () => {
  const item = { id: 'a', state: 'running' };
  assert.deepEqual(changesBetween(null, [item], textOf), [{ type: 'listed', item }]);
});

test('a later reading tells what came, what changed as far as it is shown, and what went', () => {
  const before = byId([
    { id: 'a', state: 'running', at: 1 },
    { id: 'b', state: 'running' },
    { id: 'c', state: 'stopped' },
  ]);
  const now = [
    { id: 'a', state: 'running', at: 2 },
    { id: 'b', state: 'stopped' },
    { id: 'd', state: 'creating' },
  ];
  assert.deepEqual(
    changesBetween(before, now, textOf).map(({ type, item }) => [type, item.id, item.state]),
    [
      ['changed', 'b', 'stopped'],
      ['added', 'd', 'creating'],
      ['removed', 'c', 'stopped'],
    ],
  );
});

test('a table is drawn over the one before, and never taller than the screen', () => {
  assert.equal(redraw(0, ['NAME', 'a']), 'NAME\na\n');
  assert.equal(redraw(2, ['NAME']), '\u001b[2A\r\u001b[0JNAME\n');
  assert.deepEqual(fitRows(['1', '2', '3'], 4), ['1', '2', '3']);
  assert.deepEqual(fitRows(['1', '2', '3', '4', '5'], 4), ['1', '2', '… and 3 more']);
});
