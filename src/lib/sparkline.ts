// Numbers as a line of block characters, an eighth of a line in height each.

const blocks = '▁▂▃▄▅▆▇█';

/**
 * Draws values in at most `width` characters; several values share one as their highest. The highest of all fills its
 * character; `atLeast` is the least that counts as highest, so that noise around zero stays low. Null is a gap.
 */
export function sparkline(values: readonly (number | null)[], width: number, atLeast = 0): string {
  const perCharacter = Math.max(1, Math.ceil(values.length / Math.max(1, width)));
  const highest: (number | null)[] = [];
  for (let from = 0; from < values.length; from += perCharacter) {
    const known = values.slice(from, from + perCharacter).filter((value) => value !== null);
    highest.push(known.length === 0 ? null : Math.max(...known));
  }
  const top = Math.max(atLeast, ...highest.map((value) => value ?? 0));
  return highest
    .map((value) => {
      if (value === null) return ' ';
      if (top <= 0) return blocks[0]!;
      return blocks[Math.min(blocks.length - 1, Math.max(0, Math.floor((value / top) * blocks.length)))]!;
    })
    .join('');
}
