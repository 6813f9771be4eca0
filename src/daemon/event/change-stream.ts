// The stream of changes: what the store's watch shows, as the objects clients know. Resuming from a revision is the
// store's own ability; here a revision's keys become changes.
import { type Change, type ChangeKind } from '../../api/event.ts';
import { invalidField, LodgeError } from '../../api/errors.ts';
import { changeKind } from '../../api/event.ts';
import { type Store, type StoreEvent } from '../store/store.ts';

/** Where each kind's objects are, and how to read one as it is now. */
export interface ChangeSource {
  kind: ChangeKind;
  /** First parts of its keys: /lodge/vms/ and /lodge/vms-status/. The first is the one that comes and goes with the object. */
  prefixes: readonly [string, ...string[]];
  /** The object as clients see it, or a promise of that; null: gone. */
  read: (id: string) => unknown;
}

/** The objects of a collection, as `shown` makes them for whoever asks. */
export function objectSource<Item>(
  kind: ChangeKind,
  collection: { prefixes: readonly [string, string]; get: (id: string) => Item | null },
  shown: (item: Item) => unknown = (item) => item,
): ChangeSource {
  return {
    kind,
    prefixes: collection.prefixes,
    read: (id) => {
      const found = collection.get(id);
      return found === null ? null : shown(found);
    },
  };
}

/** Reads ?kinds=vm,task. */
export function parseKinds(text: string | undefined): ReadonlySet<ChangeKind> | null {
  if (text === undefined) return null;
  return new Set(
    text.split(',').map((part) => {
      const parsed = changeKind.safeParse(part.trim());
      if (!parsed.success) throw invalidField('query.kinds', `is a list of ${changeKind.options.join(', ')}`, text);
      return parsed.data;
    }),
  );
}

/** Follows all changes after `since` (without it: from now on). The first item is `synced` when nothing is to be caught up. */
export async function* streamChanges(
  store: Store,
  sources: readonly ChangeSource[],
  options: { since?: number | undefined; kinds: ReadonlySet<ChangeKind> | null; signal: AbortSignal },
): AsyncGenerator<Change, void, void> {
  const { kinds, signal } = options;
  const now = await store.revision();
  const since = options.since ?? now;
  // A revision that has not happened comes from another store, or from before a backup was restored.
  if (since > now) {
    throw new LodgeError('revision_gone', `Revision ${since} is not of this store, which is at ${now}.`);
  }
  const wanted = sources.filter(({ kind }) => kinds === null || kinds.has(kind));
  let isSynced = since >= now;
  const synced = (revision: number): Change => ({ revision, type: 'synced', kind: null, id: null, object: null });
  if (isSynced) yield synced(since);
  for await (const { revision, events } of store.watch({ prefix: '/lodge/', fromRevision: since + 1 }, signal)) {
    yield* await changesOf(wanted, revision, events);
    if (!isSynced && revision >= now) {
      isSynced = true;
      yield synced(revision);
    }
  }
}

/** The changes of one revision, one an object. */
export async function changesOf(
  sources: readonly ChangeSource[],
  revision: number,
  events: readonly StoreEvent[],
): Promise<Change[]> {
  const changes = new Map<string, Change>();
  for (const event of events) {
    for (const { kind, prefixes, read } of sources) {
      const prefix = prefixes.find((candidate) => event.key.startsWith(candidate));
      if (prefix === undefined) continue;
      const id = event.key.slice(prefix.length);
      const isOwnKey = prefix === prefixes[0];
      const before = changes.get(`${kind}/${id}`);
      const isDeleted = isOwnKey && event.type === 'delete';
      const isCreated = isOwnKey && event.type === 'put' && event.current.createRevision === revision;
      const type = isDeleted ? 'deleted' : isCreated ? 'created' : (before?.type ?? 'updated');
      const object = type === 'deleted' ? null : await read(id);
      // The object may be gone by now; its deletion follows in a later revision.
      if (object === null && type !== 'deleted') continue;
      changes.set(`${kind}/${id}`, { revision, type, kind, id, object });
    }
  }
  return [...changes.values()];
}
