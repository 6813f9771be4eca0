// One task while it runs.
//
//              ┌───────────────────────────────┐
//              ▼                               │ next step
//   running: save "step runs" ─▶ run ──ok──▶ save "step done" (with the save before the next step) ─▶ succeeded
//                                 │
//          failed, out of time,   │   cancelled: save "cancelling" when the request comes
//          or cancelled           ▼
//   undoing: save "undoing" ─▶ undo the steps that ran, the last first, saving each ─▶ failed | cancelled
//
// After the pivot, a step that fails is run again some times instead, and the task then fails without undoing. One that is
// interruptible can be cancelled there: the task ends where it is.
//
// Invariants:
// - What runs next was saved before it runs: whenever the daemon dies, the record tells the one step that may have been
//   half done. It is run again, or undone.
// - Saves happen one after the other, each based on the one before.
// - A task whose last step has ended has succeeded, whatever was asked for meanwhile; one is cancelled or failed only
//   after everything it did was undone, or its error says what was not.
// - stop() leaves the record as a crash would: the next engine goes on from it.
import { setTimeout as delay } from 'node:timers/promises';
import { isDeepStrictEqual } from 'node:util';
import { LodgeError } from '../../api/errors.ts';
import type { Task } from '../../api/task.ts';
import { StoreClosedError } from '../store/store.ts';
import type { Log } from '../store/informer.ts';
import { overallProgress } from './task-progress.ts';
import { runStep, StepAborted, type AbortCause } from './step-run.ts';
import { asTaskError, cancelledError, changedError, interruptedError } from './task-errors.ts';
import type { StoredTask, TaskRecords } from './task-records.ts';
import type { StepContext, StepProgress, TaskRecord, TaskStep, TaskType } from './task.ts';

export interface TaskRunOptions {
  log: Log;
  /** How long a step may take to end after its signal; then it is given up. */
  graceMs: number;
  /** Tries of an undo, and of a step after the pivot. */
  maxAttempts: number;
  /** Pause before the second try; each further one takes twice as long. */
  retryDelayMs: number;
  /** Shortest time between two saves of progress. */
  progressIntervalMs: number;
}

type StepRecord = Task['steps'][number];
type Step = TaskStep<unknown, Record<string, unknown>, unknown>;

/** Longest delay setTimeout takes. */
const maxTimerMs = 2_147_483_647;

/** The engine stops, or lost the store: the record stays as it is. */
class RunInterrupted extends Error {
  override name = 'RunInterrupted';
}

export class TaskRun {
  readonly #type: TaskType;
  readonly #records: TaskRecords;
  readonly #options: TaskRunOptions;
  readonly #stopping = new AbortController();
  #stored: StoredTask;
  /** Newer than in the record between two saves. */
  #progress: TaskRecord['progress'];
  /** Newer than in the record between two saves. */
  #items: TaskRecord['items'];
  #saving: Promise<unknown> = Promise.resolve();
  #progressTimer: NodeJS.Timeout | undefined;
  #deadlineTimer: NodeJS.Timeout | undefined;
  /** The step under way, with what it takes to end it. */
  #current: { index: number; isUndo: boolean; abort: (cause: AbortCause) => void } | null = null;
  /** Why no further step is begun. */
  #halt: 'cancelled' | 'deadline' | null = null;

  constructor(type: TaskType, stored: StoredTask, records: TaskRecords, options: TaskRunOptions) {
    this.#type = type;
    this.#stored = stored;
    this.#progress = stored.record.progress;
    this.#items = stored.record.items;
    this.#records = records;
    this.#options = options;
  }

  get record(): TaskRecord {
    return this.#stored.record;
  }

  /** Store revision of the last save. */
  get revision(): number {
    return this.#stored.revision;
  }

  /** Whether cancelling still has a meaning. */
  get isCancellable(): boolean {
    const { state } = this.record;
    if (state !== 'running' && state !== 'queued') return false;
    return !this.#isPastPivot() || this.#type.steps[this.#current?.index ?? -1]?.isInterruptible === true;
  }

  /** Runs or undoes the task to its end. Resolves also when it was stopped. */
  async drive(): Promise<void> {
    try {
      await this.#driveToEnd();
    } catch (error) {
      if (error instanceof RunInterrupted || error instanceof StoreClosedError || this.#stopping.signal.aborted) return;
      throw error;
    } finally {
      clearTimeout(this.#progressTimer);
      clearTimeout(this.#deadlineTimer);
    }
  }

  /** Asks it to end and undo. Resolves when the request is saved. */
  async cancel(): Promise<void> {
    if (!this.isCancellable || this.#halt) return;
    this.#halt = 'cancelled';
    this.#current?.abort('cancelled');
    await this.#save(() => ({
      isCancelRequested: true,
      ...(this.record.state === 'running' ? { state: 'cancelling' } : {}),
    }));
  }

  /** Ends it where it is, for the next engine to go on. drive() then resolves soon. */
  stop(): void {
    this.#stopping.abort();
    this.#current?.abort('stopped');
  }

  async #driveToEnd(): Promise<void> {
    const { state, steps } = this.record;
    if (state === 'undoing') return this.#undoAll();
    const isSame = isDeepStrictEqual(
      steps.map(({ name }) => name),
      this.#type.steps.map(({ name }) => name),
    );
    if (!isSame) return this.#failOrUndo(changedError(this.record), steps);
    if (this.#canTurnBack()) {
      if (this.record.isCancelRequested) return this.#beginUndo(cancelledError(this.record), steps);
      const wasBegun = steps.some((step) => step.state !== 'pending');
      if (wasBegun && this.#type.onCrash === 'undo') return this.#beginUndo(interruptedError(this.record), steps);
    } else if (this.record.isCancelRequested) this.#halt = 'cancelled';
    const deadline = this.record.deadline ?? new Date(Date.now() + this.#type.timeoutMs).toISOString();
    this.#watchDeadline(deadline);
    await this.#runSteps({ startedAt: this.record.startedAt ?? new Date().toISOString(), deadline });
  }

  /** `pending` is what is true already and is saved together with the next thing. */
  async #runSteps(pending: Partial<TaskRecord>): Promise<void> {
    for (const [index, step] of this.#type.steps.entries()) {
      if (this.record.steps[index]?.state === 'done') continue;
      if (this.#stopping.signal.aborted) {
        await this.#save(() => pending);
        throw new RunInterrupted();
      }
      const steps = this.#stepChange(pending.steps ?? this.record.steps, index, 'running');
      if (!this.#mustTurnBack()) {
        this.#noteProgress(index, {}, steps);
        await this.#save(() => ({ ...pending, steps, state: 'running' }));
      }
      // The request may also have come during the save.
      if (this.#mustTurnBack()) return this.#beginUndo(this.#haltError(), pending.steps ?? this.record.steps);
      const failure = await this.#runForward(step, index);
      if (failure) return this.#fail(index, failure.error);
      pending = { steps: this.#stepChange(this.record.steps, index, 'done') };
      if (step.isPivot) await this.#save(() => pending);
    }
    await this.#save(() => ({
      ...pending,
      state: 'succeeded',
      endedAt: new Date().toISOString(),
      progress: { percent: 100 },
    }));
  }

  /** Runs a step; after the pivot, some times. Resolves to what made it fail. */
  async #runForward(step: Step, index: number): Promise<{ error: unknown } | null> {
    const maxAttempts = this.#isPastPivot() ? this.#options.maxAttempts : 1;
    for (let attempt = 1; ; attempt++) {
      try {
        await this.#runOnce(step, index, false);
        return null;
      } catch (error) {
        if (error instanceof StepAborted && error.reason === 'stopped') throw new RunInterrupted();
        if (attempt >= maxAttempts || this.#isInterrupted(step)) return { error };
        this.#options.log.warn(
          { ...this.#about(step), attempt, err: error },
          'a step of a task failed and is tried again',
        );
        await this.#pause(attempt);
      }
    }
  }

  async #fail(index: number, failure: unknown): Promise<void> {
    const step = this.#type.steps[index];
    const steps = this.#stepChange(this.record.steps, index, 'failed');
    if (this.#mustTurnBack()) return this.#beginUndo(this.#haltError(), steps);
    if (step && this.#isInterrupted(step)) {
      const error = cancelledError(this.record).toBody().error;
      return this.#save(() => ({ steps, state: 'cancelled', error, endedAt: new Date().toISOString() }));
    }
    this.#options.log.error({ ...this.#about(step), err: failure }, 'a step of a task failed');
    const what = `step "${step?.name}" of ${this.#type.type} ${this.record.target.name}`;
    await this.#failOrUndo(asTaskError(failure, what), steps);
  }

  async #failOrUndo(error: LodgeError, steps: StepRecord[]): Promise<void> {
    if (!this.#isPastPivot()) return this.#beginUndo(error, steps);
    await this.#save(() => ({
      steps,
      state: 'failed',
      error: error.toBody().error,
      endedAt: new Date().toISOString(),
    }));
  }

  async #beginUndo(error: LodgeError, steps: StepRecord[]): Promise<void> {
    clearTimeout(this.#deadlineTimer);
    await this.#save(() => ({ state: 'undoing', steps, error: error.toBody().error }));
    await this.#undoAll();
  }

  async #undoAll(): Promise<void> {
    for (let index = this.record.steps.length - 1; index >= 0; index--) {
      const name = this.record.steps[index]?.name;
      const state = this.record.steps[index]?.state;
      // By name: another version of Lodge may have other steps.
      const step = this.#type.steps.find((candidate) => candidate.name === name);
      if (!step?.undo || state === 'pending' || state === 'undone' || state === 'undo-failed') continue;
      const failure = await this.#undoStep(step, index);
      await this.#save((record) => ({
        steps: this.#stepChange(record.steps, index, failure ? 'undo-failed' : 'undone'),
        ...(failure
          ? { error: withUndoFailure(record, step.name, asTaskError(failure.error, `undoing step "${step.name}"`)) }
          : {}),
      }));
    }
    const isClean = this.record.steps.every((step) => step.state !== 'undo-failed');
    const isCancelled = isClean && this.record.error?.code === 'cancelled';
    await this.#save(() => ({ state: isCancelled ? 'cancelled' : 'failed', endedAt: new Date().toISOString() }));
  }

  /** Resolves to what made it impossible. */
  async #undoStep(step: Step, index: number): Promise<{ error: unknown } | null> {
    for (let attempt = 1; ; attempt++) {
      try {
        await this.#runOnce(step, index, true);
        return null;
      } catch (error) {
        if (error instanceof StepAborted && error.reason === 'stopped') throw new RunInterrupted();
        const isLast = attempt >= this.#options.maxAttempts;
        const words = isLast
          ? 'a step of a task could not be undone'
          : 'undoing a step of a task failed and is tried again';
        this.#options.log[isLast ? 'error' : 'warn']({ ...this.#about(step), attempt, err: error }, words);
        if (isLast) return { error };
        await this.#pause(attempt);
      }
    }
  }

  async #runOnce(step: Step, index: number, isUndo: boolean): Promise<void> {
    if (this.#stopping.signal.aborted) throw new RunInterrupted();
    const run = runStep({
      work: (signal, isOver) =>
        isUndo
          ? step.undo?.(this.#context(step, index, signal, isOver))
          : step.run(this.#context(step, index, signal, isOver)),
      timeoutMs: isUndo ? (step.undoTimeoutMs ?? step.timeoutMs) : step.timeoutMs,
      graceMs: this.#options.graceMs,
    });
    this.#current = { index, isUndo, abort: (cause) => run.abort(cause) };
    if (!isUndo && this.#isInterrupted(step)) run.abort('cancelled');
    try {
      await run.ended;
    } catch (error) {
      if (error instanceof StepAborted && error.isGivenUp) {
        this.#options.log.error(this.#about(step), 'a step of a task did not end after its signal and was given up');
      }
      throw error;
    } finally {
      this.#current = null;
      clearTimeout(this.#progressTimer);
      this.#progressTimer = undefined;
    }
  }

  #context(
    step: Step,
    index: number,
    signal: AbortSignal,
    isOver: () => boolean,
  ): StepContext<unknown, Record<string, unknown>, unknown> {
    const { record } = this;
    const about = this.#about(step);
    const getState = (): Record<string, unknown> => this.record.remembered;
    const getItems = (): TaskRecord['items'] => this.#items;
    const check = (): void => {
      if (isOver()) throw new LodgeError('cancelled', `step "${step.name}" has ended and can not go on`);
    };
    return {
      taskId: record.id,
      target: record.target,
      input: record.input,
      services: this.#type.services,
      signal,
      log: bindLog(this.#options.log, about),
      get state() {
        return getState();
      },
      get items() {
        return getItems();
      },
      remember: async (values) => {
        check();
        // A step that runs again remembers the same again.
        const isKnown = isDeepStrictEqual({ ...this.record.remembered, ...values }, this.record.remembered);
        if (!isKnown) await this.#save((current) => ({ remembered: { ...current.remembered, ...values } }));
        check();
      },
      progress: (progress) => {
        if (isOver() || this.#current?.isUndo) return;
        this.#noteProgress(index, progress);
        this.#planProgressSave();
      },
      showItems: (items) => {
        if (isOver()) return;
        this.#items = [...items];
        this.#planProgressSave();
      },
    };
  }

  /** Notes how far step `index` is; without anything, that it begins. */
  #noteProgress(index: number, progress: StepProgress, steps = this.record.steps): void {
    this.#progress = overallProgress(this.#type.steps, { steps, progress: this.#progress }, index, progress);
  }

  #planProgressSave(): void {
    this.#progressTimer ??= setTimeout(() => {
      this.#progressTimer = undefined;
      // Progress is for looking at: when it can not be saved, the next save of the step tells.
      this.#save(() => ({})).catch(() => {});
    }, this.#options.progressIntervalMs);
  }

  async #save(change: (record: TaskRecord) => Partial<TaskRecord>): Promise<void> {
    const save = this.#saving.then(async () => {
      const next = { progress: this.#progress, items: this.#items, ...change(this.record) };
      this.#stored = await this.#records.save(this.#stored, next, this.#stopping.signal);
    });
    this.#saving = save.catch(() => {});
    await save;
  }

  #stepChange(steps: readonly StepRecord[], index: number, state: StepRecord['state']): StepRecord[] {
    const now = new Date().toISOString();
    return steps.map((step, at): StepRecord => {
      if (at !== index) return step;
      if (state === 'running') return { ...step, state, startedAt: step.startedAt ?? now, endedAt: null };
      return { ...step, state, endedAt: now };
    });
  }

  #pivotState(): StepRecord['state'] | undefined {
    const pivot = this.#type.steps.find(({ isPivot }) => isPivot);
    return this.record.steps.find(({ name }) => name === pivot?.name)?.state;
  }

  #isPastPivot(): boolean {
    return this.#pivotState() === 'done';
  }

  /** After a crash: in the pivot nobody knows whether there is a way back, so that it is gone through again. */
  #canTurnBack(): boolean {
    // What others did is theirs: whoever only waits for them can end anywhere.
    if (this.#type.waitsForTasks) return true;
    const state = this.#pivotState();
    return state !== 'done' && state !== 'running';
  }

  /** Whether a step behind the pivot is to end where it is. */
  #isInterrupted({ isInterruptible }: Step): boolean {
    return isInterruptible === true && this.#halt === 'cancelled' && this.#isPastPivot();
  }

  #mustTurnBack(): boolean {
    return this.#halt !== null && !this.#isPastPivot();
  }

  #watchDeadline(deadline: string): void {
    const leftMs = Date.parse(deadline) - Date.now();
    if (leftMs <= 0) {
      if (this.#isPastPivot()) return;
      this.#halt ??= 'deadline';
      this.#current?.abort('deadline');
      return;
    }
    // A far deadline takes several timers.
    this.#deadlineTimer = setTimeout(() => this.#watchDeadline(deadline), Math.min(leftMs, maxTimerMs)).unref();
  }

  #haltError(): LodgeError {
    if (this.#halt !== 'deadline') return cancelledError(this.record);
    const what = `${this.#type.type} ${this.record.target.name}`;
    return new LodgeError('timeout', `${what} had not ended by its deadline (${this.record.deadline}) and was undone`);
  }

  async #pause(attempt: number): Promise<void> {
    const pauseMs = this.#options.retryDelayMs * 2 ** (attempt - 1);
    await delay(pauseMs, undefined, { signal: this.#stopping.signal }).catch(() => {
      throw new RunInterrupted();
    });
  }

  #about(step: Step | undefined): { taskId: string; taskType: string; step: string | undefined } {
    return { taskId: this.record.id, taskType: this.#type.type, step: step?.name };
  }
}

function withUndoFailure(record: TaskRecord, stepName: string, failure: LodgeError): NonNullable<Task['error']> {
  const error = record.error ?? failure.toBody().error;
  return {
    ...error,
    code: error.code === 'cancelled' ? failure.code : error.code,
    message: `${error.message}; step "${stepName}" could not be undone: ${failure.message}`,
  };
}

function bindLog(log: Log, about: object): Log {
  return {
    debug: (details, message) => log.debug({ ...about, ...details }, message),
    info: (details, message) => log.info({ ...about, ...details }, message),
    warn: (details, message) => log.warn({ ...about, ...details }, message),
    error: (details, message) => log.error({ ...about, ...details }, message),
  };
}
