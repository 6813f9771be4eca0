// Sends streams: bytes, and server-sent events. Both take from their source only what the connection takes, so that a
// slow client costs one chunk of memory; a client that takes nothing for too long is cut off.
import type { ServerResponse } from 'node:http';
import { asLodgeError } from './failure.ts';

export interface StreamLimits {
  /** How often an event stream says that it is alive, milliseconds. */
  keepAliveMs: number;
  /** Longest time a client may take nothing, milliseconds. */
  stalledMs: number;
}

/** The client takes nothing any more, or is gone. */
export class StreamBrokenError extends Error {
  override name = 'StreamBrokenError';
}

/** Waits until the connection takes more. */
function drained(response: ServerResponse, stalledMs: number): Promise<void> {
  return new Promise((resolve, reject) => {
    const settle = (failure: Error | null): void => {
      clearTimeout(timer);
      response.off('drain', onDrain).off('close', onClose);
      if (failure === null) resolve();
      else reject(failure);
    };
    const onDrain = (): void => settle(null);
    const onClose = (): void => settle(new StreamBrokenError('the client closed the connection'));
    const timer = setTimeout(() => settle(new StreamBrokenError('the client takes nothing')), stalledMs);
    response.on('drain', onDrain).on('close', onClose);
    if (response.destroyed) onClose();
  });
}

async function write(response: ServerResponse, chunk: string | Uint8Array, stalledMs: number): Promise<void> {
  if (response.destroyed) throw new StreamBrokenError('the client closed the connection');
  if (!response.write(chunk)) await drained(response, stalledMs);
}

/** Ends an iteration without waiting for a source that hangs. */
function release(iterator: AsyncIterator<unknown>): void {
  void Promise.resolve(iterator.return?.()).catch(() => undefined);
}

/** A source whose first item was already asked for, so that its first failure can be an ordinary answer. */
export class StartedSource<T> {
  readonly #iterator: AsyncIterator<T>;
  #first: Promise<IteratorResult<T, unknown>> | null;

  constructor(source: AsyncIterable<T>) {
    this.#iterator = source[Symbol.asyncIterator]();
    this.#first = this.#iterator.next();
    // It is awaited later; until then a failure has no other listener.
    this.#first.catch(() => undefined);
  }

  /**
   * Throws when the source fails at once. A generator's checks run only when it is first asked, so without this a
   * `not_found` would come after the headers of a success. Waits at most `patienceMs` for a source that has nothing yet,
   * and tells whether it has something now, be it its end.
   */
  async check(patienceMs: number): Promise<boolean> {
    if (this.#first === null) return true;
    let timer: NodeJS.Timeout | undefined;
    const patience = new Promise<false>((resolve) => {
      timer = setTimeout(() => resolve(false), patienceMs);
      // A source that hangs must not keep a stopped daemon from ending.
      timer.unref();
    });
    try {
      return await Promise.race([this.#first.then(() => true), patience]);
    } finally {
      clearTimeout(timer);
    }
  }

  next(): Promise<IteratorResult<T, unknown>> {
    const first = this.#first;
    this.#first = null;
    return first ?? this.#iterator.next();
  }

  release(): void {
    release(this.#iterator);
  }
}

/** Sends bytes after the headers were set. A failure in the middle cuts the connection: the client sees that it is not whole. */
export async function sendBytes(
  response: ServerResponse,
  source: StartedSource<Uint8Array>,
  byteLength: number | null | undefined,
  limits: StreamLimits,
): Promise<void> {
  let sent = 0;
  try {
    for (;;) {
      const next = await source.next();
      if (next.done === true) break;
      sent += next.value.length;
      if (typeof byteLength === 'number' && sent > byteLength) {
        throw new Error(`the answer has more than the ${byteLength} bytes it announced`);
      }
      await write(response, next.value, limits.stalledMs);
    }
    if (typeof byteLength === 'number' && sent < byteLength) {
      throw new Error(`the answer has ${sent} bytes, and ${byteLength} were announced`);
    }
    response.end();
  } catch (failure) {
    response.destroy();
    throw failure;
  } finally {
    source.release();
  }
}

/** Sends events as the HTML standard has them (Server-sent events, 9.2). What has a `revision` gets it as its id. */
export async function sendEvents(
  response: ServerResponse,
  source: StartedSource<unknown>,
  options: StreamLimits & { requestId: string; check: ((event: unknown) => void) | null; signal: AbortSignal },
): Promise<void> {
  const { stalledMs, signal } = options;
  const keepAlive = setInterval(() => {
    // A comment only when nothing waits: it must not pile up at a client that takes nothing.
    if (!response.writableNeedDrain && !response.destroyed) response.write(': alive\n\n');
  }, options.keepAliveMs);
  // A source that doesn't listen to the signal must not hold up the end of the stream. Racing each event against one
  // promise of the abort would keep all of them in memory, so the wait of the moment is rejected instead.
  let rejectWait: (reason: unknown) => void = () => undefined;
  const onAbort = (): void => rejectWait(signal.reason);
  signal.addEventListener('abort', onAbort, { once: true });
  try {
    for (;;) {
      signal.throwIfAborted();
      const next = await new Promise<IteratorResult<unknown, unknown>>((resolve, reject) => {
        rejectWait = reject;
        source.next().then(resolve, reject);
      });
      if (next.done === true) break;
      options.check?.(next.value);
      await write(response, eventText(next.value), stalledMs);
    }
    response.end();
  } catch (failure) {
    if (failure instanceof StreamBrokenError || response.destroyed) {
      response.destroy();
      throw failure;
    }
    const body = asLodgeError(failure).toBody(options.requestId);
    response.end(`event: error\ndata: ${JSON.stringify(body)}\n\n`);
    throw failure;
  } finally {
    clearInterval(keepAlive);
    signal.removeEventListener('abort', onAbort);
    source.release();
  }
}

function eventText(event: unknown): string {
  const data = JSON.stringify(event);
  const revision =
    typeof event === 'object' && event !== null && 'revision' in event && typeof event.revision === 'number'
      ? `id: ${event.revision}\n`
      : '';
  return `${revision}data: ${data}\n\n`;
}
