// Starts the deletion of several objects of a noun and follows the tasks.
import type { LodgeError } from '../api/errors.ts';
import type { Task } from '../api/task.ts';
import { mapConcurrently } from './concurrent.ts';
import type { Session } from './connect/session.ts';
import { followTasks } from './output/follow.ts';
import { AlreadyPrinted, describeError, exitCodeFor } from './output/print-error.ts';

/** Does something to each of several objects; failures are told one by one, and the first decides the exit code. */
export async function eachOf<Result>(
  session: Session,
  names: readonly string[],
  body: (name: string) => Promise<Result>,
): Promise<{ name: string; result: Result }[]> {
  const failures: unknown[] = [];
  const outcomes = await mapConcurrently(names, 8, async (name) => {
    try {
      return { name, result: await body(name) };
    } catch (failure) {
      if (names.length === 1) throw failure;
      failures.push(failure);
      printFailure(session, failure);
      return null;
    }
  });
  if (failures.length > 0) process.exitCode = exitCodeFor(failures[0]);
  return outcomes.filter((outcome) => outcome !== null);
}

function printFailure(session: Session, failure: unknown): void {
  for (const line of describeError(failure, session.terminal.noteStyle)) process.stderr.write(`${line}\n`);
}

/** Starts a task for each, follows them, and says how each ended. Gives the exit code. */
export async function taskForEach(
  session: Session,
  names: readonly string[],
  words: { title: (name: string) => string; done: (name: string) => string; doing: (name: string) => string },
  isWaiting: boolean,
  start: (name: string) => Promise<Task>,
  timeoutMs?: number,
): Promise<number> {
  const started = await eachOf(session, names, start);
  const startFailed = Number(process.exitCode ?? 0);
  if (!isWaiting) {
    for (const { name, result } of started) session.terminal.line(`${words.doing(name)} (task ${result.id}).`);
    return startFailed;
  }
  const ended = await followTasks(
    session,
    started.map(({ name, result }) => ({ task: result, title: words.title(name) })),
    { timeoutMs },
  );
  const errors: LodgeError[] = [];
  for (const [index, { error }] of ended.entries()) {
    const name = started[index]?.name ?? '';
    if (error === null) session.terminal.line(words.done(name));
    else errors.push(error);
  }
  const [first] = errors;
  if (first !== undefined && names.length === 1) throw first;
  for (const error of errors) printFailure(session, error);
  if (first !== undefined) throw new AlreadyPrinted(exitCodeFor(first));
  return startFailed;
}

/** Deletes each by a task. */
export function deleteEach(
  session: Session,
  noun: string,
  names: readonly string[],
  start: (name: string) => Promise<Task>,
  isWaiting = true,
): Promise<number> {
  return taskForEach(
    session,
    names,
    {
      title: (name) => `delete ${noun} ${name}`,
      done: (name) => `${noun} ${name} is deleted.`,
      doing: (name) => `${noun} ${name} is being deleted`,
    },
    isWaiting,
    start,
  );
}
