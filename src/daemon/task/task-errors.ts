// What made a task fail, as the error that its record shows.
import { LodgeError } from '../../api/errors.ts';
import { CommandError } from '../../host/command.ts';
import { StepAborted } from './step-run.ts';
import type { TaskRecord } from './task.ts';

/** A thrown value as the error of a task. Only what is meant for people is taken over; the rest is in the log. */
export function asTaskError(failure: unknown, what: string): LodgeError {
  if (failure instanceof LodgeError) return failure;
  if (failure instanceof StepAborted) {
    if (failure.reason === 'timeout') {
      return new LodgeError('timeout', `${what} took longer than ${failure.timeoutMs} ms`, { cause: failure.cause });
    }
    return failure.cause instanceof LodgeError
      ? failure.cause
      : new LodgeError('cancelled', `${what} was ended`, { cause: failure });
  }
  if (failure instanceof CommandError)
    return new LodgeError('host_failed', `${what}: ${failure.message}`, { cause: failure });
  return new LodgeError('internal', `${what} failed`, {
    cause: failure,
    hint: 'Look for the task’s id in the daemon’s log and report it.',
  });
}

/** The daemon ended in the middle of a task that is undone then. */
export function interruptedError(record: TaskRecord): LodgeError {
  return new LodgeError(
    'unavailable',
    `${record.type} ${record.target.name} was undone because the daemon ended in the middle of it`,
    {
      hint: 'Start it again.',
    },
  );
}

/** Somebody asked for it to end. */
export function cancelledError(record: TaskRecord): LodgeError {
  const what = `${record.type} ${record.target.name}`;
  if (record.items.length === 0) return new LodgeError('cancelled', `${what} was cancelled and undone`);
  const done = record.items.filter(({ state }) => state === 'done').length;
  return new LodgeError(
    'cancelled',
    `${what} was cancelled when ${done} of ${record.items.length} were done; what had not begun is left as it was`,
    { hint: 'What had begun goes on as tasks of its own: lodge task list --running.' },
  );
}

/** The record was left by a version of Lodge in which this type had other steps. */
export function changedError(record: TaskRecord): LodgeError {
  const what = `${record.type} ${record.target.name}`;
  return new LodgeError('unsupported', `${what} was begun by another version of Lodge, in which it has other steps`, {
    hint: 'Start it again.',
  });
}
