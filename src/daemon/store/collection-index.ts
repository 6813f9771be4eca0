// The index behind a collection: objects by id and by name, put together from their two parts, and who wants to hear of
// changes. It is the informer's target and does nothing but follow it.
import { type InformerTarget, type Log } from './informer.ts';
import type { KeyValue, WatchBatch } from './store.ts';

/** What every object of every noun has. */
export interface CollectionObject {
  id: string;
  name: string;
  project: string;
  labels: Record<string, string>;
  spec: unknown;
  status: unknown;
  /** Of the last write of name, labels or spec. */
  revision: number;
  createdAt: string;
}

/** What the user's key holds. */
export type UserPart<Item extends CollectionObject> = Omit<Item, 'status' | 'revision'>;

export interface Change<Item> {
  type: 'created' | 'updated' | 'deleted';
  /** As it is now; for deleted, as it was last. */
  object: Item;
  /** As it was before; null for created. */
  previous: Item | null;
  storeRevision: number;
}

interface Entry<Item> {
  object: Item;
  statusRevision: number;
}

/** Freezes a JSON value with all that is in it. */
function deepFreeze<T>(value: T): T {
  if (typeof value === 'object' && value !== null && !Object.isFrozen(value)) {
    Object.freeze(value);
    for (const child of Object.values(value)) deepFreeze(child);
  }
  return value;
}

/** A key of the collection with its value, or that it is gone (null). */
export interface Part {
  isStatus: boolean;
  id: string;
  /** Undefined when the text is not readable. */
  value: unknown;
  modRevision: number;
}

export class ObjectIndex<Item extends CollectionObject> implements InformerTarget<Part | null> {
  readonly #userPrefix: string;
  readonly #statusPrefix: string;
  readonly #initialStatus: (part: UserPart<Item>) => Item['status'];
  readonly #log: Log;
  readonly #entries = new Map<string, Entry<Item>>();
  readonly #idsByName = new Map<string, string>();
  readonly #listeners = new Set<(change: Change<Item>) => void>();

  constructor(options: {
    userPrefix: string;
    statusPrefix: string;
    initialStatus: (part: UserPart<Item>) => Item['status'];
    log: Log;
  }) {
    this.#userPrefix = options.userPrefix;
    this.#statusPrefix = options.statusPrefix;
    this.#initialStatus = options.initialStatus;
    this.#log = options.log;
  }

  get size(): number {
    return this.#entries.size;
  }

  get(id: string): Item | null {
    return this.#entries.get(id)?.object ?? null;
  }

  byName(project: string, name: string): Item | null {
    const id = this.#idsByName.get(`${project}/${name}`);
    return id === undefined ? null : this.get(id);
  }

  /** Revision of the key of the object's status; 0 when there is none. */
  statusRevision(id: string): number {
    return this.#entries.get(id)?.statusRevision ?? 0;
  }

  *all(): IterableIterator<Item> {
    for (const entry of this.#entries.values()) yield entry.object;
  }

  onChange(listener: (change: Change<Item>) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  decode(item: KeyValue): Part | null {
    const place = this.#place(item.key);
    if (!place) return null;
    let value: unknown;
    try {
      value = deepFreeze(JSON.parse(item.value));
    } catch (error) {
      // One damaged object must not hide the others.
      this.#log.error({ err: error, key: item.key }, 'a value in the store is not readable');
    }
    return { ...place, value, modRevision: item.modRevision };
  }

  reset(parts: readonly (Part | null)[], revision: number): void {
    const user = new Map<string, Part>();
    const status = new Map<string, Part>();
    for (const part of parts) if (part) (part.isStatus ? status : user).set(part.id, part);
    const changes: Change<Item>[] = [];
    for (const id of Array.from(this.#entries.keys())) {
      if (!user.has(id)) this.#remove(id, revision, changes);
    }
    for (const [id, part] of user) {
      const entry = this.#entries.get(id);
      const observed = status.get(id) ?? null;
      if (entry?.object.revision === part.modRevision && entry.statusRevision === (observed?.modRevision ?? 0))
        continue;
      this.#set(id, part, observed, revision, changes);
    }
    this.#tell(changes);
  }

  apply(batch: WatchBatch): void {
    // Both parts of an object may change in one transaction: that is one change of the object.
    const byId = new Map<string, { user?: Part | null; status?: Part | null }>();
    for (const event of batch.events) {
      const place = this.#place(event.key);
      if (!place) continue;
      const part = event.type === 'put' ? this.decode(event.current) : null;
      const { id, isStatus } = place;
      byId.set(id, { ...byId.get(id), ...(isStatus ? { status: part } : { user: part }) });
    }
    const changes: Change<Item>[] = [];
    for (const [id, { user, status }] of byId) {
      if (user === null) this.#remove(id, batch.revision, changes);
      else this.#set(id, user, status, batch.revision, changes);
    }
    this.#tell(changes);
  }

  #place(key: string): { isStatus: boolean; id: string } | null {
    if (key.startsWith(this.#userPrefix)) return { isStatus: false, id: key.slice(this.#userPrefix.length) };
    if (key.startsWith(this.#statusPrefix)) return { isStatus: true, id: key.slice(this.#statusPrefix.length) };
    return null;
  }

  /** Replaces the parts that are given; undefined leaves one as it is, and null for status means that it is gone. */
  #set(
    id: string,
    user: Part | undefined,
    status: Part | null | undefined,
    storeRevision: number,
    changes: Change<Item>[],
  ): void {
    const entry = this.#entries.get(id);
    const previous = entry?.object ?? null;
    const part = (user?.value ?? previous) as UserPart<Item> | null;
    // A status without its object: the object was deleted, or can not be read.
    if (!part) return;
    let observed: unknown = status?.value;
    if (status === undefined) observed = previous?.status;
    observed ??= this.#initialStatus(part);
    const { name, project, labels, spec, createdAt } = part;
    const revision = user?.modRevision ?? previous?.revision ?? 0;
    const object = Object.freeze({ id, name, project, labels, spec, status: observed, revision, createdAt });
    const statusRevision = status === undefined ? (entry?.statusRevision ?? 0) : (status?.modRevision ?? 0);
    this.#entries.set(id, { object: object as unknown as Item, statusRevision });
    if (previous && previous.name !== name) this.#forgetName(previous);
    this.#idsByName.set(`${project}/${name}`, id);
    changes.push({
      type: previous ? 'updated' : 'created',
      object: object as unknown as Item,
      previous,
      storeRevision,
    });
  }

  #remove(id: string, storeRevision: number, changes: Change<Item>[]): void {
    const entry = this.#entries.get(id);
    if (!entry) return;
    this.#entries.delete(id);
    this.#forgetName(entry.object);
    changes.push({ type: 'deleted', object: entry.object, previous: entry.object, storeRevision });
  }

  #forgetName(object: Item): void {
    const key = `${object.project}/${object.name}`;
    // The name may have gone to another object in the same transaction.
    if (this.#idsByName.get(key) === object.id) this.#idsByName.delete(key);
  }

  #tell(changes: readonly Change<Item>[]): void {
    for (const change of changes) {
      for (const listener of this.#listeners) {
        try {
          listener(change);
        } catch (error) {
          this.#log.error({ err: error, id: change.object.id }, 'a listener failed');
        }
      }
    }
  }
}
