// What a task is: its type, made of steps that can be undone, and its record, which outlives the daemon.
//
// A step's contract, on which resuming and undoing rest:
// - `run` is idempotent: when it is run again after it was broken off anywhere, or after it had ended, the result is that
//   of running it once. What the second run needs to know of the first is remembered *before* it is done.
// - `undo` takes back all or any part of what `run` did, also when `run` was broken off or did nothing, and is
//   idempotent as well. A step without `undo` leaves nothing that matters.
// - Both watch `signal` in everything that takes time, and end soon after it aborts. One that doesn't is given up after
//   a grace and undone, while it may still be doing something.
// - A step must not wait for another task, which may wait for this one's place; but for types with `waitsForTasks`,
//   which take no place.
import type * as z from 'zod';
import { LodgeError } from '../../api/errors.ts';
import type { Subject } from '../../api/object.ts';
import type { Task, TaskItem } from '../../api/task.ts';
import type { Log } from '../store/informer.ts';

/** A task as it is kept: what the API shows, and what the engine needs to go on with it. */
export interface TaskRecord extends Task {
  /** What was asked for, as the type's schema has it. May hold secrets: it is never shown. */
  input: unknown;
  /** What steps remembered for those after them and for undoing. */
  remembered: Record<string, unknown>;
  /** Tasks with the same key run one after the other, in the order in which they were submitted. */
  exclusiveKey: string;
  /** The node whose engine runs it. */
  node: string;
  isCancelRequested: boolean;
  idempotencyKey: string | null;
}

/** How far a step is. What is not given stays as it was. */
export interface StepProgress {
  /** Of this step, 0 to 100. Without it, bytesDone of bytesTotal. */
  percent?: number;
  bytesDone?: number;
  bytesTotal?: number;
  message?: string;
}

/** What `run` and `undo` are given. After the step was given up, all of it refuses. */
export interface StepContext<Input, Bag, Services> {
  readonly taskId: string;
  readonly target: Subject;
  readonly input: Input;
  readonly services: Services;
  /** What was remembered so far, by this and earlier steps. */
  readonly state: Readonly<Partial<Bag>>;
  /** Aborts when the step has to end: cancelled, out of time, or the daemon stops. */
  readonly signal: AbortSignal;
  readonly log: Log;
  /** The objects it works on one by one, as they were last shown; also by an earlier run of the step. */
  readonly items: readonly TaskItem[];
  /** Adds to `state`; resolves when it is durable. Values are JSON. */
  remember(this: void, values: Partial<Bag>): Promise<void>;
  /** Shows how far the step is. Cheap: it is written at most once in a while. */
  progress(this: void, progress: StepProgress): void;
  /** Shows how each of several objects gets on: all of them. Cheap, as progress; what was shown last is kept with the step. */
  showItems(this: void, items: readonly TaskItem[]): void;
}

export interface TaskStep<Input, Bag, Services> {
  /** Shown to people; unique in its task: "copy image". */
  name: string;
  /** Its part of the whole in percent, relative to the others. Default 1. */
  weight?: number;
  /** The longest that `run` may take, milliseconds. */
  timeoutMs: number;
  /** The longest that one try of `undo` may take. Default: timeoutMs. */
  undoTimeoutMs?: number;
  /**
   * The step after which there is no way back (deleting data, switching over): once it is done, the task is no longer
   * cancelled or undone; the steps after it are tried again when they fail.
   */
  isPivot?: boolean;
  /**
   * For a step after the pivot: it may be cancelled while it runs. The task then ends as cancelled, with everything that
   * was done until then left as it is, and can be asked for again. `run` ends with an error soon after its signal.
   */
  isInterruptible?: boolean;
  run(context: StepContext<Input, Bag, Services>): Promise<void> | void;
  undo?(context: StepContext<Input, Bag, Services>): Promise<void> | void;
}

export interface TaskDefinition<
  InputSchema extends z.ZodType = z.ZodType,
  BagSchema extends z.ZodType = z.ZodType,
  Services = unknown,
> {
  /** noun.verb: vm.create. */
  type: string;
  /** Schema of the input; its output must be JSON and is what steps get, also after a restart. */
  input: InputSchema;
  /** Schema of what steps remember, for its type only. Without it, anything. */
  state?: BagSchema;
  /** What steps work with; usually given by the function that makes the definition. */
  services?: Services;
  /** Which tasks exclude each other. Default: those with the same target, which count as working on it. */
  exclusiveKey?(input: z.output<InputSchema>, target: Subject): string;
  /** The longest that the whole may take once it has begun; then it is cancelled and undone. Default: what its steps may take. */
  timeoutMs?: number;
  /**
   * Its steps do nothing but have other tasks done and wait for them. It takes none of their places; in return its steps
   * may not wait for tasks of a type that does so too.
   */
  waitsForTasks?: boolean;
  /** After the daemon died in the middle: run the step it was in again, or undo everything. Default resume. */
  onCrash?: 'resume' | 'undo';
  steps: readonly TaskStep<z.output<InputSchema>, BagOf<BagSchema>, Services>[];
}

type BagOf<BagSchema extends z.ZodType> = z.ZodType extends BagSchema ? Record<string, unknown> : z.output<BagSchema>;

/** A task type as the engine takes it. `Input` is what submit() has to be given. */
export interface TaskType<Input = unknown> {
  readonly type: string;
  readonly services: unknown;
  readonly timeoutMs: number;
  readonly onCrash: 'resume' | 'undo';
  readonly waitsForTasks: boolean;
  readonly steps: readonly TaskStep<unknown, Record<string, unknown>, unknown>[];
  /** What the schema makes of the input. Throws invalid_request. */
  parse(input: Input): unknown;
  exclusiveKey(input: unknown, target: Subject): string;
}

/** What excludes each other by default: all that is about one object. */
export function keyOf({ kind, id }: Pick<Subject, 'kind' | 'id'>): string {
  return `${kind}/${id}`;
}

/** What the default deadline has on top of what the steps may take: time for saves. */
const deadlineSlackMs = 60_000;

/** Checks a task type and makes it ready for the engine. The types of `run`'s context follow from the schemas and services. */
export function defineTask<InputSchema extends z.ZodType, BagSchema extends z.ZodType = z.ZodType, Services = unknown>(
  definition: TaskDefinition<InputSchema, BagSchema, Services>,
): TaskType<z.input<InputSchema>> {
  const { type, steps } = definition;
  const names = new Set(steps.map(({ name }) => name));
  if (!/^[a-z][a-z0-9-]*\.[a-z][a-zA-Z0-9-]*$/.test(type)) throw new TypeError(`a task type is noun.verb, not ${type}`);
  if (steps.length === 0 || names.size !== steps.length)
    throw new TypeError(`${type} needs steps with names of their own`);
  if (steps.filter(({ isPivot }) => isPivot).length > 1) throw new TypeError(`${type} has more than one pivot`);
  for (const { name, timeoutMs, weight = 1 } of steps) {
    if (!(timeoutMs > 0 && weight > 0))
      throw new TypeError(`step ${name} of ${type} needs a timeout and a weight above 0`);
  }
  return {
    type,
    services: definition.services,
    timeoutMs: definition.timeoutMs ?? steps.reduce((sum, { timeoutMs }) => sum + timeoutMs, deadlineSlackMs),
    onCrash: definition.onCrash ?? 'resume',
    waitsForTasks: definition.waitsForTasks ?? false,
    steps,
    parse(input) {
      const parsed = definition.input.safeParse(input);
      if (parsed.success) return parsed.data;
      const [issue] = parsed.error.issues;
      const where = issue?.path.length ? `${issue.path.join('.')}: ` : '';
      throw new LodgeError('invalid_request', `the input of ${type} is not valid: ${where}${issue?.message}`, {
        cause: parsed.error,
      });
    },
    exclusiveKey(input, target) {
      return definition.exclusiveKey?.(input as z.output<InputSchema>, target) ?? keyOf(target);
    },
  };
}

/** The task as the API shows it. */
export function toTask(record: TaskRecord): Task {
  const {
    id,
    type,
    target,
    project,
    state,
    steps,
    progress,
    items,
    parentId,
    error,
    requestedBy,
    createdAt,
    startedAt,
    endedAt,
    deadline,
  } = record;
  return {
    id,
    type,
    target,
    project,
    state,
    steps,
    progress,
    items,
    parentId,
    error,
    requestedBy,
    createdAt,
    startedAt,
    endedAt,
    deadline,
  };
}
