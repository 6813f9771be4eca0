// Every failure as the one error, and the one error as an answer: also for what the HTTP parser, Fastify or the kernel
// refuse. What was not expected becomes `internal`; its cause is logged once, here, and never sent.
import { STATUS_CODES } from 'node:http';
import type { Duplex } from 'node:stream';
import type { Logger } from 'pino';
import { LodgeError } from '../../api/errors.ts';

/** A thrown value as a LodgeError. */
export function asLodgeError(failure: unknown): LodgeError {
  if (failure instanceof LodgeError) return failure;
  const known = frameworkError(failure);
  if (known !== null) return known;
  return new LodgeError('internal', 'Lodge made a mistake while it served this request', { cause: failure });
}

/** Fastify's own refusals. */
function frameworkError(failure: unknown): LodgeError | null {
  const code = codeOf(failure);
  if (code === 'FST_ERR_BAD_URL') {
    return new LodgeError('invalid_request', 'the path is not well-formed percent-encoding of UTF-8', {
      hint: 'Encode each part of the path as UTF-8 with percent-encoding.',
    });
  }
  if (code === 'FST_ERR_MAX_PARAM_LENGTH') {
    return new LodgeError('invalid_request', 'a part of the path is longer than any name or id');
  }
  if (code === 'FST_ERR_CTP_INVALID_MEDIA_TYPE') {
    return new LodgeError('unsupported_media_type', 'the header Content-Type is not a media type');
  }
  // Whatever else Fastify refuses for what the client sent.
  const isRefusal = failure instanceof Error && 'statusCode' in failure && typeof failure.statusCode === 'number';
  if (code?.startsWith('FST_') === true && isRefusal && Number(failure.statusCode) < 500) {
    return new LodgeError('invalid_request', failure.message, { cause: failure });
  }
  return null;
}

function codeOf(failure: unknown): string | null {
  return failure instanceof Error && 'code' in failure && typeof failure.code === 'string' ? failure.code : null;
}

/** Logs a failed request: loudly when it is Lodge's fault, else only for those who want to know. */
export function logFailure(
  log: Logger,
  error: LodgeError,
  about: { requestId: string; route: string; caller: string },
): void {
  const fields = { ...about, code: error.code };
  if (error.code === 'internal') log.error({ ...fields, err: error.cause ?? error }, error.message);
  else if (error.status >= 500) log.warn({ ...fields, err: error.cause }, error.message);
  else log.debug(fields, error.message);
}

/** Refusals of the HTTP parser (https://nodejs.org/api/errors.html#hpe_unexpected_content_length and its neighbours). */
export function parserError(failure: Error): LodgeError {
  switch (codeOf(failure)) {
    case 'HPE_HEADER_OVERFLOW':
      return new LodgeError('invalid_request', 'the headers are larger than 16 KiB together', {
        hint: 'Send fewer or shorter headers and a shorter path.',
      });
    case 'HPE_CHUNK_EXTENSIONS_OVERFLOW':
      return new LodgeError('invalid_request', 'the chunk extensions of the body are too long');
    case 'ERR_HTTP_REQUEST_TIMEOUT':
      return new LodgeError('timeout', 'the request did not arrive in time');
    default:
      return new LodgeError('invalid_request', 'this is not HTTP as RFC 9112 has it', {
        hint: 'Check the request line, headers and body length.',
      });
  }
}

/** Writes an answer to a connection of which no request could be read, and closes it. */
export function answerRaw(socket: Duplex, error: LodgeError, requestId?: string): void {
  if (!socket.writable) {
    socket.destroy();
    return;
  }
  const body = JSON.stringify(error.toBody(requestId));
  const lines = [
    `HTTP/1.1 ${error.status} ${STATUS_CODES[error.status] ?? ''}`,
    'content-type: application/json; charset=utf-8',
    'cache-control: no-store',
    'x-content-type-options: nosniff',
    `content-length: ${Buffer.byteLength(body)}`,
    'connection: close',
    ...(requestId === undefined ? [] : [`x-request-id: ${requestId}`]),
  ];
  socket.end(`${lines.join('\r\n')}\r\n\r\n${body}`);
}
