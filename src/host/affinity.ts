// On which processors threads may run: setting it, and reading what the kernel has. Sources: sched_setaffinity(2), proc(5)
// (/proc/PID/task/TID/status, stat).
import { readFileSync, readdirSync } from 'node:fs';
import { constants } from 'node:os';
import { fileURLToPath } from 'node:url';
import { formatNumberList, parseNumberList } from '../lib/number-list.ts';
import { run } from './command.ts';

const helperPath = fileURLToPath(new URL('./affinity.pl', import.meta.url));
/** arch/x86/entry/syscalls/syscall_64.tbl, and include/uapi/asm-generic/unistd.h for the others. */
const setAffinityNumbers: Readonly<Record<string, number>> = { x64: 203, arm64: 122, riscv64: 122, loong64: 122 };
/** USER_HZ: the clock ticks of /proc are hundredths of a second on every architecture that Lodge runs on. */
const ticksPerSecond = 100;
const helperMs = 10_000;

/** Threads could not be put on processors. The message names thread, processors and the kernel's answer. */
export class AffinityError extends Error {
  override name = 'AffinityError';
}

/** A thread of a process, as the kernel has it. */
export interface ThreadFacts {
  threadId: number;
  /** As `ps -L` shows it. */
  name: string;
  /** Processors that it may run on, ascending. */
  allowed: number[];
  /** The one that it ran on last. */
  lastProcessor: number | null;
  /** Processor time since it began. */
  cpuSeconds: number | null;
}

/** Reads one thread from the texts of its `status` and `stat`. */
export function parseThread(threadId: number, status: string, stat: string): ThreadFacts {
  const allowed = /^Cpus_allowed_list:\s*(\S+)/m.exec(status)?.[1] ?? '';
  // The name is in parentheses and may hold anything; the fields are counted from behind it (state is the third).
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  const field = (number: number): number | null => {
    const value = Number(fields[number - 3] ?? NaN);
    return Number.isFinite(value) ? value : null;
  };
  const [user, system] = [field(14), field(15)];
  return {
    threadId,
    name: /\((.*)\)/s.exec(stat)?.[1] ?? '',
    allowed: parseNumberList(allowed),
    lastProcessor: field(39),
    cpuSeconds: user === null || system === null ? null : (user + system) / ticksPerSecond,
  };
}

/** The threads of a process, by id. Those that end meanwhile are left out; empty when the process is gone. */
export function readThreads(pid: number): ThreadFacts[] {
  const read = (path: string): string | null => {
    try {
      return readFileSync(path, 'utf8');
    } catch {
      return null;
    }
  };
  let ids: string[];
  try {
    ids = readdirSync(`/proc/${pid}/task`);
  } catch {
    return [];
  }
  return ids
    .map(Number)
    .toSorted((a, b) => a - b)
    .flatMap((threadId) => {
      const status = read(`/proc/${pid}/task/${threadId}/status`);
      const stat = read(`/proc/${pid}/task/${threadId}/stat`);
      return status === null || stat === null ? [] : [parseThread(threadId, status, stat)];
    });
}

/**
 * Puts threads on processors. A thread that has ended is left out. Rejects with {@link AffinityError} where the kernel
 * refuses one; the others are done all the same.
 */
export async function setAffinities(
  targets: readonly { threadId: number; processors: readonly number[] }[],
): Promise<void> {
  if (targets.length === 0) return;
  const number = setAffinityNumbers[process.arch];
  if (number === undefined)
    throw new AffinityError(`threads can't be put on processors: sched_setaffinity is not known for ${process.arch}`);
  const input = targets.map(({ threadId, processors }) => `${threadId} ${processors.join(' ')}\n`).join('');
  const { stdout } = await run(['perl', helperPath, String(number)], { input, timeoutMs: helperMs });
  const failures: string[] = [];
  for (const [index, line] of stdout.trim().split('\n').entries()) {
    const errno = Number(line.split(' ')[1]);
    const target = targets[index];
    if (errno === 0 || errno === constants.errno.ESRCH || !target) continue;
    failures.push(`thread ${target.threadId} to CPU ${formatNumberList(target.processors)}: ${reasonOf(errno)}`);
  }
  if (failures.length > 0) throw new AffinityError(`threads can't be put on CPUs: ${failures.slice(0, 5).join('; ')}`);
}

function reasonOf(errno: number): string {
  if (errno === constants.errno.EINVAL) return 'none of them is online and in the control group’s cpuset';
  if (errno === constants.errno.EPERM) return 'no permission; the daemon needs CAP_SYS_NICE';
  const name = Object.entries(constants.errno).find(([, value]) => value === errno)?.[0];
  return name ?? `error ${errno}`;
}
