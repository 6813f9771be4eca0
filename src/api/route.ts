// What a route is. A route is data: from the tables of routes (contract.ts) follow the daemon's handlers, the typed
// client and the OpenAPI document, so that a missing handler, a wrong path parameter, an undeclared error code or a
// missing permission is a compile error.
import type * as z from 'zod';
import type { ErrorCode } from './errors.ts';
import type { Permission } from './permission.ts';

/** Any zod schema; constrained this way because comparing whole object types is slow in the type checker. */
export type Schema = z.core.$ZodType;

export type Method = 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE';

/** A body or answer of plain bytes, streamed in both directions. */
export interface Bytes {
  readonly kind: 'bytes';
  readonly mediaType: string;
  readonly description: string;
}
/** An answer of server-sent events; every event's data is one JSON document of `schema`. Its errors come as `event: error`. */
export interface EventStream<S extends Schema = Schema> {
  readonly kind: 'events';
  readonly schema: S;
  readonly description: string;
}
/** The connection is upgraded to a WebSocket that carries bytes. */
export interface WebSocketUpgrade {
  readonly kind: 'websocket';
  readonly description: string;
}
/** An answer without a body. */
export interface NoContent {
  readonly kind: 'none';
}

export type RequestBody = Schema | Bytes;
export type ResponseBody = Schema | Bytes | EventStream | WebSocketUpgrade | NoContent;

export interface Route {
  readonly method: Method;
  /** With parameters in braces: `/v1/vms/{vm}`. A parameter is the object's id or name unless said otherwise. */
  readonly path: string;
  readonly tag: string;
  readonly summary: string;
  readonly description?: string;
  /** What the caller must be allowed to do; 'public' needs no credentials. */
  readonly permission: Permission | 'public';
  readonly query?: Schema;
  readonly body?: RequestBody;
  /** HTTP status when it succeeds. Default 200; 202 where a task goes on. */
  readonly status?: 200 | 201 | 202 | 204;
  readonly response: ResponseBody;
  /** Codes this route answers with beyond those every route may (see {@link commonErrors}). */
  readonly errors: readonly ErrorCode[];
  /** Takes the header Idempotency-Key: the same key and request give the same answer, made once. */
  readonly isIdempotentByKey?: boolean;
}

/** Codes that any route may answer with. */
export const commonErrors = [
  'invalid_request',
  'unauthenticated',
  'forbidden',
  'body_too_large',
  'unsupported_media_type',
  'rate_limited',
  'internal',
  'unavailable',
  'timeout',
] as const satisfies readonly ErrorCode[];

/** Declares a route and keeps its literal types. */
export function route<const R extends Route>(definition: R): R {
  return definition;
}

/** Declares a body or answer of bytes. */
export function bytes(mediaType: string, description: string): Bytes {
  return { kind: 'bytes', mediaType, description };
}
/** Declares an answer of server-sent events. */
export function eventStream<S extends Schema>(schema: S, description: string): EventStream<S> {
  return { kind: 'events', schema, description };
}
/** Declares an answer without a body. */
export const noContent: NoContent = { kind: 'none' };

/** The names in braces of a path. */
export type PathParameter<P extends string> = P extends `${string}{${infer Name}}${infer Rest}`
  ? Name | PathParameter<Rest>
  : never;

type Empty = Record<never, never>;
type ParamsOf<R extends Route> = [PathParameter<R['path']>] extends [never]
  ? Empty
  : { params: Record<PathParameter<R['path']>, string> };
type InputOf<S> = S extends Schema ? z.input<S> : never;
type OutputOf<S> = S extends Schema ? z.output<S> : never;
type IsOptional<T> = Empty extends T ? true : false;

type QueryIn<R extends Route> = R['query'] extends Schema
  ? IsOptional<InputOf<R['query']>> extends true
    ? { query?: InputOf<R['query']> }
    : { query: InputOf<R['query']> }
  : Empty;
type QueryOut<R extends Route> = R['query'] extends Schema ? { query: OutputOf<R['query']> } : Empty;
type BodyIn<R extends Route, ByteSource> = R['body'] extends Schema
  ? IsOptional<InputOf<R['body']>> extends true
    ? { body?: InputOf<R['body']> }
    : { body: InputOf<R['body']> }
  : R['body'] extends Bytes
    ? { body: ByteSource }
    : Empty;
type BodyOut<R extends Route, ByteSource> = R['body'] extends Schema
  ? { body: OutputOf<R['body']> }
  : R['body'] extends Bytes
    ? { body: ByteSource }
    : Empty;

/** What a caller gives: path parameters, query, body, and an idempotency key where the route takes one. */
export type RouteInput<R extends Route, ByteSource = unknown> = ParamsOf<R> &
  QueryIn<R> &
  BodyIn<R, ByteSource> &
  (R['isIdempotentByKey'] extends true ? { idempotencyKey?: string } : Empty);
/** What a handler gets: the same after validation, with defaults filled in. */
export type RouteRequest<R extends Route, ByteSource = unknown> = ParamsOf<R> & QueryOut<R> & BodyOut<R, ByteSource>;

/** What a handler answers with. `Events` and `ByteSource` are the runtime's types for streams. */
export type RouteAnswer<R extends Route, ByteSource = unknown> = R['response'] extends Schema
  ? OutputOf<R['response']>
  : R['response'] extends EventStream<infer S>
    ? AsyncIterable<OutputOf<S>>
    : R['response'] extends Bytes
      ? ByteSource
      : void;

/** A noun's routes by verb; the id of a route is `noun.verb`. */
export type RouteTable = Readonly<Record<string, Route>>;

/** Whether a body or answer is a schema, so JSON. */
export function isSchema(body: RequestBody | ResponseBody | undefined): body is Schema {
  return body !== undefined && '_zod' in body;
}
