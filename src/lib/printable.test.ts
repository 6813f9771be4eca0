import assert from 'node:assert/strict';
import { test } from 'node:test';
import { lastLine, printable } from './printable.ts';

test('colours, cursor movements and control characters are left out', () => {
  assert.equal(printable('\u001b[1;31mfailed\u001b[0m\u0007 \u001b]0;title\u0007now\u001b[6n'), 'failed  now');
});

test('the last line is the last in which something stands', () => {
  assert.equal(lastLine('one\r\ntwo\r\n\u001b[0m\r\n  \r\n'), 'two');
  assert.equal(lastLine('\r\n'), null);
});
