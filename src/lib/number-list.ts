// Sets of numbers as the kernel writes them: 0-3,8.

/** The most numbers a list may name; more is damage. */
const MAX_LISTED = 65_536;

/** Parses a kernel list such as `0-3,8`. Empty text is an empty list. Throws RangeError for anything else. */
export function parseNumberList(text: string): number[] {
  const trimmed = text.trim();
  if (trimmed === '') return [];
  const ids: number[] = [];
  for (const part of trimmed.split(',')) {
    const match = /^(\d+)(?:-(\d+))?$/.exec(part);
    const first = Number(match?.[1]);
    const last = Number(match?.[2] ?? match?.[1]);
    if (!match || last < first || last - first + ids.length >= MAX_LISTED) {
      throw new RangeError(`"${trimmed.slice(0, 100)}" is not a list such as 0-3,8`);
    }
    for (let id = first; id <= last; id += 1) ids.push(id);
  }
  return ids;
}

/** Writes a kernel list: ascending, runs joined. */
export function formatNumberList(ids: Iterable<number>): string {
  const sorted = [...new Set(ids)].toSorted((a, b) => a - b);
  const runs: [number, number][] = [];
  for (const id of sorted) {
    const run = runs.at(-1);
    if (run && id === run[1] + 1) run[1] = id;
    else runs.push([id, id]);
  }
  return runs.map(([first, last]) => (first === last ? `${first}` : `${first}-${last}`)).join(',');
}
