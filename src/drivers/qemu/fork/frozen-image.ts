// A frozen image: what QEMU writes when it saves a guest with the capability `mapped-ram`. Each page of memory lies at a
// place of its own, so the file's part with the guest's memory can itself be mapped, privately, as the memory of any
// number of copies. This reads where everything lies, and makes from the rest the stream that a copy loads: an ordinary
// migration stream in which the pages of the mapped memory are left out, since they are there already.
//
// https://www.qemu.org/docs/master/devel/migration/mapped-ram.html for the file, and for the stream
// https://www.qemu.org/docs/master/devel/migration/main.html with migration/savevm.c and migration/ram.c: its format is
// what lets different versions of QEMU migrate to each other, so it stays. What is not known is refused.

/** A guest's memory block, such as `pc.ram` or `vga.vram`. Bytes. */
export interface FrozenBlock {
  name: string;
  size: number;
  pageSize: number;
  /** Where in the file its pages lie, page N at `pagesOffset + N * pageSize`. A multiple of 1 MiB. */
  pagesOffset: number;
  /** Where in the file there is a bit for each page, lowest first: 1, it is there; 0, it is zeros whatever the file says. */
  bitmapOffset: number;
}

export interface FrozenLayout {
  blocks: FrozenBlock[];
  /** The stream up to the first section, without the source's capabilities: a copy needs none of them. */
  opening: Buffer;
  /** State of devices that comes before the pages: how much there is of memory that can be added and taken. */
  early: Buffer;
  /** Sections of the memory: their id in the stream, and whether they end with a footer. */
  section: { id: number; name: Buffer; hasFooter: boolean };
  totalSize: number;
  /** Where the devices' state begins: from here to the file's end the stream is taken as it is. */
  devicesOffset: number;
}

/** Gives some bytes of the file; fewer than asked for only at its end. */
export type ReadAt = (offset: number, length: number) => Buffer;

/** The file is not what QEMU's mapped-ram makes, or has something in it that is not known here. */
export class FrozenImageError extends Error {
  override name = 'FrozenImageError';
}

// migration/qemu-file.h, migration/savevm.c
const streamMagic = 0x5145564d;
const streamVersion = 3;
const sectionType = {
  end: 0x03,
  part: 0x02,
  start: 0x01,
  full: 0x04,
  configuration: 0x07,
  command: 0x08,
  footer: 0x7e,
} as const;
const subsection = 0x05;
const switchoverStart = 0x0b;
// migration/ram.c: RAM_SAVE_FLAG_*, in the bits below a page's offset.
const pageFlag = { zero: 0x02, totalSize: 0x04, page: 0x08, end: 0x10, multifdFlush: 0x200 } as const;
const flagMask = 0xfffn;
const mappedRamVersion = 1;
const ramVersion = 4;
/** No machine has as many; a damaged count ends here. */
const maxBlocks = 4096;
/** 128 TiB in blocks of 2 MiB. */
const maxAddedBlocks = 2 ** 26;
/** The stream is made in pieces of about so many bytes. */
const pieceBytes = 2 ** 20;

/** Reads on from a place in the file. */
class Cursor {
  readonly #readAt: ReadAt;
  at: number;

  constructor(readAt: ReadAt, at = 0) {
    this.#readAt = readAt;
    this.at = at;
  }

  take(length: number): Buffer {
    const bytes = this.#readAt(this.at, length);
    if (bytes.length < length) throw new FrozenImageError(`it ends at byte ${this.at + bytes.length}, too early`);
    this.at += length;
    return bytes;
  }

  byte(): number {
    return this.take(1).readUInt8();
  }

  peek(): number {
    return this.#readAt(this.at, 1)[0] ?? 0;
  }

  u32(): number {
    return this.take(4).readUInt32BE();
  }

  u64(): bigint {
    return this.take(8).readBigUInt64BE();
  }

  size(): number {
    return Number(this.u64());
  }

  shortString(): Buffer {
    return this.take(this.byte());
  }
}

/** Reads where everything lies. Throws {@link FrozenImageError}. */
export function readFrozenLayout(readAt: ReadAt): FrozenLayout {
  const cursor = new Cursor(readAt);
  if (cursor.u32() !== streamMagic || cursor.u32() !== streamVersion)
    throw new FrozenImageError('it does not begin as a migration stream of version 3');
  const opening = readOpening(cursor);
  expectByte(cursor, sectionType.start, 'the section of the memory');
  const id = cursor.u32();
  const name = cursor.shortString();
  if (name.toString('latin1') !== 'ram') throw unknown(`a section “${name.toString('latin1')}”`, cursor);
  const instance = cursor.u32();
  const version = cursor.u32();
  if (instance !== 0 || version !== ramVersion) throw unknown(`memory of version ${version}`, cursor);
  const total = cursor.u64();
  if ((total & flagMask) !== BigInt(pageFlag.totalSize)) throw unknown('the size of the memory', cursor);
  const totalSize = Number(total & ~flagMask);
  const blocks = readBlocks(cursor, totalSize);
  skipToEnd(cursor);
  const hasFooter = skipFooter(cursor, id);
  const early = readEarly(cursor, readAt);
  for (;;) {
    const type = cursor.byte();
    if (type === sectionType.command) {
      skipCommand(cursor);
      continue;
    }
    if (type !== sectionType.part && type !== sectionType.end) throw unknown(`a section of type ${type}`, cursor);
    if (cursor.u32() !== id) throw unknown('a second section that is saved in parts', cursor);
    skipToEnd(cursor);
    if (hasFooter) skipFooter(cursor, id);
    if (type === sectionType.end) break;
  }
  return { blocks, opening, early, section: { id, name, hasFooter }, totalSize, devicesOffset: cursor.at };
}

/** The configuration section, with the names of the source's capabilities taken out. */
function readOpening(cursor: Cursor): Buffer {
  const opening = Buffer.alloc(8);
  opening.writeUInt32BE(streamMagic, 0);
  opening.writeUInt32BE(streamVersion, 4);
  if (cursor.peek() !== sectionType.configuration) return opening;
  cursor.byte();
  const length = cursor.take(4);
  const machine = cursor.take(length.readUInt32BE());
  while (cursor.peek() === subsection) {
    cursor.byte();
    const name = cursor.shortString().toString('latin1');
    if (name !== 'configuration/capabilities') throw unknown(`the part “${name}”`, cursor);
    cursor.u32();
    for (let count = cursor.u32(); count > 0; count--) cursor.shortString();
  }
  return Buffer.concat([opening, Buffer.from([sectionType.configuration]), length, machine]);
}

/**
 * The state of devices that is saved before the pages (VMStateDescription.early_setup), of which there is one kind in a PC:
 * virtio-mem (hw/virtio/virtio-mem.c, vmstate_virtio_mem_device_early). The stream doesn't tell how long a section is;
 * that it is understood shows in its footer.
 */
function readEarly(cursor: Cursor, readAt: ReadAt): Buffer {
  const from = cursor.at;
  while (cursor.peek() === sectionType.full) {
    cursor.byte();
    const id = cursor.u32();
    const name = cursor.shortString().toString('latin1');
    cursor.u32();
    const version = cursor.u32();
    if (!name.endsWith('/virtio-mem-device-early') || version !== 1) throw unknown(`a section “${name}”`, cursor);
    cursor.u64();
    const regionSize = cursor.size();
    const blockSize = cursor.size();
    cursor.u32();
    cursor.u64();
    const blocks = regionSize / blockSize;
    if (!Number.isInteger(blocks) || blocks > maxAddedBlocks) throw unknown('memory that can be added', cursor);
    // A bit for each block, in words of 64.
    cursor.take(Math.ceil(blocks / 64) * 8);
    if (!skipFooter(cursor, id)) throw unknown('the end of a section', cursor);
  }
  return readAt(from, cursor.at - from);
}

function readBlocks(cursor: Cursor, totalSize: number): FrozenBlock[] {
  const blocks: FrozenBlock[] = [];
  for (let sum = 0; sum < totalSize;) {
    if (blocks.length === maxBlocks) throw new FrozenImageError(`it has more than ${maxBlocks} blocks of memory`);
    const name = cursor.shortString().toString('latin1');
    const size = cursor.size();
    if (cursor.u32() !== mappedRamVersion) throw unknown(`the place of ${name}`, cursor);
    const pageSize = cursor.size();
    const bitmapOffset = cursor.size();
    const pagesOffset = cursor.size();
    const isSound = size > 0 && pageSize >= 1024 && size % pageSize === 0 && pagesOffset > bitmapOffset;
    if (!isSound || bitmapOffset !== cursor.at) throw unknown(`the place of ${name}`, cursor);
    blocks.push({ name, size, pageSize, bitmapOffset, pagesOffset });
    cursor.at = pagesOffset + size;
    sum += size;
  }
  return blocks;
}

/** The source says that it has stopped; a copy doesn't need to know. */
function skipCommand(cursor: Cursor): void {
  const command = cursor.take(4);
  if (command.readUInt16BE(0) !== switchoverStart || command.readUInt16BE(2) !== 0)
    throw unknown(`command ${command.readUInt16BE(0)}`, cursor);
}

function skipToEnd(cursor: Cursor): void {
  for (;;) {
    const flags = Number(cursor.u64());
    if (flags === pageFlag.end) return;
    if (flags !== pageFlag.multifdFlush) throw unknown('something among the memory', cursor);
  }
}

/** Whether there was one. */
function skipFooter(cursor: Cursor, id: number): boolean {
  if (cursor.peek() !== sectionType.footer) return false;
  cursor.byte();
  if (cursor.u32() !== id) throw unknown('the end of a section', cursor);
  return true;
}

function expectByte(cursor: Cursor, wanted: number, what: string): void {
  const found = cursor.byte();
  if (found !== wanted) throw unknown(`a section of type ${found} instead of ${what}`, cursor);
}

function unknown(what: string, cursor: Cursor): FrozenImageError {
  return new FrozenImageError(`it has something unknown before byte ${cursor.at}: ${what}`);
}

/**
 * The stream that a copy loads whose blocks `mapped` are already in place, in pieces. The other blocks are in it: those of
 * firmware and display whole, and of those in `added`, which begin as zeros, what is no zeros.
 */
export function* deviceStream(
  layout: FrozenLayout,
  readAt: ReadAt,
  fileSize: number,
  { mapped, added = none }: { mapped: ReadonlySet<string>; added?: ReadonlySet<string> },
): Generator<Buffer> {
  const { opening, early, section, totalSize, blocks } = layout;
  const footer = section.hasFooter
    ? Buffer.concat([Buffer.from([sectionType.footer]), u32(section.id)])
    : Buffer.alloc(0);
  yield Buffer.concat([
    opening,
    Buffer.from([sectionType.start]),
    u32(section.id),
    shortString(section.name.toString('latin1')),
    u32(0),
    u32(ramVersion),
    u64(BigInt(totalSize) | BigInt(pageFlag.totalSize)),
    ...blocks.flatMap(({ name, size }) => [shortString(name), u64(BigInt(size))]),
    u64(BigInt(pageFlag.end)),
    footer,
    early,
    Buffer.from([sectionType.end]),
    u32(section.id),
  ]);
  for (const block of blocks) if (!mapped.has(block.name)) yield* pagesOf(block, readAt, added.has(block.name));
  yield Buffer.concat([
    u64(BigInt(pageFlag.end)),
    footer,
    readAt(layout.devicesOffset, fileSize - layout.devicesOffset),
  ]);
}

const none: ReadonlySet<string> = new Set();

function* pagesOf(block: FrozenBlock, readAt: ReadAt, isFresh: boolean): Generator<Buffer> {
  const bitmap = readAt(block.bitmapOffset, Math.ceil(block.size / block.pageSize / 8));
  const name = shortString(block.name);
  const zeros = Buffer.alloc(1);
  let parts: Buffer[] = [];
  let bytes = 0;
  for (let page = 0; page * block.pageSize < block.size; page++) {
    const offset = BigInt(page * block.pageSize);
    if (hasPage(bitmap, page)) {
      parts.push(u64(offset | BigInt(pageFlag.page)), name);
      parts.push(readAt(block.pagesOffset + page * block.pageSize, block.pageSize));
      bytes += block.pageSize;
    } else if (!isFresh) parts.push(u64(offset | BigInt(pageFlag.zero)), name, zeros);
    if (bytes < pieceBytes) continue;
    yield Buffer.concat(parts);
    parts = [];
    bytes = 0;
  }
  yield Buffer.concat(parts);
}

/** Whether a block's bitmap says that a page is there. */
export function hasPage(bitmap: Uint8Array, page: number): boolean {
  return (((bitmap[page >> 3] ?? 0) >> (page & 7)) & 1) === 1;
}

function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}

function u64(value: bigint): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64BE(value);
  return bytes;
}

function shortString(text: string): Buffer {
  const bytes = Buffer.from(text, 'latin1');
  return Buffer.concat([Buffer.from([bytes.length]), bytes]);
}
