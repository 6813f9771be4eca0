// The QMP client against real QEMU processes.
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { QmpClient } from '../../src/drivers/qemu/qmp/client.ts';
import { QmpConnection, type QmpConnectionChange } from '../../src/drivers/qemu/qmp/connection.ts';
import { QmpClosedError, QmpConnectError, QmpError } from '../../src/drivers/qemu/qmp/errors.ts';
import { startBareQemu } from '../support/bare-qemu.ts';
import { eventually } from '../support/wait.ts';

test('negotiation, answers, errors and events of a real machine', async (context) => {
  const qemu = await startBareQemu(context, [
    '-M',
    'q35',
    '-m',
    '32',
    '-S',
    '-device',
    'virtio-balloon',
    '-vga',
    'std',
  ]);
  const client = await QmpClient.connect(qemu.qmpPath);
  context.after(() => client.close());
  assert.ok(client.canExecuteOutOfBand);
  assert.match(client.greeting.version, /^\d+\.\d+\.\d+$/);

  assert.deepEqual(await client.execute('query-status'), { running: false, status: 'prelaunch' });
  const names: string[] = [];
  client.onEvent((event) => names.push(event.name));
  const resumed = client.waitForEvent('RESUME', () => true, 5000);
  await client.execute('cont');
  const event = await resumed;
  assert.ok(Math.abs(event.timeMs - Date.now()) < 60_000);
  assert.equal((await client.execute('query-status')).status, 'running');

  const reset = client.waitForEvent('RESET', (e) => e.data.reason === 'host-qmp-system-reset', 5000);
  await client.execute('system_reset');
  assert.equal((await reset).data.guest, false);

  const stopped = client.waitForEvent('STOP', () => true, 5000);
  await client.execute('stop');
  await stopped;
  assert.deepEqual(
    names.filter((name) => ['RESUME', 'RESET', 'STOP'].includes(name)),
    ['RESUME', 'RESET', 'STOP'],
  );

  const threads = (await client.execute('query-cpus-fast')).map((cpu) => cpu['thread-id']);
  assert.equal(threads.length, 1);
  assert.ok(threads.every((id) => id > 0));
  assert.equal((await client.execute('query-balloon')).actual, 32 * 1024 * 1024);

  await assert.rejects(client.execute('device_del', { id: 'nothing' }), (error) => {
    assert.ok(error instanceof QmpError);
    assert.equal(error.errorClass, 'DeviceNotFound');
    return true;
  });
  await assert.rejects(client.executeRaw('no-such-command'), { errorClass: 'CommandNotFound' });
  await assert.rejects(client.executeRaw('stop', { unknown: 1 }), { errorClass: 'GenericError' });

  const picture = join(qemu.folder, 'screen.png');
  await client.execute('screendump', { filename: picture, format: 'png' });
  assert.deepEqual([...(await readFile(picture)).subarray(1, 4)], [...Buffer.from('PNG')]);
});

test('an out-of-band command is answered while the main loop is busy', async (context) => {
  const qemu = await startBareQemu(context, ['-M', 'q35', '-m', '32', '-S']);
  const client = await QmpClient.connect(qemu.qmpPath);
  context.after(() => client.close());
  const order: string[] = [];
  // Many in-band commands wait; the out-of-band one is refused by migration, which is an answer, and comes first.
  const inBand = Promise.all(
    Array.from({ length: 20 }, async () => {
      await client.execute('query-qmp-schema');
      order.push('in');
    }),
  );
  await assert.rejects(client.executeOutOfBand('migrate-pause'), (error) => {
    order.push('out');
    return error instanceof QmpError && error.errorClass === 'GenericError';
  });
  await inBand;
  assert.ok(order.indexOf('out') < 5, `it was number ${order.indexOf('out')}`);
});

test('commands and waits under way are rejected when QEMU is killed', async (context) => {
  const qemu = await startBareQemu(context, ['-M', 'q35', '-m', '32', '-S']);
  const client = await QmpClient.connect(qemu.qmpPath);
  // A stopped process answers nothing, so the command is surely in flight when the process dies.
  qemu.child.kill('SIGSTOP');
  const rejections = Promise.all([
    assert.rejects(
      client.execute('query-status'),
      (error) => error instanceof QmpClosedError && error.reason === 'lost' && error.wasSent,
    ),
    assert.rejects(
      client.waitForEvent('STOP', () => true, 10_000),
      QmpClosedError,
    ),
    assert.rejects(client.events().next(), QmpClosedError),
  ]);
  await qemu.kill();
  await rejections;
  assert.equal((await client.closed).reason, 'lost');
  await assert.rejects(
    QmpClient.connect(qemu.qmpPath),
    (error) => error instanceof QmpConnectError && error.reason === 'refused',
  );
});

test('a stopped QEMU costs a command its deadline, and answers again when it goes on', async (context) => {
  const qemu = await startBareQemu(context);
  const client = await QmpClient.connect(qemu.qmpPath);
  context.after(() => client.close());
  qemu.child.kill('SIGSTOP');
  await assert.rejects(client.execute('query-name', {}, { timeoutMs: 50 }), { name: 'QmpTimeoutError', wasSent: true });
  qemu.child.kill('SIGCONT');
  assert.deepEqual(await client.execute('query-uuid'), { UUID: '00000000-0000-0000-0000-000000000000' });
});

test('quit ends QEMU, and its last event is heard', async (context) => {
  const qemu = await startBareQemu(context);
  const client = await QmpClient.connect(qemu.qmpPath);
  const shutdown = client.waitForEvent('SHUTDOWN', () => true, 5000);
  await client.execute('quit');
  assert.equal((await shutdown).data.reason, 'host-qmp-quit');
  assert.equal((await client.closed).reason, 'lost');
  await eventually(() => qemu.child.exitCode === 0, { describe: 'QEMU ends' });
});

test('a second client is told that the monitor is held, and gets it when the first lets go', async (context) => {
  const qemu = await startBareQemu(context);
  const first = await QmpClient.connect(qemu.qmpPath);
  await assert.rejects(
    QmpClient.connect(qemu.qmpPath, { connectTimeoutMs: 100 }),
    (error) => error instanceof QmpConnectError && error.reason === 'greeting',
  );
  first.close();
  const second = await QmpClient.connect(qemu.qmpPath);
  assert.equal((await second.execute('query-status')).running, true);
  second.close();
});

test('a dropped connection comes back to the same QEMU and reports it when QEMU is gone', async (context) => {
  const qemu = await startBareQemu(context);
  const changes: QmpConnectionChange[] = [];
  const connection = QmpConnection.open(qemu.qmpPath, { minDelayMs: 5, onChange: (change) => changes.push(change) });
  context.after(() => connection.close());
  for (let round = 0; round < 3; round++) {
    const client = await connection.whenUp(5000);
    assert.equal((await connection.execute('query-status')).running, true);
    client.close();
    await client.closed;
    await eventually(() => connection.client !== null && connection.client !== client);
  }
  await qemu.kill();
  await eventually(() => changes.some((change) => change.state === 'unreachable'));
  assert.deepEqual(changes.map((change) => change.state).slice(0, 7), [
    'back',
    'lost',
    'back',
    'lost',
    'back',
    'lost',
    'back',
  ]);
  const last = changes.findLast((change) => change.state === 'unreachable');
  assert.ok(last?.state === 'unreachable' && ['refused', 'missing', 'closed'].includes(last.error.reason));
});
