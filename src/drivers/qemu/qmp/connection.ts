// A lasting connection to a QEMU process's monitor: it dials again whenever the connection is lost, until it is closed.
//
//              ┌────────── failed: wait, longer each time ──────────┐
//   open() ──► dialling ──────────────► up ──────────────► lost ────┴──► dialling
//                 └────────── close() ──┴──────────────────┴──► closed
//
// Invariants:
// - At most one socket at a time: QEMU's monitor serves one client, a second would only wait behind the first.
// - `back` and `lost` are told in turn, beginning with `back`. Between `lost` and `back` QEMU may have sent events that
//   nobody heard: on `back` the owner asks for what it needs to know (query-status, query-jobs, …).
// - Nothing is sent twice. A command under way when the connection is lost rejects; whether it ran, only QEMU knows.
import { setTimeout as sleep } from 'node:timers/promises';
import { QmpClient, type ExecuteParameters, type QmpClientOptions, type QmpExecutor } from './client.ts';
import type { QmpCommandName, QmpReturn } from './commands.ts';
import { QmpClosedError, QmpConnectError, QmpTimeoutError } from './errors.ts';
import { EventHub, type EventListener, type RawEvent } from './event-hub.ts';
import type { QmpEvent, QmpEventName, QmpEventOf } from './events.ts';

/** What becomes of the connection. `unreachable` is told for every attempt that failed, counted since the last success. */
export type QmpConnectionChange =
  | { readonly state: 'back'; readonly client: QmpClient }
  | { readonly state: 'lost'; readonly error: QmpClosedError }
  | { readonly state: 'unreachable'; readonly error: QmpConnectError; readonly attempts: number };

export interface QmpConnectionOptions extends Omit<QmpClientOptions, 'signal' | 'onRawEvent'> {
  /** Called in order for every change, synchronously. An exception from it becomes a process warning. */
  onChange?: (change: QmpConnectionChange) => void;
  /** The pause after the first failed attempt, in milliseconds; each further one is twice as long. Default 50. */
  minDelayMs?: number;
  /** The longest pause between attempts, in milliseconds. Default 2000. */
  maxDelayMs?: number;
}

export class QmpConnection implements QmpExecutor {
  readonly path: string;
  readonly #options: QmpConnectionOptions;
  readonly #hub: EventHub;
  readonly #abort = new AbortController();
  readonly #waiters = new Set<(client: QmpClient) => void>();
  #client: QmpClient | null = null;
  #lastError: QmpConnectError | QmpClosedError | null = null;

  /** Begins to dial and returns at once; {@link whenUp} waits for the connection. */
  static open(path: string, options: QmpConnectionOptions = {}): QmpConnection {
    const connection = new QmpConnection(path, options);
    void connection.#run();
    return connection;
  }

  private constructor(path: string, options: QmpConnectionOptions) {
    this.path = path;
    this.#options = options;
    this.#hub = new EventHub(options.onListenerError);
  }

  /** The connection of the moment, or null while there is none. */
  get client(): QmpClient | null {
    return this.#client;
  }

  get isClosed(): boolean {
    return this.#abort.signal.aborted;
  }

  /**
   * Resolves to the open connection, at once if there is one. Rejects with {@link QmpTimeoutError} after `timeoutMs`
   * (its cause is the last failed attempt), or with {@link QmpClosedError} when this side closes.
   */
  whenUp(timeoutMs: number): Promise<QmpClient> {
    if (this.isClosed) return Promise.reject(this.#closedError(null));
    if (this.#client) return Promise.resolve(this.#client);
    return new Promise((resolve, reject) => {
      const settle = (): void => {
        clearTimeout(timer);
        this.#waiters.delete(onUp);
        this.#abort.signal.removeEventListener('abort', onClose);
      };
      const onUp = (client: QmpClient): void => {
        settle();
        resolve(client);
      };
      const onClose = (): void => {
        settle();
        reject(this.#closedError(null));
      };
      const timer = setTimeout(() => {
        settle();
        const error = new QmpTimeoutError(`connecting to ${this.path}`, timeoutMs, false);
        error.cause = this.#lastError;
        reject(error);
      }, timeoutMs);
      this.#waiters.add(onUp);
      this.#abort.signal.addEventListener('abort', onClose, { once: true });
    });
  }

  /** As {@link QmpClient.execute}. Rejects with {@link QmpClosedError} while there is no connection; it does not wait. */
  execute<C extends QmpCommandName>(command: C, ...rest: ExecuteParameters<C>): Promise<QmpReturn<C>> {
    if (!this.#client) return Promise.reject(this.#closedError(command));
    return this.#client.execute(command, ...rest);
  }

  /** As {@link QmpClient.executeOutOfBand}. */
  executeOutOfBand<C extends QmpCommandName>(command: C, ...rest: ExecuteParameters<C>): Promise<QmpReturn<C>> {
    if (!this.#client) return Promise.reject(this.#closedError(command));
    return this.#client.executeOutOfBand(command, ...rest);
  }

  /** As {@link QmpClient.on}, over all connections there will be. */
  on<E extends QmpEventName>(name: E, listener: EventListener<QmpEventOf<E>>): () => void {
    return this.#hub.on(name, listener);
  }

  /** As {@link QmpClient.onEvent}, over all connections there will be. */
  onEvent(listener: EventListener<QmpEvent>): () => void {
    return this.#hub.onEvent(listener);
  }

  /** As {@link QmpClient.onRawEvent}, over all connections there will be. */
  onRawEvent(listener: EventListener<RawEvent>): () => void {
    return this.#hub.onRawEvent(listener);
  }

  /**
   * As {@link QmpClient.waitForEvent}, on the connection of the moment: it rejects when that one is lost, since the event
   * may then have passed unheard.
   */
  waitForEvent<E extends QmpEventName>(
    name: E,
    matches: (event: QmpEventOf<E>) => boolean,
    timeoutMs: number,
    signal?: AbortSignal,
  ): Promise<QmpEventOf<E>> {
    if (this.#client) return this.#client.waitForEvent(name, matches, timeoutMs, signal);
    const rejected = Promise.reject(this.#closedError(`waiting for ${name}`));
    rejected.catch(() => {});
    return rejected;
  }

  /** Ends the connection for good. QEMU is not affected. */
  close(): void {
    if (this.isClosed) return;
    this.#abort.abort();
    this.#client?.close();
    this.#client = null;
    this.#hub.end(this.#closedError(null));
  }

  #closedError(command: string | null): QmpClosedError {
    if (this.isClosed) return new QmpClosedError('closed', 'the connection was closed', command, false);
    const detail = this.#lastError
      ? `there is no connection: ${this.#lastError.message}`
      : 'there is no connection yet';
    return new QmpClosedError('lost', detail, command, false);
  }

  async #run(): Promise<void> {
    const { minDelayMs = 50, maxDelayMs = 2000 } = this.#options;
    const { signal } = this.#abort;
    let attempts = 0;
    while (!signal.aborted) {
      try {
        const client = await QmpClient.connect(this.path, {
          ...this.#options,
          signal,
          onRawEvent: (event) => this.#hub.deliver(event),
        });
        attempts = 0;
        await this.#use(client);
      } catch (error) {
        if (signal.aborted) return;
        attempts++;
        this.#lastError =
          error instanceof QmpConnectError ? error : new QmpConnectError(this.path, 'other', String(error), error);
        this.#tell({ state: 'unreachable', error: this.#lastError, attempts });
      }
      // Some randomness, so that the monitors of many VMs are not all dialled in the same moment after a hiccup.
      const delayMs = Math.min(maxDelayMs, minDelayMs * 2 ** Math.min(attempts, 16)) * (0.8 + 0.4 * Math.random());
      await sleep(delayMs, undefined, { signal }).catch(() => {});
    }
  }

  /** From the open connection to its end. */
  async #use(client: QmpClient): Promise<void> {
    if (this.isClosed) {
      client.close();
      return;
    }
    this.#client = client;
    this.#tell({ state: 'back', client });
    // A waiter removes itself; one that `back` has closed the connection for is rejected by then.
    for (const waiter of this.#waiters) waiter(client);
    const error = await client.closed;
    if (this.#client === client) this.#client = null;
    if (this.isClosed) return;
    this.#lastError = error;
    this.#tell({ state: 'lost', error });
  }

  #tell(change: QmpConnectionChange): void {
    try {
      this.#options.onChange?.(change);
    } catch (error) {
      process.emitWarning(`a listener of the QMP connection ${this.path} threw: ${String(error)}`);
    }
  }
}
