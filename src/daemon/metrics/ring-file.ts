// Numbers over time in a file that never grows: for each length of step a ring of rows, which begins again at its first
// row when it is full.
//
// Layout: a page of 4096 bytes with the layout as JSON; then ring after ring. A row is the number of its step since 1970
// (32 bits) and a 32-bit float for each series, NaN where nothing was measured. A row whose number is not the one that
// belongs there is old or was never written, so that nothing has to be cleared, and a file that a crash cut off lacks rows
// and has none that are wrong.
//
// A file of an earlier version, with the same rings and other series, is read by the names of its series; the first write
// brings it into the layout of today.
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

/** An open file and the series that are in it. */
interface OpenRingFile {
  handle: FileHandle;
  series: readonly string[];
}

export class RingFile {
  readonly #path: string;
  readonly #rings: readonly Ring[];
  readonly #series: readonly string[];

  constructor(path: string, rings: readonly Ring[], series: readonly string[]) {
    this.#path = path;
    this.#rings = rings;
    this.#series = series;
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
        for (const row of await this.#readSlots(file, index, slot, length))
          if (row.step >= step && row.step < step + length) wanted[row.step - from] = row.values;
        step += length;
      }
    } finally {
      await file.handle.close();
    }
    return wanted;
  }

  async remove(): Promise<void> {
    await rm(this.#path, { force: true });
  }

  /** What was last written into these places of a ring, in the series of today. */
  async #readSlots({ handle, series }: OpenRingFile, index: number, slot: number, length: number): Promise<Row[]> {
    const rowBytes = rowBytesOf(series);
    const bytes = Buffer.alloc(length * rowBytes);
    const { bytesRead } = await handle.read(bytes, 0, bytes.length, this.#position(index, slot, series));
    const columns = series === this.#series ? null : this.#series.map((name) => series.indexOf(name));
    const rows: Row[] = [];
    for (let at = 0; at + rowBytes <= bytesRead; at += rowBytes) {
      const step = bytes.readUInt32LE(at);
      if (step === 0 || step % this.#rings[index]!.rows !== slot + at / rowBytes) continue;
      // A view: the machines that Lodge runs on have the order of bytes of the file.
      const values = new Float32Array(bytes.buffer, bytes.byteOffset + at + 4, series.length);
      rows.push({ step, values: columns ? Float32Array.from(columns, (column) => values[column] ?? NaN) : values });
    }
    return rows;
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
      const rowBytes = rowBytesOf(this.#series);
      const bytes = Buffer.alloc(run.rows.length * rowBytes);
      for (const [offset, { step, values }] of run.rows.entries()) {
        const at = offset * rowBytes;
        bytes.writeUInt32LE(step, at);
        for (const [column, value] of values.entries()) bytes.writeFloatLE(value, at + 4 + 4 * column);
      }
      return { position: this.#position(index, run.first % count), bytes };
    });
  }

  #position(index: number, slot: number, series = this.#series): number {
    const before = this.#rings.slice(0, index).reduce((sum, ring) => sum + ring.rows, 0);
    return headBytes + (before + slot) * rowBytesOf(series);
  }

  #head(): Buffer {
    const head = Buffer.alloc(headBytes);
    head.write(JSON.stringify({ version, series: this.#series, rings: this.#rings }));
    return head;
  }

  /** Null: there is no file, or none that is of use. */
  async #openForReading(): Promise<OpenRingFile | null> {
    let handle: FileHandle;
    try {
      handle = await open(this.#path, 'r');
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
      throw error;
    }
    const found = Buffer.alloc(headBytes);
    const { bytesRead } = await handle.read(found, 0, headBytes, 0);
    if (bytesRead === headBytes) {
      if (found.equals(this.#head())) return { handle, series: this.#series };
      const series = seriesOf(found, this.#rings);
      if (series) return { handle, series };
    }
    await handle.close();
    return null;
  }

  async #openForWriting(): Promise<FileHandle> {
    const known = await this.#openForReading();
    if (known?.series === this.#series) {
      await known.handle.close();
      return open(this.#path, 'r+');
    }
    await mkdir(dirname(this.#path), { recursive: true });
    const fresh = `${this.#path}.new`;
    const file = await open(fresh, 'w+', 0o600);
    try {
      await file.write(this.#head(), 0, headBytes, 0);
      // Its full size from the beginning; what was not written takes no room.
      await file.truncate(this.#position(this.#rings.length, 0));
      for (const [index, ring] of this.#rings.entries()) {
        const rows = known ? await this.#readSlots(known, index, 0, ring.rows) : [];
        for (const run of this.#runs(index, rows)) await file.write(run.bytes, 0, run.bytes.length, run.position);
      }
      await rename(fresh, this.#path);
      return file;
    } catch (error) {
      await file.close();
      throw error;
    } finally {
      await known?.handle.close();
    }
  }
}

function rowBytesOf(series: readonly string[]): number {
  return 4 + 4 * series.length;
}

/** The series of a file with these rings; null where the head is that of another kind of file. */
function seriesOf(head: Buffer, rings: readonly Ring[]): readonly string[] | null {
  let told: unknown;
  try {
    told = JSON.parse(head.toString('utf8').replace(/\0+$/, ''));
  } catch {
    return null;
  }
  const { version: its, series, rings: theirs } = told as { version?: unknown; series?: unknown; rings?: unknown };
  const isSame = its === version && JSON.stringify(theirs) === JSON.stringify(rings);
  return isSame && Array.isArray(series) && series.every((name) => typeof name === 'string') ? series : null;
}
