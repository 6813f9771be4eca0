import assert from 'node:assert/strict';
import { test } from 'node:test';
import { shellWord } from './shell-word.ts';

test('a plain word stays as it is', () => {
  assert.equal(shellWord('/run/lodge/lodge.sock'), '/run/lodge/lodge.sock');
  assert.equal(shellWord('--user=a@b'), '--user=a@b');
});

test('what a shell would change is quoted', () => {
  assert.equal(shellWord('my config.yaml'), "'my config.yaml'");
  assert.equal(shellWord("it's"), String.raw`'it'\''s'`);
  assert.equal(shellWord('$HOME'), "'$HOME'");
  assert.equal(shellWord('~'), "'~'");
  assert.equal(shellWord(''), "''");
});
