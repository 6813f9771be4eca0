// Archives in the tar format, both ways and in pieces: ustar with pax headers is written (IEEE Std 1003.1, pax,
// "ustar Interchange Format" and "pax Extended Header"), and what GNU tar, busybox, bsdtar and Go write is read.
// Only what a copied folder has is kept: folders, files, symbolic and hard links. What else comes by is told as `other`.

const BLOCK = 512;
/** Longest extended header that is read, bytes. A path has 4 KiB at most. */
const MAX_EXTENDED_BYTES = 1024 * 1024;

/** Without a leading "./" or a "/" at the end; "" is the folder itself. */
export type TarEntry = { path: string; mode: number; modifiedAtS: number } & (
  | { type: 'folder' }
  | { type: 'file'; size: number }
  | { type: 'symlink'; target: string }
  | { type: 'hardlink'; target: string }
  | { type: 'other' }
);

/** What is no archive, or one that is cut off. */
export class TarError extends Error {
  override name = 'TarError';
}

function octal(value: number, width: number): string {
  return `${value.toString(8).padStart(width - 1, '0')}\0`;
}

function header(name: string, type: string, size: number, mode: number, modifiedAtS: number, link: string): Buffer {
  const block = Buffer.alloc(BLOCK);
  block.write(name, 0, 100);
  block.write(octal(mode, 8), 100);
  block.write(octal(0, 8), 108);
  block.write(octal(0, 8), 116);
  block.write(octal(size, 12), 124);
  block.write(octal(Math.max(0, Math.floor(modifiedAtS)), 12), 136);
  block.write(' '.repeat(8), 148);
  block.write(type, 156);
  block.write(link, 157, 100);
  block.write('ustar\u000000', 257);
  const sum = block.reduce((total, byte) => total + byte, 0);
  block.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148);
  return block;
}

/** "LENGTH KEY=VALUE\n", where the length counts itself. */
function paxRecord(key: string, value: string): string {
  const rest = Buffer.byteLength(` ${key}=${value}\n`);
  let length = rest + String(rest).length;
  length = rest + String(length).length;
  return `${length} ${key}=${value}\n`;
}

function padding(size: number): Buffer {
  return Buffer.alloc((BLOCK - (size % BLOCK)) % BLOCK);
}

/** The bytes in front of an entry's content. */
function tarHeader(entry: TarEntry): Buffer {
  const type = { folder: '5', file: '0', symlink: '2', hardlink: '1', other: '0' }[entry.type];
  const name = entry.type === 'folder' ? `./${entry.path}/`.replace('.//', './') : `./${entry.path}`;
  const size = entry.type === 'file' ? entry.size : 0;
  const link = entry.type === 'symlink' || entry.type === 'hardlink' ? entry.target : '';
  const records = [
    ...(Buffer.byteLength(name) > 100 ? [paxRecord('path', name)] : []),
    ...(Buffer.byteLength(link) > 100 ? [paxRecord('linkpath', link)] : []),
    ...(size >= 8 ** 11 ? [paxRecord('size', String(size))] : []),
  ].join('');
  const own = header(name, type, size >= 8 ** 11 ? 0 : size, entry.mode, entry.modifiedAtS, link);
  if (records === '') return own;
  const extended = Buffer.from(records);
  const before = header('./pax-header', 'x', extended.length, 0o644, 0, '');
  return Buffer.concat([before, extended, padding(extended.length), own]);
}

/**
 * Writes an archive. `content` is asked for each file in turn, and must give exactly as many bytes as its entry says:
 * throws {@link TarError} for a file that changed meanwhile.
 */
export async function* writeTar(
  entries: readonly TarEntry[],
  content: (path: string) => AsyncIterable<Uint8Array>,
): AsyncGenerator<Uint8Array, void> {
  for (const entry of entries) {
    yield tarHeader(entry);
    if (entry.type !== 'file') continue;
    let sent = 0;
    if (entry.size > 0) {
      for await (const chunk of content(entry.path)) {
        sent += chunk.length;
        if (sent > entry.size) break;
        yield chunk;
      }
    }
    if (sent !== entry.size) throw new TarError(`${entry.path} changed while it was copied`);
    if (sent % BLOCK > 0) yield padding(sent);
  }
  yield Buffer.alloc(2 * BLOCK);
}

/** Hands out a stream of chunks in the sizes that are asked for. */
class ByteReader {
  readonly #source: AsyncIterator<Uint8Array>;
  #rest: Uint8Array = Buffer.alloc(0);

  constructor(source: AsyncIterable<Uint8Array>) {
    this.#source = source[Symbol.asyncIterator]();
  }

  /** At most so many bytes; null at the end. */
  async some(most: number): Promise<Uint8Array | null> {
    while (this.#rest.length === 0) {
      const next = await this.#source.next();
      if (next.done === true) return null;
      this.#rest = next.value;
    }
    const part = this.#rest.subarray(0, most);
    this.#rest = this.#rest.subarray(part.length);
    return part;
  }

  /** Exactly so many bytes; null when there is none left. */
  async exactly(length: number): Promise<Buffer | null> {
    const parts: Uint8Array[] = [];
    for (let missing = length; missing > 0;) {
      const part = await this.some(missing);
      if (part === null) {
        if (missing === length) return null;
        throw new TarError('the archive is cut off');
      }
      parts.push(part);
      missing -= part.length;
    }
    return Buffer.concat(parts);
  }

  async close(): Promise<void> {
    await this.#source.return?.();
  }
}

function text(block: Buffer, start: number, length: number): string {
  const end = block.indexOf(0, start);
  return block.toString('utf8', start, end === -1 || end > start + length ? start + length : end);
}

function number(block: Buffer, start: number, length: number): number {
  // GNU's base-256 for what eleven octal digits can't hold.
  if (((block[start] ?? 0) & 0x80) !== 0) {
    let value = (block[start] ?? 0) & 0x7f;
    for (let index = start + 1; index < start + length; index += 1) value = value * 256 + (block[index] ?? 0);
    if (!Number.isSafeInteger(value)) throw new TarError('the archive has a number that is too large');
    return value;
  }
  const digits = text(block, start, length).trim();
  if (!/^[0-7]*$/.test(digits)) throw new TarError('this is not a tar archive');
  return digits === '' ? 0 : Number.parseInt(digits, 8);
}

function paxRecords(block: Buffer): Map<string, string> {
  const records = new Map<string, string>();
  for (let offset = 0; offset < block.length;) {
    const space = block.indexOf(0x20, offset);
    const length = space === -1 ? Number.NaN : Number(block.toString('latin1', offset, space));
    if (!Number.isInteger(length) || length <= 0) break;
    const [key = '', ...value] = block.toString('utf8', space + 1, offset + length - 1).split('=');
    records.set(key, value.join('='));
    offset += length;
  }
  return records;
}

function plainPath(path: string): string {
  return path
    .replace(/^(\.\/+)+/, '')
    .replace(/\/+$/, '')
    .replace(/^\.$/, '');
}

function isSound(block: Buffer): boolean {
  let sum = 8 * 0x20;
  for (const [index, byte] of block.entries()) if (index < 148 || index >= 156) sum += byte;
  return sum === number(block, 148, 8);
}

/** One entry of an archive with its content, which may be left unread. */
interface ReadEntry {
  entry: TarEntry;
  content: AsyncIterable<Uint8Array>;
}

/** Reads an archive. Paths are as the archive has them: whoever writes them to a disk has to check them. Throws {@link TarError}. */
export async function* readTar(source: AsyncIterable<Uint8Array>): AsyncGenerator<ReadEntry, void> {
  const reader = new ByteReader(source);
  let given = new Map<string, string>();
  try {
    for (;;) {
      const block = await reader.exactly(BLOCK);
      if (block === null) throw new TarError('the archive is cut off');
      if (block.every((byte) => byte === 0)) break;
      if (!isSound(block)) throw new TarError('this is not a tar archive');
      const type = String.fromCharCode(block[156] ?? 0);
      const size = Number(given.get('size') ?? number(block, 124, 12));
      if (!Number.isSafeInteger(size) || size < 0) throw new TarError('the archive has a size that is none');
      if (type === 'x' || type === 'g' || type === 'L' || type === 'K') {
        if (size > MAX_EXTENDED_BYTES) throw new TarError('the archive has an extended header that is too large');
        const extended = (await reader.exactly(size)) ?? Buffer.alloc(0);
        await reader.exactly(padding(size).length);
        if (type === 'x') for (const [key, value] of paxRecords(extended)) given.set(key, value);
        if (type === 'L') given.set('path', text(extended, 0, extended.length));
        if (type === 'K') given.set('linkpath', text(extended, 0, extended.length));
        continue;
      }
      const prefix = text(block, 257, 5) === 'ustar' && block[262] === 0 ? text(block, 345, 155) : '';
      const name = text(block, 0, 100);
      const path = plainPath(given.get('path') ?? (prefix === '' ? name : `${prefix}/${name}`));
      const target = given.get('linkpath') ?? text(block, 157, 100);
      const facts = { path, mode: number(block, 100, 8) & 0o7777, modifiedAtS: number(block, 136, 12) };
      given = new Map();
      let missing = type === '1' || type === '2' || type === '5' ? 0 : size;
      const filler = padding(missing).length;
      const content = (async function* (): AsyncGenerator<Uint8Array, void> {
        while (missing > 0) {
          const part = await reader.some(missing);
          if (part === null) throw new TarError('the archive is cut off');
          missing -= part.length;
          yield part;
        }
      })();
      yield { entry: entryOf(type, facts, size, target), content };
      // What was not read is passed over, also where the reader stopped in the middle.
      while (missing > 0) {
        const part = await reader.some(missing);
        if (part === null) throw new TarError('the archive is cut off');
        missing -= part.length;
      }
      await reader.exactly(filler);
    }
    // Programs fill their last record with zeros, and whoever sends them must not be cut off.
    while ((await reader.some(65_536)) !== null);
  } finally {
    await reader.close();
  }
}

function entryOf(
  type: string,
  facts: { path: string; mode: number; modifiedAtS: number },
  size: number,
  target: string,
): TarEntry {
  switch (type) {
    case '5':
      return { ...facts, type: 'folder' };
    case '2':
      return { ...facts, type: 'symlink', target };
    case '1':
      return { ...facts, type: 'hardlink', target: plainPath(target) };
    case '0':
    case '7':
    case '\0':
      return { ...facts, type: 'file', size };
    default:
      return { ...facts, type: 'other' };
  }
}
