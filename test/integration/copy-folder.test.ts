// lodge vm cp -r against a guest that is a folder of this machine with a shell and some programs: with tar and gzip,
// with tar alone, and with neither. What GNU's programs make of it is seen here, busybox's in test/qemu/guests.test.ts.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { createReadStream, createWriteStream } from 'node:fs';
import { chmod, mkdir, readdir, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { test, type TestContext } from 'node:test';
import type { ExecOutput } from '../../src/api/vm-guest.ts';
import { copyFolderIn, copyFolderOut, type CopyProgress } from '../../src/cli/vm/copy-folder.ts';
import type { Session } from '../../src/cli/connect/session.ts';
import { run } from '../../src/host/command.ts';
import { temporaryFolder } from '../support/temporary.ts';

const always = ['sh', 'mkdir', 'chmod', 'ln', 'rm', 'find', 'stat', 'readlink'];

/** A session whose VM is this machine, with nothing in PATH but some programs. */
async function session(t: TestContext, programs: readonly string[]): Promise<Session> {
  const bin = await temporaryFolder(t);
  for (const name of [...always, ...programs]) {
    const { stdout } = await run(['sh', '-c', 'command -v "$1"', 'sh', name]);
    await symlink(stdout.trim(), join(bin, name));
  }
  async function* exec({ body }: { body: { command: string[]; input?: string } }): AsyncGenerator<ExecOutput, void> {
    const [program = '', ...args] = body.command;
    const child = spawn(join(bin, program), args, { env: { PATH: bin }, stdio: 'pipe' });
    child.stdin.on('error', () => {});
    child.stdin.end(Buffer.from(body.input ?? '', 'base64'));
    const ended = new Promise<number | null>((resolve) => child.once('close', resolve));
    const [stdout, stderr] = await Promise.all([child.stdout.toArray(), child.stderr.toArray()]);
    yield { type: 'stdout', data: Buffer.concat(stdout as Buffer[]).toString('base64') };
    yield { type: 'stderr', data: Buffer.concat(stderr as Buffer[]).toString('base64') };
    yield { type: 'exit', code: await ended, signal: null };
  }
  const vm = {
    exec,
    readFile: ({ query }: { query: { path: string } }) => Promise.resolve(createReadStream(query.path)),
    writeFile: ({ query, body }: { query: { path: string }; body: AsyncIterable<Uint8Array> }) =>
      pipeline(Readable.from(body), createWriteStream(query.path)),
  };
  return { client: { vm }, project: 'default' } as unknown as Session;
}

async function tree(t: TestContext): Promise<string> {
  const root = join(await temporaryFolder(t), 'site');
  await mkdir(join(root, 'sub/empty'), { recursive: true });
  await writeFile(join(root, 'a file'), 'hello');
  await writeFile(join(root, "it's $HOME.txt"), 'x'.repeat(5000));
  await writeFile(join(root, 'sub/run.sh'), '#!/bin/sh\n', { mode: 0o755 });
  await writeFile(join(root, 'sub/none'), '');
  await writeFile(join(root, `sub/${'n'.repeat(120)}`), 'long');
  await symlink('../a file', join(root, 'sub/link'));
  await symlink('/nowhere', join(root, 'dangling'));
  await chmod(join(root, 'a file'), 0o640);
  await chmod(join(root, 'sub'), 0o750);
  return root;
}

/** What a folder has: kind, permissions, size or target, and path of everything in it. */
async function listing(folder: string): Promise<string[]> {
  const { stdout } = await run([
    'find',
    folder,
    '-mindepth',
    '1',
    '-printf',
    '%y %m %l %P\t',
    '-type',
    'f',
    '-printf',
    '%s',
  ]);
  return stdout.split('\t').toSorted();
}

const silent: CopyProgress = { count: () => {}, expect: () => {}, say: () => {} };
const never = new AbortController().signal;

for (const [title, programs] of [
  ['with tar and gzip', ['tar', 'gzip']],
  ['with tar alone', ['tar']],
  ['without tar', []],
] as const) {
  test(`a folder goes into a guest ${title} and comes back as it was`, async (t) => {
    const guest = await session(t, programs);
    const source = await tree(t);
    const inside = await temporaryFolder(t);
    const sent = await copyFolderIn(guest, source, 'web1', inside, silent, never);
    assert.equal(sent.target, join(inside, 'site'));
    assert.equal(sent.files, 5);
    assert.deepEqual(await listing(sent.target), await listing(source));
    const back = join(await temporaryFolder(t), 'back');
    const fetched = await copyFolderOut(guest, 'web1', sent.target, back, silent, never);
    assert.equal(fetched.target, back);
    assert.deepEqual(await listing(back), await listing(source));
    await run(['diff', '-r', '--no-dereference', source, back]);
    // The archive is gone, and a second copy goes into the folder that is there now.
    assert.deepEqual((await readdir(inside)).toSorted(), ['site']);
    const again = await copyFolderOut(guest, 'web1', sent.target, back, silent, never);
    assert.equal(again.target, join(back, 'site'));
  });
}

test('what is in a folder goes into one that is there, and into one that is made', async (t) => {
  const guest = await session(t, ['tar', 'gzip']);
  const source = await tree(t);
  const inside = await temporaryFolder(t);
  await copyFolderIn(guest, `${source}/.`, 'web1', inside, silent, never);
  assert.deepEqual(await listing(inside), await listing(source));
  const { target } = await copyFolderIn(guest, source, 'web1', join(inside, 'new'), silent, never);
  assert.equal(target, join(inside, 'new'));
});

test('a place that can not be written to is told in the guest’s words, and nothing is left in it', async (t) => {
  const guest = await session(t, ['tar', 'gzip']);
  const source = await tree(t);
  const inside = await temporaryFolder(t);
  await assert.rejects(copyFolderIn(guest, source, 'web1', join(inside, 'no/such'), silent, never), {
    code: 'hypervisor_failed',
    message: /no\/such in web1 failed: mkdir: .*No such file or directory$/,
  });
  await writeFile(join(inside, 'file'), '');
  await assert.rejects(copyFolderIn(guest, source, 'web1', join(inside, 'file'), silent, never), /is no folder/);
  await assert.rejects(copyFolderOut(guest, 'web1', join(inside, 'file'), join(inside, 'x'), silent, never), {
    code: 'not_found',
  });
  assert.deepEqual(await readdir(inside), ['file']);
});

test('a copy that fails in the middle leaves no archive in the guest', async (t) => {
  const guest = await session(t, ['tar', 'gzip']);
  const source = await tree(t);
  const inside = await temporaryFolder(t);
  const stop = new AbortController();
  const progress: CopyProgress = { ...silent, count: () => stop.abort(new Error('enough')) };
  const writeFile = async ({ body }: { body: AsyncIterable<Uint8Array> }): Promise<void> => {
    for await (const _chunk of body) stop.signal.throwIfAborted();
  };
  const broken = { ...guest, client: { vm: { ...guest.client.vm, writeFile } } } as unknown as Session;
  await assert.rejects(copyFolderIn(broken, source, 'web1', inside, progress, stop.signal), { message: 'enough' });
  assert.deepEqual(await readdir(join(inside, 'site')), []);
});
