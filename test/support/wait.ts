// Bounded waiting in tests: look, look again soon, and at the deadline fail with what was waited for and what was seen
// last. It is the only way a test waits for something that tells no event.
import { setTimeout as delay } from 'node:timers/promises';

export interface EventuallyOptions {
  /** The longest to wait, in milliseconds. Default 60 s: a loaded machine is slow, and only a failure takes that long. */
  timeoutMs?: number;
  /** What is waited for, for the error: "the VM runs". */
  describe?: string;
  /** The pause between two looks, in milliseconds. Default 20. */
  intervalMs?: number;
  /** Ends the wait with its reason: what is waited for can't come any more. */
  signal?: AbortSignal;
}

/**
 * Calls `look` until it returns without throwing, and answers with its value; `false`, `null` and `undefined` count as
 * "not yet". At the deadline it rejects with the last reason.
 */
export async function eventually<T>(
  look: () => T | Promise<T>,
  options: EventuallyOptions = {},
): Promise<NonNullable<T>> {
  const { timeoutMs = 60_000, describe = 'the condition', intervalMs = 20, signal } = options;
  const deadline = performance.now() + timeoutMs;
  for (;;) {
    let cause: unknown = new Error('it is not so yet');
    try {
      const value = await look();
      if (value !== null && value !== undefined && value !== false) return value;
    } catch (error) {
      cause = error;
    }
    if (performance.now() >= deadline) {
      const reason = cause instanceof Error ? cause.message : String(cause);
      throw new Error(`waited ${timeoutMs} ms in vain until ${describe}: ${reason}`, { cause });
    }
    signal?.throwIfAborted();
    await delay(intervalMs);
  }
}
