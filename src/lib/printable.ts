// Text of a terminal as plain text.
import { stripVTControlCharacters } from 'node:util';

/** One line of a terminal's output without colours, cursor movements and control characters. */
export function printable(line: string): string {
  return stripVTControlCharacters(line)
    .replaceAll(/\p{Cc}+/gu, ' ')
    .trim();
}

/** The last line in which something stands; null: there is none. */
export function lastLine(text: string): string | null {
  const lines = text.split(/[\r\n]+/).map(printable);
  return lines.findLast((line) => line !== '') ?? null;
}
