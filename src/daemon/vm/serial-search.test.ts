import assert from 'node:assert/strict';
import { test } from 'node:test';
import { searchSerial } from './serial-search.ts';

const log = Buffer.from('boot\r\n\u001b[31mError\u001b[0m: disk\r\nok\r\nerror: net\r\nlogin: ');
const search = (query: Partial<Parameters<typeof searchSerial>[1]>): string[] =>
  searchSerial(log, { ignoreCase: false, tail: 100, ...query }).lines.map(({ number, text }) => `${number} ${text}`);

test('lines that contain a text are found, with their numbers', () => {
  assert.deepEqual(search({ contains: 'error' }), ['4 error: net']);
  assert.deepEqual(search({ contains: 'error', ignoreCase: true }), ['2 Error: disk', '4 error: net']);
  assert.deepEqual(search({ contains: '.*' }), [], 'it is a text, and no pattern');
});

test('the last lines are told, with how many there are', () => {
  assert.deepEqual(search({ tail: 2 }), ['4 error: net', '5 login: ']);
  const found = searchSerial(log, { contains: 'r', ignoreCase: true, tail: 1 });
  assert.deepEqual([found.lines.length, found.matches, found.total], [1, 2, 5]);
  assert.deepEqual(searchSerial(Buffer.alloc(0), { ignoreCase: false, tail: 5 }), { lines: [], matches: 0, total: 0 });
});
