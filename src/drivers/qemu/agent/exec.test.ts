// The way without a shell, where the agent hands over the output itself. The way with one needs real programs:
// test/qemu/guest-agent.test.ts.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { AgentRefusal, FakeAgent } from '../../../../test/support/fake-agent.ts';
import { AgentClient } from './client.ts';
import { AgentError } from './errors.ts';
import { execInGuest, type ExecEvent } from './exec.ts';

const base64 = (text: string): string => Buffer.from(text).toString('base64');

async function collect(events: AsyncIterable<ExecEvent>): Promise<string[]> {
  const seen: string[] = [];
  for await (const event of events) {
    if (event.type === 'started') seen.push(`started ${event.pid}`);
    else if (event.type === 'exit') seen.push(`exit ${event.code} ${event.signal} ${event.isTruncated}`);
    else seen.push(`${event.type} ${event.data.toString()}`);
  }
  return seen;
}

test('without files in the agent the output comes with the end', async () => {
  const asked: unknown[] = [];
  const answers: object[] = [
    { exited: false },
    { exited: true, exitcode: 3, 'out-data': base64('out'), 'err-data': base64('err'), 'out-truncated': true },
  ];
  await using agent = await FakeAgent.listen({
    'guest-exec': (args) => {
      asked.push(args);
      return { pid: 42 };
    },
    'guest-exec-status': () => answers.shift(),
  });
  const client = new AgentClient(agent.path);
  const events = execInGuest(client, {
    command: ['prog', 'a b', '$x'],
    environment: ['A=1'],
    input: Buffer.from('in'),
    timeoutMs: 5000,
  });
  assert.deepEqual(await collect(events), ['started 42', 'stdout out', 'stderr err', 'exit 3 null true']);
  assert.deepEqual(asked, [
    { path: 'prog', arg: ['a b', '$x'], env: ['A=1'], 'input-data': base64('in'), 'capture-output': true },
  ]);
  client.close();
});

test('an agent that hands over output as it comes is followed', async () => {
  const answers: object[] = [
    { exited: false, 'out-data': base64('1') },
    { exited: false, 'out-data': base64('2') },
    { exited: true, signal: 15 },
  ];
  await using agent = await FakeAgent.listen({
    'guest-exec': () => ({ pid: 1 }),
    'guest-exec-status': () => answers.shift(),
  });
  const client = new AgentClient(agent.path);
  const events = execInGuest(client, { command: ['prog'], timeoutMs: 5000 });
  assert.deepEqual(await collect(events), ['started 1', 'stdout 1', 'stdout 2', 'exit null 15 false']);
  client.close();
});

/** An agent whose program runs until it is killed; tells what was killed. */
async function agentWithEndlessProgram(): Promise<{ agent: FakeAgent; killed: string[] }> {
  const killed: string[] = [];
  let isRunning = true;
  const agent = await FakeAgent.listen({
    'guest-exec': ({ path, arg }) => {
      if (path === '/bin/sh') {
        const [, , , signal, pid] = arg as string[];
        killed.push(`${signal} ${pid}`);
        // It ignores TERM, as a program may.
        if (signal === 'KILL') isRunning = false;
        return { pid: 2 };
      }
      return { pid: 1 };
    },
    'guest-exec-status': ({ pid }) => (pid === 1 && isRunning ? { exited: false } : { exited: true, exitcode: 0 }),
  });
  return { agent, killed };
}

test('a program past its time is ended, first kindly, then by force', async () => {
  const { agent, killed } = await agentWithEndlessProgram();
  await using peer = agent;
  const client = new AgentClient(peer.path);
  await assert.rejects(
    collect(execInGuest(client, { command: ['endless'], endGraceMs: 20, timeoutMs: 30 })),
    (error) => error instanceof AgentError && error.reason === 'timeout' && /30 ms and was ended/.test(error.message),
  );
  assert.deepEqual(killed, ['TERM 1', 'KILL 1']);
  client.close();
});

test('a caller that looks away, or cancels, ends the program', async () => {
  const { agent, killed } = await agentWithEndlessProgram();
  await using peer = agent;
  const client = new AgentClient(peer.path);
  const abort = new AbortController();
  const events = execInGuest(client, { command: ['endless'], endGraceMs: 20, timeoutMs: 60_000, signal: abort.signal });
  const end = assert.rejects(collect(events), (error) => error instanceof AgentError && error.reason === 'cancelled');
  await peer.peer.until(() => peer.heard.includes('guest-exec-status'), 'the first question');
  abort.abort();
  await end;
  assert.deepEqual(killed, ['TERM 1', 'KILL 1']);

  for await (const event of execInGuest(client, { command: ['endless'], endGraceMs: 20, timeoutMs: 60_000 })) {
    assert.equal(event.type, 'started');
    break;
  }
  assert.ok(killed.length > 2);
  client.close();
});

test('too much output ends the program', async () => {
  await using agent = await FakeAgent.listen({
    'guest-exec': () => ({ pid: 1 }),
    'guest-exec-status': () => ({ exited: true, exitcode: 0, 'out-data': base64('x'.repeat(2000)) }),
  });
  const client = new AgentClient(agent.path);
  await assert.rejects(
    collect(execInGuest(client, { command: ['yes'], timeoutMs: 5000, maxOutputBytes: 1000 })),
    /more than 1000 bytes/,
  );
  client.close();
});

test('a guest whose shell can not make the folder runs the program without it', async () => {
  const paths: unknown[] = [];
  const failing = { exited: true, exitcode: 125, 'err-data': base64('mkdir: Read-only file system') };
  await using agent = await FakeAgent.listen({
    'guest-exec': ({ path }) => {
      paths.push(path);
      return { pid: paths.length };
    },
    'guest-exec-status': ({ pid }) =>
      paths[(pid as number) - 1] === 'prog' ? { exited: true, exitcode: 0, 'out-data': base64('hi') } : failing,
    'guest-file-open': () => {
      throw new AgentRefusal('failed to open file: No such file or directory');
    },
    'guest-file-read': () => ({}),
    'guest-file-close': () => ({}),
  });
  const client = new AgentClient(agent.path);
  const events = await collect(execInGuest(client, { command: ['prog'], timeoutMs: 5000 }));
  assert.deepEqual(events.slice(1), ['stdout hi', 'exit 0 null false']);
  assert.equal(paths[0], '/bin/sh');
  assert.ok(paths.includes('prog'));
  client.close();
});

test('a program that ran but whose output may not be read is an error, not a run without output', async () => {
  await using agent = await FakeAgent.listen({
    'guest-exec': () => ({ pid: 1 }),
    'guest-exec-status': () => ({ exited: true, exitcode: 0 }),
    'guest-file-open': () => {
      throw new AgentRefusal('failed to open file: Permission denied');
    },
    'guest-file-read': () => ({}),
    'guest-file-close': () => ({}),
  });
  const client = new AgentClient(agent.path);
  await assert.rejects(
    collect(execInGuest(client, { command: ['prog'], timeoutMs: 5000 })),
    /ran and ended with code 0, but the guest agent may not read its output/,
  );
  client.close();
});

test('Windows is not asked for a shell', async () => {
  const paths: unknown[] = [];
  await using agent = await FakeAgent.listen({
    'guest-get-osinfo': () => ({ id: 'mswindows' }),
    'guest-exec': ({ path }) => {
      paths.push(path);
      return { pid: 1 };
    },
    'guest-exec-status': () => ({ exited: true, exitcode: 0 }),
    'guest-file-open': () => 1,
    'guest-file-read': () => ({ count: 0, eof: true }),
    'guest-file-close': () => ({}),
  });
  const client = new AgentClient(agent.path);
  await collect(execInGuest(client, { command: ['ver.exe'], timeoutMs: 5000 }));
  assert.deepEqual(paths, ['ver.exe']);
  client.close();
});

test('input too large for one message is refused', async () => {
  const client = new AgentClient('/nonexistent');
  await assert.rejects(
    collect(execInGuest(client, { command: ['cat'], input: Buffer.alloc(9 * 1024 * 1024), timeoutMs: 5000 })),
    /at most 8388608 are possible/,
  );
});
