import assert from 'node:assert/strict';
import { appendFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { UnixPeer } from '../../../../test/support/unix-peer.ts';
import { SerialBroker, type SerialBrokerOptions } from './broker.ts';
import { SerialOverrunError, type SerialViewer } from './viewer.ts';

/** A console as QEMU serves it: what it prints goes to the client, if there is one, and then to the log. */
class Console {
  readonly peer: UnixPeer;
  readonly logPath: string;
  printed = '';

  constructor(peer: UnixPeer) {
    this.peer = peer;
    this.logPath = join(dirname(peer.path), 'serial.log');
    writeFileSync(this.logPath, '');
  }

  print(text: string, isAccepted = true): void {
    this.printed += text;
    if (isAccepted) this.peer.send(text);
    appendFileSync(this.logPath, text);
  }
}

async function consoleWith(
  context: TestContext,
  options: SerialBrokerOptions = {},
): Promise<{ console: Console; broker: SerialBroker }> {
  const peer = await UnixPeer.listen();
  const serial = new Console(peer);
  const broker = new SerialBroker(peer.path, serial.logPath, options);
  context.after(async () => {
    await broker.close();
    await peer[Symbol.asyncDispose]();
  });
  return { console: serial, broker };
}

/** Reads until the text is there. */
async function readUntil(viewer: SerialViewer, end: string): Promise<string> {
  let text = '';
  while (!text.endsWith(end)) {
    const chunk = viewer.read() as Buffer | null;
    if (chunk) {
      text += chunk.toString();
      continue;
    }
    if (viewer.readableEnded || viewer.destroyed) throw new Error(`it ended with ${JSON.stringify(text)}`);
    await new Promise<void>((resolve) => {
      const go = (): void => {
        for (const name of ['readable', 'end', 'close', 'error']) viewer.removeListener(name, go);
        resolve();
      };
      for (const name of ['readable', 'end', 'close', 'error']) viewer.on(name, go);
    });
  }
  return text;
}

test('a viewer gets what was printed before it came and then everything, exactly once', async (context) => {
  const { console: serial, broker } = await consoleWith(context);
  serial.print('SeaBIOS\nlogin: ', false);
  const viewer = await broker.attach();
  assert.equal(await readUntil(viewer, 'login: '), 'SeaBIOS\nlogin: ');
  await serial.peer.until(() => serial.peer.isConnected, 'the connection');
  serial.print('root\n');
  serial.print('# ');
  assert.equal(await readUntil(viewer, '# '), 'root\n# ');
});

test('what is printed between reading the log and being accepted is shown, though nothing follows', async (context) => {
  const { console: serial, broker } = await consoleWith(context);
  serial.print('old\n', false);
  // QEMU accepts late: this goes to the log only, after the broker has read it.
  serial.peer.onConnect = () => serial.print('between\n', false);
  const viewer = await broker.attach();
  assert.equal(await readUntil(viewer, 'between\n'), 'old\nbetween\n');
  serial.print('live\n');
  assert.equal(await readUntil(viewer, 'live\n'), 'live\n');
});

test('what is printed between and after being accepted is neither lost nor repeated', async (context) => {
  const { console: serial, broker } = await consoleWith(context);
  serial.print('old\n', false);
  serial.peer.onConnect = () => {
    serial.print('between\n', false);
    serial.print('first\n');
    serial.print('second\n');
  };
  const viewer = await broker.attach();
  assert.equal(await readUntil(viewer, 'second\n'), serial.printed);
});

test('many viewers see the same, whenever they come, over one connection', async (context) => {
  const { console: serial, broker } = await consoleWith(context);
  serial.print('boot\n', false);
  const first = await broker.attach();
  await serial.peer.until(() => serial.peer.isConnected, 'the connection');
  serial.print('one\n');
  assert.equal(await readUntil(first, 'one\n'), 'boot\none\n');
  const others = await Promise.all([broker.attach(), broker.attach()]);
  serial.print('two\n');
  assert.equal(await readUntil(first, 'two\n'), 'two\n');
  for (const other of others) assert.equal(await readUntil(other, 'two\n'), 'boot\none\ntwo\n');
  assert.equal(serial.peer.connections, 1);
  assert.equal(broker.viewerCount, 3);
});

test('the connection is held only while there are viewers, and the next one starts from the log', async (context) => {
  const { console: serial, broker } = await consoleWith(context);
  const first = await broker.attach();
  await serial.peer.until(() => serial.peer.isConnected, 'the connection');
  serial.print('seen\n');
  await readUntil(first, 'seen\n');
  first.destroy();
  await serial.peer.until(() => !serial.peer.isConnected, 'the end of the connection');
  serial.print('alone\n', false);
  const second = await broker.attach();
  assert.equal(await readUntil(second, 'alone\n'), 'seen\nalone\n');
  assert.equal(serial.peer.connections, 2);
});

test('only the last part of what was printed is replayed', async (context) => {
  const { console: serial, broker } = await consoleWith(context, { replayBytes: 10 });
  serial.print('0123456789abcdef\n', false);
  const first = await broker.attach();
  assert.equal(await readUntil(first, '\n'), '789abcdef\n');
  await serial.peer.until(() => serial.peer.isConnected, 'the connection');
  for (const text of ['x', 'yy', 'z'.repeat(25), '12345678\n']) serial.print(text);
  await readUntil(first, '12345678\n');
  const second = await broker.attach();
  assert.equal(await readUntil(second, '\n'), 'z12345678\n');
});

test('what viewers type reaches the guest', async (context) => {
  const { console: serial, broker } = await consoleWith(context);
  const [first, second] = await Promise.all([broker.attach(), broker.attach()]);
  first.write('root\n');
  assert.equal(await serial.peer.nextLine(), 'root');
  second.write('exit\n');
  assert.equal(await serial.peer.nextLine(), 'exit');
  // The end of the input is not the end of looking.
  first.end();
  serial.print('bye\n');
  assert.equal(await readUntil(first, 'bye\n'), 'bye\n');
});

test('a viewer that does not read is dropped, and the others go on', async (context) => {
  const { console: serial, broker } = await consoleWith(context, { maxBufferedBytes: 100_000 });
  const [slow, quick] = await Promise.all([broker.attach(), broker.attach()]);
  const dropped = new Promise<Error>((resolve) => slow.once('error', resolve));
  const line = `${'x'.repeat(999)}\n`;
  for (let n = 0; n < 200; n++) {
    serial.print(line);
    if (n % 50 === 49) await readUntil(quick, line);
  }
  serial.print('end\n');
  await readUntil(quick, 'end\n');
  assert.ok((await dropped) instanceof SerialOverrunError);
  assert.equal(broker.viewerCount, 1);
});

test('the end of QEMU ends the viewers after the last output', async (context) => {
  const { console: serial, broker } = await consoleWith(context);
  const viewer = await broker.attach();
  await serial.peer.until(() => serial.peer.isConnected, 'the connection');
  serial.print('Power down\n');
  await readUntil(viewer, 'Power down\n');
  const closed = new Promise<void>((resolve) => viewer.once('close', resolve));
  serial.peer.hangUp();
  viewer.resume();
  await closed;
  assert.equal(viewer.errored, null);
  assert.equal(broker.viewerCount, 0);
  const again = await broker.attach();
  assert.equal(await readUntil(again, 'Power down\n'), 'Power down\n');
});

test('a console that can not be reached refuses viewers, and can be tried again', async (context) => {
  const { console: serial, broker } = await consoleWith(context);
  await serial.peer.stop();
  await assert.rejects(broker.attach(), { name: 'DialError', reason: 'missing' });
  assert.equal(broker.viewerCount, 0);
  await serial.peer.start();
  const viewer = await broker.attach();
  const closed = new Promise<void>((resolve) => viewer.once('close', resolve));
  viewer.resume();
  await broker.close();
  await closed;
  await serial.peer.until(() => !serial.peer.isConnected, 'the end of the connection');
  await assert.rejects(broker.attach(), /closed/);
});

test('a log that can not be read costs the replay, not the console', async (context) => {
  const errors: unknown[] = [];
  const peer = await UnixPeer.listen();
  const broker = new SerialBroker(peer.path, dirname(peer.path), { onLogError: (error) => errors.push(error) });
  context.after(async () => {
    await broker.close();
    await peer[Symbol.asyncDispose]();
  });
  const viewer = await broker.attach();
  await peer.until(() => peer.isConnected, 'the connection');
  peer.send('live\n');
  assert.equal(await readUntil(viewer, 'live\n'), 'live\n');
  assert.ok(errors.length > 0);
});
