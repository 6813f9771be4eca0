// What the client needs in Node beyond fetch: the daemon's unix socket, HTTPS with Lodge's own certificate authority,
// and WebSockets over both. Kept apart from client.ts so that browsers don't load it.
import {
  request as httpRequest,
  Agent as HttpAgent,
  type AgentOptions,
  type ClientRequest,
  type IncomingMessage,
} from 'node:http';
import { request as httpsRequest, Agent as HttpsAgent } from 'node:https';
import { Readable, type Duplex } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { createWebSocketStream, WebSocket } from 'ws';
import { LodgeError } from '../api/errors.ts';
import { createClient, type FetchLike, type LodgeClient } from './client.ts';
import { connectionFailure, errorFromAnswer } from './failure.ts';

export interface NodeClientOptions {
  /** The daemon's unix socket; its file permissions decide who may use it. Give this or `baseUrl`. */
  socketPath?: string;
  /** `https://host:7443`. */
  baseUrl?: string;
  token?: string;
  /** PEM certificate of the authority that signed the daemon's certificate; without it, the system's authorities. */
  ca?: string;
  /** Default deadline of a call, in milliseconds: 60 s. */
  timeoutMs?: number;
}

/** An open WebSocket as a stream of bytes in both directions. */
export interface WebSocketConnection {
  /** Bytes; ends when the daemon closes, fails with a LodgeError when the connection breaks. */
  stream: Duplex;
  /** How the daemon closed it: code 1000 and its reason when it was in order (RFC 6455, 7.4). Never rejects. */
  closed: Promise<{ code: number; reason: string }>;
}

export interface NodeClient {
  client: LodgeClient;
  /** What messages call the daemon. */
  target: string;
  /** Opens a WebSocket path of the daemon, such as that of a console ticket. Rejects with the daemon's own error. */
  openWebSocket(path: string, options?: { signal?: AbortSignal; timeoutMs?: number }): Promise<WebSocketConnection>;
  /** Lets go of kept-alive connections, so that the process can end. */
  close(): void;
}

/** A client over the daemon's unix socket, or over HTTPS. */
export function connect(options: NodeClientOptions): NodeClient {
  const { socketPath, token, timeoutMs } = options;
  if ((socketPath === undefined) === (options.baseUrl === undefined)) {
    throw new LodgeError('invalid_request', 'a client takes either a socket or an address', {
      hint: 'Give --socket PATH, or --server https://host:7443.',
    });
  }
  const baseUrl = socketPath === undefined ? checkedBaseUrl(options.baseUrl ?? '') : 'http://lodge';
  const target = socketPath ?? baseUrl;
  const isTls = baseUrl.startsWith('https:');
  const makeAgent = (limits: AgentOptions): HttpAgent =>
    isTls ? new HttpsAgent({ ...limits, minVersion: 'TLSv1.3', ca: options.ca }) : new HttpAgent(limits);
  const agent = makeAgent({ keepAlive: true, maxSockets: 32 });
  // Streams keep their connections for as long as somebody follows them: those of the calls must not wait for that.
  const streamAgent = makeAgent({ keepAlive: false });
  const transport: FetchLike = (url, init) => send(url, init, isStream(init.headers) ? streamAgent : agent, socketPath);

  return {
    client: createClient({ baseUrl, token, target, timeoutMs, fetch: transport }),
    target,
    openWebSocket: (path, { signal, timeoutMs: deadlineMs = 15_000 } = {}) =>
      openWebSocket(
        socketPath === undefined ? `${baseUrl.replace(/^http/, 'ws')}${path}` : `ws+unix:${socketPath}:${path}`,
        { target, signal, deadlineMs, ca: options.ca, token },
      ),
    close: () => {
      agent.destroy();
      streamAgent.destroy();
    },
  };
}

function isStream(headers: Readonly<Record<string, string>>): boolean {
  return headers['accept']?.startsWith('text/event-stream') === true;
}

function checkedBaseUrl(text: string): string {
  const url = URL.parse(text);
  if (url === null || !/^https?:$/.test(url.protocol)) {
    throw new LodgeError('invalid_request', `${JSON.stringify(text)} is not an address of a daemon`, {
      hint: 'Give an address such as https://host:7443.',
    });
  }
  return `${url.origin}${url.pathname.replace(/\/+$/, '')}`;
}

/** One request as fetch would make it, through an agent. */
function send(url: string, init: Parameters<FetchLike>[1], agent: HttpAgent, socketPath?: string): Promise<Response> {
  const { promise, resolve, reject } = Promise.withResolvers<Response>();
  const make = url.startsWith('https:') ? httpsRequest : httpRequest;
  const headers: Record<string, string | number> = { ...init.headers };
  if (typeof init.body === 'string') headers['content-length'] = Buffer.byteLength(init.body);
  else if (init.body instanceof Uint8Array) headers['content-length'] = init.body.length;
  else if (init.body instanceof Blob) headers['content-length'] = init.body.size;
  else if (init.body === undefined && init.method !== 'GET') headers['content-length'] = 0;

  const request = make(url, { method: init.method, headers, agent, socketPath, signal: init.signal });
  let hasAnswer = false;
  request.on('response', (message) => {
    hasAnswer = true;
    resolve(asResponse(message, init.signal));
  });
  request.on('error', (failure) => {
    if (hasAnswer) return;
    // The daemon may close an idle connection in the moment it is used again (RFC 9112, 9.3.1): a GET may be repeated.
    const isStale = request.reusedSocket && 'code' in failure && failure.code === 'ECONNRESET';
    if (isStale && init.method === 'GET' && !init.signal.aborted) resolve(send(url, init, agent, socketPath));
    else reject(failure);
  });
  writeBody(request, init.body).catch((failure: unknown) => {
    // The daemon may answer before it has read the whole body: then its answer counts, not the broken pipe.
    if (!hasAnswer) reject(failure);
    request.destroy();
  });
  return promise;
}

async function writeBody(request: ClientRequest, body: Parameters<FetchLike>[1]['body']): Promise<void> {
  if (body === undefined || typeof body === 'string' || body instanceof Uint8Array) {
    request.end(body);
    return;
  }
  const stream = body instanceof Blob ? body.stream() : body;
  await pipeline(Readable.fromWeb(stream), request).catch(async (failure: unknown) => {
    // An answer that is already on its way shows why the daemon stopped reading.
    await new Promise((resolve) => setTimeout(resolve, 250).unref());
    throw failure;
  });
}

function asResponse(message: IncomingMessage, signal: AbortSignal): Response {
  const status = message.statusCode ?? 502;
  const headers = new Headers();
  for (let i = 0; i + 1 < message.rawHeaders.length; i += 2) {
    headers.append(message.rawHeaders[i] ?? '', message.rawHeaders[i + 1] ?? '');
  }
  if (status === 204 || status === 304) {
    message.resume();
    return new Response(null, { status, headers });
  }
  const onAbort = (): void =>
    void message.destroy(signal.reason instanceof Error ? signal.reason : new Error('aborted'));
  signal.addEventListener('abort', onAbort, { once: true });
  message.once('close', () => signal.removeEventListener('abort', onAbort));
  const body = Readable.toWeb(message, {
    strategy: { highWaterMark: 65_536, size: (chunk: Uint8Array) => chunk.length },
  });
  return new Response(body as ReadableStream<Uint8Array>, { status, headers });
}

/** Longest error an upgrade may be refused with, in characters. */
const maxRefusalLength = 65_536;

function openWebSocket(
  url: string,
  options: { target: string; signal?: AbortSignal; deadlineMs: number; ca?: string; token?: string },
): Promise<WebSocketConnection> {
  const { target, signal, deadlineMs } = options;
  signal?.throwIfAborted();
  const { promise, resolve, reject } = Promise.withResolvers<WebSocketConnection>();
  const socket = new WebSocket(url, {
    handshakeTimeout: deadlineMs,
    perMessageDeflate: false,
    maxPayload: 16 * 1024 * 1024,
    ca: options.ca,
    minVersion: 'TLSv1.3',
    headers: options.token === undefined ? {} : { authorization: `Bearer ${options.token}` },
  });
  const closed = new Promise<{ code: number; reason: string }>((done) => {
    socket.once('close', (code, reason) => done({ code, reason: reason.toString() }));
  });
  const onAbort = (): void => {
    reject(signal?.reason as Error);
    socket.terminate();
  };
  signal?.addEventListener('abort', onAbort, { once: true });
  void closed.then(() => signal?.removeEventListener('abort', onAbort));

  const onFailure = (failure: Error): void => reject(connectionFailure(failure, target));
  socket.once('error', onFailure);
  socket.once('unexpected-response', (_request, message) => {
    readText(message)
      .then((text) => reject(errorFromAnswer(message.statusCode ?? 502, text, target)), onFailure)
      .finally(() => socket.terminate());
  });
  socket.once('open', () => {
    socket.off('error', onFailure);
    // The stream takes over the socket's errors.
    resolve({ stream: createWebSocketStream(socket, { highWaterMark: 65_536 }), closed });
  });
  return promise;
}

async function readText(message: IncomingMessage): Promise<string> {
  let text = '';
  for await (const chunk of message.setEncoding('utf8')) {
    text += String(chunk);
    if (text.length > maxRefusalLength) break;
  }
  return text;
}
