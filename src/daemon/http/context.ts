// What a handler is told about the request it serves, besides what was asked: who asks, until when the answer is wanted,
// and where to log. Also the daemon's types for streams of bytes.
import type { Duplex } from 'node:stream';
import type { Logger } from 'pino';
import { roleAllows, type Permission, type Role } from '../../api/permission.ts';

/** Who a request comes from. */
export interface Caller {
  /** For audit and tasks: `local:root`, `token:ci`, `anonymous`. */
  readonly name: string;
  /** null: no credentials; only public routes. */
  readonly role: Role | null;
  readonly kind: 'local' | 'token' | 'session' | 'anonymous';
  /** The access token it is, or was made from. */
  readonly tokenId?: string | null;
  /** Of a browser that has signed in. */
  readonly session?: CallerSession;
}

/** The session that a request came with. */
export interface CallerSession {
  /** Where it is in the store. */
  readonly key: string;
  readonly caller: string;
  readonly role: Role;
  readonly createdAt: string;
  readonly expiresAt: string;
  readonly csrfToken: string;
}

export const anonymousCaller: Caller = { name: 'anonymous', role: null, kind: 'anonymous' };

/** Whether a caller may use a route with this permission. */
export function isAllowed(caller: Caller, permission: Permission | 'public'): boolean {
  return permission === 'public' || (caller.role !== null && roleAllows(caller.role, permission));
}

/**
 * Bytes of a body (as a handler gets them) or of an answer (as it gives them). Any Readable is one. Reading a body
 * throws a LodgeError when the client goes away, is too slow, or sends more than is allowed.
 */
export interface ByteSource extends AsyncIterable<Uint8Array> {
  /** How many bytes there will be, where that is known: Content-Length. */
  readonly byteLength?: number | null;
  /** For an answer: instead of the route's own media type. */
  readonly contentType?: string;
  /** For an answer: further headers, in lower case. */
  readonly headers?: Readonly<Record<string, string>>;
}

/** A text or buffer as an answer of bytes. */
export function byteAnswer(
  content: string | Uint8Array,
  options: { contentType?: string; headers?: Readonly<Record<string, string>> } = {},
): ByteSource {
  const chunk = typeof content === 'string' ? Buffer.from(content) : content;
  return {
    byteLength: chunk.length,
    ...options,
    async *[Symbol.asyncIterator]() {
      yield chunk;
    },
  };
}

export interface RequestContextOptions {
  routeId: string;
  caller: Caller;
  requestId: string;
  idempotencyKey: string | null;
  log: Logger;
  acceptWebSocket: (() => Promise<Duplex>) | null;
}

/** One request, as a handler sees it. A class because object literals with getters cost twice the memory under load. */
export class RequestContext {
  readonly routeId: string;
  readonly caller: Caller;
  readonly requestId: string;
  /** The key came with the request; the answer is kept for it by the server, so most handlers ignore it. */
  readonly idempotencyKey: string | null;
  /** The JSON body as it was sent: it is valid, and has no defaults filled in. */
  sent: unknown = undefined;
  /** Further headers of the answer, where it is JSON or has no body. */
  readonly answerHeaders: Record<string, string> = {};
  readonly #log: Logger;
  readonly #acceptWebSocket: (() => Promise<Duplex>) | null;
  #controller: AbortController | null = null;
  #abortReason: unknown;
  #isAborted = false;

  constructor(options: RequestContextOptions) {
    this.routeId = options.routeId;
    this.caller = options.caller;
    this.requestId = options.requestId;
    this.idempotencyKey = options.idempotencyKey;
    this.#log = options.log;
    this.#acceptWebSocket = options.acceptWebSocket;
  }

  /** Adds a header to the answer, where it is JSON or has no body; bytes have headers of their own. */
  setHeader(name: string, value: string): void {
    this.answerHeaders[name] = value;
  }

  /** Aborts when nobody waits for the answer any more: the client is gone, the deadline is over, the daemon stops. */
  get signal(): AbortSignal {
    if (this.#controller === null) {
      this.#controller = new AbortController();
      if (this.#isAborted) this.#controller.abort(this.#abortReason);
    }
    return this.#controller.signal;
  }

  /** Logs with the request's id. */
  get log(): Logger {
    return this.#log.child({ requestId: this.requestId, route: this.routeId, caller: this.caller.name });
  }

  /**
   * For routes that are a WebSocket: answers the upgrade and gives the connection as a stream of bytes, a binary frame
   * a chunk, with back-pressure. Until it is called, a thrown LodgeError is an ordinary answer; afterwards it closes the
   * connection with code 1011 and the error as the reason. The connection is closed when the handler's promise settles.
   */
  acceptWebSocket(): Promise<Duplex> {
    if (this.#acceptWebSocket === null) throw new Error(`${this.routeId} is not a WebSocket route`);
    return this.#acceptWebSocket();
  }

  /** Called by the server only. */
  abort(reason: unknown): void {
    if (this.#isAborted) return;
    this.#isAborted = true;
    this.#abortReason = reason;
    this.#controller?.abort(reason);
  }
}
