// What one subject, a VM or a node, has used over time. Samples come each second; they are kept in memory for a moment and
// written in one piece, and means of a minute and of an hour are made of them.
//
// Invariants:
// - A row is written once its step is over; what is asked for is answered from the file and from what is not written yet.
// - An hour is made of the minutes that are in the file, so that a daemon that was restarted within it loses nothing of it
//   but the seconds that were not written.
import { RingFile, type Ring, type Row } from './ring-file.ts';

/** How values of one series are put together into a longer step. */
export type Summary = 'mean' | 'max';

export interface HistoryLayout {
  readonly rings: readonly Ring[];
  /** Names of the series, with how they are put together. */
  readonly series: Readonly<Record<string, Summary>>;
}

/** A part of the history in equal steps. */
export interface HistoryPart {
  /** Begin of the first step, seconds since 1970. */
  readonly fromS: number;
  readonly stepS: number;
  /** A row for each step; null: nothing was measured in it. */
  readonly rows: (Float32Array | null)[];
}

export class History {
  readonly #file: RingFile;
  readonly #layout: HistoryLayout;
  readonly #summaries: readonly Summary[];
  /** Rows of each ring that are not in the file yet. */
  readonly #unwritten: Row[][];
  /** The last step of each ring that rows were made of; null: none yet. */
  readonly #open: (number | null)[];
  #writing: Promise<void> = Promise.resolve();

  constructor(path: string, layout: HistoryLayout) {
    this.#file = new RingFile(path, layout.rings, Object.keys(layout.series));
    this.#layout = layout;
    this.#summaries = Object.values(layout.series);
    this.#unwritten = layout.rings.map(() => []);
    this.#open = layout.rings.map(() => null);
  }

  /** Notes a sample of the finest step; the later of two in one step counts. */
  note(atS: number, values: Float32Array): void {
    const step = Math.floor(atS / this.#layout.rings[0]!.stepS);
    const rows = this.#unwritten[0]!;
    if (rows.at(-1)?.step === step) rows.pop();
    rows.push({ step, values });
  }

  /** Writes what is not written yet, and makes the longer steps that are over. */
  flush(nowS: number): Promise<void> {
    this.#writing = this.#writing.catch(() => {}).then(() => this.#flush(nowS));
    return this.#writing;
  }

  /** What is kept between two moments, in steps of at least `stepS` seconds. */
  async read(fromS: number, toS: number, stepS: number, nowS: number): Promise<HistoryPart> {
    await this.#writing.catch(() => {});
    const index = this.#ringFor(fromS, stepS, nowS);
    const ring = this.#layout.rings[index]!;
    // A step of the answer is a whole number of steps of the ring.
    const factor = Math.max(1, Math.ceil(stepS / ring.stepS));
    const answerS = factor * ring.stepS;
    const first = Math.floor(fromS / answerS);
    const last = Math.max(first, Math.ceil(toS / answerS) - 1);
    const rows = await this.#rows(index, first * factor, (last + 1) * factor - 1);
    return {
      fromS: first * answerS,
      stepS: answerS,
      rows: Array.from({ length: last - first + 1 }, (_, step) =>
        this.#summarize(rows.slice(step * factor, (step + 1) * factor)),
      ),
    };
  }

  async remove(): Promise<void> {
    await this.#writing.catch(() => {});
    await this.#file.remove();
  }

  /** The coarsest ring that is fine enough, among those that reach back far enough. */
  #ringFor(fromS: number, stepS: number, nowS: number): number {
    const { rings } = this.#layout;
    // Who asks for the last hour asks a moment later, by a clock of their own.
    const slack = 1.02;
    const reaching = rings.flatMap((ring, index) => (fromS >= nowS - ring.stepS * ring.rows * slack ? [index] : []));
    const candidates = reaching.length > 0 ? reaching : [rings.length - 1];
    return candidates.findLast((index) => rings[index]!.stepS <= stepS) ?? candidates[0]!;
  }

  async #rows(index: number, from: number, to: number): Promise<(Float32Array | null)[]> {
    const rows = await this.#file.read(index, from, to);
    for (const { step, values } of this.#unwritten[index]!) if (step >= from && step <= to) rows[step - from] = values;
    return rows;
  }

  #summarize(rows: readonly (Float32Array | null)[]): Float32Array | null {
    const measured = rows.filter((row) => row !== null);
    if (measured.length === 0) return null;
    if (measured.length === 1) return measured[0]!;
    return Float32Array.from(this.#summaries, (summary, column) => {
      let [sum, count, most] = [0, 0, -Infinity];
      for (const row of measured) {
        const value = row[column]!;
        if (Number.isNaN(value)) continue;
        sum += value;
        count++;
        if (value > most) most = value;
      }
      return count === 0 ? NaN : summary === 'max' ? most : sum / count;
    });
  }

  async #flush(nowS: number): Promise<void> {
    const { rings } = this.#layout;
    for (const [index, ring] of rings.entries()) {
      const finer = rings[index - 1];
      if (!finer) continue;
      const current = Math.floor(nowS / ring.stepS);
      // After a start the step that the last daemon was in is made too, of what it has written.
      const since = this.#open[index] ?? current - 1;
      this.#open[index] = current;
      const factor = ring.stepS / finer.stepS;
      const from = Math.max(since, current - ring.rows);
      if (from >= current) continue;
      const rows = await this.#rows(index - 1, from * factor, current * factor - 1);
      for (let step = from; step < current; step++) {
        const values = this.#summarize(rows.slice((step - from) * factor, (step - from + 1) * factor));
        if (values) this.#unwritten[index]!.push({ step, values });
      }
    }
    const rows = this.#unwritten.map((ofRing) => [...ofRing]);
    if (rows.every((ofRing) => ofRing.length === 0)) return;
    await this.#file.write(rows);
    // What was noted meanwhile stays.
    for (const [index, ofRing] of rows.entries()) {
      const written = new Set(ofRing);
      this.#unwritten[index] = this.#unwritten[index]!.filter((row) => !written.has(row));
    }
  }
}
