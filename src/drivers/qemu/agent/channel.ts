// The channel to the agent in a guest: one command at a time over the unix socket of a virtio-serial port, in the
// protocol of the QEMU guest agent (https://www.qemu.org/docs/master/interop/qemu-ga.html).
//
//   idle ──execute()──► connecting ──► synchronizing ──► ready ◄──► waiting for an answer
//    ▲                      └───────────────┴──── any failure ───────────┘
//    └──────────────────────────────────────────────────┘
//
// Invariants:
// - Everything that comes from the guest is untrusted: answers are bounded in bytes, depth and number of values, what
//   nobody asked for is thrown away, and a guest that floods the channel is cut off until the next command. What was odd
//   about it stands in the error.
// - One command is under way at a time, the others wait in order. Every command settles by its deadline.
// - After any failure the socket is thrown away, and the next command begins with a synchronization: a byte 0xFF, which
//   makes the agent forget half a command, and a random number that it repeats. Whatever comes before that number
//   belongs to earlier times. So an answer is never taken for that of another command.
// - An answer that comes when nobody has asked means that the conversation is out of step: it begins anew.
import { isUtf8 } from 'node:buffer';
import { randomInt } from 'node:crypto';
import type { Socket } from 'node:net';
import { excessOf } from '../../../lib/json-bounds.ts';
import { printable } from '../../../lib/printable.ts';
import { dial, DialError } from '../qmp/dial.ts';
import { LineReader } from '../qmp/line-reader.ts';
import { AgentError } from './errors.ts';

export interface AgentChannelOptions {
  /** How long an agent may take to answer the synchronization, in milliseconds. Default 3 s. */
  syncTimeoutMs?: number;
}

export interface AgentExecuteOptions {
  /** From the call to the answer, waiting for other commands included, in milliseconds. Default 10 s. */
  timeoutMs?: number;
  signal?: AbortSignal;
  /** A longer answer is an error. Default 1 MiB. */
  maxAnswerBytes?: number;
  /**
   * For commands that have no answer when they succeed: how long to wait for an error, in milliseconds. Nothing within
   * this time, or the end of the agent, then counts as success and resolves to null.
   */
  silenceMs?: number;
  /**
   * All that is asked is whether anybody answers: a synchronization tells that as well, so nothing is sent when one was made
   * for this command or in the last second, and `{}` is resolved to.
   */
  isSyncEnough?: boolean;
}

interface Waiting {
  readonly command: string;
  readonly start: () => void;
}

/** The answer of an agent to one command, still unchecked. */
type Answer = { return: unknown } | { error: unknown };

const DEFAULT_MAX_ANSWER_BYTES = 1024 * 1024;
/** Far more than any answer has: 10,000 file systems with all that is told of each have 150,000 values. */
const ANSWER_BOUNDS = { maxDepth: 32, maxValues: 200_000 };
const MAX_COMMAND_BYTES = 16 * 1024 * 1024;
const MAX_WAITING = 64;
const FRESH_SYNC_MS = 1000;
/** What a guest may send unasked before it is cut off. */
const MAX_UNASKED_BYTES = 1024 * 1024;
/** Sent before a synchronization; no byte of JSON text in UTF-8 has this value. */
const DELIMITER = 0xff;

export class AgentChannel {
  readonly path: string;
  readonly #syncTimeoutMs: number;
  readonly #reader = new LineReader(DEFAULT_MAX_ANSWER_BYTES);
  readonly #waiting: Waiting[] = [];
  #isBusy = false;
  #isClosed = false;
  #isPortOpen: boolean | null = null;
  #socket: Socket | null = null;
  /** Takes the next line that is a JSON object, while a command is under way. */
  #onAnswer: ((fields: Record<string, unknown>) => void) | null = null;
  /** Ends what is under way. */
  #onFailure: ((error: AgentError) => void) | null = null;
  #bytesReceived = 0;
  /** Lines received while an answer is awaited that are none, and what was the matter with the last of them. */
  #odd = { lines: 0, reason: '' };
  #maxBytes = MAX_UNASKED_BYTES;
  /** The command that the agent has not answered in time; it may still be busy with it. */
  #unanswered: string | null = null;
  #generation = 0;
  /** When the agent has last repeated the number, on the clock of `performance`. */
  #synchronizedAt = -Infinity;

  constructor(path: string, options: AgentChannelOptions = {}) {
    this.path = path;
    this.#syncTimeoutMs = options.syncTimeoutMs ?? 3000;
  }

  /** Changes whenever the agent at the other end may be another one: what was learnt of it holds until then. */
  get generation(): number {
    return this.#generation;
  }

  /**
   * What QEMU says of the guest's end of the port (event VSERPORT_CHANGE, `frontend-open` of query-chardev): false means
   * that no program in the guest has it open, so a command is not even tried and one under way fails at once. Null,
   * as at the beginning: not known, commands are tried.
   */
  notePort(isOpen: boolean | null): void {
    this.#isPortOpen = isOpen;
    if (isOpen !== false) return;
    this.#unanswered = null;
    this.#drop(new AgentError('stopped', null, 'the guest agent has stopped'));
  }

  /**
   * Sends a command and resolves to the value of its answer. Rejects with {@link AgentError}; an error answered by the
   * agent has the reason `missing`, `disabled` or `refused`.
   */
  async execute(command: string, args: unknown, options: AgentExecuteOptions = {}): Promise<unknown> {
    const { timeoutMs = 10_000, signal, isSyncEnough = false } = options;
    const deadline = performance.now() + timeoutMs;
    const line = `${JSON.stringify({ execute: command, arguments: args })}\n`;
    if (line.length > MAX_COMMAND_BYTES) {
      throw new AgentError('busy', command, `the arguments exceed ${MAX_COMMAND_BYTES} bytes`);
    }
    await this.#turn(command, timeoutMs, signal);
    try {
      for (;;) {
        const isReused = this.#socket !== null;
        const socket = await this.#ready(command, deadline, timeoutMs, signal);
        if (isSyncEnough && performance.now() - this.#synchronizedAt < FRESH_SYNC_MS) return {};
        try {
          return await this.#exchange(socket, command, line, deadline, options);
        } catch (error) {
          // The connection had ended while it lay idle: the command did not reach anybody, so it is sent once more.
          if (!isReused || !isBrokenPipe(error)) throw error;
        }
      }
    } finally {
      this.#isBusy = false;
      this.#waiting.shift()?.start();
    }
  }

  /** Ends the channel for good; what is under way or waits rejects. The guest is not affected. */
  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#drop(new AgentError('closed', null, 'the channel to the guest agent was closed'));
  }

  /** Waits until no other command is under way. */
  #turn(command: string, timeoutMs: number, signal: AbortSignal | undefined): Promise<void> {
    if (signal?.aborted) return Promise.reject(new AgentError('cancelled', command, 'it was cancelled'));
    if (!this.#isBusy) {
      this.#isBusy = true;
      return Promise.resolve();
    }
    if (this.#waiting.length >= MAX_WAITING) {
      return Promise.reject(
        new AgentError('busy', command, `${MAX_WAITING} commands wait for the guest agent already`),
      );
    }
    return new Promise((resolve, reject) => {
      const settle = (): void => {
        clearTimeout(timer);
        signal?.removeEventListener('abort', onAbort);
      };
      const waiting: Waiting = {
        command,
        start: () => {
          settle();
          this.#isBusy = true;
          resolve();
        },
      };
      const giveUp = (error: AgentError): void => {
        settle();
        const index = this.#waiting.indexOf(waiting);
        if (index !== -1) this.#waiting.splice(index, 1);
        reject(error);
      };
      const onAbort = (): void => giveUp(new AgentError('cancelled', command, 'it was cancelled'));
      const timer = setTimeout(
        () => giveUp(new AgentError('timeout', command, `the guest agent was busy for ${timeoutMs} ms`)),
        timeoutMs,
      );
      signal?.addEventListener('abort', onAbort, { once: true });
      this.#waiting.push(waiting);
    });
  }

  /** A connected socket with an agent in step at its other end. */
  async #ready(command: string, deadline: number, timeoutMs: number, signal: AbortSignal | undefined): Promise<Socket> {
    if (this.#isClosed) throw new AgentError('closed', command, 'the channel to the guest agent was closed');
    if (this.#isPortOpen === false) {
      throw new AgentError('silent', command, 'no agent runs in the guest: its channel is not open there');
    }
    if (this.#socket) return this.#socket;
    const budgetMs = Math.max(1, Math.min(this.#syncTimeoutMs, deadline - performance.now()));
    let socket: Socket;
    try {
      socket = await dial(this.path, budgetMs, signal);
    } catch (error) {
      if (error instanceof DialError && error.reason === 'aborted') {
        throw new AgentError('cancelled', command, 'it was cancelled', error);
      }
      throw new AgentError('unreachable', command, 'there is no channel to the guest agent', error);
    }
    // Closed while it was dialled.
    if (this.#isClosed) {
      socket.destroy();
      throw new AgentError('closed', command, 'the channel to the guest agent was closed');
    }
    this.#adopt(socket);
    await this.#synchronize(socket, command, Math.max(1, Math.min(budgetMs, deadline - performance.now())), signal);
    if (performance.now() >= deadline) {
      throw new AgentError('timeout', command, `it was not sent within ${timeoutMs} ms`);
    }
    return socket;
  }

  #adopt(socket: Socket): void {
    this.#socket = socket;
    this.#reader.clear();
    const onEnd = (detail: string, cause?: Error): void => {
      if (this.#socket === socket) this.#drop(new AgentError('stopped', null, detail, cause));
    };
    socket.on('data', (chunk: Buffer) => {
      if (this.#socket === socket) this.#receive(chunk);
    });
    socket.on('error', (error) => onEnd(`the channel to the guest agent broke: ${error.message}`, error));
    socket.on('close', () => onEnd('the channel to the guest agent was ended'));
  }

  async #synchronize(
    socket: Socket,
    command: string,
    timeoutMs: number,
    signal: AbortSignal | undefined,
  ): Promise<void> {
    const id = randomInt(1, 2 ** 31);
    const request = JSON.stringify({ execute: 'guest-sync-delimited', arguments: { id } });
    const busyWith = this.#unanswered;
    await this.#await<void>({
      command,
      timeoutMs,
      signal,
      maxBytes: DEFAULT_MAX_ANSWER_BYTES,
      onTimeout: () => {
        const detail = busyWith === null ? '' : `; it may still be busy with ${busyWith}`;
        const said = this.#saidInstead();
        return new AgentError(
          'silent',
          command,
          `no agent answers in the guest within ${timeoutMs} ms${detail}${said}`,
        );
      },
      begin: () => {
        // The newline ends a line of garbage that a guest's own echo or an older client may have begun.
        socket.write(Buffer.concat([Buffer.from([DELIMITER]), Buffer.from(`${request}\n`)]));
      },
      take: (fields) => (fields['return'] === id ? { value: undefined } : null),
    });
    this.#unanswered = null;
    this.#synchronizedAt = performance.now();
  }

  async #exchange(
    socket: Socket,
    command: string,
    line: string,
    deadline: number,
    options: AgentExecuteOptions,
  ): Promise<unknown> {
    const { silenceMs, signal, maxAnswerBytes = DEFAULT_MAX_ANSWER_BYTES, timeoutMs = 10_000 } = options;
    const remainingMs = Math.max(1, deadline - performance.now());
    let answer: Answer;
    try {
      answer = await this.#await<Answer>({
        command,
        timeoutMs: silenceMs === undefined ? remainingMs : Math.min(silenceMs, remainingMs),
        signal,
        maxBytes: maxAnswerBytes,
        onTimeout: () => {
          this.#unanswered = command;
          const said = this.#saidInstead();
          return new AgentError('timeout', command, `the guest agent did not answer within ${timeoutMs} ms${said}`);
        },
        begin: () => socket.write(line),
        take: (fields) => {
          if ('return' in fields) return { value: { return: fields['return'] } };
          if ('error' in fields) return { value: { error: fields['error'] } };
          return null;
        },
      });
    } catch (error) {
      const isSilence = error instanceof AgentError && (error.reason === 'timeout' || error.reason === 'stopped');
      if (silenceMs !== undefined && isSilence && !isBrokenPipe(error)) {
        this.#unanswered = null;
        return null;
      }
      throw error;
    }
    if ('error' in answer) throw toAgentError(command, answer.error);
    return answer.return;
  }

  /** Waits for a line that `take` accepts. On any failure the socket is gone afterwards. */
  #await<T>(wait: {
    command: string;
    timeoutMs: number;
    signal: AbortSignal | undefined;
    maxBytes: number;
    onTimeout: () => AgentError;
    begin: () => void;
    take: (fields: Record<string, unknown>) => { value: T } | null;
  }): Promise<T> {
    const { command, timeoutMs, signal, maxBytes, onTimeout, begin, take } = wait;
    return new Promise((resolve, reject) => {
      const settle = (): void => {
        clearTimeout(timer);
        signal?.removeEventListener('abort', onAbort);
        this.#onAnswer = null;
        this.#onFailure = null;
        this.#limit(MAX_UNASKED_BYTES);
      };
      const onAbort = (): void => this.#drop(new AgentError('cancelled', command, 'it was cancelled'));
      const timer = setTimeout(() => this.#drop(onTimeout()), timeoutMs);
      this.#onFailure = (error) => {
        settle();
        reject(error.command === null ? new AgentError(error.reason, command, error.message, error.cause) : error);
      };
      this.#onAnswer = (fields) => {
        const taken = take(fields);
        if (!taken) return;
        settle();
        resolve(taken.value);
      };
      this.#limit(maxBytes);
      if (signal?.aborted) {
        onAbort();
        return;
      }
      signal?.addEventListener('abort', onAbort, { once: true });
      begin();
    });
  }

  /** What was received instead of an answer, for people. */
  #saidInstead(): string {
    const { lines, reason } = this.#odd;
    if (lines > 0) return `; it sent ${lines} lines that are no answer, the last of them ${reason}`;
    const { pendingBytes } = this.#reader;
    return pendingBytes > 0 ? `; it sent ${pendingBytes} bytes of an answer that has no end` : '';
  }

  #limit(bytes: number): void {
    this.#bytesReceived = 0;
    this.#odd = { lines: 0, reason: '' };
    this.#maxBytes = bytes;
    this.#reader.maxLineBytes = bytes;
  }

  #receive(chunk: Buffer): void {
    this.#bytesReceived += chunk.length;
    if (this.#bytesReceived > this.#maxBytes) {
      this.#drop(new AgentError('protocol', null, `the guest sent more than the ${this.#maxBytes} bytes allowed`));
      return;
    }
    // The agent puts the delimiter before the answer to a synchronization; what stands before it on the line is the
    // torn end of something older.
    const delimiter = chunk.lastIndexOf(DELIMITER);
    if (delimiter !== -1) this.#reader.clear();
    const data = delimiter === -1 ? chunk : chunk.subarray(delimiter + 1);
    try {
      this.#reader.feed(data, (line) => {
        const parsed = parse(line);
        if (!this.#onAnswer) {
          if ('fields' in parsed && isAnswer(parsed.fields)) throw new Error('an answer that nobody has asked for');
        } else if ('fields' in parsed) this.#onAnswer(parsed.fields);
        else this.#odd = { lines: this.#odd.lines + 1, reason: parsed.reason };
      });
    } catch (error) {
      const detail = error instanceof Error ? error.message : String(error);
      this.#drop(new AgentError('protocol', null, `the guest sent what can't be an answer: ${detail}`, error));
    }
  }

  /** Throws the socket away and ends what is under way. */
  #drop(error: AgentError): void {
    const socket = this.#socket;
    this.#socket = null;
    this.#generation++;
    this.#reader.clear();
    socket?.destroy();
    this.#onFailure?.(error);
  }
}

/** A line as a JSON object; or why it is none, such as a message of the guest's kernel on the wrong port. */
function parse(line: Buffer): { fields: Record<string, unknown> } | { reason: string } {
  if (!isUtf8(line)) return { reason: 'not valid UTF-8' };
  const excess = excessOf(line, ANSWER_BOUNDS);
  if (excess !== null) return { reason: `one with ${excess}` };
  try {
    const value: unknown = JSON.parse(line.toString('utf8'));
    return typeof value === 'object' && value !== null && !Array.isArray(value)
      ? { fields: value as Record<string, unknown> }
      : { reason: 'no JSON object' };
  } catch {
    return { reason: 'not valid JSON' };
  }
}

function isAnswer(fields: Record<string, unknown>): boolean {
  return 'return' in fields || 'error' in fields;
}

function isBrokenPipe(error: unknown): boolean {
  return error instanceof AgentError && (error.cause as NodeJS.ErrnoException | undefined)?.code === 'EPIPE';
}

function toAgentError(command: string, error: unknown): AgentError {
  const { class: errorClass, desc } = (error ?? {}) as Record<string, unknown>;
  // The guest's words are for people and are cut, not trusted.
  const words = typeof desc === 'string' && desc !== '' ? printable(desc.slice(0, 1000)) : 'no reason given';
  if (errorClass !== 'CommandNotFound') return new AgentError('refused', command, `the guest agent refused: ${words}`);
  // qemu-ga has one class for both; its words differ: "has not been found", "has been disabled".
  return /disabled/.test(words)
    ? new AgentError('disabled', command, `the guest agent does not allow it: ${words}`)
    : new AgentError('missing', command, 'the guest agent does not have this command');
}
