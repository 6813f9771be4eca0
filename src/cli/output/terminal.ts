// Where output goes: results to stdout, everything about how it is going to stderr.
import { styleFor, type Style } from './style.ts';

export interface Terminal {
  /** Writes a line of the result. */
  line(text: string): void;
  /** Writes a result as it is. */
  raw(data: string | Uint8Array): void;
  /** Writes a line for people: progress, hints, warnings. Silent with --quiet. */
  note(text: string): void;
  /** Style for what goes to stdout. */
  style: Style;
  /** Style for what goes to stderr. */
  noteStyle: Style;
  /** Columns of the terminal that shows stdout; null when it is not a terminal. */
  width: number | null;
  /** Whether somebody can be asked: stdin and stderr are a terminal. */
  canAsk: boolean;
  /** Whether stderr is a terminal that lines can be redrawn on. */
  canRedraw: boolean;
  isQuiet: boolean;
}

/** The terminal of this process. */
export function processTerminal(isQuiet: boolean): Terminal {
  const { stdin, stdout, stderr } = process;
  return {
    line: (text) => void stdout.write(`${text}\n`),
    raw: (data) => void stdout.write(data),
    note: (text) => {
      if (!isQuiet) stderr.write(`${text}\n`);
    },
    style: styleFor(stdout),
    noteStyle: styleFor(stderr),
    // A terminal that doesn't tell its size has none (script(1) without one, serial lines).
    width: stdout.isTTY && stdout.columns > 0 ? stdout.columns : null,
    canAsk: stdin.isTTY && stderr.isTTY,
    canRedraw: stderr.isTTY && process.env['TERM'] !== 'dumb' && !isQuiet,
    isQuiet,
  };
}
