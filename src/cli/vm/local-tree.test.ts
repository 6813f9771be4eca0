import assert from 'node:assert/strict';
import { mkdir, mkdtemp, readFile, readlink, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import type { TarEntry } from '../../lib/tar.ts';
import { readTree, TreeWriter } from './local-tree.ts';

async function folder(t: TestContext): Promise<string> {
  const path = await mkdtemp(join(tmpdir(), 'lodge-tree-'));
  t.after(() => rm(path, { recursive: true }));
  return path;
}

const facts = { mode: 0o644, modifiedAtS: 1_700_000_000 };
const file = (path: string, mode = 0o644): TarEntry => ({ path, mode, modifiedAtS: 0, type: 'file', size: 4 });

async function* bytes(text = 'text'): AsyncGenerator<Uint8Array, void> {
  yield Buffer.from(text);
}

test('a folder is told with permissions and links, which are not followed', async (t) => {
  const root = await folder(t);
  await mkdir(join(root, 'sub'), { mode: 0o750 });
  await writeFile(join(root, 'sub/a'), 'hello', { mode: 0o600 });
  await symlink('/etc', join(root, 'out'));
  const { entries, skipped } = await readTree(root);
  assert.deepEqual(
    entries.map(({ path, type, mode }) => [path, type, mode.toString(8)]),
    [
      ['', 'folder', '700'],
      ['out', 'symlink', '777'],
      ['sub', 'folder', '750'],
      ['sub/a', 'file', '600'],
    ],
  );
  assert.deepEqual(skipped, []);
  await symlink(root, join(root, 'sub/self'));
  assert.equal((await readTree(join(root, 'sub/self'))).entries[0]?.type, 'folder');
});

test('what a guest sends is written with permissions, but never as set-user-id', async (t) => {
  const root = join(await folder(t), 'new');
  const writer = new TreeWriter(root);
  await writer.add({ ...facts, path: '', mode: 0o755, type: 'folder' }, bytes(''));
  await writer.add({ ...facts, path: 'closed', mode: 0o500, type: 'folder' }, bytes(''));
  await writer.add(file('closed/run', 0o4755), bytes());
  await writer.add({ ...facts, path: 'link', type: 'symlink', target: '../elsewhere' }, bytes(''));
  await writer.add({ ...facts, path: 'same', type: 'hardlink', target: 'closed/run' }, bytes(''));
  await writer.add({ ...facts, path: 'device', type: 'other' }, bytes(''));
  await writer.finish();
  assert.equal((await stat(join(root, 'closed/run'))).mode & 0o7777, 0o755);
  assert.equal((await stat(join(root, 'closed'))).mode & 0o777, 0o500);
  assert.equal(await readlink(join(root, 'link')), '../elsewhere');
  assert.equal((await stat(join(root, 'same'))).nlink, 2);
  assert.deepEqual(writer.skipped, ['device']);
  assert.equal(writer.files, 1);
});

test('a guest can not write outside the folder', async (t) => {
  const root = await folder(t);
  const writer = new TreeWriter(join(root, 'in'));
  for (const path of ['../a', 'b/../../a', '/etc/a', 'a\0b']) {
    await assert.rejects(writer.add(file(path), bytes()), /leads out of the folder/, path);
  }
});

test('a guest can not write through a link, be it one it sent or one that was there', async (t) => {
  const root = await folder(t);
  await mkdir(join(root, 'secret'));
  await writeFile(join(root, 'secret/key'), 'mine');
  await mkdir(join(root, 'in'));
  await symlink(join(root, 'secret'), join(root, 'in/there'));
  await symlink(join(root, 'secret/key'), join(root, 'in/key'));
  const writer = new TreeWriter(join(root, 'in'));
  await assert.rejects(writer.add(file('there/key'), bytes()), /is there already, and is no folder/);
  // A link in the place of a file is replaced, not followed.
  await writer.add(file('key'), bytes());
  await writer.add({ ...facts, path: 'sent', type: 'symlink', target: join(root, 'secret') }, bytes(''));
  await writer.add({ ...facts, path: 'hard', type: 'hardlink', target: 'sent/key' }, bytes(''));
  await assert.rejects(writer.finish(), /is there already, and is no folder/);
  assert.equal(await readFile(join(root, 'secret/key'), 'utf8'), 'mine');
  assert.equal(await readFile(join(root, 'in/key'), 'utf8'), 'text');
});
