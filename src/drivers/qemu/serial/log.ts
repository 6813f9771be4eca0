// The kept output of a serial console: the file that QEMU appends to (`logfile=…,logappend=on`), so that output survives
// the daemon, and the older files beside it. `path` is the current one, `path.1` the one before, and so on.
//
// Rotation must not make QEMU reopen its file, so the file is emptied from its beginning while QEMU goes on appending:
// - Its older part is copied to `path.1`; then the kernel cuts that part off (fallocate(2), FALLOC_FL_COLLAPSE_RANGE),
//   which moves what follows to the beginning under the file's lock. No byte is lost. ext4 and xfs can do it.
// - Other file systems: the rest is copied too, and the file is truncated at once, without giving anything else of this
//   process a turn in between. Lost is what QEMU writes between the last read and the truncation: microseconds.
// A crash of the daemon in between leaves some bytes in both files, never in none.
//
// QEMU runs unprivileged and untrusted: links are not followed, and what is no plain file is refused.
import { ftruncateSync, readSync, writeSync } from 'node:fs';
import { constants } from 'node:fs';
import { open, rename, rm, type FileHandle } from 'node:fs/promises';
import { CommandError, run } from '../../../host/command.ts';
import { type OutputTime, SerialTimes } from './times.ts';

export interface SerialLogOptions {
  /** Rotate when the current file has more, in bytes. Default 1 MiB. */
  maxFileBytes?: number;
  /** How many files are kept, with the current one. Default 3. */
  files?: number;
  /** The file in which it is kept when the output came. Without it, that is not kept. */
  timesPath?: string;
}

/** The log is not what it should be: a link, a device, a folder. */
export class SerialLogError extends Error {
  override name = 'SerialLogError';
}

export interface LogTail {
  readonly bytes: Buffer;
  /** Where the next byte of the current file will be. Valid until the next rotation. */
  readonly end: number;
}

/** The last of the output, with when it came. */
export interface TimedTail extends LogTail {
  readonly times: readonly OutputTime[];
}

const COPY_BYTES = 256 * 1024;
const COLLAPSE_TIMEOUT_MS = 5000;
const NO_SYMLINK = constants.O_NOFOLLOW | constants.O_NONBLOCK;

export class SerialLog {
  readonly path: string;
  readonly #maxFileBytes: number;
  readonly #files: number;
  readonly #times: SerialTimes | null;
  /** Calls that must not overlap run one after another. */
  #last: Promise<unknown> = Promise.resolve();
  #canCollapse = true;
  /** Of the current file, when it was observed last. */
  #observedBytes = 0;

  constructor(path: string, options: SerialLogOptions = {}) {
    this.path = path;
    this.#maxFileBytes = options.maxFileBytes ?? 1024 * 1024;
    this.#files = Math.max(1, options.files ?? 3);
    this.#times = options.timesPath === undefined ? null : new SerialTimes(options.timesPath);
  }

  /** The last bytes, from older files too where the current one has fewer. Nothing was logged: empty. */
  tail(maxBytes: number): Promise<TimedTail> {
    return this.#inTurn(async () => {
      let bytes: Buffer = Buffer.alloc(0);
      let end = 0;
      for (let number = 0; number < this.#files && bytes.length < maxBytes; number++) {
        const part = await this.#lastOf(this.#name(number), maxBytes - bytes.length);
        if (!part) break;
        if (number === 0) {
          end = part.size;
          await this.#times?.note(end, part.changedMs);
        }
        bytes = Buffer.concat([part.bytes, bytes]);
      }
      return { bytes, end, times: this.#times?.of(bytes.length, end) ?? [] };
    });
  }

  /** Notes when the output came that has come since. Answers whether any has. */
  observe(): Promise<boolean> {
    return this.#inTurn(async () => {
      const file = this.#times && (await openPlain(this.path, constants.O_RDONLY));
      if (!file) return false;
      try {
        const { size, mtimeMs } = await file.stat();
        await this.#times?.note(size, mtimeMs);
        const hasGrown = size > this.#observedBytes;
        this.#observedBytes = size;
        return hasGrown;
      } finally {
        await file.close();
      }
    });
  }

  /** What the current file has from `offset` on; of more than `maxBytes` only the last ones. */
  readFrom(offset: number, maxBytes: number): Promise<LogTail> {
    return this.#inTurn(async () => {
      const file = await openPlain(this.path, constants.O_RDONLY);
      if (!file) return { bytes: Buffer.alloc(0), end: offset };
      try {
        const { size } = await file.stat();
        const start = Math.max(offset, size - maxBytes);
        const bytes = start < size ? await readRange(file, start, size - start) : Buffer.alloc(0);
        return { bytes, end: Math.max(offset, start + bytes.length) };
      } finally {
        await file.close();
      }
    });
  }

  /** Rotates when the current file has grown beyond its limit. Answers whether it did. */
  rotateIfNeeded(): Promise<boolean> {
    return this.#inTurn(async () => {
      const file = await openPlain(this.path, constants.O_RDWR);
      if (!file) return false;
      try {
        const { size, mtimeMs } = await file.stat();
        if (size <= this.#maxFileBytes) return false;
        await this.#times?.note(size, mtimeMs);
        const cut = await this.#rotate(file, size);
        this.#observedBytes = Math.max(0, this.#observedBytes - cut);
        await this.#times?.cut(cut, (this.#files - 1) * this.#maxFileBytes + cut);
        return true;
      } finally {
        await file.close();
      }
    });
  }

  /** Removes the current and all older files. */
  remove(): Promise<void> {
    return this.#inTurn(async () => {
      for (let number = 0; number < this.#files; number++) await rm(this.#name(number), { force: true });
      await rm(this.#unfinished, { force: true });
      await this.#times?.remove();
    });
  }

  get #unfinished(): string {
    return `${this.path}.rotating`;
  }

  #name(number: number): string {
    return number === 0 ? this.path : `${this.path}.${number}`;
  }

  #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const result = this.#last.then(work);
    this.#last = result.catch(() => {});
    return result;
  }

  async #lastOf(path: string, maxBytes: number): Promise<{ bytes: Buffer; size: number; changedMs: number } | null> {
    const file = await openPlain(path, constants.O_RDONLY);
    if (!file) return null;
    try {
      const { size, mtimeMs } = await file.stat();
      const start = Math.max(0, size - maxBytes);
      const bytes = await readRange(file, start, size - start);
      return { bytes, size: start + bytes.length, changedMs: mtimeMs };
    } finally {
      await file.close();
    }
  }

  /** Answers how many bytes the file has lost at its beginning. */
  async #rotate(file: FileHandle, size: number): Promise<number> {
    const { blksize } = await file.stat();
    // Only whole blocks can be cut off, and not up to the end of the file.
    const cut = this.#canCollapse ? Math.floor((size - 1) / blksize) * blksize : size;
    if (this.#files === 1) {
      // Nothing older is kept: there is nothing to copy.
      if (await this.#collapse(file, cut)) return cut;
      ftruncateSync(file.fd, 0);
      return size;
    }
    await rm(this.#unfinished, { force: true });
    const older = await open(this.#unfinished, 'wx', 0o600);
    try {
      // A daemon that was away for long may find far more than is kept. Then the older files go too, so that what is
      // kept is one piece of the output; it stands in one file for once.
      const isFarTooMuch = cut > 2 * this.#maxFileBytes;
      const keptBytes = isFarTooMuch ? (this.#files - 1) * this.#maxFileBytes : cut;
      await copyRange(file, Math.max(0, cut - keptBytes), cut, older);
      if (isFarTooMuch) {
        for (let number = 1; number < this.#files; number++) await rm(this.#name(number), { force: true });
      }
      for (let number = this.#files - 1; number > 1; number--) {
        await rename(this.#name(number - 1), this.#name(number)).catch(ignoreMissing);
      }
      await rename(this.#unfinished, this.#name(1));
      return (await this.#collapse(file, cut)) ? cut : copyRestAndTruncate(file.fd, cut, older.fd);
    } finally {
      await older.close();
    }
  }

  /** Cuts the first bytes off the file. False: this file system can't. */
  async #collapse(file: FileHandle, bytes: number): Promise<boolean> {
    if (!this.#canCollapse || bytes === 0) return false;
    try {
      // Node has no fallocate(2); the path names this very file, whatever its name stands for by now.
      const path = `/proc/${process.pid}/fd/${file.fd}`;
      await run(['fallocate', '--collapse-range', '--offset', '0', '--length', String(bytes), path], {
        timeoutMs: COLLAPSE_TIMEOUT_MS,
      });
      return true;
    } catch (error) {
      if (!(error instanceof CommandError)) throw error;
      this.#canCollapse = false;
      return false;
    }
  }
}

/** Null: it does not exist. */
async function openPlain(path: string, flags: number): Promise<FileHandle | null> {
  let file: FileHandle;
  try {
    file = await open(path, flags | NO_SYMLINK);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT') return null;
    if (code === 'ELOOP') throw new SerialLogError(`${path} is a symbolic link, which is not followed`);
    throw error;
  }
  const stats = await file.stat();
  // With a second name it may be anybody's file, which QEMU's user has linked here.
  if (stats.isFile() && stats.nlink <= 1) return file;
  await file.close();
  throw new SerialLogError(`${path} is not a plain file of its own`);
}

/** The bytes of a range; fewer where the file has become shorter. */
async function readRange(file: FileHandle, start: number, length: number): Promise<Buffer> {
  const buffer = Buffer.alloc(length);
  let done = 0;
  while (done < length) {
    const { bytesRead } = await file.read(buffer, done, length - done, start + done);
    if (bytesRead === 0) break;
    done += bytesRead;
  }
  return buffer.subarray(0, done);
}

async function copyRange(from: FileHandle, start: number, end: number, to: FileHandle): Promise<void> {
  for (let at = start; at < end;) {
    const chunk = await readRange(from, at, Math.min(COPY_BYTES, end - at));
    if (chunk.length === 0) return;
    await to.appendFile(chunk);
    at += chunk.length;
  }
}

/**
 * In one go, because each byte that QEMU writes between the last read and the truncation is lost. Answers how long the file
 * was.
 */
function copyRestAndTruncate(from: number, start: number, to: number): number {
  const buffer = Buffer.alloc(COPY_BYTES);
  let at = start;
  for (;;) {
    const length = readSync(from, buffer, 0, buffer.length, at);
    if (length === 0) break;
    writeSync(to, buffer, 0, length);
    at += length;
  }
  ftruncateSync(from, 0);
  return at;
}

function ignoreMissing(error: NodeJS.ErrnoException): void {
  if (error.code !== 'ENOENT') throw error;
}
