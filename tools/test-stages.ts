// What `npm test` runs, in order: the checks that read code, then the tests from the quickest to the slowest.
import { glob } from 'node:fs/promises';

/** A check that runs one program over the code: it passes when the program ends with 0. */
export interface CheckStage {
  name: string;
  argv: readonly [string, ...string[]];
}

/** Test files that node:test runs. */
export interface TestStage {
  name: string;
  patterns: readonly string[];
  /** How many files run at the same time. */
  concurrency: number;
  /** The longest that one file may take, in milliseconds. */
  fileTimeoutMs: number;
  /** Real daemons, guests and browsers: a file that failed among the others is run a second time, alone. */
  hasSecondRun?: true;
}

/** These run at the same time: together they take little longer than the slowest on two cores. */
export const checkStages: readonly CheckStage[] = [
  { name: 'types', argv: ['tsc', '--noEmit', '--checkers', '2'] },
  { name: 'types of the console', argv: ['tsc', '--noEmit', '--project', 'web'] },
  { name: 'lint', argv: ['oxlint'] },
  { name: 'format', argv: ['oxfmt', '--check'] },
  { name: 'unused', argv: ['knip'] },
];

/** These run one after the other. Real guests keep both cores busy, so their files don't run beside each other. */
export const testStages: readonly TestStage[] = [
  {
    name: 'unit',
    patterns: ['src/**/*.test.ts', 'tools/**/*.test.ts', 'web/**/*.test.ts'],
    concurrency: 2,
    fileTimeoutMs: 60_000,
  },
  {
    name: 'integration',
    patterns: ['test/integration/**/*.test.ts'],
    concurrency: 2,
    fileTimeoutMs: 300_000,
    hasSecondRun: true,
  },
  { name: 'qemu', patterns: ['test/qemu/**/*.test.ts'], concurrency: 1, fileTimeoutMs: 600_000, hasSecondRun: true },
  { name: 'e2e', patterns: ['test/e2e/**/*.test.ts'], concurrency: 1, fileTimeoutMs: 300_000, hasSecondRun: true },
];

/** The test files of a stage, as sorted paths relative to `root`. */
export async function filesOf(stage: TestStage, root: string): Promise<string[]> {
  const files: string[] = [];
  for await (const file of glob([...stage.patterns], { cwd: root })) files.push(file);
  return files.toSorted();
}
