// Images over the API: imported from files, addresses and uploads, refused where something is wrong with them, deleted
// where nothing uses them, and resumed after a kill.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { copyFile, mkdir, readdir, readFile, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { suite, test } from 'node:test';
import { type Image } from '../../src/api/image.ts';
import { run } from '../../src/host/command.ts';
import { atEnd } from '../support/cleanup.ts';
import { type TestDaemon } from '../support/daemon.ts';
import { serveFile } from '../support/file-server.ts';
import {
  assertRefused,
  done,
  endOf,
  makeVm,
  sharedFakeLodge,
  startFakeLodge,
  type FakeLodge,
} from '../support/fake-lodge.ts';
import { eventually } from '../support/wait.ts';

const lodge = sharedFakeLodge();
const mib = 2 ** 20;

/** A small disk with something on it, in a folder of the daemon's. */
async function makeDisk({ daemon }: FakeLodge, name: string, format = 'qcow2', sizeMib = 4): Promise<string> {
  const folder = join(daemon.folder, 'sources');
  await mkdir(folder, { recursive: true, mode: 0o755 });
  const raw = join(folder, `${name}.content`);
  const content = Buffer.alloc(sizeMib * mib);
  randomBytes(mib).copy(content);
  content.writeUInt16LE(0xaa55, 510);
  await writeFile(raw, content);
  const path = join(folder, `${name}.${format}`);
  await run(['qemu-img', 'convert', '-f', 'raw', '-O', format, raw, path]);
  return path;
}

async function sha256(path: string): Promise<string> {
  return `sha256:${createHash('sha256')
    .update(await readFile(path))
    .digest('hex')}`;
}

/** Folders of images in the daemon's data; beside them it may keep what broken downloads have brought. */
async function imageFolders(daemon: TestDaemon): Promise<string[]> {
  return (await readdir(join(daemon.folder, 'data/images'))).filter((name) => name !== 'downloads');
}

function read(daemon: TestDaemon, image: string): Promise<Image> {
  return daemon.client.image.get({ params: { image } });
}

function create(daemon: TestDaemon, name: string, source: Image['spec']['source']): Promise<unknown> {
  return daemon.client.image.create({ body: { name, spec: { source } } });
}

/** Asks a server of the namespace to answer again. */
const mendProgram =
  'my $s = IO::Socket::INET->new("127.0.0.1:$ARGV[0]") or die; print $s "GET /mend HTTP/1.0\\r\\n\\r\\n"; local $/; <$s>';

async function assertNothingLeft(daemon: TestDaemon): Promise<void> {
  assert.deepEqual((await daemon.client.image.list()).items, []);
  assert.deepEqual(await imageFolders(daemon), []);
}

suite('an import from a file', () => {
  test('with the right checksum makes an image that disks can be made from', async (t) => {
    const lodgeNow = await lodge(t);
    const { daemon } = lodgeNow;
    const path = await makeDisk(lodgeNow, 'good');
    const checksum = await sha256(path);
    await done(
      daemon,
      daemon.client.image.create({ body: { name: 'base', spec: { source: { type: 'file', path, checksum } } } }),
    );
    const image = await read(daemon, 'base');
    assert.deepEqual(
      [image.status.state, image.status.kind, image.status.format, image.status.virtualSizeMib],
      ['ready', 'disk', 'qcow2', 4],
    );
    assert.equal(image.status.checksum, checksum);
    const vm = await makeVm(daemon, 'web1', { image: 'base' }, { start: true });
    assert.deepEqual(
      vm.status.disks.map(({ name, sizeMib }) => [name, sizeMib]),
      [['root', 4]],
    );
    assert.equal(vm.status.disks[0]?.image, image.id);
    await eventually(async () => (await read(daemon, 'base')).status.usedBy.length > 0);
    const error = await assertRefused(daemon, daemon.client.image.delete({ params: { image: 'base' } }), 'in_use');
    assert.match(error.message, /web1/);
    await done(daemon, daemon.client.vm.delete({ params: { vm: 'web1' }, query: { force: true } }));
    await done(daemon, daemon.client.image.delete({ params: { image: 'base' } }));
    await assertNothingLeft(daemon);
  });

  test('that is not what it should be is refused with the field, and leaves nothing', async (t) => {
    const lodgeNow = await lodge(t);
    const { daemon } = lodgeNow;
    const good = await makeDisk(lodgeNow, 'other');
    const folder = join(daemon.folder, 'sources');
    const cut = join(folder, 'cut.qcow2');
    await copyFile(good, cut);
    await truncate(cut, 300_000);
    const backed = join(folder, 'backed.qcow2');
    await run(['qemu-img', 'create', '-f', 'qcow2', '-b', '/etc/hostname', '-F', 'raw', backed, '4M']);
    const text = join(folder, 'notes.qcow2');
    await writeFile(text, 'not a disk at all\n'.repeat(1000));
    const empty = join(folder, 'empty.raw');
    await writeFile(empty, '');
    const pipe = join(folder, 'pipe');
    await run(['mkfifo', pipe]);
    const checksum = `sha256:${'0'.repeat(64)}`;
    for (const [source, code, field] of [
      [{ path: good, checksum }, 'checksum_mismatch', 'spec.source.checksum'],
      [{ path: cut }, 'image_invalid', 'spec.source.path'],
      [{ path: backed }, 'image_invalid', 'spec.source.path'],
      [{ path: text }, 'image_invalid', 'spec.source.path'],
      [{ path: empty }, 'image_invalid', 'spec.source.path'],
      [{ path: pipe }, 'invalid_request', 'spec.source.path'],
      [{ path: folder }, 'invalid_request', 'spec.source.path'],
      [{ path: '/dev/zero' }, 'invalid_request', 'spec.source.path'],
      [{ path: join(folder, 'missing') }, 'invalid_request', 'spec.source.path'],
      [{ path: 'relative.qcow2' }, 'invalid_request', 'spec.source.path'],
      [{ path: good, checksum: 'md5:abc' }, 'invalid_request', 'spec.source.checksum'],
    ] as const) {
      const error = await assertRefused(daemon, create(daemon, 'bad', { type: 'file', ...source }), code, field);
      if ('path' in source && source.path === backed) assert.match(error.message, /overlay/);
      await assertNothingLeft(daemon);
    }
  });
});

suite('an import from an address', () => {
  test('is fetched, and checked', async (t) => {
    const lodgeNow = await lodge(t);
    const { daemon, namespace } = lodgeNow;
    const path = await makeDisk(lodgeNow, 'web');
    const server = await serveFile(t, namespace, path);
    const source = { type: 'url', url: `${server.url}/file`, checksum: await sha256(path) } as const;
    await done(daemon, daemon.client.image.create({ body: { name: 'base', spec: { source } } }));
    assert.equal((await read(daemon, 'base')).status.state, 'ready');
    const wrong = { ...source, checksum: `sha256:${'1'.repeat(64)}` };
    await assertRefused(daemon, create(daemon, 'bad', wrong), 'checksum_mismatch', 'spec.source.checksum');
    for (const [url, code] of [
      [`${server.url}/nothing`, 'download_failed'],
      ['ftp://127.0.0.1/file', 'invalid_request'],
      ['http://user:secret@127.0.0.1/file', 'invalid_request'],
      ['nonsense', 'invalid_request'],
    ] as const)
      await assertRefused(daemon, create(daemon, 'bad', { type: 'url', url }), code, 'spec.source.url');
    assert.equal((await imageFolders(daemon)).length, 1);
  });

  test('goes on after a kill where it was', async (t) => {
    const lodgeNow = await startFakeLodge(t);
    const { daemon, namespace } = lodgeNow;
    const path = await makeDisk(lodgeNow, 'web', 'raw', 4);
    const server = await serveFile(t, namespace, path);
    const source = { type: 'url', url: `${server.url}/stalled`, checksum: await sha256(path) } as const;
    const task = await daemon.client.image.create({ body: { name: 'base', spec: { source } } });
    await eventually(async () => {
      const { progress } = await daemon.client.task.get({ params: { task: task.id } });
      return (progress.bytesDone ?? 0) >= 2 * mib;
    });
    await assertRefused(daemon, daemon.client.image.delete({ params: { image: 'base' } }), 'busy');
    await daemon.restart('kill');
    await done(daemon, task);
    assert.equal((await read(daemon, 'base')).status.state, 'ready');
    assert.match(server.requests.at(-1) ?? '', /^GET \/stalled bytes=\d{6,}-$/, server.requests.join('\n'));
  });

  test('that broke off is gone on with by the next one', async (t) => {
    const lodgeNow = await lodge(t);
    const { daemon, namespace } = lodgeNow;
    const path = await makeDisk(lodgeNow, 'broken', 'raw', 4);
    const server = await serveFile(t, namespace, path);
    const source = { type: 'url', url: `${server.url}/breaking`, checksum: await sha256(path) } as const;
    const error = await assertRefused(daemon, create(daemon, 'base', source), 'download_failed', 'spec.source.url');
    assert.match(error.message, /What arrived is kept for a day/);
    assert.ok(!error.message.includes(daemon.folder), error.message);
    assert.deepEqual((await daemon.client.image.list()).items, []);
    await namespace.run(['perl', '-MIO::Socket::INET', '-e', mendProgram, new URL(server.url).port]);
    const before = server.requests.length;
    await done(daemon, daemon.client.image.create({ body: { name: 'base', spec: { source } } }));
    assert.equal((await read(daemon, 'base')).status.state, 'ready');
    const after = server.requests.slice(before).filter((line) => line.includes('/breaking'));
    assert.equal(after.length, 1, after.join('\n'));
    assert.match(after[0]!, /^GET \/breaking bytes=\d{6,}-$/);
    assert.ok(!(await readdir(join(daemon.folder, 'data/images'))).includes('downloads'), 'it is not kept any longer');
  });

  test('that is cancelled leaves no image, and what arrived for the next one', async (t) => {
    const lodgeNow = await lodge(t);
    const { daemon, namespace } = lodgeNow;
    const server = await serveFile(t, namespace, await makeDisk(lodgeNow, 'slow'));
    const source = { type: 'url', url: `${server.url}/stalled` } as const;
    const task = await daemon.client.image.create({ body: { name: 'base', spec: { source } } });
    await eventually(async () => {
      const { progress } = await daemon.client.task.get({ params: { task: task.id } });
      return (progress.bytesDone ?? 0) > 0;
    });
    await daemon.client.task.cancel({ params: { task: task.id } });
    assert.equal((await endOf(daemon, task)).state, 'cancelled');
    assert.deepEqual((await daemon.client.image.list()).items, []);
    assert.deepEqual(await readdir(join(daemon.folder, 'data/images')), ['downloads']);
  });
});

suite('an upload', () => {
  const body = (checksum?: string): { name: string; spec: { source: { type: 'upload'; checksum?: string } } } => ({
    name: 'base',
    spec: { source: { type: 'upload', ...(checksum ? { checksum } : {}) } },
  });
  const params = { image: 'base' };

  test('becomes an image; what is wrong is refused, and can be sent again', async (t) => {
    const lodgeNow = await lodge(t);
    const { daemon } = lodgeNow;
    const { client } = daemon;
    const path = await makeDisk(lodgeNow, 'upload');
    await done(daemon, client.image.create({ body: body(await sha256(path)) }));
    assert.equal((await read(daemon, 'base')).status.state, 'waiting-for-upload');
    await assertRefused(
      daemon,
      client.image.upload({ params, body: randomBytes(100_000) }),
      'checksum_mismatch',
      'spec.source.checksum',
    );
    const { state, reason } = (await read(daemon, 'base')).status;
    assert.equal(state, 'waiting-for-upload');
    assert.match(reason, /could not be imported \(.*sha256.*\); it waits for another upload/i);
    assert.deepEqual(await imageFolders(daemon), []);
    const use = client.vm.create({ body: { name: 'web1', spec: { nics: [], image: 'base' } } });
    await assertRefused(daemon, use, 'wrong_state');
    await done(daemon, client.image.upload({ params, body: await readFile(path) }));
    const ready = await read(daemon, 'base');
    assert.equal(ready.status.state, 'ready');
    await assertRefused(daemon, client.image.upload({ params, body: await readFile(path) }), 'wrong_state');
    await done(daemon, client.image.delete({ params }));
    await assertNothingLeft(daemon);
  });

  test('to an image that comes from elsewhere is refused', async (t) => {
    const lodgeNow = await lodge(t);
    const { daemon } = lodgeNow;
    const path = await makeDisk(lodgeNow, 'elsewhere');
    await done(
      daemon,
      daemon.client.image.create({ body: { name: 'base', spec: { source: { type: 'file', path } } } }),
    );
    await assertRefused(daemon, daemon.client.image.upload({ params, body: randomBytes(10) }), 'wrong_state');
  });

  test('that is broken off waits for another, also when the daemon was killed', async (t) => {
    const lodgeNow = await startFakeLodge(t);
    const { daemon } = lodgeNow;
    const path = await makeDisk(lodgeNow, 'broken');
    await done(daemon, daemon.client.image.create({ body: body() }));
    const sendHalf = (): { call: Promise<unknown>; abort: AbortController } => {
      const abort = new AbortController();
      const half = new ReadableStream<Uint8Array>({
        start: (controller) => controller.enqueue(randomBytes(200_000)),
      });
      const call = daemon.client.image.upload({ params, body: half }, { signal: abort.signal });
      call.catch(() => {});
      return { call, abort };
    };
    const isState = (state: string): Promise<boolean> =>
      eventually(async () => (await read(daemon, 'base')).status.state === state);
    const first = sendHalf();
    await isState('importing');
    await assertRefused(daemon, daemon.client.image.upload({ params, body: randomBytes(10) }), 'wrong_state');
    first.abort.abort();
    await isState('waiting-for-upload');
    sendHalf();
    await isState('importing');
    await daemon.restart('kill');
    assert.equal((await read(daemon, 'base')).status.state, 'waiting-for-upload');
    assert.deepEqual(await imageFolders(daemon), []);
    await done(daemon, daemon.client.image.upload({ params, body: await readFile(path) }));
    assert.equal((await read(daemon, 'base')).status.state, 'ready');
  });
});

test('an image, and a volume that is made from it at the moment of its deletion: one of the two is refused', async (t) => {
  const lodgeNow = await lodge(t);
  const { daemon } = lodgeNow;
  const { client } = daemon;
  const path = await makeDisk(lodgeNow, 'raced');
  for (let round = 0; round < 3; round++) {
    const image = `base${round}`;
    await done(daemon, client.image.create({ body: { name: image, spec: { source: { type: 'file', path } } } }));
    const [made, deleted] = await Promise.allSettled([
      client.volume.create({ body: { name: `data${round}`, spec: { image } } }),
      client.image.delete({ params: { image } }),
    ]);
    assert.notEqual(made.status, deleted.status, `round ${round}: ${made.status}`);
    for (const result of [made, deleted]) if (result.status === 'fulfilled') await done(daemon, result.value);
  }
});

test('a program that a killed daemon has left working on an image is ended by the next one', async (t) => {
  const { daemon } = await startFakeLodge(t);
  const other = spawn(process.execPath, ['-e', 'setTimeout(() => {}, 60_000)', '/nowhere/images/x/disk.qcow2'], {
    argv0: 'qemu-img',
    stdio: 'ignore',
  });
  const orphan = spawn(
    process.execPath,
    ['-e', 'setTimeout(() => {}, 60_000)', join(daemon.folder, 'data/images/x/disk.qcow2')],
    { argv0: 'qemu-img', stdio: 'ignore' },
  );
  atEnd(t, () => [other, orphan].map((child) => child.kill('SIGKILL')));
  const ended = once(orphan, 'exit', { signal: AbortSignal.timeout(20_000) });
  await daemon.restart('kill');
  assert.deepEqual(await ended, [null, 'SIGKILL']);
  assert.equal(other.exitCode ?? other.signalCode, null, 'what belongs to somebody else runs on');
});
