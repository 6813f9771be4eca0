// lodge event: what happened, and what happens now.
import type { Command } from 'commander';
import { changeKind, type Change, type ChangeKind, type Event } from '../../api/event.ts';
import { followChanges } from '../../client/follow.ts';
import { escapeControls } from '../../lib/terminal-text.ts';
import { listFormats, noun, verb, wholeNumber, withDaemon } from '../command.ts';
import type { Session } from '../connect/session.ts';
import { collect, listVerb, type FetchPage, type ListOptions } from '../list.ts';
import { untilInterrupted } from '../output/follow.ts';
import { Interrupted } from '../output/print-error.ts';
import type { Printable } from '../output/print.ts';
import type { Style } from '../output/style.ts';
import { ageOf, colorState } from '../view.ts';
import { usageError } from '../usage-error.ts';

export const eventPrintable: Printable<Event> = {
  kind: 'Event',
  name: (event) => event.id,
  columns: [
    { header: 'AGE', value: (event) => ageOf(event.at), side: 'right' },
    {
      header: 'SEVERITY',
      value: (event) => event.severity,
      color: (text, event, style) => (event.severity === 'info' ? text : colorState(text, event.severity, style)),
    },
    { header: 'TYPE', value: (event) => event.type },
    { header: 'SUBJECT', value: (event) => `${event.subject.kind} ${event.subject.name}`, minWidth: 12 },
    { header: 'MESSAGE', value: (event) => event.message, minWidth: 20 },
    { header: 'AT', value: (event) => event.at, isWide: true },
    { header: 'PROJECT', value: (event) => event.subject.project, isWide: true },
  ],
};

/** Newest first from the daemon; shown oldest first, so that the newest stand at the prompt. */
export const fetchEvents: FetchPage<Event> = (client, query) => client.event.list({ query });

interface FollowOptions extends ListOptions {
  follow?: boolean;
  kinds?: string[];
  since?: number;
  changes?: boolean;
}

/** `lodge event` and its verbs. */
export function eventNoun(): Command {
  const event = noun('event', 'What happened, and what happens now');
  listVerb(event, {
    kind: 'event',
    noun: 'event',
    plural: 'events',
    printable: eventPrintable,
    fetch: fetchEvents,
    isAcrossProjects: true,
    defaultLimit: 50,
    empty: '',
    examples: [
      ['lodge events list --filter severity!=info', 'warnings and errors'],
      ['lodge events list --filter subject.name=web1', 'what happened to one VM'],
    ],
  });

  verb(event, 'follow', 'Show what happens from now on, until Ctrl-C', {
    formats: listFormats.filter((format) => format === 'table' || format === 'json'),
    aliases: ['watch'],
    description:
      'Show what happens from now on, until Ctrl-C. Breaks of the connection and restarts of the daemon are bridged without a gap. With -o json each line is one JSON document. `lodge events --follow` is the same.',
    examples: [
      ['lodge events follow', 'events as they happen'],
      ['lodge events follow --changes --kinds vm,task', 'every change of VMs and tasks'],
      ['lodge events follow --changes -o json | jq .object.status.state', 'for a script'],
    ],
  })
    .option('--changes', 'every change of every object, not only events')
    .option(
      '--kinds <kinds>',
      `with --changes: only these, comma-separated: ${changeKind.options.join(',')}`,
      parseKinds,
    )
    .option('--since <revision>', 'begin after this revision of the store', wholeNumber(0, Number.MAX_SAFE_INTEGER))
    .action(
      withDaemon<[], FollowOptions & { kinds?: ChangeKind[] }>(async (session, options) => {
        if (options.kinds && options.changes !== true) {
          throw usageError('--kinds is for --changes', {
            hint: 'Add --changes, or leave --kinds out.',
          });
        }
        const kinds: readonly ChangeKind[] | undefined = options.changes === true ? options.kinds : ['event'];
        await follow(session, { kinds, since: options.since, areEventsOnly: options.changes !== true });
      }),
    );
  return event;
}

function parseKinds(text: string): ChangeKind[] {
  return text.split(',').map((word) => {
    const kind = changeKind.safeParse(word.trim());
    if (kind.success) return kind.data;
    throw usageError(`${JSON.stringify(word.slice(0, 40))} is not a kind of object`, {
      hint: `Kinds: ${changeKind.options.join(', ')}.`,
    });
  });
}

async function follow(
  session: Session,
  options: { kinds: readonly ChangeKind[] | undefined; since: number | undefined; areEventsOnly: boolean },
): Promise<void> {
  const { terminal } = session;
  if (session.format !== 'json') {
    if (options.areEventsOnly && options.since === undefined) await printRecent(session);
    terminal.note(terminal.noteStyle.dim('Following; Ctrl-C ends it.'));
  }
  try {
    await untilInterrupted(session, async (signal) => {
      const changes = followChanges(session.client, {
        signal,
        reconnectMs: Infinity,
        ...(options.kinds ? { kinds: options.kinds } : {}),
        ...(options.since === undefined ? {} : { since: options.since }),
        onBreak: (failure) =>
          terminal.note(terminal.noteStyle.yellow(`connection lost (${failure.message}); trying again`)),
      });
      for await (const change of changes) {
        if (session.format === 'json') {
          if (!options.areEventsOnly) terminal.line(JSON.stringify(change));
          else if (isNewEvent(change)) terminal.line(JSON.stringify(change.object));
        } else if (options.areEventsOnly) {
          if (isNewEvent(change)) terminal.line(eventLine(change.object as Event, terminal.style));
        } else {
          const line = changeLine(change, terminal.style);
          if (line !== null) terminal.line(line);
        }
      }
      signal.throwIfAborted();
    });
  } catch (failure) {
    if (!(failure instanceof Interrupted)) throw failure;
    // Ctrl-C is how following ends: not a failure.
  }
}

async function printRecent(session: Session): Promise<void> {
  const recent = await collect((query) => fetchEvents(session.client, query), {}, 10);
  for (const one of recent.toReversed()) session.terminal.line(eventLine(one, session.terminal.style));
}

function isNewEvent(change: Change): boolean {
  return change.kind === 'event' && change.type === 'created' && change.object !== null;
}

/** "12:03:55  warning  vm web1  message". */
export function eventLine(event: Event, style: Style): string {
  const time = style.dim(new Date(event.at).toTimeString().slice(0, 8));
  const severity = event.severity === 'info' ? '' : `${colorState(event.severity, event.severity, style)}  `;
  return `${time}  ${severity}${style.bold(escapeControls(`${event.subject.kind} ${event.subject.name}`))}  ${escapeControls(event.message)}`;
}

/** One change in a line; null for what says nothing to people. */
export function changeLine(change: Change, style: Style): string | null {
  if (change.type === 'synced' || change.kind === null) return null;
  const object = (change.object ?? {}) as { name?: string; type?: string; state?: string; status?: { state?: string } };
  const name = object.name ?? object.type ?? change.id ?? '';
  const state = object.status?.state ?? object.state;
  const verb = { created: style.green('created'), updated: style.blue('updated'), deleted: style.red('deleted') }[
    change.type
  ];
  return `${style.dim(String(change.revision).padStart(8))}  ${verb}  ${change.kind} ${style.bold(escapeControls(name))}${
    state === undefined ? '' : `  ${colorState(escapeControls(state), state, style)}`
  }`;
}
