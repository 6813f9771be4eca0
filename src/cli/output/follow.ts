// Waits for tasks with progress on the screen. Ctrl-C stops the waiting, never the task, and says how to go on.
import type { Task } from '../../api/task.ts';
import { LodgeError } from '../../api/errors.ts';
import { waitForTaskEnd } from '../../client/follow.ts';
import { mapConcurrently } from '../concurrent.ts';
import type { Session } from '../connect/session.ts';
import { Interrupted } from './print-error.ts';
import { ProgressBoard, type Followed } from './progress.ts';

/** How one of the followed ended. */
export interface FollowedTask {
  task: Task;
  /** Why it did not succeed. */
  error: LodgeError | null;
}

/** Streams that are open at once; more tasks wait for their turn to be watched, not to run. */
const maxWatched = 8;

/** Runs `body` with a signal that Ctrl-C and SIGTERM abort; then `explain` says what goes on without us. */
export async function untilInterrupted<Result>(
  session: Pick<Session, 'terminal'>,
  body: (signal: AbortSignal) => Promise<Result>,
  explain: () => readonly string[] = () => [],
): Promise<Result> {
  const controller = new AbortController();
  const interrupt = (): void => {
    if (controller.signal.aborted) process.exit(130);
    controller.abort(new Interrupted());
  };
  process.on('SIGINT', interrupt);
  process.on('SIGTERM', interrupt);
  try {
    return await body(controller.signal);
  } catch (failure) {
    if (controller.signal.aborted) {
      for (const line of explain()) session.terminal.note(line);
      throw new Interrupted();
    }
    throw failure;
  } finally {
    process.off('SIGINT', interrupt);
    process.off('SIGTERM', interrupt);
  }
}

/** Follows tasks to their ends, whichever way these are; never throws for a task that failed. */
export async function followTasks(
  session: Session,
  tasks: readonly { task: Task; title: string; done?: string }[],
  options: { timeoutMs?: number } = {},
): Promise<FollowedTask[]> {
  const board = new ProgressBoard(session.terminal);
  const open = new Set(tasks.map(({ task }) => task.id));
  try {
    return await untilInterrupted(
      session,
      (signal) => {
        const rows = tasks.map(({ task, title }) => {
          const row = board.add(title);
          board.update(row, { task });
          return row;
        });
        return mapConcurrently(tasks, maxWatched, async ({ task, done }, index) => {
          const row = rows[index] as Followed;
          const ended = await waitForTaskEnd(session.client, task.id, {
            signal,
            timeoutMs: options.timeoutMs,
            onProgress: (now) => board.update(row, { task: now }),
          });
          open.delete(task.id);
          const error = errorOf(ended);
          board.update(row, {
            task: ended,
            outcome: error === null ? { isGood: true, text: done ?? 'done' } : { isGood: false, text: ended.state },
          });
          return { task: ended, error };
        });
      },
      () => {
        board.close();
        return howToGoOn([...open]);
      },
    );
  } finally {
    board.close();
  }
}

/** Follows one task, and throws its error unless it succeeded. */
export async function followTask(
  session: Session,
  task: Task,
  title: string,
  options: { timeoutMs?: number; done?: string } = {},
): Promise<Task> {
  const [followed] = await followTasks(session, [{ task, title, done: options.done }], options);
  if (followed?.error) throw followed.error;
  return followed?.task ?? task;
}

/** What somebody who stopped waiting for tasks can do. */
export function howToGoOn(taskIds: readonly string[]): string[] {
  const [only] = taskIds;
  if (only === undefined) return ['Stopped.'];
  if (taskIds.length > 1) {
    return [`Stopped waiting; ${taskIds.length} tasks go on.`, '  follow or cancel them: lodge task list --running'];
  }
  return [
    'Stopped waiting; the task goes on.',
    `  follow it: lodge task wait ${only}`,
    `  cancel it: lodge task cancel ${only}`,
  ];
}

function errorOf(task: Task): LodgeError | null {
  if (task.state === 'succeeded') return null;
  if (task.error !== null) return LodgeError.fromBody({ error: task.error });
  return new LodgeError(
    task.state === 'cancelled' ? 'cancelled' : 'internal',
    `${task.type} of ${task.target.kind} ${task.target.name} was ${task.state}`,
  );
}
