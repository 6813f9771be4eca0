// Notes when a serial console prints: the kernel tells that the log has grown, and it is looked at; while the guest goes
// on printing, a few times a second. A quiet console costs nothing.
import { watch, type FSWatcher } from 'node:fs';
import { type SerialLog } from './log.ts';

export interface SerialWatchOptions {
  /** Between two looks at a log that grows, in milliseconds. Default 250. */
  pauseMs?: number;
  onError: (error: unknown) => void;
}

export class SerialWatch {
  readonly #log: SerialLog;
  readonly #options: SerialWatchOptions;
  #watcher: FSWatcher | null = null;
  #timer: NodeJS.Timeout | null = null;
  #isClosed = false;

  constructor(log: SerialLog, options: SerialWatchOptions) {
    this.#log = log;
    this.#options = options;
    this.#begin();
  }

  /** Looks now, and waits for more where nothing can be watched yet. */
  look(): void {
    if (this.#watcher === null && this.#timer === null) this.#begin();
  }

  close(): void {
    this.#isClosed = true;
    this.#watcher?.close();
    if (this.#timer) clearTimeout(this.#timer);
  }

  /** Watches first and looks then, so that nothing comes in between unseen. */
  #begin(): void {
    if (this.#isClosed) return;
    try {
      this.#watcher = watch(this.#log.path, { persistent: false }, () => this.#pause());
      this.#watcher.on('error', () => this.#stopWatching());
    } catch {
      // There is no log yet, or the kernel has no watches left: whoever has it looks now and then.
    }
    void this.#log.observe().then(
      (hasGrown) => {
        if (hasGrown) this.#pause();
      },
      (error: unknown) => this.#options.onError(error),
    );
  }

  /** A console that prints is let be for a moment; that it prints is known. */
  #pause(): void {
    this.#stopWatching();
    if (this.#isClosed || this.#timer) return;
    void this.#log.observe().catch((error: unknown) => this.#options.onError(error));
    this.#timer = setTimeout(() => {
      this.#timer = null;
      this.#begin();
    }, this.#options.pauseMs ?? 250);
    this.#timer.unref();
  }

  #stopWatching(): void {
    this.#watcher?.close();
    this.#watcher = null;
  }
}
