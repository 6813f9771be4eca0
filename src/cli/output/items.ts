// Tasks that work on several objects: follows one, and says how each object ended.
import type { Task, TaskItem } from '../../api/task.ts';
import { LodgeError } from '../../api/errors.ts';
import type { Session } from '../connect/session.ts';
import { followTasks } from './follow.ts';
import { describeError, exitCodeFor } from './print-error.ts';

/**
 * Follows a task and tells of each of its items, of those that are done with `doneText` or its own message. The exit code:
 * of the first that failed, else of the task.
 */
export async function followItems(
  session: Session,
  task: Task,
  title: string,
  doneText?: (name: string) => string,
): Promise<number> {
  const [followed] = await followTasks(session, [{ task, title }]);
  if (!followed) return 0;
  const failures = tellItems(session, followed.task.items, doneText);
  if (followed.error === null) return 0;
  // What the items have said is not said again.
  const isToldAbove = failures.length > 0 && followed.task.state === 'failed';
  if (!isToldAbove) for (const line of describeError(followed.error, session.terminal.noteStyle)) writeError(line);
  return exitCodeFor(failures[0] ?? followed.error);
}

/** Says of each object how it ended: what was done on stdout, the rest on stderr. Answers with the failures. */
function tellItems(session: Session, items: readonly TaskItem[], doneText?: (name: string) => string): LodgeError[] {
  const failures: LodgeError[] = [];
  for (const { name, state, message, error } of items) {
    if (state === 'done') session.terminal.line(doneText?.(name) ?? message);
    else if (state === 'failed') {
      const failure = error ? LodgeError.fromBody({ error }) : new LodgeError('internal', `${name}: ${message}`);
      failures.push(failure);
      for (const line of describeError(failure, session.terminal.noteStyle)) writeError(line);
    } else session.terminal.note(message === '' ? `${name} was not begun.` : `${name}: ${message}`);
  }
  return failures;
}

function writeError(line: string): void {
  process.stderr.write(`${line}\n`);
}
