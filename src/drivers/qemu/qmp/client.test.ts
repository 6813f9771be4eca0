import assert from 'node:assert/strict';
import { test } from 'node:test';
import { GREETING, listenAsMonitor } from '../../../../test/support/fake-monitor.ts';
import { UnixPeer } from '../../../../test/support/unix-peer.ts';
import { QmpClient } from './client.ts';
import {
  QmpAbortedError,
  QmpClosedError,
  QmpConnectError,
  QmpError,
  QmpOverloadError,
  QmpTimeoutError,
} from './errors.ts';
import type { RawEvent } from './event-hub.ts';

const timestamp = { seconds: 1_700_000_000, microseconds: 0 };

/** A monitor with one client, its negotiation line taken off. */
async function connected(
  options: Parameters<typeof QmpClient.connect>[1] = {},
  capabilities: readonly string[] = ['oob'],
): Promise<{ peer: UnixPeer; client: QmpClient; [Symbol.asyncDispose](): Promise<void> }> {
  const peer = await listenAsMonitor(capabilities);
  const client = await QmpClient.connect(peer.path, options);
  await peer.nextLine();
  return {
    peer,
    client,
    async [Symbol.asyncDispose]() {
      client.close();
      await peer[Symbol.asyncDispose]();
    },
  };
}

test('the negotiation enables out-of-band execution where it is offered', async () => {
  for (const capabilities of [['oob'], []]) {
    await using peer = await listenAsMonitor(capabilities);
    const client = await QmpClient.connect(peer.path);
    const sent = await peer.nextJson();
    assert.equal(sent['execute'], 'qmp_capabilities');
    assert.deepEqual(sent['arguments'], capabilities.length > 0 ? { enable: ['oob'] } : {});
    assert.equal(client.canExecuteOutOfBand, capabilities.length > 0);
    assert.equal(client.greeting.version, '10.0.2');
    client.close();
  }
});

test('each answer reaches the command with its id, in whatever pieces it comes', async () => {
  await using pair = await connected();
  const { peer, client } = pair;
  const answer = client.execute('query-status');
  const { id, execute } = await peer.nextJson();
  assert.equal(execute, 'query-status');
  const text = JSON.stringify({ return: { running: true, status: 'running' }, id });
  for (const character of `${text}\r\n`) peer.send(character);
  assert.deepEqual(await answer, { running: true, status: 'running' });
});

test('an answer to an id that nobody waits for changes nothing', async () => {
  await using pair = await connected();
  const { peer, client } = pair;
  const answer = client.execute('query-name');
  const { id } = await peer.nextJson();
  peer.sendJson({ return: { name: 'wrong' }, id: 4711 });
  peer.sendJson({ return: { name: 'right' }, id });
  assert.deepEqual(await answer, { name: 'right' });
});

test('commands go one at a time and an out-of-band one overtakes them', async () => {
  await using pair = await connected();
  const { peer, client } = pair;
  const first = client.execute('query-name');
  const second = client.execute('query-uuid');
  const firstSent = await peer.nextJson();
  const urgent = client.executeOutOfBand('migrate-pause');
  const urgentSent = await peer.nextJson();
  assert.equal(urgentSent['exec-oob'], 'migrate-pause');
  assert.equal(peer.pendingLines, 0);
  peer.sendJson({ return: {}, id: urgentSent['id'] });
  await urgent;
  peer.sendJson({ return: { name: 'a' }, id: firstSent['id'] });
  await first;
  const secondSent = await peer.nextJson();
  assert.equal(secondSent['execute'], 'query-uuid');
  peer.sendJson({ return: { UUID: 'u' }, id: secondSent['id'] });
  assert.deepEqual(await second, { UUID: 'u' });
});

test('out-of-band execution is refused where it was not negotiated or the command does not allow it', async () => {
  await using without = await connected({}, []);
  await assert.rejects(without.client.executeOutOfBand('migrate-pause'), { name: 'QmpError' });
  await using pair = await connected();
  await assert.rejects(pair.client.executeOutOfBand('query-status'), /may not be sent out of band/);
  assert.equal(pair.peer.pendingLines, 0);
});

test('an error answer rejects with class, description and command', async () => {
  await using pair = await connected();
  const { peer, client } = pair;
  const answer = client.execute('device_del', { id: 'nic9' });
  const { id } = await peer.nextJson();
  peer.sendJson({ error: { class: 'DeviceNotFound', desc: "Device 'nic9' not found" }, id });
  await assert.rejects(answer, (error) => {
    assert.ok(error instanceof QmpError);
    assert.equal(error.errorClass, 'DeviceNotFound');
    assert.equal(error.command, 'device_del');
    assert.match(error.message, /device_del: Device 'nic9' not found/);
    return true;
  });
  assert.ok(client.isOpen);
});

test('a command past its deadline rejects, its late answer is dropped, and the next one is sent', async () => {
  await using pair = await connected();
  const { peer, client } = pair;
  const slow = client.execute('stop', {}, { timeoutMs: 20 });
  const sent = await peer.nextJson();
  await assert.rejects(slow, (error) => error instanceof QmpTimeoutError && error.wasSent);
  const next = client.execute('query-name');
  const nextSent = await peer.nextJson();
  peer.sendJson({ return: {}, id: sent['id'] });
  peer.sendJson({ return: { name: 'n' }, id: nextSent['id'] });
  assert.deepEqual(await next, { name: 'n' });
});

test('a QEMU that answers nothing is not sent more than it can queue', async () => {
  await using pair = await connected();
  const { peer, client } = pair;
  const results = await Promise.allSettled(
    Array.from({ length: 10 }, () => client.execute('query-status', {}, { timeoutMs: 20 })),
  );
  // One after another each is sent and given up; after six nothing more is sent, so the rest never was.
  for (let n = 0; n < 8; n++) await assert.rejects(client.execute('query-status', {}, { timeoutMs: 20 }));
  const sent = results.filter((r) => r.status === 'rejected' && (r.reason as QmpTimeoutError).wasSent).length;
  assert.ok(sent >= 1 && sent <= 6, `${sent} were sent`);
  const urgent = client.executeOutOfBand('migrate-pause');
  let lines = 0;
  let line = await peer.nextJson();
  for (; line['exec-oob'] === undefined; line = await peer.nextJson()) lines++;
  assert.equal(lines, 6);
  peer.sendJson({ return: {}, id: line['id'] });
  await urgent;
});

test('a signal ends the wait before and after the command was sent', async () => {
  await using pair = await connected();
  const { peer, client } = pair;
  await assert.rejects(client.execute('stop', {}, { signal: AbortSignal.abort() }), QmpAbortedError);
  assert.equal(peer.pendingLines, 0);
  const abort = new AbortController();
  const answer = client.execute('stop', {}, { signal: abort.signal });
  await peer.nextLine();
  abort.abort();
  await assert.rejects(answer, (error) => error instanceof QmpAbortedError && error.wasSent);
});

test('what is no QMP ends the connection and rejects everything under way', async () => {
  for (const garbage of [
    'hello\n',
    '{"return": {}\n',
    '[1,2]\n',
    '{"error":{"class":"GenericError","desc":"parse"}}\n',
  ]) {
    await using pair = await connected();
    const { peer, client } = pair;
    const first = client.execute('stop');
    const second = client.execute('cont');
    await peer.nextLine();
    peer.send(garbage);
    await assert.rejects(
      first,
      (error) => error instanceof QmpClosedError && error.reason === 'protocol' && error.wasSent,
      garbage,
    );
    await assert.rejects(second, (error) => error instanceof QmpClosedError && !error.wasSent);
    assert.equal((await client.closed).reason, 'protocol');
    await peer.until(() => !peer.isConnected, 'the end of the connection');
    await assert.rejects(client.execute('stop'), QmpClosedError);
  }
});

test('a line without end is cut off at the limit', async () => {
  await using pair = await connected({ maxLineBytes: 1000 });
  const { peer, client } = pair;
  const answer = client.execute('query-name');
  await peer.nextLine();
  peer.send(`{"return": "${'x'.repeat(1100)}`);
  await assert.rejects(answer, /longer than the 1000 bytes/);
});

test('a long answer within the limit arrives whole', async () => {
  await using pair = await connected();
  const { peer, client } = pair;
  const answer = client.executeRaw('query-qmp-schema');
  const { id } = await peer.nextJson();
  const value = 'ä'.repeat(2_000_000);
  peer.sendJson({ return: value, id });
  assert.equal(await answer, value);
});

test('arguments too large to be meant are refused before they are sent', async () => {
  await using pair = await connected();
  const { peer, client } = pair;
  const line = 'x'.repeat(2_000_000);
  await assert.rejects(client.execute('human-monitor-command', { 'command-line': line }), QmpOverloadError);
  assert.equal(peer.pendingLines, 0);
});

test('the end of the connection rejects what is under way and says whether it was sent', async () => {
  await using pair = await connected();
  const { peer, client } = pair;
  const answer = client.execute('quit');
  const waiting = client.waitForEvent('SHUTDOWN', () => true, 5000);
  await peer.nextLine();
  peer.hangUp();
  await assert.rejects(answer, (error) => error instanceof QmpClosedError && error.reason === 'lost' && error.wasSent);
  await assert.rejects(waiting, QmpClosedError);
  assert.equal((await client.closed).reason, 'lost');
});

test('events reach listeners by name, of the table, and raw, in order', async () => {
  await using pair = await connected();
  const { peer, client } = pair;
  const heard: string[] = [];
  client.on('STOP', () => heard.push('stop'));
  const remove = client.onEvent((event) => heard.push(`any ${event.name}`));
  client.onRawEvent((event) => heard.push(`raw ${event.name}`));
  const last = client.waitForEvent('DEVICE_DELETED', (event) => event.data.device === 'b', 5000);
  peer.sendJson({ event: 'STOP', timestamp });
  peer.sendJson({ event: 'NEVER_HEARD_OF', timestamp, data: {} });
  peer.sendJson({ event: 'DEVICE_DELETED', timestamp, data: { device: 'a', path: '/x' } });
  peer.sendJson({ event: 'DEVICE_DELETED', timestamp, data: { device: 'b', path: '/y' } });
  assert.equal((await last).data.path, '/y');
  assert.deepEqual(heard, [
    'stop',
    'any STOP',
    'raw STOP',
    'raw NEVER_HEARD_OF',
    'any DEVICE_DELETED',
    'raw DEVICE_DELETED',
    'any DEVICE_DELETED',
    'raw DEVICE_DELETED',
  ]);
  remove();
  heard.length = 0;
  const resumed = client.waitForEvent('RESUME', () => true, 5000);
  peer.sendJson({ event: 'RESUME', timestamp });
  await resumed;
  assert.deepEqual(heard, ['raw RESUME']);
});

test('an event in the same packet as the end of the negotiation is heard', async () => {
  await using peer = await UnixPeer.listen((socket) => {
    socket.write(`${JSON.stringify(GREETING)}\n`);
    socket.once('data', () => {
      socket.write(`${JSON.stringify({ return: {}, id: 1 })}\n${JSON.stringify({ event: 'RESUME', timestamp })}\n`);
    });
  });
  const heard: RawEvent[] = [];
  const client = await QmpClient.connect(peer.path, { onRawEvent: (event) => heard.push(event) });
  assert.deepEqual(
    heard.map((event) => event.name),
    ['RESUME'],
  );
  client.close();
});

test('a listener that throws hinders neither the others nor the connection', async () => {
  const errors: unknown[] = [];
  await using pair = await connected({ onListenerError: (error) => errors.push(error) });
  const { peer, client } = pair;
  client.onEvent(() => {
    throw new Error('mine');
  });
  const heard = client.waitForEvent('STOP', () => true, 5000);
  peer.sendJson({ event: 'STOP', timestamp });
  await heard;
  assert.equal(errors.length, 1);
  assert.ok(client.isOpen);
});

test('events can be iterated, from the call on, until the connection is closed', async () => {
  await using pair = await connected();
  const { peer, client } = pair;
  const events = client.events();
  const seen = client.waitForEvent('RESUME', () => true, 5000);
  peer.sendJson({ event: 'STOP', timestamp });
  peer.sendJson({ event: 'RESUME', timestamp });
  await seen;
  const names: string[] = [];
  for await (const event of events) {
    names.push(event.name);
    if (event.name === 'RESUME') client.close();
  }
  assert.deepEqual(names, ['STOP', 'RESUME']);
});

test('an iteration that is too slow, or whose connection was lost, ends in an error', async () => {
  await using pair = await connected();
  const { peer, client } = pair;
  const slow = client.events({ maxQueued: 2 });
  const lost = client.events();
  const aborted = client.events({ signal: AbortSignal.abort() });
  const seen = client.waitForEvent('RESUME', () => true, 5000);
  for (let n = 0; n < 3; n++) peer.sendJson({ event: 'STOP', timestamp });
  peer.sendJson({ event: 'RESUME', timestamp });
  await seen;
  await slow.next();
  await slow.next();
  await assert.rejects(slow.next(), QmpOverloadError);
  peer.hangUp();
  await client.closed;
  for (let n = 0; n < 4; n++) assert.equal((await lost.next()).done, false);
  await assert.rejects(lost.next(), QmpClosedError);
  assert.equal((await aborted.next()).done, true);
});

test('waiting for an event that does not come ends at the deadline', async () => {
  await using pair = await connected();
  await assert.rejects(
    pair.client.waitForEvent('STOP', () => true, 20),
    QmpTimeoutError,
  );
});

test('each way of not reaching a monitor has its reason', async () => {
  const reason = async (path: string, connectTimeoutMs = 1000): Promise<string> => {
    const error = await QmpClient.connect(path, { connectTimeoutMs }).then(
      () => assert.fail('it connected'),
      (failure: unknown) => failure,
    );
    assert.ok(error instanceof QmpConnectError, String(error));
    return error.reason;
  };
  assert.equal(await reason('/nonexistent/qmp.sock'), 'missing');
  assert.equal(await reason(`/tmp/${'x'.repeat(120)}`), 'path');

  await using silent = await UnixPeer.listen();
  assert.equal(await reason(silent.path, 30), 'greeting');
  await silent.until(() => !silent.isConnected, 'the client to hang up');

  await using rude = await UnixPeer.listen((socket) => socket.end());
  assert.equal(await reason(rude.path), 'closed');

  await using other = await UnixPeer.listen((socket) => socket.write('SSH-2.0-OpenSSH\n'));
  assert.equal(await reason(other.path), 'protocol');

  await using mute = await UnixPeer.listen((socket) => socket.write(`${JSON.stringify(GREETING)}\n`));
  assert.equal(await reason(mute.path, 50), 'timeout');
  await mute.until(() => !mute.isConnected, 'the client to hang up');

  const abort = AbortSignal.abort();
  await assert.rejects(QmpClient.connect(mute.path, { signal: abort }), { reason: 'aborted' });
});
