import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { readElf } from './elf.ts';

test('the shell names its loader and its C library', () => {
  const info = readElf(readFileSync('/bin/sh'));
  assert.match(info.interpreter ?? '', /^\/.*ld-.*\.so/);
  assert.ok(
    info.neededLibraries.includes('libc.so.6') || info.neededLibraries.some((name) => name.startsWith('libc.')),
  );
  assert.ok(info.notes.some((note) => note.owner === 'GNU'));
});

test('what is not an ELF file, or ends in the middle of one, is refused and never read beyond', () => {
  assert.throws(() => readElf(Buffer.from('#!/bin/sh\n')), RangeError);
  assert.throws(() => readElf(Buffer.alloc(0)), RangeError);
  const whole = readFileSync('/bin/sh').subarray(0, 4096);
  for (const length of [64, 65, 100, 200]) assert.throws(() => readElf(whole.subarray(0, length)), RangeError);
  const header = Buffer.from(whole.subarray(0, 64));
  header.writeBigUInt64LE(0xffff_ffff_ffffn, 32);
  assert.throws(() => readElf(header), RangeError);
});
