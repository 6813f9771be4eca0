// Bytes that go to and come from the daemon: what a caller may give as a body, and what it gets as an answer. Works in
// Node and in browsers. Nothing here holds a whole body in memory unless the caller asks for it.

/** What may be sent as a body of bytes. Browsers send streams only over HTTP/2; give them a Blob. */
export type ByteInput = Uint8Array | Blob | ReadableStream<Uint8Array> | AsyncIterable<Uint8Array>;

/** An answer of bytes. It can be read once, in one of the ways below; `cancel` it when it is not read to its end. */
export class ByteAnswer implements AsyncIterable<Uint8Array> {
  readonly stream: ReadableStream<Uint8Array>;
  readonly contentType: string;
  /** Bytes that will come, or null when the daemon doesn't know before. */
  readonly contentLength: number | null;
  readonly #request: { describe: (failure: unknown) => unknown; end: () => void };

  constructor(
    stream: ReadableStream<Uint8Array>,
    headers: { contentType: string; contentLength: number | null },
    request: { describe: (failure: unknown) => unknown; end: () => void },
  ) {
    this.stream = stream;
    this.contentType = headers.contentType;
    this.contentLength = headers.contentLength;
    this.#request = request;
  }

  /** Chunk by chunk as they come. A broken connection, or fewer bytes than announced, throws a LodgeError. */
  async *[Symbol.asyncIterator](): AsyncGenerator<Uint8Array, void> {
    const reader = this.stream.getReader();
    try {
      for (;;) {
        const { done, value } = await reader.read();
        if (done) return;
        yield value;
      }
    } catch (failure) {
      throw this.#request.describe(failure);
    } finally {
      this.#request.end();
      await reader.cancel().catch(() => undefined);
    }
  }

  /** All of it, in memory. */
  async bytes(): Promise<Uint8Array> {
    const chunks: Uint8Array[] = [];
    let length = 0;
    for await (const chunk of this) {
      chunks.push(chunk);
      length += chunk.length;
    }
    const whole = new Uint8Array(length);
    let offset = 0;
    for (const chunk of chunks) {
      whole.set(chunk, offset);
      offset += chunk.length;
    }
    return whole;
  }

  /** All of it, as UTF-8 text. */
  async text(): Promise<string> {
    return new TextDecoder().decode(await this.bytes());
  }

  /** Stops the transfer. */
  async cancel(): Promise<void> {
    this.#request.end();
    await this.stream.cancel().catch(() => undefined);
  }
}

/** A body as a stream that fetch takes. */
export function asStream(source: ReadableStream<Uint8Array> | AsyncIterable<Uint8Array>): ReadableStream<Uint8Array> {
  if (source instanceof ReadableStream) return source;
  const iterator = source[Symbol.asyncIterator]();
  return new ReadableStream<Uint8Array>({
    async pull(controller) {
      const next = await iterator.next();
      if (next.done === true) controller.close();
      else controller.enqueue(next.value);
    },
    async cancel() {
      await iterator.return?.();
    },
  });
}
