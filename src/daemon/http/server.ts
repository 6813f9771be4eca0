// The daemon's HTTP server: serves the contract's route table, on a unix socket and over HTTPS.
//
//   connection ─▶ listener.ts ─▶ Fastify (routing) ─▶ exchange.ts: who, may they, room, valid ─▶ handler ─▶ answer
//                     └─ upgrade ─▶ WebSocket: the same questions ─▶ handler with context.acceptWebSocket()
//
// Promises: nothing a client sends gets another answer than the route's own or the one error format; every request has
// an id in the header x-request-id and in its errors; close() ends everything in good order within its deadline.
import { randomBytes } from 'node:crypto';
import type { IncomingMessage } from 'node:http';
import { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import fastify, { type FastifyInstance, type FastifyReply, type FastifyRequest } from 'fastify';
import type { Logger } from 'pino';
import { allRoutes, type Handlers } from '../../api/contract.ts';
import { LodgeError } from '../../api/errors.ts';
import { isSchema, type Method } from '../../api/route.ts';
import { peerCredentials, userName } from '../../host/peer-credentials.ts';
import { Admission } from './admission.ts';
import { anonymousCaller, RequestContext, type ByteSource, type Caller } from './context.ts';
import {
  checkPermission,
  commonHeaders,
  Exchange,
  sendError,
  type AnyHandler,
  type ExchangeServices,
  type ServedRoute,
} from './exchange.ts';
import { answerRaw, asLodgeError, logFailure, parserError } from './failure.ts';
import type { IdempotencyRecords } from './idempotency.ts';
import { defaultHttpLimits, type HttpLimits } from './limits.ts';
import {
  listenOnHttps,
  listenOnSocket,
  type Listener,
  type ListenerHandlers,
  type TlsCredentials,
} from './listener.ts';
import type { HttpMetrics } from './metrics.ts';
import type { Pages } from './console-files.ts';
import { fastifyPath, pathOf, PathTable, queryOf } from './path-pattern.ts';
import { checkSameOrigin, sessionSecret } from './session-cookie.ts';
import { checkParams, validateQuery } from './validation.ts';
import { WebSocketUpgrades, type AcceptedWebSocket } from './web-socket.ts';

/** A file that is served as it is, to anybody. */
export interface StaticFile {
  path: string;
  contentType: string;
  content: string | Buffer;
  headers?: Readonly<Record<string, string>>;
}

export interface HttpOptions {
  handlers: Handlers<RequestContext, ByteSource>;
  /** Who has this access token; null when nobody has. Called for `Authorization: Bearer …`. */
  authenticate: (secret: string) => Promise<Caller | null>;
  /** Who has this session cookie; without it, cookies count for nothing. */
  authenticateSession?: (secret: string) => Promise<Caller | null>;
  log: Logger;
  listen: {
    /** The unix socket. `group` may use it beside the daemon's own user, when the group exists. */
    socket?: { path: string; group: string | null };
    https?: { address: string; port: number; credentials: TlsCredentials };
  };
  /** Keeps answers for idempotency keys; without it, keys are ignored. */
  idempotency?: IdempotencyRecords;
  metrics?: HttpMetrics;
  limits?: Partial<HttpLimits>;
  /** Holds every answer to the contract: for tests and development. */
  isOutputChecked?: boolean;
  /** Public files beside the contract, such as those of /docs. */
  staticFiles?: readonly StaticFile[];
  /** The web console: answers to what no route knows. */
  pages?: Pages;
}

export interface HttpServer {
  readonly socketPath: string | null;
  /** https://host:port, with the port that was really taken. */
  readonly httpsAddress: string | null;
  readonly httpsPort: number | null;
  /** All names and addresses by which remote clients reach it now, as https://host:port. */
  readonly httpsAddresses: string[];
  /**
   * Takes no new connections, ends streams and WebSockets, waits for requests under way, then cuts what is left. Ends
   * within `graceMs` (default 10 s) and a second.
   */
  close(options?: { graceMs?: number }): Promise<void>;
}

/** How often forgotten idempotency keys are swept, milliseconds. */
const sweepMs = 3_600_000;

declare module 'fastify' {
  interface FastifyRequest {
    exchange: Exchange | null;
  }
}

/** Starts to serve. Rejects when it can not listen; then nothing is left open. */
export async function startHttp(options: HttpOptions): Promise<HttpServer> {
  const server = new Server(options);
  await server.start();
  return server;
}

class Server implements HttpServer {
  readonly #options: HttpOptions;
  readonly #limits: HttpLimits;
  readonly #app: FastifyInstance;
  readonly #routes: ServedRoute[];
  readonly #paths: PathTable<{ route: { path: string; method: Method } }>;
  readonly #webSocketPaths: PathTable<ServedRoute>;
  readonly #services: ExchangeServices;
  readonly #webSockets: WebSocketUpgrades;
  readonly #upgradesUnderWay = new Set<{ context: RequestContext; ended: Promise<void> }>();
  readonly #listeners: Listener[] = [];
  /** Connections that came through the unix socket, with the name of who is at the other end once it was asked for. */
  readonly #local = new WeakMap<object, { name: Promise<string> | null }>();
  readonly #requestIdPrefix = randomBytes(4).toString('hex');
  #requestCount = 0;
  #sweeper: NodeJS.Timeout | null = null;
  #closing: Promise<void> | null = null;

  constructor(options: HttpOptions) {
    this.#options = options;
    this.#limits = { ...defaultHttpLimits, ...options.limits };
    this.#routes = servedRoutes(options.handlers);
    const files = options.staticFiles ?? [];
    this.#paths = new PathTable([
      ...this.#routes,
      ...files.map((file) => ({ route: { path: file.path, method: 'GET' as const } })),
    ]);
    this.#webSocketPaths = new PathTable(
      this.#routes.filter(({ route }) => !isSchema(route.response) && route.response.kind === 'websocket'),
    );
    this.#webSockets = new WebSocketUpgrades(this.#limits.pingMs);
    this.#services = {
      identify: (request, served) => this.#identify(request, served),
      admission: new Admission(this.#limits.admission),
      idempotency: options.idempotency ?? null,
      metrics: options.metrics ?? null,
      log: options.log,
      limits: this.#limits,
      isOutputChecked: options.isOutputChecked ?? false,
      underWay: new Set(),
    };
    this.#app = this.#build(files);
    this.#registerGauges();
  }

  get socketPath(): string | null {
    return this.#listeners.find((listener) => listener.port === null)?.address ?? null;
  }
  get httpsAddress(): string | null {
    return this.#listeners.find((listener) => listener.port !== null)?.address ?? null;
  }
  get httpsAddresses(): string[] {
    return this.#listeners.find((listener) => listener.port !== null)?.addresses() ?? [];
  }
  get httpsPort(): number | null {
    return this.#listeners.find((listener) => listener.port !== null)?.port ?? null;
  }

  async start(): Promise<void> {
    await this.#app.ready();
    const { socket, https } = this.#options.listen;
    const { maxConnections } = this.#limits;
    try {
      if (socket) {
        const handlers = this.#listenerHandlers('local');
        this.#listeners.push(await listenOnSocket(socket.path, handlers, { group: socket.group, maxConnections }));
      }
      if (https) {
        const handlers = this.#listenerHandlers('remote');
        this.#listeners.push(await listenOnHttps(https, https.credentials, handlers, { maxConnections }));
      }
    } catch (failure) {
      await this.close({ graceMs: 0 });
      throw failure;
    }
    this.#startSweeping();
  }

  #startSweeping(): void {
    const { idempotency, log } = this.#options;
    if (!idempotency) return;
    const sweep = (): void => {
      idempotency
        .sweep()
        .catch((failure: unknown) => log.warn({ err: failure }, 'old idempotency keys could not be deleted'));
    };
    sweep();
    this.#sweeper = setInterval(sweep, sweepMs);
    this.#sweeper.unref();
  }

  #registerGauges(): void {
    const { metrics } = this.#options;
    const { admission } = this.#services;
    metrics?.gaugeByLabel('lodge_http_under_way', 'Requests, streams and WebSockets being served', 'kind', () => ({
      request: admission.count('request'),
      stream: admission.count('stream'),
      websocket: admission.count('websocket'),
    }));
  }

  /** The Fastify application; its own server is never used. */
  #build(files: readonly StaticFile[]): FastifyInstance {
    const app = fastify({
      logger: false,
      exposeHeadRoutes: false,
      genReqId: () => this.#newRequestId(),
      // The longest name or id is checked with the parameters, which gives a better answer.
      routerOptions: { maxParamLength: 2_000, querystringParser: () => ({}) },
      frameworkErrors: (failure, request, reply) => void this.#refuse(request, reply, failure),
    });
    app.decorateRequest('exchange', null);
    // Bodies are read by request-body.ts, after the permission was checked.
    app.removeAllContentTypeParsers();
    app.addContentTypeParser('*', (_request, _payload, done) => done(null));
    app.setErrorHandler((failure, request, reply) => {
      if (request.exchange) return request.exchange.fail(reply, failure);
      // Fastify looks at the body of a QUERY before it looks for a route.
      return request.method === 'QUERY' ? this.#notFound(request, reply) : this.#refuse(request, reply, failure);
    });
    app.setNotFoundHandler((request, reply) => this.#notFound(request, reply));
    for (const served of this.#routes) this.#register(app, served);
    for (const file of files) {
      app.route({
        method: withHead('GET'),
        url: file.path,
        handler: (_request, reply) =>
          reply
            .headers({ ...commonHeaders, ...file.headers })
            .type(file.contentType)
            .send(file.content),
      });
    }
    return app;
  }

  #register(app: FastifyInstance, served: ServedRoute): void {
    app.route({
      method: withHead(served.route.method),
      url: fastifyPath(served.route.path),
      onRequest: async (request, reply) => {
        reply.header('x-request-id', request.id);
        if (this.#closing !== null) throw stopping();
        request.exchange = new Exchange(served, this.#services, request, reply);
        await request.exchange.admit();
      },
      handler: async (request, reply) => {
        const { exchange } = request;
        if (exchange === null) throw new Error('a request without an exchange');
        try {
          // Fastify's own object has no prototype, which handlers needn't know.
          return await exchange.serve(reply, { ...(request.params as Record<string, string>) });
        } catch (failure) {
          return exchange.fail(reply, failure);
        }
      },
    });
  }

  #newRequestId(): string {
    this.#requestCount += 1;
    return `${this.#requestIdPrefix}-${this.#requestCount.toString(36)}`;
  }

  #refuse(
    request: FastifyRequest,
    reply: FastifyReply,
    failure: unknown,
    headers: Record<string, string> = {},
  ): FastifyReply {
    const error = asLodgeError(failure);
    logFailure(this.#options.log, error, { requestId: request.id, route: 'none', caller: 'unknown' });
    this.#options.metrics?.request('none', request.method, error.status, reply.elapsedTime);
    return sendError(reply, error, request.id, { 'x-request-id': request.id, ...headers });
  }

  #notFound(request: FastifyRequest, reply: FastifyReply): FastifyReply {
    const path = pathOf(request.raw.url ?? '');
    const methods = this.#paths.methods(path);
    const page = request.method === 'GET' || request.method === 'HEAD' ? this.#page(path, request, reply) : null;
    if (page !== null) return page;
    const shown = path.length > 200 ? `${path.slice(0, 200)}…` : path;
    if (methods.length > 0 && !methods.includes(request.method as 'GET')) {
      const error = new LodgeError(
        'method_not_allowed',
        `${shown} does not take ${request.method}; it takes ${methods.join(', ')}`,
      );
      return this.#refuse(request, reply, error, { allow: methods.join(', ') });
    }
    return this.#refuse(
      request,
      reply,
      new LodgeError('not_found', `there is no path ${shown}`, { hint: 'See /docs for all paths.' }),
    );
  }

  /** A file of the web console; null where it has none. */
  #page(path: string, request: FastifyRequest, reply: FastifyReply): FastifyReply | null {
    const page = this.#options.pages?.find(path, request.headers) ?? null;
    if (page === null) return null;
    return reply
      .code(page.status)
      .headers({ ...commonHeaders, ...page.headers })
      .send(page.content);
  }

  #listenerHandlers(origin: 'local' | 'remote'): ListenerHandlers {
    const note = (request: IncomingMessage): void => {
      if (origin === 'local' && !this.#local.has(request.socket)) this.#local.set(request.socket, { name: null });
    };
    return {
      onRequest: (request, response) => {
        note(request);
        this.#app.routing(request, response);
      },
      onUpgrade: (request, socket, head) => {
        note(request);
        socket.on('error', () => socket.destroy());
        void this.#upgrade(request, socket, head);
      },
      isUpgrade: (request) =>
        request.headers.upgrade?.toLowerCase() === 'websocket' &&
        this.#webSocketPaths.find(request.method ?? '', pathOf(request.url ?? '')) !== null,
      onParserError: (failure, socket) => {
        // A connection that broke has nobody to answer to.
        if ('code' in failure && failure.code === 'ECONNRESET') {
          socket.destroy();
          return;
        }
        answerRaw(socket, parserError(failure));
      },
    };
  }

  async #identify(request: IncomingMessage, served: ServedRoute): Promise<Caller> {
    const header = request.headers.authorization;
    if (header !== undefined && served.route.permission !== 'public') {
      const secret = /^Bearer +([\x21-\x7e]{1,500}) *$/i.exec(header)?.[1];
      const caller = secret === undefined ? null : await this.#options.authenticate(secret);
      if (caller === null) {
        throw new LodgeError('unauthenticated', 'the access token is not known, has expired, or was deleted', {
          hint: 'Create a token with lodge token create on the daemon’s machine.',
        });
      }
      return caller;
    }
    const local = this.#local.get(request.socket);
    if (local === undefined) return this.#identifySession(request, served);
    // Only what is written down says who it was: it takes some milliseconds to ask the kernel.
    const isOnRecord = served.route.method !== 'GET' || served.id === 'server.get';
    if (isOnRecord && local.name === null && request.socket instanceof Socket) {
      local.name = peerCredentials(request.socket).then(async (peer) =>
        peer === null ? 'local' : `local:${(await userName(peer.uid)) ?? peer.uid}`,
      );
    }
    return { name: (await local.name) ?? 'local', role: 'admin', kind: 'local' };
  }

  /** A browser that has signed in. Public routes need nobody, and a cookie that has ended must not keep from signing in. */
  async #identifySession(request: IncomingMessage, served: ServedRoute): Promise<Caller> {
    const secret = served.route.permission === 'public' ? null : sessionSecret(request);
    const caller = secret === null ? null : ((await this.#options.authenticateSession?.(secret)) ?? null);
    if (caller?.session === undefined) return anonymousCaller;
    checkSameOrigin(request, caller.session);
    return caller;
  }

  async #upgrade(request: IncomingMessage, socket: Duplex, head: Buffer): Promise<void> {
    const requestId = this.#newRequestId();
    const match = this.#webSocketPaths.find(request.method ?? '', pathOf(request.url ?? ''));
    if (match === null) {
      socket.destroy();
      return;
    }
    const { id, route, handler } = match.item;
    const startedAt = performance.now();
    let accepted: AcceptedWebSocket | null = null;
    let leave = (): void => undefined;
    let caller = 'unknown';
    const { promise: ended, resolve: end } = Promise.withResolvers<void>();
    let entry: { context: RequestContext; ended: Promise<void> } | null = null;
    let status = 101;
    try {
      if (this.#closing !== null) throw stopping();
      const who = await this.#identify(request, match.item);
      caller = who.name;
      checkPermission(who, route);
      leave = this.#services.admission.enter('websocket', caller);
      checkParams(match.params);
      const query = validateQuery(route.query, queryOf(request.url ?? ''));
      const context = new RequestContext({
        routeId: id,
        caller: who,
        requestId,
        idempotencyKey: null,
        log: this.#options.log,
        acceptWebSocket: async () => {
          accepted = await this.#webSockets.accept(request, socket, head);
          accepted.onClose(() => context.abort(new LodgeError('cancelled', 'the client closed the WebSocket')));
          return accepted.stream;
        },
      });
      entry = { context, ended };
      this.#upgradesUnderWay.add(entry);
      socket.once('close', () => context.abort(new LodgeError('cancelled', 'the client closed the connection')));
      await handler({ params: match.params, query }, context);
      if (accepted === null) throw new Error(`${id} ended without accepting the WebSocket`);
      (accepted as AcceptedWebSocket).finish();
    } catch (failure) {
      const error = asLodgeError(failure);
      status = error.status;
      logFailure(this.#options.log, error, { requestId, route: id, caller });
      if (accepted === null) answerRaw(socket, error, requestId);
      else (accepted as AcceptedWebSocket).fail(error);
    } finally {
      leave();
      if (entry !== null) this.#upgradesUnderWay.delete(entry);
      end();
      const durationMs = performance.now() - startedAt;
      this.#options.metrics?.request(id, route.method, status, durationMs);
      this.#options.log.info({ requestId, route: id, caller, status, durationMs: Math.round(durationMs) }, 'request');
    }
  }

  close(options: { graceMs?: number } = {}): Promise<void> {
    this.#closing ??= this.#close(options.graceMs ?? 10_000);
    return this.#closing;
  }

  async #close(graceMs: number): Promise<void> {
    if (this.#sweeper !== null) clearInterval(this.#sweeper);
    const stopped = this.#listeners.map((listener) => listener.stop());
    for (const exchange of this.#services.underWay) exchange.endStream(stopping());
    this.#webSockets.close();
    for (const { context } of this.#upgradesUnderWay) context.abort(stopping());

    const upgrades = [...this.#upgradesUnderWay].map((upgrade) => upgrade.ended);
    let timer: NodeJS.Timeout | undefined;
    const deadline = new Promise<void>((resolve) => (timer = setTimeout(resolve, graceMs)));
    await Promise.race([Promise.all([...stopped, ...upgrades]), deadline]);
    clearTimeout(timer);
    this.#webSockets.terminate();
    for (const listener of this.#listeners) listener.cut();
    await Promise.all(stopped);
    await this.#app.close();
  }
}

/** What can be read can also be asked for its headers alone (RFC 9110, 9.3.2). */
function withHead(method: Method): string[] {
  return method === 'GET' ? [method, 'HEAD'] : [method];
}

function stopping(): LodgeError {
  return new LodgeError('unavailable', 'the daemon is stopping');
}

/** Every route with its handler. A missing one is a mistake of the wiring that shows at start-up. */
function servedRoutes(handlers: Handlers<RequestContext, ByteSource>): ServedRoute[] {
  const byNoun = handlers as unknown as Record<string, Record<string, AnyHandler> | undefined>;
  return allRoutes().map(({ id, noun, verb, route }) => {
    const table = byNoun[noun];
    const handler = table?.[verb];
    if (table === undefined || handler === undefined) throw new Error(`no handler for ${id}`);
    return { id, route, handler: handler.bind(table) };
  });
}
