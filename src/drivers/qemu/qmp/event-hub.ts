// Hands QEMU's events to those who listen: by name, all of the table, all whatever they are, as the next one that fits,
// and as an iteration. A listener that throws hinders neither the others nor the connection.
import { QmpAbortedError, type QmpClosedError, QmpOverloadError, QmpTimeoutError } from './errors.ts';
import type { QmpEvent, QmpEventName, QmpEventOf } from './events.ts';

/** An event as QEMU sent it. `isKnown` says whether the table describes it. */
export interface RawEvent {
  readonly name: string;
  readonly data: Readonly<Record<string, unknown>>;
  /** QEMU's clock, in milliseconds since 1970. */
  readonly timeMs: number;
  readonly isKnown: boolean;
}

export type EventListener<E> = (event: E) => void;

export class EventHub {
  readonly #listeners = new Set<EventListener<RawEvent>>();
  readonly #onEnd = new Set<(error: QmpClosedError) => void>();
  readonly #onListenerError: (error: unknown, event: RawEvent) => void;
  #end: QmpClosedError | null = null;

  constructor(onListenerError?: (error: unknown, event: RawEvent) => void) {
    this.#onListenerError =
      onListenerError ??
      ((error, event) => {
        process.emitWarning(`a listener of the QMP event ${event.name} threw: ${String(error)}`);
      });
  }

  onRawEvent(listener: EventListener<RawEvent>): () => void {
    // A wrapper of its own, so that the same function added twice is called twice and removed one at a time.
    const entry: EventListener<RawEvent> = (event) => listener(event);
    this.#listeners.add(entry);
    return () => {
      this.#listeners.delete(entry);
    };
  }

  onEvent(listener: EventListener<QmpEvent>): () => void {
    return this.onRawEvent((event) => {
      // The table says what an event of this name carries, and the schema check holds the table to QEMU.
      if (event.isKnown) listener(event as unknown as QmpEvent);
    });
  }

  on<E extends QmpEventName>(name: E, listener: EventListener<QmpEventOf<E>>): () => void {
    return this.onRawEvent((event) => {
      if (event.name === name) listener(event as unknown as QmpEventOf<E>);
    });
  }

  waitFor<E extends QmpEventName>(
    name: E,
    matches: (event: QmpEventOf<E>) => boolean,
    timeoutMs: number,
    signal: AbortSignal | undefined,
  ): Promise<QmpEventOf<E>> {
    const promise = new Promise<QmpEventOf<E>>((resolve, reject) => {
      if (this.#end) {
        reject(this.#end);
        return;
      }
      if (signal?.aborted) {
        reject(new QmpAbortedError(`waiting for ${name}`, false));
        return;
      }
      const settle = (): void => {
        clearTimeout(timer);
        remove();
        this.#onEnd.delete(onEnd);
        signal?.removeEventListener('abort', onAbort);
      };
      const fail = (error: Error): void => {
        settle();
        reject(error);
      };
      const onEnd = (error: QmpClosedError): void => fail(error);
      const onAbort = (): void => fail(new QmpAbortedError(`waiting for ${name}`, false));
      const remove = this.on(name, (event) => {
        try {
          if (!matches(event)) return;
        } catch (error) {
          fail(error instanceof Error ? error : new Error(String(error)));
          return;
        }
        settle();
        resolve(event);
      });
      const timer = setTimeout(() => fail(new QmpTimeoutError(`waiting for ${name}`, timeoutMs, true)), timeoutMs);
      this.#onEnd.add(onEnd);
      signal?.addEventListener('abort', onAbort, { once: true });
    });
    // The caller may be thrown out by the command it sent meanwhile and never come back for this promise.
    promise.catch(() => {});
    return promise;
  }

  /** Subscribes at the call, not at the first `next()`, so that nothing is missed between the two. */
  iterate(maxQueued: number, signal: AbortSignal | undefined): AsyncGenerator<QmpEvent, void, void> {
    const queue: QmpEvent[] = [];
    let failure: Error | null = null;
    let isDone = false;
    let wake: (() => void) | null = null;
    const notify = (): void => {
      wake?.();
      wake = null;
    };
    const remove = this.onEvent((event) => {
      if (queue.length >= maxQueued) {
        failure = new QmpOverloadError(`${maxQueued} QMP events were not picked up`);
        unsubscribe();
      } else {
        queue.push(event);
      }
      notify();
    });
    const onEnd = (error: QmpClosedError): void => {
      isDone = true;
      if (error.reason !== 'closed') failure ??= error;
      notify();
    };
    const onAbort = (): void => {
      isDone = true;
      queue.length = 0;
      unsubscribe();
      notify();
    };
    const unsubscribe = (): void => {
      remove();
      this.#onEnd.delete(onEnd);
      signal?.removeEventListener('abort', onAbort);
    };
    if (this.#end) onEnd(this.#end);
    else this.#onEnd.add(onEnd);
    if (signal?.aborted) onAbort();
    else signal?.addEventListener('abort', onAbort, { once: true });

    async function* generate(): AsyncGenerator<QmpEvent, void, void> {
      try {
        for (;;) {
          const event = queue.shift();
          if (event) {
            yield event;
          } else if (failure) {
            throw failure;
          } else if (isDone) {
            return;
          } else {
            await new Promise<void>((resolve) => {
              wake = resolve;
            });
          }
        }
      } finally {
        unsubscribe();
      }
    }
    return generate();
  }

  deliver(event: RawEvent): void {
    // A copy, since a listener added by another one must not hear the event that is being delivered.
    const current = Array.from(this.#listeners);
    for (const listener of current) {
      // Removed by a listener before it: it must not hear this one any more.
      if (!this.#listeners.has(listener)) continue;
      try {
        listener(event);
      } catch (error) {
        this.#onListenerError(error, event);
      }
    }
  }

  /** Tells all who wait that no event will come any more. */
  end(error: QmpClosedError): void {
    this.#end = error;
    for (const onEnd of this.#onEnd) onEnd(error);
    this.#onEnd.clear();
    this.#listeners.clear();
  }
}
