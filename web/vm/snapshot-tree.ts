// Snapshots as a tree: each below the one that the VM went on from.
import { type Snapshot } from '../../src/api/snapshot.ts';

/** A snapshot and how deep it stands. */
export interface SnapshotPlace {
  snapshot: Snapshot;
  depth: number;
}

/** In the order in which they are shown: parents before children, older before younger. */
export function snapshotTree(snapshots: readonly Snapshot[]): SnapshotPlace[] {
  const ids = new Set(snapshots.map(({ id }) => id));
  const byParent = Map.groupBy(snapshots, ({ status }) =>
    status.parentId !== null && ids.has(status.parentId) ? status.parentId : null,
  );
  const places: SnapshotPlace[] = [];
  // A stack, as a chain may be deeper than calls can be.
  const waiting = sorted(byParent.get(null)).map((snapshot) => ({ snapshot, depth: 0 }));
  for (let next = waiting.pop(); next !== undefined; next = waiting.pop()) {
    places.push(next);
    const { depth, snapshot } = next;
    waiting.push(...sorted(byParent.get(snapshot.id)).map((child) => ({ snapshot: child, depth: depth + 1 })));
  }
  return places;
}

/** Youngest first, as the stack is emptied from its end. */
function sorted(snapshots: readonly Snapshot[] | undefined): Snapshot[] {
  return (snapshots ?? []).toSorted((one, other) => (one.createdAt < other.createdAt ? 1 : -1));
}
