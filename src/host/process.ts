// Processes of this machine, as /proc shows them: an identity that survives the reuse of a process id, whether such
// a process still lives, waiting for its end, ending it, and what it uses. The daemon needs this for processes that
// are not its children (a QEMU started by an earlier daemon). Promises: a signal is only sent to the process that was
// meant, every wait ends at its deadline, and a process that vanished while being read is reported as gone, not as an
// error. Formats: proc(5) and the kernel's Documentation/filesystems/proc.rst.
import { readFileSync, readdirSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';

/**
 * Clock ticks of /proc are 1/100 s on every Linux architecture Lodge runs on, whatever the kernel's own HZ: the
 * kernel converts them to USER_HZ (include/asm-generic/param.h) before it shows them.
 */
const TICKS_PER_SECOND = 100;

/** The kernel counts pages there; x86-64, and arm64 as Debian builds it, have pages of 4 KiB. */
const PAGE_BYTES = 4096;

/** What tells a process from every other one, also from a later one with the same process id. */
export interface ProcessIdentity {
  readonly pid: number;
  /** Start time in clock ticks (1/100 s) after boot: field 22 of /proc/PID/stat. */
  readonly startTicks: number;
  /** /proc/sys/kernel/random/boot_id when it was seen: another boot means that the process is gone. */
  readonly bootId: string;
}

/** One line of /proc/PID/stat: proc(5), "/proc/pid/stat". */
export interface ProcessStat {
  readonly pid: number;
  /** The command name, at most 15 bytes; the process may have changed it. */
  readonly name: string;
  /** R running, S sleeping, D uninterruptible, T stopped, t traced, Z zombie, X dead, I idle kernel thread. */
  readonly state: string;
  readonly parentPid: number;
  readonly processGroup: number;
  readonly session: number;
  /** Time spent in user mode by all threads, in microseconds, with the grain of a tick (10 ms). */
  readonly userMicroseconds: number;
  /** Time spent in the kernel by all threads, in microseconds, with the grain of a tick (10 ms). */
  readonly systemMicroseconds: number;
  readonly threads: number;
  readonly startTicks: number;
  /** Resident memory, shared pages counted in full; counted without a lock, so some pages off at times. */
  readonly residentBytes: number;
  /** The processor it last ran on. */
  readonly processor: number;
}

/** Memory of a process in bytes: /proc/PID/smaps_rollup, or where the kernel doesn't allow that, /proc/PID/statm. */
export interface ProcessMemory {
  /** Resident pages, shared ones counted in full. Huge pages of hugetlbfs are not in it. */
  readonly rssBytes: number;
  /** Resident pages, each divided by the number of processes that map it; null where smaps_rollup can't be read. */
  readonly pssBytes: number | null;
  /** Resident pages that only this process maps; null where smaps_rollup can't be read. */
  readonly privateBytes: number | null;
  /** Resident pages that others map too. */
  readonly sharedBytes: number | null;
  readonly swapBytes: number | null;
  /** Huge pages of hugetlbfs, private and shared. */
  readonly hugetlbBytes: number | null;
  /** What of the resident pages the kernel keeps in transparent huge pages: of anonymous memory, of shared memory, of files. */
  readonly transparentHugeBytes: number | null;
  /** Pages that the kernel has merged with equal ones (KSM); null where smaps_rollup has no such line (before Linux 6.5). */
  readonly ksmBytes: number | null;
}

/** One thread of a process. */
export interface ThreadUsage {
  readonly tid: number;
  readonly name: string;
  /** Time on a processor in nanoseconds (exact: /proc/PID/task/TID/schedstat, Documentation/scheduler/sched-stats.rst). */
  readonly runNanoseconds: number;
  /** Time spent runnable but waiting for a processor, in nanoseconds. */
  readonly waitNanoseconds: number;
}

/** A process found by {@link findProcesses}. */
export interface FoundProcess {
  readonly identity: ProcessIdentity;
  readonly argv: readonly string[];
  /** The value of the environment variable that was asked for. */
  readonly mark: string | null;
}

/** The process still runs after SIGKILL and the whole waiting time: it hangs in the kernel (usually on storage). */
export class ProcessStuckError extends Error {
  override name = 'ProcessStuckError';
  readonly pid: number;
  constructor(pid: number, state: string, waitedMs: number) {
    super(
      `process ${pid} is still there ${waitedMs} ms after SIGKILL (state ${state}): ` +
        `it waits in the kernel, most often for storage that doesn't answer; see /proc/${pid}/stack`,
    );
    this.pid = pid;
  }
}

/** The process still ran when the waiting time was over. */
export class ProcessWaitTimeoutError extends Error {
  override name = 'ProcessWaitTimeoutError';
  readonly pid: number;
  constructor(pid: number, timeoutMs: number) {
    super(`process ${pid} still runs after ${timeoutMs} ms`);
    this.pid = pid;
  }
}

/** Parses /proc/PID/stat. The name is in parentheses and may itself hold spaces and parentheses. */
export function parseProcessStat(text: string): ProcessStat {
  const open = text.indexOf('(');
  const close = text.lastIndexOf(')');
  const rest = text.slice(close + 2).split(' ');
  if (open < 1 || close < open || rest.length < 37)
    throw new Error(`not a line of /proc/PID/stat: ${text.slice(0, 200)}`);
  // rest[0] is field 3 (state) of proc(5).
  const field = (number: number): number => Number(rest[number - 3]);
  return {
    pid: Number(text.slice(0, open - 1)),
    name: text.slice(open + 1, close),
    state: rest[0] ?? '?',
    parentPid: field(4),
    processGroup: field(5),
    session: field(6),
    userMicroseconds: (field(14) * 1e6) / TICKS_PER_SECOND,
    systemMicroseconds: (field(15) * 1e6) / TICKS_PER_SECOND,
    threads: field(20),
    startTicks: field(22),
    residentBytes: field(24) * PAGE_BYTES,
    processor: field(39),
  };
}

/** Parses /proc/PID/smaps_rollup (lines such as `Pss:  1234 kB`). */
export function parseSmapsRollup(text: string): ProcessMemory {
  const values = new Map<string, number>();
  for (const match of text.matchAll(/^(\w+):\s+(\d+) kB$/gm)) values.set(match[1] ?? '', Number(match[2]) * 1024);
  const value = (name: string): number => values.get(name) ?? 0;
  return {
    rssBytes: value('Rss'),
    pssBytes: value('Pss'),
    privateBytes: value('Private_Clean') + value('Private_Dirty'),
    sharedBytes: value('Shared_Clean') + value('Shared_Dirty'),
    swapBytes: value('Swap'),
    hugetlbBytes: value('Private_Hugetlb') + value('Shared_Hugetlb'),
    transparentHugeBytes: value('AnonHugePages') + value('ShmemPmdMapped') + value('FilePmdMapped'),
    ksmBytes: values.get('KSM') ?? null,
  };
}

/** Splits what /proc/PID/cmdline and /proc/PID/environ hold: strings, each ended by a zero byte. */
export function parseZeroEnded(text: string): string[] {
  if (text === '') return [];
  return (text.endsWith('\0') ? text.slice(0, -1) : text).split('\0');
}

/** The value of one variable in the text of /proc/PID/environ, or null. */
export function environmentValue(environ: string, name: string): string | null {
  const prefix = `${name}=`;
  const entry = parseZeroEnded(environ).find((line) => line.startsWith(prefix));
  return entry === undefined ? null : entry.slice(prefix.length);
}

/**
 * Whether a process in this state has ended. A zombie has: only its exit code waits for its parent. The exception is
 * a leader that left while other threads run on; then the kernel shows Z with more than one thread.
 */
export function isEnded(stat: Pick<ProcessStat, 'state' | 'threads'>): boolean {
  if (stat.state === 'X' || stat.state === 'x') return true;
  return stat.state === 'Z' && stat.threads <= 1;
}

/** ENOENT: the process was gone before the file was opened; ESRCH: before it was read. */
function isGone(error: unknown): boolean {
  const code = (error as NodeJS.ErrnoException).code;
  return code === 'ENOENT' || code === 'ESRCH';
}

function isDenied(error: unknown): boolean {
  const code = (error as NodeJS.ErrnoException).code;
  return code === 'EACCES' || code === 'EPERM';
}

/** A kernel lives as long as this program at least, so its boot id is read once. */
let knownBootId: string | null = null;

/** The id of this boot of the machine (random(4)). */
export function readBootId(): string {
  knownBootId ??= readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
  return knownBootId;
}

/** What /proc/PID/stat says now, or null when there is no such process. Microseconds, so it may be called often. */
export function readProcessStat(pid: number): ProcessStat | null {
  try {
    return parseProcessStat(readFileSync(`/proc/${pid}/stat`, 'utf8'));
  } catch (error) {
    if (isGone(error)) return null;
    throw error;
  }
}

/** The identity of a running process, or null when there is none with this id or it has ended (a zombie). */
export function identifyProcess(pid: number): ProcessIdentity | null {
  const stat = readProcessStat(pid);
  if (!stat || isEnded(stat)) return null;
  return { pid, startTicks: stat.startTicks, bootId: readBootId() };
}

/** The stat line of exactly this process, or null when it has ended, another has its id, or the machine was rebooted. */
function statOf(identity: ProcessIdentity): ProcessStat | null {
  if (identity.bootId !== readBootId()) return null;
  const stat = readProcessStat(identity.pid);
  return stat && stat.startTicks === identity.startTicks && !isEnded(stat) ? stat : null;
}

/** Whether exactly this process still runs. A zombie, another process with its id, and another boot all mean no. */
export function isAlive(identity: ProcessIdentity): boolean {
  return statOf(identity) !== null;
}

/**
 * Sends a signal to exactly this process; false when it has ended. (Between the look and the signal lie microseconds,
 * in which a process id would have to be freed and handed out again; process ids are handed out in turn.)
 */
export function signalProcess(identity: ProcessIdentity, signal: NodeJS.Signals): boolean {
  if (!isAlive(identity)) return false;
  try {
    process.kill(identity.pid, signal);
    return true;
  } catch (error) {
    if (isGone(error)) return false;
    throw error;
  }
}

/** Limits of {@link waitForExit}. */
export interface WaitForExitOptions {
  /** How long to wait, in milliseconds. */
  readonly timeoutMs: number;
  /** Ends the waiting (with the signal's reason) when aborted. */
  readonly signal?: AbortSignal;
  /** The longest pause between two looks, in milliseconds; the first are shorter. Default 50. */
  readonly pollMs?: number;
}

/**
 * Waits until this process has ended. Node can't wait on a pidfd, so it looks at /proc: 1 ms apart at first, then ever
 * more seldom until `pollMs`; one look takes some 20 µs. Rejects with {@link ProcessWaitTimeoutError}.
 */
export async function waitForExit(identity: ProcessIdentity, options: WaitForExitOptions): Promise<void> {
  const { timeoutMs, signal, pollMs = 50 } = options;
  const deadline = performance.now() + timeoutMs;
  let pause = 1;
  while (isAlive(identity)) {
    signal?.throwIfAborted();
    const left = deadline - performance.now();
    if (left <= 0) throw new ProcessWaitTimeoutError(identity.pid, timeoutMs);
    await delay(Math.min(pause, left), undefined, { signal }).catch((error: unknown) => {
      signal?.throwIfAborted();
      throw error;
    });
    pause = Math.min(pause * 1.5, pollMs);
  }
}

/** How {@link terminateProcess} ended a process. */
export type TerminationResult = 'already-ended' | 'terminated' | 'killed';

/** Deadlines of {@link terminateProcess}. */
export interface TerminateOptions {
  /** How long the process may take to end by itself after SIGTERM, in milliseconds. 0: SIGKILL at once. */
  readonly termTimeoutMs: number;
  /** How long to wait for the end after SIGKILL, in milliseconds. Default 10,000. */
  readonly killTimeoutMs?: number;
}

/**
 * Ends a process: SIGTERM, and SIGKILL when it is still there after `termTimeoutMs`. Resolves when it has ended, and
 * rejects with {@link ProcessStuckError} when even SIGKILL had no effect within `killTimeoutMs`.
 */
export async function terminateProcess(
  identity: ProcessIdentity,
  options: TerminateOptions,
): Promise<TerminationResult> {
  const { termTimeoutMs, killTimeoutMs = 10_000 } = options;
  if (termTimeoutMs > 0) {
    if (!signalProcess(identity, 'SIGTERM')) return 'already-ended';
    try {
      await waitForExit(identity, { timeoutMs: termTimeoutMs });
      return 'terminated';
    } catch (error) {
      if (!(error instanceof ProcessWaitTimeoutError)) throw error;
    }
  }
  if (!signalProcess(identity, 'SIGKILL')) return termTimeoutMs > 0 ? 'terminated' : 'already-ended';
  try {
    await waitForExit(identity, { timeoutMs: killTimeoutMs });
  } catch (error) {
    if (!(error instanceof ProcessWaitTimeoutError)) throw error;
    throw new ProcessStuckError(identity.pid, statOf(identity)?.state ?? '?', killTimeoutMs);
  }
  return 'killed';
}

async function readOrNull(path: string): Promise<string | null> {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    if (isGone(error)) return null;
    throw error;
  }
}

/** The memory of a process, or null when it has ended. Costs the kernel a walk over its page tables: milliseconds for GiB. */
export async function readProcessMemory(pid: number): Promise<ProcessMemory | null> {
  try {
    const text = await readOrNull(`/proc/${pid}/smaps_rollup`);
    // A process that has ended but isn't reaped yet has an empty file.
    return text ? parseSmapsRollup(text) : null;
  } catch (error) {
    if (!isDenied(error)) throw error;
  }
  const statm = await readOrNull(`/proc/${pid}/statm`);
  if (statm === null) return null;
  const pages = Number(statm.split(' ')[1]);
  return {
    rssBytes: pages * PAGE_BYTES,
    pssBytes: null,
    privateBytes: null,
    sharedBytes: null,
    swapBytes: null,
    hugetlbBytes: null,
    transparentHugeBytes: null,
    ksmBytes: null,
  };
}

/** Parses /proc/PID/task/TID/schedstat: time on a processor, time waiting for one (both ns), number of time slices. */
export function parseSchedstat(text: string): Pick<ThreadUsage, 'runNanoseconds' | 'waitNanoseconds'> {
  const [run, wait] = text.trim().split(' ').map(Number);
  if (run === undefined || wait === undefined || Number.isNaN(run + wait))
    throw new Error(`not a schedstat: ${text.slice(0, 100)}`);
  return { runNanoseconds: run, waitNanoseconds: wait };
}

/** The threads of a process with their processor time; empty when it has ended. */
export function readThreads(pid: number): ThreadUsage[] {
  const threads: ThreadUsage[] = [];
  let tids: string[];
  try {
    tids = readdirSync(`/proc/${pid}/task`);
  } catch (error) {
    if (isGone(error)) return [];
    throw error;
  }
  for (const tid of tids) {
    try {
      const name = readFileSync(`/proc/${pid}/task/${tid}/comm`, 'utf8').trimEnd();
      const usage = parseSchedstat(readFileSync(`/proc/${pid}/task/${tid}/schedstat`, 'utf8'));
      threads.push({ tid: Number(tid), name, ...usage });
    } catch (error) {
      if (!isGone(error)) throw error;
    }
  }
  return threads;
}

/** How long these threads of a process waited for a processor while they could have run, nanoseconds; null when one is gone. */
export function readThreadsWait(pid: number, tids: readonly number[]): number | null {
  let sum = 0;
  for (const tid of tids) {
    try {
      sum += parseSchedstat(readFileSync(`/proc/${pid}/task/${tid}/schedstat`, 'utf8')).waitNanoseconds;
    } catch (error) {
      if (isGone(error)) return null;
      throw error;
    }
  }
  return sum;
}

/** How much of a process's memory KSM has merged, in bytes; null where the kernel doesn't tell (before Linux 5.19). */
export async function readMergedBytes(pid: number): Promise<number | null> {
  const text = await readOrNull(`/proc/${pid}/ksm_merging_pages`).catch(() => null);
  return text === null ? null : Number(text) * PAGE_BYTES;
}

/** The argument array of a process; null when it has ended, empty for a kernel thread. */
export async function readArguments(pid: number): Promise<string[] | null> {
  const text = await readOrNull(`/proc/${pid}/cmdline`);
  return text === null ? null : parseZeroEnded(text);
}

/** What {@link findProcesses} looks for; at least one of the two. All that are given must match. */
export interface ProcessFilter {
  /** The name of an environment variable that the process was started with, whatever its value. */
  readonly environmentVariable?: string;
  /** Decides by the argument array. */
  readonly matchesArguments?: (argv: readonly string[]) => boolean;
}

/**
 * All running processes with a mark in their arguments or environment, to find again what an earlier daemon started.
 * Processes whose environment this user may not read don't match an environment variable.
 */
export async function findProcesses(filter: ProcessFilter): Promise<FoundProcess[]> {
  const found: FoundProcess[] = [];
  for (const entry of readdirSync('/proc')) {
    if (!/^\d+$/.test(entry)) continue;
    const pid = Number(entry);
    // The identity is taken before and compared after reading, so arguments and identity are of one process.
    const identity = identifyProcess(pid);
    if (!identity) continue;
    try {
      const argv = await readArguments(pid);
      if (argv === null || argv.length === 0) continue;
      if (filter.matchesArguments && !filter.matchesArguments(argv)) continue;
      let mark: string | null = null;
      if (filter.environmentVariable !== undefined) {
        mark = environmentValue((await readOrNull(`/proc/${pid}/environ`)) ?? '', filter.environmentVariable);
        if (mark === null) continue;
      }
      if (isAlive(identity)) found.push({ identity, argv, mark });
    } catch (error) {
      if (!isDenied(error)) throw error;
    }
  }
  return found;
}
