import assert from 'node:assert/strict';
import { test } from 'node:test';
import { FakeAgent, SILENCE } from '../../../../test/support/fake-agent.ts';
import { UnixPeer } from '../../../../test/support/unix-peer.ts';
import { AgentChannel } from './channel.ts';
import { AgentError, type AgentFailure } from './errors.ts';

const failsWith =
  (reason: AgentFailure) =>
  (error: unknown): boolean =>
    error instanceof AgentError && error.reason === reason;

const ping = { 'guest-ping': () => ({}) };

test('the first command is preceded by one synchronization, later ones are not', async () => {
  await using agent = await FakeAgent.listen(ping);
  const channel = new AgentChannel(agent.path);
  assert.deepEqual(await channel.execute('guest-ping', undefined), {});
  assert.deepEqual(await channel.execute('guest-ping', undefined), {});
  assert.equal(agent.synchronizations, 1);
  assert.equal(agent.peer.received[0], 0xff);
  channel.close();
});

test('whatever stands before the answer of a synchronization is thrown away', async () => {
  const leftovers: (string | Uint8Array)[] = [
    'kernel: random text\n',
    '{"return": 12345}\n',
    '{"error": {"class": "GenericError", "desc": "JSON parse error, stray"}}\n',
    'half a line {"return": ',
    Buffer.from([0xff, 0xff, 0x0a, 0xff]),
    Buffer.alloc(100_000, 0x80),
  ];
  for (const garbage of leftovers) {
    await using agent = await FakeAgent.listen(ping);
    agent.garbage = garbage;
    const channel = new AgentChannel(agent.path);
    assert.deepEqual(await channel.execute('guest-ping', undefined), {}, String(garbage).slice(0, 40));
    channel.close();
  }
});

test('an answer is understood in whatever pieces it comes, also with text between', async () => {
  await using agent = await FakeAgent.listen({
    'guest-get-host-name': () => {
      for (const character of 'not json\n{"half": \n[1]\n{"return": {"host-name": "web1"}}\n')
        agent.peer.send(character);
      return SILENCE;
    },
  });
  const channel = new AgentChannel(agent.path);
  assert.deepEqual(await channel.execute('guest-get-host-name', undefined), { 'host-name': 'web1' });
  channel.close();
});

test('no channel, no agent, and an agent that answers nothing are told apart', async () => {
  const nowhere = new AgentChannel('/nonexistent/agent.sock');
  await assert.rejects(nowhere.execute('guest-ping', undefined), failsWith('unreachable'));

  await using agent = await FakeAgent.listen({ 'guest-ping': () => SILENCE });
  agent.isSilent = true;
  const channel = new AgentChannel(agent.path, { syncTimeoutMs: 20 });
  await assert.rejects(channel.execute('guest-ping', undefined), (error) => {
    assert.ok(failsWith('silent')(error));
    assert.match(String(error), /no agent answers in the guest within 20 ms/);
    return true;
  });
  agent.isSilent = false;
  await assert.rejects(channel.execute('guest-ping', undefined, { timeoutMs: 100 }), failsWith('timeout'));
  channel.close();
});

test('an agent that is still busy with a command given up is named as the reason of the silence', async () => {
  await using agent = await FakeAgent.listen({ 'guest-fsfreeze-freeze': () => SILENCE, ...ping });
  const channel = new AgentChannel(agent.path, { syncTimeoutMs: 20 });
  await assert.rejects(channel.execute('guest-fsfreeze-freeze', undefined, { timeoutMs: 50 }), failsWith('timeout'));
  agent.isSilent = true;
  await assert.rejects(channel.execute('guest-ping', undefined), /may still be busy with guest-fsfreeze-freeze/);
  channel.close();
});

test('the late answer of a command given up is not taken for that of the next one', async () => {
  let answerLate = (): void => {};
  await using agent = await FakeAgent.listen({
    'guest-get-host-name': () => {
      answerLate = () => agent.peer.send('{"return": {"host-name": "late"}}\n');
      return SILENCE;
    },
    'guest-get-osinfo': () => ({ id: 'debian' }),
  });
  // The agent gets around to the old answer only when it meets the new connection.
  agent.peer.onConnect = () => answerLate();
  const channel = new AgentChannel(agent.path);
  await assert.rejects(channel.execute('guest-get-host-name', undefined, { timeoutMs: 30 }), failsWith('timeout'));
  assert.deepEqual(await channel.execute('guest-get-osinfo', undefined), { id: 'debian' });
  assert.equal(agent.synchronizations, 2);
  channel.close();
});

test('an agent restarted in mid-command fails the command at once when QEMU tells of it, and the next one works', async () => {
  await using agent = await FakeAgent.listen({ 'guest-exec': () => SILENCE, ...ping });
  const channel = new AgentChannel(agent.path);
  const before = channel.generation;
  const answer = assert.rejects(
    channel.execute('guest-exec', { path: 'x' }, { timeoutMs: 60_000 }),
    failsWith('stopped'),
  );
  await agent.peer.until(() => agent.heard.includes('guest-exec'), 'the command');
  channel.notePort(false);
  await answer;
  await assert.rejects(channel.execute('guest-ping', undefined), failsWith('silent'));
  channel.notePort(true);
  assert.deepEqual(await channel.execute('guest-ping', undefined), {});
  assert.notEqual(channel.generation, before);
  assert.equal(agent.synchronizations, 2);
  channel.close();
});

test('the end of the connection fails what is under way, and the next command connects again', async () => {
  await using agent = await FakeAgent.listen({ 'guest-exec': () => SILENCE, ...ping });
  const channel = new AgentChannel(agent.path);
  const answer = assert.rejects(channel.execute('guest-exec', {}), failsWith('stopped'));
  await agent.peer.until(() => agent.heard.length > 0, 'the command');
  agent.peer.hangUp();
  await answer;
  assert.deepEqual(await channel.execute('guest-ping', undefined), {});
  agent.peer.hangUp();
  await agent.peer.until(() => !agent.peer.isConnected, 'the end');
  assert.deepEqual(await channel.execute('guest-ping', undefined), {});
  assert.equal(agent.peer.connections, 3);
  channel.close();
});

test('commands go one at a time in the order of the calls', async () => {
  let running = 0;
  let most = 0;
  await using agent = await FakeAgent.listen({
    'guest-exec': async (args) => {
      most = Math.max(most, ++running);
      await new Promise<void>((resolve) => {
        setImmediate(resolve);
      });
      running--;
      return args['n'];
    },
  });
  const channel = new AgentChannel(agent.path);
  const answers = await Promise.all([1, 2, 3, 4, 5].map((n) => channel.execute('guest-exec', { n })));
  assert.deepEqual(answers, [1, 2, 3, 4, 5]);
  assert.equal(most, 1);
  channel.close();
});

test('a command that waits is given up at its deadline or by its signal and is never sent', async () => {
  await using agent = await FakeAgent.listen({ 'guest-exec': () => SILENCE, ...ping });
  const channel = new AgentChannel(agent.path);
  const abort = new AbortController();
  const first = assert.rejects(channel.execute('guest-exec', {}, { signal: abort.signal }), failsWith('cancelled'));
  const late = channel.execute('guest-ping', undefined, { timeoutMs: 20 });
  await assert.rejects(late, failsWith('timeout'));
  const cancel = new AbortController();
  const cancelled = assert.rejects(
    channel.execute('guest-ping', undefined, { signal: cancel.signal }),
    failsWith('cancelled'),
  );
  cancel.abort();
  await cancelled;
  abort.abort();
  await first;
  assert.ok(!agent.heard.includes('guest-ping'));
  assert.deepEqual(await channel.execute('guest-ping', undefined), {});
  channel.close();
});

test('no more than a bounded number of commands wait', async () => {
  await using agent = await FakeAgent.listen({ 'guest-exec': () => SILENCE });
  const channel = new AgentChannel(agent.path);
  const results = Promise.allSettled(Array.from({ length: 70 }, () => channel.execute('guest-exec', {})));
  await agent.peer.until(() => agent.heard.length > 0, 'the first command');
  channel.close();
  const reasons = (await results).map((result) =>
    result.status === 'rejected' ? (result.reason as AgentError).reason : '',
  );
  assert.equal(reasons.filter((reason) => reason === 'busy').length, 5);
  assert.equal(reasons.filter((reason) => reason === 'closed').length, 65);
});

test('an answer beyond the limit, and a flood that nobody asked for, cut the guest off', async () => {
  await using agent = await FakeAgent.listen({ 'guest-exec': () => 'x'.repeat(10_000), ...ping });
  const channel = new AgentChannel(agent.path);
  await assert.rejects(channel.execute('guest-exec', {}, { maxAnswerBytes: 5000 }), failsWith('protocol'));
  assert.equal(await channel.execute('guest-exec', {}), 'x'.repeat(10_000));
  const flood = Buffer.alloc(64 * 1024, 'no newline ');
  for (let n = 0; n < 20; n++) agent.peer.send(flood);
  await agent.peer.until(() => !agent.peer.isConnected, 'the end of the connection');
  assert.deepEqual(await channel.execute('guest-ping', undefined), {});
  channel.close();
});

test('an error of the agent tells whether the command is missing, disabled, or was refused', async () => {
  await using peer = await UnixPeer.listen();
  const errors = [
    { class: 'CommandNotFound', desc: 'The command guest-exec has not been found' },
    { class: 'CommandNotFound', desc: 'Command guest-exec has been disabled: the command is not allowed' },
    { class: 'GenericError', desc: 'x'.repeat(5000) },
    null,
  ];
  peer.onLine = (line) => {
    const { execute, arguments: args } = JSON.parse(line.replace('\u{ff}', '')) as {
      execute: string;
      arguments?: { id: number };
    };
    if (execute === 'guest-sync-delimited') peer.sendJson({ return: args?.id });
    else peer.sendJson({ error: errors.shift() });
  };
  const channel = new AgentChannel(peer.path);
  await assert.rejects(channel.execute('guest-exec', {}), failsWith('missing'));
  await assert.rejects(channel.execute('guest-exec', {}), failsWith('disabled'));
  await assert.rejects(
    channel.execute('guest-exec', {}),
    (error: Error) => failsWith('refused')(error) && error.message.length < 1200,
  );
  await assert.rejects(channel.execute('guest-exec', {}), failsWith('refused'));
  // An error is an answer: the conversation is still in step.
  assert.equal(peer.connections, 1);
  channel.close();
});

test('a command without an answer succeeds by silence or the end of the agent, and fails by an error', async () => {
  await using agent = await FakeAgent.listen({ 'guest-shutdown': () => SILENCE });
  const channel = new AgentChannel(agent.path);
  assert.equal(await channel.execute('guest-shutdown', {}, { silenceMs: 20 }), null);
  const ended = channel.execute('guest-shutdown', {}, { silenceMs: 60_000, timeoutMs: 60_000 });
  await agent.peer.until(() => agent.heard.length === 2, 'the command');
  agent.peer.hangUp();
  assert.equal(await ended, null);
  agent.commands['guest-shutdown'] = () => {
    throw new Error('Unable to shut down');
  };
  await assert.rejects(channel.execute('guest-shutdown', {}, { silenceMs: 5000 }), failsWith('refused'));
  channel.close();
});
