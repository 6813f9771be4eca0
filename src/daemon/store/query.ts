// Lists over objects in memory: which (label selector, field filter), in what order, and in pages.
//
// A page's continue token holds the sort value and id of its last object: the next page is what comes after them. So
// objects that come and go between two pages neither shift others out of sight nor show them twice; only an object
// whose sort value changes meanwhile can be missed or seen again.
import { invalidField } from '../../api/errors.ts';
import { readField } from './field-path.ts';
import { parseFilter } from './filter.ts';
import { parseSelector } from './selector.ts';

/** What a list asks for; the query of every list route. `limit` is at most 500. */
export interface ListRequest {
  project?: string | undefined;
  selector?: string | undefined;
  filter?: string | undefined;
  sort?: string | undefined;
  limit?: number | undefined;
  continue?: string | undefined;
}

export interface ListResult<Item> {
  items: Item[];
  /** Objects that match, on all pages. */
  total: number;
  /** For the next page; null on the last. */
  continue: string | null;
}

export interface ListDefaults {
  /** Without a sort in the request. Default `name`. */
  sort?: string;
  /** Which paths a filter or sort may name; from field-path.ts's knownPaths(). Without it, any. */
  isKnownPath?: (path: string) => boolean;
}

export interface Queryable {
  id: string;
  project: string;
  labels?: Record<string, string>;
}

export const maxPageSize = 500;
const defaultPageSize = 100;
/** Longer texts are told apart by their beginnings and then by id, so that tokens stay short. */
const maxSortTextLength = 200;

type SortValue = string | number | boolean | null;

interface Position {
  value: SortValue;
  id: string;
}

/** One page of the objects that match. Throws invalid_request naming the parameter when the request makes no sense. */
export function listObjects<Item extends Queryable>(
  objects: Iterable<Item>,
  request: ListRequest,
  defaults: ListDefaults = {},
): ListResult<Item> {
  const { limit = defaultPageSize } = request;
  if (!Number.isInteger(limit) || limit < 1 || limit > maxPageSize) {
    throw invalidField('query.limit', `is a whole number from 1 to ${maxPageSize}`, limit);
  }
  const matchesLabels = parseSelector(request.selector ?? '');
  const matchesFields = parseFilter(request.filter ?? '', defaults.isKnownPath);
  const order = parseSort(request.sort ?? defaults.sort ?? 'name', defaults.isKnownPath);
  const after = request.continue === undefined ? null : readToken(request.continue, order.text);

  // The best `limit` so far and the position of each, in order: most objects are dismissed by one comparison.
  const page: { item: Item; position: Position }[] = [];
  let total = 0;
  let remaining = 0;
  for (const item of objects) {
    if (request.project !== undefined && item.project !== request.project) continue;
    if (!matchesLabels(item.labels ?? {}) || !matchesFields(item)) continue;
    total++;
    const position = { value: toSortValue(readField(item, order.path)), id: item.id };
    if (after && order.compare(position, after) <= 0) continue;
    remaining++;
    const last = page.at(-1);
    if (page.length === limit && last && order.compare(position, last.position) >= 0) continue;
    page.splice(findPlace(page, position, order.compare), 0, { item, position });
    if (page.length > limit) page.pop();
  }
  const last = page.at(-1);
  return {
    items: page.map(({ item }) => item),
    total,
    continue: remaining > page.length && last ? writeToken(last.position, order.text) : null,
  };
}

function findPlace(
  page: readonly { position: Position }[],
  position: Position,
  compare: (left: Position, right: Position) => number,
): number {
  let low = 0;
  let high = page.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    const at = page[middle];
    if (at && compare(at.position, position) < 0) low = middle + 1;
    else high = middle;
  }
  return low;
}

interface Order {
  text: string;
  path: readonly string[];
  compare: (left: Position, right: Position) => number;
}

function parseSort(text: string, isKnownPath?: (path: string) => boolean): Order {
  const isDescending = text.startsWith('-');
  const path = isDescending ? text.slice(1) : text;
  const expected = 'is a field, with "-" before it for descending: name, -createdAt, status.state';
  if (!/^\w[\w-]*(\.\w[\w-]*)*$/.test(path)) throw invalidField('query.sort', expected, text);
  if (isKnownPath && !isKnownPath(path))
    throw invalidField('query.sort', `there is no field ${path}; it ${expected}`, text);
  const direction = isDescending ? -1 : 1;
  const compare = (left: Position, right: Position): number => {
    const leftRank = rank(left.value);
    const difference = leftRank - rank(right.value);
    // What has no such value comes last, in either direction.
    if (difference !== 0)
      return leftRank === missingRank || difference === leftRank - missingRank ? difference : difference * direction;
    const byValue = left.value === right.value ? 0 : (left.value ?? 0) < (right.value ?? 0) ? -direction : direction;
    return byValue || (left.id < right.id ? -direction : left.id > right.id ? direction : 0);
  };
  return { text, path: path.split('.'), compare };
}

const missingRank = 3;

function rank(value: SortValue): number {
  if (typeof value === 'boolean') return 0;
  if (typeof value === 'number') return 1;
  return typeof value === 'string' ? 2 : missingRank;
}

/** Of several values (a path through a list), the first counts. */
function toSortValue(found: unknown): SortValue {
  const value: unknown = Array.isArray(found) ? found[0] : found;
  if (typeof value === 'string') return value.length > maxSortTextLength ? value.slice(0, maxSortTextLength) : value;
  return typeof value === 'number' || typeof value === 'boolean' ? value : null;
}

function writeToken(position: Position, sort: string): string {
  return Buffer.from(JSON.stringify([sort, position.value, position.id])).toString('base64url');
}

function readToken(token: string, sort: string): Position {
  const expected = 'is the token of the page before, as it was given';
  let parts: unknown;
  try {
    parts = JSON.parse(Buffer.from(token, 'base64url').toString());
  } catch {
    throw invalidField('query.continue', expected, token);
  }
  if (!Array.isArray(parts) || parts.length !== 3) throw invalidField('query.continue', expected, token);
  const [tokenSort, value, id] = parts as unknown[];
  const isValue = value === null || ['string', 'number', 'boolean'].includes(typeof value);
  if (typeof tokenSort !== 'string' || !isValue || typeof id !== 'string')
    throw invalidField('query.continue', expected, token);
  if (tokenSort !== sort) {
    throw invalidField(
      'query.continue',
      `belongs to a list sorted by ${tokenSort}: keep the sort, or begin anew without the token`,
      token,
    );
  }
  return { value: value as SortValue, id };
}
