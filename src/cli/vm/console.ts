// lodge vm console: the serial console in this terminal. Whatever happens (detach, end of the VM, lost connection, a
// signal), the terminal is given back as it was.
import type { Duplex } from 'node:stream';
import { LodgeError } from '../../api/errors.ts';
import { formatDuration } from '../../lib/duration.ts';
import { escapeControls } from '../../lib/terminal-text.ts';
import type { Session } from '../connect/session.ts';
import { withSuggestion } from '../list.ts';
import { fetchVms } from './view.ts';

export interface ConsoleOptions {
  detachKey: DetachKey;
  /** Ends after so long, in milliseconds. */
  for?: number;
}

/** The key that ends the session: its byte, and how it is written. */
export interface DetachKey {
  byte: number;
  label: string;
}

/** Reads "ctrl-]", "^]" or "ctrl-a": control characters, because everything else is for the guest. */
export function parseDetachKey(text: string): DetachKey {
  const match = /^(?:ctrl-|\^)([a-z@[\\\]^_])$/i.exec(text.trim());
  const character = match?.[1]?.toUpperCase();
  if (character === undefined) {
    throw new Error(
      `${JSON.stringify(text.slice(0, 20))} is not a detach key: write ctrl- and a letter or one of @ [ \\ ] ^ _`,
    );
  }
  if (character === 'M' || character === 'J' || character === 'I')
    throw new Error('Enter, line feed and Tab are needed by the guest');
  return { byte: character.charCodeAt(0) & 0x1f, label: `Ctrl-${character}` };
}

/** What came from the keyboard: the part for the guest, and whether the detach key ended it. */
export function splitAtDetach(chunk: Uint8Array, key: DetachKey): { forGuest: Uint8Array; isDetached: boolean } {
  const at = chunk.indexOf(key.byte);
  return at === -1 ? { forGuest: chunk, isDetached: false } : { forGuest: chunk.subarray(0, at), isDetached: true };
}

/**
 * Drops what the terminal itself answers to questions of the guest (where is the cursor, what are you): the replayed
 * output may hold old questions, and the guest would take the late answers for typing.
 */
export function withoutTerminalAnswers(chunk: Uint8Array): Uint8Array {
  const text = Buffer.from(chunk).toString('latin1');
  return Buffer.from(text.replace(/\p{Cc}\[(\?|>)?[\d;]*[Rcny]/gu, ''), 'latin1');
}

/** How long after attaching answers of the terminal are taken for answers to the replay, milliseconds. */
const replayMs = 700;

/** Modes that a guest's program may have switched on in the terminal, and what switches them off. */
const modeResets: readonly (readonly [number, string])[] = [
  [1049, '\u001b[?1049l'],
  [1000, '\u001b[?1000l'],
  [1002, '\u001b[?1002l'],
  [1003, '\u001b[?1003l'],
  [1006, '\u001b[?1006l'],
  [2004, '\u001b[?2004l'],
  [25, '\u001b[?25h'],
];

/** Watches the output for modes that are switched, so that they can be switched back. */
export class ModeWatch {
  readonly #on = new Set<number>();
  #isCursorHidden = false;
  #tail = '';

  see(chunk: Uint8Array): void {
    const text = this.#tail + Buffer.from(chunk).toString('latin1');
    for (const [, numbers = '', letter] of text.matchAll(/\p{Cc}\[\?([\d;]+)([hl])/gu)) {
      for (const number of numbers.split(';').map(Number)) {
        if (number === 25) this.#isCursorHidden = letter === 'l';
        else if (letter === 'h') this.#on.add(number);
        else this.#on.delete(number);
      }
    }
    // A sequence may be cut by the end of the chunk.
    const escape = text.lastIndexOf('\u001b');
    this.#tail = escape === -1 || text.length - escape > 20 ? '' : text.slice(escape);
  }

  /** What gives the terminal back: colours off, and every mode that is still on. */
  reset(): string {
    const modes = modeResets.filter(([mode]) => (mode === 25 ? this.#isCursorHidden : this.#on.has(mode)));
    return `\u001b[0m${modes.map(([, sequence]) => sequence).join('')}`;
  }
}

export async function openConsole(session: Session, options: ConsoleOptions, name: string): Promise<number> {
  const { terminal, client, project } = session;
  const ticket = await withSuggestion(session, name, fetchVms, () =>
    client.vm.openConsole({ params: { vm: name }, query: { project }, body: { type: 'serial' } }),
  );
  const connection = await session.openWebSocket(ticket.path);
  const isInteractive = process.stdin.isTTY;
  if (isInteractive) {
    terminal.note(
      terminal.noteStyle.dim(
        `Console of ${name}. ${options.detachKey.label} leaves it; Enter may wake the guest’s prompt.`,
      ),
    );
  }
  const end = await attach(connection.stream, options, isInteractive);
  if (end === 'detached' || end === 'input ended') {
    if (isInteractive) terminal.note(terminal.noteStyle.dim(`Left the console of ${name}; the VM goes on.`));
    return 0;
  }
  if (end === 'time is up') {
    if (isInteractive)
      terminal.note(
        terminal.noteStyle.dim(`Left the console after ${formatDuration(options.for ?? 0)}; the VM goes on.`),
      );
    return 0;
  }
  const { code, reason } = await connection.closed;
  if (code === 1000 || code === 1001 || code === 1005) {
    terminal.note(
      terminal.noteStyle.dim(`The console of ${name} has ended${reason === '' ? '' : `: ${escapeControls(reason)}`}.`),
    );
    return 0;
  }
  throw new LodgeError(
    'unavailable',
    `the console of ${name} broke off${reason === '' ? '' : `: ${escapeControls(reason)}`} (code ${code})`,
    {
      hint: `The VM is not touched by this. Open it again: lodge vm console ${name}`,
    },
  );
}

type ConsoleEnd = 'detached' | 'input ended' | 'time is up' | 'closed';

/** Connects keyboard and screen with the console until one side ends. */
async function attach(stream: Duplex, options: ConsoleOptions, isInteractive: boolean): Promise<ConsoleEnd> {
  const { stdin, stdout } = process;
  const { promise: ended, resolve: end, reject: fail } = Promise.withResolvers<ConsoleEnd>();
  const modes = new ModeWatch();
  const startedAtMs = Date.now();

  const restore = (): void => {
    if (!isInteractive) return;
    stdin.setRawMode(false);
    if (stdout.isTTY) stdout.write(`${modes.reset()}\r\n`);
  };
  const onInput = (chunk: Uint8Array): void => {
    const { forGuest, isDetached } = isInteractive
      ? splitAtDetach(chunk, options.detachKey)
      : { forGuest: chunk, isDetached: false };
    const isReplaying = isInteractive && Date.now() - startedAtMs < replayMs;
    const toSend = isReplaying ? withoutTerminalAnswers(forGuest) : forGuest;
    if (toSend.length > 0 && !stream.write(toSend) && !isInteractive) {
      stdin.pause();
      stream.once('drain', () => stdin.resume());
    }
    if (isDetached) end('detached');
  };
  const onSignal = (): void => end('detached');

  stream.on('data', (chunk: Uint8Array) => {
    modes.see(chunk);
    if (!stdout.write(chunk)) {
      stream.pause();
      stdout.once('drain', () => stream.resume());
    }
  });
  stream.once('error', fail);
  stream.once('end', () => end('closed'));
  stream.once('close', () => end('closed'));

  const timer = options.for === undefined ? undefined : setTimeout(() => end('time is up'), options.for);
  for (const signal of ['SIGTERM', 'SIGHUP', 'SIGINT'] as const) process.on(signal, onSignal);
  process.once('exit', restore);
  try {
    if (isInteractive) stdin.setRawMode(true);
    // What is piped in may be all there is to say, but what comes back is still wanted: its end is not our end.
    stdin.on('data', onInput);
    if (isInteractive) stdin.once('end', () => end('input ended'));
    stdin.resume();
    return await ended;
  } finally {
    clearTimeout(timer);
    for (const signal of ['SIGTERM', 'SIGHUP', 'SIGINT'] as const) process.off(signal, onSignal);
    process.off('exit', restore);
    stdin.off('data', onInput);
    stdin.pause();
    restore();
    stream.destroy();
  }
}
