import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parseListing } from './copy-folder.ts';

test('names and facts of a guest’s files are put together', () => {
  const output = Buffer.from('./a b\0./sub/new\nline\0\x00644 1700000000 5\n4755 1700000001 6\n');
  assert.deepEqual(parseListing('file', output), [
    { type: 'file', path: 'a b', mode: 0o644, modifiedAtS: 1_700_000_000, size: 5 },
    { type: 'file', path: 'sub/new\nline', mode: 0o4755, modifiedAtS: 1_700_000_001, size: 6 },
  ]);
  assert.deepEqual(parseListing('folder', Buffer.from('.\0\x00755 1\n')), [
    { type: 'folder', path: '', mode: 0o755, modifiedAtS: 1 },
  ]);
  assert.deepEqual(parseListing('symlink', Buffer.from('./l\0\0../to here\n')), [
    { type: 'symlink', path: 'l', mode: 0o777, modifiedAtS: 0, target: '../to here' },
  ]);
  assert.deepEqual(parseListing('file', Buffer.from('\0')), []);
});

test('a folder that changes while it is listed is an error', () => {
  assert.throws(() => parseListing('file', Buffer.from('./a\0./b\0\x00644 1 5\n')), /changed while it was listed/);
});
