// `npm test`: types, lint, format, unused code, then unit, integration, QEMU and browser tests, on a fresh machine.
//
//   npm test                                  everything
//   npm test -- --only unit,integration       some stages
//   npm test -- test/qemu/boot.test.ts        some files (or folders), without the checks
//   npm test -- --name 'adopt'                tests whose name matches
//   npm test -- --file-timeout 600            the longest one file may take, in seconds
//   npm test -- --root FOLDER                 the tests of another folder (this command's own tests use it)
//
// Promises: nothing is skipped silently; what failed at first and passed when it was run again alone is named as unsteady
// (docs/decisions/second-run.md); what the tests left on the machine counts as a failure and is removed, also
// after Ctrl-C; the last line is `N passed, N failed`, where each check of the code counts as one, and so does the
// search for what was left; the exit code is 0 only when nothing failed.
import { mkdir, rmdir } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { parseArgs, styleText } from 'node:util';
import { run } from '../src/host/command.ts';
import {
  findLeaks,
  findMarkedProcesses,
  listBelow,
  readSystemState,
  removeLeaks,
  removeSharedGroups,
  type Leak,
  type SystemState,
} from '../test/support/leaks.ts';
import { MARK_VARIABLE, markedFolder, newMark } from '../test/support/mark.ts';
import { runTestFiles } from './test-files.ts';
import { checkStages, filesOf, testStages, type CheckStage, type TestStage } from './test-stages.ts';

/** Well above the 25 minutes that a run on two cores may take: this only ends a run that hangs. */
const DEADLINE_MS = 45 * 60_000;

/** How long the tests have to end by themselves when the run is stopped. */
const KILL_AFTER_MS = 5000;

/** Set on a machine that runs another Lodge meanwhile, whose new links and folders are then not held against the tests. */
const IS_SHARED_MACHINE = process.env['LODGE_TEST_SHARED'] === '1';

/** More files than these failing at once are no accident, and a second run would only take time. */
const MOST_SECOND_RUNS = 5;

/** The checks tell what they found on standard output and end with a code other than 0. */
const ANY_EXIT_CODE = Array.from({ length: 256 }, (_, code) => code);

const { values: options, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    only: { type: 'string' },
    name: { type: 'string', multiple: true },
    'file-timeout': { type: 'string' },
    root: { type: 'string', default: dirname(import.meta.dirname) },
  },
});
const { root } = options;

interface StageResult {
  name: string;
  passed: number;
  failed: number;
  durationMs: number;
}

const results: StageResult[] = [];
/** What failed at first and passed when it was run alone. */
const unsteady: string[] = [];
const slowest: { file: string; durationMs: number }[] = [];

function seconds(durationMs: number): string {
  return `${(durationMs / 1000).toFixed(1)} s`;
}

function heading(text: string): void {
  console.log(`\n${styleText('bold', text)}`);
}

function record(name: string, passed: number, failed: number, durationMs: number): void {
  results.push({ name, passed, failed, durationMs });
}

async function runCheck(check: CheckStage, signal: AbortSignal): Promise<void> {
  const began = performance.now();
  const [program, ...args] = check.argv;
  let problem = '';
  try {
    const result = await run([`${root}/node_modules/.bin/${program}`, ...args], {
      cwd: root,
      signal,
      timeoutMs: 300_000,
      okExitCodes: ANY_EXIT_CODE,
    });
    if (result.exitCode !== 0) problem = `${result.stdout}\n${result.stderr}`.trim() || `exit code ${result.exitCode}`;
  } catch (error) {
    if (signal.aborted) return;
    problem = (error as Error).message;
  }
  const durationMs = performance.now() - began;
  record(check.name, problem ? 0 : 1, problem ? 1 : 0, durationMs);
  const mark = problem ? styleText('red', '✖') : styleText('green', '✔');
  console.log(`  ${mark} ${check.name} (${check.argv.join(' ')}, ${seconds(durationMs)})`);
  if (problem) console.log(problem.replaceAll(/^/gm, '      '));
}

async function runStage(stage: TestStage, chosen: readonly string[], signal: AbortSignal): Promise<void> {
  const all = await filesOf(stage, root);
  const files = all.filter((file) => chosen.length === 0 || chosen.some((prefix) => file.startsWith(prefix)));
  if (files.length === 0) {
    if (chosen.length === 0) console.log(`\n${stage.name}: there are no test files (${stage.patterns.join(', ')})`);
    return;
  }
  heading(`${stage.name}: ${files.length} ${files.length === 1 ? 'file' : 'files'}`);
  const began = performance.now();
  const how = {
    root,
    concurrency: stage.concurrency,
    fileTimeoutMs: options['file-timeout'] === undefined ? stage.fileTimeoutMs : Number(options['file-timeout']) * 1000,
    signal,
    namePatterns: options.name,
  };
  const { durations, failedFiles, ...counts } = await runTestFiles(files, how);
  const isWhole = chosen.length === 0 && !signal.aborted;
  if (stage.hasSecondRun && isWhole && failedFiles.size > 0 && failedFiles.size <= MOST_SECOND_RUNS) {
    console.log(`\n${stage.name}: a second run of what failed, alone`);
    const second = await runTestFiles([...failedFiles.keys()], { ...how, concurrency: 1 });
    for (const [file, first] of failedFiles) {
      counts.passed -= first.passed;
      counts.failed -= first.failed;
      if (!signal.aborted && !second.failedFiles.has(file)) unsteady.push(file);
    }
    counts.passed += second.passed;
    counts.failed += second.failed;
  }
  record(stage.name, counts.passed, counts.failed, performance.now() - began);
  for (const [file, durationMs] of durations) slowest.push({ file, durationMs });
}

/** Finds, tells and removes what is left; answers with the number of failures this makes (0 or 1). */
async function checkLeaks(mark: string, before: SystemState): Promise<number> {
  const folder = markedFolder(mark);
  const left = await listBelow(folder, 20);
  // Empty, it is the run's own folder and no leak.
  await rmdir(folder).catch(() => {});
  await removeSharedGroups(before);
  const leaks = (await findLeaks(mark, before)).filter(({ isMarked }) => isMarked || !IS_SHARED_MACHINE);
  if (leaks.length === 0) return 0;
  console.log(styleText('red', '\nThe tests left this behind:'));
  for (const leak of leaks) console.log(`  ${describeLeak(leak)}`);
  for (const path of left) console.log(`  inside: ${path}`);
  const problems = await removeLeaks(leaks);
  for (const problem of problems) console.log(styleText('red', `  could not be removed: ${problem}`));
  if (leaks.some(({ isMarked }) => !isMarked))
    console.log(
      '  What does not bear the mark of the run was not removed. If another Lodge runs on this machine, it may be its; ' +
        'then set LODGE_TEST_SHARED=1.',
    );
  return 1;
}

function describeLeak(leak: Leak): string {
  return `${leak.kind} ${leak.name}${leak.isMarked ? ' (removed)' : ' (appeared meanwhile, without the mark of the run)'}`;
}

function printSummary(totalMs: number): number {
  heading('summary');
  for (const { name, passed, failed, durationMs } of results) {
    const mark = failed > 0 ? styleText('red', '✖') : styleText('green', '✔');
    console.log(`  ${mark} ${name.padEnd(12)} ${seconds(durationMs).padStart(8)}  ${passed} passed, ${failed} failed`);
  }
  const top = slowest.toSorted((a, b) => b.durationMs - a.durationMs).slice(0, 5);
  if (top.length > 0) {
    const list = top.map(({ file, durationMs }) => `${file} ${seconds(durationMs)}`);
    console.log(`  slowest: ${list.join(', ')}`);
  }
  if (unsteady.length > 0) {
    const list = unsteady.map((file) => `\n    ${file}`).join('');
    console.log(
      styleText('yellow', `  unsteady: these failed at first and passed alone; each is a defect to find:${list}`),
    );
  }
  const passed = results.reduce((sum, result) => sum + result.passed, 0);
  const failed = results.reduce((sum, result) => sum + result.failed, 0);
  console.log(`  ${styleText('bold', seconds(totalMs))} in all\n\n${passed} passed, ${failed} failed`);
  return failed;
}

async function main(): Promise<number> {
  if (process.getuid?.() !== 0) {
    console.error(
      'The tests need root: they make bridges, namespaces and virtual machines. ' +
        'Run them by "npm test", which asks sudo, or as root.',
    );
    return 1;
  }
  const only = options.only?.split(',');
  const known = [...checkStages, ...testStages].map(({ name }) => name);
  const unknown = only?.find((name) => !known.includes(name));
  if (unknown !== undefined) {
    console.error(`There is no stage "${unknown}"; the stages are ${known.join(', ')}.`);
    return 2;
  }
  const isWanted = ({ name }: { name: string }): boolean => only?.includes(name) ?? true;

  const began = performance.now();
  const mark = newMark();
  const folder = markedFolder(mark);
  process.env[MARK_VARIABLE] = mark;
  process.env['TMPDIR'] = folder;
  process.env['PATH'] = `${root}/node_modules/.bin:${process.env['PATH'] ?? ''}`;
  // Every test file and daemon compiles the same sources: the second takes less than half the time.
  process.env['NODE_COMPILE_CACHE'] ??= join(root, '.lodge/compiled');
  const before = await readSystemState();
  await mkdir(folder, { mode: 0o711 });

  const controller = new AbortController();
  const { signal } = controller;
  const stop = (reason: string): void => {
    if (!signal.aborted) console.log(`\n${reason}: ending the tests and cleaning up …`);
    // node:test writes into the reason, which therefore is an object.
    controller.abort(new Error(reason));
    // A test file that is busy does not hear the polite signal it gets now.
    setTimeout(() => void findMarkedProcesses(mark).then(removeLeaks), KILL_AFTER_MS).unref();
  };
  for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(name, () => stop(name));
  const deadline = setTimeout(() => stop(`more than ${DEADLINE_MS / 60_000} minutes`), DEADLINE_MS);

  try {
    const checks = positionals.length > 0 ? [] : checkStages.filter(isWanted);
    if (checks.length > 0) heading('checks');
    await Promise.all(checks.map((check) => runCheck(check, signal)));
    for (const stage of testStages.filter(isWanted)) {
      if (signal.aborted) break;
      await runStage(stage, positionals, signal);
    }
  } finally {
    clearTimeout(deadline);
    const leaksBegan = performance.now();
    const leaks = await checkLeaks(mark, before);
    // Interrupted tests could not clean up after themselves, so that what they left is no fault of theirs.
    if (!signal.aborted) record('left behind', 1 - leaks, leaks, performance.now() - leaksBegan);
  }
  if (signal.aborted) {
    console.log(`Stopped by ${(signal.reason as Error).message}; everything the tests made was removed.`);
    record('complete run', 0, 1, 0);
  } else if (positionals.length > 0 && results.length === 1) {
    console.error(`No test file begins with ${positionals.join(' or ')}.`);
    record('test files', 0, 1, 0);
  }
  const failed = printSummary(performance.now() - began);
  if (signal.aborted) return 130;
  return failed === 0 ? 0 : 1;
}

process.exitCode = await main();
