// The one interface through which Lodge keeps state: ordered keys with JSON texts, transactions, history, watches and
// leases, with the semantics of etcd v3 (https://etcd.io/docs/v3.5/learning/api_guarantees/). On one machine SQLite
// implements it (sqlite.ts), in a cluster etcd; store.conformance.ts holds both to what is promised here.
//
// What every implementation promises:
// - One revision counts the whole store. A transaction that changes something takes the next one (it may skip some);
//   a transaction that changes nothing takes none.
// - A resolved write is durable: it survives power loss. A rejected write has changed nothing, except where the
//   connection to the store was lost meanwhile (StoreFailedError), when it may have.
// - Reads see every write that resolved before they began, and no transaction in part.
// - A watch delivers each revision once, whole, and in order, however late it started, unless it was compacted away.
import { LodgeError } from '../../api/errors.ts';

/** Longest key, in bytes of UTF-8. */
export const maxKeyBytes = 1024;
/** Longest value, in bytes of UTF-8; etcd refuses requests over 1.5 MiB, and a value should leave room in one. */
export const maxValueBytes = 1024 * 1024;
/** Most operations in one branch of a transaction, and most comparisons: etcd's default (--max-txn-ops). */
export const maxTransactionOperations = 128;
/** Most keys one page of a list may have. */
export const maxListLimit = 10_000;

/** A key, its value, and where they stand in the store's history. */
export interface KeyValue {
  /** Any text of at most {@link maxKeyBytes} without U+0000, U+10FFFF and lone surrogates. */
  key: string;
  /** JSON text by convention; the store takes any text without U+0000 and lone surrogates. */
  value: string;
  /** Revision that created the key (since it was last absent). */
  createRevision: number;
  /** Revision of the last write. */
  modRevision: number;
  /** Writes since it was created; the creation is 1. */
  version: number;
  /** The lease it dies with, or null. */
  leaseId: string | null;
}

/** Which keys: all that begin with `prefix` (an empty one means all), or all from `start` to before `end`. Order is that of UTF-8 bytes. */
export type KeyRange = { prefix: string } | { start: string; end: string };

export type ListOptions = KeyRange & {
  /** Most items a page, 1 to {@link maxListLimit}; default 1000. */
  limit?: number;
  /** Begins after this key: the `next` of the page before. */
  after?: string;
  /** Lists the store as it was at this revision. Give the first page's revision for the pages after it. */
  revision?: number;
};

export interface Page {
  /** In the order of their keys. */
  items: KeyValue[];
  /** The revision that this page shows. */
  revision: number;
  /** Give it as `after` for the next page; null on the last. */
  next: string | null;
}

/** One condition on one key. A missing key has modRevision, createRevision and version 0 and equals no value. */
export type Comparison =
  | { key: string; exists: boolean }
  | { key: string; modRevision: number }
  | { key: string; createRevision: number }
  | { key: string; version: number }
  | { key: string; value: string };

/** A write without a lease takes the key off its lease. Deleting a missing key is no error and no change. A get sees the writes before it. */
export type Operation = { put: string; value: string; leaseId?: string } | { delete: string } | { get: string };

export interface Transaction {
  /** All must hold for `success` to be done; none means that they do. */
  compare?: readonly Comparison[];
  success: readonly Operation[];
  /** Done when a comparison does not hold. */
  failure?: readonly Operation[];
}

export interface TransactionResult {
  /** Whether all comparisons held, so that `success` was done and not `failure`. */
  succeeded: boolean;
  /** The revision of the changes made; if none were made, the store's revision. */
  revision: number;
  /** What each `get` of the branch found, in their order. */
  found: (KeyValue | null)[];
}

export type StoreEvent = { type: 'put'; key: string; current: KeyValue } | { type: 'delete'; key: string };

/** All that one revision changed within the watched prefix. */
export interface WatchBatch {
  revision: number;
  /** In the order of the operations; a key appears at most once. */
  events: StoreEvent[];
}

export interface WatchOptions {
  prefix: string;
  /** The first revision to deliver: for all that follows a list, its revision + 1. It may lie in the future. */
  fromRevision: number;
}

export interface Lease {
  id: string;
  /** What was granted; may be longer than what was asked for. */
  ttlMs: number;
}

/** See the top of store.ts for what holds for all of it. All methods reject with the errors of this file. */
export interface Store {
  get(key: string, options?: { revision?: number }): Promise<KeyValue | null>;
  list(options: ListOptions): Promise<Page>;
  transact(transaction: Transaction): Promise<TransactionResult>;
  /**
   * Follows the keys under a prefix. It ends when `signal` aborts, throws {@link CompactedError} when `fromRevision`
   * (or, for a reader that fell far behind, the next revision it needs) was compacted away, and
   * {@link StoreClosedError} when the store is closed. It can be iterated once.
   */
  watch(options: WatchOptions, signal: AbortSignal): AsyncIterable<WatchBatch>;
  /** A lease that lives for at least `ttlMs` from now. */
  grantLease(ttlMs: number): Promise<Lease>;
  /** Lets the lease live for its whole time again, from now. */
  keepLeaseAlive(leaseId: string): Promise<void>;
  /** Ends the lease and deletes all keys attached to it, in one revision. */
  revokeLease(leaseId: string): Promise<void>;
  /** Forgets what is only needed to read or watch from before `revision`. A revision that is already compacted is no error. */
  compact(revision: number): Promise<void>;
  /** The store's revision now. */
  revision(): Promise<number>;
  /** Waits for writes under way and releases everything. Calls made afterwards reject with {@link StoreClosedError}. */
  close(): Promise<void>;
}

/** The revision asked for was compacted away: list again and go on from that list's revision. */
export class CompactedError extends LodgeError {
  override name = 'CompactedError';
  /** The oldest revision that can still be read and watched from. */
  readonly compactedRevision: number;

  constructor(revision: number, compactedRevision: number) {
    super('revision_gone', `revision ${revision} is no longer kept: the oldest that is, is ${compactedRevision}`);
    this.compactedRevision = compactedRevision;
  }
}

/** A read of, or a compaction to, a revision that has not happened yet. */
export class FutureRevisionError extends LodgeError {
  override name = 'FutureRevisionError';

  constructor(revision: number, currentRevision: number) {
    super('invalid_request', `revision ${revision} has not happened yet: the store is at ${currentRevision}`);
  }
}

/** The lease has expired, was revoked, or never existed. */
export class LeaseNotFoundError extends LodgeError {
  override name = 'LeaseNotFoundError';

  constructor(leaseId: string) {
    super('not_found', `lease ${leaseId} does not exist: it expired or was revoked`, { hint: 'Grant a new lease.' });
  }
}

/** A key, value, limit or transaction that no implementation takes. */
export class StoreRequestError extends LodgeError {
  override name = 'StoreRequestError';

  constructor(message: string) {
    super('invalid_request', message);
  }
}

/** There is no room for a write. Nothing of it was kept, and the store goes on serving reads. */
export class StoreFullError extends LodgeError {
  override name = 'StoreFullError';

  constructor(what: string, cause?: unknown) {
    super('storage_full', `${what} has no room for the write; nothing of it was kept`, {
      hint: 'Free some space on that file system, then try again.',
      cause,
    });
  }
}

/** The store can not be reached or its disk fails. */
export class StoreFailedError extends LodgeError {
  override name = 'StoreFailedError';

  constructor(message: string, cause?: unknown) {
    super('unavailable', message, {
      hint: 'See the daemon’s log and that of the machine for the cause, then restart the daemon.',
      cause,
    });
  }
}

/** Another process has the store. */
export class StoreLockedError extends LodgeError {
  override name = 'StoreLockedError';

  constructor(path: string, holder: string) {
    super('unavailable', `the database ${path} is in use by ${holder}: only one daemon can use a data folder`, {
      hint: 'Stop the other daemon (systemctl stop lodge), or give this one a data folder of its own.',
    });
  }
}

/** What is on disk is no sound database. */
export class StoreCorruptError extends LodgeError {
  override name = 'StoreCorruptError';

  constructor(path: string, what: string, cause?: unknown) {
    super('unavailable', `the database ${path} is damaged: ${what}`, {
      hint: 'Restore it from a backup. Guests that run are not touched by this. Keep the damaged file: parts of it may be readable.',
      cause,
    });
  }
}

/** The database was written by a newer Lodge. */
export class StoreSchemaError extends LodgeError {
  override name = 'StoreSchemaError';

  constructor(path: string, found: number, known: number) {
    super('unavailable', `the database ${path} has schema ${found}, and this Lodge knows schemas up to ${known}`, {
      hint: 'Install the Lodge that wrote it, or a newer one. Going back needs a backup from before the upgrade.',
    });
  }
}

/** The store was closed. */
export class StoreClosedError extends LodgeError {
  override name = 'StoreClosedError';

  constructor() {
    super('unavailable', 'the store is closed: the daemon is stopping');
  }
}
