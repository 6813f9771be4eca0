// Searching what a serial console has printed: plain lines, those that contain a text, the last of them. Text rather than
// patterns: a pattern from outside over text from a guest could keep the daemon busy for ever.
import { type SerialLines } from '../../api/vm-console.ts';
import { ConsoleLines } from '../../lib/console-lines.ts';

export interface SerialQuery {
  contains?: string | undefined;
  ignoreCase: boolean;
  tail: number;
}

/** The lines of a log that are asked for, numbered from its beginning. */
export function searchSerial(log: Uint8Array, { contains = '', ignoreCase, tail }: SerialQuery): SerialLines {
  const reader = new ConsoleLines();
  const all = reader.feed(log);
  const rest = reader.rest();
  if (rest !== null) all.push(rest);
  const folded = (text: string): string => (ignoreCase ? text.toLowerCase() : text);
  const wanted = folded(contains);
  const lines = all.flatMap((text, index) => (folded(text).includes(wanted) ? [{ number: index + 1, text }] : []));
  return { lines: lines.slice(-tail), matches: lines.length, total: all.length };
}
