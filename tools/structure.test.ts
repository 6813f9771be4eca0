// The rules of the repository that no other tool checks: names, sizes, opening comments, and words that don't belong.
// Everything here is read from the files as they stand, so a rule that is broken names the file.
import assert from 'node:assert/strict';
import { globSync, readFileSync } from 'node:fs';
import { basename, dirname, join, posix } from 'node:path';
import { test } from 'node:test';

const root = dirname(import.meta.dirname);
const sources = globSync('{src,web,test,tools,bench}/**/*.{ts,tsx}', {
  cwd: root,
  exclude: (path) => /node_modules|(^|\/)dist(\/|$)/.test(path),
}).toSorted();
const documents = globSync(['*.md', 'docs/**/*.md'], { cwd: root }).toSorted();
const texts = new Map(
  [...sources, ...documents].map((path) => [path, readFileSync(join(root, path), 'utf8')] as const),
);

/** The files whose text is not as it has to be. */
function offenders(paths: readonly string[], isWrong: (text: string, path: string) => boolean): string[] {
  return paths.filter((path) => isWrong(texts.get(path) ?? '', path));
}

test('there are sources to check', () => {
  assert.ok(sources.includes('src/host/command.ts'));
});

test('folders have plain kebab-case names, and none is a drawer for everything', () => {
  const folders = new Set(sources.flatMap((path) => dirname(path).split('/')));
  assert.deepEqual(
    [...folders].filter((name) => !/^[a-z0-9]+(-[a-z0-9]+)*$/.test(name)),
    [],
  );
  assert.deepEqual(
    [...folders].filter((name) => ['core', 'common', 'shared', 'utils', 'util', 'helpers', 'misc'].includes(name)),
    [],
  );
});

test('files have kebab-case names', () => {
  assert.deepEqual(
    sources.filter((path) => !/^[a-z0-9]+(-[a-z0-9]+)*(\.(test|conformance|d|config))?\.tsx?$/.test(basename(path))),
    [],
  );
});

test('no file is a barrel', () => {
  assert.deepEqual(
    sources.filter((path) => /^index\.tsx?$/.test(basename(path))),
    [],
  );
  const isOnlyReexports = (text: string): boolean => {
    const lines = text.split('\n').filter((line) => line.trim() !== '' && !line.startsWith('//'));
    return lines.length > 0 && lines.every((line) => /^export .* from '/.test(line));
  };
  assert.deepEqual(offenders(sources, isOnlyReexports), []);
});

test('no file is longer than 600 lines', () => {
  assert.deepEqual(
    offenders(sources, (text) => text.split('\n').length > 601),
    [],
  );
});

test('every file but unit tests, whose titles say it, opens with a comment that says what it is for', () => {
  assert.deepEqual(
    offenders(sources, (text, path) => !path.endsWith('.test.ts') && !/^(#!.*\n)?(\/\/|\/\*)/.test(text)),
    [],
  );
});

test('no exported name ends in a word that says nothing', () => {
  const empty =
    /^export (?:abstract )?(?:class|interface|type|function|const) \w*(?:Manager|Helper|Util|Utils|Impl)\b/m;
  assert.deepEqual(
    offenders(sources, (text) => empty.test(text)),
    [],
  );
});

test('a noun of the daemon calls another noun’s service, never its store', () => {
  const wrong: string[] = [];
  for (const path of sources.filter((source) => source.startsWith('src/daemon/') && !source.endsWith('.test.ts'))) {
    const own = path.split('/')[2] ?? '';
    for (const [, target = ''] of (texts.get(path) ?? '').matchAll(/from '(\.[^']+)'/g)) {
      const [, , noun = '', ...rest] = posix.join(dirname(path), target).split('/');
      const isStoreFile = /(^|-)store\.ts$/.test(rest.at(-1) ?? '');
      // src/daemon/store is the store itself; start-daemon.ts wires everything.
      if (isStoreFile && noun !== own && noun !== 'store' && path !== 'src/daemon/start-daemon.ts')
        wrong.push(`${path}: ${target}`);
    }
  }
  assert.deepEqual(wrong, []);
});

test('no test is skipped, singled out or left to be written', () => {
  const call = /\b(?:test|it|describe|suite)\.(?:skip|only|todo)\(|\{[^}]*\b(?:skip|todo|only): (?:true|')/;
  const tests = sources.filter((path) => path.endsWith('.test.ts') && !path.endsWith('/test-command.test.ts'));
  assert.deepEqual(
    offenders(tests, (text) => call.test(text)),
    [],
  );
});

test('no file silences the compiler, leaves work for later, or names the machine it was written on', () => {
  // Put together here, so that this file doesn't hold them.
  const words = [
    ['@ts', 'ignore'],
    ['@ts', 'nocheck'],
  ].map((parts) => parts.join('-'));
  words.push(['', 'work', ''].join('/'));
  const wrong = new RegExp(
    `${words.join('|')}|\\b(?:${['TO', 'FIX', 'XX'].map((start, i) => start + ['DO', 'ME', 'X'][i]).join('|')})\\b`,
  );
  const isWrong = (text: string): boolean => text.split('\n').some((line) => wrong.test(line));
  assert.deepEqual(offenders([...sources, ...documents], isWrong), []);
});

test('every dependency is pinned to one version', () => {
  const { dependencies, devDependencies } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as Record<
    'dependencies' | 'devDependencies',
    Record<string, string>
  >;
  const loose = Object.entries({ ...dependencies, ...devDependencies }).filter(
    ([, version]) => !/^\d+\.\d+\.\d+(-[\w.]+)?$/.test(version),
  );
  assert.deepEqual(loose, []);
});

test('the lockfile names no host, so that every registry serves it', () => {
  const lock = readFileSync(join(root, 'package-lock.json'), 'utf8');
  assert.doesNotMatch(lock, /"resolved":/);
});

test('the list of system packages names one for every distribution, and a purpose', () => {
  const lines = readFileSync(join(root, 'tools/packages.txt'), 'utf8')
    .split('\n')
    .filter((line) => line !== '' && !line.startsWith('#'));
  assert.ok(lines.length > 15);
  for (const line of lines) {
    const [use = '', debian = '', proof = '', , , , , ...purpose] = line.split(/\s+/);
    assert.match(use, /^(run|test)$/, line);
    assert.match(debian, /^[+^]?[a-z0-9.+-]+$/, line);
    assert.match(proof, /^[\w./,+-]+$/, line);
    assert.ok(purpose.length >= 2, `no purpose: ${line}`);
  }
});

test('the one shell script beside the two launchers is the bootstrap', () => {
  const scripts = globSync('**/*.{sh,bash}', { cwd: root, exclude: (path) => /node_modules|^\.git/.test(path) });
  assert.deepEqual(scripts, ['tools/bootstrap.sh']);
});
