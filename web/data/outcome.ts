// What was started on this page, and how it ended. What the user has started is shown where they did; what others start, or
// what happens by itself, comes as a toast (app/toasts.ts).
import { useSyncExternalStore } from 'react';
import { useMutation } from '@tanstack/react-query';
import { LodgeError } from '../../src/api/errors.ts';
import { finalTaskStates, type Task } from '../../src/api/task.ts';
import { onChange } from './live.ts';

/** Ids of tasks that this page has started. */
const started = new Set<string>();
let failures: readonly LodgeError[] = [];
const listeners = new Set<() => void>();

function become(next: readonly LodgeError[]): void {
  failures = next;
  for (const listener of listeners) listener();
}

/** Most failures that are shown at once. */
const maxFailures = 3;

export function isOwnTask(id: string): boolean {
  return started.has(id);
}

export function noteStarted(task: Task): void {
  started.add(task.id);
  noteEnd(task);
}

function noteEnd(task: Task): void {
  if (!started.has(task.id) || !finalTaskStates.has(task.state)) return;
  if (task.state === 'failed' && task.error !== null && task.parentId === null) {
    showFailure(LodgeError.fromBody({ error: task.error }));
  }
}

onChange((change) => {
  if (change.kind === 'task' && change.object !== null) noteEnd(change.object as Task);
});

/** Shows what went wrong above the page, until it is closed or something else is done. */
export function showFailure(failure: LodgeError): void {
  if (failures.some((one) => one.message === failure.message)) return;
  become([...failures.slice(1 - maxFailures), failure]);
}

export function closeFailure(failure: LodgeError): void {
  become(failures.filter((one) => one !== failure));
}

export function closeFailures(): void {
  if (failures.length > 0) become([]);
}

export function useFailures(): readonly LodgeError[] {
  return useSyncExternalStore(
    (listener) => {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    () => failures,
  );
}

/** Something that the user does: its task is followed, its failure is shown above the page. */
export function useAction<Input, Answer>(
  run: (input: Input) => Promise<Answer>,
  options: { onDone?: (answer: Answer) => void; isShownElsewhere?: boolean } = {},
) {
  return useMutation({
    mutationFn: (input: Input) => {
      closeFailures();
      return run(input);
    },
    onSuccess: (answer) => {
      if (isTask(answer)) noteStarted(answer);
      options.onDone?.(answer);
    },
    onError: (failure) => {
      if (options.isShownElsewhere === true) return;
      showFailure(failure instanceof LodgeError ? failure : new LodgeError('internal', failure.message));
    },
  });
}

function isTask(answer: unknown): answer is Task {
  return typeof answer === 'object' && answer !== null && 'steps' in answer && 'progress' in answer;
}
