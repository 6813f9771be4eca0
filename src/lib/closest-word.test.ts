import assert from 'node:assert/strict';
import { test } from 'node:test';
import { closestWord } from './closest-word.ts';

test('a mistyped word finds what was meant', () => {
  const verbs = ['list', 'show', 'create', 'delete', 'restart', 'start', 'stop'];
  assert.equal(closestWord('lsit', verbs), 'list');
  assert.equal(closestWord('craete', verbs), 'create');
  assert.equal(closestWord('Start', verbs), 'start');
  assert.equal(closestWord('sto', verbs), 'stop');
});

test('a word that is near nothing finds nothing', () => {
  assert.equal(closestWord('frobnicate', ['list', 'show']), null);
  assert.equal(closestWord('', ['list']), null);
});
