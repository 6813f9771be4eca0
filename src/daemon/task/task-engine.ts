// The engine of long operations: takes tasks, runs them in turn, and goes on with them after a restart.
//
// Invariants:
// - A task is in the store before anything happens for it, and runs on the node it belongs to, once at a time.
// - Tasks with the same exclusive key run one after the other in the order in which they were submitted; all together
//   at most `maxConcurrent` at a time. Those that only wait for others are not counted: they have a limit of their own. What was under way when the daemon ended goes first.
// - What a caller reads after submit() or cancel() shows what they did.
import { isDeepStrictEqual } from 'node:util';
import { uuidv7 } from 'uuidv7';
import { LodgeError } from '../../api/errors.ts';
import type { Subject } from '../../api/object.ts';
import { finalTaskStates, type TaskItem } from '../../api/task.ts';
import type { TransactionPart } from '../store/collection.ts';
import type { Change } from '../store/collection-index.ts';
import { silentLog, type Log } from '../store/informer.ts';
import type { Store } from '../store/store.ts';
import { TaskRecords } from './task-records.ts';
import { TaskRun, type TaskRunOptions } from './task-run.ts';
import { keyOf, type TaskRecord, type TaskType } from './task.ts';

export interface TaskEngineOptions {
  store: Store;
  types: readonly TaskType[];
  /** Name of this node; it runs only tasks that belong to it. Default `local`. */
  node?: string;
  log?: Log;
  /** Tasks that run at a time. Default 16. */
  maxConcurrent?: number;
  /** Tasks that run at a time and only wait for others. Default 64. */
  maxWaiting?: number;
  /** Tasks that may wait; more are refused. Default 20,000. */
  maxQueued?: number;
  /** How long finished tasks are kept, and how many. Default 7 days and 1000. */
  retention?: { maxAgeMs: number; maxCount: number };
  /** How long a step may take to end after it was told to. Default 30 s. */
  graceMs?: number;
  /** Tries of an undo, and of a step after the pivot, and the pause before the second. Default 5, from 500 ms. */
  attempts?: { max: number; firstDelayMs: number };
  /** Shortest time between two saves of progress. Default 1 s. */
  progressIntervalMs?: number;
}

export interface Submission<Input> {
  target: Subject;
  input: Input;
  /** A token's name, a local user, or the daemon itself. */
  requestedBy: string;
  /** Project the task belongs to. Default: the target's. */
  project?: string;
  /** Node that runs it. Default: this one. */
  node?: string;
  /** The task that it is a part of. */
  parentId?: string;
  /** The objects that it works on one by one. */
  items?: readonly TaskItem[];
  /** A second submission with the same key and content gives the task of the first. Keys belong to who asks. */
  idempotencyKey?: string;
}

const sweepIntervalMs = 3_600_000;

export class TaskEngine {
  readonly #types: ReadonlyMap<string, TaskType>;
  readonly #records: TaskRecords;
  readonly #options: Required<Omit<TaskEngineOptions, 'store' | 'types'>>;
  readonly #stopping = new AbortController();
  readonly #runs = new Map<string, { run: TaskRun; ended: Promise<void> }>();
  /** Tasks of this node that wait, in the order in which they are to run. */
  readonly #queue = new Map<string, TaskRecord>();
  #isStarted = false;
  #isSchedulePlanned = false;
  #endedSinceSweep = 0;
  #sweepTimer: NodeJS.Timeout | undefined;
  #sweeping: Promise<void> | null = null;

  constructor(options: TaskEngineOptions) {
    this.#types = new Map(options.types.map((type) => [type.type, type]));
    if (this.#types.size !== options.types.length) throw new TypeError('two task types have the same name');
    this.#options = {
      node: 'local',
      log: silentLog,
      maxConcurrent: 16,
      maxWaiting: 64,
      maxQueued: 20_000,
      retention: { maxAgeMs: 7 * 86_400_000, maxCount: 1000 },
      graceMs: 30_000,
      attempts: { max: 5, firstDelayMs: 500 },
      progressIntervalMs: 1000,
      ...options,
    };
    this.#records = new TaskRecords(options.store, this.#options.log);
  }

  /** Reads the tasks. From then on they can be read and submitted; none runs before start(). */
  async load(): Promise<void> {
    await this.#records.load();
    const own = Array.from(this.#records.all()).filter(
      (record) => this.#isOwn(record) && !finalTaskStates.has(record.state),
    );
    const isNew = ({ state }: TaskRecord): number => (state === 'queued' ? 1 : 0);
    own.sort((left, right) => isNew(left) - isNew(right) || (left.id < right.id ? -1 : 1));
    for (const record of own) this.#queue.set(record.id, record);
    this.#records.onChange((change) => this.#follow(change));
  }

  /** Goes on with what was under way, and begins to run what waits. */
  start(): void {
    this.#isStarted = true;
    this.#sweepTimer = setInterval(() => this.#sweep(), sweepIntervalMs).unref();
    this.#sweep();
    this.#schedule();
  }

  /**
   * Stops running tasks where they are, for the next engine to go on with, and forgets the queue, which is in the store.
   * Resolves when no step runs, at the latest when the grace is over.
   */
  async stop(): Promise<void> {
    this.#stopping.abort();
    clearInterval(this.#sweepTimer);
    for (const { run } of this.#runs.values()) run.stop();
    await Promise.all(Array.from(this.#runs.values(), ({ ended }) => ended));
    await this.#sweeping;
    await this.#records.close();
  }

  /** Takes a task. It is durable when this resolves, and begins as soon as its turn comes. */
  async submit<Input>(type: TaskType<Input>, submission: Submission<NoInfer<Input>>): Promise<TaskRecord> {
    const { record } = this.prepare(type, submission);
    if (await this.#records.create(record)) return this.#records.get(record.id) ?? record;
    const { idempotencyKey, requestedBy } = submission;
    const earlier =
      idempotencyKey === undefined ? null : await this.#records.byIdempotencyKey(requestedBy, idempotencyKey);
    if (!earlier)
      throw new LodgeError('busy', `the idempotency key ${idempotencyKey} was given up just now`, {
        hint: 'Try again.',
      });
    const content = (of: TaskRecord): unknown => [of.type, of.target.kind, of.target.id, of.input];
    if (isDeepStrictEqual(content(earlier), content(record))) return earlier;
    throw new LodgeError(
      'idempotency_conflict',
      `the idempotency key ${idempotencyKey} was used before for another task (${earlier.type} ${earlier.target.name})`,
    );
  }

  /**
   * A task that is to be written in one transaction with something else, such as the object it is about:
   * `collection.create(object, engine.prepare(type, submission).part)`. It runs once that was written.
   */
  prepare<Input>(
    type: TaskType<Input>,
    submission: Submission<NoInfer<Input>>,
  ): { record: TaskRecord; part: Required<TransactionPart> } {
    const {
      target,
      requestedBy,
      project = target.project,
      node = this.#options.node,
      parentId = null,
      items = [],
      idempotencyKey = null,
    } = submission;
    if (this.#stopping.signal.aborted)
      throw new LodgeError('unavailable', 'the daemon is stopping and takes no more tasks');
    if (this.#queue.size >= this.#options.maxQueued) {
      throw new LodgeError(
        'rate_limited',
        `${this.#queue.size} tasks wait already, and no more than ${this.#options.maxQueued} may`,
      );
    }
    if (!this.#types.has(type.type)) throw new TypeError(`the engine does not know tasks of type ${type.type}`);
    // As it will be read back after a restart.
    const input: unknown = JSON.parse(JSON.stringify(type.parse(submission.input) ?? null));
    const record: TaskRecord = {
      id: uuidv7(),
      type: type.type,
      target,
      project,
      state: 'queued',
      steps: type.steps.map(({ name }) => ({ name, state: 'pending', startedAt: null, endedAt: null })),
      progress: { percent: 0 },
      items: [...items],
      parentId,
      error: null,
      requestedBy,
      createdAt: new Date().toISOString(),
      startedAt: null,
      endedAt: null,
      deadline: null,
      input,
      remembered: {},
      exclusiveKey: type.exclusiveKey(input, target),
      node,
      isCancelRequested: false,
      idempotencyKey,
    };
    return { record, part: this.#records.creation(record) };
  }

  /** A task of `prepare()` whose transaction has succeeded, as it is: the object may be seen before its task is. */
  async written({ id }: TaskRecord): Promise<TaskRecord> {
    await this.#records.catchUp();
    return this.require(id);
  }

  /** Asks a task to end and to be undone. Resolves when the request is durable, not when it has ended: see wait(). */
  async cancel(id: string): Promise<TaskRecord> {
    const record = this.require(id);
    const about = `task ${id} (${record.type} ${record.target.name})`;
    if (finalTaskStates.has(record.state))
      throw new LodgeError('wrong_state', `${about} has ended already: it is ${record.state}`);
    if (record.state === 'cancelling' || record.isCancelRequested) return record;
    if (record.state === 'undoing') throw new LodgeError('wrong_state', `${about} failed and is being undone already`);
    const active = this.#runs.get(id);
    if (active) {
      if (!active.run.isCancellable)
        throw new LodgeError('wrong_state', `${about} is past the point from which it can be undone`);
      await active.run.cancel();
      await this.#records.reached(active.run.revision);
      return this.#records.get(id) ?? active.run.record;
    }
    const isWaiting = this.#queue.delete(id) && record.state === 'queued';
    const error = new LodgeError(
      'cancelled',
      `${record.type} ${record.target.name} was cancelled before it began`,
    ).toBody().error;
    const change = isWaiting
      ? { isCancelRequested: true, state: 'cancelled' as const, endedAt: new Date().toISOString(), error }
      : { isCancelRequested: true };
    return this.#records.update(id, change, this.#stopping.signal);
  }

  get(id: string): TaskRecord | null {
    return this.#records.get(id);
  }

  /** As get(), but a task that is not there is the error not_found. */
  require(id: string): TaskRecord {
    const record = this.#records.get(id);
    if (record) return record;
    throw new LodgeError('not_found', `there is no task ${id}`, { hint: 'Finished tasks are kept for a while only.' });
  }

  /** All tasks that are kept, in no particular order. */
  all(): IterableIterator<TaskRecord> {
    return this.#records.all();
  }

  /** The store revision that this shows. */
  get revision(): number {
    return this.#records.revision;
  }

  /** Calls the listener after each change of a task, in the order of revisions, until the returned function is called. */
  onChange(listener: (change: Change<TaskRecord>) => void): () => void {
    return this.#records.onChange(listener);
  }

  /** Tasks that have not ended and work on this object: others about it wait for them. */
  activeOn(target: Pick<Subject, 'kind' | 'id'>): TaskRecord[] {
    const key = keyOf(target);
    return Array.from(this.#records.all()).filter(
      (record) => record.exclusiveKey === key && !finalTaskStates.has(record.state),
    );
  }

  /** Tasks that are parts of another, in the order in which they were submitted. */
  partsOf(parentId: string): TaskRecord[] {
    return Array.from(this.#records.all())
      .filter((record) => record.parentId === parentId)
      .toSorted((left, right) => (left.id < right.id ? -1 : 1));
  }

  /** Tasks that work on an object, and the one that its status names: that may be about several. */
  activeFor(target: Pick<Subject, 'kind' | 'id'>, taskId: string | null): TaskRecord[] {
    const own = this.activeOn(target);
    const named = taskId === null ? null : this.get(taskId);
    const isMore = named !== null && !finalTaskStates.has(named.state) && !own.some(({ id }) => id === taskId);
    return isMore ? [...own, named] : own;
  }

  /** Resolves when the task has ended, however it did. Rejects with not_found, timeout, or the signal's reason. */
  async wait(id: string, options: { signal?: AbortSignal; timeoutMs?: number } = {}): Promise<TaskRecord> {
    const known = this.require(id);
    if (finalTaskStates.has(known.state)) return known;
    const signals = [this.#stopping.signal, options.signal].filter((signal) => signal !== undefined);
    return new Promise((resolve, reject) => {
      const settle = (act: () => void): void => {
        stopListening();
        clearTimeout(timer);
        for (const signal of signals) signal.removeEventListener('abort', onAbort);
        act();
      };
      const onAbort = (): void => {
        const stopping = new LodgeError('unavailable', 'the daemon is stopping');
        settle(() => reject(this.#stopping.signal.aborted ? stopping : options.signal?.reason));
      };
      const stopListening = this.#records.onChange(({ type, object }) => {
        if (object.id !== id) return;
        if (finalTaskStates.has(object.state)) settle(() => resolve(object));
        else if (type === 'deleted') settle(() => reject(new LodgeError('not_found', `task ${id} was deleted`)));
      });
      const { timeoutMs } = options;
      const timer =
        timeoutMs === undefined
          ? undefined
          : setTimeout(
              () => settle(() => reject(new LodgeError('timeout', `task ${id} had not ended after ${timeoutMs} ms`))),
              timeoutMs,
            );
      for (const signal of signals) signal.addEventListener('abort', onAbort);
      if (signals.some((signal) => signal.aborted)) onAbort();
    });
  }

  #isOwn(record: TaskRecord): boolean {
    return record.node === this.#options.node;
  }

  #follow({ type, object }: Change<TaskRecord>): void {
    if (!this.#isOwn(object)) return;
    if (type === 'created' && object.state === 'queued') this.#queue.set(object.id, object);
    else if (type === 'deleted' || finalTaskStates.has(object.state)) this.#queue.delete(object.id);
    else if (type === 'updated' && object.isCancelRequested) this.#followCancel(object);
    this.#planSchedule();
  }

  /** Another node has asked for it. */
  #followCancel(record: TaskRecord): void {
    const active = this.#runs.get(record.id);
    if (active) {
      active.run
        .cancel()
        .catch((error: unknown) =>
          this.#options.log.error({ err: error, taskId: record.id }, 'a task could not be cancelled'),
        );
    } else if (record.state === 'queued' && this.#queue.delete(record.id)) {
      this.#cancelWaiting(record).catch((error: unknown) =>
        this.#options.log.error({ err: error, taskId: record.id }, 'a task could not be cancelled'),
      );
    }
  }

  async #cancelWaiting(record: TaskRecord): Promise<TaskRecord> {
    const error = new LodgeError(
      'cancelled',
      `${record.type} ${record.target.name} was cancelled before it began`,
    ).toBody().error;
    const change = { isCancelRequested: true, state: 'cancelled' as const, endedAt: new Date().toISOString(), error };
    return this.#records.update(record.id, change, this.#stopping.signal);
  }

  #planSchedule(): void {
    if (this.#isSchedulePlanned || !this.#isStarted) return;
    this.#isSchedulePlanned = true;
    setImmediate(() => {
      this.#isSchedulePlanned = false;
      this.#schedule();
    });
  }

  #schedule(): void {
    if (this.#stopping.signal.aborted) return;
    const { maxConcurrent, maxWaiting } = this.#options;
    const running = Array.from(this.#runs.values(), ({ run }) => run.record);
    const busyKeys = new Set(running.map(({ exclusiveKey }) => exclusiveKey));
    let waiting = running.filter((record) => this.#waitsForTasks(record)).length;
    let working = running.length - waiting;
    for (const record of this.#queue.values()) {
      const isWaiting = this.#waitsForTasks(record);
      if (working >= maxConcurrent && waiting >= maxWaiting) return;
      if (isWaiting ? waiting >= maxWaiting : working >= maxConcurrent) continue;
      if (busyKeys.has(record.exclusiveKey)) continue;
      busyKeys.add(record.exclusiveKey);
      if (isWaiting) waiting++;
      else working++;
      this.#queue.delete(record.id);
      this.#begin(record.id);
    }
  }

  #waitsForTasks({ type }: TaskRecord): boolean {
    return this.#types.get(type)?.waitsForTasks ?? false;
  }

  #begin(id: string): void {
    const stored = this.#records.stored(id);
    if (!stored) return;
    const { log, graceMs, attempts, progressIntervalMs } = this.#options;
    const known = this.#types.get(stored.record.type);
    const options: TaskRunOptions = {
      log,
      graceMs,
      progressIntervalMs,
      maxAttempts: attempts.max,
      retryDelayMs: attempts.firstDelayMs,
    };
    const run = new TaskRun(known ?? unknownType(stored.record), stored, this.#records, options);
    const ended = run
      .drive()
      .catch((error: unknown) => log.error({ err: error, taskId: id }, 'a task was lost'))
      .finally(() => {
        this.#runs.delete(id);
        this.#planSchedule();
        // Not after every one: sweeping looks at all.
        if (++this.#endedSinceSweep >= this.#options.retention.maxCount / 10) this.#sweep();
      });
    this.#runs.set(id, { run, ended });
  }

  /** Removes the finished tasks that are too old or too many. */
  #sweep(): void {
    const { maxAgeMs, maxCount } = this.#options.retention;
    if (this.#sweeping || this.#stopping.signal.aborted) return;
    this.#endedSinceSweep = 0;
    const finished = Array.from(this.#records.all()).filter(
      (record) => this.#isOwn(record) && finalTaskStates.has(record.state),
    );
    const oldest = new Date(Date.now() - maxAgeMs).toISOString();
    finished.sort((left, right) => ((left.endedAt ?? '') < (right.endedAt ?? '') ? 1 : -1));
    const surplus = finished.filter(({ endedAt }, index) => index >= maxCount || (endedAt ?? '') < oldest);
    if (surplus.length === 0) return;
    this.#sweeping = this.#records
      .remove(surplus)
      .catch((error: unknown) => this.#options.log.warn({ err: error }, 'old tasks could not be removed'))
      .finally(() => (this.#sweeping = null));
  }
}

/** For a record that another version of Lodge has left: it fails at once, and says why. */
function unknownType(record: TaskRecord): TaskType {
  const refuse = (): never => {
    throw new LodgeError('unsupported', `this version of Lodge has no tasks of type ${record.type}`, {
      hint: 'Use the version of Lodge that began the task to finish it.',
    });
  };
  return {
    type: record.type,
    parse: refuse,
    services: null,
    timeoutMs: 1000,
    onCrash: 'resume',
    waitsForTasks: false,
    steps: record.steps.map(({ name }) => ({ name, timeoutMs: 1000, run: refuse })),
    exclusiveKey: () => record.exclusiveKey,
  };
}
