// A word of a command line as a POSIX shell takes it, for commands that people are to copy.

/** The word itself where a shell leaves it alone, else in single quotes. */
export function shellWord(text: string): string {
  if (/^[\w./:@%+=,-]+$/.test(text)) return text;
  return `'${text.replaceAll("'", String.raw`'\''`)}'`;
}
