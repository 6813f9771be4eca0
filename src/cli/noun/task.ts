// lodge task: operations under way and done.
import type { Command } from 'commander';
import { finalTaskStates, type Task } from '../../api/task.ts';
import { formatDuration, parseDurationMs } from '../../lib/duration.ts';
import { noun, objectFormats, parsedBy, verb, withDaemon } from '../command.ts';
import type { Session } from '../connect/session.ts';
import { eachOf } from '../delete-each.ts';
import { listVerb, showVerb, type FetchPage } from '../list.ts';
import { followTask, followTasks } from '../output/follow.ts';
import { AlreadyPrinted, describeError, exitCodeFor } from '../output/print-error.ts';
import { printOne, type Printable } from '../output/print.ts';
import { describeBytes } from '../output/progress.ts';
import { painted, renderDetails, renderTable, type Column } from '../output/table.ts';
import { ageOf, colorState, momentOf } from '../view.ts';

export const taskPrintable: Printable<Task> = {
  kind: 'Task',
  name: (task) => task.id,
  columns: [
    { header: 'ID', value: (task) => task.id },
    { header: 'TYPE', value: (task) => task.type },
    { header: 'TARGET', value: (task) => `${task.target.kind} ${task.target.name}`, minWidth: 12 },
    { header: 'STATE', value: (task) => task.state, color: (text, task, style) => colorState(text, task.state, style) },
    {
      header: 'DONE',
      value: (task) => `${Math.floor(task.progress.percent)} %`,
      side: 'right',
    },
    { header: 'TOOK', value: (task) => tookText(task), side: 'right' },
    { header: 'AGE', value: (task) => ageOf(task.createdAt), side: 'right' },
    {
      header: 'WHAT',
      isOptional: true,
      value: (task) => task.error?.message ?? (finalTaskStates.has(task.state) ? doneText(task) : stepText(task)),
      minWidth: 10,
    },
    { header: 'BY', value: (task) => task.requestedBy, isWide: true },
    { header: 'PROJECT', value: (task) => task.project, isWide: true },
  ],
};

export const fetchTasks: FetchPage<Task> = (client, query) => client.task.list({ query });

function tookText(task: Task): string {
  if (task.startedAt === null) return '';
  const end = task.endedAt === null ? Date.now() : Date.parse(task.endedAt);
  return formatDuration(end - Date.parse(task.startedAt));
}

function stepText(task: Task): string {
  return task.progress.message ?? task.steps.find((step) => step.state === 'running')?.name ?? '';
}

/** What a task that has ended did: the steps that were done. */
function doneText(task: Task): string {
  return task.steps
    .filter((step) => step.state === 'done')
    .map((step) => step.name)
    .join(', ');
}

const stepColumns: readonly Column<Task['steps'][number]>[] = [
  { header: 'STEP', value: (step) => step.name },
  {
    header: 'STATE',
    value: (step) => step.state,
    color: (text, step, style) =>
      step.state === 'done' ? style.green(text) : /failed/.test(step.state) ? style.red(text) : text,
  },
  {
    header: 'TOOK',
    value: (step) =>
      step.startedAt === null
        ? ''
        : formatDuration((step.endedAt === null ? Date.now() : Date.parse(step.endedAt)) - Date.parse(step.startedAt)),
    side: 'right',
  },
];

const itemColumns: readonly Column<Task['items'][number]>[] = [
  { header: 'OBJECT', value: (item) => item.name },
  {
    header: 'STATE',
    value: (item) => item.state,
    color: (text, item, style) =>
      item.state === 'done' ? style.green(text) : item.state === 'failed' ? style.red(text) : text,
  },
  { header: 'WHAT', value: (item) => item.message, minWidth: 16 },
];

function taskDetails(task: Task, session: Session): string[] {
  const { style } = session.terminal;
  const { bytesDone, bytesTotal, percent } = task.progress;
  const isOver = finalTaskStates.has(task.state);
  return renderDetails(
    [
      ['Id', task.id],
      ['Type', task.type],
      ['Target', `${task.target.kind} ${task.target.name} in project ${task.target.project}`],
      ['State', painted(task.state, (text) => colorState(text, task.state, style))],
      [
        'Progress',
        isOver
          ? null
          : `${Math.floor(percent)} %${bytesDone === undefined ? '' : `, ${describeBytes(bytesDone, bytesTotal, null)}`}`,
      ],
      ['Now', isOver ? null : stepText(task)],
      ['Error', task.error === null ? null : painted(task.error.message, style.red)],
      ['What to do', task.error?.hint],
      ['Asked for by', task.requestedBy],
      ['Created', momentOf(task.createdAt)],
      ['Took', tookText(task)],
      ['Deadline', isOver ? null : task.deadline],
      ['Part of', task.parentId === null ? null : `task ${task.parentId}`],
      ['Steps', task.steps.length === 0 ? null : renderTable(stepColumns, task.steps, { width: null, style })],
      ['Objects', task.items.length === 0 ? null : renderTable(itemColumns, task.items, { width: null, style })],
    ],
    session.terminal,
  );
}

/** A task by its id, or by the end of one as a table shows it. */
export async function getTask(session: Session, id: string): Promise<Task> {
  return session.client.task.get({ params: { task: id } });
}

/** `lodge task` and its verbs. */
export function taskNoun(): Command {
  const task = noun('task', 'Operations under way and done');

  listVerb(task, {
    kind: 'task',
    noun: 'task',
    plural: 'tasks',
    printable: taskPrintable,
    fetch: (client, query) => fetchTasks(client, { sort: '-createdAt', ...query }),
    isAcrossProjects: true,
    defaultLimit: 50,
    empty: '',
    configure: (command) => command.option('--running', 'only those that have not ended'),
    extraFilter: (options) => (options['running'] === true ? ['!endedAt'] : []),
    examples: [
      ['lodge task list --running', 'what is under way'],
      ['lodge task list --filter state=failed', 'what failed, newest first'],
      ['lodge task list --filter target.name=web1 --limit 5', 'the last five of one VM'],
    ],
  });
  showVerb(task, {
    noun: 'task',
    printable: taskPrintable,
    get: getTask,
    details: taskDetails,
    examples: [['lodge task show 0198c0de-…', 'its steps, what each took, and why it failed']],
  });

  verb(task, 'wait <task...>', 'Follow tasks until they have ended', {
    formats: objectFormats,
    description:
      'Follow tasks until they have ended. The exit code tells whether all succeeded. Ctrl-C ends the following, not the task.',
    examples: [['lodge task wait 0198c0de-… --timeout 5m', 'at most five minutes']],
  })
    .option('--timeout <duration>', 'longest wait, such as 90s or 10m', parsedBy(parseDurationMs))
    .action(
      withDaemon<[ids: string[]], { timeout?: number }>(async (session, options, ids) => {
        const tasks = await Promise.all(ids.map((id) => getTask(session, id)));
        const ended = await followTasks(
          session,
          tasks.map((one) => ({ task: one, title: `${one.type} ${one.target.name}` })),
          { timeoutMs: options.timeout },
        );
        for (const { task: one } of ended) {
          await printOne(session, taskPrintable, one, () => [
            `${one.type} of ${one.target.kind} ${one.target.name}: ${one.state}.`,
          ]);
        }
        const errors = ended.flatMap(({ error }) => (error === null ? [] : [error]));
        for (const error of errors) {
          for (const line of describeError(error, session.terminal.noteStyle)) process.stderr.write(`${line}\n`);
        }
        if (errors.length > 0) throw new AlreadyPrinted(exitCodeFor(errors[0]));
      }),
    );

  verb(task, 'cancel <task...>', 'Cancel tasks; what they did is undone', {
    examples: [['lodge task cancel 0198c0de-…', 'stop it, and wait until all is undone']],
  })
    .option('--no-wait', 'do not wait until all is undone')
    .action(
      withDaemon<[ids: string[]], { wait: boolean }>(async (session, options, ids) => {
        const cancelled = await eachOf(session, ids, (id) => session.client.task.cancel({ params: { task: id } }));
        for (const { result } of cancelled) {
          const what = `${result.type} of ${result.target.kind} ${result.target.name}`;
          if (!options.wait) {
            session.terminal.line(`${what} is being cancelled.`);
            continue;
          }
          const isCancelled = await followTask(session, result, `cancel ${result.type} ${result.target.name}`).then(
            () => false,
            (failure: unknown) => {
              if (failure instanceof Error && 'code' in failure && failure.code === 'cancelled') return true;
              throw failure;
            },
          );
          session.terminal.line(
            isCancelled ? `${what} is cancelled and undone.` : `${what} had succeeded before it could be cancelled.`,
          );
        }
        return Number(process.exitCode ?? 0);
      }),
    );
  return task;
}
