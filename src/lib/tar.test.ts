import assert from 'node:assert/strict';
import { test } from 'node:test';
import { readTar, TarError, writeTar, type TarEntry } from './tar.ts';

const facts = { mode: 0o644, modifiedAtS: 1_700_000_000 };

async function pack(entries: TarEntry[], contents: Record<string, string> = {}): Promise<Buffer> {
  const chunks: Uint8Array[] = [];
  const content = async function* (path: string): AsyncGenerator<Uint8Array, void> {
    yield Buffer.from(contents[path] ?? '');
  };
  for await (const chunk of writeTar(entries, content)) chunks.push(chunk);
  return Buffer.concat(chunks);
}

async function* pieces(archive: Buffer, size: number): AsyncGenerator<Uint8Array, void> {
  for (let start = 0; start < archive.length; start += size) yield archive.subarray(start, start + size);
}

async function unpack(archive: Buffer, size = 1000): Promise<{ entry: TarEntry; text: string }[]> {
  const found: { entry: TarEntry; text: string }[] = [];
  for await (const { entry, content } of readTar(pieces(archive, size))) {
    let text = '';
    for await (const chunk of content) text += Buffer.from(chunk).toString();
    found.push({ entry, text });
  }
  return found;
}

test('what is written is read again, whatever the sizes of the pieces', async () => {
  const long = `${'x'.repeat(90)}/${'ü'.repeat(60)}`;
  const entries: TarEntry[] = [
    { ...facts, path: '', mode: 0o750, type: 'folder' },
    { ...facts, path: 'a file.txt', type: 'file', size: 5 },
    { ...facts, path: 'empty', type: 'file', size: 0 },
    { ...facts, path: long, mode: 0o755, type: 'file', size: 600 },
    { ...facts, path: 'link', type: 'symlink', target: `../${'t'.repeat(150)}` },
    { ...facts, path: 'sub', type: 'folder' },
    { ...facts, path: 'hard', type: 'hardlink', target: 'a file.txt' },
  ];
  const contents = { 'a file.txt': 'hello', [long]: 'y'.repeat(600) };
  const archive = await pack(entries, contents);
  assert.equal(archive.length % 512, 0);
  for (const size of [1, 511, 512, 100_000]) {
    const found = await unpack(archive, size);
    assert.deepEqual(
      found.map(({ entry }) => entry),
      entries,
    );
    assert.deepEqual(
      found.map(({ text }) => text),
      ['', 'hello', '', 'y'.repeat(600), '', '', ''],
    );
  }
});

test('content that nobody reads is passed over', async () => {
  const archive = await pack(
    [
      { ...facts, path: 'a', type: 'file', size: 2000 },
      { ...facts, path: 'b', type: 'file', size: 1 },
    ],
    { a: 'a'.repeat(2000), b: 'b' },
  );
  const paths: string[] = [];
  for await (const { entry } of readTar(pieces(archive, 300))) paths.push(entry.path);
  assert.deepEqual(paths, ['a', 'b']);
});

test('a file that grew or shrank meanwhile is an error, not a broken archive', async () => {
  await assert.rejects(pack([{ ...facts, path: 'a', type: 'file', size: 3 }], { a: 'toolong' }), TarError);
  await assert.rejects(pack([{ ...facts, path: 'a', type: 'file', size: 9 }], { a: 'short' }), {
    message: 'a changed while it was copied',
  });
});

test('an archive that is cut off, or none at all, is told as such', async () => {
  const archive = await pack([{ ...facts, path: 'a', type: 'file', size: 600 }], { a: 'a'.repeat(600) });
  await assert.rejects(unpack(archive.subarray(0, 700)), { name: 'TarError', message: 'the archive is cut off' });
  await assert.rejects(unpack(archive.subarray(0, 100)), { message: 'the archive is cut off' });
  await assert.rejects(unpack(archive.subarray(0, 1536)), { message: 'the archive is cut off' });
  await assert.rejects(unpack(Buffer.alloc(1024, 'x')), { message: 'this is not a tar archive' });
});
