// Volumes made, measured and changed by the real qemu-img, and seeds as a guest would read them.
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { readdir, readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { parse } from 'yaml';
import { run } from '../../src/host/command.ts';
import { buildSeed, hashPassword } from '../../src/host/image/seed.ts';
import {
  createOverlay,
  createVolume,
  deleteVolume,
  readVolumeInfo,
  resizeVolume,
} from '../../src/host/image/volume.ts';
import { composeMetaData, composeNetworkConfig, composeUserData } from '../../src/lib/cloud-config.ts';
import { temporaryFolder } from '../support/temporary.ts';

const MIB = 1024 * 1024;

for (const format of ['qcow2', 'raw'] as const) {
  test(`an empty ${format} volume has the size that was asked for and takes almost no room`, async (context) => {
    const path = join(await temporaryFolder(context), 'disk');
    await createVolume({ path, format, sizeBytes: 100 * MIB });
    const info = await readVolumeInfo(path, format);
    assert.equal(info.virtualSizeBytes, 100 * MIB);
    assert.ok(info.allocatedBytes < MIB);
    assert.deepEqual(info.backingChain, []);
    await resizeVolume({ path, format, sizeBytes: 150 * MIB });
    assert.equal((await readVolumeInfo(path, format)).virtualSizeBytes, 150 * MIB);
    await assert.rejects(resizeVolume({ path, format, sizeBytes: 50 * MIB }), { problem: 'invalid' });
    await resizeVolume({ path, format, sizeBytes: 50 * MIB, isShrinkAllowed: true });
    assert.equal((await readVolumeInfo(path, format)).virtualSizeBytes, 50 * MIB);
    await deleteVolume(path);
    await deleteVolume(path);
    await assert.rejects(readVolumeInfo(path, format), { problem: 'not-found' });
  });
}

test('preallocated volumes take their room at once', async (context) => {
  const path = join(await temporaryFolder(context), 'disk');
  await createVolume({ path, format: 'raw', sizeBytes: 20 * MIB, preallocation: 'falloc' });
  assert.ok((await readVolumeInfo(path, 'raw')).allocatedBytes >= 20 * MIB);
});

test('sizes no disk can have are refused with what is allowed', async (context) => {
  const path = join(await temporaryFolder(context), 'disk');
  for (const sizeBytes of [0, -512, 513, 0.5, Number.NaN, Number.POSITIVE_INFINITY, 2 ** 63, 65 * 1024 ** 4]) {
    await assert.rejects(createVolume({ path, format: 'qcow2', sizeBytes }), { problem: 'invalid' });
  }
});

test('a volume is never made over another, and a failed one leaves nothing', async (context) => {
  const folder = await temporaryFolder(context);
  const path = join(folder, 'disk');
  await writeFile(path, 'mine');
  await assert.rejects(createVolume({ path, format: 'qcow2', sizeBytes: MIB }), { problem: 'invalid' });
  assert.equal(await readFile(path, 'utf8'), 'mine');
  assert.deepEqual(await readdir(folder), ['disk']);
});

test('an overlay begins as its image, keeps what is written, and leaves the image alone', async (context) => {
  const folder = await temporaryFolder(context);
  const image = join(folder, 'image.qcow2');
  await createVolume({ path: image, format: 'qcow2', sizeBytes: 32 * MIB });
  await run(['qemu-io', '-f', 'qcow2', '-c', 'write -P 0x11 0 64k', image]);
  const before = createHash('sha256')
    .update(await readFile(image))
    .digest('hex');
  const path = join(folder, 'overlay.qcow2');
  await createOverlay({ path, backingPath: image, backingFormat: 'qcow2', sizeBytes: 64 * MIB });
  const info = await readVolumeInfo(path, 'qcow2');
  assert.equal(info.virtualSizeBytes, 64 * MIB);
  assert.deepEqual(info.backingChain, [{ path: image, format: 'qcow2' }]);
  const { stdout } = await run([
    'qemu-io',
    '-f',
    'qcow2',
    '-c',
    'read -P 0x11 0 64k',
    '-c',
    'write -P 0x22 0 64k',
    '-c',
    'read -P 0x22 0 64k',
    path,
  ]);
  assert.doesNotMatch(stdout, /verification failed/);
  assert.equal(
    createHash('sha256')
      .update(await readFile(image))
      .digest('hex'),
    before,
  );
  const smaller = createOverlay({
    path: join(folder, 'small'),
    backingPath: image,
    backingFormat: 'qcow2',
    sizeBytes: 16 * MIB,
  });
  await assert.rejects(smaller, { problem: 'invalid', message: /33554432/ });
  const missing = createOverlay({
    path: join(folder, 'none'),
    backingPath: join(folder, 'gone'),
    backingFormat: 'qcow2',
  });
  await assert.rejects(missing, { problem: 'not-found' });
  assert.deepEqual((await readdir(folder)).toSorted(), ['image.qcow2', 'overlay.qcow2']);
});

test('a raw disk on which a guest wrote a qcow2 header stays a raw disk', async (context) => {
  const folder = await temporaryFolder(context);
  const evil = join(folder, 'evil.qcow2');
  await run(['qemu-img', 'create', '-q', '-f', 'qcow2', '-u', '-b', '/etc/shadow', '-F', 'raw', evil, '10G']);
  const info = await readVolumeInfo(evil, 'raw');
  assert.ok(info.virtualSizeBytes < MIB);
  assert.deepEqual(info.backingChain, []);
});

test('a seed is a volume "cidata" with the files as given, the same bytes each time, readable by its owner only', async (context) => {
  const folder = await temporaryFolder(context);
  const path = join(folder, 'seed.iso');
  const content = {
    metaData: composeMetaData({ instanceId: 'i-1', hostname: 'web1' }),
    userData: composeUserData({ hostname: 'web1', passwordHash: await hashPassword('correct horse') }),
    networkConfig: composeNetworkConfig([{ macAddress: '52:54:00:12:34:56' }]),
  };
  await buildSeed(content, path);
  const first = await readFile(path);
  await buildSeed(content, path);
  assert.ok(first.equals(await readFile(path)), 'two builds of one seed differ');
  assert.equal(first.toString('latin1', 0x8028, 0x8028 + 32).trim(), 'cidata');
  assert.equal((await stat(path)).mode & 0o777, 0o600);
  assert.deepEqual(await readdir(folder), ['seed.iso']);
  const out = join(folder, 'out');
  await run(['xorriso', '-osirrox', 'on', '-indev', path, '-extract', '/', out]);
  assert.equal(await readFile(join(out, 'user-data'), 'utf8'), content.userData);
  assert.equal(await readFile(join(out, 'meta-data'), 'utf8'), content.metaData);
  assert.equal(await readFile(join(out, 'network-config'), 'utf8'), content.networkConfig);
  assert.deepEqual((await readdir(out)).toSorted(), ['meta-data', 'network-config', 'user-data']);
  assert.deepEqual(parse(content.metaData), { 'instance-id': 'i-1', 'local-hostname': 'web1' });
});

test('a hashed password is verified by crypt and never twice the same', async () => {
  const hash = await hashPassword('päss word "x"');
  assert.match(hash, /^\$6\$[^$]+\$[./A-Za-z0-9]{86}$/);
  assert.notEqual(hash, await hashPassword('päss word "x"'));
  const { stdout } = await run(['perl', '-e', 'print crypt($ENV{P}, $ENV{H})'], {
    env: { P: 'päss word "x"', H: hash },
  });
  assert.equal(stdout, hash);
  await assert.rejects(hashPassword('two\nlines'), { problem: 'invalid' });
});
