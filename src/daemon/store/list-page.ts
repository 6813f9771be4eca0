// One page of a list as routes answer it: the query of src/api/object.ts over a collection.
import type * as z from 'zod';
import { type ListQuery } from '../../api/object.ts';
import { knownPaths } from './field-path.ts';
import { listObjects, type ListDefaults, type Queryable } from './query.ts';

export interface ListPage<Item> {
  items: Item[];
  total: number;
  continue: string | null;
  revision: number;
}

/**
 * Answers list queries over objects of one schema; field names in filters and sorts are checked against it. What else
 * decides about the objects, such as who asks, is handed on to `all`.
 */
export function lister<Item extends Queryable, About extends unknown[] = []>(
  schema: z.ZodType<Item>,
  source: { all: (...about: About) => Iterable<Item>; revision: () => number },
  defaults: Omit<ListDefaults, 'isKnownPath'> = {},
): (query: ListQuery, ...about: About) => ListPage<Item> {
  const isKnownPath = knownPaths(schema);
  return (query, ...about) => {
    // The revision is read first: a change while listing is then seen again in the stream, not missed.
    const revision = source.revision();
    return { ...listObjects(source.all(...about), query, { ...defaults, isKnownPath }), revision };
  };
}
