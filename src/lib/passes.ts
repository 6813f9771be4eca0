// Passes over what is to be made so, one at a time. Each begins from what is there then: many wishes for one make one.
// What else touches the same thing is done between them (`run`). A pass doesn't reject: it tells what failed itself.
import { SerialQueues } from './serial-queues.ts';

const key = 'pass';

export class Passes {
  readonly #pass: () => Promise<void>;
  readonly #queue = new SerialQueues();
  #isPlanned = false;
  #isClosed = false;

  constructor(pass: () => Promise<void>) {
    this.#pass = pass;
  }

  get isClosed(): boolean {
    return this.#isClosed;
  }

  /** Resolves when a pass that began after this call has ended. */
  settle(): Promise<void> {
    return this.run(() => this.#begin());
  }

  /** Has a pass follow; one that is planned already is enough. */
  plan(): void {
    if (this.#isPlanned || this.#isClosed) return;
    this.#isPlanned = true;
    void this.run(() => {
      this.#isPlanned = false;
      return this.#begin();
    });
  }

  /** Does something while no pass is under way. */
  run<T>(work: () => Promise<T>): Promise<T> {
    return this.#queue.run(key, work);
  }

  /** No pass begins any more; resolves when what is under way has ended. */
  async close(): Promise<void> {
    this.#isClosed = true;
    await this.run(async () => {});
  }

  async #begin(): Promise<void> {
    if (!this.#isClosed) await this.#pass();
  }
}
