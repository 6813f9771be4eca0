// Real processes: identity, life and death, signals, memory, marks.
import assert from 'node:assert/strict';
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { test, type TestContext } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { run } from '../../src/host/command.ts';
import {
  findProcesses,
  identifyProcess,
  isAlive,
  ProcessWaitTimeoutError,
  readArguments,
  readProcessMemory,
  readProcessStat,
  readThreads,
  signalProcess,
  terminateProcess,
  waitForExit,
  type ProcessIdentity,
} from '../../src/host/process.ts';

interface Started {
  child: ChildProcess;
  identity: ProcessIdentity;
}

/** Starts a program and waits until its first line: then it is in the state it is to be tested in. */
async function start(t: TestContext, argv: [string, ...string[]], env: Record<string, string> = {}): Promise<Started> {
  const child = spawn(argv[0], argv.slice(1), { stdio: ['ignore', 'pipe', 'ignore'], env: { ...process.env, ...env } });
  t.after(() => child.kill('SIGKILL'));
  await once(child.stdout, 'data');
  const identity = identifyProcess(child.pid ?? 0);
  assert.ok(identity);
  return { child, identity };
}

const SLEEPER: [string, ...string[]] = ['sh', '-c', 'echo up; exec sleep 1000'];

async function until(what: string, isDone: () => boolean | Promise<boolean>): Promise<void> {
  const deadline = performance.now() + 10_000;
  while (!(await isDone())) {
    assert.ok(performance.now() < deadline, `${what} did not happen within 10 s`);
    await delay(5);
  }
}

test('a process is alive until it is ended, and then its identity is dead for good', async (t) => {
  const { child, identity } = await start(t, SLEEPER);
  const exit = once(child, 'exit');
  assert.equal(isAlive(identity), true);
  assert.equal(isAlive({ ...identity, startTicks: identity.startTicks + 1 }), false);
  assert.equal(await terminateProcess(identity, { termTimeoutMs: 5000 }), 'terminated');
  assert.deepEqual(await exit, [null, 'SIGTERM']);
  assert.equal(isAlive(identity), false);
  assert.equal(signalProcess(identity, 'SIGTERM'), false);
  assert.equal(await terminateProcess(identity, { termTimeoutMs: 5000 }), 'already-ended');
});

test('a process that ignores SIGTERM is killed after its time', async (t) => {
  const { child, identity } = await start(t, ['sh', '-c', 'trap "" TERM; echo up; while :; do sleep 0.05; done']);
  const exit = once(child, 'exit');
  assert.equal(await terminateProcess(identity, { termTimeoutMs: 50 }), 'killed');
  assert.deepEqual(await exit, [null, 'SIGKILL']);
});

test('a stopped process is still alive, and is killed all the same', async (t) => {
  const { identity } = await start(t, SLEEPER);
  assert.equal(signalProcess(identity, 'SIGSTOP'), true);
  await until('the stop', () => readProcessStat(identity.pid)?.state === 'T');
  assert.equal(isAlive(identity), true);
  assert.equal(await terminateProcess(identity, { termTimeoutMs: 0 }), 'killed');
});

test('a zombie has ended', async (t) => {
  // The shell becomes a program that never waits for its child.
  const { child } = await start(t, ['sh', '-c', 'sleep 1000 & echo $!; exec sleep 1000']);
  const children = `/proc/${child.pid}/task/${child.pid}/children`;
  let pid = 0;
  await until('the child', async () => {
    pid = Number((await readFile(children, 'utf8')).trim());
    return pid > 0 && (await readFile(`/proc/${child.pid}/comm`, 'utf8')) === 'sleep\n';
  });
  const identity = identifyProcess(pid);
  assert.ok(identity);
  process.kill(pid, 'SIGKILL');
  await until('the end', () => readProcessStat(pid)?.state === 'Z');
  assert.equal(isAlive(identity), false);
  assert.equal(identifyProcess(pid), null);
  await waitForExit(identity, { timeoutMs: 30_000 });
  assert.equal(await readProcessMemory(pid), null);
});

test('waiting ends with the process, at the deadline, or by the signal', async (t) => {
  const { identity } = await start(t, SLEEPER);
  await assert.rejects(waitForExit(identity, { timeoutMs: 20 }), ProcessWaitTimeoutError);
  const abort = new AbortController();
  const waiting = waitForExit(identity, { timeoutMs: 10_000, signal: abort.signal });
  abort.abort(new Error('enough'));
  await assert.rejects(waiting, /enough/);
  const ended = waitForExit(identity, { timeoutMs: 10_000 });
  signalProcess(identity, 'SIGKILL');
  await ended;
  assert.equal(isAlive(identity), false);
});

test('memory and threads of this process are read', async () => {
  const memory = await readProcessMemory(process.pid);
  assert.ok(memory && memory.rssBytes > 10 * 1024 * 1024);
  assert.ok(memory.pssBytes === null || (memory.pssBytes > 0 && memory.pssBytes <= memory.rssBytes));
  const threads = readThreads(process.pid);
  const main = threads.find((thread) => thread.tid === process.pid);
  assert.ok(main && main.runNanoseconds > 0);
  assert.ok(threads.length > 1);
  const stat = readProcessStat(process.pid);
  assert.ok(stat && stat.threads >= threads.length - 1 && stat.userMicroseconds > 0);
});

test('processes are found by a variable of their environment and by their arguments', async (t) => {
  const name = `LODGE_TEST_MARK_${process.pid}`;
  const marked = await start(t, SLEEPER, { [name]: 'web 1' });
  await start(t, SLEEPER);
  await until('exec', async () => (await readArguments(marked.identity.pid))?.[0] === 'sleep');
  assert.deepEqual(await findProcesses({ environmentVariable: name }), [
    { identity: marked.identity, argv: ['sleep', '1000'], mark: 'web 1' },
  ]);
  const both = { environmentVariable: name, matchesArguments: (argv: readonly string[]) => argv[0] === 'nothing' };
  assert.deepEqual(await findProcesses(both), []);
});

test('a process that never was is not there', async () => {
  const unused = 2 ** 22 + 1;
  assert.equal(readProcessStat(unused), null);
  assert.equal(identifyProcess(unused), null);
  assert.equal(await readProcessMemory(unused), null);
  assert.equal(await readArguments(unused), null);
  assert.deepEqual(readThreads(unused), []);
});

test('a program that crashes is told with the signal that ended it', async () => {
  await assert.rejects(run(['sh', '-c', 'kill -SEGV $$']), {
    reason: 'exit',
    signal: 'SIGSEGV',
    message: /^sh was ended by SIGSEGV/,
  });
  await assert.rejects(run(['sh', '-c', 'exit 3']), { exitCode: 3, signal: null, message: 'sh ended with code 3' });
});
