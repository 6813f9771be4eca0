import assert from 'node:assert/strict';
import { globSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { test } from 'node:test';
import { en } from './en/all.ts';
import { zh } from './zh/all.ts';

const folder = dirname(import.meta.dirname);
const sources = globSync('**/*.{ts,tsx}', {
  cwd: folder,
  exclude: ['dist*/**', 'i18n/en/**', 'i18n/zh/**', '**/*.test.ts'],
});
const code = sources.map((path) => readFileSync(join(folder, path), 'utf8')).join('\n');
const english: Readonly<Record<string, string>> = en;
const chinese: Readonly<Record<string, string>> = zh;

/** What a text leaves open: the names in double braces. */
function holes(text: string | undefined): string[] {
  return [...(text ?? '').matchAll(/\{\{(\w+)\}\}/g)].map((match) => match[1] ?? '').sort();
}

test('both languages have the same keys', () => {
  assert.deepEqual(Object.keys(chinese).sort(), Object.keys(english).sort());
});

test('a text leaves the same open in both languages', () => {
  const differing = Object.keys(english).filter((key) => String(holes(english[key])) !== String(holes(chinese[key])));
  assert.deepEqual(differing, []);
});

test('every key that the console asks for has a text', () => {
  const asked = [...code.matchAll(/\b(?:t|say)\(\s*'([^']+)'/g)].map((match) => match[1] ?? '');
  assert.ok(asked.length > 100);
  assert.deepEqual(
    asked.filter((key) => english[key] === undefined),
    [],
  );
});

test('every text is asked for', () => {
  // Keys that are put together at run time, by their beginnings.
  const composed = [...code.matchAll(/`([a-z-]+(?:\.[a-z-]+)*\.)\$\{/g)].map((match) => match[1] ?? '');
  const unused = Object.keys(english).filter(
    (key) => !code.includes(`'${key}'`) && !composed.some((prefix) => key.startsWith(prefix)),
  );
  assert.deepEqual(unused, []);
});

test('no Chinese text was left in English', () => {
  const names = /^[\sA-Za-z0-9.,:/{}()·_=+!-]*$/;
  const same = Object.keys(english).filter((key) => chinese[key] === english[key] && !names.test(english[key] ?? ''));
  assert.deepEqual(same, []);
});
