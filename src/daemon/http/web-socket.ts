// WebSocket routes: the handler decides first and may refuse with an ordinary answer; then the connection is a stream of
// bytes with back-pressure. A peer that has gone without a word is found by pings.
import type { IncomingMessage } from 'node:http';
import { Duplex } from 'node:stream';
import { WebSocketServer, type RawData, type WebSocket } from 'ws';
import { LodgeError } from '../../api/errors.ts';
import { asLodgeError } from './failure.ts';

/** Largest frame a client may send, bytes. */
const maxFrameBytes = 1024 * 1024;
/** Bytes a stream holds in each direction. */
const streamBufferBytes = 64 * 1024;
/** A control frame has 125 bytes, two of them the code (RFC 6455, 5.5). */
const maxReasonBytes = 123;

/** Codes of RFC 6455, 7.4.1. */
const closeCodes = { done: 1000, goingAway: 1001, failed: 1011 } as const;

/** Upgrades connections and watches over them. */
export class WebSocketUpgrades {
  readonly #server: WebSocketServer;
  readonly #open = new Map<WebSocket, { hasAnswered: boolean }>();
  readonly #refused = new WeakMap<Duplex, (failure: LodgeError) => void>();
  readonly #heartbeat: NodeJS.Timeout;

  constructor(pingMs: number) {
    this.#server = new WebSocketServer({
      noServer: true,
      clientTracking: false,
      perMessageDeflate: false,
      maxPayload: maxFrameBytes,
      // noVNC asks for `binary`; others ask for none.
      handleProtocols: (protocols) => (protocols.has('binary') ? 'binary' : false),
    });
    // With a listener, ws leaves the answer to us.
    this.#server.on('wsClientError', (failure, socket) => {
      this.#refused.get(socket)?.(
        new LodgeError('invalid_request', `this is no WebSocket handshake: ${failure.message}`),
      );
    });
    this.#heartbeat = setInterval(() => this.#ping(), pingMs);
    this.#heartbeat.unref();
  }

  /** How many are open. */
  get count(): number {
    return this.#open.size;
  }

  /** Answers the upgrade. Rejects with `invalid_request` for a wrong handshake. */
  accept(request: IncomingMessage, socket: Duplex, head: Buffer): Promise<AcceptedWebSocket> {
    const { promise, resolve, reject } = Promise.withResolvers<AcceptedWebSocket>();
    this.#refused.set(socket, reject);
    this.#server.handleUpgrade(request, socket, head, (webSocket) => {
      const state = { hasAnswered: true };
      this.#open.set(webSocket, state);
      webSocket.on('pong', () => (state.hasAnswered = true));
      webSocket.once('close', () => this.#open.delete(webSocket));
      resolve(new AcceptedWebSocket(webSocket));
    });
    return promise;
  }

  #ping(): void {
    for (const [webSocket, state] of this.#open) {
      if (!state.hasAnswered) {
        webSocket.terminate();
        continue;
      }
      state.hasAnswered = false;
      webSocket.ping();
    }
  }

  /** Closes all because the daemon stops. */
  close(): void {
    clearInterval(this.#heartbeat);
    for (const webSocket of this.#open.keys()) webSocket.close(closeCodes.goingAway, 'the daemon is stopping');
  }

  /** Cuts off what has not closed by itself. */
  terminate(): void {
    for (const webSocket of this.#open.keys()) webSocket.terminate();
  }
}

/** One open WebSocket. */
export class AcceptedWebSocket {
  readonly stream: Duplex;
  readonly #webSocket: WebSocket;

  constructor(webSocket: WebSocket) {
    this.#webSocket = webSocket;
    this.stream = byteStream(webSocket);
  }

  /** Calls back when it is closed, by either side. */
  onClose(listener: () => void): void {
    this.#webSocket.once('close', listener);
  }

  /** Closes after what was written has been sent. */
  finish(): void {
    if (this.stream.destroyed || this.stream.writableEnded) this.#webSocket.close(closeCodes.done);
    else this.stream.end();
  }

  /** Closes with the error as the reason. */
  fail(failure: unknown): void {
    const error = asLodgeError(failure);
    this.#webSocket.close(closeCodes.failed, shortReason(`${error.code}: ${error.message}`));
  }
}

/**
 * The frames as a stream. Unlike the stream that ws offers, it leaves the connection open when it is destroyed: how it
 * closes, with which code, is said when the handler's promise settles.
 */
function byteStream(webSocket: WebSocket): Duplex {
  const stream = new Duplex({
    readableHighWaterMark: streamBufferBytes,
    writableHighWaterMark: streamBufferBytes,
    read: () => webSocket.resume(),
    write: (chunk: Buffer, _encoding, done) => webSocket.send(chunk, { binary: true }, done),
    final: (done) => {
      webSocket.close(closeCodes.done);
      done();
    },
    destroy: (failure, done) => {
      webSocket.off('message', onMessage);
      // Paused, it would not see the other side's answer to the close frame.
      webSocket.resume();
      done(failure);
    },
  });
  const onMessage = (data: RawData): void => {
    if (!stream.push(asBuffer(data))) webSocket.pause();
  };
  webSocket.on('message', onMessage);
  webSocket.once('close', () => {
    if (!stream.destroyed) stream.push(null);
  });
  webSocket.on('error', (failure) => stream.destroy(failure));
  // A handler that has left its stream must not bring the daemon down when the connection breaks.
  stream.on('error', () => undefined);
  return stream;
}

function asBuffer(data: RawData): Buffer {
  if (Array.isArray(data)) return Buffer.concat(data);
  return Buffer.isBuffer(data) ? data : Buffer.from(data);
}

/** A text that fits into a close frame, cut between characters. */
function shortReason(text: string): string {
  const bytes = Buffer.from(text);
  if (bytes.length <= maxReasonBytes) return text;
  let end = maxReasonBytes;
  while (end > 0 && ((bytes[end] ?? 0) & 0xc0) === 0x80) end -= 1;
  return bytes.subarray(0, end).toString();
}
