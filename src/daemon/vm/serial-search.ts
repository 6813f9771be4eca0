// Searching what a serial console has printed: plain lines, those that contain a text, the last of them. Text rather than
// patterns: a pattern from outside over text from a guest could keep the daemon busy for ever.
import { type SerialLine, type SerialLines } from '../../api/vm-console.ts';
import { type SerialOutput } from '../../drivers/driver.ts';
import { ConsoleLines } from '../../lib/console-lines.ts';

export interface SerialQuery {
  contains?: string | undefined;
  ignoreCase: boolean;
  tail: number;
  /** Only what came later than this, RFC 3339. */
  since?: string | undefined;
}

/** The lines of a log that are asked for, numbered from its beginning. Of which it isn't known when they came, none is later than a time. */
export function searchSerial(
  { bytes, times }: SerialOutput,
  { contains = '', ignoreCase, tail, since }: SerialQuery,
): SerialLines {
  const reader = new ConsoleLines();
  const all: SerialLine[] = [];
  const add = (text: string, atMs: number | null, isComplete: boolean): void => {
    all.push({ number: all.length + 1, text, at: atMs === null ? null : new Date(atMs).toISOString(), isComplete });
  };
  let start = 0;
  let lastMs: number | null = null;
  for (const { end, atMs } of [...times, { end: bytes.length, atMs: null }]) {
    for (const text of reader.feed(bytes.subarray(start, end))) add(text, atMs, true);
    if (end > start) lastMs = atMs;
    start = Math.max(start, end);
  }
  const rest = reader.rest();
  if (rest !== null) add(rest, lastMs, false);
  const folded = (text: string): string => (ignoreCase ? text.toLowerCase() : text);
  const wanted = folded(contains);
  const sinceMs = since === undefined ? null : Date.parse(since);
  const lines = all.filter(
    ({ text, at }) => folded(text).includes(wanted) && (sinceMs === null || (at !== null && Date.parse(at) >= sinceMs)),
  );
  return { lines: lines.slice(-tail), matches: lines.length, total: all.length };
}
