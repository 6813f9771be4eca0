// Views of lists that were given a name: what is searched, filtered and sorted. Kept in this browser, a few for each noun.
import { listSearch, type ListSearch } from './list-search.ts';

export interface SavedView {
  name: string;
  search: ListSearch;
}

/** Most views kept of one list; the oldest goes when there are more. */
export const maxViews = 20;

const keyOf = (kind: string): string => `lodge-views-${kind}`;

/** The views of a noun's list, by name. What something else has written there counts as none. */
export function readViews(kind: string, storage: Pick<Storage, 'getItem'> = localStorage): SavedView[] {
  try {
    const kept: unknown = JSON.parse(storage.getItem(keyOf(kind)) ?? '[]');
    if (!Array.isArray(kept)) return [];
    return kept.flatMap((one: unknown) => {
      if (typeof one !== 'object' || one === null || !('name' in one) || !('search' in one)) return [];
      if (typeof one.name !== 'string' || typeof one.search !== 'object' || one.search === null) return [];
      return [{ name: one.name, search: listSearch({ ...one.search }) }];
    });
  } catch {
    return [];
  }
}

/** Keeps a view; one of the same name is replaced. */
export function keepView(
  kind: string,
  view: SavedView,
  storage: Pick<Storage, 'getItem' | 'setItem'> = localStorage,
): SavedView[] {
  const others = readViews(kind, storage).filter(({ name }) => name !== view.name);
  return write(kind, [...others, view].slice(-maxViews), storage);
}

export function dropView(
  kind: string,
  name: string,
  storage: Pick<Storage, 'getItem' | 'setItem'> = localStorage,
): SavedView[] {
  return write(
    kind,
    readViews(kind, storage).filter((view) => view.name !== name),
    storage,
  );
}

function write(kind: string, views: SavedView[], storage: Pick<Storage, 'setItem'>): SavedView[] {
  storage.setItem(keyOf(kind), JSON.stringify(views));
  return views;
}
