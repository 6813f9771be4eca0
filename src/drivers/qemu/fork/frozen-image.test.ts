import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import {
  addedMemoryState,
  frozenFile,
  named,
  u32,
  u64,
  type FrozenBlockContent,
} from '../../../../test/support/frozen-file.ts';
import { deviceStream, FrozenImageError, hasPage, readFrozenLayout, type ReadAt } from './frozen-image.ts';
import { expectedPagesOffset, mostBytes } from './fork.ts';

const mib = 2 ** 20;
const page = 4096;

function reader(file: Buffer): ReadAt {
  return (offset, length) => file.subarray(offset, offset + length);
}

const ram: FrozenBlockContent = { name: 'pc.ram', pages: ['a', null, 'c', null, null, null, null, null, null, 'j'] };
const rom: FrozenBlockContent = { name: 'pc.rom', pages: ['r', null] };

function streamOf(file: Buffer, added: ReadonlySet<string> = new Set()): Buffer {
  const parts = { mapped: new Set(['pc.ram']), added };
  return Buffer.concat([...deviceStream(readFrozenLayout(reader(file)), reader(file), file.length, parts)]);
}

void suite('frozen image', () => {
  void test('the place of every block is read', () => {
    const file = frozenFile([ram, rom]);
    const { blocks, totalSize } = readFrozenLayout(reader(file));
    assert.deepEqual(
      blocks.map(({ name, size, pagesOffset }) => ({ name, size, pagesOffset })),
      [
        { name: 'pc.ram', size: 10 * page, pagesOffset: mib },
        { name: 'pc.rom', size: 2 * page, pagesOffset: 2 * mib },
      ],
    );
    assert.equal(totalSize, 12 * page);
    assert.equal(
      file.toString('latin1', blocks[0]!.pagesOffset + 9 * page, blocks[0]!.pagesOffset + 9 * page + 1),
      'j',
    );
  });

  void test('the stream has the other blocks whole, nothing of the mapped one, and no capability of the source', () => {
    const file = frozenFile([ram, rom]);
    const stream = streamOf(file);
    const footer = Buffer.concat([Buffer.from([0x7e]), u32(2)]);
    assert.deepEqual(
      stream,
      Buffer.concat([
        Buffer.from('QEVM'),
        u32(3),
        Buffer.from([7]),
        u32(11),
        Buffer.from('pc-q35-10.0'),
        Buffer.from([1]),
        u32(2),
        named('ram'),
        u32(0),
        u32(4),
        u64(12 * page + 4),
        ...[named('pc.ram'), u64(10 * page), named('pc.rom'), u64(2 * page)],
        u64(0x10),
        footer,
        Buffer.from([3]),
        u32(2),
        ...[u64(0x08), named('pc.rom'), Buffer.alloc(page, 'r')],
        ...[u64(page + 0x02), named('pc.rom'), Buffer.from([0])],
        u64(0x10),
        footer,
        Buffer.from('DEVICES'),
      ]),
    );
  });

  void test('of memory that was added, the stream has what is no zeros, and before that how much there is of it', () => {
    const early = addedMemoryState(130);
    const more: FrozenBlockContent = { name: 'memory0-ram', pages: [null, 'm', null, ...Array(300).fill('n')] };
    const file = frozenFile([more, ram], { early });
    const { blocks } = readFrozenLayout(reader(file));
    assert.deepEqual(
      blocks.map(({ name }) => name),
      ['memory0-ram', 'pc.ram'],
    );
    const stream = streamOf(file, new Set(['memory0-ram']));
    const at = stream.indexOf(early);
    assert.ok(at > stream.indexOf('pc.ram') && at < stream.indexOf(Buffer.alloc(page, 'm')), `it is at byte ${at}`);
    const pageAt = (index: number, text: string): Buffer =>
      Buffer.concat([u64(index * page + 0x08), named('memory0-ram'), Buffer.alloc(page, text)]);
    assert.ok(stream.includes(Buffer.concat([pageAt(1, 'm'), pageAt(3, 'n'), pageAt(4, 'n')])));
    assert.ok(stream.includes(pageAt(302, 'n')));
    for (const zero of [0, 2])
      assert.ok(!stream.includes(Buffer.concat([u64(zero * page + 0x02), named('memory0-ram')])));
    // Blocks that don't begin as zeros have theirs.
    assert.ok(streamOf(file).includes(Buffer.concat([u64(0x02), named('memory0-ram'), Buffer.from([0])])));
  });

  void test('a page counts by its bit, lowest first', () => {
    assert.deepEqual(
      [0, 1, 2, 8, 9, 16].map((index) => hasPage(Buffer.from([0b101, 0b10]), index)),
      [true, false, true, false, true, false],
    );
  });

  void test('what is not known is refused', () => {
    const refused: [string, Buffer][] = [
      ['no stream', Buffer.alloc(4 * mib)],
      ['a command', frozenFile([ram], { command: 1 })],
      ['another section', frozenFile([ram], { section: 'dirty-bitmap' })],
      ['cut short', frozenFile([ram, rom]).subarray(0, 2 * mib - 10)],
      ['another version of a device', frozenFile([ram], { early: addedMemoryState(4, { version: 2 }) })],
      ['a device that is longer', frozenFile([ram], { early: addedMemoryState(4, { footer: 8 }) })],
      ['empty', Buffer.alloc(0)],
    ];
    for (const [what, file] of refused) assert.throws(() => readFrozenLayout(reader(file)), FrozenImageError, what);
  });

  void test('where the first block begins follows from its size', () => {
    for (const [size, offset] of [
      [16 * mib, mib],
      [256 * mib, mib],
      [16 * 1024 * mib, mib],
      [32 * 1024 * mib, 2 * mib],
      [64 * 1024 * mib, 3 * mib],
    ] as const)
      assert.equal(expectedPagesOffset(size), offset, `${size / mib} MiB`);
  });

  void test('the most a file takes counts marked pages, and what lies between the blocks', () => {
    const file = frozenFile([ram, rom]);
    const { blocks, devicesOffset } = readFrozenLayout(reader(file));
    // Three pages and one; the head of each block in one page; the end of the stream in one.
    assert.equal(mostBytes(blocks, devicesOffset, file.length, reader(file)), (3 + 1 + 1 + 1 + 1) * page);
  });
});
