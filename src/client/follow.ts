// Following what happens in the daemon across broken connections and restarts of the daemon: every change of objects,
// and one task until it ends.
import type { Change, ChangeKind } from '../api/event.ts';
import { LodgeError } from '../api/errors.ts';
import { finalTaskStates, type Task } from '../api/task.ts';
import type { LodgeClient } from './client.ts';

export interface FollowOptions {
  signal?: AbortSignal;
  /** How long the daemon may be away before it is an error, in milliseconds. Default 60 s; Infinity waits for ever. */
  reconnectMs?: number;
  /** Called when the connection broke and a new one is tried. */
  onBreak?: (failure: LodgeError) => void;
}

export interface FollowChangesOptions extends FollowOptions {
  /** Revision after which to begin; without it, the stream begins now. */
  since?: number;
  /** Only these kinds; without it, all. */
  kinds?: readonly ChangeKind[];
}

/** First and longest wait between two attempts, in milliseconds. */
const firstRetryMs = 100;
const longestRetryMs = 3_000;

/** Errors that may pass by themselves: the daemon restarts, or the network breaks. */
function isPassing(failure: unknown): failure is LodgeError {
  return (
    failure instanceof LodgeError &&
    (failure.code === 'unavailable' || failure.code === 'timeout' || failure.code === 'rate_limited')
  );
}

/** Waits; an aborted signal throws its reason. */
function pause(delayMs: number, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve, reject) => {
    if (signal?.aborted === true) {
      reject(signal.reason as Error);
      return;
    }
    const onAbort = (): void => {
      clearTimeout(timer);
      reject(signal?.reason as Error);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener('abort', onAbort);
      resolve();
    }, delayMs);
    signal?.addEventListener('abort', onAbort, { once: true });
  });
}

/** Counts how long the daemon has been away, and waits longer each time. */
class Patience {
  #brokenSince: number | null = null;
  #delayMs = firstRetryMs;
  readonly #options: FollowOptions;

  constructor(options: FollowOptions) {
    this.#options = options;
  }

  recovered(): void {
    this.#brokenSince = null;
    this.#delayMs = firstRetryMs;
  }

  /** Waits before the next attempt, or throws the failure when it lasts too long. */
  async wait(failure: LodgeError): Promise<void> {
    this.#brokenSince ??= Date.now();
    if (Date.now() - this.#brokenSince >= (this.#options.reconnectMs ?? 60_000)) throw failure;
    this.#options.onBreak?.(failure);
    // Many clients come back after a restart: the jitter spreads them.
    await pause(this.#delayMs * (0.5 + Math.random() / 2), this.#options.signal);
    this.#delayMs = Math.min(this.#delayMs * 2, longestRetryMs);
  }
}

/**
 * Every change of objects, each once and in order, also across broken connections. Ends without an error when the
 * signal aborts. Throws `revision_gone` when the daemon no longer keeps the changes since the last one seen: list the
 * objects again and follow from that list's revision.
 */
export async function* followChanges(
  client: LodgeClient,
  options: FollowChangesOptions = {},
): AsyncGenerator<Change, void> {
  const { signal, kinds } = options;
  const patience = new Patience(options);
  /** Everything up to and including this revision has been delivered. */
  let complete = options.since;
  /** Changes of the revision after it that have been delivered: a break may come in its middle. */
  let current: { revision: number; delivered: Set<string> } | null = null;

  while (!hasEnded(signal)) {
    try {
      const stream = await client.event.stream({ query: { since: complete, kinds: kinds?.join(',') } }, { signal });
      for await (const change of stream) {
        patience.recovered();
        if (change.type === 'synced') {
          complete = Math.max(complete ?? 0, change.revision);
          current = null;
          yield change;
          continue;
        }
        if (complete !== undefined && change.revision <= complete) continue;
        if (current !== null && change.revision > current.revision) {
          complete = current.revision;
          current = null;
        }
        current ??= { revision: change.revision, delivered: new Set() };
        complete ??= change.revision - 1;
        const key = `${change.kind}/${change.id}`;
        if (current.delivered.has(key)) continue;
        current.delivered.add(key);
        yield change;
      }
      if (hasEnded(signal)) return;
      await patience.wait(new LodgeError('unavailable', 'the daemon ended the event stream'));
    } catch (failure) {
      if (hasEnded(signal)) return;
      if (!isPassing(failure)) throw failure;
      try {
        await patience.wait(failure);
      } catch (reason) {
        if (hasEnded(signal)) return;
        throw reason;
      }
    }
  }
}

function hasEnded(signal: AbortSignal | undefined): boolean {
  return signal?.aborted === true;
}

export interface WaitForTaskOptions extends FollowOptions {
  /** Called with the task at first and whenever it has changed. */
  onProgress?: (task: Task) => void;
  /** Longest wait, in milliseconds; then it throws `timeout`, and the task goes on. Default: no end but the task's own deadline. */
  timeoutMs?: number;
}

/** Waits until a task has ended, and gives it, whichever way it ended. An aborted signal throws its reason. */
export async function waitForTaskEnd(
  client: LodgeClient,
  taskId: string,
  options: WaitForTaskOptions = {},
): Promise<Task> {
  const { signal, onProgress, timeoutMs } = options;
  signal?.throwIfAborted();
  const stop = new AbortController();
  const onAbort = (): void => stop.abort(signal?.reason);
  signal?.addEventListener('abort', onAbort, { once: true });
  const timer =
    timeoutMs === undefined
      ? undefined
      : setTimeout(
          () =>
            stop.abort(
              new LodgeError('timeout', `task ${taskId} has not ended within ${timeoutMs / 1000} s`, {
                hint: `It goes on: follow it with lodge task wait ${taskId}.`,
              }),
            ),
          timeoutMs,
        );
  try {
    return await new TaskWatch(client, taskId, { ...options, signal: stop.signal }, onProgress).end();
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener('abort', onAbort);
    stop.abort();
  }
}

/** Waits until a task has succeeded, and gives it. A failed task throws its own error, a cancelled one `cancelled`. */
export async function waitForTask(
  client: LodgeClient,
  taskId: string,
  options: WaitForTaskOptions = {},
): Promise<Task> {
  const task = await waitForTaskEnd(client, taskId, options);
  if (task.state === 'succeeded') return task;
  if (task.error !== null) throw LodgeError.fromBody({ error: task.error });
  throw new LodgeError(
    task.state === 'cancelled' ? 'cancelled' : 'internal',
    `task ${task.type} of ${task.target.kind} ${task.target.name} ended as ${task.state}`,
  );
}

/** Follows one task: by the event stream where there is one, else by asking again and again. */
class TaskWatch {
  readonly #client: LodgeClient;
  readonly #id: string;
  readonly #options: WaitForTaskOptions & { signal: AbortSignal };
  readonly #onProgress: ((task: Task) => void) | undefined;
  readonly #patience: Patience;
  #seen = '';

  constructor(
    client: LodgeClient,
    id: string,
    options: WaitForTaskOptions & { signal: AbortSignal },
    onProgress: ((task: Task) => void) | undefined,
  ) {
    this.#client = client;
    this.#id = id;
    this.#options = options;
    this.#onProgress = onProgress;
    this.#patience = new Patience(options);
  }

  async end(): Promise<Task> {
    const { signal } = this.#options;
    for (;;) {
      try {
        const task = await this.#once();
        if (task !== null) return task;
        signal.throwIfAborted();
        await this.#patience.wait(new LodgeError('unavailable', 'the daemon ended the event stream'));
      } catch (failure) {
        signal.throwIfAborted();
        if (!isPassing(failure)) throw failure;
        await this.#patience.wait(failure);
      }
    }
  }

  /** One connection's worth; null when the stream ended before the task did. */
  async #once(): Promise<Task | null> {
    const { signal } = this.#options;
    const stream = await this.#stream();
    if (stream === null) return this.#poll();
    const iterator = stream[Symbol.asyncIterator]();
    try {
      // Read after the stream has begun: what changes from now on comes through it.
      const first = this.#note(await this.#read());
      if (first !== null) return first;
      for (;;) {
        const next = await iterator.next();
        if (next.done === true) return null;
        this.#patience.recovered();
        const change = next.value;
        if (change.kind !== 'task' || change.id !== this.#id) continue;
        const ended = this.#note(change.object === null ? await this.#read() : (change.object as Task));
        if (ended !== null) return ended;
        signal.throwIfAborted();
      }
    } finally {
      await iterator.return?.();
    }
  }

  /** The stream, or null where it can't be had: without the permission, or with too many streams open. */
  async #stream(): Promise<AsyncIterable<Change> | null> {
    try {
      return await this.#client.event.stream({ query: { kinds: 'task' } }, { signal: this.#options.signal });
    } catch (failure) {
      if (failure instanceof LodgeError && ['forbidden', 'rate_limited', 'not_found'].includes(failure.code))
        return null;
      throw failure;
    }
  }

  async #poll(): Promise<Task> {
    for (let delayMs = 100; ; delayMs = Math.min(delayMs * 1.5, 2_000)) {
      const ended = this.#note(await this.#read());
      if (ended !== null) return ended;
      this.#patience.recovered();
      await pause(delayMs, this.#options.signal);
    }
  }

  #read(): Promise<Task> {
    return this.#client.task.get({ params: { task: this.#id } }, { signal: this.#options.signal });
  }

  /** Reports a task when it has changed; gives it when it has ended. */
  #note(task: Task): Task | null {
    const text = JSON.stringify(task);
    if (text !== this.#seen) {
      this.#seen = text;
      this.#onProgress?.(task);
    }
    return finalTaskStates.has(task.state) ? task : null;
  }
}
