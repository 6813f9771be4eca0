// Text of a terminal as plain text.

/** Escape sequences of a terminal (ECMA-48), and what else is no printable character. */
const sequences = /\u001b(?:\[[0-?]*[ -/]*[@-~]|\][^\u0007\u001b]*(?:\u0007|\u001b\\)|[@-Z\\-_])/g;
const unprintable = /[\u0000-\u001f\u007f-\u009f]+/g;

/** One line of a terminal's output without colours, cursor movements and control characters. */
export function printable(line: string): string {
  return line.replaceAll(sequences, '').replaceAll(unprintable, ' ').trim();
}

/** The last line in which something stands; null: there is none. */
export function lastLine(text: string): string | null {
  const lines = text.split(/[\r\n]+/).map(printable);
  return lines.findLast((line) => line !== '') ?? null;
}
