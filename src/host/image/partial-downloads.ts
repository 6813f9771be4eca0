// What has arrived of downloads that broke off, kept so that the next try goes on from there: one file for each address,
// beside it what it is a part of (see download.ts; the server is asked whether it is still the same file).
//
// Invariants:
// - One download at a time writes to a file; another of the same address at the same time does without.
// - What nobody writes to is removed after a day, and the oldest first when all together are more than the limit.
import { createHash } from 'node:crypto';
import { mkdir, readdir, rm, rmdir, stat } from 'node:fs/promises';
import { join } from 'node:path';

export interface PartialDownloadsOptions {
  /** How long what broke off is kept, in milliseconds. Default a day. */
  keptMs?: number;
  /** How much of it is kept, in bytes. Default 64 GiB. */
  keptBytes?: number;
}

/** The right to download an address to `path`, until `release`. */
export interface PartialDownload {
  readonly path: string;
  release(): Promise<void>;
}

export class PartialDownloads {
  readonly #folder: string;
  readonly #keptMs: number;
  readonly #keptBytes: number;
  readonly #inUse = new Set<string>();
  #timer: NodeJS.Timeout | null = null;

  /** `folder` is made when something is downloaded, and removed when nothing is kept. */
  constructor(folder: string, { keptMs = 24 * 3_600_000, keptBytes = 64 * 2 ** 30 }: PartialDownloadsOptions = {}) {
    this.#folder = folder;
    this.#keptMs = keptMs;
    this.#keptBytes = keptBytes;
  }

  /** Null: the address is being downloaded already. */
  async take(url: string): Promise<PartialDownload | null> {
    const key = createHash('sha256').update(url).digest('hex');
    if (this.#inUse.has(key)) return null;
    this.#inUse.add(key);
    await mkdir(this.#folder, { recursive: true, mode: 0o700 });
    return {
      path: join(this.#folder, key),
      release: async () => {
        this.#inUse.delete(key);
        await this.cleanUp();
      },
    };
  }

  /** Removes what is too old or too much. At the start of the daemon, and by itself as long as something is kept. */
  async cleanUp(): Promise<void> {
    if (this.#timer) clearTimeout(this.#timer);
    this.#timer = null;
    const kept: { key: string; bytes: number; atMs: number }[] = [];
    for (const key of new Set((await this.#list()).map((name) => name.split('.')[0]!))) {
      if (this.#inUse.has(key)) continue;
      const part = await stat(join(this.#folder, `${key}.part`)).catch(() => null);
      const isKept = part !== null && Date.now() - part.mtimeMs < this.#keptMs;
      if (isKept) kept.push({ key, bytes: part.blocks * 512, atMs: part.mtimeMs });
      else await this.#remove(key);
    }
    let bytes = 0;
    for (const one of kept.toSorted((left, right) => right.atMs - left.atMs)) {
      bytes += one.bytes;
      if (bytes > this.#keptBytes) await this.#remove(one.key);
    }
    // Fails, as it should, while something is in it.
    await rmdir(this.#folder).catch(() => {});
    if (kept.length > 0) this.#timer = setTimeout(() => void this.cleanUp(), this.#keptMs).unref();
  }

  async #list(): Promise<string[]> {
    return readdir(this.#folder).catch(() => []);
  }

  async #remove(key: string): Promise<void> {
    for (const name of await this.#list())
      if (name.split('.')[0] === key && !this.#inUse.has(key)) await rm(join(this.#folder, name), { force: true });
  }
}
