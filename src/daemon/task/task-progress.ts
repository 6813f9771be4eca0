// How far a task is, from how far its steps are.
import type { StepProgress, TaskRecord, TaskType } from './task.ts';

/**
 * Progress of the whole while step `index` runs: weights of the steps done, and of this one as far as it is. It never
 * goes back, except when a step begins anew after a restart.
 */
export function overallProgress(
  steps: TaskType['steps'],
  record: Pick<TaskRecord, 'steps' | 'progress'>,
  index: number,
  step: StepProgress,
): TaskRecord['progress'] {
  const isNew = Object.keys(step).length === 0;
  const { percent: _, ...before } = record.progress;
  const merged = isNew ? {} : { ...before, ...pickDefined(step) };
  let done = 0;
  let total = 0;
  for (const [at, { weight = 1 }] of steps.entries()) {
    total += weight;
    if (record.steps[at]?.state === 'done') done += weight;
    else if (at === index) done += weight * stepFraction(step, merged);
  }
  const percent = Math.min(100, Math.round((1000 * done) / total) / 10);
  return { ...merged, percent: isNew ? percent : Math.max(percent, record.progress.percent) };
}

function stepFraction(step: StepProgress, merged: { bytesDone?: number; bytesTotal?: number }): number {
  if (step.percent !== undefined) return clamp(step.percent / 100);
  const { bytesDone = 0, bytesTotal = 0 } = merged;
  return bytesTotal > 0 ? clamp(bytesDone / bytesTotal) : 0;
}

function clamp(fraction: number): number {
  return Number.isFinite(fraction) ? Math.min(Math.max(fraction, 0), 1) : 0;
}

function pickDefined({ bytesDone, bytesTotal, message }: StepProgress): Omit<TaskRecord['progress'], 'percent'> {
  return {
    ...(bytesDone === undefined ? {} : { bytesDone }),
    ...(bytesTotal === undefined ? {} : { bytesTotal }),
    ...(message === undefined ? {} : { message }),
  };
}
