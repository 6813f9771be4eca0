import assert from 'node:assert/strict';
import { test } from 'node:test';
import { listenAsMonitor } from '../../../../test/support/fake-monitor.ts';
import { QmpConnection, type QmpConnectionChange } from './connection.ts';
import { QmpClosedError, QmpTimeoutError } from './errors.ts';

const quick = { minDelayMs: 1, maxDelayMs: 5 };

test('the connection comes back after it was lost, and listeners stay', async () => {
  await using peer = await listenAsMonitor();
  const changes: string[] = [];
  const connection = QmpConnection.open(peer.path, { ...quick, onChange: ({ state }) => changes.push(state) });
  const heard: string[] = [];
  connection.onEvent((event) => heard.push(event.name));
  const first = await connection.whenUp(5000);
  peer.hangUp();
  await first.closed;
  await peer.until(() => peer.connections === 2, 'the second connection');
  const second = await connection.whenUp(5000);
  assert.notEqual(second, first);
  const event = connection.waitForEvent('STOP', () => true, 5000);
  peer.sendJson({ event: 'STOP', timestamp: { seconds: 1, microseconds: 0 } });
  await event;
  assert.deepEqual(heard, ['STOP']);
  assert.deepEqual(changes, ['back', 'lost', 'back']);
  connection.close();
  await peer.until(() => !peer.isConnected, 'the client to hang up');
});

test('while nobody listens commands reject at once and attempts are counted', async () => {
  await using peer = await listenAsMonitor();
  await peer.stop();
  const attempts: number[] = [];
  const third = Promise.withResolvers<void>();
  const onChange = (change: QmpConnectionChange): void => {
    if (change.state !== 'unreachable') return;
    attempts.push(change.attempts);
    if (change.attempts === 3) third.resolve();
  };
  const connection = QmpConnection.open(peer.path, { ...quick, onChange });
  await assert.rejects(connection.execute('query-status'), (error) => {
    assert.ok(error instanceof QmpClosedError);
    assert.equal(error.reason, 'lost');
    assert.equal(error.wasSent, false);
    return true;
  });
  await assert.rejects(
    connection.waitForEvent('STOP', () => true, 5000),
    QmpClosedError,
  );
  await third.promise;
  await assert.rejects(connection.whenUp(5), QmpTimeoutError);
  assert.deepEqual(attempts.slice(0, 3), [1, 2, 3]);
  await peer.start();
  await connection.whenUp(5000);
  connection.close();
});

test('after close nothing is dialled and every wait ends', async () => {
  await using peer = await listenAsMonitor();
  await peer.stop();
  const connection = QmpConnection.open(peer.path, quick);
  const waiting = connection.whenUp(5000);
  connection.close();
  await assert.rejects(waiting, (error) => error instanceof QmpClosedError && error.reason === 'closed');
  await assert.rejects(connection.execute('stop'), (error) => error instanceof QmpClosedError);
  await assert.rejects(connection.whenUp(5000), QmpClosedError);
  await peer.start();
  assert.equal(peer.connections, 0);
});

test('closing ends a command under way, and a listener that throws is survived', async () => {
  await using peer = await listenAsMonitor();
  const warned = new Promise<Error>((resolve) => {
    process.once('warning', resolve);
  });
  const connection = QmpConnection.open(peer.path, {
    ...quick,
    onChange: () => {
      throw new Error('mine');
    },
  });
  await connection.whenUp(5000);
  assert.match((await warned).message, /mine/);
  const answer = connection.execute('stop');
  connection.close();
  await assert.rejects(answer, (error) => error instanceof QmpClosedError && error.reason === 'closed');
});
