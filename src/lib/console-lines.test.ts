import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { ConsoleLines, maxConsoleLine } from './console-lines.ts';

function linesOf(...pieces: (string | Uint8Array)[]): string[] {
  const lines = new ConsoleLines();
  const all = pieces.flatMap((piece) => lines.feed(typeof piece === 'string' ? Buffer.from(piece) : piece));
  const rest = lines.rest();
  return rest === null ? all : [...all, rest];
}

test('lines are plain text, however the guest has coloured them', () => {
  assert.deepEqual(linesOf('\u001b[32m[  OK  ]\u001b[0m Started\r\n\r\nlogin: '), ['[  OK  ] Started', '', 'login: ']);
  assert.deepEqual(linesOf('a\tb\u0007\u0000c\n'), ['a bc']);
});

test('a line that was written anew shows what it said last', () => {
  assert.deepEqual(linesOf('10 %\r50 %\r100 %\r\ndone\n'), ['100 %', 'done']);
});

test('lines are the same in whatever pieces they come, characters that are cut included', () => {
  const text = Buffer.from('grüße\r\n\u001b[1mfett\u001b[0m\n漢字\nrest');
  fc.assert(
    fc.property(fc.array(fc.nat(text.length), { maxLength: 6 }), (cuts) => {
      const places = [0, ...cuts.toSorted((one, other) => one - other), text.length];
      const pieces = places.slice(1).map((end, index) => text.subarray(places[index], end));
      assert.deepEqual(linesOf(...pieces), ['grüße', 'fett', '漢字', 'rest']);
    }),
  );
});

test('a line without an end, and one of any bytes, is bounded', () => {
  const [line] = linesOf('x'.repeat(3_000_000));
  assert.ok(line!.length <= maxConsoleLine + 1);
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
      for (const one of linesOf(bytes)) assert.doesNotMatch(one, /\p{Cc}/u);
    }),
  );
});
