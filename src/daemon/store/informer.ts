// Keeps something in memory in step with all keys under a prefix: lists them once, then follows the watch, and lists
// again when it missed more than the store still knows. (An informer in Kubernetes' sense of the word.)
//
// Invariants:
// - The target sees a state of the store at one revision after another, never a mixture, and never an older one.
// - `revision` is that of the last state the target has seen. Nothing under the prefix happened between it and what
//   comes next.
// - Only one of reset() and apply() runs at a time, and none after stop().
import { setTimeout as delay } from 'node:timers/promises';
import {
  CompactedError,
  StoreClosedError,
  StoreFailedError,
  type KeyValue,
  type Store,
  type WatchBatch,
} from './store.ts';

/** What is kept in step. All are synchronous; what they throw is logged, and the informer goes on. */
export interface InformerTarget<Decoded> {
  /** What it needs of an item of the list. Done page by page, so that not all texts are in memory at once. */
  decode(item: KeyValue): Decoded;
  /** All that is there, at the start and whenever catching up was impossible. */
  reset(items: readonly Decoded[], revision: number): void;
  /** What one revision changed. */
  apply(batch: WatchBatch): void;
}

/** The part of pino's interface that the store and the task engine use. */
export interface Log {
  debug(details: object, message: string): void;
  info(details: object, message: string): void;
  warn(details: object, message: string): void;
  error(details: object, message: string): void;
}

/** Says nothing; for tests and tools. */
export const silentLog: Log = { debug() {}, info() {}, warn() {}, error() {} };

const firstRetryMs = 100;
const longestRetryMs = 10_000;

/** All keys under a prefix at one revision, however many pages they are, each through `decode`. */
export async function listAll<Decoded>(
  store: Store,
  prefix: string,
  decode: (item: KeyValue) => Decoded,
): Promise<{ items: Decoded[]; revision: number }> {
  for (;;) {
    try {
      let page = await store.list({ prefix });
      const { revision } = page;
      const items = page.items.map(decode);
      while (page.next !== null) {
        page = await store.list({ prefix, after: page.next, revision });
        for (const item of page.items) items.push(decode(item));
      }
      return { items, revision };
    } catch (error) {
      // Compacted while it was read: a new list begins at a newer revision.
      if (!(error instanceof CompactedError)) throw error;
    }
  }
}

export class Informer<Decoded> {
  readonly #store: Store;
  readonly #prefix: string;
  readonly #target: InformerTarget<Decoded>;
  readonly #log: Log;
  readonly #controller = new AbortController();
  #revision = 0;
  #waiters: { revision: number; resolve: (isReached: boolean) => void }[] = [];
  #running: Promise<void> | null = null;

  constructor(store: Store, prefix: string, target: InformerTarget<Decoded>, log: Log = silentLog) {
    this.#store = store;
    this.#prefix = prefix;
    this.#target = target;
    this.#log = log;
  }

  /** Revision of the state that the target has. */
  get revision(): number {
    return this.#revision;
  }

  /** Resolves when the target has the first list; from then on it is kept in step. */
  async start(): Promise<void> {
    const { items, revision } = await this.#list();
    this.#target.reset(items, revision);
    this.#advance(revision);
    this.#running = this.#follow();
  }

  /** Ends following. Resolves when no call of the target is under way or to come. */
  async stop(): Promise<void> {
    this.#controller.abort();
    await this.#running;
    for (const waiter of this.#waiters.splice(0)) waiter.resolve(false);
  }

  /**
   * Resolves to true when the target has the state of this revision or a later one, and to false when it does not get
   * there in time. Only for revisions that changed something under the prefix.
   */
  async reached(revision: number, timeoutMs = 10_000): Promise<boolean> {
    if (this.#revision >= revision) return true;
    if (this.#controller.signal.aborted) return false;
    return new Promise((resolve) => {
      const waiter = { revision, resolve };
      this.#waiters.push(waiter);
      const timer = setTimeout(() => {
        this.#waiters = this.#waiters.filter((other) => other !== waiter);
        resolve(false);
      }, timeoutMs);
      waiter.resolve = (isReached) => {
        clearTimeout(timer);
        resolve(isReached);
      };
    });
  }

  #list(): Promise<{ items: Decoded[]; revision: number }> {
    return listAll(this.#store, this.#prefix, (item) => this.#target.decode(item));
  }

  async #follow(): Promise<void> {
    const { signal } = this.#controller;
    let retryMs = firstRetryMs;
    let mustList = false;
    while (!signal.aborted) {
      try {
        if (mustList) {
          const { items, revision } = await this.#list();
          if (signal.aborted) return;
          this.#call(revision, () => this.#target.reset(items, revision));
          mustList = false;
        }
        const options = { prefix: this.#prefix, fromRevision: this.#revision + 1 };
        for await (const batch of this.#store.watch(options, signal)) {
          retryMs = firstRetryMs;
          this.#call(batch.revision, () => this.#target.apply(batch));
        }
        if (!signal.aborted) throw new StoreFailedError(`the watch of ${this.#prefix} ended by itself`);
      } catch (error) {
        if (signal.aborted || error instanceof StoreClosedError) return;
        this.#log.warn({ err: error, prefix: this.#prefix }, 'the watch was interrupted and begins again');
        if (error instanceof CompactedError) {
          mustList = true;
          continue;
        }
        await delay(retryMs, undefined, { signal }).catch(() => {});
        retryMs = Math.min(retryMs * 2, longestRetryMs);
      }
    }
  }

  #call(revision: number, change: () => void): void {
    try {
      change();
    } catch (error) {
      this.#log.error({ err: error, prefix: this.#prefix, revision }, 'a change could not be taken over');
    }
    this.#advance(revision);
  }

  #advance(revision: number): void {
    this.#revision = revision;
    const reached = this.#waiters.filter((waiter) => waiter.revision <= revision);
    if (reached.length === 0) return;
    this.#waiters = this.#waiters.filter((waiter) => waiter.revision > revision);
    for (const waiter of reached) waiter.resolve(true);
  }
}
