// Access tokens: made, listed, deleted, and recognised. Only the SHA-256 of a secret is kept: secrets have 256 random
// bits, so a slow hash would add nothing but time to each request.
//
// In the store:   /lodge/tokens/ID           the token with its hash
//                 /lodge/token-names/NAME    its id: names are unique
//                 /lodge/token-hashes/HASH   its id: found by its secret
//                 /lodge/token-uses/ID       when it was last used, written at most every five minutes
// The first three are written and deleted in one transaction.
import { createHash, randomBytes, timingSafeEqual } from 'node:crypto';
import type { Logger } from 'pino';
import { uuidv7 } from 'uuidv7';
import * as z from 'zod';
import { LodgeError } from '../../api/errors.ts';
import { role } from '../../api/permission.ts';
import { type Token, type tokenCreate } from '../../api/token.ts';
import type { Caller } from '../http/context.ts';
import type { KeyValue, Store } from '../store/store.ts';

/** Begins every secret, so that scanners of source code find leaked ones. */
export const secretPrefix = 'lodge_';
const secretBytes = 32;
/** Most tokens there may be. */
const maxTokens = 1000;
/** `lastUsedAt` is exact to this, milliseconds: a write to the store for each request would cost more than the request. */
const usedGrainMs = 300_000;

const keptToken = z.object({
  id: z.uuid(),
  name: z.string(),
  role,
  createdAt: z.string(),
  expiresAt: z.string().nullable(),
  hash: z.string(),
});
type KeptToken = z.output<typeof keptToken>;

export class TokenService {
  readonly #store: Store;
  readonly #log: Logger;
  readonly #now: () => number;
  /** When `lastUsedAt` was last written by this process, by token id. */
  readonly #noted = new Map<string, number>();
  readonly #writes = new Set<Promise<unknown>>();

  constructor(store: Store, log: Logger, options: { now?: () => number } = {}) {
    this.#store = store;
    this.#log = log;
    this.#now = options.now ?? Date.now;
  }

  /** All tokens, by name. */
  async list(): Promise<Token[]> {
    const { items } = await this.#store.list({ prefix: '/lodge/tokens/', limit: maxTokens });
    const used = await this.#store.list({ prefix: '/lodge/token-uses/', limit: maxTokens });
    const usedAt = new Map(used.items.map((item) => [item.key.slice('/lodge/token-uses/'.length), item.value]));
    return items
      .map((item) => parse(item))
      .map((kept) => shown(kept, usedAt.get(kept.id) ?? null))
      .sort((left, right) => (left.name < right.name ? -1 : 1));
  }

  /** A new token with its secret, which can not be read again. */
  async create(input: z.output<typeof tokenCreate>, createdBy: string): Promise<Token & { secret: string }> {
    const { items } = await this.#store.list({ prefix: '/lodge/tokens/', limit: maxTokens });
    if (items.length >= maxTokens) {
      throw new LodgeError('rate_limited', `there are ${maxTokens} access tokens, and no more are taken`, {
        hint: 'Delete tokens that are no longer used (lodge token list shows when each was last used).',
      });
    }
    const secret = secretPrefix + randomBytes(secretBytes).toString('base64url');
    const now = this.#now();
    const kept: KeptToken = {
      id: uuidv7(),
      name: input.name,
      role: input.role,
      createdAt: new Date(now).toISOString(),
      expiresAt: input.expiresInS === undefined ? null : new Date(now + input.expiresInS * 1000).toISOString(),
      hash: hashOf(secret),
    };
    const { succeeded } = await this.#store.transact({
      compare: [{ key: `/lodge/token-names/${kept.name}`, exists: false }],
      success: [
        { put: `/lodge/tokens/${kept.id}`, value: JSON.stringify(kept) },
        { put: `/lodge/token-names/${kept.name}`, value: JSON.stringify(kept.id) },
        { put: `/lodge/token-hashes/${kept.hash}`, value: JSON.stringify(kept.id) },
      ],
    });
    if (!succeeded) throw new LodgeError('name_taken', `there is an access token ${kept.name} already`);
    this.#log.info({ token: kept.name, role: kept.role, expiresAt: kept.expiresAt, createdBy }, 'made an access token');
    return { ...shown(kept, null), secret };
  }

  /** Deletes a token by id or name; from then on its secret is refused. */
  async delete(reference: string, deletedBy: string): Promise<void> {
    const found = (await this.#read(reference)) ?? (await this.#readByName(reference));
    if (found === null) throw new LodgeError('not_found', `there is no access token ${reference}`);
    const { kept, modRevision } = found;
    await this.#store.transact({
      compare: [{ key: `/lodge/tokens/${kept.id}`, modRevision }],
      success: [
        { delete: `/lodge/tokens/${kept.id}` },
        { delete: `/lodge/token-names/${kept.name}` },
        { delete: `/lodge/token-hashes/${kept.hash}` },
        { delete: `/lodge/token-uses/${kept.id}` },
      ],
    });
    this.#noted.delete(kept.id);
    this.#log.info({ token: kept.name, deletedBy }, 'deleted an access token');
  }

  /** Who has this secret; null when nobody has, or the token has expired. */
  async authenticate(secret: string): Promise<Caller | null> {
    if (!secret.startsWith(secretPrefix) || secret.length > 200) return null;
    const hash = hashOf(secret);
    const pointer = await this.#store.get(`/lodge/token-hashes/${hash}`);
    if (pointer === null) return null;
    const found = await this.#read(JSON.parse(pointer.value) as string);
    if (found === null) return null;
    const { kept } = found;
    // The lookup above may end earlier for a wrong hash; what it could tell of a hash helps nobody to its secret.
    if (!timingSafeEqual(Buffer.from(kept.hash, 'hex'), Buffer.from(hash, 'hex'))) return null;
    if (kept.expiresAt !== null && Date.parse(kept.expiresAt) <= this.#now()) return null;
    this.#noteUse(kept.id);
    return { name: `token:${kept.name}`, role: kept.role, kind: 'token', tokenId: kept.id };
  }

  /** Whether a token is still there and has not expired. */
  async isValid(id: string): Promise<boolean> {
    const found = await this.#read(id);
    return found !== null && (found.kept.expiresAt === null || Date.parse(found.kept.expiresAt) > this.#now());
  }

  /** In the background: a request needn't wait for it, nor fail by it. */
  #noteUse(id: string): void {
    const now = this.#now();
    const before = this.#noted.get(id);
    if (before !== undefined && now - before < usedGrainMs) return;
    this.#noted.set(id, now);
    const write = this.#store
      .transact({
        // A token that is being deleted must not leave this behind.
        compare: [{ key: `/lodge/tokens/${id}`, exists: true }],
        success: [{ put: `/lodge/token-uses/${id}`, value: JSON.stringify(new Date(now).toISOString()) }],
      })
      .catch((failure: unknown) => this.#log.debug({ err: failure }, 'the use of an access token could not be noted'))
      .finally(() => this.#writes.delete(write));
    this.#writes.add(write);
  }

  /** Waits for what is being written in the background; before the store is closed. */
  async settle(): Promise<void> {
    await Promise.all(this.#writes);
  }

  async #read(id: string): Promise<{ kept: KeptToken; modRevision: number } | null> {
    const item = await this.#store.get(`/lodge/tokens/${id}`);
    return item === null ? null : { kept: parse(item), modRevision: item.modRevision };
  }

  async #readByName(name: string): Promise<{ kept: KeptToken; modRevision: number } | null> {
    const pointer = await this.#store.get(`/lodge/token-names/${name}`);
    return pointer === null ? null : this.#read(JSON.parse(pointer.value) as string);
  }
}

function parse(item: KeyValue): KeptToken {
  return keptToken.parse(JSON.parse(item.value));
}

function shown(kept: KeptToken, lastUsedAt: string | null): Token {
  const { id, name, role: given, createdAt, expiresAt } = kept;
  const usedAt = lastUsedAt === null ? null : (JSON.parse(lastUsedAt) as string);
  return { id, name, role: given, createdAt, expiresAt, lastUsedAt: usedAt };
}

function hashOf(secret: string): string {
  return createHash('sha256').update(secret).digest('hex');
}
