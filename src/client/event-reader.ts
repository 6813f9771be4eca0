// Reads server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html) from the body of a fetch,
// because EventSource can send neither headers nor a body. An `event: error` in the stream becomes a LodgeError.
import { errorBody, LodgeError } from '../api/errors.ts';

/** One event as it came. */
export interface ServerEvent {
  /** Type; 'message' when the stream names none. */
  event: string;
  data: string;
  /** The last id seen up to this event, or null. */
  id: string | null;
}

/** Longest event the client takes, in characters. */
const maxEventLength = 16 * 1024 * 1024;

/** Splits a text stream into events. Feed it chunks as they come; an incomplete last event is dropped, as the standard asks. */
export class EventParser {
  lastEventId: string | null = null;
  #buffer = '';
  #data: string[] = [];
  #dataLength = 0;
  #event = '';
  #isFirst = true;

  /** The events that this chunk completes. */
  push(chunk: string): ServerEvent[] {
    let text = this.#buffer + chunk;
    if (this.#isFirst && text.length > 0) {
      if (text.startsWith('\uFEFF')) text = text.slice(1);
      this.#isFirst = false;
    }
    const events: ServerEvent[] = [];
    let start = 0;
    for (;;) {
      const end = this.#lineEnd(text, start);
      if (end === null) break;
      this.#line(text.slice(start, end.at), events);
      start = end.next;
    }
    this.#buffer = text.slice(start);
    if (this.#buffer.length + this.#dataLength > maxEventLength) {
      throw new LodgeError('unavailable', `an event of the stream is longer than ${maxEventLength} characters`);
    }
    return events;
  }

  /** A line ends with LF, CR or CR LF. A CR at the end of a chunk may be half of a CR LF, so it waits for the next. */
  #lineEnd(text: string, start: number): { at: number; next: number } | null {
    const lineFeed = text.indexOf('\n', start);
    const carriageReturn = text.indexOf('\r', start);
    if (carriageReturn === -1 || (lineFeed !== -1 && lineFeed < carriageReturn)) {
      return lineFeed === -1 ? null : { at: lineFeed, next: lineFeed + 1 };
    }
    if (carriageReturn === text.length - 1) return null;
    return { at: carriageReturn, next: carriageReturn + (text[carriageReturn + 1] === '\n' ? 2 : 1) };
  }

  #line(line: string, events: ServerEvent[]): void {
    if (line === '') {
      if (this.#data.length > 0) {
        events.push({
          event: this.#event === '' ? 'message' : this.#event,
          data: this.#data.join('\n'),
          id: this.lastEventId,
        });
      }
      this.#data = [];
      this.#dataLength = 0;
      this.#event = '';
      return;
    }
    const colon = line.indexOf(':');
    const field = colon === -1 ? line : line.slice(0, colon);
    const rest = colon === -1 ? '' : line.slice(colon + 1);
    const value = rest.startsWith(' ') ? rest.slice(1) : rest;
    if (field === 'data') {
      this.#data.push(value);
      this.#dataLength += value.length;
    } else if (field === 'event') this.#event = value;
    else if (field === 'id' && !value.includes('\0')) this.lastEventId = value;
  }
}

export interface EventReaderOptions {
  /** When it aborts, the iteration ends without an error. */
  signal: AbortSignal | undefined;
  /** The connection counts as broken when nothing, not even a keep-alive comment, came for this long. */
  idleTimeoutMs: number;
  /** Ends the transfer. */
  abort: () => void;
  /** Describes a failed read. */
  describe: (failure: unknown) => unknown;
}

/** The JSON documents of an event stream, in order. It can be iterated once; leaving the loop, or `return()`, closes the connection. */
export function readEvents(
  body: ReadableStream<Uint8Array>,
  options: EventReaderOptions,
): AsyncIterableIterator<unknown, void> {
  const generator = generate(body, options);
  return {
    next: () => generator.next(),
    // A generator that was never started would not run its `finally`, and the connection would stay open.
    return: async () => {
      options.abort();
      await body.cancel().catch(() => undefined);
      return generator.return();
    },
    [Symbol.asyncIterator]() {
      return this;
    },
  };
}

async function* generate(body: ReadableStream<Uint8Array>, options: EventReaderOptions): AsyncGenerator<unknown, void> {
  const parser = new EventParser();
  const decoder = new TextDecoder();
  const reader = body.getReader();
  const isAborted = (): boolean => options.signal?.aborted === true;
  let isSilent = false;
  try {
    for (;;) {
      const watchdog = setTimeout(() => {
        isSilent = true;
        options.abort();
        // The read below may hang in a transport that doesn't hear the abort.
        reader.cancel().catch(() => undefined);
      }, options.idleTimeoutMs);
      const { done, value } = await reader.read().finally(() => clearTimeout(watchdog));
      if (isSilent) throw silence(options.idleTimeoutMs);
      if (done || isAborted()) return;
      for (const event of parser.push(decoder.decode(value, { stream: true }))) {
        const document: unknown = parse(event.data);
        if (event.event === 'error') {
          const failure = errorBody.safeParse(document);
          throw failure.success
            ? LodgeError.fromBody(failure.data)
            : new LodgeError('unavailable', 'the stream ended with an error that is not in Lodge’s format');
        }
        yield document;
        if (isAborted()) return;
      }
    }
  } catch (failure) {
    if (isAborted()) return;
    if (isSilent) throw silence(options.idleTimeoutMs);
    throw failure instanceof LodgeError ? failure : options.describe(failure);
  } finally {
    options.abort();
    await reader.cancel().catch(() => undefined);
  }
}

function silence(idleTimeoutMs: number): LodgeError {
  return new LodgeError('unavailable', `nothing came through the event stream for ${idleTimeoutMs / 1000} s`, {
    hint: 'The connection is broken: open the stream again and resume from the last revision.',
  });
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch (cause) {
    throw new LodgeError('unavailable', 'an event of the stream is not JSON', { cause });
  }
}
