// Runs test files with node:test, each in a process of its own, and prints a line for each file and every failure in
// full. A skipped or unfinished test counts as failed: what `npm test` calls green was run.
import { run } from 'node:test';
import { relative } from 'node:path';
import { inspect, styleText } from 'node:util';
import { findProcesses, signalProcess } from '../src/host/process.ts';
import { MARK_VARIABLE } from '../test/support/mark.ts';

export interface FileRunOptions {
  root: string;
  concurrency: number;
  fileTimeoutMs: number;
  signal: AbortSignal;
  /** Only tests whose name matches. */
  namePatterns?: readonly string[];
}

export interface FileRunResult {
  passed: number;
  failed: number;
  /** The files with the time they took in milliseconds. */
  durations: Map<string, number>;
  /** What came out of each file in which something failed. */
  failedFiles: Map<string, { passed: number; failed: number }>;
}

/** What an event says of where a test is: the file that defines it, and the file that was run. */
interface Origin {
  file?: string;
  line?: number;
  entryFile?: string;
}

interface Failure {
  name: string;
  place: string;
  text: string;
}

interface FileRecord {
  passed: number;
  failures: Failure[];
  output: string[];
  outputBytes: number;
}

/** How long a file has to end by itself after its time is over, in milliseconds. */
const GRACE_MS = 5000;

/** How much of a file's output is kept to be shown when it fails, in characters. */
const KEPT_OUTPUT = 16 * 1024;

/** The file that was run: tests of a conformance suite are defined in another. */
function entryOf({ file, entryFile }: Origin): string | undefined {
  return entryFile ?? file;
}

/** Only a test of its own counts: a suite, or a test that failed merely because a test inside it did, was counted inside. */
function isOwnResult(details: { type?: string; error?: unknown }): boolean {
  if (details.type === 'suite') {
    // A suite fails on its own account when one of its hooks does.
    return failureType(details.error) === 'hookFailed';
  }
  return failureType(details.error) !== 'subtestsFailed';
}

function failureType(error: unknown): string | undefined {
  return (error as { failureType?: string } | undefined)?.failureType;
}

function describeError(error: unknown): string {
  const cause = error instanceof Error && error.cause !== undefined ? error.cause : error;
  return typeof cause === 'string' ? cause : inspect(cause, { depth: 6, colors: false, maxStringLength: 4000 });
}

/** Runs the files. Resolves with the counts, also when tests failed or the run was aborted. */
export async function runTestFiles(files: readonly string[], options: FileRunOptions): Promise<FileRunResult> {
  const records = new Map<string, FileRecord>();
  const result: FileRunResult = { passed: 0, failed: 0, durations: new Map(), failedFiles: new Map() };
  const recordOf = (file: string | undefined): FileRecord => {
    const name = file === undefined ? '' : relative(options.root, file);
    let record = records.get(name);
    if (!record) records.set(name, (record = { passed: 0, failures: [], output: [], outputBytes: 0 }));
    return record;
  };
  const keep = (file: string | undefined, text: string): void => {
    const record = recordOf(file);
    record.output.push(text);
    record.outputBytes += text.length;
    while (record.outputBytes > KEPT_OUTPUT && record.output.length > 1)
      record.outputBytes -= record.output.shift()!.length;
  };
  const fail = (origin: Origin, name: string, text: string): void => {
    const place = origin.file === undefined ? '' : `${relative(options.root, origin.file)}:${origin.line ?? 1}`;
    recordOf(entryOf(origin)).failures.push({ name, place, text });
    result.failed++;
  };

  // node:test ends a file that takes too long politely, which one that is busy or has its own handlers does not hear.
  const watchdogs = new Map<string, NodeJS.Timeout>();
  const stream = run({
    files: files.map((file) => `${options.root}/${file}`),
    cwd: options.root,
    concurrency: options.concurrency,
    timeout: options.fileTimeoutMs,
    signal: options.signal,
    testNamePatterns: options.namePatterns?.map((pattern) => new RegExp(pattern)),
  });
  stream.on('test:dequeue', ({ name, file }) => {
    if (file === undefined || name !== file) return;
    const watchdog = setTimeout(() => void killTestFile(file), options.fileTimeoutMs + GRACE_MS);
    watchdogs.set(file, watchdog);
  });
  stream.on('test:pass', (event) => {
    const { name, details, skip, todo, file } = event;
    // A file without a single test is reported as a passed test that bears the file's name.
    if (file !== undefined && name === file) fail(event, relative(options.root, name), 'The file has no tests.');
    else if (skip !== undefined || todo !== undefined) fail(event, name, 'It was skipped; a required test may not be.');
    else if (details.type !== 'suite') {
      recordOf(entryOf(event)).passed++;
      result.passed++;
    }
  });
  stream.on('test:fail', (event) => {
    if (options.signal.aborted || !isOwnResult(event.details)) return;
    fail(event, event.name, describeError(event.details.error));
  });
  stream.on('test:stdout', ({ file, message }) => keep(file, message));
  stream.on('test:stderr', ({ file, message }) => keep(file, message));
  stream.on('test:summary', ({ file, duration_ms: durationMs }) => {
    if (file === undefined) return;
    clearTimeout(watchdogs.get(file));
    if (options.signal.aborted) return;
    const name = relative(options.root, file);
    result.durations.set(name, durationMs);
    const record = recordOf(file);
    printFile(name, record, durationMs);
    if (record.failures.length > 0)
      result.failedFiles.set(name, { passed: record.passed, failed: record.failures.length });
    records.delete(name);
  });
  stream.resume();
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  stream.once('close', resolve);
  stream.once('error', reject);
  await promise;
  for (const watchdog of watchdogs.values()) clearTimeout(watchdog);
  if (!options.signal.aborted)
    for (const [name, record] of records) if (record.failures.length > 0) printFile(name, record, null);
  return result;
}

/** Ends the process of a test file; node:test then reports the file as failed. */
async function killTestFile(file: string): Promise<void> {
  const own = process.env[MARK_VARIABLE];
  const found = await findProcesses({
    environmentVariable: MARK_VARIABLE,
    matchesArguments: (argv) => argv.at(-1) === file,
  });
  for (const { identity, mark } of found) if (mark === own) signalProcess(identity, 'SIGKILL');
}

function printFile(name: string, record: FileRecord, durationMs: number | null): void {
  const hasFailed = record.failures.length > 0;
  const mark = hasFailed ? styleText('red', '✖') : styleText('green', '✔');
  const time = durationMs === null ? '' : `, ${(durationMs / 1000).toFixed(1)} s`;
  const count = hasFailed ? `${record.passed} passed, ${record.failures.length} failed` : `${record.passed} passed`;
  console.log(`  ${mark} ${name || 'a file that could not be run'} (${count}${time})`);
  for (const failure of record.failures) {
    console.log(`      ${styleText('red', failure.name)}  ${failure.place}`);
    console.log(indent(failure.text, '        '));
  }
  const output = record.output.join('').trim();
  if (hasFailed && output !== '') console.log(indent(`output of the file:\n${output}`, '      | '));
}

function indent(text: string, by: string): string {
  return text.replaceAll(/^/gm, by);
}
