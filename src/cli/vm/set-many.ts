// lodge vm set of many VMs: the same fields for each, as a merge patch, because each has other values beside them.
import { vmSpec } from '../../api/vm-spec.ts';
import { formatPath, valueAt, withValueAt, type Json, type PathPart } from '../../lib/field-path.ts';
import { applyChanges, parseChange } from '../set.ts';
import { usageError } from '../usage-error.ts';

/** What is to be set of labels and spec; null removes. Refuses elements of lists, which differ from VM to VM. */
export function patchOf(words: readonly string[]): {
  labels: Record<string, string | null>;
  spec: Record<string, unknown>;
} {
  const changes = words.map(parseChange);
  const defaults = { name: '', revision: 0, labels: {}, spec: vmSpec.parse({}) };
  let patch: Json = { labels: {}, spec: {} };
  for (const change of changes) {
    const path: PathPart[] = change.path[0] === 'labels' ? change.path : ['spec', ...change.path];
    requireNoList(defaults as unknown as Json, path);
    if (change.text === undefined) {
      patch = withValueAt(patch, path, null);
      continue;
    }
    // The schema says what a text means: a number, a size, a list.
    const applied = applyChanges('vm', defaults, [change]) as unknown as Json;
    patch = withValueAt(patch, path, valueAt(applied, path) ?? null);
  }
  return patch as { labels: Record<string, string | null>; spec: Record<string, unknown> };
}

function requireNoList(defaults: Json, path: readonly PathPart[]): void {
  for (const [length] of path.entries()) {
    const parent = valueAt(defaults, path.slice(0, length));
    if (length === 0 || (!Array.isArray(parent) && typeof path[length] !== 'number')) continue;
    throw usageError(`${formatPath(path.slice(1))} is an element of a list, and these differ from VM to VM`, {
      hint: 'Set the whole list, or change one VM at a time.',
    });
  }
}
