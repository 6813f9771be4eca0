// Files in memory against the real kernel.
import assert from 'node:assert/strict';
import { open, stat, truncate } from 'node:fs/promises';
import { readSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { suite, test } from 'node:test';
import { MemoryFile, MemoryFileError, punchUnmarkedPages } from '../../src/host/memory-file.ts';
import { temporaryFolder } from '../support/temporary.ts';

const page = 4096;

void suite('files in memory', () => {
  void test('one is there for who has its path, until it is closed', async () => {
    const [one, other] = await MemoryFile.create(2);
    assert.ok(one && other);
    writeSync(one.descriptor, 'hello');
    const elsewhere = await open(one.path, 'r');
    assert.equal((await elsewhere.readFile()).toString(), 'hello');
    assert.equal((await stat(other.path)).size, 0, 'each is one of its own');
    const { path } = one;
    one.close();
    other.close();
    await assert.rejects(open(path, 'r'), 'it has no other name');
    await elsewhere.close();
  });

  void test('once it is sealed, nobody can change it', async () => {
    const [file] = await MemoryFile.create(1);
    assert.ok(file);
    writeSync(file.descriptor, 'as it was');
    const before = await open(file.path, 'r+');
    await file.seal();
    assert.throws(() => writeSync(file.descriptor, 'x', 0), { code: 'EPERM' });
    await assert.rejects(before.write('x', 0), { code: 'EPERM' });
    await assert.rejects(truncate(file.path, 0), { code: 'EPERM' });
    const bytes = Buffer.alloc(9);
    readSync(file.descriptor, bytes, 0, 9, 0);
    assert.equal(bytes.toString(), 'as it was');
    await before.close();
    file.close();
  });

  void test('pages without a mark become holes, the others stay', async (context) => {
    const path = join(await temporaryFolder(context), 'pages');
    const file = await open(path, 'w+');
    // The bitmap is at byte 100, the pages begin at 1 MiB; 20 of them hold something, two of those are not marked.
    await file.write(Buffer.alloc(20 * page, 'x'), 0, 20 * page, 2 ** 20 + 10 * page);
    const bitmap = Buffer.alloc(13);
    for (let index = 10; index < 30; index++) if (index !== 15 && index !== 22) bitmap[index >> 3]! |= 1 << (index & 7);
    await file.write(bitmap, 0, bitmap.length, 100);
    const places = { bitmapOffset: 100, pagesOffset: 2 ** 20, count: 100, pageSize: page };
    assert.equal(await punchUnmarkedPages(path, places), 2);
    for (let index = 10; index < 30; index++) {
      const bytes = Buffer.alloc(page);
      await file.read(bytes, 0, page, 2 ** 20 + index * page);
      assert.equal(bytes[0] === 0x78, index !== 15 && index !== 22, `page ${index}`);
    }
    await file.close();
    await assert.rejects(punchUnmarkedPages(join(path, 'none'), places), MemoryFileError);
  });
});
