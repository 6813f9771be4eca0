// One who looks at a serial console: a duplex stream. What is read from it is the console's output, first what was kept
// and then live; what is written to it is typed on the console.
import { Duplex } from 'node:stream';

/** A viewer took its output too slowly and was dropped; it may attach again and begins with the kept output. */
export class SerialOverrunError extends Error {
  override name = 'SerialOverrunError';

  constructor(maxBufferedBytes: number) {
    super(`the console's output was not taken: more than ${maxBufferedBytes} bytes waited, and the viewer was dropped`);
  }
}

export interface ViewerInput {
  /** Passes bytes to the guest, and calls back when there is room for more. */
  write: (data: Buffer, done: (error?: Error | null) => void) => void;
  /** The viewer has gone, for whatever reason. */
  detach: (viewer: SerialViewer) => void;
}

export class SerialViewer extends Duplex {
  readonly #input: ViewerInput;
  readonly #maxBufferedBytes: number;
  #isFinished = false;

  constructor(input: ViewerInput, maxBufferedBytes: number) {
    // The high-water marks only tell when to pause a writer; the limit of what waits for a reader is checked in `show`.
    // The end of the console ends both directions; the end of a viewer's input leaves it looking.
    super({ allowHalfOpen: false, readableHighWaterMark: maxBufferedBytes, writableHighWaterMark: 16 * 1024 });
    this.#input = input;
    this.#maxBufferedBytes = maxBufferedBytes;
  }

  /** Hands output to the viewer. One that has too much waiting already is dropped. */
  show(data: Buffer): void {
    if (this.destroyed || this.#isFinished) return;
    if (this.readableLength + data.length > this.#maxBufferedBytes) {
      this.destroy(new SerialOverrunError(this.#maxBufferedBytes));
      return;
    }
    this.push(data);
  }

  /** No more output will come. */
  finish(): void {
    if (this.destroyed || this.#isFinished) return;
    this.#isFinished = true;
    this.push(null);
  }

  /** Output comes when the guest makes it, not when it is asked for. */
  override _read(): void {}

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: (error?: Error | null) => void): void {
    this.#input.write(chunk, done);
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    this.#input.detach(this);
    done(error);
  }
}
