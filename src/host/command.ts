// Running other programs. Every external command of Lodge goes through here: an argument array (never a shell
// string), a deadline, a bound on what is kept of its output, and an error that says what was run and how it ended.
import { spawn, type StdioOptions } from 'node:child_process';

export interface CommandOptions {
  /** The longest the program may run, in milliseconds; then it is killed. Default 30 s. */
  timeoutMs?: number;
  /** Text or bytes for its standard input; without it, standard input is empty. */
  input?: string | Uint8Array;
  /** Ends the program when aborted. */
  signal?: AbortSignal;
  cwd?: string;
  /** Added to this process's environment. LC_ALL is always C, so that output can be parsed. */
  env?: Record<string, string>;
  /** Called for each line of its standard output and error as it comes, for progress. */
  onLine?: (line: string, stream: 'stdout' | 'stderr') => void;
  /** Exit codes that are not failures. Default: only 0. */
  okExitCodes?: readonly number[];
  /** The most that is kept of each output stream, in bytes; more is an error for stdout, cut for stderr. Default 64 MiB. */
  maxOutputBytes?: number;
}

export interface CommandResult {
  stdout: string;
  stderr: string;
  exitCode: number;
}

/** A program could not be started, ran too long, was aborted, or ended with an exit code that means failure. */
export class CommandError extends Error {
  override name = 'CommandError';
  readonly argv: readonly string[];
  readonly reason: 'missing' | 'timeout' | 'aborted' | 'exit' | 'output';
  readonly exitCode: number | null;
  readonly stderr: string;
  /** What ended it, where it didn't end by itself: SIGSEGV when it crashed. */
  readonly signal: NodeJS.Signals | null;

  constructor(
    argv: readonly string[],
    reason: CommandError['reason'],
    exitCode: number | null,
    stderr: string,
    signal: NodeJS.Signals | null = null,
  ) {
    const how = {
      missing: 'is not installed',
      timeout: 'ran longer than its deadline and was ended',
      aborted: 'was cancelled',
      exit: exitCode === null ? `was ended by ${signal ?? 'a signal'}` : `ended with code ${exitCode}`,
      output: 'wrote more output than is allowed',
    }[reason];
    const detail = stderr.trim().slice(-2000);
    super(`${argv[0]} ${how}${detail ? `: ${detail}` : ''}`);
    this.argv = argv;
    this.reason = reason;
    this.exitCode = exitCode;
    this.stderr = stderr;
    this.signal = signal;
  }
}

/** Runs a program to its end. Rejects with {@link CommandError}. */
export function run(argv: readonly [string, ...string[]], options: CommandOptions = {}): Promise<CommandResult> {
  const { timeoutMs = 30_000, okExitCodes = [0], maxOutputBytes = 64 * 1024 * 1024 } = options;
  const [program, ...args] = argv;
  return new Promise((resolve, reject) => {
    if (options.signal?.aborted) {
      reject(new CommandError(argv, 'aborted', null, ''));
      return;
    }
    const stdio: StdioOptions = [options.input === undefined ? 'ignore' : 'pipe', 'pipe', 'pipe'];
    const child = spawn(program, args, {
      stdio,
      cwd: options.cwd,
      env: { ...process.env, LC_ALL: 'C', ...options.env },
    });
    let failure: CommandError['reason'] | null = null;
    const end = (reason: CommandError['reason']): void => {
      failure ??= reason;
      child.kill('SIGKILL');
    };
    const deadline = setTimeout(() => end('timeout'), timeoutMs);
    const onAbort = (): void => end('aborted');
    options.signal?.addEventListener('abort', onAbort, { once: true });

    const collect = (stream: 'stdout' | 'stderr'): (() => string) => {
      const chunks: Buffer[] = [];
      let bytes = 0;
      let partial = '';
      child[stream]!.on('data', (chunk: Buffer) => {
        if (bytes + chunk.length > maxOutputBytes) {
          if (stream === 'stdout') end('output');
          return;
        }
        bytes += chunk.length;
        chunks.push(chunk);
        if (options.onLine) {
          // Progress meters overwrite their line with \r, so it ends a line as well as \n does.
          const lines = (partial + chunk.toString('utf8')).split(/[\r\n]+/);
          partial = lines.pop() ?? '';
          for (const line of lines) if (line) options.onLine(line, stream);
        }
      });
      return () => Buffer.concat(chunks).toString('utf8');
    };
    const stdout = collect('stdout');
    const stderr = collect('stderr');

    const settle = (): void => {
      clearTimeout(deadline);
      options.signal?.removeEventListener('abort', onAbort);
    };
    child.on('error', (error: NodeJS.ErrnoException) => {
      settle();
      reject(error.code === 'ENOENT' ? new CommandError(argv, 'missing', null, '') : error);
    });
    child.on('close', (code, signal) => {
      settle();
      if (failure) reject(new CommandError(argv, failure, code, stderr(), signal));
      else if (code === null || !okExitCodes.includes(code))
        reject(new CommandError(argv, 'exit', code, stderr(), signal));
      else resolve({ stdout: stdout(), stderr: stderr(), exitCode: code });
    });
    if (options.input !== undefined) {
      // A program may end without reading its input; its exit code tells, so the broken pipe is no error of its own.
      child.stdin!.on('error', () => {});
      child.stdin!.end(options.input);
    }
  });
}
