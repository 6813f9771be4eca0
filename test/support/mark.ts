// The mark of one test run: a few characters that stand in the name of everything the tests make on this machine
// (links, namespaces, tables, groups, folders) and in the environment of every process they start. So what a run left
// behind is found and removed without touching what belongs to others.
import { randomBytes } from 'node:crypto';

/** The environment variable that carries the mark from the run to its test files and on to what these start. */
export const MARK_VARIABLE = 'LODGE_TEST';

const ALPHABET = 'abcdefghijkmnpqrstuvwxyz23456789';

function randomName(length: number): string {
  return Array.from(randomBytes(length), (byte) => ALPHABET[byte % ALPHABET.length]).join('');
}

/** A new mark: `t` and four characters. */
export function newMark(): string {
  return `t${randomName(4)}`;
}

let ownMark: string | null = null;

/** The mark of this run; a test file that is run on its own makes one for itself and what it starts. */
export function runMark(): string {
  ownMark ??= process.env[MARK_VARIABLE] ?? newMark();
  process.env[MARK_VARIABLE] = ownMark;
  return ownMark;
}

/**
 * A name that is unique on this machine and begins with the mark: 8 characters, so that links made from it stay under
 * the kernel's limit of 15 (IFNAMSIZ) with room for a prefix and a number.
 */
export function markedName(): string {
  return `${runMark()}${randomName(3)}`;
}

/** The folder under which a run keeps all its temporary files. */
export function markedFolder(mark: string): string {
  return `/tmp/lodge-${mark}`;
}
