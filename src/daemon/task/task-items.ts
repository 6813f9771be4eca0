// Tasks that work on several objects one by one, each by a task of its own: how each gets on is shown as the items of the
// whole, and its parts are found again after the daemon died in the middle.
//
// Invariants:
// - A part is in the store with its parent's id before it runs: a second run of the parent's step finds it, and waits for
//   it instead of beginning it again.
// - An item that is done, failed or skipped stays so.
import { LodgeError } from '../../api/errors.ts';
import { type TaskItem } from '../../api/task.ts';
import { StepAborted } from './step-run.ts';
import { type TaskEngine } from './task-engine.ts';
import { type StepContext } from './task.ts';

type ItemContext = Pick<
  StepContext<unknown, Record<string, unknown>, unknown>,
  'taskId' | 'items' | 'showItems' | 'progress' | 'signal'
>;

/** An item of which nothing has begun. */
export function pendingItem({ id, name }: { id: string; name: string }): TaskItem {
  return { id, name, state: 'pending', message: '', taskId: null, error: null };
}

const finalStates: ReadonlySet<TaskItem['state']> = new Set<TaskItem['state']>(['done', 'failed', 'skipped']);

/** The items of a task while its step runs. */
export class ItemBoard {
  readonly #context: ItemContext;
  readonly #items: Map<string, TaskItem>;

  constructor(context: ItemContext) {
    this.#context = context;
    this.#items = new Map(context.items.map((item) => [item.id, item]));
    this.#show();
  }

  all(): TaskItem[] {
    return [...this.#items.values()];
  }

  get(id: string): TaskItem {
    const item = this.#items.get(id);
    if (!item) throw new TypeError(`the task has no item ${id}`);
    return item;
  }

  hasEnded(id: string): boolean {
    return finalStates.has(this.get(id).state);
  }

  failed(): TaskItem[] {
    return this.all().filter(({ state }) => state === 'failed');
  }

  set(id: string, change: Partial<TaskItem>): void {
    this.#items.set(id, { ...this.get(id), ...change });
    this.#show();
  }

  /** Notes why an object could not be done. What is meant for people is told, the rest is in the log of its task. */
  fail(id: string, error: unknown): void {
    const shown =
      error instanceof LodgeError ? error : new LodgeError('internal', `${this.get(id).name}: an unexpected error`);
    this.set(id, { state: 'failed', message: shown.message, error: shown.toBody().error });
  }

  /** What has not begun is left as it is. */
  skipPending(message: string): void {
    for (const [id, item] of this.#items)
      if (item.state === 'pending') this.#items.set(id, { ...item, state: 'skipped', message });
    this.#show();
  }

  /** The step was told to end: what has not begun does not begin any more, unless the next daemon goes on with it. */
  noteAborted(): void {
    const { reason } = this.#context.signal as { reason: unknown };
    if (reason instanceof StepAborted && reason.reason === 'stopped') return;
    this.skipPending('It had not begun when the whole was cancelled.');
    for (const { id, state } of this.all())
      if (state === 'running') this.set(id, { message: 'It goes on as a task of its own.' });
  }

  #show(): void {
    const all = this.all();
    const ended = all.filter(({ state }) => finalStates.has(state)).length;
    this.#context.showItems(all);
    this.#context.progress({
      percent: all.length === 0 ? 100 : (100 * ended) / all.length,
      message: `${ended} of ${all.length} done`,
    });
  }
}

/** Waits for the end of a part. Throws the error with which it failed, or the signal's reason. */
export async function waitForPart(engine: TaskEngine, partId: string, signal: AbortSignal): Promise<void> {
  const ended = await engine.wait(partId, { signal });
  if (ended.state === 'succeeded') return;
  if (ended.error) throw LodgeError.fromBody({ error: ended.error });
  throw new LodgeError('cancelled', `${ended.type} ${ended.target.name} was ${ended.state}`);
}
