// What QEMU writes when a guest's memory is frozen (src/drivers/qemu/fork/freeze.ts), made without QEMU: for tests of what
// reads it.
const mib = 2 ** 20;
const page = 4096;

export function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}

export function u64(value: number): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64BE(BigInt(value));
  return bytes;
}

export function named(text: string): Buffer {
  return Buffer.from([text.length, ...Buffer.from(text)]);
}

/** A block of memory, page by page; `null` is a page of zeros. */
export interface FrozenBlockContent {
  name: string;
  pages: (string | null)[];
}

/** What stands between the memory and what was written to it meanwhile in the file of a guest with a virtio-mem device of so many blocks of 2 MiB. */
export function addedMemoryState(blocks: number, change: { version?: number; footer?: number } = {}): Buffer {
  return Buffer.concat([
    Buffer.from([4]),
    ...[u32(9), named('0000:00:07.0/02.0/virtio-mem-device-early'), u32(0), u32(change.version ?? 1)],
    ...[u64(0x1_0000_0000), u64(blocks * 2 * mib), u64(2 * mib), u32(0)],
    ...[u64(4 * mib), Buffer.alloc(Math.ceil(blocks / 64) * 8, 0x03)],
    ...[Buffer.from([0x7e]), u32(change.footer ?? 9)],
  ]);
}

/** A file as QEMU 10.0 writes it, with these blocks. */
export function frozenFile(
  blocks: readonly FrozenBlockContent[],
  change: { command?: number; section?: string; early?: Buffer } = {},
): Buffer {
  const file = Buffer.alloc((blocks.length + 2) * mib);
  let at = 0;
  const put = (...parts: Buffer[]): void => {
    for (const part of parts) at += part.copy(file, at);
  };
  put(Buffer.from('QEVM'), u32(3), Buffer.from([7]), u32(11), Buffer.from('pc-q35-10.0'));
  put(Buffer.from([5]), named('configuration/capabilities'), u32(1), u32(1), named('mapped-ram'));
  put(Buffer.from([1]), u32(2), named(change.section ?? 'ram'), u32(0), u32(4));
  put(u64(blocks.reduce((sum, { pages }) => sum + pages.length * page, 0) + 4));
  for (const { name, pages } of blocks) {
    put(named(name), u64(pages.length * page));
    const bitmapAt = at + 28;
    const pagesAt = Math.ceil((bitmapAt + 8) / mib) * mib;
    put(u32(1), u64(page), u64(bitmapAt), u64(pagesAt));
    for (const [index, text] of pages.entries()) {
      if (text === null) continue;
      file[bitmapAt + (index >> 3)]! |= 1 << (index & 7);
      file.fill(text, pagesAt + index * page, pagesAt + (index + 1) * page);
    }
    at = pagesAt + pages.length * page;
  }
  put(u64(0x200), u64(0x10), Buffer.from([0x7e]), u32(2));
  put(change.early ?? Buffer.alloc(0));
  put(Buffer.from([2]), u32(2), u64(0x10), Buffer.from([0x7e]), u32(2));
  put(Buffer.from([8, 0, change.command ?? 0x0b, 0, 0]));
  put(Buffer.from([3]), u32(2), u64(0x200), u64(0x10), Buffer.from([0x7e]), u32(2));
  put(Buffer.from('DEVICES'));
  return file.subarray(0, at);
}
