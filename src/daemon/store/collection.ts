// All objects of one noun, in memory, in step with the store.
//
// Keys: what the user asked for lies under /lodge/<plural>/<id>, what was observed under /lodge/<plural>-status/<id>,
// and /lodge/names/<noun>/<project>/<name> holds the id of the object that has the name. An object's `revision` is that
// of the user's part, so that a write of status never makes a user's write stale.
//
// Invariants:
// - The index is the store's state at `revision`, whichever node wrote it; it changes only by the informer.
// - A write returns after the index has it: whoever wrote reads what they wrote.
// - Objects are frozen and replaced, never changed: a reference that was handed out stays what it was.
// - Writes to one object go one after the other in this process; against other nodes each compares revisions.
import { isDeepStrictEqual } from 'node:util';
import { uuidv7 } from 'uuidv7';
import { LodgeError } from '../../api/errors.ts';
import { SerialQueues } from '../../lib/serial-queues.ts';
import { ObjectIndex, type Change, type CollectionObject, type Part, type UserPart } from './collection-index.ts';
import { Informer, silentLog, type Log } from './informer.ts';
import type { Comparison, KeyValue, Operation, Store } from './store.ts';

/** Comparisons and operations of someone else that are to happen in the same transaction, or not at all. */
export interface TransactionPart {
  compare?: readonly Comparison[];
  success: readonly Operation[];
}

export interface CollectionOptions<Item extends CollectionObject> {
  store: Store;
  /** As it stands in messages and in the keys of names: vm. */
  noun: string;
  /** As it stands in the keys of objects: vms. */
  plural: string;
  /** Status of an object nothing was observed of yet. */
  initialStatus: (part: UserPart<Item>) => Item['status'];
  log?: Log;
}

/** What create() is given; the id and the time are made when missing. */
export type NewObject<Item extends CollectionObject> = Pick<Item, 'name' | 'project' | 'labels' | 'spec'> &
  Partial<Pick<Item, 'id' | 'createdAt' | 'status'>>;

/** Makes the next status from the one that is there. */
export type StatusChange<Item extends CollectionObject> = (current: Item['status'], object: Item) => Item['status'];

/** The part of another that was to be written along did not hold. */
export class ConditionFailedError extends LodgeError {
  override name = 'ConditionFailedError';

  constructor(what: string) {
    super('revision_conflict', `${what} was not changed: something it depends on was changed meanwhile`, {
      hint: 'Try again.',
    });
  }
}

/** Attempts against writers on other nodes before a write without a revision gives up. */
const maxAttempts = 20;

export class Collection<Item extends CollectionObject> {
  readonly noun: string;
  readonly #plural: string;
  readonly #store: Store;
  readonly #initialStatus: (part: UserPart<Item>) => Item['status'];
  readonly #index: ObjectIndex<Item>;
  readonly #informer: Informer<Part | null>;
  readonly #log: Log;
  /** A row of writes for each object. */
  readonly #queues = new SerialQueues();

  constructor(options: CollectionOptions<Item>) {
    const { noun, plural, store, initialStatus, log = silentLog } = options;
    this.noun = noun;
    this.#plural = plural;
    this.#store = store;
    this.#initialStatus = initialStatus;
    this.#log = log;
    this.#index = new ObjectIndex({
      userPrefix: this.#userKey(''),
      statusPrefix: this.#statusKey(''),
      initialStatus,
      log,
    });
    // One watch over both prefixes, so that a transaction over both is seen as one change.
    this.#informer = new Informer(store, `/lodge/${plural}`, this.#index, log);
  }

  /** Reads all objects and begins to follow the store. Call it once, before anything else. */
  async load(): Promise<void> {
    await this.#informer.start();
  }

  /** Ends following the store. */
  async close(): Promise<void> {
    await this.#informer.stop();
  }

  /** The store revision that this shows. A list made now and a watch from the next revision miss nothing. */
  get revision(): number {
    return this.#informer.revision;
  }

  /** First parts of the keys of objects and of their status. */
  get prefixes(): readonly [string, string] {
    return [this.#userKey(''), this.#statusKey('')];
  }

  get size(): number {
    return this.#index.size;
  }

  get(id: string): Item | null {
    return this.#index.get(id);
  }

  byName(project: string, name: string): Item | null {
    return this.#index.byName(project, name);
  }

  /** An object of the project, by its id or its name. */
  find(project: string, idOrName: string): Item | null {
    const byId = this.#index.get(idOrName);
    return byId?.project === project ? byId : this.#index.byName(project, idOrName);
  }

  /** As find(), but an object that is not there is the error not_found. */
  require(project: string, idOrName: string): Item {
    const object = this.find(project, idOrName);
    if (object) return object;
    throw new LodgeError('not_found', `there is no ${this.noun} "${idOrName}" in project "${project}"`);
  }

  /** All objects, in no particular order. */
  all(): IterableIterator<Item> {
    return this.#index.all();
  }

  /** Calls the listener after each change, in the order of revisions, until the returned function is called. */
  onChange(listener: (change: Change<Item>) => void): () => void {
    return this.#index.onChange(listener);
  }

  /** Adds an object. Rejects with name_taken, or ConditionFailedError when `extra` does not hold. */
  async create(object: NewObject<Item>, extra?: TransactionPart): Promise<Item> {
    const { name, project, labels, spec } = object;
    const id = object.id ?? uuidv7();
    const part = {
      id,
      name,
      project,
      labels,
      spec,
      createdAt: object.createdAt ?? new Date().toISOString(),
    } as UserPart<Item>;
    const status = object.status ?? this.#initialStatus(part);
    const nameKey = this.#nameKey(project, name);
    const result = await this.#store.transact({
      compare: [{ key: this.#userKey(id), exists: false }, { key: nameKey, exists: false }, ...(extra?.compare ?? [])],
      success: [
        { put: this.#userKey(id), value: JSON.stringify(part) },
        { put: this.#statusKey(id), value: JSON.stringify(status) },
        { put: nameKey, value: id },
        ...(extra?.success ?? []),
      ],
      failure: [{ get: nameKey }, { get: this.#userKey(id) }],
    });
    if (result.succeeded) return this.#written(id, result.revision, { ...part, status, revision: result.revision });
    if (result.found[0]) throw this.#nameTaken(project, name);
    if (result.found[1]) throw new LodgeError('name_taken', `there is already a ${this.noun} with the id ${id}`);
    throw new ConditionFailedError(`${this.noun} "${name}"`);
  }

  /**
   * Changes name, labels or spec. `change` gets a copy that it may alter, or returns another. With a revision, rejects
   * with revision_conflict when the object has a newer one; without, the change is made to whatever is there. It may
   * then be called several times. A change that changes nothing is not written.
   */
  async update(
    id: string,
    revision: number | undefined,
    change: (draft: UserPart<Item>) => UserPart<Item> | void,
    extra?: TransactionPart,
  ): Promise<Item> {
    return this.#queues.run(id, () =>
      this.#attempt(id, async (current) => {
        if (revision !== undefined && current.revision !== revision) throw this.#stale(current, revision);
        const draft = structuredClone(toUserPart(current));
        const changed = change(draft) ?? draft;
        const part = { ...changed, id: current.id, project: current.project, createdAt: current.createdAt };
        const value = JSON.stringify(part);
        if (isDeepStrictEqual(JSON.parse(value), toUserPart(current)) && !extra) return current;
        const isRenamed = part.name !== current.name;
        const newNameKey = this.#nameKey(part.project, part.name);
        const result = await this.#store.transact({
          compare: [
            { key: this.#userKey(id), modRevision: current.revision },
            ...(isRenamed ? [{ key: newNameKey, exists: false }] : []),
            ...(extra?.compare ?? []),
          ],
          success: [
            { put: this.#userKey(id), value },
            ...(isRenamed
              ? [{ delete: this.#nameKey(part.project, current.name) }, { put: newNameKey, value: id }]
              : []),
            ...(extra?.success ?? []),
          ],
          failure: [{ get: this.#userKey(id) }, { get: newNameKey }],
        });
        if (result.succeeded)
          return this.#written(id, result.revision, { ...current, ...part, revision: result.revision });
        const [stored = null, nameHolder] = result.found;
        if (stored?.modRevision !== current.revision) return this.#catchUp(id, stored);
        if (isRenamed && nameHolder) throw this.#nameTaken(part.project, part.name);
        throw new ConditionFailedError(`${this.noun} "${current.name}"`);
      }),
    );
  }

  /**
   * Writes what was observed; not at all when it equals what is there. A function gets the status that is there, and may
   * be called several times. Rejects with not_found when the object is gone.
   */
  async setStatus(id: string, status: Item['status'] | StatusChange<Item>): Promise<Item> {
    return this.#queues.run(id, () =>
      this.#attempt(id, async (current) => {
        const next = typeof status === 'function' ? (status as StatusChange<Item>)(current.status, current) : status;
        const value = JSON.stringify(next);
        // Compared as it would be read back: fields that are undefined are not there.
        if (isDeepStrictEqual(JSON.parse(value), current.status)) return current;
        const key = this.#statusKey(id);
        const result = await this.#store.transact({
          compare: [
            { key: this.#userKey(id), exists: true },
            { key, modRevision: this.#index.statusRevision(id) },
          ],
          success: [{ put: key, value }],
          failure: [{ get: this.#userKey(id) }, { get: key }],
        });
        if (result.succeeded) return this.#written(id, result.revision, { ...current, status: next });
        const [stored = null, storedStatus = null] = result.found;
        if (!stored) throw this.#gone(id);
        return storedStatus ? this.#catchUp(id, storedStatus) : null;
      }),
    );
  }

  /** Removes the object, its status and its name; returns what it was last. */
  async delete(id: string, options: { revision?: number; extra?: TransactionPart } = {}): Promise<Item> {
    const { revision, extra } = options;
    return this.#queues.run(id, () =>
      this.#attempt(id, async (current) => {
        if (revision !== undefined && current.revision !== revision) throw this.#stale(current, revision);
        const result = await this.#store.transact({
          compare: [{ key: this.#userKey(id), modRevision: current.revision }, ...(extra?.compare ?? [])],
          success: [
            { delete: this.#userKey(id) },
            { delete: this.#statusKey(id) },
            { delete: this.#nameKey(current.project, current.name) },
            ...(extra?.success ?? []),
          ],
          failure: [{ get: this.#userKey(id) }],
        });
        if (!result.succeeded) {
          const [stored = null] = result.found;
          if (stored?.modRevision === current.revision)
            throw new ConditionFailedError(`${this.noun} "${current.name}"`);
          return this.#catchUp(id, stored);
        }
        await this.#informer.reached(result.revision);
        return current;
      }),
    );
  }

  /** Does `write` with the object as it is; again, when it returns null because another node was faster. */
  async #attempt(id: string, write: (current: Item) => Promise<Item | null>): Promise<Item> {
    for (let attempt = 0; attempt < maxAttempts; attempt++) {
      const current = this.#index.get(id);
      if (!current) throw this.#gone(id);
      const written = await write(current);
      if (written) return written;
    }
    throw new LodgeError(
      'busy',
      `${this.noun} ${id} was changed by others ${maxAttempts} times while it was to be written`,
      {
        hint: 'Try again.',
      },
    );
  }

  /** Waits until the index has what a lost comparison has shown; null for "try again". */
  async #catchUp(id: string, stored: KeyValue | null): Promise<null> {
    if (!stored) throw this.#gone(id);
    await this.#informer.reached(stored.modRevision);
    return null;
  }

  async #written(id: string, revision: number, object: unknown): Promise<Item> {
    if (!(await this.#informer.reached(revision))) {
      this.#log.warn({ noun: this.noun, id, revision }, 'a write was not seen by the watch in time');
    }
    const indexed = this.#index.get(id);
    // Another node may have changed or deleted it since: what was written is the answer then.
    return indexed && indexed.revision === (object as Item).revision ? indexed : (object as Item);
  }

  #gone(id: string): LodgeError {
    return new LodgeError('not_found', `there is no ${this.noun} with the id ${id}`);
  }

  #nameTaken(project: string, name: string): LodgeError {
    return new LodgeError('name_taken', `there is already a ${this.noun} "${name}" in project "${project}"`);
  }

  #stale(current: Item, revision: number): LodgeError {
    const what = `${this.noun} "${current.name}" has revision ${current.revision}`;
    return new LodgeError('revision_conflict', `${what}, and this write was based on ${revision}`);
  }

  #userKey(id: string): string {
    return `/lodge/${this.#plural}/${id}`;
  }

  #statusKey(id: string): string {
    return `/lodge/${this.#plural}-status/${id}`;
  }

  #nameKey(project: string, name: string): string {
    return `/lodge/names/${this.noun}/${project}/${name}`;
  }
}

function toUserPart<Item extends CollectionObject>(object: Item): UserPart<Item> {
  const { id, name, project, labels, spec, createdAt } = object;
  return { id, name, project, labels, spec, createdAt } as UserPart<Item>;
}
