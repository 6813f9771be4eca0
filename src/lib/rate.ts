// Rates as people write them: "100mbit" (bits, as networks are sold), "12MiB/s" (bytes).
import { parseBytes, QuantityError } from './quantity.ts';

const bits: Readonly<Record<string, number>> = { '': 1, k: 1e3, m: 1e6, g: 1e9, t: 1e12 };

/** Parses a rate to whole bytes a second. Bits are decimal; bytes as sizes are. */
export function parseRate(text: string): number {
  const match = /^\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(?:bit|bps)(?:\/s|ps)?\s*$/i.exec(text);
  if (match) return Math.ceil((Number(match[1]) * (bits[(match[2] ?? '').toLowerCase()] ?? 1)) / 8);
  if (!/[a-z]/i.test(text.replace(/\/s\s*$/i, '')))
    throw new QuantityError(`"${text.slice(0, 40)}" has no unit: write bits as 100mbit, or bytes as 12MiB/s`);
  return parseBytes(text.replace(/\/s\s*$/i, ''), 'B');
}
