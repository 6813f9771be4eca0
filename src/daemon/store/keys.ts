// What holds for keys, values and transactions whichever store keeps them: their order, ranges and limits. Every
// implementation checks requests here before it sends them on, so that all refuse the same with the same words.
import {
  maxKeyBytes,
  maxListLimit,
  maxTransactionOperations,
  maxValueBytes,
  StoreRequestError,
  type KeyRange,
  type Operation,
  type Transaction,
} from './store.ts';

/** The last code point, a noncharacter. Keys don't have it, so it comes after all of them. */
const lastCodePoint = 0x10ffff;
const lastCharacter = String.fromCodePoint(lastCodePoint);

/** Orders texts by their UTF-8 bytes, as stores do; JavaScript's own order differs beyond U+FFFF. */
export function compareKeys(left: string, right: string): number {
  return Buffer.compare(Buffer.from(left), Buffer.from(right));
}

/** What comes right after all keys that begin with the prefix. */
export function prefixEnd(prefix: string): string {
  const points = Array.from(prefix, (character) => character.codePointAt(0) ?? 0);
  const last = points.pop();
  if (last === undefined) return lastCharacter;
  // Surrogates are no characters of their own: after U+D7FF comes U+E000.
  return String.fromCodePoint(...points, last === 0xd7ff ? 0xe000 : last + 1);
}

/** A range with both ends: from `start` to before `end`. */
export function resolveRange(range: KeyRange): { start: string; end: string } {
  if ('prefix' in range) {
    if (range.prefix !== '') checkKey(range.prefix);
    return { start: range.prefix, end: prefixEnd(range.prefix) };
  }
  return { start: range.start, end: range.end };
}

function checkText(text: string, what: string, maxBytes: number): void {
  if (!text.isWellFormed() || text.includes('\0')) {
    throw new StoreRequestError(
      `a ${what} takes no U+0000 and no lone surrogates: ${JSON.stringify(text.slice(0, 80))}`,
    );
  }
  // A text of n UTF-16 units has at most 3n bytes, so most are decided without counting.
  if (text.length * 3 > maxBytes && Buffer.byteLength(text) > maxBytes) {
    throw new StoreRequestError(
      `a ${what} takes at most ${maxBytes} bytes, and this one has ${Buffer.byteLength(text)}`,
    );
  }
}

/** Refuses what is no key. */
export function checkKey(key: string): void {
  if (key === '') throw new StoreRequestError('a key must not be empty');
  if (key.includes(lastCharacter)) throw new StoreRequestError('a key takes no U+10FFFF');
  checkText(key, 'key', maxKeyBytes);
}

/** Refuses a limit out of bounds; gives the default when there is none. */
export function checkLimit(limit = 1000): number {
  if (!Number.isInteger(limit) || limit < 1 || limit > maxListLimit) {
    throw new StoreRequestError(`a limit is a whole number from 1 to ${maxListLimit}, not ${limit}`);
  }
  return limit;
}

/** Refuses a transaction that is too large, or writes a key twice in one branch (as etcd does). */
export function checkTransaction(transaction: Transaction): void {
  const { compare = [], success, failure = [] } = transaction;
  if (Math.max(compare.length, success.length, failure.length) > maxTransactionOperations) {
    throw new StoreRequestError(`a transaction takes at most ${maxTransactionOperations} comparisons and operations`);
  }
  for (const comparison of compare) checkKey(comparison.key);
  checkBranch(success);
  checkBranch(failure);
}

function checkBranch(operations: readonly Operation[]): void {
  const written = new Set<string>();
  for (const operation of operations) {
    if ('get' in operation) {
      checkKey(operation.get);
      continue;
    }
    const key = 'put' in operation ? operation.put : operation.delete;
    checkKey(key);
    if (written.has(key))
      throw new StoreRequestError(`a transaction writes a key once, and this one writes ${key} twice`);
    written.add(key);
    if ('put' in operation) checkText(operation.value, `value (of ${key})`, maxValueBytes);
  }
}
