// Sessions of browsers: made from a token or a one-time link, recognised by a cookie, ended one by one or all at once.
// Only the SHA-256 of a cookie is kept, as with tokens. A session that was made from a token ends with it.
//
// In the store:   /lodge/sessions/HASH   who it is and until when
// In memory:      one-time links; after a restart of the daemon they open nothing.
import { createHash, randomBytes } from 'node:crypto';
import type { Logger } from 'pino';
import * as z from 'zod';
import { LodgeError } from '../../api/errors.ts';
import { role } from '../../api/permission.ts';
import { type Session } from '../../api/session.ts';
import type { Caller } from '../http/context.ts';
import type { KeyValue, Store } from '../store/store.ts';
import type { TokenService } from './token-service.ts';

/** How long a session lives, milliseconds: a working day, so that a browser left open signs in again the next morning. */
const sessionMs = 12 * 3_600_000;
const linkMs = 600_000;
/** Most sessions kept; the oldest ends when there are more. */
const maxSessions = 1000;
/** Most one-time links that wait to be opened. */
const maxLinks = 100;
const secretBytes = 32;

const keptSession = z.object({
  caller: z.string(),
  role,
  tokenId: z.string().nullable(),
  createdAt: z.string(),
  expiresAt: z.string(),
});
type KeptSession = z.output<typeof keptSession>;

interface Link {
  caller: Caller;
  expiresAt: number;
}

/** A new session, and the secret that goes into the cookie. */
export interface OpenedSession {
  session: Session;
  secret: string;
}

export class SessionService {
  readonly #store: Store;
  readonly #tokens: TokenService;
  readonly #log: Logger;
  readonly #now: () => number;
  readonly #links = new Map<string, Link>();

  constructor(store: Store, tokens: TokenService, log: Logger, options: { now?: () => number } = {}) {
    this.#store = store;
    this.#tokens = tokens;
    this.#log = log;
    this.#now = options.now ?? Date.now;
  }

  /** A session for whoever has this token. */
  async openByToken(secret: string): Promise<OpenedSession> {
    const caller = await this.#tokens.authenticate(secret);
    if (caller === null) {
      throw new LodgeError('unauthenticated', 'the access token is not known, has expired, or was deleted', {
        hint: 'Create a token with lodge token create on the daemon’s machine, or open a one-time link: lodge console.',
      });
    }
    return this.#open(caller);
  }

  /** A session for whoever has this one-time code; the code is used up. */
  async openByLink(code: string): Promise<OpenedSession> {
    const key = hashOf(code);
    const link = this.#links.get(key);
    this.#links.delete(key);
    if (link === undefined || link.expiresAt <= this.#now()) {
      throw new LodgeError('unauthenticated', 'the one-time link is unknown, was used already, or has expired', {
        hint: 'Make a new one with lodge console on the daemon’s machine, or sign in with an access token.',
      });
    }
    return this.#open(link.caller);
  }

  /** A one-time code: whoever has it becomes `caller`. */
  createLink(caller: Caller): { code: string; expiresAt: string } {
    const now = this.#now();
    for (const [key, { expiresAt }] of this.#links) if (expiresAt <= now) this.#links.delete(key);
    const [oldest] = this.#links.keys();
    if (this.#links.size >= maxLinks && oldest !== undefined) this.#links.delete(oldest);
    const code = randomBytes(secretBytes).toString('base64url');
    this.#links.set(hashOf(code), { caller, expiresAt: now + linkMs });
    this.#log.info({ caller: caller.name }, 'made a one-time link for signing in');
    return { code, expiresAt: new Date(now + linkMs).toISOString() };
  }

  /** Who has this cookie; null when its session has ended. */
  async authenticate(secret: string): Promise<Caller | null> {
    if (secret.length > 200) return null;
    const key = keyOf(secret);
    const item = await this.#store.get(key);
    if (item === null) return null;
    const kept = parse(item);
    const hasToken = kept.tokenId === null || (await this.#tokens.isValid(kept.tokenId));
    if (!hasToken || Date.parse(kept.expiresAt) <= this.#now()) {
      await this.#remove([item]);
      return null;
    }
    return {
      name: kept.caller,
      role: kept.role,
      kind: 'session',
      tokenId: kept.tokenId,
      session: { ...kept, csrfToken: csrfTokenOf(secret), key },
    };
  }

  /** Ends one session. */
  async close(key: string): Promise<void> {
    await this.#store.transact({ compare: [], success: [{ delete: key }] });
  }

  /** Ends all sessions of a caller, and makes the links void that it gave out. */
  async closeAll(callerName: string): Promise<number> {
    for (const [key, link] of this.#links) if (link.caller.name === callerName) this.#links.delete(key);
    const { items } = await this.#store.list({ prefix, limit: maxSessions });
    const own = items.filter((item) => parse(item).caller === callerName);
    await this.#remove(own);
    this.#log.info({ caller: callerName, count: own.length }, 'signed out everywhere');
    return own.length;
  }

  async #open(caller: Caller): Promise<OpenedSession> {
    if (caller.role === null) throw new Error('a session needs a role');
    await this.#makeRoom();
    const secret = randomBytes(secretBytes).toString('base64url');
    const now = this.#now();
    const kept: KeptSession = {
      caller: caller.name,
      role: caller.role,
      tokenId: caller.tokenId ?? null,
      createdAt: new Date(now).toISOString(),
      expiresAt: new Date(now + sessionMs).toISOString(),
    };
    await this.#store.transact({ compare: [], success: [{ put: keyOf(secret), value: JSON.stringify(kept) }] });
    this.#log.info({ caller: kept.caller, role: kept.role }, 'signed in');
    return { secret, session: shown({ ...kept, csrfToken: csrfTokenOf(secret) }) };
  }

  /** Removes what has expired, and the oldest where there are too many. */
  async #makeRoom(): Promise<void> {
    const { items } = await this.#store.list({ prefix, limit: maxSessions });
    const byAge = items.toSorted((left, right) => (parse(left).createdAt < parse(right).createdAt ? -1 : 1));
    const expired = byAge.filter((item) => Date.parse(parse(item).expiresAt) <= this.#now());
    const left = byAge.filter((item) => !expired.includes(item));
    await this.#remove([...expired, ...left.slice(0, Math.max(0, left.length - maxSessions + 1))]);
  }

  async #remove(items: readonly KeyValue[]): Promise<void> {
    for (const { key } of items) await this.close(key);
  }
}

/** A session as its owner sees it. */
export function shown(kept: Omit<KeptSession, 'tokenId'> & { csrfToken: string }): Session {
  const { caller, createdAt, expiresAt, csrfToken } = kept;
  return { caller, role: kept.role, createdAt, expiresAt, csrfToken };
}

const prefix = '/lodge/sessions/';

function keyOf(secret: string): string {
  return `${prefix}${hashOf(secret)}`;
}

/** Follows from the cookie, so that it needn't be kept; nobody gets from it to the cookie. */
function csrfTokenOf(secret: string): string {
  return createHash('sha256').update(`csrf ${secret}`).digest('base64url');
}

function hashOf(secret: string): string {
  return createHash('sha256').update(secret).digest('hex');
}

function parse(item: KeyValue): KeptSession {
  return keptSession.parse(JSON.parse(item.value));
}
