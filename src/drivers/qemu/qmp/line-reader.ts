// Cuts a byte stream into lines. Used by every line-based channel of a VM (QMP, guest agent), so it promises what all
// of them need: it never holds more than the limit, costs time linear in the input however it was split, and splits on
// bytes, so that a character cut in two by the transport is whole again in its line.

/** A line grew beyond the limit before its end came. What was read of it is gone: the channel can't be used further. */
export class LineTooLongError extends Error {
  override name = 'LineTooLongError';
  readonly maxLineBytes: number;

  constructor(maxLineBytes: number) {
    super(`a line is longer than the ${maxLineBytes} bytes allowed`);
    this.maxLineBytes = maxLineBytes;
  }
}

const NEWLINE = 0x0a;

export class LineReader {
  /** The most one line may have, in bytes, without its newline. May be changed between two chunks. */
  maxLineBytes: number;
  #parts: Buffer[] = [];
  #bytes = 0;

  constructor(maxLineBytes: number) {
    this.maxLineBytes = maxLineBytes;
  }

  /** Bytes held of a line whose end has not come yet. */
  get pendingBytes(): number {
    return this.#bytes;
  }

  /** Forgets the unfinished line. */
  clear(): void {
    this.#parts = [];
    this.#bytes = 0;
  }

  /**
   * Calls `onLine` for every line the chunk completes, without its newline. A view into the chunk may be passed, so the
   * callback must not keep it. Throws {@link LineTooLongError}, and whatever `onLine` throws.
   */
  feed(chunk: Buffer, onLine: (line: Buffer) => void): void {
    let start = 0;
    while (start < chunk.length) {
      const end = chunk.indexOf(NEWLINE, start);
      const piece = chunk.subarray(start, end === -1 ? chunk.length : end);
      if (this.#bytes + piece.length > this.maxLineBytes) {
        this.clear();
        throw new LineTooLongError(this.maxLineBytes);
      }
      if (end === -1) {
        // A copy, because the unfinished piece may be small and would keep the transport's whole read buffer alive.
        this.#parts.push(Buffer.from(piece));
        this.#bytes += piece.length;
        return;
      }
      const line = this.#parts.length === 0 ? piece : Buffer.concat([...this.#parts, piece]);
      this.clear();
      start = end + 1;
      onLine(line);
    }
  }
}
