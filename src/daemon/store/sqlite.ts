// The store of a single machine, on node:sqlite: `current` holds each key's value, `history` what it was before and
// that it was deleted, until compaction.
//
// Invariants:
// - Only #drain() changes the database, synchronously: no read ever sees a transaction in part.
// - Writes that arrive together share one commit, and so one wait for the disk, but each has a revision of its own and
//   fails alone. They resolve after the commit, in the order in which they arrived.
// - A row of `history` was the truth from its mod_revision to before its ended_revision; a deletion is a row with value
//   NULL that ends one revision later. Compacting to R drops the rows with ended_revision <= R, and nothing else.
// - After an error of the disk that is not "full" nothing is known about what it kept: the store refuses all further
//   work, and a new daemon starts from what is there.
import { randomUUID } from 'node:crypto';
import type { DatabaseSync } from 'node:sqlite';
import { checkKey, checkLimit, checkTransaction, resolveRange } from './keys.ts';
import { openDatabase, translateError } from './sqlite-file.ts';
import { prepareStatements, toKeyValue, type Row, type Statements, type StoredRow } from './sqlite-statements.ts';
import { SqliteWatcher } from './sqlite-watcher.ts';
import {
  CompactedError,
  FutureRevisionError,
  LeaseNotFoundError,
  StoreClosedError,
  StoreCorruptError,
  StoreFailedError,
  StoreFullError,
  StoreRequestError,
  type Comparison,
  type KeyValue,
  type Lease,
  type ListOptions,
  type Operation,
  type Page,
  type Store,
  type StoreEvent,
  type Transaction,
  type TransactionResult,
  type WatchBatch,
  type WatchOptions,
} from './store.ts';

export interface SqliteStoreOptions {
  /** The database file; its folder is made when missing. */
  file: string;
  /** How many revisions back can still be watched from. Default 10,000. */
  historyRevisions?: number;
  /** Largest size of the database file, in bytes. Default 4 GiB. */
  maxBytes?: number;
}

interface Job {
  apply: () => unknown;
  resolve: (value: never) => void;
  reject: (reason: unknown) => void;
}

/** Most writes that share a commit: bounds how long the event loop stands still. */
const maxJobsPerCommit = 200;
/** Longest delay setTimeout takes. */
const maxTimerMs = 2_147_483_647;

export class SqliteStore implements Store {
  readonly #file: string;
  readonly #database: DatabaseSync;
  readonly #statements: Statements;
  readonly #historyRevisions: number;
  readonly #watchers = new Set<SqliteWatcher>();
  /** When each lease ends, on the monotonic clock; a restarted daemon grants each its whole time again, as etcd does. */
  readonly #leaseEnds = new Map<string, { ttlMs: number; endsAt: number }>();
  #leaseTimer: NodeJS.Timeout | undefined;
  #jobs: Job[] = [];
  #isDrainPlanned = false;
  #revision: number;
  #compacted: number;
  /** What the jobs of the commit under way changed. */
  #batches: WatchBatch[] = [];
  #refusal: Error | null = null;

  private constructor(database: DatabaseSync, options: SqliteStoreOptions) {
    this.#file = options.file;
    this.#database = database;
    this.#historyRevisions = options.historyRevisions ?? 10_000;
    this.#statements = prepareStatements(database);
    this.#revision = this.#statements.readMeta('revision');
    this.#compacted = this.#statements.readMeta('compacted');
    const now = performance.now();
    for (const { id, ttlMs } of this.#statements.allLeases()) this.#leaseEnds.set(id, { ttlMs, endsAt: now + ttlMs });
    this.#planExpiry();
  }

  /** Opens (or creates) the database. Rejects with StoreLockedError, StoreCorruptError, StoreSchemaError, StoreFullError or StoreFailedError. */
  static async open(options: SqliteStoreOptions): Promise<SqliteStore> {
    const database = openDatabase(options.file, { maxBytes: options.maxBytes ?? 4 * 1024 ** 3 });
    return new SqliteStore(database, options);
  }

  async get(key: string, options: { revision?: number } = {}): Promise<KeyValue | null> {
    checkKey(key);
    return this.#read(() => {
      if (options.revision === undefined) return toKeyValue(this.#statements.get(key));
      this.#checkReadable(options.revision);
      return toKeyValue(this.#statements.getAt(key, options.revision));
    });
  }

  async list(options: ListOptions): Promise<Page> {
    const limit = checkLimit(options.limit);
    const { start, end } = resolveRange(options);
    const from = { start, end, after: options.after ?? '' };
    return this.#read(() => {
      const { revision = this.#revision } = options;
      this.#checkReadable(revision);
      const rows =
        revision === this.#revision
          ? this.#statements.list(from, limit + 1)
          : this.#statements.listAt(from, revision, limit + 1);
      const items = rows.slice(0, limit).flatMap((row) => toKeyValue(row) ?? []);
      return { items, revision, next: rows.length > limit ? (items.at(-1)?.key ?? null) : null };
    });
  }

  async transact(transaction: Transaction): Promise<TransactionResult> {
    checkTransaction(transaction);
    return this.#write(() => this.#applyTransaction(transaction));
  }

  watch(options: WatchOptions, signal: AbortSignal): AsyncIterable<WatchBatch> {
    const watcher: SqliteWatcher = new SqliteWatcher(options, signal, {
      read: (range, fromRevision) => this.#readBatches(range, fromRevision),
      revision: () => this.#revision,
      onEnd: () => this.#watchers.delete(watcher),
    });
    if (this.#refusal) watcher.fail(this.#refusal);
    else if (!signal.aborted) this.#watchers.add(watcher);
    return watcher;
  }

  async grantLease(ttlMs: number): Promise<Lease> {
    if (!Number.isFinite(ttlMs) || ttlMs <= 0)
      throw new StoreRequestError(`a lease takes more than 0 ms, not ${ttlMs}`);
    const lease = { id: randomUUID(), ttlMs: Math.ceil(ttlMs) };
    await this.#write(() => this.#statements.insertLease(lease));
    this.#leaseEnds.set(lease.id, { ttlMs: lease.ttlMs, endsAt: performance.now() + lease.ttlMs });
    this.#planExpiry();
    return lease;
  }

  async keepLeaseAlive(leaseId: string): Promise<void> {
    this.#checkOpen();
    const lease = this.#leaseEnds.get(leaseId);
    const now = performance.now();
    if (!lease || lease.endsAt <= now) throw new LeaseNotFoundError(leaseId);
    lease.endsAt = now + lease.ttlMs;
  }

  async revokeLease(leaseId: string): Promise<void> {
    await this.#write(() => {
      if (!this.#statements.hasLease(leaseId)) throw new LeaseNotFoundError(leaseId);
      this.#applyRevocation(leaseId);
    });
    this.#leaseEnds.delete(leaseId);
  }

  async compact(revision: number): Promise<void> {
    await this.#write(() => {
      if (revision > this.#revision) throw new FutureRevisionError(revision, this.#revision);
      this.#applyCompaction(revision);
    });
  }

  async revision(): Promise<number> {
    this.#checkOpen();
    return this.#revision;
  }

  async close(): Promise<void> {
    if (this.#refusal instanceof StoreClosedError) return;
    while (this.#jobs.length > 0) this.#drain();
    clearTimeout(this.#leaseTimer);
    this.#refuseFromNowOn(new StoreClosedError());
    this.#database.close();
  }

  // --- writes ---

  async #write<T>(apply: () => T): Promise<T> {
    this.#checkOpen();
    return new Promise<T>((resolve, reject) => {
      this.#jobs.push({ apply, resolve, reject });
      if (this.#isDrainPlanned) return;
      this.#isDrainPlanned = true;
      // After the I/O callbacks of this turn, so that what arrives together is committed together.
      setImmediate(() => this.#drain());
    });
  }

  #drain(): void {
    this.#isDrainPlanned = false;
    const jobs = this.#jobs.splice(0, maxJobsPerCommit);
    if (jobs.length === 0) return;
    if (this.#jobs.length > 0) {
      this.#isDrainPlanned = true;
      setImmediate(() => this.#drain());
    }
    if (this.#refusal) {
      for (const job of jobs) job.reject(this.#refusal);
      return;
    }
    const failure = this.#commit(jobs);
    if (failure instanceof StoreFullError) {
      // History is the one thing that can be given up: who needs it lists again. Then each job alone, since one may be
      // too large for the room that is left, and the others not.
      this.#commit([{ apply: () => this.#applyCompaction(this.#revision), resolve: () => {}, reject: () => {} }]);
      for (const job of jobs) {
        const own = this.#refusal ?? this.#commit([job]);
        if (own) job.reject(own);
      }
    } else if (failure) {
      for (const job of jobs) job.reject(failure);
    }
    this.#compactOldHistory();
  }

  /** Does the jobs in one database transaction and settles them; or does none of them and returns why. */
  #commit(jobs: readonly Job[]): unknown {
    const before = { revision: this.#revision, compacted: this.#compacted };
    const outcomes: (() => void)[] = [];
    try {
      this.#database.exec('BEGIN IMMEDIATE');
      for (const job of jobs) {
        try {
          const value = job.apply();
          outcomes.push(() => job.resolve(value as never));
        } catch (error) {
          // Jobs check before they write: an error of the store's own means that this job has changed nothing.
          if (error instanceof Error && 'errcode' in error) throw error;
          outcomes.push(() => job.reject(error));
        }
      }
      if (this.#revision > before.revision) this.#statements.writeMeta('revision', this.#revision);
      this.#database.exec('COMMIT');
    } catch (error) {
      this.#revision = before.revision;
      this.#compacted = before.compacted;
      this.#batches = [];
      return this.#rollBack(error);
    }
    const batches = this.#batches;
    this.#batches = [];
    for (const watcher of this.#watchers) watcher.push(batches);
    for (const settle of outcomes) settle();
    return null;
  }

  #rollBack(error: unknown): unknown {
    const failure = translateError(error, this.#file);
    try {
      // SQLite has rolled back by itself after some errors.
      if (this.#database.isTransaction) this.#database.exec('ROLLBACK');
      if (failure instanceof StoreFullError) return failure;
    } catch {
      // The first error tells more than that of the roll-back.
    }
    if (failure instanceof StoreCorruptError || failure instanceof StoreFailedError) this.#refuseFromNowOn(failure);
    return failure;
  }

  #applyTransaction(transaction: Transaction): TransactionResult {
    const succeeded = (transaction.compare ?? []).every((comparison) => this.#holds(comparison));
    const operations = succeeded ? transaction.success : (transaction.failure ?? []);
    for (const operation of operations) {
      if ('put' in operation && operation.leaseId !== undefined && !this.#statements.hasLease(operation.leaseId)) {
        throw new LeaseNotFoundError(operation.leaseId);
      }
    }
    const found: (KeyValue | null)[] = [];
    const events: StoreEvent[] = [];
    const revision = this.#revision + 1;
    for (const operation of operations) {
      if ('get' in operation) found.push(toKeyValue(this.#statements.get(operation.get)));
      else if ('put' in operation) events.push(this.#put(operation, revision, events.length));
      else if (this.#delete(operation.delete, revision, events.length))
        events.push({ type: 'delete', key: operation.delete });
    }
    this.#finishRevision(revision, events);
    return { succeeded, revision: this.#revision, found };
  }

  #holds(comparison: Comparison): boolean {
    const row = this.#statements.get(comparison.key);
    if ('exists' in comparison) return (row !== undefined) === comparison.exists;
    if ('modRevision' in comparison) return (row?.mod_revision ?? 0) === comparison.modRevision;
    if ('createRevision' in comparison) return (row?.create_revision ?? 0) === comparison.createRevision;
    if ('version' in comparison) return (row?.version ?? 0) === comparison.version;
    return row !== undefined && row.value === comparison.value;
  }

  #put(operation: Extract<Operation, { put: string }>, revision: number, sub: number): StoreEvent {
    const old = this.#statements.get(operation.put);
    const row: Row = {
      key: operation.put,
      value: operation.value,
      create_revision: old?.create_revision ?? revision,
      mod_revision: revision,
      version: (old?.version ?? 0) + 1,
      lease: operation.leaseId ?? null,
    };
    // The old row goes first, so that its space can take the new one when there is little left.
    if (old) this.#retire(old, revision);
    this.#statements.put(row, sub);
    return { type: 'put', key: row.key, current: toKeyValue(row) };
  }

  #delete(key: string, revision: number, sub: number): boolean {
    const old = this.#statements.get(key);
    if (!old) return false;
    this.#retire(old, revision);
    this.#statements.insertTombstone(key, revision, sub);
    return true;
  }

  #retire(row: StoredRow, revision: number): void {
    this.#statements.delete(row.key);
    this.#statements.insertHistory(row, row.sub, revision);
  }

  #finishRevision(revision: number, events: StoreEvent[]): void {
    if (events.length === 0) return;
    this.#revision = revision;
    this.#batches.push({ revision, events });
  }

  #applyRevocation(leaseId: string): void {
    const revision = this.#revision + 1;
    const events: StoreEvent[] = [];
    for (const key of this.#statements.keysOfLease(leaseId)) {
      this.#delete(key, revision, events.length);
      events.push({ type: 'delete', key });
    }
    this.#statements.deleteLease(leaseId);
    this.#finishRevision(revision, events);
  }

  #applyCompaction(revision: number): void {
    if (revision <= this.#compacted) return;
    this.#statements.deleteHistory(revision);
    this.#statements.writeMeta('compacted', revision);
    this.#compacted = revision;
  }

  // --- leases and history ---

  #planExpiry(): void {
    clearTimeout(this.#leaseTimer);
    if (this.#leaseEnds.size === 0 || this.#refusal) return;
    const next = Math.min(...Array.from(this.#leaseEnds.values(), (lease) => lease.endsAt));
    const delayMs = Math.min(Math.max(next - performance.now(), 0), maxTimerMs);
    // One more millisecond: timers are cut to whole ones and would else find the lease still alive.
    this.#leaseTimer = setTimeout(() => this.#expireLeases(), Math.ceil(delayMs) + 1).unref();
  }

  #expireLeases(): void {
    const now = performance.now();
    for (const [id, { endsAt }] of this.#leaseEnds) {
      if (endsAt > now) continue;
      this.#leaseEnds.delete(id);
      this.#write(() => this.#applyRevocation(id)).catch(() => {
        // A full disk may have room again later; a lease of a store that failed or closed ends with the next opening.
        if (!this.#refusal) this.#leaseEnds.set(id, { ttlMs: 1000, endsAt: performance.now() + 1000 });
        this.#planExpiry();
      });
    }
    this.#planExpiry();
  }

  #compactOldHistory(): void {
    const target = this.#revision - this.#historyRevisions;
    // In steps, so that it neither runs on every write nor deletes much at once.
    const step = Math.min(Math.ceil(this.#historyRevisions / 10), 200);
    if (this.#refusal || target - this.#compacted < step) return;
    // Kept longer is no harm: the next write tries again.
    this.compact(target).catch(() => {});
  }

  // --- reads ---

  #read<T>(read: () => T): T {
    this.#checkOpen();
    try {
      return read();
    } catch (error) {
      const failure = translateError(error, this.#file);
      if (failure instanceof StoreCorruptError || failure instanceof StoreFailedError) this.#refuseFromNowOn(failure);
      throw failure;
    }
  }

  #readBatches(range: { start: string; end: string }, fromRevision: number): WatchBatch[] {
    return this.#read(() => {
      if (fromRevision < this.#compacted) throw new CompactedError(fromRevision, this.#compacted);
      return this.#statements.batchesFrom(range, fromRevision);
    });
  }

  #checkReadable(revision: number): void {
    if (revision > this.#revision) throw new FutureRevisionError(revision, this.#revision);
    if (revision < this.#compacted) throw new CompactedError(revision, this.#compacted);
  }

  #checkOpen(): void {
    if (this.#refusal) throw this.#refusal;
  }

  #refuseFromNowOn(reason: Error): void {
    this.#refusal = reason;
    for (const watcher of this.#watchers) watcher.fail(reason);
    this.#watchers.clear();
  }
}
