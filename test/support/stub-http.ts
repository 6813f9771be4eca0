// The daemon's HTTP server without a daemon: on a unix socket in a temporary folder, with handlers that a test gives.
// Routes without one answer with an arbitrary value of their schema.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { request as httpRequest } from 'node:http';
import { connect as connectSocket } from 'node:net';
import { join } from 'node:path';
import * as fc from 'fast-check';
import { pino, type Logger } from 'pino';
import { allRoutes, type Handlers } from '../../src/api/contract.ts';
import { errorBody, LodgeError, type ErrorBody } from '../../src/api/errors.ts';
import { isSchema, type Route } from '../../src/api/route.ts';
import { type LodgeClient } from '../../src/client/client.ts';
import { connect, type NodeClient } from '../../src/client/node-transport.ts';
import { byteAnswer, type ByteSource, type RequestContext } from '../../src/daemon/http/context.ts';
import { startHttp, type HttpOptions, type HttpServer } from '../../src/daemon/http/server.ts';
import { arbitraryOf } from './arbitrary.ts';
import { atEnd, type Cleanup } from './cleanup.ts';
import { temporaryFolder } from './temporary.ts';

/** A handler of a test: whatever it answers, a promise or not. */
export type StubHandler = (request: StubRequest, context: RequestContext) => unknown;
export interface StubRequest {
  params: Record<string, string>;
  query: Record<string, unknown>;
  body: unknown;
}

export interface StubServer {
  server: HttpServer;
  socketPath: string;
  client: LodgeClient;
  connection: NodeClient;
  /** What the server logged, as pino's lines. */
  logged: Record<string, unknown>[];
}

/** Handlers of the whole contract from those of some routes. */
export function stubHandlers(own: Readonly<Record<string, StubHandler>>): Handlers<RequestContext, ByteSource> {
  const handlers: Record<string, Record<string, unknown>> = {};
  for (const { id, noun, verb, route } of allRoutes()) {
    const handler = own[id] ?? ((request: StubRequest) => anyAnswer(route, request));
    (handlers[noun] ??= {})[verb] = async (request: StubRequest, context: RequestContext) => handler(request, context);
  }
  return handlers as unknown as Handlers<RequestContext, ByteSource>;
}

async function anyAnswer(route: Route, request: StubRequest): Promise<unknown> {
  const { body } = request;
  if (route.body !== undefined && !isSchema(route.body)) {
    for await (const chunk of body as ByteSource) void chunk;
  }
  const { response } = route;
  if (isSchema(response)) return fc.sample(arbitraryOf(response, 'output'), 1)[0];
  switch (response.kind) {
    case 'bytes':
      return byteAnswer('bytes');
    case 'events': {
      const events = fc.sample(arbitraryOf(response.schema, 'output'), 2);
      return (async function* () {
        yield* events;
      })();
    }
    case 'none':
    case 'websocket':
      return undefined;
  }
}

/** Starts a server that ends with the test. */
export async function startStub(
  test: Cleanup,
  own: Readonly<Record<string, StubHandler>> = {},
  options: Partial<HttpOptions> = {},
): Promise<StubServer> {
  const folder = await temporaryFolder(test);
  const logged: Record<string, unknown>[] = [];
  const log: Logger = pino(
    { level: 'debug' },
    { write: (line) => void logged.push(JSON.parse(line) as Record<string, unknown>) },
  );
  const server = await startHttp({
    handlers: stubHandlers(own),
    authenticate: async (secret) => {
      if (secret === 'viewer-secret') return { name: 'token:viewer', role: 'viewer', kind: 'token' };
      if (secret === 'admin-secret') return { name: 'token:admin', role: 'admin', kind: 'token' };
      return null;
    },
    log,
    listen: { socket: { path: join(folder, 's'), group: null } },
    isOutputChecked: true,
    ...options,
  });
  const socketPath = server.socketPath ?? '';
  const connection = connect({ socketPath, timeoutMs: 60_000 });
  atEnd(test, async () => {
    connection.close();
    await server.close({ graceMs: 0 });
  });
  return { server, socketPath, client: connection.client, connection, logged };
}

export interface RawAnswer {
  status: number;
  headers: Record<string, string | string[] | undefined>;
  text: string;
}

/** One request as it is, with nothing done for the caller. */
export function rawRequest(
  socketPath: string,
  method: string,
  path: string,
  options: { headers?: Record<string, string>; body?: string | Uint8Array } = {},
): Promise<RawAnswer> {
  return new Promise((resolve, reject) => {
    // Node would send the body of a DELETE without saying how long it is.
    const isSized = options.body !== undefined && options.headers?.['transfer-encoding'] === undefined;
    const length = isSized ? { 'content-length': String(Buffer.byteLength(options.body ?? '')) } : {};
    const headers = { ...length, ...options.headers };
    const request = httpRequest({ socketPath, method, path, headers, timeout: 60_000 });
    request.once('response', (message) => {
      let text = '';
      message.setEncoding('utf8');
      message.on('data', (chunk: string) => (text += chunk));
      message.once('end', () => resolve({ status: message.statusCode ?? 0, headers: message.headers, text }));
      message.once('error', reject);
    });
    request.once('timeout', () => request.destroy(new Error(`${method} ${path}: no answer within 60 s`)));
    request.once('error', reject);
    request.end(options.body);
  });
}

/** The error in an answer. */
export function errorOf(answer: RawAnswer): ErrorBody['error'] {
  return errorBody.parse(JSON.parse(answer.text)).error;
}

/** What a promise rejects with, which must be a LodgeError. */
export async function failureOf(promise: Promise<unknown>): Promise<LodgeError> {
  const failure: unknown = await promise.then(
    () => null,
    (error: unknown) => error,
  );
  assert.ok(failure instanceof LodgeError, String(failure));
  return failure;
}

/** Sends bytes as they are, and gives all that comes back until the server closes. */
export async function sendRaw(socketPath: string, text: string): Promise<string> {
  const socket = connectSocket(socketPath);
  let answer = '';
  socket.setEncoding('utf8').on('data', (chunk: string) => (answer += chunk));
  socket.setTimeout(60_000, () => socket.destroy(new Error('no answer within 60 s')));
  socket.write(text);
  await once(socket, 'close');
  return answer;
}
