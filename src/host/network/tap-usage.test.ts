import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parseTapName } from './tap-usage.ts';

test('the name of a tap stands in the fdinfo of its descriptor', () => {
  // Recorded from a QEMU with a tap, kernel 6.18.
  assert.equal(
    parseTapName('pos:\t0\nflags:\t02504002\nmnt_id:\t30\nino:\t113\niff:\tltdzgsnjxbfl0\n'),
    'ltdzgsnjxbfl0',
  );
});

test('a descriptor of something else has none', () => {
  assert.equal(parseTapName('pos:\t0\nflags:\t02\nmnt_id:\t15\nino:\t1029\n'), null);
});
