// What the benchmarks share: repeated measurements of several contenders in one run, turn by turn, so that whatever
// else the machine does hits all of them alike; medians, and the ratio to a peer.
import { cpus, totalmem } from 'node:os';
import { readFileSync } from 'node:fs';
import { atEnd, type Cleanup } from '../test/support/cleanup.ts';

export interface Contender {
  name: string;
  /** Measures once; milliseconds. */
  once: (round: number) => Promise<number>;
}

export interface Result {
  name: string;
  medianMs: number;
  minMs: number;
  maxMs: number;
  runs: number;
}

/** The middle of the values. */
export function median(values: readonly number[]): number {
  const sorted = [...values].sort((left, right) => left - right);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}

/** The value below which the given share of the values lies. */
export function percentile(values: readonly number[], share: number): number {
  const sorted = [...values].sort((left, right) => left - right);
  return sorted[Math.min(sorted.length - 1, Math.ceil(sorted.length * share) - 1)]!;
}

/** Measures the contenders in turn, `rounds` times after one warm-up each that does not count. */
export async function compare(contenders: readonly Contender[], rounds: number): Promise<Result[]> {
  const times = new Map<string, number[]>(contenders.map(({ name }) => [name, []]));
  for (let round = 0; round <= rounds; round++) {
    for (const { name, once } of contenders) {
      const ms = await once(round);
      if (round > 0) times.get(name)!.push(ms);
    }
  }
  return contenders.map(({ name }) => {
    const values = times.get(name)!;
    return {
      name,
      medianMs: median(values),
      minMs: Math.min(...values),
      maxMs: Math.max(...values),
      runs: values.length,
    };
  });
}

/** Prints results as a table of Markdown, each with its ratio to the peer. */
export function printComparison(title: string, results: readonly Result[], peer: string): void {
  const base = results.find(({ name }) => name === peer)!.medianMs;
  console.log(`\n${title}\n\n| | median | range | ratio to ${peer} |\n|---|---|---|---|`);
  for (const { name, medianMs, minMs, maxMs } of results) {
    console.log(
      `| ${name} | ${medianMs.toFixed(0)} ms | ${minMs.toFixed(0)}–${maxMs.toFixed(0)} ms | ${(medianMs / base).toFixed(2)} |`,
    );
  }
}

/** What machine the numbers are of. */
export function describeMachine(): string {
  const system = /PRETTY_NAME="(.*)"/.exec(readFileSync('/etc/os-release', 'utf8'))?.[1];
  return `${cpus()[0]?.model ?? 'unknown'}, ${cpus().length} processors, ${Math.round(totalmem() / 2 ** 30)} GiB, ${system}, Node ${process.version}, ${new Date().toISOString().slice(0, 10)}`;
}

/** Runs a benchmark and undoes what it set up, also when it fails. */
export async function benchmark(work: (scope: Cleanup) => Promise<void>): Promise<void> {
  const undos: (() => unknown)[] = [];
  const scope: Cleanup = { after: (undo) => void undos.push(undo as () => unknown) };
  atEnd(scope, () => {});
  console.log(describeMachine());
  try {
    await work(scope);
  } finally {
    for (const undo of undos.toReversed()) await undo();
  }
}
