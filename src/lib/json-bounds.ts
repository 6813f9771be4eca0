// Whether JSON from somebody untrusted is cheap enough to be parsed. A few megabytes of brackets or of little members take
// seconds and a hundred times their size in memory, though they are valid; a few megabytes of text in one string don't.

export interface JsonBounds {
  /** Most arrays and objects within each other. */
  maxDepth: number;
  /** Most values, and names of members. */
  maxValues: number;
}

const quote = 0x22;
const backslash = 0x5c;
const opening: ReadonlySet<number> = new Set([0x5b, 0x7b]);
const closing: ReadonlySet<number> = new Set([0x5d, 0x7d]);
const separating: ReadonlySet<number> = new Set([0x2c, 0x3a]);

/** What is too much about it; null: nothing. Text that is no JSON may pass. Costs time linear in the text. */
export function excessOf(json: Buffer, { maxDepth, maxValues }: JsonBounds): string | null {
  let depth = 0;
  let values = 1;
  for (let at = 0; at < json.length; at++) {
    const byte = json[at]!;
    if (byte === quote) {
      const end = endOfString(json, at + 1);
      if (end === -1) return null;
      at = end;
    } else if (opening.has(byte)) {
      depth++;
      values++;
      if (depth > maxDepth) return `values within each other more than ${maxDepth} deep`;
    } else if (closing.has(byte)) depth--;
    else if (separating.has(byte)) values++;
    if (values > maxValues) return `more than ${maxValues} values`;
  }
  return null;
}

/** Where the quotation mark stands that ends a string; −1: nowhere. */
function endOfString(json: Buffer, start: number): number {
  for (let end = json.indexOf(quote, start); end !== -1; end = json.indexOf(quote, end + 1)) {
    let slashes = 0;
    while (end - 1 - slashes >= start && json[end - 1 - slashes] === backslash) slashes++;
    if (slashes % 2 === 0) return end;
  }
  return -1;
}
