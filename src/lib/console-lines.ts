// Lines of what a console has printed, as plain text: without colours, cursor movements and control characters, as they
// would stand on paper. Bounded whatever the guest prints.
import { stripVTControlCharacters } from 'node:util';

/** Longest line; of a longer one this much is kept. Characters. */
export const maxConsoleLine = 4096;

/** Output in pieces to lines. What a piece leaves unfinished waits for the next. */
export class ConsoleLines {
  readonly #decoder = new TextDecoder();
  #rest = '';

  /** The lines that a piece has completed. */
  feed(piece: Uint8Array): string[] {
    const parts = (this.#rest + this.#decoder.decode(piece, { stream: true })).split('\n');
    // Sequences that move the cursor come on top of what is seen.
    this.#rest = (parts.pop() ?? '').slice(-8 * maxConsoleLine);
    return parts.map(plainLine);
  }

  /** The line that has no end yet; null: nothing stands in it. */
  rest(): string | null {
    const line = plainLine(this.#rest + this.#decoder.decode());
    this.#rest = '';
    return line === '' ? null : line;
  }
}

/** What a line looks like when it is complete: a carriage return within it begins it anew. */
function plainLine(text: string): string {
  const shown = stripVTControlCharacters(text.slice(0, 16 * maxConsoleLine))
    .replace(/\r+$/, '')
    .replace(/^.*\r/s, '')
    .replaceAll('\t', ' ')
    .replaceAll(/\p{Cc}/gu, '');
  return shown.length > maxConsoleLine ? `${shown.slice(0, maxConsoleLine)}…` : shown;
}
