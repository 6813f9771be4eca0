// Reserving huge pages: how many a NUMA node has, and changing that. Promises: nothing is left changed when not all pages
// that were asked for could be had. Source: the kernel's Documentation/admin-guide/mm/hugetlbpage.rst.
import { readFileSync, writeFileSync } from 'node:fs';

/** The pool of huge pages of one size on one NUMA node, or of the machine where it has no NUMA. */
export interface HugePagePlace {
  pageBytes: number;
  /** Folder of the pool in /sys. */
  folder: string;
}

/** The kernel could not be given what was asked for. */
export class HugePageError extends Error {
  override name = 'HugePageError';
  readonly reason: 'permission' | 'fragmented';
  /** Pages that were free in the end. */
  readonly free: number;
  constructor(message: string, reason: HugePageError['reason'], free: number, cause?: unknown) {
    super(message, { cause });
    this.reason = reason;
    this.free = free;
  }
}

/** Where the pool of a NUMA node is. `isNuma`: the kernel keeps them by nodes. */
export function hugePagePlace(pageBytes: number, node: number, isNuma: boolean): HugePagePlace {
  const root = isNuma ? `/sys/devices/system/node/node${node}/hugepages` : '/sys/kernel/mm/hugepages';
  return { pageBytes, folder: `${root}/hugepages-${pageBytes / 1024}kB` };
}

export function hugePageFile({ folder }: HugePagePlace): string {
  return `${folder}/nr_hugepages`;
}

/** Null: the machine has no huge pages of this size. */
export function readHugePagePool({ folder }: HugePagePlace): { total: number; free: number } | null {
  try {
    const read = (file: string): number => Number(readFileSync(`${folder}/${file}`, 'utf8'));
    return { total: read('nr_hugepages'), free: read('free_hugepages') };
  } catch {
    return null;
  }
}

/**
 * Makes at least `count` pages free by making the pool larger. Throws {@link HugePageError} when the kernel finds too
 * little memory in one piece; the pool is what it was then.
 */
export function requireFreeHugePages(place: HugePagePlace, count: number): void {
  const before = readHugePagePool(place);
  if (!before) throw new HugePageError(`there is no ${place.folder}`, 'fragmented', 0);
  if (before.free >= count) return;
  const wanted = before.total + count - before.free;
  writeTotal(place, wanted);
  const after = readHugePagePool(place);
  if (after && after.free >= count) return;
  writeTotal(place, before.total);
  throw new HugePageError(`of ${count} pages ${after?.free ?? 0} could be had`, 'fragmented', after?.free ?? 0);
}

/** Gives back free pages, down to `least` pages in the pool. What it holds then. */
export function shrinkHugePages(place: HugePagePlace, least: number): number {
  const pool = readHugePagePool(place);
  if (!pool) return 0;
  const target = Math.max(least, pool.total - pool.free);
  if (target < pool.total) writeTotal(place, target);
  return readHugePagePool(place)?.total ?? 0;
}

function writeTotal(place: HugePagePlace, total: number): void {
  try {
    writeFileSync(hugePageFile(place), `${total}\n`, { flag: 'r+' });
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    throw new HugePageError(
      `${hugePageFile(place)} can't be written: ${code === 'EACCES' || code === 'EROFS' || code === 'EPERM' ? 'no permission' : (error as Error).message}`,
      'permission',
      readHugePagePool(place)?.free ?? 0,
      error,
    );
  }
}
