// Sizes as people write and read them: "2GiB", "512 MiB", "20G", "1.5TB". Parsing is exact, or refuses with what is
// allowed; formatting is for reading, not for parsing again.

/** Bytes of each unit. K, M, G, T and P alone are binary, as memory and disks are sized; with B they are decimal. */
const unitBytes: Readonly<Record<string, number>> = {
  b: 1,
  k: 2 ** 10,
  kib: 2 ** 10,
  kb: 1e3,
  m: 2 ** 20,
  mib: 2 ** 20,
  mb: 1e6,
  g: 2 ** 30,
  gib: 2 ** 30,
  gb: 1e9,
  t: 2 ** 40,
  tib: 2 ** 40,
  tb: 1e12,
  p: 2 ** 50,
  pib: 2 ** 50,
  pb: 1e15,
};

const mebibyte = 2 ** 20;

/** A size that can not be understood. `message` says what is wrong with the text and what is allowed. */
export class QuantityError extends Error {
  override name = 'QuantityError';
}

/** Parses a size to bytes. A number without a unit is of `bareUnit`. Fractions of a byte are rounded up. */
export function parseBytes(text: string, bareUnit: 'B' | 'MiB' | 'GiB'): number {
  const match = /^\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*$/i.exec(text);
  if (!match) {
    throw new QuantityError(
      `"${text.slice(0, 40)}" is not a size: write a number and a unit, such as 512MiB, 2GiB or 1.5TiB`,
    );
  }
  const unit = match[2] === '' ? bareUnit : (match[2] ?? '');
  const factor = unitBytes[unit.toLowerCase()];
  if (factor === undefined) {
    throw new QuantityError(
      `"${unit}" is not a unit of size: use KiB, MiB, GiB, TiB (or K, M, G, T for the same), or KB, MB, GB, TB for powers of 1000`,
    );
  }
  const value = Math.ceil(Number(match[1]) * factor);
  if (!Number.isSafeInteger(value)) throw new QuantityError(`"${text.trim().slice(0, 40)}" is more than 8 PiB`);
  return value;
}

/** Parses a size to whole MiB, rounded up; refuses zero. */
export function parseMib(text: string, bareUnit: 'MiB' | 'GiB'): number {
  const bytes = parseBytes(text, bareUnit);
  if (bytes === 0) throw new QuantityError(`"${text.trim()}" is no size: it must be at least 1MiB`);
  return Math.ceil(bytes / mebibyte);
}

const binaryUnits = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'] as const;

/** Bytes in the largest unit that leaves at least 1, with at most three significant digits: "1.5 GiB", "20 GiB". */
export function formatBytes(bytes: number): string {
  let value = Math.abs(bytes);
  let unit = 0;
  // 1023.6 KiB would round to "1024 KiB": the next unit takes over where rounding reaches it.
  while (unit < binaryUnits.length - 1 && value >= 1023.5) {
    value /= 1024;
    unit += 1;
  }
  const digits = unit === 0 || value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2;
  return `${bytes < 0 ? '-' : ''}${trimZeros(value.toFixed(digits))} ${binaryUnits[unit]}`;
}

/** MiB for reading: 2048 is "2 GiB". */
export function formatMib(mib: number): string {
  return formatBytes(mib * mebibyte);
}

/** Bytes a second for reading. */
export function formatRate(bytesPerSecond: number): string {
  return `${formatBytes(bytesPerSecond)}/s`;
}

function trimZeros(text: string): string {
  return text.includes('.') ? text.replace(/\.?0+$/, '') : text;
}
