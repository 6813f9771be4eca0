// What differs between two plain JSON documents, field by field. Lists of things with a `name` are compared by name,
// other lists by position.
import type { Json, PathPart } from './field-path.ts';

/** One field that differs; undefined where it isn't there. */
export interface Difference {
  path: PathPart[];
  before: Json | undefined;
  after: Json | undefined;
}

/** The differences from `before` to `after`, in the order of the fields. Records are descended into as far as both sides have them. */
export function differences(before: Json | undefined, after: Json | undefined, path: PathPart[] = []): Difference[] {
  if (isEqual(before, after)) return [];
  if (isRecord(before) && isRecord(after)) {
    const keys = [...Object.keys(before), ...Object.keys(after).filter((key) => !Object.hasOwn(before, key))];
    return keys.flatMap((key) =>
      differences(
        Object.hasOwn(before, key) ? before[key] : undefined,
        Object.hasOwn(after, key) ? after[key] : undefined,
        [...path, key],
      ),
    );
  }
  if (Array.isArray(before) && Array.isArray(after)) {
    const namesBefore = elementNames(before);
    const namesAfter = elementNames(after);
    if (namesBefore && namesAfter && isSameOrder(namesBefore, namesAfter)) {
      const names = [...namesBefore, ...namesAfter.filter((name) => !namesBefore.includes(name))];
      return names.flatMap((name) =>
        differences(before[namesBefore.indexOf(name)], after[namesAfter.indexOf(name)], [...path, name]),
      );
    }
    const length = Math.max(before.length, after.length);
    return Array.from({ length }, (_, index) => index).flatMap((index) =>
      differences(before[index], after[index], [...path, index]),
    );
  }
  return [{ path, before, after }];
}

/** Whether two documents are the same; the order of keys doesn't matter, and a key that is undefined is not there. */
export function isEqual(one: Json | undefined, other: Json | undefined): boolean {
  if (one === other) return true;
  if (Array.isArray(one)) {
    return (
      Array.isArray(other) && one.length === other.length && one.every((value, index) => isEqual(value, other[index]))
    );
  }
  if (!isRecord(one) || !isRecord(other)) return false;
  const keys = new Set([...Object.keys(one), ...Object.keys(other)]);
  return [...keys].every((key) =>
    isEqual(Object.hasOwn(one, key) ? one[key] : undefined, Object.hasOwn(other, key) ? other[key] : undefined),
  );
}

function isRecord(value: Json | undefined): value is { [key: string]: Json } {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function elementNames(list: readonly Json[]): string[] | null {
  const names = list.map((element) =>
    isRecord(element) && typeof element['name'] === 'string' ? element['name'] : null,
  );
  return names.every((name) => name !== null) && new Set(names).size === names.length ? names : null;
}

/** Whether the names that both have come in the same order, so that comparing by name hides no reordering. */
function isSameOrder(before: readonly string[], after: readonly string[]): boolean {
  const kept = before.filter((name) => after.includes(name));
  const keptAfter = after.filter((name) => before.includes(name));
  return kept.every((name, index) => name === keptAfter[index]);
}
