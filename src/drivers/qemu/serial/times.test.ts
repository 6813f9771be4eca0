import assert from 'node:assert/strict';
import { constants, ftruncateSync, writeSync } from 'node:fs';
import { appendFile, open, readFile, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { temporaryFolder } from '../../../../test/support/temporary.ts';
import { SerialLog } from './log.ts';
import { SerialTimes } from './times.ts';

test('each piece of the output has the time at which it had come, also for who reads the file later', async (context) => {
  const path = join(await temporaryFolder(context), 'serial.times');
  const times = new SerialTimes(path);
  await times.note(0, 1000);
  await times.note(10, 2000);
  await times.note(10, 3000);
  await times.note(25, 4000.7);
  const whole = [
    { end: 10, atMs: 2000 },
    { end: 25, atMs: 4000 },
  ];
  assert.deepEqual(times.of(25, 25), whole);
  assert.deepEqual(times.of(20, 25), [
    { end: 5, atMs: 2000 },
    { end: 20, atMs: 4000 },
  ]);
  assert.deepEqual(times.of(3, 25), [{ end: 3, atMs: 4000 }]);
  const again = new SerialTimes(path);
  await again.note(25, 9000);
  assert.deepEqual(again.of(25, 25), whole);
});

test('a clock that was set back does not make later output earlier', async (context) => {
  const times = new SerialTimes(join(await temporaryFolder(context), 'serial.times'));
  await times.begin();
  await times.note(10, 5000);
  await times.note(20, 1000);
  assert.deepEqual(times.of(20, 20).at(-1), { end: 20, atMs: 5000 });
});

test('of output that was there before anybody noted times, none is told', async (context) => {
  const path = join(await temporaryFolder(context), 'serial.times');
  const first = new SerialTimes(path);
  await first.note(100, 1000);
  await first.note(120, 2000);
  const expected = [
    { end: 100, atMs: null },
    { end: 120, atMs: 2000 },
  ];
  assert.deepEqual(first.of(120, 120), expected);
  const second = new SerialTimes(path);
  await second.note(120, 3000);
  assert.deepEqual(second.of(120, 120), expected);
});

test('a file that is damaged or was not written to its end tells what can be read of it', async (context) => {
  const path = join(await temporaryFolder(context), 'serial.times');
  await writeFile(path, '0\n10 1000\n5 900\nnonsense\n20 2000\n30 30');
  const times = new SerialTimes(path);
  await times.note(20, 9000);
  assert.deepEqual(times.of(20, 20), [
    { end: 10, atMs: 1000 },
    { end: 20, atMs: 2000 },
  ]);
  await writeFile(path, 'nonsense\n10 1000\n');
  const other = new SerialTimes(path);
  await other.note(15, 9000);
  assert.deepEqual(other.of(15, 15), [{ end: 15, atMs: null }]);
});

test('a daemon that died after the log was cut and before it was noted is not led astray', async (context) => {
  const path = join(await temporaryFolder(context), 'serial.times');
  const times = new SerialTimes(path);
  for (let at = 1; at <= 10; at++) await times.note(at * 100, at * 1000);
  // 800 bytes are gone from the beginning, and 50 have come since.
  const next = new SerialTimes(path);
  await next.note(200, 20_000);
  await next.note(250, 30_000);
  assert.deepEqual(next.of(250, 250), [
    { end: 100, atMs: 9000 },
    { end: 200, atMs: 10_000 },
    { end: 250, atMs: 30_000 },
  ]);
});

test('however long a console prints, the marks are bounded, and stay in order', async (context) => {
  const path = join(await temporaryFolder(context), 'serial.times');
  const times = new SerialTimes(path, { maxMarks: 20 });
  for (let at = 1; at <= 200; at++) await times.note(at, at * 10);
  const told = times.of(200, 200);
  assert.ok(told.length >= 10 && told.length <= 20, `${told.length} marks`);
  assert.deepEqual(told.at(-1), { end: 200, atMs: 2000 });
  assert.ok((await readFile(path, 'utf8')).split('\n').length < 40);
  for (const { end, atMs } of told) assert.equal(atMs, end * 10);
});

test('times follow the log through its rotations', async (context) => {
  const folder = await temporaryFolder(context);
  const path = join(folder, 'serial.log');
  const options = { maxFileBytes: 20_000, files: 3, timesPath: join(folder, 'serial.times') };
  const log = new SerialLog(path, options);
  const writer = await open(path, constants.O_WRONLY | constants.O_CREAT | constants.O_APPEND, 0o600);
  context.after(() => writer.close());
  await log.observe();
  // Lines of ten bytes; the line n is written in second n.
  for (let second = 1; second <= 20_000; second++) {
    writeSync(writer.fd, `${String(second).padStart(9, '0')}\n`);
    if (second % 50 !== 0) continue;
    await utimes(path, second, second);
    assert.ok(await log.observe());
    await log.rotateIfNeeded();
  }
  for (const reader of [log, new SerialLog(path, options)]) {
    const { bytes, times } = await reader.tail(1_000_000);
    assert.ok(bytes.length > 40_000 && bytes.length < 80_000, `${bytes.length} bytes are kept`);
    assert.equal(times.at(-1)?.end, bytes.length);
    for (const { end, atMs } of times) {
      const last = Number(bytes.subarray(end - 10, end).toString());
      assert.equal(atMs, last * 1000);
    }
  }
  assert.equal(await log.observe(), false);
});

test('a log that was taken away is begun anew', async (context) => {
  const folder = await temporaryFolder(context);
  const path = join(folder, 'serial.log');
  const options = { timesPath: join(folder, 'serial.times') };
  await writeFile(path, 'one\n');
  const log = new SerialLog(path, options);
  await log.tail(10);
  await log.remove();
  await writeFile(path, '');
  await log.observe();
  await appendFile(path, 'two\n');
  await utimes(path, 7, 7);
  assert.deepEqual((await log.tail(10)).times, [{ end: 4, atMs: 7000 }]);
  const file = await open(path, 'r+');
  ftruncateSync(file.fd, 0);
  await file.close();
  assert.deepEqual((await log.tail(10)).times, []);
});
