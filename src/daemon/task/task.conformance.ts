// What every task type must do, as tests: each step run twice ends like once, and each step that fails leaves nothing.
// A task type passes with a fixture that sets up a small world for it and can tell what is in that world.
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { suite, test } from 'node:test';
import { LodgeError } from '../../api/errors.ts';
import type { Subject } from '../../api/object.ts';
import type { TaskItem } from '../../api/task.ts';
import { SqliteStore } from '../store/sqlite.ts';
import {
  StoreClosedError,
  type KeyValue,
  type Lease,
  type ListOptions,
  type Page,
  type Store,
  type Transaction,
  type TransactionResult,
  type WatchBatch,
  type WatchOptions,
} from '../store/store.ts';
import { TaskEngine, type TaskEngineOptions } from './task-engine.ts';
import type { StepContext, TaskRecord, TaskStep, TaskType } from './task.ts';

export interface TaskFixture {
  /** The type, wired to this fixture's world. */
  type: TaskType;
  target: Subject;
  input: unknown;
  /** What it works on one by one. */
  items?: readonly TaskItem[];
  /** All that the task may change, without ids and times, so that two fixtures' worlds can be compared. */
  observe(): Promise<unknown>;
  /** Removes the world. */
  cleanup(): Promise<void>;
}

type Context = StepContext<unknown, Record<string, unknown>, unknown>;
type Step = TaskStep<unknown, Record<string, unknown>, unknown>;

const deadlineMs = 30_000;
const engineOptions = { attempts: { max: 3, firstDelayMs: 1 }, graceMs: 5000, progressIntervalMs: 1 };

/** A store as a process has it that dies: at a chosen write, before or after it took effect, or when it is told to. */
export class CrashingStore implements Store {
  readonly #inner: Store;
  readonly #crashed = new AbortController();
  /** Transactions until the crash; the last of them is `isLastWriteKept` or not. */
  writesLeft = Number.POSITIVE_INFINITY;
  isLastWriteKept = false;

  constructor(inner: Store) {
    this.#inner = inner;
  }

  get isCrashed(): boolean {
    return this.#crashed.signal.aborted;
  }

  /** From now on nothing of this process reaches the store, or comes from it. */
  crash(): void {
    this.#crashed.abort();
  }

  async transact(transaction: Transaction): Promise<TransactionResult> {
    this.#check();
    if (--this.writesLeft > 0) return this.#alive(this.#inner.transact(transaction));
    if (this.isLastWriteKept) await this.#inner.transact(transaction);
    this.crash();
    throw new StoreClosedError();
  }

  async get(key: string, options?: { revision?: number }): Promise<KeyValue | null> {
    return this.#alive(this.#inner.get(key, options));
  }

  async list(options: ListOptions): Promise<Page> {
    return this.#alive(this.#inner.list(options));
  }

  async *watch(options: WatchOptions, signal: AbortSignal): AsyncIterable<WatchBatch> {
    for await (const batch of this.#inner.watch(options, AbortSignal.any([signal, this.#crashed.signal]))) {
      this.#check();
      yield batch;
    }
    this.#check();
  }

  async grantLease(ttlMs: number): Promise<Lease> {
    return this.#alive(this.#inner.grantLease(ttlMs));
  }

  async keepLeaseAlive(leaseId: string): Promise<void> {
    return this.#alive(this.#inner.keepLeaseAlive(leaseId));
  }

  async revokeLease(leaseId: string): Promise<void> {
    return this.#alive(this.#inner.revokeLease(leaseId));
  }

  async compact(revision: number): Promise<void> {
    return this.#alive(this.#inner.compact(revision));
  }

  async revision(): Promise<number> {
    return this.#alive(this.#inner.revision());
  }

  async close(): Promise<void> {}

  async #alive<T>(answer: Promise<T>): Promise<T> {
    this.#check();
    const value = await answer;
    this.#check();
    return value;
  }

  #check(): void {
    if (this.isCrashed) throw new StoreClosedError();
  }
}

/** A store in a folder of its own, for one test. */
export async function temporaryStore(): Promise<{ store: SqliteStore; remove: () => Promise<void> }> {
  const folder = mkdtempSync(path.join(os.tmpdir(), 'lodge-task-'));
  const store = await SqliteStore.open({ file: path.join(folder, 'lodge.db') });
  const remove = async (): Promise<void> => {
    await store.close();
    rmSync(folder, { recursive: true, force: true });
  };
  return { store, remove };
}

/** An engine that runs, with the short times of tests. */
export async function startEngine(
  store: Store,
  types: TaskEngineOptions['types'],
  options: Partial<TaskEngineOptions> = {},
): Promise<TaskEngine> {
  const engine = new TaskEngine({ ...engineOptions, ...options, store, types });
  await engine.load();
  engine.start();
  return engine;
}

/** The same type with other steps. */
export function withSteps(type: TaskType, change: (step: Step, index: number) => Partial<Step>): TaskType {
  return { ...type, steps: type.steps.map((step, index) => ({ ...step, ...change(step, index) })) };
}

/** Runs a fixture's task with another version of its type until it ends or the process "dies", and then to its end. */
async function runThrough(
  fixture: TaskFixture,
  makeType: (crash: () => void) => TaskType,
): Promise<{ record: TaskRecord; hasCrashed: boolean }> {
  const { store, remove } = await temporaryStore();
  try {
    const dying = new CrashingStore(store);
    const died = Promise.withResolvers<void>();
    const type = makeType(() => {
      dying.crash();
      died.resolve();
    });
    const first = await startEngine(dying, [type]);
    const { target, input, items = [] } = fixture;
    const submission = { target, input, items, requestedBy: 'test' };
    const { id } = await first.submit(type, submission);
    const ended = first.wait(id, { timeoutMs: deadlineMs });
    ended.catch(() => {});
    await Promise.race([ended, died.promise]);
    await first.stop();
    const second = await startEngine(store, [dying.isCrashed ? fixture.type : type]);
    const record = await second.wait(id, { timeoutMs: deadlineMs });
    await second.stop();
    return { record, hasCrashed: dying.isCrashed };
  } finally {
    await remove();
  }
}

const onPurpose = (): LodgeError => new LodgeError('internal', 'failed on purpose');

/** Registers the tests for one task type. `open` makes a fresh world each time. */
export function taskConformance(name: string, open: () => Promise<TaskFixture>): void {
  const inWorld = async <T>(work: (fixture: TaskFixture, before: unknown) => Promise<T>): Promise<T> => {
    const fixture = await open();
    try {
      return await work(fixture, await fixture.observe());
    } finally {
      await fixture.cleanup();
    }
  };
  const plainResult = (): Promise<{ after: unknown; steps: readonly Step[] }> =>
    inWorld(async (fixture, before) => {
      const { record } = await runThrough(fixture, () => fixture.type);
      assert.equal(record.state, 'succeeded', record.error?.message);
      const after = await fixture.observe();
      assert.notDeepEqual(after, before, 'observe() shows nothing of what the task does');
      return { after, steps: fixture.type.steps };
    });
  const pivotOf = (steps: readonly Step[]): number => {
    const index = steps.findIndex(({ isPivot }) => isPivot);
    return index < 0 ? Number.POSITIVE_INFINITY : index;
  };

  suite(`Task ${name}`, () => {
    test('each step run twice, because the daemon died before it was noted as done, ends like once', async (t) => {
      const { after, steps } = await plainResult();
      for (const [index, { name: stepName }] of steps.entries()) {
        await t.test(stepName, () =>
          inWorld(async (fixture, before) => {
            const { record, hasCrashed } = await runThrough(fixture, (crash) =>
              withSteps(fixture.type, (step, at) => ({
                run: async (context: Context) => {
                  await step.run(context);
                  if (at === index) crash();
                },
              })),
            );
            assert.ok(hasCrashed, 'the step was not reached');
            const isResumed = fixture.type.onCrash === 'resume' || index >= pivotOf(steps);
            assert.equal(record.state, isResumed ? 'succeeded' : 'failed', record.error?.message);
            assert.deepEqual(await fixture.observe(), isResumed ? after : before);
          }),
        );
      }
    });

    for (const when of ['before', 'after'] as const) {
      test(`each step that fails ${when} it did its work leaves everything as it was`, async (t) => {
        const { after, steps } = await plainResult();
        for (const [index, { name: stepName }] of steps.entries()) {
          const isPastPivot = index > pivotOf(steps);
          // A pivot that did its work can not say that it failed: there is no way back from what it did.
          if (when === 'after' && index === pivotOf(steps)) continue;
          await t.test(stepName, () =>
            inWorld(async (fixture, before) => {
              let failures = 0;
              const { record } = await runThrough(fixture, () =>
                withSteps(fixture.type, (step, at) => ({
                  run: async (context: Context) => {
                    const mustFail = at === index && (!isPastPivot || failures === 0);
                    if (!mustFail || when === 'after') await step.run(context);
                    if (!mustFail) return;
                    failures++;
                    throw onPurpose();
                  },
                })),
              );
              assert.equal(failures, 1);
              assert.equal(record.state, isPastPivot ? 'succeeded' : 'failed');
              if (!isPastPivot) assert.equal(record.error?.message, 'failed on purpose', 'all could be undone');
              assert.deepEqual(await fixture.observe(), isPastPivot ? after : before);
            }),
          );
        }
      });
    }

    test('each step undone twice, because the daemon died before it was noted as undone, ends like once', async (t) => {
      const { steps } = await plainResult();
      const last = Math.min(pivotOf(steps), steps.length - 1);
      for (const [index, undone] of steps.entries()) {
        if (!undone.undo || index > last) continue;
        await t.test(undone.name, () =>
          inWorld(async (fixture, before) => {
            const { record, hasCrashed } = await runThrough(fixture, (crash) =>
              withSteps(fixture.type, (step, at) => ({
                run: async (context: Context) => {
                  if (at !== last || !step.isPivot) await step.run(context);
                  if (at === last) throw onPurpose();
                },
                undo: async (context: Context) => {
                  await step.undo?.(context);
                  if (at === index) crash();
                },
              })),
            );
            assert.ok(hasCrashed, 'the step was not undone');
            assert.equal(record.state, 'failed');
            assert.deepEqual(await fixture.observe(), before);
          }),
        );
      }
    });
  });
}
