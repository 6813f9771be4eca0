// Numbers over time in a file that never grows: for each length of step a ring of rows, which begins again at its first
// row when it is full.
//
// Layout: a page of 4096 bytes with the layout as JSON; then ring after ring. A row is the number of its step since 1970
// (32 bits) and a 32-bit float for each series, NaN where nothing was measured. A row whose number is not the one that
// belongs there is old or was never written, so that nothing has to be cleared, and a file that a crash cut off lacks rows
// and has none that are wrong.
import { mkdir, open, rename, rm, type FileHandle } from 'node:fs/promises';
import { dirname } from 'node:path';

/** One ring: rows of so many seconds each, so many of them. */
export interface Ring {
  readonly stepS: number;
  readonly rows: number;
}

/** One row: the number of its step (seconds since 1970 / stepS) and its values. */
export interface Row {
  readonly step: number;
  readonly values: Float32Array;
}

const headBytes = 4096;
const version = 1;

export class RingFile {
  readonly #path: string;
  readonly #rings: readonly Ring[];
  readonly #series: readonly string[];
  readonly #rowBytes: number;

  constructor(path: string, rings: readonly Ring[], series: readonly string[]) {
    this.#path = path;
    this.#rings = rings;
    this.#series = series;
    this.#rowBytes = 4 + 4 * series.length;
  }

  /** Writes rows of several rings. A file with another layout, or none, is begun anew. */
  async write(rows: readonly (readonly Row[])[]): Promise<void> {
    const file = await this.#openForWriting();
    try {
      for (const [index, ofRing] of rows.entries()) {
        for (const run of this.#runs(index, ofRing)) await file.write(run.bytes, 0, run.bytes.length, run.position);
      }
    } finally {
      await file.close();
    }
  }

  /** The rows of a ring from one step to another, both included; null where there is none. */
  async read(index: number, from: number, to: number): Promise<(Float32Array | null)[]> {
    const { rows: count } = this.#rings[index]!;
    const wanted = Array.from({ length: Math.max(0, to - from + 1) }, (): Float32Array | null => null);
    const file = await this.#openForReading();
    if (!file) return wanted;
    try {
      // What reaches back further than the ring is long is not there.
      for (let step = Math.max(from, to - count + 1); step <= to;) {
        const slot = step % count;
        const length = Math.min(to - step + 1, count - slot);
        const bytes = Buffer.alloc(length * this.#rowBytes);
        const { bytesRead } = await file.read(bytes, 0, bytes.length, this.#position(index, slot));
        for (let row = 0; row < length; row++) {
          const at = row * this.#rowBytes;
          if (at + this.#rowBytes > bytesRead || bytes.readUInt32LE(at) !== step + row) continue;
          // A view: the machines that Lodge runs on have the order of bytes of the file.
          wanted[step + row - from] = new Float32Array(bytes.buffer, bytes.byteOffset + at + 4, this.#series.length);
        }
        step += length;
      }
    } finally {
      await file.close();
    }
    return wanted;
  }

  async remove(): Promise<void> {
    await rm(this.#path, { force: true });
  }

  /** Consecutive rows that lie beside each other in the file, as one piece each. */
  #runs(index: number, rows: readonly Row[]): { position: number; bytes: Buffer }[] {
    const { rows: count } = this.#rings[index]!;
    const runs: { first: number; rows: Row[] }[] = [];
    for (const row of rows) {
      const last = runs.at(-1);
      const follows = last && row.step === last.first + last.rows.length && row.step % count !== 0;
      if (follows) last.rows.push(row);
      else runs.push({ first: row.step, rows: [row] });
    }
    return runs.map((run) => {
      const bytes = Buffer.alloc(run.rows.length * this.#rowBytes);
      for (const [offset, { step, values }] of run.rows.entries()) {
        const at = offset * this.#rowBytes;
        bytes.writeUInt32LE(step, at);
        for (const [column, value] of values.entries()) bytes.writeFloatLE(value, at + 4 + 4 * column);
      }
      return { position: this.#position(index, run.first % count), bytes };
    });
  }

  #position(index: number, slot: number): number {
    const before = this.#rings.slice(0, index).reduce((sum, ring) => sum + ring.rows, 0);
    return headBytes + (before + slot) * this.#rowBytes;
  }

  #head(): Buffer {
    const head = Buffer.alloc(headBytes);
    head.write(JSON.stringify({ version, series: this.#series, rings: this.#rings }));
    return head;
  }

  async #openForReading(): Promise<FileHandle | null> {
    let file: FileHandle;
    try {
      file = await open(this.#path, 'r');
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
      throw error;
    }
    const found = Buffer.alloc(headBytes);
    const { bytesRead } = await file.read(found, 0, headBytes, 0);
    if (bytesRead === headBytes && found.equals(this.#head())) return file;
    await file.close();
    return null;
  }

  async #openForWriting(): Promise<FileHandle> {
    const known = await this.#openForReading();
    if (known) {
      await known.close();
      return open(this.#path, 'r+');
    }
    await mkdir(dirname(this.#path), { recursive: true });
    const fresh = `${this.#path}.new`;
    const file = await open(fresh, 'w+', 0o600);
    try {
      await file.write(this.#head(), 0, headBytes, 0);
      // Its full size from the beginning; what was not written takes no room.
      await file.truncate(this.#position(this.#rings.length, 0));
      await rename(fresh, this.#path);
      return file;
    } catch (error) {
      await file.close();
      throw error;
    }
  }
}
