// Reads what comes with a request: JSON up to a limit and within a deadline, or bytes as a stream with back-pressure,
// counted, and with a limit on silence. A body is read only after the caller's permission was checked.
import type { IncomingMessage } from 'node:http';
import { LodgeError } from '../../api/errors.ts';
import type { ByteSource } from './context.ts';
import { parseJson } from './validation.ts';

export interface BodyLimits {
  /** Largest JSON body, bytes. */
  maxJsonBytes: number;
  /** Largest body of bytes. */
  maxUploadBytes: number;
  /** A JSON body must have arrived within this, milliseconds. */
  jsonTimeoutMs: number;
  /** Longest silence while bytes are uploaded, milliseconds. */
  uploadIdleMs: number;
}

/** Whether the request announces a body (RFC 9112, 6.3). */
export function hasBody(message: IncomingMessage): boolean {
  const length = message.headers['content-length'];
  return message.headers['transfer-encoding'] !== undefined || (length !== undefined && length !== '0');
}

function mediaType(message: IncomingMessage): string {
  return (message.headers['content-type'] ?? '').split(';', 1)[0]?.trim().toLowerCase() ?? '';
}

function refuseEncoding(message: IncomingMessage): void {
  const encoding = message.headers['content-encoding'];
  if (encoding !== undefined && encoding.toLowerCase() !== 'identity') {
    throw new LodgeError(
      'unsupported_media_type',
      `the body has the content encoding ${JSON.stringify(encoding.slice(0, 40))}`,
      {
        hint: 'Send the body without Content-Encoding.',
      },
    );
  }
}

function announcedLength(message: IncomingMessage): number | null {
  const text = message.headers['content-length'];
  return text === undefined ? null : Number(text);
}

function tooLarge(limit: number): LodgeError {
  return new LodgeError('body_too_large', `the body is larger than ${limit} bytes`);
}

/** The JSON body; undefined when there is none. */
export async function readJson(message: IncomingMessage, limits: BodyLimits): Promise<unknown> {
  if (!hasBody(message)) return undefined;
  const type = mediaType(message);
  if (type !== 'application/json') {
    throw new LodgeError(
      'unsupported_media_type',
      type === '' ? 'the body has no Content-Type' : `the body has the media type ${JSON.stringify(type.slice(0, 80))}`,
    );
  }
  refuseEncoding(message);
  const { maxJsonBytes } = limits;
  const announced = announcedLength(message);
  if (announced !== null && announced > maxJsonBytes) throw tooLarge(maxJsonBytes);
  const bytes = await collect(message, maxJsonBytes, limits.jsonTimeoutMs);
  return bytes.length === 0 ? undefined : parseJson(bytes);
}

function collect(message: IncomingMessage, limit: number, timeoutMs: number): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = [];
    let length = 0;
    const timer = setTimeout(() => {
      stop();
      reject(new LodgeError('timeout', `the body did not arrive within ${timeoutMs / 1000} s`));
    }, timeoutMs);
    const onData = (chunk: Buffer): void => {
      length += chunk.length;
      if (length > limit) {
        stop();
        reject(tooLarge(limit));
      } else chunks.push(chunk);
    };
    const onEnd = (): void => {
      stop();
      resolve(Buffer.concat(chunks, length));
    };
    const onBreak = (): void => {
      stop();
      reject(clientGone());
    };
    const stop = (): void => {
      clearTimeout(timer);
      message.off('data', onData).off('end', onEnd).off('error', onBreak).off('close', onBreak);
      // The parser's errors come to clientError too; without a listener here they would be uncaught.
      message.on('error', ignore);
    };
    message.on('data', onData).on('end', onEnd).on('error', onBreak).on('close', onBreak);
    if (message.destroyed && !message.readableEnded) onBreak();
  });
}

function ignore(): void {
  // Nothing: see where it is used.
}

/** The client closed the connection before it had sent or got everything. */
export function clientGone(): LodgeError {
  return new LodgeError('cancelled', 'the client closed the connection before the request was done', {
    hint: 'Send the request again.',
  });
}

/** A body of bytes: read once, as fast as the handler takes it. */
export class RequestBytes implements ByteSource {
  readonly byteLength: number | null;
  readonly contentType: string;
  /** What has been read so far. */
  receivedBytes = 0;
  readonly #message: IncomingMessage;
  readonly #limits: BodyLimits;

  /** Refuses what is too large by its own account, or encoded. */
  constructor(message: IncomingMessage, limits: BodyLimits, expectedType: string) {
    refuseEncoding(message);
    const type = mediaType(message);
    // Bytes are bytes: an upload may say what it is, but a form or a JSON document shows a mistaken request.
    if (/^(multipart\/|application\/x-www-form-urlencoded$|application\/json$)/.test(type)) {
      throw new LodgeError(
        'unsupported_media_type',
        `the body has the media type ${type}, and this route takes ${expectedType}`,
        {
          hint: `Send the bytes themselves with Content-Type: ${expectedType}.`,
        },
      );
    }
    this.byteLength = hasBody(message) ? announcedLength(message) : 0;
    if (this.byteLength !== null && this.byteLength > limits.maxUploadBytes) throw tooLarge(limits.maxUploadBytes);
    this.contentType = type;
    this.#message = message;
    this.#limits = limits;
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Uint8Array, void> {
    const { uploadIdleMs, maxUploadBytes } = this.#limits;
    // Destroying the message would destroy the connection, and with it the way for the answer.
    const iterator = this.#message.iterator({ destroyOnReturn: false });
    for (;;) {
      // The time runs only while the stream is being read: a handler that is slow to take is no silent client.
      const next = await withinSilence(iterator.next() as Promise<IteratorResult<Buffer, undefined>>, uploadIdleMs);
      if (next.done === true) break;
      this.receivedBytes += next.value.length;
      if (this.receivedBytes > maxUploadBytes) throw tooLarge(maxUploadBytes);
      yield next.value;
    }
    if (!this.#message.complete) throw clientGone();
  }
}

async function withinSilence<T>(next: Promise<T>, idleMs: number): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const silence = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(() => reject(new LodgeError('timeout', `the upload was silent for ${idleMs / 1000} s`)), idleMs);
  });
  try {
    return await Promise.race([next.catch(() => Promise.reject(clientGone())), silence]);
  } finally {
    clearTimeout(timer);
  }
}
