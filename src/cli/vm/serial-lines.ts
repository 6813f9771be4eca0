// lodge vm serial-log with --grep, --tail, --since, --timestamps or --follow: the serial console's output as plain lines,
// searched.
import type { SerialLine } from '../../api/vm-console.ts';
import { ConsoleLines } from '../../lib/console-lines.ts';
import type { Session } from '../connect/session.ts';
import { withSuggestion } from '../list.ts';
import { usageError } from '../usage-error.ts';
import { fetchVms } from './view.ts';

export interface SerialLinesOptions {
  grep?: string;
  ignoreCase?: boolean;
  tail?: number;
  /** How far back, milliseconds. */
  since?: number;
  follow?: boolean;
  timestamps?: boolean;
}

/** In place of a time that is not known, as wide as one. */
const unknownTime = '-'.padEnd(new Date(0).toISOString().length);
/** Lines of the daemon's answer at most; what it keeps of a log seldom has more. */
const maxLines = 10_000;
/** What a console keeps comes at once; a pause as long as this ends it, or that it goes on for so long. */
const replayPauseMs = 300;
const longReplayMs = 2000;
/** A pattern that stands for itself can be looked for by the daemon. */
const plainText = /^[\w :,@/=%&#"'<>~-]+$/;

export async function printSerialLines(session: Session, options: SerialLinesOptions, name: string): Promise<number> {
  const matches = matcher(options);
  if (options.follow === true) return follow(session, options, name, matches);
  const { grep, ignoreCase = false, tail } = options;
  const isPlain = grep !== undefined && plainText.test(grep);
  const found = await withSuggestion(session, name, fetchVms, () =>
    session.client.vm.searchSerialLog({
      params: { vm: name },
      query: {
        project: session.project,
        ignoreCase,
        tail: grep === undefined || isPlain ? (tail ?? maxLines) : maxLines,
        ...sinceOf(options),
        ...(isPlain ? { contains: grep } : {}),
      },
    }),
  );
  const lines = found.lines.filter(({ text }) => matches(text)).slice(-(tail ?? maxLines));
  for (const line of lines) session.terminal.line(shown(line, options));
  if (found.total === 0) session.terminal.note(`The serial console of ${name} has printed nothing.`);
  // As grep(1) ends where it has found nothing.
  return grep !== undefined && lines.length === 0 ? 1 : 0;
}

function sinceOf({ since }: SerialLinesOptions): { since?: string } {
  return since === undefined ? {} : { since: new Date(Date.now() - since).toISOString() };
}

function shown({ text, at }: Pick<SerialLine, 'text' | 'at'>, { timestamps }: SerialLinesOptions): string {
  return timestamps === true ? `${at ?? unknownTime} ${text}` : text;
}

/**
 * How many of the lines that a console begins with are among those that were read before: the last of these are the first
 * of those. The first of all may be the rest of a line.
 */
export function linesSeen(replayed: readonly string[], read: readonly string[]): number {
  for (let count = Math.min(replayed.length, read.length); count > 0; count--) {
    const last = read.slice(-count);
    if (replayed.slice(0, count).every((text, index) => (index === 0 ? last[0]!.endsWith(text) : last[index] === text)))
      return count;
  }
  return 0;
}

function matcher({ grep, ignoreCase }: SerialLinesOptions): (text: string) => boolean {
  if (grep === undefined) return () => true;
  try {
    const pattern = new RegExp(grep, ignoreCase === true ? 'iu' : 'u');
    return (text) => pattern.test(text);
  } catch (cause) {
    throw usageError(`--grep ${grep} is not a regular expression`, {
      hint: 'Put a backslash before characters that are to stand for themselves: \\( \\[ \\*',
      cause,
    });
  }
}

/** The end of what is kept, and what comes, until the console ends or it is interrupted. */
async function follow(
  session: Session,
  options: SerialLinesOptions,
  name: string,
  matches: (text: string) => boolean,
): Promise<number> {
  const { terminal, client, project } = session;
  const { tail = maxLines } = options;
  const ticket = await withSuggestion(session, name, fetchVms, () =>
    client.vm.openConsole({ params: { vm: name }, query: { project }, body: { type: 'serial' } }),
  );
  // What was kept comes with its times; where the console's own beginning overlaps with it, it is printed once.
  const kept = await client.vm.searchSerialLog({ params: { vm: name }, query: { project, tail: maxLines } });
  const read = kept.lines.filter(({ isComplete }) => isComplete);
  const earliest = sinceOf(options).since ?? '';
  const wanted = read.filter(({ text, at }) => matches(text) && (earliest === '' || (at !== null && at >= earliest)));
  for (const line of wanted.slice(-tail)) terminal.line(shown(line, options));

  const { stream } = await session.openWebSocket(ticket.path);
  const { promise: ended, resolve: end, reject: fail } = Promise.withResolvers<void>();
  const lines = new ConsoleLines();
  const print = (text: string): void => {
    if (matches(text)) terminal.line(shown({ text, at: new Date().toISOString() }, options));
  };
  // The console begins with what was kept. That has come when it pauses.
  let replayed: string[] | null = [];
  const printReplayed = (): void => {
    const known = read.map(({ text }) => text);
    for (const text of replayed?.slice(linesSeen(replayed, known)) ?? []) print(text);
    replayed = null;
  };
  let pause = setTimeout(printReplayed, longReplayMs);
  stream.on('data', (piece: Uint8Array) => {
    const fresh = lines.feed(piece);
    if (replayed === null) {
      for (const text of fresh) print(text);
      return;
    }
    replayed.push(...fresh);
    clearTimeout(pause);
    if (performance.now() - startedAtMs > longReplayMs) printReplayed();
    else pause = setTimeout(printReplayed, replayPauseMs);
  });
  const startedAtMs = performance.now();
  stream.once('error', fail);
  for (const event of ['end', 'close'] as const) stream.once(event, () => end());
  const onSignal = (): void => end();
  for (const signal of ['SIGTERM', 'SIGHUP', 'SIGINT'] as const) process.on(signal, onSignal);
  try {
    await ended;
    return 0;
  } finally {
    clearTimeout(pause);
    printReplayed();
    for (const signal of ['SIGTERM', 'SIGHUP', 'SIGINT'] as const) process.off(signal, onSignal);
    stream.destroy();
  }
}
