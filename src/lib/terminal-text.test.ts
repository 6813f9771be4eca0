import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { displayWidth, escapeControls, padToWidth, truncateToWidth, wrapToWidth } from './terminal-text.ts';

test('Chinese characters and emoji take two columns, combining marks none, colours none', () => {
  assert.equal(displayWidth('web1'), 4);
  assert.equal(displayWidth('网络'), 4);
  assert.equal(displayWidth('e\u0301'), 1);
  assert.equal(displayWidth('🚀'), 2);
  assert.equal(displayWidth('\u001b[32mrunning\u001b[0m'), 7);
});

test('text is cut to columns and never in the middle of a wide character', () => {
  assert.equal(truncateToWidth('abcdef', 6), 'abcdef');
  assert.equal(truncateToWidth('abcdef', 4), 'abc…');
  assert.equal(truncateToWidth('网络网络', 4), '网…');
  assert.equal(truncateToWidth('abc', 0), '');
});

test('padding counts columns, not characters', () => {
  assert.equal(padToWidth('网', 4), '网  ');
  assert.equal(padToWidth('7', 3, 'left'), '  7');
});

test('nothing that steers a terminal survives escaping', () => {
  assert.equal(escapeControls('a\u001b[2Jb\r\n'), 'a\\x1b[2Jb\\r\\n');
  assert.equal(escapeControls('\u202egnp.exe'), '\\u{202e}gnp.exe');
  assert.equal(escapeControls('Debian “12” – 网络'), 'Debian “12” – 网络');
  fc.assert(
    fc.property(fc.array(fc.nat(0x20ff)), (codes) => {
      const text = String.fromCharCode(...codes);
      assert.doesNotMatch(escapeControls(text), /[\p{Cc}\u202a-\u202e\u2028\u2029]/u);
    }),
  );
});

test('cut text always fits', () => {
  fc.assert(
    fc.property(fc.string({ unit: 'grapheme' }), fc.nat(40), (text, columns) => {
      assert.ok(displayWidth(truncateToWidth(escapeControls(text), columns)) <= columns);
    }),
  );
});

test('long text is broken at spaces', () => {
  assert.deepEqual(wrapToWidth('one two three', 7), ['one two', 'three']);
  assert.deepEqual(wrapToWidth('', 7), []);
});
