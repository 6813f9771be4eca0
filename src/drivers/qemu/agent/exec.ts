// Runs a program in the guest through its agent and follows its output.
//
// qemu-ga hands over a program's output only when the program has ended. So where the guest has a shell and the agent
// can read files, the program runs under a few lines of shell that send its output to two files in a folder of their
// own, and these are read while they grow (qemu-ga clears the end-of-file mark of a handle after each read). The shell
// is replaced by the program (exec), which keeps process id, exit code and signal as they are. Anywhere else (Windows, an
// agent without files, a guest that can't make the folder) the output comes at the end.
//
//   started ──► stdout | stderr … ──► exit          every way out: the folder is removed;
//      └── deadline, cancelled, too much output ──► the program is ended (TERM, then KILL), error
import { randomBytes } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import type { AgentClient } from './client.ts';
import type { AgentExecStatus } from './commands.ts';
import { AgentError } from './errors.ts';
import { CHUNK_BYTES, closeQuietly } from './files.ts';

export interface ExecRequest {
  /** Program and arguments. The program is looked up in the guest's PATH. */
  command: readonly string[];
  /** NAME=value, added to the agent's environment (on Windows instead of it). */
  environment?: readonly string[];
  /** Its standard input; without it, empty. */
  input?: Uint8Array | null;
  /** The longest the program may run, in milliseconds; then it is ended. */
  timeoutMs: number;
  signal?: AbortSignal;
  /** More output than this ends the program: the guest keeps it all in a file until the end. Default 256 MiB. */
  maxOutputBytes?: number;
  /** How long a program that has to be ended may take to follow TERM, and then KILL, in milliseconds. Default 2 s. */
  endGraceMs?: number;
}

export type ExecEvent =
  | { readonly type: 'started'; readonly pid: number }
  | { readonly type: 'stdout' | 'stderr'; readonly data: Buffer }
  | {
      readonly type: 'exit';
      readonly code: number | null;
      /** Number of the signal that ended it. */
      readonly signal: number | null;
      /** The agent cut the output; only where it comes at the end, beyond 16 MiB a stream. */
      readonly isTruncated: boolean;
    };

const COMMAND_TIMEOUT_MS = 10_000;
const MIN_POLL_MS = 20;
const MAX_POLL_MS = 500;
/** For each small program that cleans up. */
const CLEAN_UP_TIMEOUT_MS = 2000;
const READS_IN_TURN = 4;
const MAX_INPUT_BYTES = 8 * 1024 * 1024;
/** Two streams of at most 16 MiB each (GUEST_EXEC_MAX_OUTPUT in qemu-ga) in base64. */
const MAX_CAPTURED_ANSWER_BYTES = 48 * 1024 * 1024;
const SHELL = '/bin/sh';
/** The wrapper's exit code when it could not run the program for reasons of its own. */
const WRAPPER_FAILED = 125;

/**
 * $1 is the folder, $2 the number of environment entries that follow, the rest is the program. A session of its own
 * (setsid keeps the process id here) lets the program be ended together with what it started.
 */
const WRAPPER = [
  'd=$1 n=$2; shift 2; umask 077; mkdir "$d" || exit 125',
  'while [ "$n" -gt 0 ]; do export "$1"; shift; n=$((n-1)); done',
  '[ -n "$PATH" ] || PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin; export PATH',
  'exec >"$d/stdout" 2>"$d/stderr" || exit 125',
  'command -v setsid >/dev/null 2>&1 && exec setsid "$@"',
  'exec "$@"',
].join('\n');

/** $1 is the signal, $2 the process; first its whole session, and where it has none of its own, the process alone. */
const KILL = 'kill -s "$1" -- "-$2" 2>/dev/null || kill -s "$1" "$2"';

/**
 * Runs the program. The last event is `exit`. Leaving the iteration early ends the program. Throws {@link AgentError}.
 */
export async function* execInGuest(agent: AgentClient, request: ExecRequest): AsyncGenerator<ExecEvent, void, void> {
  if (request.input && request.input.length > MAX_INPUT_BYTES) {
    const detail = `the input has ${request.input.length} bytes, at most ${MAX_INPUT_BYTES} are possible; copy a file in`;
    throw new AgentError('refused', 'guest-exec', detail);
  }
  const execution = new Execution(agent, request);
  if (await execution.canFollow()) {
    const hasRun = yield* execution.follow();
    if (hasRun) return;
  }
  yield* execution.capture();
}

class Execution {
  readonly #agent: AgentClient;
  readonly #request: ExecRequest;
  readonly #deadline: number;
  #outputBytes = 0;

  constructor(agent: AgentClient, request: ExecRequest) {
    this.#agent = agent;
    this.#request = request;
    this.#deadline = performance.now() + request.timeoutMs;
  }

  /** Whether output can be read while it grows: the agent reads files, and the guest is a Unix. */
  async canFollow(): Promise<boolean> {
    const { signal } = this.#request;
    const options = { signal, timeoutMs: COMMAND_TIMEOUT_MS };
    for (const command of ['guest-file-open', 'guest-file-read', 'guest-file-close'] as const) {
      if (!(await this.#agent.has(command, options))) return false;
    }
    if (!(await this.#agent.has('guest-get-osinfo', options))) return true;
    const system = await this.#agent.call('guest-get-osinfo', undefined, options).catch((error: unknown) => {
      // An agent that can't tell may still run on a Unix; where there is no shell, that shows at once.
      if (error instanceof AgentError && error.reason === 'refused') return { id: '' };
      throw error;
    });
    return system.id !== 'mswindows';
  }

  /** Runs the program under the wrapper. False: it was not run, because the wrapper does not work in this guest. */
  async *follow(): AsyncGenerator<ExecEvent, boolean, void> {
    const { command, environment = [] } = this.#request;
    const folder = `/tmp/.lodge-exec-${randomBytes(12).toString('hex')}`;
    const wrapped = ['-c', WRAPPER, 'lodge-exec', folder, String(environment.length), ...environment, ...command];
    const pid = await this.#start(SHELL, wrapped, []).catch((error: unknown) => {
      if (error instanceof AgentError && error.reason === 'refused') return null;
      throw error;
    });
    if (pid === null) return false;

    const outputs: { readonly type: 'stdout' | 'stderr'; handle: number | null }[] = [
      { type: 'stdout', handle: null },
      { type: 'stderr', handle: null },
    ];
    let status: AgentExecStatus = { exited: false };
    let hasStarted = false;
    try {
      for (let pollMs = MIN_POLL_MS; ;) {
        // Asked before the reading, so that what was written before the end is read after it.
        if (!status.exited) status = await this.#status(pid);
        let isQuiet = true;
        for (const output of outputs) {
          output.handle ??= await this.#openOutput(`${folder}/${output.type}`);
          if (output.handle === null) continue;
          if (!hasStarted) yield { type: 'started', pid };
          hasStarted = true;
          // A stream that never pauses must not keep the other one, or the end, from being seen.
          for (let reads = 0; status.exited || reads < READS_IN_TURN; reads++) {
            const chunk = await this.#read(output.handle);
            if (chunk.length === 0) break;
            isQuiet = false;
            yield { type: output.type, data: chunk };
          }
        }
        if (status.exited) break;
        pollMs = isQuiet ? Math.min(MAX_POLL_MS, pollMs * 1.5) : MIN_POLL_MS;
        await this.#pause(pollMs);
      }
      if (!hasStarted && status.exitcode === WRAPPER_FAILED) return false;
      if (!hasStarted) {
        const end = status.exitcode === undefined ? `signal ${status.signal}` : `code ${status.exitcode}`;
        const detail = `the program ran and ended with ${end}, but the guest agent may not read its output in ${folder}`;
        throw new AgentError('refused', 'guest-exec', detail);
      }
      yield exitOf(status);
      return true;
    } finally {
      for (const { handle } of outputs) if (handle !== null) await closeQuietly(this.#agent, handle);
      if (!status.exited) await this.#end(pid);
      await this.#quietly('rm', ['-rf', '--', folder]);
    }
  }

  /** Runs the program by itself; its output comes when it has ended. */
  async *capture(): AsyncGenerator<ExecEvent, void, void> {
    const { command, environment = [] } = this.#request;
    const [program = '', ...args] = command;
    const pid = await this.#start(program, args, environment);
    let status: AgentExecStatus = { exited: false };
    let isTruncated = false;
    try {
      yield { type: 'started', pid };
      for (let pollMs = MIN_POLL_MS; ; pollMs = Math.min(MAX_POLL_MS, pollMs * 1.5)) {
        status = await this.#status(pid);
        isTruncated ||= (status['out-truncated'] ?? false) || (status['err-truncated'] ?? false);
        // An agent that hands over output as it comes does so in each answer; qemu-ga does in the last.
        for (const [type, data] of [
          ['stdout', status['out-data']],
          ['stderr', status['err-data']],
        ] as const) {
          const chunk = Buffer.from(data ?? '', 'base64');
          if (chunk.length === 0) continue;
          this.#count(chunk.length);
          yield { type, data: chunk };
        }
        if (status.exited) break;
        await this.#pause(pollMs);
      }
      yield { ...exitOf(status), isTruncated };
    } finally {
      if (!status.exited) await this.#end(pid);
    }
  }

  async #start(path: string, arg: readonly string[], env: readonly string[]): Promise<number> {
    const { input, signal } = this.#request;
    const { pid } = await this.#agent.call(
      'guest-exec',
      {
        path,
        arg,
        ...(env.length > 0 ? { env } : {}),
        ...(input && input.length > 0 ? { 'input-data': Buffer.from(input).toString('base64') } : {}),
        'capture-output': true,
      },
      { signal, timeoutMs: this.#budget() },
    );
    return pid;
  }

  #status(pid: number): Promise<AgentExecStatus> {
    const { signal } = this.#request;
    const options = { signal, timeoutMs: this.#budget(), maxAnswerBytes: MAX_CAPTURED_ANSWER_BYTES };
    return this.#agent.call('guest-exec-status', { pid }, options);
  }

  /** Null while the wrapper has not made the file yet. */
  async #openOutput(path: string): Promise<number | null> {
    const { signal } = this.#request;
    try {
      return await this.#agent.call('guest-file-open', { path, mode: 'r' }, { signal, timeoutMs: this.#budget() });
    } catch (error) {
      if (error instanceof AgentError && error.reason === 'refused') return null;
      throw error;
    }
  }

  async #read(handle: number): Promise<Buffer> {
    const { signal } = this.#request;
    const options = { signal, timeoutMs: this.#budget() };
    const answer = await this.#agent.call('guest-file-read', { handle, count: CHUNK_BYTES }, options);
    const chunk = Buffer.from(answer['buf-b64'] ?? '', 'base64');
    this.#count(chunk.length);
    return chunk;
  }

  #count(bytes: number): void {
    const { maxOutputBytes = 256 * 1024 * 1024 } = this.#request;
    this.#outputBytes += bytes;
    if (this.#outputBytes > maxOutputBytes) {
      throw new AgentError(
        'refused',
        'guest-exec',
        `the program wrote more than ${maxOutputBytes} bytes and was ended`,
      );
    }
  }

  /** What the next command to the agent may take; throws when the program's time is over. */
  #budget(): number {
    if (performance.now() >= this.#deadline) {
      const detail = `the program ran longer than ${this.#request.timeoutMs} ms and was ended`;
      throw new AgentError('timeout', 'guest-exec', detail);
    }
    return COMMAND_TIMEOUT_MS;
  }

  async #pause(ms: number): Promise<void> {
    const leftMs = Math.max(1, this.#deadline - performance.now());
    await sleep(Math.min(ms, leftMs), undefined, { signal: this.#request.signal }).catch((error: unknown) => {
      throw new AgentError('cancelled', 'guest-exec', 'it was cancelled and the program was ended', error);
    });
  }

  /** Ends the program and lets the agent forget it. The guest may have no `kill`, or no agent any more: then it goes on. */
  async #end(pid: number): Promise<void> {
    const { endGraceMs = 2000 } = this.#request;
    for (const signal of ['TERM', 'KILL']) {
      await this.#quietly(SHELL, ['-c', KILL, 'lodge-kill', signal, String(pid)]);
      const deadline = performance.now() + endGraceMs;
      while (performance.now() < deadline) {
        const status = await this.#agent
          .call(
            'guest-exec-status',
            { pid },
            { timeoutMs: CLEAN_UP_TIMEOUT_MS, maxAnswerBytes: MAX_CAPTURED_ANSWER_BYTES },
          )
          .catch(() => null);
        if (!status || status.exited) return;
        await sleep(MIN_POLL_MS);
      }
    }
  }

  /** Runs a small program to its end, whatever comes of it. */
  async #quietly(path: string, arg: readonly string[]): Promise<void> {
    try {
      const options = { timeoutMs: CLEAN_UP_TIMEOUT_MS };
      const { pid } = await this.#agent.call('guest-exec', { path, arg }, options);
      const deadline = performance.now() + CLEAN_UP_TIMEOUT_MS;
      while (performance.now() < deadline) {
        if ((await this.#agent.call('guest-exec-status', { pid }, options)).exited) return;
        await sleep(MIN_POLL_MS);
      }
    } catch {
      // It was cleaning up; what it was cleaning up after is what the caller hears of.
    }
  }
}

function exitOf(status: AgentExecStatus): Extract<ExecEvent, { type: 'exit' }> {
  return { type: 'exit', code: status.exitcode ?? null, signal: status.signal ?? null, isTruncated: false };
}
