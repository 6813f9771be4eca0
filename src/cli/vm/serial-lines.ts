// lodge vm serial-log with --grep, --tail or --follow: the serial console's output as plain lines, searched.
import { ConsoleLines } from '../../lib/console-lines.ts';
import type { Session } from '../connect/session.ts';
import { withSuggestion } from '../list.ts';
import { usageError } from '../usage-error.ts';
import { fetchVms } from './view.ts';

export interface SerialLinesOptions {
  grep?: string;
  ignoreCase?: boolean;
  tail?: number;
  follow?: boolean;
  timestamps?: boolean;
}

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
        ...(isPlain ? { contains: grep } : {}),
      },
    }),
  );
  const lines = found.lines.filter(({ text }) => matches(text)).slice(-(tail ?? maxLines));
  for (const { text } of lines) session.terminal.line(text);
  if (found.total === 0) session.terminal.note(`The serial console of ${name} has printed nothing.`);
  // As grep(1) ends where it has found nothing.
  return grep !== undefined && lines.length === 0 ? 1 : 0;
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
  { tail = maxLines, timestamps }: SerialLinesOptions,
  name: string,
  matches: (text: string) => boolean,
): Promise<number> {
  const { terminal, client, project } = session;
  const ticket = await withSuggestion(session, name, fetchVms, () =>
    client.vm.openConsole({ params: { vm: name }, query: { project }, body: { type: 'serial' } }),
  );
  const { stream } = await session.openWebSocket(ticket.path);
  const { promise: ended, resolve: end, reject: fail } = Promise.withResolvers<void>();
  const lines = new ConsoleLines();
  const print = (text: string): void =>
    terminal.line(timestamps === true ? `${new Date().toISOString()} ${text}` : text);
  // The console begins with what was kept, of which only the last lines may be wanted. They have come when it pauses.
  let kept: string[] | null = [];
  const printKept = (): void => {
    for (const text of kept?.slice(-tail) ?? []) terminal.line(text);
    kept = null;
  };
  let pause = setTimeout(printKept, longReplayMs);
  stream.on('data', (piece: Uint8Array) => {
    const fresh = lines.feed(piece).filter(matches);
    if (kept === null) {
      for (const text of fresh) print(text);
      return;
    }
    kept.push(...fresh);
    clearTimeout(pause);
    if (performance.now() - startedAtMs > longReplayMs) printKept();
    else pause = setTimeout(printKept, replayPauseMs);
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
    printKept();
    for (const signal of ['SIGTERM', 'SIGHUP', 'SIGINT'] as const) process.off(signal, onSignal);
    stream.destroy();
  }
}
