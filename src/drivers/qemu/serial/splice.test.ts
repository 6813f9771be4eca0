import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { bytesBefore } from './splice.ts';

const bytes = (text: string): Buffer => Buffer.from(text);

test('the end of the log that is the beginning of what was received is found', () => {
  const cases: [log: string, received: string, overlap: number][] = [
    ['', '', 0],
    ['boot\n', '', 0],
    ['', 'login: ', 0],
    ['boot\nlogin: ', 'login: ', 7],
    ['boot\nlog', 'login: ', 3],
    ['boot\n', 'login: ', 0],
    ['login: ', 'login: x', 7],
    ['aaaa', 'aa', 2],
    ['abcab', 'abd', 2],
    ['xabab', 'ababab', 4],
    ['abx', 'ab', 0],
  ];
  for (const [log, received, overlap] of cases) {
    assert.equal(
      bytesBefore(bytes(log), bytes(received), received.length),
      log.length - overlap,
      `${log} | ${received}`,
    );
  }
});

test('output is joined without gap or repetition when the log holds all that was received', () => {
  const output = fc.string({ unit: fc.constantFrom('a', 'b', '\n'), maxLength: 60 });
  fc.assert(
    fc.property(output, fc.nat(60), (text, at) => {
      const accepted = Math.min(at, text.length);
      const received = bytes(text.slice(accepted));
      const log = bytes(text);
      const before = log.subarray(0, bytesBefore(log, received, 0));
      assert.equal(Buffer.concat([before, received]).toString(), text);
    }),
  );
});

test('output that does not repeat itself is joined whatever part of it the log holds', () => {
  const text = Array.from({ length: 40 }, (_, n) => `line ${n}\n`).join('');
  fc.assert(
    fc.property(fc.nat(text.length), fc.nat(text.length), (a, b) => {
      const [accepted, logged] = [Math.min(a, b), Math.max(a, b)];
      const log = bytes(text.slice(0, logged));
      const received = bytes(text.slice(accepted));
      // A log that stops inside a number shares digits with the next ones; whole lines can not be mistaken.
      const isWhole = text[accepted - 1] === '\n' || accepted === 0;
      fc.pre(isWhole);
      const before = log.subarray(0, bytesBefore(log, received, 0));
      assert.equal(Buffer.concat([before, received]).toString(), text);
    }),
  );
});

test('a log that has bytes twice is joined where the stream begins', () => {
  const stream = Array.from({ length: 60 }, (_, n) => `line ${n}\n`).join('');
  const logged = `${stream.slice(0, 300)}${stream[299]}${stream.slice(300, 400)}`;
  assert.equal(bytesBefore(bytes(`SeaBIOS\n${logged}`), bytes(stream), 390), 8);
  // Without anything to go by, nothing is left out.
  assert.equal(bytesBefore(bytes('SeaBIOS\n'), bytes(stream), 390), 8);
});

test('a guest that chooses the worst bytes costs linear time', () => {
  const log = Buffer.alloc(1_000_000, 'a');
  const received = Buffer.concat([Buffer.alloc(500_000, 'a'), bytes('b')]);
  assert.equal(bytesBefore(log, received, received.length), 500_000);
});
