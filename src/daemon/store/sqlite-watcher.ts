// One watch on the SQLite store.
//
//   behind ──(read from the database up to now)──▶ live
//     ▲                                             │
//     └──────(the reader left too much unread)──────┘
//
// Invariants:
// - #next is the first revision that has not been queued: all before it were delivered, queued, or not within the prefix.
// - While live, every commit is queued by push(), synchronously; while behind, push() does nothing, since the database
//   has it. Both happen on one thread, so nothing falls between.
import { resolveRange } from './keys.ts';
import type { StoreEvent, WatchBatch, WatchOptions } from './store.ts';

export interface WatchSource {
  /** Whole revisions from this one on that touch the range; an empty list means that there are none yet. Throws CompactedError. */
  read: (range: { start: string; end: string }, fromRevision: number) => WatchBatch[];
  revision: () => number;
  /** Called once, when the watch needs no more pushes. */
  onEnd: () => void;
}

/** Batches a slow reader may leave in memory; then it reads from the database again. */
const maxQueued = 1000;

export class SqliteWatcher implements AsyncIterableIterator<WatchBatch> {
  readonly #source: WatchSource;
  readonly #prefix: string;
  readonly #range: { start: string; end: string };
  readonly #signal: AbortSignal;
  readonly #onAbort = (): void => this.#end();
  #next: number;
  #queue: WatchBatch[] = [];
  #isBehind: boolean;
  #failure: Error | null = null;
  #isEnded = false;
  #waiting: PromiseWithResolvers<IteratorResult<WatchBatch>> | null = null;

  constructor(options: WatchOptions, signal: AbortSignal, source: WatchSource) {
    this.#source = source;
    this.#prefix = options.prefix;
    this.#range = resolveRange({ prefix: options.prefix });
    this.#next = options.fromRevision;
    this.#isBehind = options.fromRevision <= source.revision();
    this.#signal = signal;
    if (signal.aborted) this.#isEnded = true;
    else signal.addEventListener('abort', this.#onAbort, { once: true });
  }

  /** Takes what was just committed. */
  push(batches: readonly WatchBatch[]): void {
    if (this.#isBehind) return;
    for (const batch of batches) {
      if (batch.revision < this.#next) continue;
      this.#next = batch.revision + 1;
      const events = batch.events.filter((event: StoreEvent) => event.key.startsWith(this.#prefix));
      if (events.length > 0) this.#queue.push({ revision: batch.revision, events });
    }
    if (this.#waiting) {
      const batch = this.#queue.shift();
      if (batch) this.#settle({ done: false, value: batch });
    } else if (this.#queue.length > maxQueued) {
      this.#next = this.#queue[0]?.revision ?? this.#next;
      this.#queue = [];
      this.#isBehind = true;
    }
  }

  /** Makes the reader's next read, or the one it waits in, throw. */
  fail(reason: Error): void {
    if (this.#isEnded || this.#failure) return;
    this.#failure = reason;
    this.#release();
    this.#waiting?.reject(reason);
    this.#waiting = null;
  }

  async next(): Promise<IteratorResult<WatchBatch>> {
    if (this.#isEnded) return { done: true, value: undefined };
    if (this.#failure) throw this.#failure;
    if (this.#isBehind && this.#queue.length === 0) {
      try {
        this.#queue = this.#source.read(this.#range, this.#next);
      } catch (error) {
        this.fail(error instanceof Error ? error : new Error(String(error)));
        throw error;
      }
      const last = this.#queue.at(-1);
      this.#isBehind = last !== undefined;
      this.#next = last ? last.revision + 1 : Math.max(this.#next, this.#source.revision() + 1);
    }
    const batch = this.#queue.shift();
    if (batch) return { done: false, value: batch };
    this.#waiting ??= Promise.withResolvers();
    return this.#waiting.promise;
  }

  async return(): Promise<IteratorResult<WatchBatch>> {
    this.#end();
    return { done: true, value: undefined };
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  #end(): void {
    if (this.#isEnded) return;
    this.#isEnded = true;
    this.#queue = [];
    this.#release();
    this.#settle({ done: true, value: undefined });
  }

  #settle(result: IteratorResult<WatchBatch>): void {
    this.#waiting?.resolve(result);
    this.#waiting = null;
  }

  #release(): void {
    this.#signal.removeEventListener('abort', this.#onAbort);
    this.#source.onEnd();
  }
}
