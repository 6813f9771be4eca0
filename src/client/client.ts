// The typed client of the contract: a method for every route, made at start-up from the route tables. Runs in browsers
// and in Node; node-transport.ts adds the unix socket, own certificate authorities and WebSockets for Node.
// Promises: every failure is a LodgeError, except that an aborted signal throws the signal's own reason (an event
// stream that is being read just ends); every wait has a deadline; nothing is sent twice.
import { contract, type ClientMethods } from '../api/contract.ts';
import { LodgeError } from '../api/errors.ts';
import { isSchema, type Route, type RouteTable } from '../api/route.ts';
import { asStream, ByteAnswer, type ByteInput } from './bytes.ts';
import { readEvents } from './event-reader.ts';
import { connectionFailure, errorFromAnswer } from './failure.ts';

/** The part of fetch that the client uses. */
export type FetchLike = (
  url: string,
  init: {
    method: string;
    headers: Record<string, string>;
    body?: string | Uint8Array<ArrayBuffer> | Blob | ReadableStream<Uint8Array>;
    signal: AbortSignal;
    duplex?: 'half';
    cache?: 'no-store';
    credentials?: 'same-origin';
  },
) => Promise<Response>;

export interface ClientOptions {
  /** `https://host:7443`; in a page of the daemon itself leave it out. */
  baseUrl?: string;
  /** Access token; without it, no credentials are sent. A function is asked at each request. */
  token?: string | (() => string | null);
  fetch?: FetchLike;
  /** What messages call the daemon; default baseUrl. */
  target?: string;
  /** Default of {@link CallOptions.timeoutMs}: 60 s. */
  timeoutMs?: number;
}

/** Options of one call. */
export interface CallOptions {
  signal?: AbortSignal;
  /**
   * Longest wait, in milliseconds: for the whole answer where it is JSON, for its beginning where it is a stream. Sending
   * bytes has no deadline unless this is given.
   */
  timeoutMs?: number;
  /** Resumes an event stream after the event with this id. */
  lastEventId?: string;
  /** An event stream counts as broken when nothing came for this long, in milliseconds. Default 45 s: the daemon sends a comment every 15 s. */
  idleTimeoutMs?: number;
}

/** A method for every route of the contract: `client.vm.get({ params: { vm: 'web1' } })`. */
export type LodgeClient = ClientMethods<ByteInput, ByteAnswer, CallOptions>;

interface CallInput {
  params?: Record<string, string>;
  query?: Record<string, unknown>;
  body?: unknown;
  idempotencyKey?: string;
}

/** A client of the daemon at `baseUrl`. */
export function createClient(options: ClientOptions = {}): LodgeClient {
  const connection = new Connection(options);
  const nouns = Object.entries(contract).map(([noun, table]) => {
    const verbs = Object.entries(table as RouteTable).map(([verb, route]) => [
      verb,
      (input: CallInput = {}, callOptions: CallOptions = {}) =>
        connection.call(`${noun}.${verb}`, route, input, callOptions),
    ]);
    return [noun, Object.fromEntries(verbs) as unknown];
  });
  return Object.fromEntries(nouns) as LodgeClient;
}

class Connection {
  readonly #baseUrl: string;
  readonly #token: () => string | null;
  readonly #fetch: FetchLike;
  readonly #target: string;
  readonly #timeoutMs: number;

  constructor(options: ClientOptions) {
    this.#baseUrl = (options.baseUrl ?? '').replace(/\/+$/, '');
    const token = options.token;
    this.#token = typeof token === 'function' ? token : () => token ?? null;
    this.#fetch = options.fetch ?? ((url, init) => globalThis.fetch(url, init));
    this.#target = options.target ?? (this.#baseUrl === '' ? 'the daemon' : this.#baseUrl);
    this.#timeoutMs = options.timeoutMs ?? 60_000;
  }

  async call(id: string, route: Route, input: CallInput, options: CallOptions): Promise<unknown> {
    if ('kind' in route.response && route.response.kind === 'websocket') {
      throw new LodgeError('unsupported', `${id} is a WebSocket, not a request`, {
        hint: 'Open its path as a WebSocket: openWebSocket of the Node client, or new WebSocket(…) in a browser.',
      });
    }
    options.signal?.throwIfAborted();
    const isSendingBytes = route.body !== undefined && !isSchema(route.body);
    const timeoutMs = options.timeoutMs ?? (isSendingBytes ? null : this.#timeoutMs);
    const attempt = new Attempt(options.signal, timeoutMs, `${route.method} ${route.path}`, this.#target);
    try {
      const response = await this.#send(route, input, options, attempt.signal);
      if (!response.ok) throw errorFromAnswer(response.status, await response.text(), this.#target);
      return await this.#answer(route, response, options, attempt);
    } catch (failure) {
      attempt.end();
      throw attempt.describe(failure);
    }
  }

  async #send(route: Route, input: CallInput, options: CallOptions, signal: AbortSignal): Promise<Response> {
    const headers: Record<string, string> = { accept: accepted(route) };
    const token = this.#token();
    if (token !== null) headers['authorization'] = `Bearer ${token}`;
    if (input.idempotencyKey !== undefined) headers['idempotency-key'] = input.idempotencyKey;
    if (options.lastEventId !== undefined) headers['last-event-id'] = options.lastEventId;
    const url = this.#baseUrl + requestPath(route, input.params ?? {}, input.query ?? {});
    const base = { method: route.method, headers, signal, cache: 'no-store', credentials: 'same-origin' } as const;

    if (route.body === undefined) return this.#fetch(url, base);
    if (isSchema(route.body)) {
      headers['content-type'] = 'application/json';
      return this.#fetch(url, { ...base, body: JSON.stringify(input.body ?? {}) });
    }
    headers['content-type'] = route.body.mediaType;
    const body = input.body as ByteInput;
    if (body instanceof Uint8Array) return this.#fetch(url, { ...base, body: body as Uint8Array<ArrayBuffer> });
    if (body instanceof Blob) return this.#fetch(url, { ...base, body });
    return this.#fetch(url, { ...base, body: asStream(body), duplex: 'half' });
  }

  async #answer(route: Route, response: Response, options: CallOptions, attempt: Attempt): Promise<unknown> {
    if (isSchema(route.response)) {
      const text = await response.text();
      attempt.end();
      try {
        return JSON.parse(text) as unknown;
      } catch {
        throw errorFromAnswer(response.status, text, this.#target);
      }
    }
    switch (route.response.kind) {
      case 'bytes': {
        attempt.endDeadline();
        const length = response.headers.get('content-length');
        const headers = {
          contentType: response.headers.get('content-type') ?? 'application/octet-stream',
          contentLength: length === null ? null : Number(length),
        };
        return new ByteAnswer(response.body ?? empty(), headers, {
          describe: (failure) => attempt.describe(failure),
          end: () => attempt.end(),
        });
      }
      case 'events':
        attempt.endDeadline();
        return readEvents(response.body ?? empty(), {
          signal: options.signal,
          idleTimeoutMs: options.idleTimeoutMs ?? 45_000,
          abort: () => attempt.abort(),
          describe: (failure) => attempt.describe(failure),
        });
      case 'none':
        await response.body?.cancel();
        attempt.end();
        return undefined;
      case 'websocket':
        return undefined;
    }
  }
}

/** One request's signal: the caller's, and the deadline. */
class Attempt {
  readonly #controller = new AbortController();
  readonly #caller: AbortSignal | undefined;
  readonly #what: string;
  readonly #target: string;
  readonly #onAbort: () => void;
  #deadline: ReturnType<typeof setTimeout> | null = null;
  #isLate = false;
  readonly #timeoutMs: number | null;

  constructor(caller: AbortSignal | undefined, timeoutMs: number | null, what: string, target: string) {
    this.#caller = caller;
    this.#what = what;
    this.#target = target;
    this.#timeoutMs = timeoutMs;
    this.#onAbort = () => this.#controller.abort(caller?.reason);
    caller?.addEventListener('abort', this.#onAbort, { once: true });
    if (timeoutMs !== null) {
      this.#deadline = setTimeout(() => {
        this.#isLate = true;
        this.#controller.abort();
      }, timeoutMs);
    }
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  /** From here on only the caller ends it. */
  endDeadline(): void {
    if (this.#deadline !== null) clearTimeout(this.#deadline);
    this.#deadline = null;
  }

  end(): void {
    this.endDeadline();
    this.#caller?.removeEventListener('abort', this.#onAbort);
  }

  abort(): void {
    this.end();
    this.#controller.abort();
  }

  /** What the caller is told: the reason it gave itself, or a LodgeError. */
  describe(failure: unknown): unknown {
    if (failure instanceof LodgeError) return failure;
    if (this.#caller?.aborted === true) return this.#caller.reason;
    if (this.#isLate) {
      return new LodgeError(
        'timeout',
        `${this.#what}: no answer from ${this.#target} within ${(this.#timeoutMs ?? 0) / 1000} s`,
        {
          hint: 'The request may still be under way in the daemon: look before you send it again, or use an idempotency key.',
          cause: failure,
        },
      );
    }
    return connectionFailure(failure, this.#target);
  }
}

function accepted(route: Route): string {
  if (isSchema(route.response)) return 'application/json';
  if (route.response.kind === 'events') return 'text/event-stream, application/json';
  return '*/*';
}

/** Path and query of a request. A parameter that a URL can not carry as one segment is refused. */
export function requestPath(
  route: Pick<Route, 'path'>,
  params: Readonly<Record<string, string>>,
  query: Readonly<Record<string, unknown>>,
): string {
  const path = route.path.replace(/\{(\w+)\}/g, (_whole, name: string) => {
    const value = params[name];
    // Every URL parser resolves "." and ".." segments, also percent-encoded ones, so they would address another path.
    if (value === undefined || value === '' || value === '.' || value === '..') {
      throw new LodgeError(
        'invalid_request',
        `params.${name}: is a name or an id${value === undefined ? '' : ` (given: ${JSON.stringify(value)})`}`,
        {
          fields: [
            { field: `params.${name}`, message: 'is a name or an id', ...(value === undefined ? {} : { value }) },
          ],
        },
      );
    }
    return encodeURIComponent(value.toWellFormed());
  });
  const search = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    if (value === undefined || value === null) continue;
    for (const one of Array.isArray(value) ? (value as unknown[]) : [value]) search.append(name, queryText(one));
  }
  const text = search.toString();
  return text === '' ? path : `${path}?${text}`;
}

function queryText(value: unknown): string {
  return typeof value === 'string' ? value : JSON.stringify(value);
}

function empty(): ReadableStream<Uint8Array> {
  return new ReadableStream<Uint8Array>({ start: (controller) => controller.close() });
}
