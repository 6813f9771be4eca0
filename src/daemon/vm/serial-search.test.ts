import assert from 'node:assert/strict';
import { test } from 'node:test';
import { searchSerial } from './serial-search.ts';

const bytes = Buffer.from('boot\r\n\u001b[31mError\u001b[0m: disk\r\nok\r\nerror: net\r\nlogin: ');
const output = { bytes, times: [{ end: bytes.length, atMs: 0 }] };
const search = (
  query: Partial<Parameters<typeof searchSerial>[1]>,
  of: Parameters<typeof searchSerial>[0] = output,
): string[] =>
  searchSerial(of, { ignoreCase: false, tail: 100, ...query }).lines.map(({ number, text }) => `${number} ${text}`);

test('lines that contain a text are found, with their numbers', () => {
  assert.deepEqual(search({ contains: 'error' }), ['4 error: net']);
  assert.deepEqual(search({ contains: 'error', ignoreCase: true }), ['2 Error: disk', '4 error: net']);
  assert.deepEqual(search({ contains: '.*' }), [], 'it is a text, and no pattern');
});

test('the last lines are told, with how many there are', () => {
  assert.deepEqual(search({ tail: 2 }), ['4 error: net', '5 login: ']);
  const found = searchSerial(output, { contains: 'r', ignoreCase: true, tail: 1 });
  assert.deepEqual([found.lines.length, found.matches, found.total], [1, 2, 5]);
  const nothing = { bytes: Buffer.alloc(0), times: [] };
  assert.deepEqual(searchSerial(nothing, { ignoreCase: false, tail: 5 }), { lines: [], matches: 0, total: 0 });
});

test('a line has the time at which its end had come, and lines are found by it', () => {
  const at = (text: string): number => bytes.indexOf(text) + text.length;
  const timed = {
    bytes,
    times: [
      { end: at('boot\r\n'), atMs: null },
      { end: at('Error'), atMs: 1000 },
      { end: at('ok\r\n'), atMs: 2000 },
      { end: bytes.length, atMs: 3000 },
    ],
  };
  const { lines } = searchSerial(timed, { ignoreCase: false, tail: 100 });
  const seconds = lines.map((line) => (line.at === null ? null : Date.parse(line.at) / 1000));
  assert.deepEqual(seconds, [null, 2, 2, 3, 3]);
  assert.deepEqual(
    lines.map(({ isComplete }) => isComplete),
    [true, true, true, true, false],
  );
  assert.deepEqual(search({ since: '1970-01-01T00:00:02.500Z' }, timed), ['4 error: net', '5 login: ']);
  assert.deepEqual(search({ since: '1970-01-01T00:00:02Z', contains: 'o' }, timed).length, 4);
  assert.deepEqual(search({ since: '1969-01-01T00:00:00Z' }, timed).length, 4, 'what has no time is not told');
});
