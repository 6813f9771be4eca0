// Keeps what is shown as it is in the daemon: one event stream for the page, resumed after a break from the last event.
//
//   stream ─▶ change ─▶ the object where it is shown (at once)
//                   └─▶ lists of its kind are read again (a moment later, once for many changes)
//
// Promises: after a break nothing is missed; a stream that can't be resumed has everything read again.
import { useSyncExternalStore } from 'react';
import { type Change, type ChangeKind } from '../../src/api/event.ts';
import { LodgeError } from '../../src/api/errors.ts';
import { followChanges } from '../../src/client/follow.ts';
import { client, noteFailure } from './client.ts';
import { queryClient } from './queries.ts';

/** Lists are read again at most this often, milliseconds. */
const relistMs = 400;
/** How long the stream may be silent before it is said that the daemon is away, milliseconds. */
const quietMs = 800;

/** How long after a failure that does not pass by itself the stream is opened anew, milliseconds. */
const restartMs = 1500;
/** After so long without a change it is asked whether the daemon is there, milliseconds: a connection can break unseen. */
const watchMs = 4000;

interface Listed {
  id: string;
  name?: string;
  revision?: number;
}

let isAway = false;
let lastChangeAt = 0;
const listeners = new Set<() => void>();
const changeListeners = new Set<(change: Change) => void>();
const pending = new Set<ChangeKind>();
let relistTimer: ReturnType<typeof setTimeout> | null = null;
let awayTimer: ReturnType<typeof setTimeout> | null = null;

function setAway(next: boolean): void {
  if (awayTimer !== null) clearTimeout(awayTimer);
  awayTimer = null;
  if (next === isAway) return;
  isAway = next;
  for (const listener of listeners) listener();
}

/** A short break, as when the daemon is restarted quickly, is not worth a word. */
function planAway(): void {
  awayTimer ??= setTimeout(() => setAway(true), quietMs);
}

function planRelist(kind: ChangeKind): void {
  pending.add(kind);
  relistTimer ??= setTimeout(() => {
    relistTimer = null;
    for (const each of pending) void queryClient.invalidateQueries({ queryKey: [each, 'list'] });
    pending.clear();
  }, relistMs);
}

function apply(change: Change): void {
  const { kind, id, type } = change;
  if (kind === null || id === null) return;
  const object = change.object as Listed | null;
  if (type === 'deleted' || object === null) {
    void queryClient.invalidateQueries({ queryKey: [kind, 'one'] });
    planRelist(kind);
    return;
  }
  queryClient.setQueriesData<Listed>({ queryKey: [kind, 'one'] }, (shown) => (shown?.id === id ? object : shown));
  // What is being read at this moment may be older than this change, and would be shown in its place.
  void queryClient.invalidateQueries({
    queryKey: [kind, 'one'],
    predicate: ({ queryKey, state }) =>
      state.fetchStatus === 'fetching' && (queryKey.includes(id) || queryKey.includes(object.name)),
  });
  let isShown = false;
  queryClient.setQueriesData<{ pages: { items: Listed[] }[] }>({ queryKey: [kind, 'list'] }, (data) => {
    if (data?.pages === undefined || !data.pages.some((page) => page.items.some((item) => item.id === id))) return data;
    isShown = true;
    const pages = data.pages.map((page) => ({
      ...page,
      items: page.items.map((item) => (item.id === id ? object : item)),
    }));
    return { ...data, pages };
  });
  // Where it stands in the order, and whether it still matches a filter, only the daemon knows.
  if (!isShown || type === 'created' || kind !== 'task') planRelist(kind);
}

/** Follows the daemon until the signal aborts. */
export async function follow(signal: AbortSignal): Promise<void> {
  while (!signal.aborted) {
    const broken = new AbortController();
    const watch = setInterval(() => void look(broken), watchMs);
    try {
      const both = AbortSignal.any([signal, broken.signal]);
      const changes = followChanges(client, { signal: both, reconnectMs: Infinity, onBreak: planAway });
      let isFirst = true;
      for await (const change of changes) {
        lastChangeAt = Date.now();
        setAway(false);
        // What was read before the stream began may be old. Waiting for it would hide that the daemon goes meanwhile.
        if (isFirst && change.type === 'synced') void queryClient.invalidateQueries();
        isFirst = false;
        apply(change);
        for (const listener of changeListeners) listener(change);
      }
    } catch (failure) {
      if (signal.aborted) return;
      noteFailure(failure);
      if (failure instanceof LodgeError && ['unauthenticated', 'forbidden'].includes(failure.code)) return;
      // A daemon that stops may fail in other ways than by being away. Everything is read again with the new stream.
      if (!(failure instanceof LodgeError) || failure.code !== 'revision_gone') {
        planAway();
        await new Promise((resolve) => setTimeout(resolve, restartMs));
      }
    } finally {
      clearInterval(watch);
    }
  }
}

/** Ends a stream that is silent while the daemon is not there. */
async function look(stream: AbortController): Promise<void> {
  if (isAway || Date.now() - lastChangeAt < watchMs) return;
  try {
    await client.server.readyz({}, { timeoutMs: watchMs });
  } catch {
    planAway();
    stream.abort();
  }
}

/** Calls back for every change; the function it gives ends that. */
export function onChange(listener: (change: Change) => void): () => void {
  changeListeners.add(listener);
  return () => changeListeners.delete(listener);
}

/** Whether the daemon can't be reached now. */
export function useIsAway(): boolean {
  return useSyncExternalStore(
    (listener) => {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    () => isAway,
  );
}
