// Measures what leaving a guest costs on one rung of the ladder: runs the measuring ROM some times, each in a QEMU of its own,
// and puts the samples of all runs together. Promises: it resolves with what was seen, no process or file is left, and it
// takes no longer than its runs times their deadline.
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type ExitCost, type RungExits } from '../../../api/node-measurement.ts';
import { runRom } from './attempt.ts';
import { EXIT_GUEST_MIB, EXIT_OPERATIONS, type ExitOperation } from './exit-format.ts';
import { buildExitRom } from './exit-rom.ts';
import { parseExitReport } from './exit-report.ts';
import { type ProbedRung } from './probe.ts';

export interface ExitMeasureOptions {
  /** QEMU's program. */
  readonly binary: string;
  readonly kvmDevice: string;
  readonly signal?: AbortSignal;
  readonly onProgress?: (percent: number) => void;
}

/** A run takes tenths of a second; on a machine with much other work, seconds. */
const deadlineMs = 20_000;
/** A guest that reports nothing for so long does not come back from what it does. */
const silenceMs = 5000;
/** Different processes get different memory, processors and luck. */
const exitRuns = 3;

/** Fresh pages of 4 KiB: private memory would get transparent huge pages, and one touch would be that of 2 MiB. */
const memory = [
  ...['-m', String(EXIT_GUEST_MIB), '-object', `memory-backend-memfd,id=ram,size=${EXIT_GUEST_MIB}M`],
  ...['-machine', 'memory-backend=ram'],
];

/** Rung by rung, one after the other, so that none takes time from another. */
export async function measureExits(rungs: readonly ProbedRung[], options: ExitMeasureOptions): Promise<RungExits[]> {
  const runs = rungs.filter(({ isUsable }) => isUsable).length * exitRuns;
  const measured: RungExits[] = [];
  let done = 0;
  for (const rung of rungs)
    measured.push(await measureRung(rung, options, () => options.onProgress?.((100 * ++done) / runs)));
  return measured;
}

async function measureRung(rung: ProbedRung, options: ExitMeasureOptions, onRun: () => void): Promise<RungExits> {
  const { cpuModel } = rung;
  const told = { rung: rung.rung, cpuModel };
  if (cpuModel === null) return { ...told, costs: [], missing: [], problem: rung.reason };
  const samples = new Map<ExitOperation, number[]>();
  const missing = new Map<ExitOperation, string>();
  let problem: string | null = null;
  const directory = await mkdtemp(join(tmpdir(), 'lodge-measure-'));
  try {
    for (let run = 0; run < exitRuns; run++) {
      const romPath = join(directory, `${run}.rom`);
      await writeFile(romPath, buildExitRom(new Set(missing.keys())).bytes);
      const { binary, kvmDevice, signal } = options;
      const common = { binary, machine: 'q35', romPath, kvmDevice, deadlineMs, silenceMs, signal, memory };
      const seen = await runRom({ ...common, accelerator: rung.accelerator, cpuModel });
      const report = parseExitReport(seen.bytes);
      for (const operation of EXIT_OPERATIONS) {
        const found = report.samples[operation];
        if (found) samples.set(operation, [...(samples.get(operation) ?? []), ...found]);
      }
      if (report.isHypercallRefused) missing.set('hypercall', 'The processor of this rung knows no hypercalls.');
      if (report.stoppedIn !== null) {
        const why = seen.stopped ?? (seen.complaint || `QEMU exited with ${seen.code ?? seen.signal}`);
        missing.set(report.stoppedIn, `The guest did not come back from it: ${why}.`);
        samples.delete(report.stoppedIn);
      } else if (!report.isWhole) {
        problem ??= seen.failure ?? seen.stopped ?? (seen.complaint || 'The guest reported nothing.');
      }
      onRun();
    }
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
  return {
    ...told,
    costs: EXIT_OPERATIONS.flatMap((operation) => {
      const found = samples.get(operation);
      return found ? [spreadOf(operation, found)] : [];
    }),
    missing: [...missing].map(([operation, reason]) => ({ operation, reason })),
    problem: samples.size > 0 ? null : (problem ?? 'Nothing was measured.'),
  };
}

/** Median and quartiles; other work of the machine makes single samples many times as long. */
export function spreadOf(operation: ExitOperation, samples: readonly number[]): ExitCost {
  const sorted = samples.toSorted((a, b) => a - b);
  const at = (share: number): number => {
    const place = (sorted.length - 1) * share;
    const below = sorted[Math.floor(place)]!;
    const above = sorted[Math.ceil(place)]!;
    return Math.round((below + (above - below) * (place - Math.floor(place))) * 10) / 10;
  };
  return {
    operation,
    medianNs: at(0.5),
    lowNs: at(0.25),
    highNs: at(0.75),
    leastNs: at(0),
    samples: sorted.length,
  };
}
