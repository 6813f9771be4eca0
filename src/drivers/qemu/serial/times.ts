// When the output of a serial console came. QEMU writes the log by itself, so its growth is observed: each look at the log's
// size and the time of its last write is a mark that says "up to here, it had come by then". The marks are kept in a file
// of their own beside the log's folder, which QEMU can't reach, and survive the daemon.
//
// Invariants:
// - Positions count from the first byte that was ever logged; `#base` is that of the current file's first byte. A rotation
//   cuts the file's beginning off and moves `#base` on by as much.
// - Marks ascend in position and in time, whatever the host's clock does.
// - A daemon that died between a cut and the note of it finds a file that ends before the last mark; it takes the end of
//   the file for that of the mark.
//
// The file: a line with `#base`, then a line for each mark: position, milliseconds since 1970 or `-`.
import { appendFile, readFile, rename, rm, writeFile } from 'node:fs/promises';

/** Output of a console that had come by a time. */
export interface OutputTime {
  /** Where it ends in what is told; it begins where the one before ends. */
  end: number;
  /** Milliseconds since 1970; null: not known. */
  atMs: number | null;
}

/** More marks than this are thinned out, the older half first. */
const maxMarks = 20_000;

export class SerialTimes {
  readonly path: string;
  readonly #maxMarks: number;
  #base = 0;
  #marks: OutputTime[] = [];
  #isLoaded = false;

  constructor(path: string, options: { maxMarks?: number } = {}) {
    this.path = path;
    this.#maxMarks = options.maxMarks ?? maxMarks;
  }

  /** Notes that the current file has `size` bytes, of which the last came at `atMs`. */
  async note(size: number, atMs: number): Promise<void> {
    await this.#load(size);
    const end = this.#base + size;
    const last = this.#marks.at(-1);
    if (end <= (last?.end ?? 0)) return;
    const mark = { end, atMs: Math.max(Math.floor(atMs), last?.atMs ?? 0) };
    this.#marks.push(mark);
    if (this.#marks.length > this.#maxMarks) {
      const half = Math.floor(this.#marks.length / 2);
      this.#marks = this.#marks.filter((_, index) => index >= half || index % 2 === 1);
      await this.#write();
    } else if (this.#marks.length === 1) {
      await this.#write();
    } else {
      await appendFile(this.path, lineOf(mark));
    }
  }

  /** The current file has lost its first `bytes`, and the older files keep `keptBytes` at most. */
  async cut(bytes: number, keptBytes: number): Promise<void> {
    this.#base += bytes;
    const first = this.#base - keptBytes;
    this.#marks = this.#marks.filter(({ end }) => end > first);
    await this.#write();
  }

  /** Of the last `length` bytes, the current file having `size`, when they came. */
  of(length: number, size: number): OutputTime[] {
    const start = this.#base + size - length;
    const times: OutputTime[] = [];
    for (const { end, atMs } of this.#marks)
      if (end > start && (times.at(-1)?.end ?? 0) < length) times.push({ end: Math.min(end - start, length), atMs });
    return times;
  }

  /** Says of a log that is empty, before anything comes, that times are noted from its beginning on. */
  async begin(): Promise<void> {
    this.#isLoaded = true;
    this.#base = 0;
    this.#marks = [];
    await this.#write();
  }

  /** Forgets everything. */
  async remove(): Promise<void> {
    this.#base = 0;
    this.#marks = [];
    await rm(this.path, { force: true });
  }

  async #load(size: number): Promise<void> {
    if (this.#isLoaded) return;
    const text = await readFile(this.path, 'utf8').catch((error: NodeJS.ErrnoException) => {
      if (error.code === 'ENOENT') return null;
      throw error;
    });
    this.#isLoaded = true;
    const read = text === null ? null : parse(text);
    // Of what was logged before it was observed, nothing is known.
    if (!read) this.#marks = size > 0 ? [{ end: size, atMs: null }] : [];
    else {
      this.#marks = read.marks;
      const last = read.marks.at(-1)?.end ?? 0;
      this.#base = Math.max(read.base, last - size);
    }
    if (!read && size > 0) await this.#write();
  }

  async #write(): Promise<void> {
    const next = `${this.path}.next`;
    await writeFile(next, `${this.#base}\n${this.#marks.map(lineOf).join('')}`);
    await rename(next, this.path);
  }
}

function lineOf({ end, atMs }: OutputTime): string {
  return `${end} ${atMs ?? '-'}\n`;
}

/** What a file says; null: it says nothing that can be understood. A last line that was not written to its end is left out. */
function parse(text: string): { base: number; marks: OutputTime[] } | null {
  const [first = '', ...lines] = text.split('\n').slice(0, -1);
  if (!/^\d{1,15}$/.test(first)) return null;
  const marks: OutputTime[] = [];
  for (const line of lines) {
    const [, end, at] = /^(\d{1,15}) (\d{1,15}|-)$/.exec(line) ?? [];
    if (end === undefined || Number(end) <= (marks.at(-1)?.end ?? 0)) continue;
    marks.push({ end: Number(end), atMs: at === '-' ? null : Number(at) });
  }
  return { base: Number(first), marks };
}
