// One request and its answer, from the permission check to the log line: what the route table says is done here, so that
// handlers deal with nothing but their noun. The order is fixed: who asks, may they, is there room, is it valid, do it.
import type { ServerResponse } from 'node:http';
import { namesTag } from './entity-tag.ts';
import type { FastifyReply, FastifyRequest } from 'fastify';
import type { Logger } from 'pino';
import { LodgeError } from '../../api/errors.ts';
import { isSchema, type Route } from '../../api/route.ts';
import type { Admission, WorkKind } from './admission.ts';
import { isAllowed, RequestContext, type ByteSource, type Caller } from './context.ts';
import { asLodgeError, logFailure } from './failure.ts';
import { idempotencyKeyOf, type IdempotencyRecords } from './idempotency.ts';
import type { HttpMetrics } from './metrics.ts';
import { checkOutput } from './output-check.ts';
import { pathOf, queryOf } from './path-pattern.ts';
import { clientGone, hasBody, readJson, RequestBytes, type BodyLimits } from './request-body.ts';
import { sendBytes, sendEvents, StartedSource, StreamBrokenError, type StreamLimits } from './response-stream.ts';
import { checkParams, invalidRequest, validate, validateQuery } from './validation.ts';

/** A handler as the server calls it, whatever its route. */
export type AnyHandler = (request: unknown, context: RequestContext) => Promise<unknown>;

/** A route with the function that serves it. */
export interface ServedRoute {
  id: string;
  route: Route;
  handler: AnyHandler;
}

/** What all exchanges of a server share. */
export interface ExchangeServices {
  identify: (request: FastifyRequest['raw'], route: ServedRoute) => Promise<Caller>;
  admission: Admission;
  idempotency: IdempotencyRecords | null;
  metrics: HttpMetrics | null;
  log: Logger;
  limits: BodyLimits & StreamLimits & { handlerTimeoutMs: number; firstItemMs: number };
  isOutputChecked: boolean;
  /** Exchanges under way, to end them when the daemon stops. */
  underWay: Set<Exchange>;
}

export const jsonType = 'application/json; charset=utf-8';

/** Headers of every answer. */
export const commonHeaders: Readonly<Record<string, string>> = {
  'cache-control': 'no-store',
  'x-content-type-options': 'nosniff',
};

/** How long the rest of an unread body is taken after an error, milliseconds: closing at once could lose the answer. */
const unreadLingerMs = 2_000;

/** Throws when the caller may not use the route. */
export function checkPermission(caller: Caller, route: Route): void {
  if (isAllowed(caller, route.permission)) return;
  if (caller.role === null) {
    throw new LodgeError('unauthenticated', `${route.method} ${route.path} needs credentials`);
  }
  throw new LodgeError(
    'forbidden',
    `${caller.name} has the role ${caller.role}, which does not give the permission ${route.permission}`,
  );
}

function workKind(route: Route): WorkKind {
  if (isSchema(route.response) || route.response.kind === 'none') {
    return route.body !== undefined && !isSchema(route.body) ? 'stream' : 'request';
  }
  return route.response.kind === 'websocket' ? 'websocket' : 'stream';
}

/** See the top of the file. */
export class Exchange {
  readonly requestId: string;
  #caller = 'unknown';
  #context: RequestContext | null = null;
  #leave: (() => void) | null = null;
  #isAnswered = false;
  readonly #startedAt = performance.now();
  readonly #served: ServedRoute;
  readonly #services: ExchangeServices;
  readonly #raw: FastifyRequest['raw'];
  readonly #response: ServerResponse;

  constructor(served: ServedRoute, services: ExchangeServices, request: FastifyRequest, reply: FastifyReply) {
    this.#served = served;
    this.#services = services;
    this.#raw = request.raw;
    this.#response = reply.raw;
    this.requestId = request.id;
    services.underWay.add(this);
    reply.raw.once('close', () => this.#closed());
  }

  /** Before anything of the body is read: who asks, whether they may, and whether there is room. */
  async admit(): Promise<void> {
    const { route, id } = this.#served;
    const { identify, admission, log } = this.#services;
    const caller = await identify(this.#raw, this.#served);
    this.#caller = caller.name;
    checkPermission(caller, route);
    // Health checks are answered however much there is to do.
    if (route.path !== '/healthz' && route.path !== '/readyz') {
      this.#leave = admission.enter(workKind(route), caller.name);
      if (this.#response.destroyed) this.#leave();
    }
    const idempotencyKey =
      route.isIdempotentByKey === true ? idempotencyKeyOf(this.#raw.headers['idempotency-key']) : null;
    this.#context = new RequestContext({
      routeId: id,
      caller,
      requestId: this.requestId,
      idempotencyKey,
      log,
      acceptWebSocket: null,
    });
  }

  /** Validates, calls the handler, and answers. */
  async serve(reply: FastifyReply, params: Readonly<Record<string, string>>): Promise<FastifyReply> {
    const context = this.#context;
    if (context === null) throw new Error('serve before admit');
    const { route } = this.#served;
    if (!isSchema(route.response) && route.response.kind === 'websocket') {
      throw new LodgeError('invalid_request', `${pathOf(this.#raw.url ?? '')} is a WebSocket`, {
        hint: 'Open it as a WebSocket (RFC 6455, version 13), over a connection of its own.',
      });
    }
    const request = await this.#request(params, context);
    const answer = await this.#answer(request, context);
    const status = route.status ?? 200;

    if (isSchema(route.response)) {
      if (this.#services.isOutputChecked) checkOutput(route.response, answer, this.#served.id);
      this.#isAnswered = true;
      return reply
        .code(status)
        .headers({ ...commonHeaders, ...context.answerHeaders })
        .type(jsonType)
        .send(JSON.stringify(answer));
    }
    if (route.response.kind === 'none') {
      this.#isAnswered = true;
      return reply
        .code(route.status ?? 204)
        .headers({ ...commonHeaders, ...context.answerHeaders })
        .send();
    }
    if (route.response.kind === 'events') await this.#sendEvents(reply, answer as AsyncIterable<unknown>, context);
    else if (route.response.kind === 'bytes')
      await this.#sendBytes(reply, answer as ByteSource, status, route.response.mediaType);
    return reply;
  }

  async #request(
    params: Readonly<Record<string, string>>,
    context: RequestContext,
  ): Promise<{ params?: unknown; query?: unknown; body?: unknown }> {
    const { route } = this.#served;
    const { limits } = this.#services;
    checkParams(params);
    const query = validateQuery(route.query, queryOf(this.#raw.url ?? ''), this.#lastEventId());
    if (route.body === undefined) {
      const body = await readJson(this.#raw, limits);
      if (body !== undefined && !isEmptyObject(body)) {
        throw invalidRequest([{ field: 'body', message: 'must be empty: this route takes no body' }]);
      }
      return { params, query };
    }
    if (!isSchema(route.body))
      return { params, query, body: new RequestBytes(this.#raw, limits, route.body.mediaType) };
    const given = await readJson(this.#raw, limits);
    // None at all is an empty one; null is a body, and no object.
    const body = given === undefined ? {} : given;
    context.sent = body;
    return { params, query, body: validate(route.body, body, 'body') };
  }

  /** A resumed event stream: the header that browsers send stands for ?since=. */
  #lastEventId(): Readonly<Record<string, string>> {
    const { response } = this.#served.route;
    const header = this.#raw.headers['last-event-id'];
    const isStream = !isSchema(response) && response.kind === 'events';
    return isStream && typeof header === 'string' && header !== '' ? { since: header } : {};
  }

  /** Calls the handler, within its deadline, once for an idempotency key. */
  async #answer(request: unknown, context: RequestContext): Promise<unknown> {
    const { handler, id, route } = this.#served;
    const { idempotency, limits } = this.#services;
    const call = (): Promise<unknown> => handler(request, context);
    const key = context.idempotencyKey;
    const answer =
      key === null || idempotency === null
        ? call()
        : idempotency.once({ key, caller: context.caller.name, routeId: id, request }, call);
    const hasDeadline = workKind(route) === 'request';
    if (!hasDeadline) return answer;

    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<never>((_resolve, reject) => {
      timer = setTimeout(() => {
        const error = new LodgeError('timeout', `${id} has not ended within ${limits.handlerTimeoutMs / 1000} s`);
        context.abort(error);
        reject(error);
      }, limits.handlerTimeoutMs);
      // A handler that hangs must not keep a stopped daemon from ending.
      timer.unref();
    });
    try {
      return await Promise.race([answer, late]);
    } finally {
      clearTimeout(timer);
    }
  }

  async #sendEvents(reply: FastifyReply, events: AsyncIterable<unknown>, context: RequestContext): Promise<void> {
    const { limits, isOutputChecked } = this.#services;
    const source = new StartedSource(events);
    const { response } = this.#served.route;
    try {
      await source.check(limits.firstItemMs);
    } catch (failure) {
      source.release();
      throw failure;
    }
    reply.hijack();
    const schema = !isSchema(response) && response.kind === 'events' ? response.schema : null;
    this.#response.writeHead(200, {
      ...commonHeaders,
      'content-type': 'text/event-stream; charset=utf-8',
      'x-request-id': this.requestId,
      // Proxies such as nginx would otherwise hold the stream back.
      'x-accel-buffering': 'no',
    });
    if (this.#isHead) {
      source.release();
      this.#endHead();
      return;
    }
    this.#response.flushHeaders();
    const check =
      isOutputChecked && schema !== null ? (event: unknown) => checkOutput(schema, event, this.#served.id) : null;
    await this.#streamed(
      sendEvents(this.#response, source, { ...limits, requestId: this.requestId, check, signal: context.signal }),
    );
  }

  async #sendBytes(reply: FastifyReply, answer: ByteSource, status: number, mediaType: string): Promise<void> {
    const { limits } = this.#services;
    const source = new StartedSource(answer);
    try {
      // Unlike an event stream, bytes have no way to tell of a failure once the head of the answer is out.
      const isThere = await source.check(limits.handlerTimeoutMs);
      if (!isThere)
        throw new LodgeError('timeout', `${this.#served.id} gave nothing within ${limits.handlerTimeoutMs / 1000} s`);
    } catch (failure) {
      source.release();
      throw failure;
    }
    reply.hijack();
    const length = answer.byteLength;
    const tag = answer.headers?.['etag'];
    if (tag !== undefined && namesTag(this.#raw.headers['if-none-match'], tag)) {
      source.release();
      this.#response.writeHead(304, { ...commonHeaders, 'x-request-id': this.requestId, ...answer.headers });
      this.#endHead();
      return;
    }
    this.#response.writeHead(status, {
      ...commonHeaders,
      'content-type': answer.contentType ?? mediaType,
      'x-request-id': this.requestId,
      ...(typeof length === 'number' ? { 'content-length': length } : {}),
      ...answer.headers,
    });
    if (this.#isHead) {
      source.release();
      this.#endHead();
      return;
    }
    await this.#streamed(sendBytes(this.#response, source, length, limits));
  }

  get #isHead(): boolean {
    return this.#raw.method === 'HEAD';
  }

  #endHead(): void {
    this.#response.end();
    this.#isAnswered = true;
  }

  /** A stream that breaks after its headers can only be logged: the client was told in the stream, or cut off. */
  async #streamed(sending: Promise<void>): Promise<void> {
    try {
      await sending;
      this.#isAnswered = true;
    } catch (failure) {
      if (!(failure instanceof StreamBrokenError)) this.#log(asLodgeError(failure));
    }
  }

  /** Answers with an error. */
  fail(reply: FastifyReply, failure: unknown): FastifyReply {
    const error = asLodgeError(failure);
    this.#log(error);
    this.#isAnswered = true;
    return sendError(reply, error, this.requestId, {});
  }

  #log(error: LodgeError): void {
    logFailure(this.#services.log, error, { requestId: this.requestId, route: this.#served.id, caller: this.#caller });
  }

  /** Ends a stream because the daemon stops; a request may come to its end. */
  endStream(reason: LodgeError): void {
    if (workKind(this.#served.route) !== 'request') this.#context?.abort(reason);
  }

  #closed(): void {
    const { underWay, metrics, log } = this.#services;
    underWay.delete(this);
    this.#leave?.();
    const context = this.#context;
    // Whoever sent an idempotency key asks again after a break, and then wants the answer: the work goes on.
    if (!this.#isAnswered && context?.idempotencyKey === null) context.abort(clientGone());
    const { id, route } = this.#served;
    const durationMs = performance.now() - this.#startedAt;
    metrics?.request(id, route.method, this.#response.statusCode, durationMs);
    const line = {
      requestId: this.requestId,
      route: id,
      caller: this.#caller,
      status: this.#response.statusCode,
      durationMs: Math.round(durationMs * 10) / 10,
    };
    if (route.method === 'GET') log.debug(line, 'request');
    else log.info(line, 'request');
  }
}

function isEmptyObject(value: unknown): boolean {
  return typeof value === 'object' && value !== null && !Array.isArray(value) && Object.keys(value).length === 0;
}

/** Sends an error as an answer, and keeps the connection usable or closes it in good order. */
export function sendError(
  reply: FastifyReply,
  error: LodgeError,
  requestId: string,
  headers: Readonly<Record<string, string>>,
): FastifyReply {
  const { raw: message } = reply.request;
  if (hasBody(message) && !message.complete) {
    message.resume();
    const timer = setTimeout(() => {
      if (!message.complete) message.socket.destroy();
    }, unreadLingerMs);
    message.once('close', () => clearTimeout(timer));
  }
  const extra: Record<string, string> = { ...commonHeaders, ...headers };
  if (error.code === 'unauthenticated') extra['www-authenticate'] = 'Bearer';
  if (error.code === 'rate_limited' || error.code === 'unavailable') extra['retry-after'] = '1';
  // A media type that was set for a success would make Fastify refuse to send this.
  reply.removeHeader('content-type');
  return reply
    .code(error.status)
    .headers(extra)
    .type(jsonType)
    .send(JSON.stringify(error.toBody(requestId)));
}
