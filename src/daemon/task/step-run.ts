// One run of one step: within its time, ended by a signal, and given up when it does not heed that.
import { setTimeout as delay } from 'node:timers/promises';

/** Why a step has to end before it is done. */
export type AbortCause = 'cancelled' | 'deadline' | 'timeout' | 'stopped';

/** A step ended, or was given up, because it had to. Its own error, if it threw one, is the cause. */
export class StepAborted extends Error {
  override name = 'StepAborted';
  readonly reason: AbortCause;
  readonly timeoutMs: number;
  /** It had not ended when the grace was over, and may still be doing something. */
  readonly isGivenUp: boolean;

  constructor(reason: AbortCause, timeoutMs: number, isGivenUp: boolean, cause?: unknown) {
    super(`the step had to end: ${reason}`, { cause });
    this.reason = reason;
    this.timeoutMs = timeoutMs;
    this.isGivenUp = isGivenUp;
  }
}

export interface StepRun {
  /** Resolves when the work has ended well, also when that was after the signal. Rejects with its error, or StepAborted. */
  ended: Promise<void>;
  /** Asks the work to end. The first cause counts. */
  abort(cause: AbortCause): void;
}

/** Longest delay setTimeout takes. */
const maxTimerMs = 2_147_483_647;

/** Begins the work. `isOver` tells it, later, that nobody waits for it any more. */
export function runStep(options: {
  work: (signal: AbortSignal, isOver: () => boolean) => Promise<void> | void;
  timeoutMs: number;
  graceMs: number;
}): StepRun {
  const { work, timeoutMs, graceMs } = options;
  const controller = new AbortController();
  let cause: AbortCause | null = null;
  let isOver = false;
  const abort = (given: AbortCause): void => {
    cause ??= given;
    controller.abort(new StepAborted(cause, timeoutMs, false));
  };

  const follow = async (): Promise<void> => {
    const timer = setTimeout(() => abort('timeout'), Math.min(timeoutMs, maxTimerMs));
    const graceOver = new AbortController();
    const givenUp = new Promise<never>((_, reject) => {
      controller.signal.addEventListener('abort', () => {
        delay(graceMs, undefined, { signal: graceOver.signal }).then(
          () => reject(new StepAborted(cause ?? 'stopped', timeoutMs, true)),
          () => {},
        );
      });
    });
    // Not at once: whoever asked for the run has to have it in hand when the work begins.
    const worked = Promise.resolve().then(() => work(controller.signal, () => isOver));
    try {
      await Promise.race([worked, givenUp]);
    } catch (error) {
      if (cause === null || error instanceof StepAborted) throw error;
      throw new StepAborted(cause, timeoutMs, false, error);
    } finally {
      isOver = true;
      clearTimeout(timer);
      graceOver.abort();
      // What was given up may still fail; nobody waits for that.
      worked.catch(() => {});
    }
  };
  return { ended: follow(), abort };
}
