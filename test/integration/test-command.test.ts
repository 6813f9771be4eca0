// `npm test` itself: what it counts, that it finds and removes what tests leave behind, and that stopping it stops all.
import assert from 'node:assert/strict';
import { spawn, type ChildProcess } from 'node:child_process';
import { mkdir, readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { findProcesses } from '../../src/host/process.ts';
import { MARK_VARIABLE } from '../support/mark.ts';
import { temporaryFolder } from '../support/temporary.ts';
import { eventually } from '../support/wait.ts';

const command = join(import.meta.dirname, '../../tools/test.ts');

interface Run {
  child: ChildProcess;
  output: () => string;
  exitCode: Promise<number | null>;
}

/** Runs the integration stage over a folder with these test files. */
async function runTests(t: TestContext, files: Record<string, string>, ...more: string[]): Promise<Run> {
  const root = await temporaryFolder(t);
  await mkdir(join(root, 'test/integration'), { recursive: true });
  await writeFile(join(root, 'package.json'), '{ "type": "module" }');
  for (const [name, text] of Object.entries(files)) await writeFile(join(root, 'test/integration', name), text);
  // Without these the inner run would take itself for a file of the outer one.
  const { NODE_TEST_CONTEXT: _context, NODE_OPTIONS: _options, ...env } = process.env;
  const child = spawn(process.execPath, [command, '--only', 'integration', '--root', root, ...more], {
    env: { ...env, LODGE_TEST_SHARED: '1', NO_COLOR: '1' },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  t.after(() => child.kill('SIGKILL'));
  let text = '';
  for (const stream of [child.stdout, child.stderr]) stream.setEncoding('utf8').on('data', (chunk) => (text += chunk));
  const { promise: exitCode, resolve } = Promise.withResolvers<number | null>();
  child.once('close', resolve);
  return { child, output: () => text, exitCode };
}

function lastLine(text: string): string | undefined {
  return text.trimEnd().split('\n').at(-1);
}

const passing = `import { test } from 'node:test'; test('adds', () => {}); test('takes away', () => {});`;

test('a green run ends with the counts alone on the last line and exit code 0', async (t) => {
  const run = await runTests(t, { 'good.test.ts': passing });
  assert.equal(await run.exitCode, 0, run.output());
  // The two tests, and the search for what was left.
  assert.equal(lastLine(run.output()), '3 passed, 0 failed');
});

test('a failure is shown with its place and its reason, counted once, and makes the exit code 1', async (t) => {
  const run = await runTests(t, {
    'good.test.ts': passing,
    'bad.test.ts': `import { describe, test } from 'node:test'; import assert from 'node:assert/strict';
describe('numbers', () => {
  test('are equal', () => assert.equal(1, 2));
  test('exist', () => {});
});`,
  });
  assert.equal(await run.exitCode, 1, run.output());
  assert.equal(lastLine(run.output()), '4 passed, 1 failed');
  assert.match(run.output(), /are equal\s+test\/integration\/bad\.test\.ts:3/);
  assert.match(run.output(), /1 !== 2/);
});

test('a file that failed among the others and passes alone is named, and does not fail the run', async (t) => {
  const unsteady = `
import { test } from 'node:test'; import { existsSync, writeFileSync } from 'node:fs';
test('goes well', () => {});
test('goes well the second time', () => {
  const seen = import.meta.filename + '.seen';
  if (existsSync(seen)) return;
  writeFileSync(seen, '');
  throw new Error('the first time');
});`;
  const run = await runTests(t, { 'good.test.ts': passing, 'unsteady.test.ts': unsteady });
  assert.equal(await run.exitCode, 0, run.output());
  assert.equal(lastLine(run.output()), '5 passed, 0 failed');
  assert.match(run.output(), /the first time/);
  assert.match(run.output(), /unsteady: these failed at first.*\n\s+test\/integration\/unsteady\.test\.ts\n/);
});

test('where more files fail than by accident, there is no second run', async (t) => {
  const bad = `import { test } from 'node:test'; test('fails', () => { throw new Error('always'); });`;
  const names = ['a', 'b', 'c', 'd', 'e', 'f'].map((name) => `${name}.test.ts`);
  const run = await runTests(t, Object.fromEntries(names.map((name) => [name, bad])));
  assert.equal(await run.exitCode, 1, run.output());
  assert.equal(lastLine(run.output()), '1 passed, 6 failed');
  assert.equal(run.output().match(/Error: always/g)?.length, 6);
});

test('a test that another file defines belongs to the file that was run', async (t) => {
  const run = await runTests(t, {
    'suite.ts': `import { test } from 'node:test'; export const suite = () => test('keeps its word', () => { throw new Error('no'); });`,
    'kept.test.ts': `import { suite } from './suite.ts'; suite();`,
  });
  assert.equal(await run.exitCode, 1, run.output());
  assert.match(run.output(), /✖ test\/integration\/kept\.test\.ts \(0 passed, 1 failed/);
  assert.match(run.output(), /keeps its word\s+test\/integration\/suite\.ts:1/);
});

for (const [what, text] of [
  ['skipped', `import { test } from 'node:test'; test('later', { skip: true }, () => {});`],
  ['unfinished', `import { test } from 'node:test'; test('later', { todo: true }, () => {});`],
] as const) {
  test(`a ${what} test counts as failed`, async (t) => {
    const run = await runTests(t, { 'one.test.ts': text });
    assert.equal(await run.exitCode, 1, run.output());
    assert.equal(lastLine(run.output()), '1 passed, 1 failed');
  });
}

for (const [what, text] of [
  ['without a test', 'export const nothing = 1;'],
  ['that cannot be parsed', 'export const = ;'],
  ['that ends its process', `import { test } from 'node:test'; test('dies', () => process.exit(3));`],
  [
    'whose hook fails',
    `import { before, test } from 'node:test'; before(() => { throw new Error('no'); }); test('x', () => {});`,
  ],
] as const) {
  test(`a file ${what} counts as failed`, async (t) => {
    const run = await runTests(t, { 'one.test.ts': text });
    assert.equal(await run.exitCode, 1, run.output());
    assert.match(lastLine(run.output()) ?? '', /^\d+ passed, [1-9]\d* failed$/);
  });
}

test('a file that takes too long and does not listen is ended, and counts as failed', async (t) => {
  const files = {
    'deaf.test.ts': `import { test } from 'node:test'; test('is busy for ever', () => { for (;;); });`,
    'good.test.ts': passing,
  };
  const run = await runTests(t, files, '--file-timeout', '1');
  assert.equal(await run.exitCode, 1, run.output());
  assert.match(lastLine(run.output()) ?? '', /^3 passed, 1 failed$/);
  assert.match(run.output(), /✖ test\/integration\/deaf\.test\.ts/);
});

test('a process and a file that a test leaves behind are named, fail the run, and are removed', async (t) => {
  const run = await runTests(t, {
    'leaky.test.ts': `import { test } from 'node:test'; import { spawn } from 'node:child_process';
import { writeFileSync } from 'node:fs'; import { tmpdir } from 'node:os';
test('leaves a process and a file', () => {
  writeFileSync(tmpdir() + '/forgotten', '');
  spawn('sleep', ['31415'], { detached: true, stdio: 'ignore' }).unref();
});`,
  });
  assert.equal(await run.exitCode, 1, run.output());
  assert.equal(lastLine(run.output()), '1 passed, 1 failed');
  assert.match(run.output(), /process \d+ sleep 31415 \(removed\)/);
  assert.match(run.output(), /inside: .*\/forgotten/);
  const mark = /file \/tmp\/lodge-(\w+) \(removed\)/.exec(run.output())?.[1];
  assert.ok(mark, run.output());
  await assertNothingIsLeft(mark);
});

test('stopping the run ends its tests and removes what they made', async (t) => {
  const seconds = `27182.${process.pid}`;
  const run = await runTests(t, {
    'endless.test.ts': `import { test } from 'node:test'; import { spawn } from 'node:child_process';
import { writeFileSync } from 'node:fs'; import { tmpdir } from 'node:os';
test('is busy for ever', () => {
  writeFileSync(tmpdir() + '/half-made', '');
  spawn('sleep', ['${seconds}'], { detached: true, stdio: 'ignore' }).unref();
  for (;;);
});`,
  });
  const sleeper = await eventually(
    async () =>
      (await findProcesses({ environmentVariable: MARK_VARIABLE, matchesArguments: (argv) => argv[1] === seconds })).at(
        0,
      ),
    { describe: 'the endless test has started its process', timeoutMs: 20_000 },
  );
  run.child.kill('SIGINT');
  assert.equal(await run.exitCode, 130, run.output());
  assert.match(lastLine(run.output()) ?? '', /^\d+ passed, 1 failed$/);
  await assertNothingIsLeft(sleeper.mark ?? '');
});

async function assertNothingIsLeft(mark: string): Promise<void> {
  const processes = await findProcesses({ environmentVariable: MARK_VARIABLE });
  assert.deepEqual(
    processes.filter((process) => process.mark === mark),
    [],
  );
  const folders = await readdir('/tmp');
  assert.ok(!folders.includes(`lodge-${mark}`));
}
