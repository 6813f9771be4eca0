// Writes cpio archives in the "newc" format, the one the Linux kernel unpacks as an initramfs
// (Documentation/driver-api/early-userspace/buffer-format.rst). Promises that the same entries give the same bytes:
// owner root, time 0, inode numbers in order.

export type CpioEntry =
  | { path: string; type: 'file'; mode: number; data: Uint8Array }
  | { path: string; type: 'directory'; mode: number }
  | { path: string; type: 'symlink'; target: string }
  | { path: string; type: 'character-device'; mode: number; major: number; minor: number };

const TYPE_BITS = { file: 0o100000, directory: 0o040000, symlink: 0o120000, 'character-device': 0o020000 } as const;
const TRAILER = 'TRAILER!!!';

const hex = (value: number): string => value.toString(16).toUpperCase().padStart(8, '0');

function header(inode: number, mode: number, links: number, size: number, device: [number, number], name: Buffer) {
  const fields = [inode, mode, 0, 0, links, 0, size, 0, 0, device[0], device[1], name.length + 1, 0];
  return Buffer.concat([Buffer.from(`070701${fields.map(hex).join('')}`, 'latin1'), name, Buffer.from([0])]);
}

/** Zero bytes up to the next multiple of four, where the format wants each header and each file's data to start. */
const padding = (length: number): Buffer => Buffer.alloc((4 - (length % 4)) % 4);

/** The archive with these entries, in their order: a directory must come before what is in it. Paths have no leading slash. */
export function writeCpio(entries: readonly CpioEntry[]): Buffer {
  const parts: Buffer[] = [];
  const append = (name: string, mode: number, links: number, data: Uint8Array, device: [number, number]): void => {
    const inode = name === TRAILER ? 0 : parts.length / 4 + 1;
    const head = header(inode, mode, links, data.length, device, Buffer.from(name, 'utf8'));
    parts.push(
      head,
      padding(head.length),
      Buffer.from(data.buffer, data.byteOffset, data.length),
      padding(data.length),
    );
  };
  for (const entry of entries) {
    if (entry.path.startsWith('/') || entry.path.split('/').includes('..') || entry.path.includes('\0')) {
      throw new RangeError(`cpio: ${JSON.stringify(entry.path)} is not a relative path inside the archive`);
    }
    const permissions = entry.type === 'symlink' ? 0o777 : entry.mode;
    append(
      entry.path,
      TYPE_BITS[entry.type] | permissions,
      entry.type === 'directory' ? 2 : 1,
      entry.type === 'file' ? entry.data : entry.type === 'symlink' ? Buffer.from(entry.target) : Buffer.alloc(0),
      entry.type === 'character-device' ? [entry.major, entry.minor] : [0, 0],
    );
  }
  append(TRAILER, 0, 1, Buffer.alloc(0), [0, 0]);
  return Buffer.concat(parts);
}
