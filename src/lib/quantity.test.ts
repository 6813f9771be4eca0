import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { formatBytes, formatMib, formatRate, parseBytes, parseMib, QuantityError } from './quantity.ts';

test('sizes with binary units, short and long, are powers of 1024', () => {
  assert.equal(parseBytes('1K', 'B'), 1024);
  assert.equal(parseBytes('512MiB', 'B'), 512 * 2 ** 20);
  assert.equal(parseBytes('20G', 'B'), 20 * 2 ** 30);
  assert.equal(parseBytes('2gib', 'B'), 2 * 2 ** 30);
  assert.equal(parseBytes(' 1.5 TiB ', 'B'), 1.5 * 2 ** 40);
});

test('units with a plain B are powers of 1000', () => {
  assert.equal(parseBytes('20GB', 'B'), 20e9);
  assert.equal(parseBytes('7 mb', 'B'), 7e6);
});

test('a number without a unit takes the unit of its place', () => {
  assert.equal(parseMib('2048', 'MiB'), 2048);
  assert.equal(parseMib('20', 'GiB'), 20_480);
});

test('sizes that are not whole MiB are rounded up, so that nobody gets less than asked for', () => {
  assert.equal(parseMib('20GB', 'GiB'), 19_074);
  assert.equal(parseMib('1K', 'MiB'), 1);
});

test('what is not a size is refused with what is allowed', () => {
  for (const text of ['', 'abc', '-1', '1e9', '2 GiB x', '0x10', '١٢', '1,5G', '.5G', 'GiB', '1..2G']) {
    assert.throws(() => parseMib(text, 'MiB'), QuantityError, text);
  }
  assert.throws(() => parseMib('5furlong', 'MiB'), /"furlong" is not a unit.*KiB, MiB, GiB, TiB/);
  assert.throws(() => parseMib('0', 'MiB'), /at least 1MiB/);
  assert.throws(() => parseMib('9223372036854775808', 'MiB'), /more than 8 PiB/);
  assert.throws(() => parseBytes('9'.repeat(400), 'B'), /more than 8 PiB/);
});

test('sizes are shown with at most three digits', () => {
  assert.equal(formatBytes(0), '0 B');
  assert.equal(formatBytes(1023), '1023 B');
  assert.equal(formatBytes(1024), '1 KiB');
  assert.equal(formatBytes(1536), '1.5 KiB');
  assert.equal(formatBytes(1_048_575), '1 MiB');
  assert.equal(formatBytes(123_456_789), '118 MiB');
  assert.equal(formatMib(2048), '2 GiB');
  assert.equal(formatMib(512), '512 MiB');
  assert.equal(formatRate(12 * 2 ** 20), '12 MiB/s');
});

test('a shown size parses to within one percent of itself', () => {
  fc.assert(
    fc.property(fc.integer({ min: 0, max: 2 ** 52 }), (bytes) => {
      const again = parseBytes(formatBytes(bytes), 'B');
      assert.ok(Math.abs(again - bytes) <= bytes * 0.01 + 1, `${bytes} → ${formatBytes(bytes)} → ${again}`);
    }),
  );
});
