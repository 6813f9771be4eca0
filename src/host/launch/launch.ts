// Starting a process that is confined and outlives this one: in its own session, as an unprivileged user without any
// capability and without the right to gain one, in given cgroups, holding just the descriptors it was given.
// Node has no ioctl and no dup2, so launch.pl does that part and then becomes the program.
//
// Promises: when launchConfined returns, the program itself was executed, under the pid it has for good; when it
// throws, nothing of it runs any more and the error names the step that failed and what it failed on.
import { spawn, type ChildProcess } from 'node:child_process';
import { closeSync, constants, openSync, readSync, fstatSync } from 'node:fs';
import { type Readable } from 'node:stream';
import { fileURLToPath } from 'node:url';
import { getSystemErrorMap } from 'node:util';

/** A file that the program finds open at the descriptor `fd`, opened with the caller's rights. */
export interface LaunchFile {
  path: string;
  /** `direct`: past the host's page cache (O_DIRECT), which QEMU can't turn on afterwards for a file it was given. */
  mode: 'ro' | 'rw' | 'ro-direct' | 'rw-direct';
  fd: number;
}

/** An existing persistent tap link, attached (TUNSETIFF with IFF_TAP, IFF_NO_PI, IFF_VNET_HDR) at descriptors `fd`, `fd + 1`, … */
export interface LaunchTap {
  /** Name of the link; of a macvtap, the path of its device (`/dev/tap7`). */
  name: string;
  fd: number;
  /** How many queues are attached, one descriptor each. More than one needs a link made with `multi_queue`. Default 1. */
  queues?: number;
  /** Whether the link was made with `multi_queue`: the kernel wants it to match. Default: whether `queues` is above 1. */
  isMultiQueue?: boolean;
}

/**
 * A folder of the host, opened with the caller's rights as a mount of its own: what is mounted below it is not in it, no
 * symbolic link is followed by who uses it, and what belongs to the folder's owner and group belongs to `uid` and `gid` of
 * the program in it. It needs root, Linux 5.14 and a file system that can be mounted so (mount_setattr(2), MOUNT_ATTR_IDMAP).
 */
export interface LaunchFolder {
  /** Absolute, without symbolic links in it. */
  path: string;
  /** One that belongs to root is refused for `rw`, by EPERM. */
  access: 'ro' | 'rw';
  /** The descriptor at which the program finds it, or the folder where it is mounted, which only the program sees. */
  at: number | string;
}

export interface LaunchOptions {
  /** The program (a full path, or a name looked up in the system's usual folders) and its arguments. */
  argv: readonly [string, ...string[]];
  /** The user and group it runs as. Without both: those of the caller. Only root can give others. */
  uid?: number;
  gid?: number;
  /** Supplementary groups; without them none. Needs root. */
  groups?: readonly number[];
  /** The `cgroup.procs` files (one for each v1 hierarchy, or the one of v2) that it joins before it runs. */
  cgroupProcsFiles?: readonly string[];
  /** Written to oom_score_adj, -1000 to 1000. Below the caller's own value it needs CAP_SYS_RESOURCE. */
  oomScoreAdjust?: number;
  /** Soft and hard limit by the name that prlimit(1) gives the resource: `nofile`, `core`, `memlock`, … Bytes or counts. */
  limits?: Readonly<Record<string, number | 'unlimited'>>;
  files?: readonly LaunchFile[];
  taps?: readonly LaunchTap[];
  /** Need `uid` and `gid`. */
  folders?: readonly LaunchFolder[];
  /** Files that its output is appended to, made with mode 0600 where missing. Default /dev/null. */
  stdoutPath?: string;
  stderrPath?: string;
  /** Its working directory. Default `/`. */
  cwd?: string;
  /** Name of a network namespace (`ip netns`) that it runs in and that the taps are looked for in. Default: the caller's. */
  netns?: string;
  /** Its whole environment besides PATH and LC_ALL=C: nothing of the caller's is passed on. */
  env?: Readonly<Record<string, string>>;
  /** The longest that preparing it may take, in milliseconds. Default 10 s. */
  timeoutMs?: number;
}

export interface LaunchedProcess {
  pid: number;
  /** How it ended, told as long as this process lives. Never rejects, and keeps no event loop alive. */
  exited: Promise<{ code: number | null; signal: NodeJS.Signals | null }>;
}

/** What was being done when a launch failed. `confine` is setpriv or prlimit, `program` executing the program itself. */
export type LaunchStep =
  | 'arguments'
  | 'start'
  | 'netns'
  | 'descriptors'
  | 'cgroup'
  | 'oom'
  | 'tap'
  | 'file'
  | 'folder'
  | 'cwd'
  | 'confine'
  | 'program';

/** A process could not be launched; nothing of it is left. */
export class LaunchError extends Error {
  override name = 'LaunchError';
  readonly step: LaunchStep;
  /** What the step worked on: the path, the link, the program. */
  readonly subject: string;
  /** The system's name of the error (`ENOENT`, `EBUSY`, …), or null when a program failed or time ran out. */
  readonly code: string | null;

  constructor(step: LaunchStep, subject: string, code: string | null, detail: string) {
    super(`${describeStep[step](subject)}: ${detail}`);
    this.step = step;
    this.subject = subject;
    this.code = code;
  }
}

const describeStep: Record<LaunchStep, (subject: string) => string> = {
  arguments: (subject) => `The process can't be launched with ${subject}`,
  start: (subject) => `The launcher ${subject} could not be started`,
  netns: (subject) => `The network namespace ${subject} could not be entered`,
  descriptors: () => 'Inherited descriptors could not be closed',
  cgroup: (subject) => `The process could not be moved into the cgroup ${subject}`,
  oom: (subject) => `The value ${subject} could not be written to oom_score_adj`,
  tap: (subject) => `The tap link ${subject} could not be attached`,
  file: (subject) => `The file ${subject} could not be opened`,
  folder: (subject) => `The folder ${subject} could not be shared`,
  cwd: (subject) => `The working directory ${subject} could not be entered`,
  confine: (subject) => `Privileges could not be dropped with ${subject}`,
  program: (subject) => `The program ${subject} could not be executed`,
};

const launcherPath = fileURLToPath(new URL('./launch.pl', import.meta.url));
const path = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

/** Descriptors above this are refused: a slip in the caller's numbering, not a guest with that many disks. */
const maxFd = 1000;

/**
 * Starts a program confined and detached. It survives this process; `exited` reports its end while this process lives.
 * @throws {@link LaunchError} naming the step that failed. The error of a missing tap has step `tap` and code `ENODEV`.
 */
export async function launchConfined(options: LaunchOptions): Promise<LaunchedProcess> {
  checkArguments(options);
  const argv = launcherArguments(options);
  const outputs = openOutputs(options);
  let child: ChildProcess;
  try {
    child = spawn(argv[0]!, argv.slice(1), {
      detached: true,
      cwd: '/',
      env: { PATH: path, LC_ALL: 'C', ...options.env },
      stdio: ['ignore', outputs.stdout ?? 'ignore', outputs.stderr ?? 'ignore', 'pipe'],
    });
    const exited = new Promise<{ code: number | null; signal: NodeJS.Signals | null }>((resolve) => {
      child.once('exit', (code, signal) => resolve({ code, signal }));
    });
    const started = new Promise<never>((_resolve, reject) => {
      child.once('error', (error: NodeJS.ErrnoException) =>
        reject(new LaunchError('start', argv[0]!, error.code ?? null, error.message)),
      );
    });
    if (child.pid === undefined) return await started;
    const report = await readReport(child, child.stdio[3] as Readable, options.timeoutMs ?? 10_000, exited);
    const failure = explainReport(report, options, () => outputs.newErrorText());
    if (failure) throw failure;
    child.unref();
    return { pid: child.pid, exited };
  } finally {
    outputs.close();
  }
}

interface Report {
  lines: string[];
  isTimeout: boolean;
  ended: { code: number | null; signal: NodeJS.Signals | null } | null;
}

/** Reads the report stream to its end, which exec or exit brings; past the deadline the session is killed first. */
async function readReport(
  child: ChildProcess,
  stream: Readable,
  timeoutMs: number,
  exited: LaunchedProcess['exited'],
): Promise<Report> {
  let text = '';
  let isTimeout = false;
  const kill = (): void => {
    if (child.exitCode !== null || child.signalCode !== null) return;
    try {
      process.kill(-child.pid!, 'SIGKILL');
    } catch {
      // It ended by itself in the meantime.
    }
  };
  const deadline = setTimeout(() => {
    isTimeout = true;
    kill();
    stream.destroy();
  }, timeoutMs);
  stream.setEncoding('utf8');
  stream.on('data', (chunk: string) => {
    text += chunk;
  });
  await new Promise<void>((resolve) => {
    stream.once('close', resolve);
    stream.once('error', () => {});
  });
  clearTimeout(deadline);
  const lines = text.split('\n').filter((line) => line !== '');
  // Without a success the process is on its way out by itself or by the kill: its end is awaited, so that nothing
  // of a failed launch is left when the caller hears of it.
  const isRunning = lines.at(-1) === 'exec' && !isTimeout;
  if (!isRunning) kill();
  return { lines, isTimeout, ended: isRunning ? null : await exited };
}

function explainReport(report: Report, options: LaunchOptions, errorText: () => string): LaunchError | null {
  if (report.ended === null) return null;
  let step: LaunchStep = options.netns === undefined ? 'start' : 'netns';
  let index = 0;
  let errno: number | null = null;
  for (const line of report.lines) {
    const [kind, first, second] = line.split(' ');
    if (kind === 'step') {
      step = first as LaunchStep;
      index = Number(second);
    } else if (kind === 'error') {
      errno = Number(first);
    }
  }
  const subject = stepSubject(step, index, options);
  if (report.isTimeout) {
    return new LaunchError(step, subject, null, `it took longer than ${options.timeoutMs ?? 10_000} ms and was ended`);
  }
  if (errno !== null) {
    const [code, message] = getSystemErrorMap().get(-errno) ?? [`errno ${errno}`, 'unknown error'];
    return new LaunchError(step, subject, code, explainErrno(step, code, message));
  }
  const { code, signal } = report.ended;
  const how = signal ? `ended by ${signal}` : `ended with code ${code}`;
  const said = errorText();
  return new LaunchError(step, subject, null, said ? `${how}: ${said}` : how);
}

function explainErrno(step: LaunchStep, code: string, message: string): string {
  if (step === 'tap' && code === 'ENODEV') return 'there is no persistent tap link of this name';
  if (step === 'tap' && code === 'EBUSY') return 'another process holds all its queues';
  if (step === 'tap' && code === 'EINVAL') return 'it is not a tap link, or differs in multi_queue';
  if (step === 'folder' && (code === 'EINVAL' || code === 'ENOSYS'))
    return 'its file system, or the kernel, can not show files as those of another user (idmapped mounts)';
  if (step === 'folder' && code === 'ELOOP') return 'a part of its path has become a symbolic link';
  return `${message} (${code})`;
}

function stepSubject(step: LaunchStep, index: number, options: LaunchOptions): string {
  switch (step) {
    case 'arguments':
    case 'start':
      return launcherPath;
    case 'netns':
      return options.netns ?? '';
    case 'descriptors':
      return '';
    case 'cgroup':
      return options.cgroupProcsFiles?.[index] ?? '';
    case 'oom':
      return String(options.oomScoreAdjust);
    case 'tap':
      return expandTaps(options)[index]?.name ?? '';
    case 'file':
      return options.files?.[index]?.path ?? '';
    case 'folder':
      return options.folders?.[index]?.path ?? '';
    case 'cwd':
      return options.cwd ?? '/';
    case 'confine':
      return options.limits ? 'prlimit and setpriv' : 'setpriv';
    case 'program':
      return options.argv[0];
  }
}

function launcherArguments(options: LaunchOptions): string[] {
  const launcher = ['perl', launcherPath, '--report', '3', '--cwd', options.cwd ?? '/'];
  for (const file of options.cgroupProcsFiles ?? []) launcher.push('--cgroup', file);
  if (options.oomScoreAdjust !== undefined) launcher.push('--oom', String(options.oomScoreAdjust));
  for (const tap of expandTaps(options)) launcher.push('--tap', String(tap.fd), tap.name, tap.isMultiQueue ? '1' : '0');
  for (const file of options.files ?? []) launcher.push('--file', String(file.fd), file.mode, file.path);
  for (const { at, access, path: folder } of options.folders ?? [])
    launcher.push('--folder', String(at), access, String(options.uid), String(options.gid), folder);
  return [
    // nsenter joins the namespace and becomes the launcher; a descriptor of /dev/net/tun belongs to the namespace
    // it was opened in.
    ...(options.netns === undefined ? [] : ['nsenter', `--net=/run/netns/${options.netns}`, '--']),
    ...launcher,
    '--',
    ...confinement(options),
    '--',
    ...options.argv,
  ];
}

function confinement(options: LaunchOptions): string[] {
  const argv: string[] = [];
  if (options.limits) {
    const limits = Object.entries(options.limits);
    argv.push('prlimit', ...limits.map(([resource, limit]) => `--${resource}=${limit}:${limit}`));
  }
  argv.push('setpriv');
  if (options.uid !== undefined && options.gid !== undefined) {
    argv.push('--reuid', String(options.uid), '--regid', String(options.gid));
  }
  // Only root may change groups and the bounding set; another user has no capability to lose.
  if (process.geteuid?.() === 0) {
    if (options.groups?.length) argv.push('--groups', options.groups.join(','));
    else argv.push('--clear-groups');
    argv.push('--bounding-set=-all');
  }
  argv.push('--inh-caps=-all', '--ambient-caps=-all', '--no-new-privs');
  return argv;
}

interface TapQueue {
  name: string;
  fd: number;
  isMultiQueue: boolean;
}

function expandTaps(options: LaunchOptions): TapQueue[] {
  return (options.taps ?? []).flatMap((tap) => {
    const queues = tap.queues ?? 1;
    const isMultiQueue = tap.isMultiQueue ?? queues > 1;
    return Array.from({ length: queues }, (_, queue) => ({ name: tap.name, fd: tap.fd + queue, isMultiQueue }));
  });
}

function checkArguments(options: LaunchOptions): void {
  const refuse = (subject: string, detail: string): never => {
    throw new LaunchError('arguments', subject, 'EINVAL', detail);
  };
  if (!options.argv[0]) refuse('an empty argv', 'give the program first');
  if ((options.uid === undefined) !== (options.gid === undefined)) refuse('one of uid and gid', 'give both or none');
  for (const id of [options.uid, options.gid, ...(options.groups ?? [])]) {
    if (id !== undefined && !(Number.isInteger(id) && id >= 0 && id < 2 ** 32 - 1)) {
      refuse(`the user or group id ${id}`, 'it must be a whole number from 0 to 4294967294');
    }
  }
  const adjust = options.oomScoreAdjust;
  if (adjust !== undefined && !(Number.isInteger(adjust) && adjust >= -1000 && adjust <= 1000)) {
    refuse(`oomScoreAdjust ${adjust}`, 'it must be a whole number from -1000 to 1000');
  }
  for (const [resource, limit] of Object.entries(options.limits ?? {})) {
    if (!/^[a-z]+$/.test(resource)) refuse(`the limit ${resource}`, 'use the names of prlimit(1)');
    if (limit !== 'unlimited' && !(Number.isSafeInteger(limit) && limit >= 0)) {
      refuse(`the limit ${resource} of ${limit}`, "it must be a whole number from 0, or 'unlimited'");
    }
  }
  if (options.netns !== undefined && !/^[\w][\w.-]*$/.test(options.netns)) {
    refuse(`the network namespace name ${JSON.stringify(options.netns)}`, 'use letters, digits, `-`, `_` and `.`');
  }
  for (const tap of options.taps ?? []) {
    // 15: IFNAMSIZ in linux/if.h, less the final zero.
    if (!/^[^\s/]{1,15}$/.test(tap.name) && !/^\/dev\/[^\s/]{1,15}$/.test(tap.name)) {
      refuse(`the link name ${JSON.stringify(tap.name)}`, 'it must be 1 to 15 bytes');
    }
    const queues = tap.queues ?? 1;
    if (!(Number.isInteger(queues) && queues >= 1 && queues <= 256)) {
      refuse(`${queues} queues of ${tap.name}`, 'it must be 1 to 256');
    }
  }
  for (const { at, path: folder } of options.folders ?? []) {
    if (options.uid === undefined) refuse(`the folder ${folder} and no uid`, 'give the user it is for');
    if (!folder.startsWith('/')) refuse(`the folder ${folder}`, 'it must be an absolute path');
    if (typeof at === 'string' && !at.startsWith('/')) refuse(`the mount point ${at}`, 'it must be an absolute path');
  }
  const taken = new Set<number>();
  const folders = (options.folders ?? []).flatMap(({ at }) => (typeof at === 'number' ? [{ fd: at }] : []));
  for (const { fd } of [...(options.files ?? []), ...expandTaps(options), ...folders]) {
    if (!(Number.isInteger(fd) && fd >= 3 && fd <= maxFd)) {
      refuse(`descriptor ${fd}`, `it must be a whole number from 3 to ${maxFd}`);
    }
    if (taken.has(fd)) refuse(`descriptor ${fd} given twice`, 'each file and each queue needs its own');
    taken.add(fd);
  }
}

/** Opens the output files, and remembers where they ended, so that what a failing launch said can be found. */
function openOutputs(options: LaunchOptions): {
  stdout: number | null;
  stderr: number | null;
  newErrorText: () => string;
  close: () => void;
} {
  const opened: number[] = [];
  const close = (): void => {
    for (const fd of opened.splice(0)) closeSync(fd);
  };
  const open = (file: string | undefined): number | null => {
    if (file === undefined) return null;
    const { O_WRONLY, O_APPEND, O_CREAT, O_NOFOLLOW } = constants;
    try {
      const fd = openSync(file, O_WRONLY | O_APPEND | O_CREAT | O_NOFOLLOW, 0o600);
      opened.push(fd);
      return fd;
    } catch (error) {
      close();
      const { code, message } = error as NodeJS.ErrnoException;
      throw new LaunchError('file', file, code ?? null, message);
    }
  };
  const stdout = open(options.stdoutPath);
  const stderr = options.stderrPath === options.stdoutPath ? stdout : open(options.stderrPath);
  const begin = stderr === null ? 0 : fstatSync(stderr).size;
  const newErrorText = (): string => {
    if (options.stderrPath === undefined) return '';
    const fd = openSync(options.stderrPath, constants.O_RDONLY | constants.O_NOFOLLOW);
    opened.push(fd);
    const buffer = Buffer.alloc(2000);
    return buffer.toString('utf8', 0, readSync(fd, buffer, 0, buffer.length, begin)).trim();
  };
  return { stdout, stderr, newErrorText, close };
}
