// Answers kept for idempotency keys: the same key with the same request gives the same answer, made once.
//
// Invariants:
// - While a request with a key is under way, the same request waits for its answer; it is not made twice.
// - Only successes are kept: a request that failed has made nothing, and may be tried again with its key.
// - A daemon that dies between making the object and keeping the answer makes the next try run again; the object's
//   name is unique, so that it ends in `name_taken` and not in a second object.
// - Keys belong to their caller and route: nobody sees another's answer.
import { createHash } from 'node:crypto';
import { LodgeError } from '../../api/errors.ts';
import type { Store } from '../store/store.ts';

/** How long an answer is kept, milliseconds. */
export const idempotencyKeptMs = 24 * 3_600_000;
const prefix = '/lodge/idempotency/';
const sweepPageSize = 500;
/** Longest key a client may send, in characters. */
const maxKeyLength = 200;

/** What a request is about: who asks for what, with which key. */
export interface IdempotentRequest {
  key: string;
  caller: string;
  routeId: string;
  /** Parameters, query and body after validation. */
  request: unknown;
}

interface KeptAnswer {
  requestHash: string;
  answer: unknown;
  keptUntil: number;
}

/** Keeps answers in the store. */
export class IdempotencyRecords {
  readonly #store: Store;
  readonly #now: () => number;
  readonly #onLoss: (failure: unknown) => void;
  readonly #underWay = new Map<string, { requestHash: string; answer: Promise<unknown> }>();

  /** `onLoss` hears of answers that could not be kept: what was made is made, so the answer is given all the same. */
  constructor(store: Store, options: { now?: () => number; onLoss?: (failure: unknown) => void } = {}) {
    this.#store = store;
    this.#onLoss = options.onLoss ?? (() => undefined);
    this.#now = options.now ?? Date.now;
  }

  /** The kept answer, that of the same request under way, or the one that `make` gives. */
  async once(request: IdempotentRequest, make: () => Promise<unknown>): Promise<unknown> {
    const id = hash([request.caller, request.routeId, request.key]);
    const requestHash = hash(request.request);
    const twin = this.#underWay.get(id);
    if (twin !== undefined) {
      if (twin.requestHash !== requestHash) throw conflict(request.key);
      return twin.answer;
    }
    const answer = this.#answer(id, request.key, requestHash, make);
    this.#underWay.set(id, { requestHash, answer });
    try {
      return await answer;
    } finally {
      this.#underWay.delete(id);
    }
  }

  async #answer(id: string, key: string, requestHash: string, make: () => Promise<unknown>): Promise<unknown> {
    const storeKey = prefix + id;
    const found = await this.#store.get(storeKey);
    if (found !== null) {
      const kept = JSON.parse(found.value) as KeptAnswer;
      if (kept.keptUntil > this.#now()) {
        if (kept.requestHash !== requestHash) throw conflict(key);
        return kept.answer;
      }
    }
    const answer = await make();
    const value: KeptAnswer = { requestHash, answer, keptUntil: this.#now() + idempotencyKeptMs };
    try {
      await this.#store.transact({ success: [{ put: storeKey, value: JSON.stringify(value) }] });
    } catch (failure) {
      this.#onLoss(failure);
    }
    return answer;
  }

  /** Deletes what is no longer kept. Run it at the start and every hour or so. */
  async sweep(): Promise<number> {
    let deleted = 0;
    let after: string | undefined;
    for (;;) {
      const page = await this.#store.list({ prefix, limit: sweepPageSize, after });
      for (const item of page.items) {
        if (keptUntil(item.value) > this.#now()) continue;
        const { succeeded } = await this.#store.transact({
          compare: [{ key: item.key, modRevision: item.modRevision }],
          success: [{ delete: item.key }],
        });
        if (succeeded) deleted += 1;
      }
      if (page.next === null) return deleted;
      after = page.next;
    }
  }
}

/** The key of a request's header, or null without one. */
export function idempotencyKeyOf(header: string | string[] | undefined): string | null {
  if (header === undefined) return null;
  if (typeof header !== 'string' || !/^[\x21-\x7e]+$/.test(header) || header.length > maxKeyLength) {
    throw new LodgeError(
      'invalid_request',
      `the header Idempotency-Key takes 1 to ${maxKeyLength} printable ASCII characters without spaces`,
      { hint: 'Send a UUID made for this one request.' },
    );
  }
  return header;
}

function conflict(key: string): LodgeError {
  return new LodgeError('idempotency_conflict', `the idempotency key ${key} was used before with a different request`);
}

/** An unreadable record counts as over. */
function keptUntil(value: string): number {
  try {
    const kept = JSON.parse(value) as Partial<KeptAnswer>;
    return kept.keptUntil ?? 0;
  } catch {
    return 0;
  }
}

/** SHA-256 of a value's JSON with sorted keys, so that the order of fields makes no difference. */
function hash(value: unknown): string {
  return createHash('sha256')
    .update(JSON.stringify(sorted(value)))
    .digest('hex');
}

function sorted(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(sorted);
  if (typeof value !== 'object' || value === null) return value ?? null;
  return Object.entries(value)
    .sort(([left], [right]) => (left < right ? -1 : 1))
    .map(([key, item]) => [key, sorted(item)]);
}
