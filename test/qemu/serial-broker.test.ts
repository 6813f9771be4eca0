// The serial console's broker against a real QEMU whose guest prints numbered lines: a number that is missing or comes
// twice shows every gap and every repetition.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readFile, stat, writeFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { join } from 'node:path';
import { test } from 'node:test';
import { SerialBroker } from '../../src/drivers/qemu/serial/broker.ts';
import { SerialTimes } from '../../src/drivers/qemu/serial/times.ts';
import { type SerialViewer } from '../../src/drivers/qemu/serial/viewer.ts';
import { run } from '../../src/host/command.ts';
import { startSerialGuest } from '../support/serial-guest.ts';
import { eventually } from '../support/wait.ts';

/** Reads what comes until the text satisfies `isEnough`. */
async function read(viewer: SerialViewer, isEnough: (text: string) => boolean): Promise<string> {
  let text = '';
  const deadline = AbortSignal.timeout(20_000);
  while (!isEnough(text)) {
    const chunk = viewer.read() as Buffer | null;
    if (chunk) text += chunk.toString('latin1');
    else {
      await new Promise<void>((resolve, reject) => {
        const onAbort = (): void => reject(new Error(`only this came: ${text.slice(-200)}`));
        deadline.addEventListener('abort', onAbort, { once: true });
        viewer.once('readable', () => {
          deadline.removeEventListener('abort', onAbort);
          resolve();
        });
      });
    }
  }
  return text;
}

/** The numbers of the whole lines, each one more than the one before; throws at a gap or a repetition. */
function numbersIn(text: string): number[] {
  const lines = text.split('\n');
  // The first may be the rest of a line, the last the beginning of one.
  const whole = lines.slice(lines[0]?.length === 8 ? 0 : 1, -1);
  const numbers = whole.map((line) => {
    assert.match(line, /^[0-9a-f]{8}$/);
    return Number.parseInt(line, 16);
  });
  for (const [at, number] of numbers.entries()) {
    const expected = at === 0 ? number : (numbers[at - 1] ?? 0) + 1;
    assert.equal(number, expected, `line ${at} of ${numbers.length}`);
  }
  return numbers;
}

test('viewers come and go while the guest prints, and none misses a line or gets one twice', async (context) => {
  const guest = await startSerialGuest(context);
  const broker = new SerialBroker(guest.socketPath, guest.logPath, { rotationCheckMs: 60_000 });
  context.after(() => broker.close());

  const first = await broker.attach();
  const hello = await read(first, (seen) => seen.endsWith('00000000\n'));
  first.write('gg');
  const text = hello + (await read(first, (seen) => seen.endsWith('00000002\n')));
  assert.deepEqual(numbersIn(text), [0, 1, 2]);
  first.destroy();
  // A quiet console is let go, and whoever comes later sees the same from the log.
  await eventually(() => isServingNobody(guest.socketPath), { describe: 'the connection is ended' });
  const second = await broker.attach();
  assert.equal(await read(second, (seen) => seen.endsWith('00000002\n')), text);
  second.write('f');

  numbersIn(await read(second, (seen) => seen.length > 100_000));

  // The guest prints all the time: whoever comes, joins in the middle of it.
  for (let round = 0; round < 5; round++) {
    const late = await broker.attach();
    numbersIn(await read(late, (seen) => seen.length > 100_000));
    late.destroy();
  }
  second.write('f');
  const stopped = new Promise<void>((resolve) => second.once('close', resolve));
  second.resume();
  await isQuiet(guest.logPath);
  await guest.qemu.kill();
  await stopped;
  // The log has every line from the first one on.
  assert.equal(numbersIn(await readFile(guest.logPath, 'latin1'))[0], 0);
  assert.equal((await broker.log.tail(100)).bytes.length, 100);
});

test('what a broker shows that connects while the guest prints is one piece of what QEMU logged', async (context) => {
  const guest = await startSerialGuest(context);
  const first = new SerialBroker(guest.socketPath, guest.logPath, { lingerMs: 0 });
  const viewer = await first.attach();
  await read(viewer, (seen) => seen.endsWith('00000000\n'));
  viewer.write('f');
  await read(viewer, (seen) => seen.length > 10_000);
  await first.close();
  for (let round = 0; round < 20; round++) {
    const sizeBefore = (await stat(guest.logPath)).size;
    await eventually(async () => (await stat(guest.logPath)).size > sizeBefore, { describe: 'the guest prints' });
    const broker = new SerialBroker(guest.socketPath, guest.logPath, { lingerMs: 0 });
    context.after(() => broker.close());
    const viewers = await Promise.all([broker.attach(), broker.attach()]);
    const texts = await Promise.all(viewers.map((each) => read(each, (seen) => seen.length > 75_000)));
    await broker.close();
    // Ending a connection in mid-stream loses some bytes in QEMU; so the log is what is compared with.
    await eventually(
      async () => {
        const logged = await readFile(guest.logPath, 'latin1');
        return texts.every((text) => logged.includes(text));
      },
      { describe: `what was shown in round ${round} is a piece of the log` },
    );
  }
});

test('with a log of the socket’s own, a console that is not under pressure is joined exactly too', async (context) => {
  const guest = await startSerialGuest(context, false);
  const broker = new SerialBroker(guest.socketPath, guest.logPath);
  context.after(() => broker.close());
  let lines = 1;
  for (let round = 0; round < 5; round++) {
    const viewer = await broker.attach();
    const until = (text: string): boolean => text.split('\n').length > lines;
    assert.equal(numbersIn(await read(viewer, until)).length, lines);
    viewer.write('g'.repeat(10));
    const more = await read(viewer, (text) => text.split('\n').length > 10);
    assert.deepEqual([numbersIn(more)[0], numbersIn(more).length], [lines, 10]);
    lines += 10;
    viewer.destroy();
  }
});

test('the log has every byte once, however late whoever looks takes them', async (context) => {
  const guest = await startSerialGuest(context);
  const client = connect(guest.socketPath);
  context.after(() => client.destroy());
  await once(client, 'connect');
  await eventually(async () => (await stat(guest.logPath)).size === 9, { describe: 'the first line is printed' });
  let text = '';
  client.setEncoding('latin1').on('data', (chunk: string) => (text += chunk));
  client.write('f');
  // Each time the guest stands still at a full socket, and goes on when it is read.
  for (let round = 0; round < 5; round++) {
    client.pause();
    await isQuiet(guest.logPath);
    const { length } = text;
    client.resume();
    await eventually(() => text.length > length + 5000, { describe: 'the guest goes on' });
  }
  client.write('f');
  await isQuiet(guest.logPath);
  await eventually(async () => (await stat(guest.logPath)).size === text.length, { describe: 'all is received' });
  assert.equal(await readFile(guest.logPath, 'latin1'), text);
  numbersIn(text);
});

test('the log is rotated under a guest that prints, and its files are one piece', async (context) => {
  const guest = await startSerialGuest(context);
  const options = { maxFileBytes: 100_000, rotationCheckMs: 20 };
  const broker = new SerialBroker(guest.socketPath, guest.logPath, options);
  context.after(() => broker.close());
  const viewer = await broker.attach();
  await read(viewer, (seen) => seen.endsWith('00000000\n'));
  viewer.write('f');
  const text = await read(viewer, (seen) => seen.length > 600_000);
  numbersIn(text);
  await eventually(() => stat(`${guest.logPath}.2`), { describe: 'two older files' });
  viewer.write('f');
  viewer.resume();
  await isQuiet(guest.logPath);
  await broker.close();

  const files = await Promise.all([2, 1].map((number) => readFile(`${guest.logPath}.${number}`, 'latin1')));
  const kept = files.join('') + (await readFile(guest.logPath, 'latin1'));
  // Whole blocks are cut off: of 100,000 bytes it may be 98,304.
  assert.ok(kept.length >= 190_000 && kept.length < 700_000, `${kept.length} bytes are kept`);
  if (await canCutOffBeginnings(guest.qemu.folder)) numbersIn(kept);
  assert.equal((await broker.log.tail(10_000_000)).bytes.toString('latin1'), kept);
});

test('each line has the time at which it was printed, whether somebody looks or not', async (context) => {
  const guest = await startSerialGuest(context);
  await new SerialTimes(`${guest.logPath}.times`).begin();
  const options = { timesPath: `${guest.logPath}.times`, maxFileBytes: 100_000, rotationCheckMs: 20 };
  /** The second time a line was printed, by the clock of this test: it came in between. */
  const printed: { text: string; fromMs: number; toMs: number }[] = [];
  const client = connect(guest.socketPath);
  context.after(() => client.destroy());
  let text = '';
  client.setEncoding('latin1').on('data', (chunk: string) => (text += chunk));
  const print = async (line: string): Promise<void> => {
    // Files have the time of the kernel's last tick, which is some milliseconds old.
    const fromMs = Date.now() - 20;
    client.write('g');
    await eventually(() => text.endsWith(`${line}\n`), { describe: `${line} is printed` });
    printed.push({ text: line, fromMs, toMs: Date.now() + 1000 });
  };
  // By the log: the guest may have printed it before this test was connected.
  await eventually(async () => (await readFile(guest.logPath, 'latin1')).endsWith('00000000\n'), {
    describe: 'the first line is printed',
  });

  const broker = new SerialBroker(guest.socketPath, guest.logPath, options);
  await print('00000001');
  await isNoted(broker, guest.logPath);
  await print('00000002');
  await isNoted(broker, guest.logPath);
  await broker.close();
  // Nobody looks now.
  await print('00000003');
  const later = new SerialBroker(guest.socketPath, guest.logPath, options);
  context.after(() => later.close());
  await isNoted(later, guest.logPath);
  const { bytes, times } = await later.log.tail(1_000_000);
  for (const { text: line, fromMs, toMs } of printed) {
    const end = bytes.indexOf(line) + line.length + 1;
    const { atMs } = times.find((time) => time.end >= end)!;
    assert.ok(atMs !== null && atMs >= fromMs && atMs <= toMs, `${line} at ${atMs}, not in ${fromMs}–${toMs}`);
  }

  // A guest that prints without pause is rotated, and still each piece has its time.
  client.write('f');
  await eventually(() => stat(`${guest.logPath}.2`), { describe: 'two older files', timeoutMs: 60_000 });
  client.write('f');
  await isQuiet(guest.logPath);
  const kept = await later.log.tail(10_000_000);
  assert.equal(kept.times.at(-1)?.end, kept.bytes.length);
  assert.ok(kept.times.every(({ atMs }, index) => atMs !== null && atMs >= (kept.times[index - 1]?.atMs ?? 0)));
});

/** Waits until the growth of the log was noted without being asked for. */
async function isNoted({ log }: SerialBroker, logPath: string): Promise<void> {
  await eventually(
    async () => {
      const [, last = ''] = /\n(\d+) \d+\n$/.exec(await readFile(`${log.path}.times`, 'utf8').catch(() => '')) ?? [];
      return Number(last) === (await stat(logPath)).size;
    },
    { describe: 'the growth of the log is noted', timeoutMs: 30_000 },
  );
}

/** Whether QEMU serves no client on the socket. */
async function isServingNobody(path: string): Promise<boolean> {
  return (await run(['ss', '--no-header', '--unix', 'state', 'connected', 'src', path])).stdout.trim() === '';
}

/** Waits until the log grows no more. */
async function isQuiet(logPath: string): Promise<void> {
  let size = -1;
  await eventually(
    async () => {
      const before = size;
      size = (await stat(logPath)).size;
      return size === before;
    },
    { intervalMs: 100, describe: 'the guest is quiet' },
  );
}

/** Whether the file system rotates without losing anything; on others some bytes may be lost in the instant of it. */
async function canCutOffBeginnings(folder: string): Promise<boolean> {
  const path = join(folder, 'probe');
  await writeFile(path, Buffer.alloc(256 * 1024));
  const { exitCode } = await run(['fallocate', '--collapse-range', '--offset', '0', '--length', '65536', path], {
    okExitCodes: [0, 1],
  });
  return exitCode === 0;
}
