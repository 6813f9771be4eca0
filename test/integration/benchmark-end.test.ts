// What a benchmark has set up is undone however it ends: by itself, by an error, or by a signal in the middle.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { test } from 'node:test';
import { identifyProcess, isAlive } from '../../src/host/process.ts';
import { MARK_VARIABLE, runMark } from '../support/mark.ts';
import { eventually } from '../support/wait.ts';

const root = join(import.meta.dirname, '../..');
const waitMs = 60_000;

/** A benchmark that says what it undoes, and has a child; `work` is what it does then. */
const program = (work: string): string => `
  import { spawn } from 'node:child_process';
  import { benchmark } from '${root}/bench/measure.ts';
  import { atEnd } from '${root}/test/support/cleanup.ts';
  await benchmark(async (scope) => {
    atEnd(scope, () => console.log('undo first'));
    atEnd(scope, () => console.log('undo second'));
    const child = spawn('sleep', ['600'], { stdio: 'ignore' });
    atEnd(scope, () => { if (${work.length === 0}) return; child.kill('SIGKILL'); });
    console.log('child ' + child.pid);
    ${work.length === 0 ? 'await new Promise(() => setInterval(() => {}, 1000));' : work}
  });`;

async function run(work: string, signal: NodeJS.Signals | null): Promise<{ code: number | null; undone: string[] }> {
  const { NODE_TEST_CONTEXT: _context, ...env } = process.env;
  const benchmark = spawn(process.execPath, ['--input-type=module', '-e', program(work)], {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...env, [MARK_VARIABLE]: runMark() },
  });
  let output = '';
  benchmark.stdout.on('data', (data: Buffer) => (output += data.toString()));
  benchmark.stderr.resume();
  const closed = once(benchmark, 'close', { signal: AbortSignal.timeout(waitMs) });
  const child = await eventually(() => /^child (\d+)$/m.exec(output)?.[1] ?? null, {
    timeoutMs: waitMs,
    describe: 'the benchmark has begun',
  });
  const identity = identifyProcess(Number(child));
  if (signal) benchmark.kill(signal);
  const [code] = (await closed) as [number | null];
  const undone = output.split('\n').filter((line) => line.startsWith('undo'));
  // One that was killed needs a moment to be gone.
  await eventually(() => identity === null || !isAlive(identity), {
    timeoutMs: waitMs,
    describe: 'the program that it has started is gone',
  });
  return { code, undone };
}

for (const [signal, code] of [
  ['SIGTERM', 143],
  ['SIGINT', 130],
] as const) {
  test(`by ${signal} in the middle, with the programs it has started`, async () => {
    const ended = await run('', signal);
    assert.deepEqual(ended, { code, undone: ['undo second', 'undo first'] });
  });
}

test('by itself', async () => {
  assert.deepEqual(await run(';', null), { code: 0, undone: ['undo second', 'undo first'] });
});

test('by an error', async () => {
  assert.deepEqual(await run('throw new Error("no");', null), {
    code: 1,
    undone: ['undo second', 'undo first'],
  });
});
