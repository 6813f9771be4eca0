import assert from 'node:assert/strict';
import { appendFileSync, constants, writeSync } from 'node:fs';
import { mkdir, open, readdir, readFile, stat, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { temporaryFolder } from '../../../../test/support/temporary.ts';
import { SerialLog, SerialLogError } from './log.ts';

async function contentOf(path: string): Promise<string> {
  return readFile(path, 'utf8').catch(() => '');
}

test('the tail reaches into older files', async (context) => {
  const path = join(await temporaryFolder(context), 'serial.log');
  const log = new SerialLog(path);
  assert.equal((await log.tail(100)).bytes.length, 0);
  await writeFile(path, 'newest');
  await writeFile(`${path}.1`, 'older ');
  await writeFile(`${path}.2`, 'oldest ');
  await writeFile(`${path}.3`, 'not ours ');
  assert.deepEqual(await log.tail(1000), { bytes: Buffer.from('oldest older newest'), end: 6, times: [] });
  assert.equal((await log.tail(8)).bytes.toString(), 'r newest');
  assert.equal((await log.tail(3)).bytes.toString(), 'est');
  assert.equal((await log.tail(0)).bytes.length, 0);
});

test('what was appended since an offset is read, of much only the end', async (context) => {
  const path = join(await temporaryFolder(context), 'serial.log');
  const log = new SerialLog(path);
  assert.deepEqual(await log.readFrom(0, 100), { bytes: Buffer.alloc(0), end: 0 });
  await writeFile(path, '0123456789');
  assert.deepEqual(await log.readFrom(4, 100), { bytes: Buffer.from('456789'), end: 10 });
  assert.deepEqual(await log.readFrom(4, 2), { bytes: Buffer.from('89'), end: 10 });
  assert.deepEqual(await log.readFrom(10, 100), { bytes: Buffer.alloc(0), end: 10 });
});

test('rotation loses nothing and repeats nothing while the writer keeps its descriptor', async (context) => {
  const path = join(await temporaryFolder(context), 'serial.log');
  const log = new SerialLog(path, { maxFileBytes: 20_000, files: 4 });
  // As QEMU does: opened once, appended to for ever.
  const writer = await open(path, constants.O_WRONLY | constants.O_CREAT | constants.O_APPEND, 0o600);
  context.after(() => writer.close());
  let written = '';
  for (let n = 0; n < 30_000; n++) {
    const line = `${n}\n`;
    written += line;
    writeSync(writer.fd, line);
    if (n % 100 === 0) await log.rotateIfNeeded();
  }
  const all = (await Promise.all([3, 2, 1].map((n) => contentOf(`${path}.${n}`)))).join('') + (await contentOf(path));
  assert.ok(written.endsWith(all), 'the files are one piece of the output');
  assert.ok(all.length > 40_000, `${all.length} bytes are kept`);
  assert.equal((await log.tail(1_000_000)).bytes.toString(), all);
  assert.ok((await stat(path)).size <= 21_000);
  assert.deepEqual((await readdir(join(path, '..'))).sort(), [
    'serial.log',
    'serial.log.1',
    'serial.log.2',
    'serial.log.3',
  ]);
});

test('where the file system can not cut off beginnings, the file is emptied', async (context) => {
  const path = join(await temporaryFolder(context), 'serial.log');
  const log = new SerialLog(path, { maxFileBytes: 10_000, files: 3 });
  // Without the program that asks the file system, the answer is the same as that of one that can't.
  const { PATH } = process.env;
  process.env['PATH'] = '';
  context.after(() => {
    process.env['PATH'] = PATH;
  });
  let written = '';
  for (let round = 0; round < 3; round++) {
    const text = Array.from({ length: 3000 }, (_, n) => `${round} ${n}\n`).join('');
    written += text;
    appendFileSync(path, text);
    assert.equal(await log.rotateIfNeeded(), true);
    assert.equal((await stat(path)).size, 0);
  }
  assert.ok(written.endsWith((await log.tail(1_000_000)).bytes.toString()));
  assert.equal((await log.tail(1_000_000)).bytes.length, written.length - written.length / 3);
});

test('a log that grew far beyond the limit while nobody looked keeps its end', async (context) => {
  const path = join(await temporaryFolder(context), 'serial.log');
  const log = new SerialLog(path, { maxFileBytes: 10_000, files: 2 });
  const text = Array.from({ length: 20_000 }, (_, n) => `${n}\n`).join('');
  await writeFile(path, text);
  await writeFile(`${path}.1`, 'from before what is lost\n');
  assert.equal(await log.rotateIfNeeded(), true);
  assert.equal(await log.rotateIfNeeded(), false);
  const kept = (await log.tail(1_000_000)).bytes.toString();
  assert.ok(text.endsWith(kept) && kept.length >= 10_000 && kept.length <= 30_000, `${kept.length} bytes`);
});

test('with one file nothing older is kept', async (context) => {
  const path = join(await temporaryFolder(context), 'serial.log');
  const log = new SerialLog(path, { maxFileBytes: 10_000, files: 1 });
  await writeFile(path, 'x'.repeat(30_000));
  assert.equal(await log.rotateIfNeeded(), true);
  assert.ok((await stat(path)).size < 10_000);
  assert.deepEqual(await readdir(join(path, '..')), ['serial.log']);
});

test('links and what is no file are refused, so that QEMU can not have other files read or emptied', async (context) => {
  const folder = await temporaryFolder(context);
  const secret = join(folder, 'secret');
  await writeFile(secret, 's'.repeat(5000));
  const path = join(folder, 'serial.log');
  await symlink(secret, path);
  const log = new SerialLog(path, { maxFileBytes: 1000 });
  await assert.rejects(log.tail(100), SerialLogError);
  await assert.rejects(log.readFrom(0, 100), SerialLogError);
  await assert.rejects(log.rotateIfNeeded(), SerialLogError);
  assert.equal((await stat(secret)).size, 5000);
  await mkdir(join(folder, 'folder'));
  await assert.rejects(new SerialLog(join(folder, 'folder')).tail(100), SerialLogError);
});

test('removing takes all files, and a failure does not stop later calls', async (context) => {
  const folder = await temporaryFolder(context);
  const path = join(folder, 'serial.log');
  const log = new SerialLog(path, { maxFileBytes: 10, files: 3 });
  await mkdir(`${path}.1`);
  await writeFile(path, 'x'.repeat(5000));
  await assert.rejects(log.tail(10_000));
  await writeFile(path, 'y');
  assert.equal((await log.readFrom(0, 10)).bytes.toString(), 'y');
  const other = new SerialLog(join(folder, 'other.log'));
  for (const name of ['other.log', 'other.log.1', 'other.log.2', 'other.log.rotating'])
    await writeFile(join(folder, name), 'x');
  await other.remove();
  assert.deepEqual((await readdir(folder)).sort(), ['serial.log', 'serial.log.1']);
});
