// In which order security groups are written and deleted, since rules may name groups that the same files make, also one
// another: none names one that is not there. Pure.
import type { Manifest } from './manifest.ts';
import { referencesOf, type PlannedObject } from './plan.ts';

/**
 * One write. whole: as planned. bare: a new group without its rules, because it and others name one another; nothing can
 * be in it yet. fill: gives such a group its rules.
 */
export interface WriteStep {
  one: PlannedObject;
  step: 'whole' | 'bare' | 'fill';
}

/** The writes for objects of one kind: those that others name come first, else as they stand. */
export function writeSteps(stage: readonly PlannedObject[]): WriteStep[] {
  const steps: WriteStep[] = [];
  const later: WriteStep[] = [];
  let left = [...stage];
  while (left.length > 0) {
    const missing = left.filter(({ action }) => action === 'create');
    const isFree = (one: PlannedObject): boolean => !missing.some((other) => names(one.manifest, other.manifest));
    const free = left.find(isFree);
    const next = free ?? missing[0] ?? left[0]!;
    if (free) steps.push({ one: next, step: 'whole' });
    else {
      steps.push({ one: next, step: 'bare' });
      later.push({ one: next, step: 'fill' });
    }
    left = left.filter((one) => one !== next);
  }
  return [...steps, ...later];
}

/** For deletion: those that name others come before these. Of a circle, the first comes first. */
export function deletionOrder(stage: readonly Manifest[]): Manifest[] {
  const order: Manifest[] = [];
  let left = [...stage];
  while (left.length > 0) {
    const next = left.find((one) => !left.some((other) => names(other, one))) ?? left[0]!;
    order.push(next);
    left = left.filter((one) => one !== next);
  }
  return order;
}

/** Whether one names another of the same kind. */
function names(one: Manifest, other: Manifest): boolean {
  if (one === other || one.kind !== 'SecurityGroup' || one.project !== other.project) return false;
  return referencesOf(one).some(({ kind, name }) => kind === other.kind && name === other.name);
}
