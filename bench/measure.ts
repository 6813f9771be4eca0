// What the benchmarks share: repeated measurements of several contenders in one run, turn by turn, so that whatever
// else the machine does hits all of them alike; medians, and the ratio to a peer.
import { constants, cpus, totalmem } from 'node:os';
import { readFileSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
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

/** How long what is interrupted may take to come to its own end. */
const settleMs = 3000;

/**
 * Runs a benchmark and undoes what it set up: when it is done, when it fails, and when it is told to end (Ctrl-C, SIGTERM,
 * SIGHUP). A second signal ends it at once.
 */
export async function benchmark(work: (scope: Cleanup) => Promise<void>): Promise<void> {
  const undos: (() => unknown)[] = [];
  const scope: Cleanup = { after: (undo) => void undos.push(undo as () => unknown) };
  atEnd(scope, () => {});
  const undoAll = async (): Promise<void> => {
    for (let undo = undos.pop(); undo !== undefined; undo = undos.pop()) await undo();
  };
  let isInterrupted = false;
  const working = Promise.resolve().then(() => work(scope));
  const interrupt = async (signal: NodeJS.Signals): Promise<void> => {
    const code = 128 + constants.signals[signal];
    if (isInterrupted) process.exit(code);
    isInterrupted = true;
    console.error(`\n${signal}: undoing what was set up; once more ends it at once.`);
    try {
      await undoAll();
    } finally {
      endChildren();
      // What it was doing fails now, and undoes its own.
      await Promise.race([working.catch(() => {}), delay(settleMs)]);
      await undoAll();
      process.exit(code);
    }
  };
  const signals = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;
  const listeners = signals.map((signal) => [signal, () => void interrupt(signal)] as const);
  for (const [signal, listener] of listeners) process.on(signal, listener);
  console.log(describeMachine());
  try {
    await working;
  } catch (error) {
    if (!isInterrupted) throw error;
  } finally {
    if (!isInterrupted) {
      await undoAll();
      for (const [signal, listener] of listeners) process.off(signal, listener);
    }
  }
}

/** Ends the programs that this process has started itself and that still run. Whatever is detached is somebody's to undo. */
function endChildren(): void {
  const children = readFileSync(`/proc/self/task/${process.pid}/children`, 'utf8').split(' ').filter(Boolean);
  for (const child of children) {
    try {
      process.kill(Number(child), 'SIGKILL');
    } catch {
      // It ended by itself in the meantime.
    }
  }
}
