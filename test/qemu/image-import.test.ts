// Importing images made by the real qemu-img and packed by the real programs: every format, every way an image can be
// wrong, and downloads from servers that break.
import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { copyFile, open, readdir, readFile, stat, truncate, writeFile } from 'node:fs/promises';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { basename, join } from 'node:path';
import { before, test, type TestContext } from 'node:test';
import { run } from '../../src/host/command.ts';
import { importImage, type ImportOptions, type ImportProgress } from '../../src/host/image/import.ts';
import { inspectImage } from '../../src/host/image/inspect.ts';
import { ImageProblemError, type ImageProblem } from '../../src/host/image/problem.ts';
import { atEnd } from '../support/cleanup.ts';
import { temporaryFolder } from '../support/temporary.ts';

const MIB = 1024 * 1024;
const DISK_BYTES = 24 * MIB;

/** The disk all samples hold: random data at its start, in its middle and at its end, zeros between. */
const disk = Buffer.alloc(DISK_BYTES);
before(() => {
  randomBytes(4 * MIB).copy(disk, 0);
  randomBytes(4 * MIB).copy(disk, 10 * MIB);
  randomBytes(MIB).copy(disk, DISK_BYTES - MIB);
  disk.writeUInt16LE(0xaa55, 510);
});

async function makeRaw(folder: string): Promise<string> {
  const path = join(folder, 'disk.raw');
  await writeFile(path, disk);
  return path;
}

async function makeImage(folder: string, format: string, options: readonly string[] = []): Promise<string> {
  const path = join(folder, `disk.${format}`);
  await run(['qemu-img', 'convert', '-f', 'raw', '-O', format, ...options, await makeRaw(folder), path]);
  return path;
}

/** Fails unless the import is refused with this problem and leaves nothing behind. */
async function refuses(problem: ImageProblem, options: ImportOptions, message?: RegExp): Promise<void> {
  await assert.rejects(importImage(options), (error: unknown) => {
    assert.ok(error instanceof ImageProblemError, `not an ImageProblemError: ${String(error)}`);
    assert.equal(error.problem, problem, error.message);
    if (message) assert.match(error.message, message);
    return true;
  });
  const folder = join(options.outPath, '..');
  assert.deepEqual(await leftovers(folder, options.outPath), [], 'something is left of the failed import');
}

async function leftovers(folder: string, outPath: string): Promise<string[]> {
  return (await readdir(folder)).filter(
    (name) => name === basename(outPath) || name.startsWith(`.${basename(outPath)}`),
  );
}

async function holdsTheDisk(folder: string, image: string): Promise<void> {
  const raw = join(folder, 'result.raw');
  await run(['qemu-img', 'convert', '-f', 'qcow2', '-O', 'raw', image, raw]);
  const result = await readFile(raw);
  assert.ok(result.subarray(0, DISK_BYTES).equals(disk), 'the imported disk has other content');
}

for (const [format, options] of [
  ['qcow2', []],
  ['qcow2', ['-c', '-o', 'compression_type=zstd']],
  ['qcow2', ['-o', 'compat=0.10']],
  ['raw', []],
  ['vmdk', []],
  ['vmdk', ['-o', 'subformat=streamOptimized']],
  ['vdi', []],
  ['vhdx', []],
  ['vpc', []],
  ['vpc', ['-o', 'subformat=fixed,force_size=on']],
] as [string, string[]][]) {
  test(`a ${[format, ...options].join(' ')} image is imported with its content`, async (context) => {
    const folder = await temporaryFolder(context);
    const path = format === 'raw' ? await makeRaw(folder) : await makeImage(folder, format, options);
    const outPath = join(folder, 'out.qcow2');
    const steps = new Set<string>();
    const result = await importImage({
      source: { kind: 'file', path },
      outPath,
      onProgress: ({ step }) => steps.add(step),
    });
    assert.equal(result.format, 'qcow2');
    assert.equal(result.sourceFormat, format);
    assert.equal(result.kind, 'disk');
    assert.ok(result.virtualSizeBytes >= DISK_BYTES && result.virtualSizeBytes < DISK_BYTES + 2 * MIB);
    assert.equal(
      result.sourceSha256,
      createHash('sha256')
        .update(await readFile(path))
        .digest('hex'),
    );
    assert.ok(result.sizeBytes < 12 * MIB, 'the holes of the disk were written out');
    assert.ok(steps.has('verifying') && steps.has('converting'));
    assert.deepEqual(await leftovers(folder, outPath), ['out.qcow2']);
    await holdsTheDisk(folder, outPath);
  });
}

for (const [extension, command] of [
  ['gz', ['gzip', '-k']],
  ['xz', ['xz', '-k', '-0']],
  ['zst', ['zstd', '-q', '-k']],
  ['bz2', ['bzip2', '-k']],
] as [string, [string, ...string[]]][]) {
  test(`an image packed as .${extension} is unpacked, and a cut-off one is called truncated`, async (context) => {
    const folder = await temporaryFolder(context);
    const plain = await makeImage(folder, 'qcow2');
    await run([...command, plain], { timeoutMs: 180_000 });
    const path = `${plain}.${extension}`;
    const outPath = join(folder, 'out.qcow2');
    const result = await importImage({ source: { kind: 'file', path }, outPath });
    assert.equal(result.sourceFormat, 'qcow2');
    await holdsTheDisk(folder, outPath);
    await truncate(path, Math.floor((await stat(path)).size / 2));
    await refuses('truncated', { source: { kind: 'file', path }, outPath: join(folder, 'cut.qcow2') });
  });
}

test('an ISO stays as it is', async (context) => {
  const folder = await temporaryFolder(context);
  await writeFile(join(folder, 'readme'), 'hello');
  const path = join(folder, 'disc.iso');
  await run(['xorriso', '-as', 'mkisofs', '-quiet', '-o', path, join(folder, 'readme')]);
  const outPath = join(folder, 'out.iso');
  const result = await importImage({ source: { kind: 'file', path }, outPath });
  assert.equal(result.kind, 'iso');
  assert.equal(result.format, 'raw');
  assert.ok((await readFile(outPath)).equals(await readFile(path)));
  await truncate(path, 40 * 1024);
  await refuses('truncated', { source: { kind: 'file', path }, outPath: join(folder, 'cut.iso') });
});

for (const [format, options] of [
  ['qcow2', []],
  ['vmdk', []],
  ['vmdk', ['-o', 'subformat=streamOptimized']],
  ['vdi', []],
  ['vhdx', []],
  ['vpc', []],
] as [string, string[]][]) {
  test(`a ${[format, ...options].join(' ')} image that was cut off is called truncated`, async (context) => {
    const folder = await temporaryFolder(context);
    const path = await makeImage(folder, format, options);
    await truncate(path, Math.floor((await stat(path)).size * 0.6));
    await refuses('truncated', { source: { kind: 'file', path }, outPath: join(folder, 'out.qcow2') });
  });
}

test('a raw disk that ends before its partition table says so is called truncated', async (context) => {
  const folder = await temporaryFolder(context);
  const path = await makeRaw(folder);
  const file = await open(path, 'r+');
  const header = Buffer.alloc(92);
  header.write('EFI PART', 0, 'latin1');
  header.writeBigUInt64LE(BigInt(DISK_BYTES / 512 - 1), 32);
  await file.write(header, 0, header.length, 512);
  await file.close();
  await truncate(path, DISK_BYTES - MIB);
  await refuses('truncated', { source: { kind: 'file', path }, outPath: join(folder, 'out.qcow2') });
});

test('a qcow2 image with damaged tables is called corrupt', async (context) => {
  const folder = await temporaryFolder(context);
  const path = await makeImage(folder, 'qcow2');
  const file = await open(path, 'r+');
  const header = Buffer.alloc(104);
  await file.read(header, 0, header.length, 0);
  const refcountTable = Number(header.readBigUInt64BE(48));
  // No cluster is counted any more, though the tables refer to many.
  await file.write(Buffer.alloc(8), 0, 8, refcountTable);
  await file.close();
  await refuses('corrupt', { source: { kind: 'file', path }, outPath: join(folder, 'out.qcow2') });
});

test('an overlay on a file outside is refused before anything opens that file', async (context) => {
  const folder = await temporaryFolder(context);
  const path = join(folder, 'overlay.qcow2');
  await run(['qemu-img', 'create', '-q', '-f', 'qcow2', '-u', '-b', '/etc/shadow', '-F', 'raw', path, '24M']);
  await refuses('backing-file', { source: { kind: 'file', path }, outPath: join(folder, 'out.qcow2') }, /Flatten/);
});

test('an image that keeps its data in another file is refused', async (context) => {
  const folder = await temporaryFolder(context);
  const path = join(folder, 'outside.qcow2');
  const data = join(folder, 'data.raw');
  await run(['qemu-img', 'create', '-q', '-f', 'qcow2', '-o', `data_file=${data},data_file_raw=on`, path, '24M']);
  await refuses('backing-file', { source: { kind: 'file', path }, outPath: join(folder, 'out.qcow2') });
});

test('VMDKs that need other files are refused: a descriptor, a split disk, an extent elsewhere', async (context) => {
  const folder = await temporaryFolder(context);
  const raw = await makeRaw(folder);
  const flat = join(folder, 'flat.vmdk');
  await run(['qemu-img', 'convert', '-f', 'raw', '-O', 'vmdk', '-o', 'subformat=monolithicFlat', raw, flat]);
  await refuses('format', { source: { kind: 'file', path: flat }, outPath: join(folder, 'out.qcow2') }, /descriptor/);

  const sparse = await makeImage(folder, 'vmdk');
  const bytes = await readFile(sparse);
  const at = bytes.indexOf('monolithicSparse');
  bytes.write('monolithicFlat" \n', at, 'latin1');
  const forged = join(folder, 'forged.vmdk');
  await writeFile(forged, bytes);
  await refuses('backing-file', { source: { kind: 'file', path: forged }, outPath: join(folder, 'out.qcow2') });
});

test('a disk of absurd size is refused, by its own claim and by the length of its file', async (context) => {
  const folder = await temporaryFolder(context);
  const path = join(folder, 'huge.qcow2');
  await run(['qemu-img', 'create', '-q', '-f', 'qcow2', '-o', 'cluster_size=2M', path, '100T']);
  await refuses('too-large', { source: { kind: 'file', path }, outPath: join(folder, 'out.qcow2') });
  const raw = await makeRaw(folder);
  await refuses('too-large', {
    source: { kind: 'file', path: raw },
    outPath: join(folder, 'out.qcow2'),
    maxFileSizeBytes: MIB,
  });
});

test('a packed image that unpacks to more than is allowed is refused', async (context) => {
  const folder = await temporaryFolder(context);
  const path = join(folder, 'bomb.raw');
  await writeFile(path, '');
  await truncate(path, 512 * MIB);
  await run(['zstd', '-q', '--rm', path]);
  await refuses('too-large', {
    source: { kind: 'file', path: `${path}.zst` },
    outPath: join(folder, 'out.qcow2'),
    maxFileSizeBytes: 100 * MIB,
  });
});

test('the declared format must be that of the content', async (context) => {
  const folder = await temporaryFolder(context);
  const outPath = join(folder, 'out.qcow2');
  const qcow2 = await makeImage(folder, 'qcow2');
  await refuses('format', { source: { kind: 'file', path: qcow2 }, outPath, format: 'raw' }, /qcow2/);
  await refuses('format', { source: { kind: 'file', path: qcow2 }, outPath, format: 'vdi' });
  const page = join(folder, 'page.html');
  await writeFile(page, '<html>Not found</html>'.padEnd(4096));
  await refuses('format', { source: { kind: 'file', path: page }, outPath }, /format raw/);
  const result = await importImage({ source: { kind: 'file', path: page }, outPath, format: 'raw' });
  assert.equal(result.virtualSizeBytes, 4096);
});

test('a wrong checksum is refused, the right one of either kind is taken', async (context) => {
  const folder = await temporaryFolder(context);
  const path = await makeImage(folder, 'qcow2');
  const outPath = join(folder, 'out.qcow2');
  const source = { kind: 'file', path } as const;
  const value = createHash('sha512')
    .update(await readFile(path))
    .digest('hex');
  await refuses('checksum', {
    source,
    outPath,
    checksum: { algorithm: 'sha512', value: value.replace(/^./, (c) => (c === '0' ? '1' : '0')) },
  });
  await refuses('invalid', { source, outPath, checksum: { algorithm: 'sha256', value } });
  await importImage({ source, outPath, checksum: { algorithm: 'sha512', value: value.toUpperCase() } });
  await holdsTheDisk(folder, outPath);
});

test('files that are no images are refused by name: missing, a folder, a device, empty', async (context) => {
  const folder = await temporaryFolder(context);
  const outPath = join(folder, 'out.qcow2');
  await refuses('not-found', { source: { kind: 'file', path: join(folder, 'none') }, outPath });
  await refuses('format', { source: { kind: 'file', path: folder }, outPath });
  await refuses('format', { source: { kind: 'file', path: '/dev/zero' }, outPath });
  const empty = join(folder, 'empty');
  await writeFile(empty, '');
  await refuses('format', { source: { kind: 'file', path: empty }, outPath });
  await refuses('truncated', { source: { kind: 'file', path: empty }, outPath, format: 'raw' });
});

test('what is there already is never overwritten', async (context) => {
  const folder = await temporaryFolder(context);
  const path = await makeImage(folder, 'qcow2');
  const outPath = join(folder, 'mine.qcow2');
  await copyFile(path, outPath);
  await assert.rejects(importImage({ source: { kind: 'file', path }, outPath }), { problem: 'invalid' });
  assert.ok((await readFile(outPath)).equals(await readFile(path)));
});

test('an uploaded stream is imported, and one that ends early is called truncated', async (context) => {
  const folder = await temporaryFolder(context);
  const path = await makeImage(folder, 'qcow2');
  const { size } = await stat(path);
  const outPath = join(folder, 'out.qcow2');
  const seen: ImportProgress[] = [];
  await importImage({
    source: { kind: 'stream', stream: createReadStream(path), sizeBytes: size },
    outPath,
    onProgress: (progress) => seen.push({ ...progress }),
  });
  await holdsTheDisk(folder, outPath);
  assert.deepEqual(seen.filter(({ step }) => step === 'fetching').at(-1), {
    step: 'fetching',
    done: size,
    total: size,
  });
  await refuses('truncated', {
    source: { kind: 'stream', stream: createReadStream(path, { end: 99_999 }), sizeBytes: size },
    outPath: join(folder, 'cut.qcow2'),
  });
});

test('a cancelled conversion leaves nothing', async (context) => {
  const folder = await temporaryFolder(context);
  const path = await makeImage(folder, 'qcow2');
  const abort = new AbortController();
  await refuses('aborted', {
    source: { kind: 'file', path },
    outPath: join(folder, 'out.qcow2'),
    signal: abort.signal,
    onProgress: ({ step }) => {
      if (step === 'checking') abort.abort();
    },
  });
});

test('inspecting names format, sizes and snapshots', async (context) => {
  const folder = await temporaryFolder(context);
  const path = await makeImage(folder, 'qcow2');
  await run(['qemu-img', 'snapshot', '-c', 'before-upgrade', path]);
  const info = await inspectImage(path);
  assert.equal(info.format, 'qcow2');
  assert.equal(info.virtualSizeBytes, DISK_BYTES);
  assert.equal(info.fileSizeBytes, (await stat(path)).size);
  assert.deepEqual(info.snapshotNames, ['before-upgrade']);
});

type Respond = (request: IncomingMessage, response: ServerResponse) => void;

/** An HTTP server on this machine, and the requests it got. */
async function serve(context: TestContext, respond: Respond): Promise<{ url: string; requests: IncomingMessage[] }> {
  const requests: IncomingMessage[] = [];
  const server = createServer((request, response) => {
    requests.push(request);
    respond(request, response);
  });
  await new Promise<void>((resolve) => {
    server.listen(0, '127.0.0.1', resolve);
  });
  atEnd(context, () => {
    server.closeAllConnections();
    server.close();
  });
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, requests };
}

/** Sends `body` as a server that knows ranges does; `cutAfter` breaks the connection after so many bytes. */
function sendRange(
  request: IncomingMessage,
  response: ServerResponse,
  body: Buffer,
  etag: string,
  cutAfter = Infinity,
): void {
  const match = /^bytes=(\d+)-$/.exec(request.headers.range ?? '');
  const isSame = request.headers['if-range'] === undefined || request.headers['if-range'] === etag;
  const offset = match && isSame ? Number(match[1]) : 0;
  const headers: Record<string, string> = { etag, 'content-length': String(body.length - offset) };
  if (offset > 0) headers['content-range'] = `bytes ${offset}-${body.length - 1}/${body.length}`;
  response.writeHead(offset > 0 ? 206 : 200, headers);
  const end = Math.min(body.length, offset + cutAfter);
  response.write(body.subarray(offset, end), () => {
    if (end < body.length) response.destroy();
    else response.end();
  });
}

const QUICK = { retryDelaysMs: [1, 1, 1], idleTimeoutMs: 5000 };

test('a download that breaks in the middle goes on where it was', async (context) => {
  const folder = await temporaryFolder(context);
  const body = await readFile(await makeImage(folder, 'qcow2'));
  let received = 0;
  const { url, requests } = await serve(context, (request, response) => {
    sendRange(request, response, body, '"one"', 3 * MIB);
    received += 1;
  });
  const outPath = join(folder, 'out.qcow2');
  const value = createHash('sha256').update(body).digest('hex');
  const done: number[] = [];
  await importImage({
    source: { kind: 'url', url: `${url}/disk.qcow2` },
    outPath,
    checksum: { algorithm: 'sha256', value },
    download: QUICK,
    onProgress: (progress) => {
      if (progress.step === 'fetching') done.push(progress.done);
    },
  });
  await holdsTheDisk(folder, outPath);
  assert.ok(received > 2, 'it came in one piece');
  assert.equal(requests[0]?.headers.range, undefined);
  assert.ok(requests.slice(1).every((request) => request.headers['if-range'] === '"one"'));
  assert.equal(done.at(-1), body.length);
  assert.deepEqual(
    done,
    done.toSorted((a, b) => a - b),
    'progress went backwards',
  );
});

test('a download goes on in a later import of the same target, and not if the file has changed', async (context) => {
  const folder = await temporaryFolder(context);
  const body = await readFile(await makeImage(folder, 'qcow2'));
  const state = { etag: '"one"', cutAfter: 2 * MIB, isDown: false };
  const { url, requests } = await serve(context, (request, response) => {
    if (state.isDown) response.writeHead(503).end();
    else {
      sendRange(request, response, body, state.etag, state.cutAfter);
      state.isDown = state.cutAfter < body.length;
    }
  });
  const outPath = join(folder, 'out.qcow2');
  const options: ImportOptions = { source: { kind: 'url', url: `${url}/d` }, outPath, download: QUICK };
  await assert.rejects(importImage(options), { problem: 'unreachable' });
  assert.deepEqual(await readdir(join(folder, '.out.qcow2.import')), ['fetched.part', 'fetched.part.json']);

  state.isDown = false;
  state.cutAfter = Infinity;
  const before = requests.length;
  await importImage(options);
  assert.match(requests[before]?.headers.range ?? '', /^bytes=\d+-$/);
  assert.equal(requests.length, before + 1);
  await holdsTheDisk(folder, outPath);

  const changed = { ...options, outPath: join(folder, 'changed.qcow2') };
  state.cutAfter = 2 * MIB;
  await assert.rejects(importImage(changed), { problem: 'unreachable' });
  Object.assign(state, { isDown: false, cutAfter: Infinity, etag: '"two"' });
  await importImage(changed);
  await holdsTheDisk(folder, changed.outPath);
});

test('a server without ranges or validators is asked for the whole again', async (context) => {
  const folder = await temporaryFolder(context);
  const body = await readFile(await makeImage(folder, 'qcow2'));
  let count = 0;
  const { url, requests } = await serve(context, (_request, response) => {
    count += 1;
    response.writeHead(200, { 'content-length': String(body.length) });
    if (count > 1) response.end(body);
    else response.write(body.subarray(0, MIB), () => response.destroy());
  });
  const outPath = join(folder, 'out.qcow2');
  await importImage({ source: { kind: 'url', url }, outPath, download: QUICK });
  assert.equal(requests.length, 2);
  assert.equal(requests[1]?.headers.range, undefined);
  await holdsTheDisk(folder, outPath);
});

test('a server that keeps silent is given up after the idle limit', async (context) => {
  const folder = await temporaryFolder(context);
  const { url } = await serve(context, (_request, response) => {
    response.writeHead(200, { 'content-length': '1000000' });
    response.write('x');
  });
  const outPath = join(folder, 'out.qcow2');
  const download = { retryDelaysMs: [1], idleTimeoutMs: 100 };
  await assert.rejects(importImage({ source: { kind: 'url', url }, outPath, download }), { problem: 'unreachable' });
});

test('redirects are followed, but not without end and not to other schemes', async (context) => {
  const folder = await temporaryFolder(context);
  const body = await readFile(await makeImage(folder, 'qcow2'));
  const { url } = await serve(context, (request, response) => {
    const [, kind, count = '0'] = (request.url ?? '').split('/');
    if (kind === 'file') response.writeHead(302, { location: 'file:///etc/passwd' }).end();
    else if (kind === 'loop') response.writeHead(302, { location: '/loop' }).end();
    else if (Number(count) > 0) response.writeHead(307, { location: `/hop/${Number(count) - 1}` }).end();
    else sendRange(request, response, body, '"one"');
  });
  const outPath = join(folder, 'out.qcow2');
  await refuses('address', { source: { kind: 'url', url: `${url}/file` }, outPath, download: QUICK });
  await refuses('address', { source: { kind: 'url', url: `${url}/loop` }, outPath, download: QUICK }, /redirects/);
  await importImage({ source: { kind: 'url', url: `${url}/hop/5` }, outPath, download: QUICK });
  await holdsTheDisk(folder, outPath);
});

test('addresses that are not taken, files that are not there and servers that are not there have their own errors', async (context) => {
  const folder = await temporaryFolder(context);
  const outPath = join(folder, 'out.qcow2');
  const from = (url: string): ImportOptions => ({ source: { kind: 'url', url }, outPath, download: QUICK });
  await refuses('address', from('file:///etc/passwd'));
  await refuses('address', from('ftp://127.0.0.1/disk'));
  await refuses('address', from('not an address'));
  await refuses('address', from('http://user:secret@127.0.0.1/'));
  const { url } = await serve(context, (request, response) => {
    response.writeHead(request.url === '/secret' ? 403 : 404).end();
  });
  await refuses('not-found', from(`${url}/none`), /404/);
  await refuses('unreachable', from(`${url}/secret`), /403/);
  await refuses('unreachable', from('http://127.0.0.1:1/'));
});

test('a file larger than allowed is refused before it is downloaded, and one that hides its size while it comes', async (context) => {
  const folder = await temporaryFolder(context);
  const outPath = join(folder, 'out.qcow2');
  const { url } = await serve(context, (request, response) => {
    if (request.url === '/told') response.writeHead(200, { 'content-length': String(10 * MIB) });
    for (let count = 0; count < 10; count++) response.write(Buffer.alloc(MIB, count));
    response.end();
  });
  for (const path of ['/told', '/untold']) {
    await refuses('too-large', {
      source: { kind: 'url', url: url + path },
      outPath,
      maxFileSizeBytes: 5 * MIB,
      download: QUICK,
    });
  }
});
