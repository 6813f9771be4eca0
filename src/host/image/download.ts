// Downloads a file over HTTP, and goes on where it was cut off: within one call after a pause, and in a later call for
// the same target, even of another process. What is on disk is continued only when the server says it is still the
// same file (If-Range with a strong validator); otherwise it starts again. Only http and https; https never falls
// back to http by a redirect.
//
//   request ──206──▶ append ─┐
//      │  └──200──▶ start new ├─▶ all bytes there? ──yes──▶ done
//      │                      └─ cut off, 5xx, 429, silence ─▶ pause ─▶ request   (at most `retryDelaysMs.length` times
//      └─ 4xx, bad redirect, too large ─▶ error                                    without any progress)
import { open, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { request as httpRequest, type IncomingMessage } from 'node:http';
import { request as httpsRequest } from 'node:https';
import { setTimeout as delay } from 'node:timers/promises';
import { ImageProblemError } from './problem.ts';
import { explainWrite } from './sparse-file.ts';

export interface DownloadOptions {
  maxBytes: number;
  /** `bytesTotal` is null while the server has not told it. */
  onProgress?: (bytesDone: number, bytesTotal: number | null) => void;
  /** Called before bytes are taken, when the server told how many come; may refuse by throwing. */
  beforeBody?: (bytesToCome: number) => Promise<void>;
  signal?: AbortSignal;
  /** Pauses before new attempts. Default: five, from half a second to eight. Progress starts them over. */
  retryDelaysMs?: readonly number[];
  /** The longest silence of the server. Default 30 s. */
  idleTimeoutMs?: number;
  /** The longest the whole may take. Default twelve hours. */
  timeoutMs?: number;
}

const MAX_REDIRECTS = 5;
const DEFAULT_RETRY_DELAYS_MS = [500, 1000, 2000, 4000, 8000];
const USER_AGENT = 'lodge';

/** Beside a partial file: what it is a part of. */
interface PartialState {
  url: string;
  /** A strong ETag or a Last-Modified date, as the server sent it. */
  validator: string;
  totalBytes: number | null;
}

/** Worth another attempt. */
class Interrupted extends Error {
  override name = 'Interrupted';
}

/** Checks an address that a user gave; answers it parsed. */
export function parseImageUrl(text: string): URL {
  let url: URL;
  try {
    url = new URL(text);
  } catch (error) {
    throw new ImageProblemError('address', `${text.slice(0, 200)} is not a web address.`, { cause: error });
  }
  if (url.protocol !== 'http:' && url.protocol !== 'https:') {
    throw new ImageProblemError(
      'address',
      `${text.slice(0, 200)}: images are taken from http: and https: addresses, not ${url.protocol}`,
    );
  }
  if (url.username || url.password) {
    throw new ImageProblemError(
      'address',
      `The address of ${url.host} holds a user name or password, which would be stored and logged. Leave it out.`,
    );
  }
  return url;
}

/**
 * Downloads to `path`. While it runs, and after an interruption, the bytes are in `path`.part and what they are in
 * `path`.part.json; both go when it is done, or when they are of no use any more.
 */
export async function download(
  address: string,
  path: string,
  options: DownloadOptions,
): Promise<{ sizeBytes: number }> {
  const url = parseImageUrl(address);
  const delays = options.retryDelaysMs ?? DEFAULT_RETRY_DELAYS_MS;
  const deadline = AbortSignal.timeout(options.timeoutMs ?? 12 * 3_600_000);
  const signal = options.signal ? AbortSignal.any([options.signal, deadline]) : deadline;
  const part = new PartialFile(`${path}.part`);
  for (let attempt = 0; ; attempt++) {
    const before = await part.length();
    try {
      const sizeBytes = await attemptDownload(url, part, options, signal);
      await rename(part.path, path);
      await part.remove();
      return { sizeBytes };
    } catch (error) {
      if (signal.aborted) {
        const isDeadline = deadline.aborted && !options.signal?.aborted;
        throw new ImageProblemError(
          isDeadline ? 'unreachable' : 'aborted',
          isDeadline
            ? `Downloading from ${url.host} took longer than its deadline.`
            : `The download from ${url.host} was cancelled.`,
          { cause: error },
        );
      }
      if (!(error instanceof Interrupted)) {
        if (error instanceof ImageProblemError) await part.remove();
        throw error;
      }
      if ((await part.length()) > before) attempt = 0;
      const pauseMs = delays[attempt];
      if (pauseMs === undefined) {
        const isKept = (await part.resumable(url)) !== null;
        if (!isKept) await part.remove();
        throw new ImageProblemError(
          'unreachable',
          `${url.href} could not be downloaded: ${error.message}. ${isKept ? 'What arrived is kept for a day: try again to go on from there.' : 'The server does not say how to go on from there: the next try begins anew.'}`,
          { cause: error },
        );
      }
      await delay(pauseMs, undefined, { signal }).catch(() => {});
    }
  }
}

class PartialFile {
  readonly path: string;

  constructor(path: string) {
    this.path = path;
  }

  async length(): Promise<number> {
    return (await stat(this.path).catch(() => null))?.size ?? 0;
  }

  /** What can be continued for this address, or null. */
  async resumable(url: URL): Promise<(PartialState & { offset: number }) | null> {
    const offset = await this.length();
    if (offset === 0) return null;
    try {
      const state = JSON.parse(await readFile(`${this.path}.json`, 'utf8')) as Partial<PartialState>;
      if (state.url !== url.href || typeof state.validator !== 'string') return null;
      return { url: state.url, validator: state.validator, totalBytes: state.totalBytes ?? null, offset };
    } catch {
      return null;
    }
  }

  async describe(state: PartialState | null): Promise<void> {
    if (state) await writeFile(`${this.path}.json`, JSON.stringify(state), { mode: 0o600 });
    else await rm(`${this.path}.json`, { force: true });
  }

  async remove(): Promise<void> {
    await rm(this.path, { force: true });
    await rm(`${this.path}.json`, { force: true });
  }
}

async function attemptDownload(
  url: URL,
  part: PartialFile,
  options: DownloadOptions,
  signal: AbortSignal,
): Promise<number> {
  const resume = await part.resumable(url);
  if (resume && resume.totalBytes === resume.offset) return resume.offset;
  const headers: Record<string, string> = resume
    ? { range: `bytes=${resume.offset}-`, 'if-range': resume.validator }
    : {};
  const response = await openResponse(url, headers, options, signal);
  try {
    const offset = response.statusCode === 206 && resume ? resume.offset : 0;
    if (response.statusCode === 416) {
      // The file is no longer as long as what is here.
      await part.remove();
      throw new Interrupted('the file changed on the server');
    }
    if (response.statusCode === 206 && rangeStart(response) !== offset) {
      await part.remove();
      throw new Interrupted('the server sent another range than was asked for');
    }
    if (response.headers['content-encoding'] && response.headers['content-encoding'] !== 'identity') {
      throw new ImageProblemError(
        'format',
        `${url.host} sends the file encoded (${response.headers['content-encoding']}), though plain was asked for.`,
      );
    }
    const totalBytes = totalLength(response, offset);
    if (totalBytes !== null && totalBytes > options.maxBytes) {
      throw new ImageProblemError(
        'too-large',
        `${url.href} has ${totalBytes} bytes; at most ${options.maxBytes} are taken.`,
      );
    }
    if (totalBytes !== null) await options.beforeBody?.(totalBytes - offset);
    if (offset === 0) {
      await rm(part.path, { force: true });
      const validator = strongValidator(response);
      await part.describe(validator === null ? null : { url: url.href, validator, totalBytes });
    }
    return await appendBody(response, part.path, offset, totalBytes, options, url);
  } finally {
    response.destroy();
  }
}

async function appendBody(
  response: IncomingMessage,
  path: string,
  offset: number,
  totalBytes: number | null,
  options: DownloadOptions,
  url: URL,
): Promise<number> {
  const file = await open(path, offset === 0 ? 'w' : 'r+', 0o600);
  try {
    let position = offset;
    options.onProgress?.(position, totalBytes);
    try {
      for await (const chunk of response as AsyncIterable<Buffer>) {
        if (position + chunk.length > options.maxBytes) {
          throw new ImageProblemError(
            'too-large',
            `${url.href} has more than the ${options.maxBytes} bytes that are taken.`,
          );
        }
        let written = 0;
        while (written < chunk.length) {
          const { bytesWritten } = await file
            .write(chunk, written, chunk.length - written, position + written)
            .catch((error: unknown) => {
              throw explainWrite(error, url.href);
            });
          written += bytesWritten;
        }
        position += chunk.length;
        options.onProgress?.(position, totalBytes);
      }
    } catch (error) {
      if (error instanceof ImageProblemError) throw error;
      throw new Interrupted(`the connection broke after ${position} bytes`, { cause: error });
    }
    if (totalBytes !== null && position < totalBytes) {
      throw new Interrupted(`it ended after ${position} of ${totalBytes} bytes`);
    }
    await file.datasync();
    return position;
  } finally {
    await file.close();
  }
}

const TRANSIENT_STATUS = new Set([408, 425, 429, 500, 502, 503, 504]);

/** Sends GET and follows redirects until there is an answer with a body (200, 206) or 416. */
async function openResponse(
  start: URL,
  headers: Record<string, string>,
  options: DownloadOptions,
  signal: AbortSignal,
): Promise<IncomingMessage> {
  let url = start;
  for (let redirects = 0; ; redirects++) {
    const response = await send(url, headers, options, signal);
    const status = response.statusCode ?? 0;
    if (status === 200 || status === 206 || status === 416) return response;
    response.destroy();
    const location = response.headers.location;
    if ([301, 302, 303, 307, 308].includes(status) && location !== undefined) {
      if (redirects === MAX_REDIRECTS) {
        throw new ImageProblemError('address', `${start.href} redirects more than ${MAX_REDIRECTS} times.`);
      }
      const next = parseImageUrl(URL.canParse(location, url.href) ? new URL(location, url).href : location);
      if (url.protocol === 'https:' && next.protocol === 'http:') {
        throw new ImageProblemError(
          'address',
          `${url.href} redirects to plain http, where anybody could change the image. Use the final address if you trust it.`,
        );
      }
      url = next;
    } else if (TRANSIENT_STATUS.has(status)) {
      throw new Interrupted(`${url.host} answered ${status}`);
    } else {
      const isGone = status === 404 || status === 410;
      throw new ImageProblemError(
        isGone ? 'not-found' : 'unreachable',
        `${url.href} was answered with ${status} ${response.statusMessage ?? ''}`.trim(),
      );
    }
  }
}

function send(
  url: URL,
  headers: Record<string, string>,
  options: DownloadOptions,
  signal: AbortSignal,
): Promise<IncomingMessage> {
  const request = url.protocol === 'https:' ? httpsRequest : httpRequest;
  const idleTimeoutMs = options.idleTimeoutMs ?? 30_000;
  return new Promise((resolve, reject) => {
    const outgoing = request(url, {
      signal,
      agent: false,
      headers: { ...headers, 'accept-encoding': 'identity', 'user-agent': USER_AGENT, accept: '*/*' },
    });
    // The socket's own timeout covers connecting, waiting for the answer and silence while it comes.
    outgoing.setTimeout(idleTimeoutMs, () => outgoing.destroy(new Error(`nothing came for ${idleTimeoutMs} ms`)));
    outgoing.once('response', resolve);
    outgoing.on('error', (error: NodeJS.ErrnoException) => {
      reject(
        isFinal(error)
          ? new ImageProblemError('unreachable', explainConnection(url, error), { cause: error })
          : new Interrupted(error.message, { cause: error }),
      );
    });
    outgoing.end();
  });
}

/** Errors that another attempt a few seconds later would meet again. */
const isFinal = (error: NodeJS.ErrnoException): boolean =>
  error.code === 'ENOTFOUND' ||
  (error.code?.startsWith('CERT_') ?? false) ||
  (error.code?.includes('SELF_SIGNED') ?? false) ||
  (error.code?.includes('UNABLE_TO_') ?? false);

const explainConnection = (url: URL, error: NodeJS.ErrnoException): string =>
  error.code === 'ENOTFOUND'
    ? `The host name ${url.hostname} is not known. Check the address, and this machine's name servers.`
    : `The certificate of ${url.host} is not trusted here (${error.code}).`;

function rangeStart(response: IncomingMessage): number | null {
  const match = /^bytes (\d+)-/.exec(response.headers['content-range'] ?? '');
  return match ? Number(match[1]) : null;
}

function totalLength(response: IncomingMessage, offset: number): number | null {
  const ofRange = /\/(\d+)$/.exec(response.headers['content-range'] ?? '')?.[1];
  if (ofRange !== undefined) return Number(ofRange);
  const length = response.headers['content-length'];
  return length === undefined ? null : Number(length) + offset;
}

/** RFC 9110, 13.1.5: only a strong validator may be sent in If-Range. */
function strongValidator(response: IncomingMessage): string | null {
  const { etag, 'last-modified': lastModified } = response.headers;
  if (etag !== undefined && !etag.startsWith('W/')) return etag;
  return lastModified ?? null;
}
