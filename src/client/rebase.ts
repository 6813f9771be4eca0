// Two people changed one object: the changes of one, made onto what the other has made of it. Fields that both have changed
// are named instead, as nobody but a person can choose between them.
import { differences } from '../lib/difference.ts';
import { formatPath, withoutValueAt, withValueAt, type Json } from '../lib/field-path.ts';

/** Applies the changes from `original` to `edited` onto `now`; or names the fields that both have changed. */
export function rebase(original: Json, edited: Json, now: Json): { document: Json } | { conflicts: string[] } {
  const mine = differences(original, edited);
  const theirs = differences(original, now);
  const overlap = (one: string, other: string): boolean =>
    one === other || one.startsWith(`${other}.`) || one.startsWith(`${other}[`);
  const conflicts = mine
    .map(({ path }) => formatPath(path))
    .filter((path) => theirs.some((one) => overlap(path, formatPath(one.path)) || overlap(formatPath(one.path), path)));
  if (conflicts.length > 0) return { conflicts };
  let document = now;
  for (const { path, after } of mine) {
    document = after === undefined ? withoutValueAt(document, path) : withNamed(document, path, after);
  }
  return { document };
}

/** Sets a value; an element that is addressed by its name and isn't there is added to the end of its list. */
function withNamed(document: Json, path: (string | number)[], value: Json): Json {
  const parentPath = path.slice(0, -1);
  const last = path.at(-1);
  const parent = parentPath.reduce<Json | undefined>(
    (current, part) =>
      typeof current === 'object' && current !== null ? (current as Record<string, Json>)[String(part)] : undefined,
    document,
  );
  if (typeof last === 'string' && Array.isArray(parent))
    return withValueAt(document, [...parentPath, parent.length], value);
  return withValueAt(document, path, value);
}
