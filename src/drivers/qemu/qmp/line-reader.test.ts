import assert from 'node:assert/strict';
import { test } from 'node:test';
import { LineReader, LineTooLongError } from './line-reader.ts';

function readAll(chunks: readonly Buffer[], maxLineBytes = 100): string[] {
  const reader = new LineReader(maxLineBytes);
  const lines: string[] = [];
  for (const chunk of chunks) reader.feed(chunk, (line) => lines.push(line.toString()));
  return lines;
}

test('lines come out the same however the bytes are cut', () => {
  const bytes = Buffer.from('eins\nzwei ä€😀\n\nvier\nrest');
  for (let size = 1; size <= bytes.length; size++) {
    const chunks: Buffer[] = [];
    for (let at = 0; at < bytes.length; at += size) chunks.push(bytes.subarray(at, at + size));
    assert.deepEqual(readAll(chunks), ['eins', 'zwei ä€😀', '', 'vier'], `cut into ${size} bytes`);
  }
});

test('a line of exactly the limit passes and one byte more does not', () => {
  assert.deepEqual(readAll([Buffer.from('12345\n')], 5), ['12345']);
  assert.deepEqual(readAll([Buffer.from('123'), Buffer.from('45'), Buffer.from('\n')], 5), ['12345']);
  assert.throws(() => readAll([Buffer.from('123456\n')], 5), LineTooLongError);
  assert.throws(() => readAll([Buffer.from('1234'), Buffer.from('56')], 5), LineTooLongError);
});

test('nothing is held of a line that was too long', () => {
  const reader = new LineReader(4);
  assert.throws(() => reader.feed(Buffer.from('12345'), () => {}), LineTooLongError);
  assert.equal(reader.pendingBytes, 0);
});

test('an unfinished line does not keep the chunk it came in', () => {
  const reader = new LineReader(100);
  const chunk = Buffer.from('abc');
  reader.feed(chunk, () => {});
  chunk.fill(0x78);
  let seen = '';
  reader.feed(Buffer.from('d\n'), (line) => (seen = line.toString()));
  assert.equal(seen, 'abcd');
});
