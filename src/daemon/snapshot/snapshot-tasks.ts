// The long operations on snapshots, put together from steps.
import * as z from 'zod';
import { defineTask, type TaskStep, type TaskType } from '../task/task.ts';
import { endGuest, startGuest } from '../vm/vm-power-steps.ts';
import {
  announce,
  checkMemory,
  giveUp,
  letGo,
  markTaken,
  mergeLayers,
  putBack,
  putMemoryBack,
  take,
  type SnapshotStepParts,
  type SnapshotTaskInput,
} from './snapshot-steps.ts';

const input = z.strictObject({
  id: z.string(),
  timeoutS: z.number().optional(),
  snapshotIds: z.array(z.string()).min(1),
  withMemory: z.boolean().optional(),
  quiesce: z.enum(['auto', 'never', 'required']).optional(),
});
type Input = z.input<typeof input>;
type Step = TaskStep<SnapshotTaskInput, Record<string, unknown>, unknown>;

export interface SnapshotTasks {
  create: TaskType<Input>;
  delete: TaskType<Input>;
  revert: TaskType<Input>;
  revertAndStart: TaskType<Input>;
}

export function snapshotTasks(parts: SnapshotStepParts): SnapshotTasks {
  // Once the guest was switched off, a revert can only go on: what fails then is tried again.
  const reverting: Step[] = [checkMemory(parts), endGuest(parts, 'forced-off'), putBack(parts), putMemoryBack(parts)];
  return {
    // A moment that has passed can't be caught again: what was cut off is undone.
    create: defineTask({
      type: 'snapshot.create',
      input,
      onCrash: 'undo',
      steps: [announce(parts), take(parts), markTaken(parts)],
    }),
    delete: defineTask({
      type: 'snapshot.delete',
      input,
      steps: [giveUp(parts), mergeLayers(parts), letGo(parts)],
    }),
    revert: defineTask({ type: 'snapshot.revert', input, steps: reverting }),
    revertAndStart: defineTask({
      type: 'snapshot.revertAndStart',
      input,
      steps: [...reverting, startGuest(parts)],
    }),
  };
}

/** All of them, for the engine. */
export function listSnapshotTasks(tasks: SnapshotTasks): TaskType<Input>[] {
  return Object.values(tasks) as TaskType<Input>[];
}
