// The records of all tasks: in the store under /lodge/tasks/<id>, and in memory in step with it.
//
// Invariants:
// - Only the node that a task belongs to changes its record; others only set `isCancelRequested`. A write compares the
//   revision it is based on, so neither is lost.
// - A save() that resolved is durable. One that finds no room waits for room: a task is held up, never forgotten.
import { setTimeout as delay } from 'node:timers/promises';
import { LodgeError } from '../../api/errors.ts';
import { finalTaskStates } from '../../api/task.ts';
import { Informer, type InformerTarget, type Log } from '../store/informer.ts';
import {
  StoreClosedError,
  type KeyValue,
  type Store,
  type TransactionResult,
  type WatchBatch,
} from '../store/store.ts';
import type { TransactionPart } from '../store/collection.ts';
import type { Change } from '../store/collection-index.ts';
import type { TaskRecord } from './task.ts';

const prefix = '/lodge/tasks/';
const idempotencyPrefix = '/lodge/task-keys/';
const firstRetryMs = 200;
const longestRetryMs = 10_000;

/** A record with the revision of its key. */
export interface StoredTask {
  record: TaskRecord;
  revision: number;
}

export class TaskRecords implements InformerTarget<StoredTask | null> {
  readonly #store: Store;
  readonly #log: Log;
  readonly #informer: Informer<StoredTask | null>;
  readonly #tasks = new Map<string, StoredTask>();
  readonly #listeners = new Set<(change: Change<TaskRecord>) => void>();

  constructor(store: Store, log: Log) {
    this.#store = store;
    this.#log = log;
    this.#informer = new Informer(store, prefix, this, log);
  }

  async load(): Promise<void> {
    await this.#informer.start();
  }

  async close(): Promise<void> {
    await this.#informer.stop();
  }

  get revision(): number {
    return this.#informer.revision;
  }

  get(id: string): TaskRecord | null {
    return this.#tasks.get(id)?.record ?? null;
  }

  stored(id: string): StoredTask | null {
    return this.#tasks.get(id) ?? null;
  }

  *all(): IterableIterator<TaskRecord> {
    for (const { record } of this.#tasks.values()) yield record;
  }

  onChange(listener: (change: Change<TaskRecord>) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** What has to be written for a new task, together with whatever else. */
  creation(record: TaskRecord): Required<TransactionPart> {
    const part = {
      compare: [{ key: prefix + record.id, exists: false }],
      success: [{ put: prefix + record.id, value: JSON.stringify(record) }],
    };
    if (record.idempotencyKey === null) return part;
    const key = idempotencyKeyOf(record.requestedBy, record.idempotencyKey);
    part.compare.push({ key, exists: false });
    part.success.push({ put: key, value: JSON.stringify(record.id) });
    return part;
  }

  /** Writes a new task. Returns false when its idempotency key is taken. */
  async create(record: TaskRecord): Promise<boolean> {
    const result = await this.#store.transact(this.creation(record));
    if (result.succeeded) await this.#informer.reached(result.revision);
    return result.succeeded;
  }

  /** Waits until everything that is in the store now is known here. */
  async catchUp(): Promise<void> {
    await this.#informer.reached(await this.#store.revision());
  }

  /** The task that was made with the key, or null. */
  async byIdempotencyKey(requestedBy: string, idempotencyKey: string): Promise<TaskRecord | null> {
    const holder = await this.#store.get(idempotencyKeyOf(requestedBy, idempotencyKey));
    if (!holder) return null;
    const item = await this.#store.get(prefix + String(JSON.parse(holder.value)));
    return item && (this.decode(item)?.record ?? null);
  }

  /**
   * Writes what a change makes of the record. When another node has set the cancel mark meanwhile, it is kept. Waits
   * while the store has no room or fails, until the signal aborts. Rejects with not_found when the record is gone.
   */
  async save(stored: StoredTask, change: Partial<TaskRecord>, signal: AbortSignal): Promise<StoredTask> {
    let { record, revision } = stored;
    for (let retryMs = firstRetryMs; ;) {
      const next = { ...record, ...change };
      const key = prefix + record.id;
      let result: TransactionResult;
      try {
        result = await this.#store.transact({
          compare: [{ key, modRevision: revision }],
          success: [{ put: key, value: JSON.stringify(next) }],
          failure: [{ get: key }],
        });
      } catch (error) {
        if (error instanceof StoreClosedError || signal.aborted) throw error;
        this.#log.error({ err: error, taskId: record.id, retryMs }, 'a task waits because its state can not be saved');
        await delay(retryMs, undefined, { signal });
        retryMs = Math.min(retryMs * 2, longestRetryMs);
        // It may have been written all the same, where the answer was lost.
        const item = await this.#store.get(key).catch(() => null);
        if (item && item.modRevision !== revision && item.value === JSON.stringify(next)) {
          return { record: next, revision: item.modRevision };
        }
        continue;
      }
      if (result.succeeded) return { record: next, revision: result.revision };
      const found = result.found[0] ? this.decode(result.found[0]) : null;
      if (!found) throw new LodgeError('not_found', `the record of task ${record.id} is gone`);
      record = { ...record, isCancelRequested: record.isCancelRequested || found.record.isCancelRequested };
      revision = found.revision;
    }
  }

  /** As save(), and waits until the record in memory is the new one. For whoever does not hold the task. */
  async update(id: string, change: Partial<TaskRecord>, signal: AbortSignal): Promise<TaskRecord> {
    const stored = this.#tasks.get(id);
    if (!stored) throw new LodgeError('not_found', `there is no task ${id}`);
    const saved = await this.save(stored, change, signal);
    await this.#informer.reached(saved.revision);
    return saved.record;
  }

  async reached(revision: number): Promise<void> {
    await this.#informer.reached(revision);
  }

  /** Removes finished tasks. */
  async remove(records: readonly TaskRecord[]): Promise<void> {
    const pageSize = 50;
    for (let start = 0; start < records.length; start += pageSize) {
      await this.#store.transact({
        success: records
          .slice(start, start + pageSize)
          .filter(({ state }) => finalTaskStates.has(state))
          .flatMap(({ id, requestedBy, idempotencyKey }) => [
            { delete: prefix + id },
            ...(idempotencyKey === null ? [] : [{ delete: idempotencyKeyOf(requestedBy, idempotencyKey) }]),
          ]),
      });
    }
  }

  decode(item: KeyValue): StoredTask | null {
    try {
      return { record: Object.freeze(JSON.parse(item.value) as TaskRecord), revision: item.modRevision };
    } catch (error) {
      this.#log.error({ err: error, key: item.key }, 'the record of a task is not readable');
      return null;
    }
  }

  reset(items: readonly (StoredTask | null)[], storeRevision: number): void {
    const found = new Set(items.map((item) => item?.record.id));
    for (const id of Array.from(this.#tasks.keys())) if (!found.has(id)) this.#set(id, null, storeRevision);
    for (const item of items) {
      if (item && this.#tasks.get(item.record.id)?.revision !== item.revision)
        this.#set(item.record.id, item, storeRevision);
    }
  }

  apply(batch: WatchBatch): void {
    for (const event of batch.events) {
      const item = event.type === 'put' ? this.decode(event.current) : null;
      if (item || event.type === 'delete') this.#set(event.key.slice(prefix.length), item, batch.revision);
    }
  }

  #set(id: string, item: StoredTask | null, storeRevision: number): void {
    const previous = this.#tasks.get(id)?.record ?? null;
    if (item) this.#tasks.set(id, item);
    else this.#tasks.delete(id);
    const object = item?.record ?? previous;
    if (!object) return;
    const type = item ? (previous ? 'updated' : 'created') : 'deleted';
    for (const listener of this.#listeners) {
      try {
        listener({ type, object, previous, storeRevision });
      } catch (error) {
        this.#log.error({ err: error, taskId: id }, 'a listener failed');
      }
    }
  }
}

function idempotencyKeyOf(requestedBy: string, key: string): string {
  return `${idempotencyPrefix}${encodeURIComponent(requestedBy)}/${encodeURIComponent(key)}`;
}
