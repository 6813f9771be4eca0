// Made-up tasks for the tests of the engine: files in a folder, as it were, and one with a single step.
import assert from 'node:assert/strict';
import * as z from 'zod';
import { LodgeError, type ErrorCode } from '../../api/errors.ts';
import type { Subject } from '../../api/object.ts';
import { defineTask, type StepContext, type TaskStep, type TaskType } from './task.ts';

export const target = (name: string): Subject => ({ kind: 'vm', id: `id-${name}`, name, project: 'default' });
export const hasCode =
  (code: ErrorCode) =>
  (error: unknown): boolean =>
    error instanceof LodgeError && error.code === code;
/** Longest wait of a test, also on a busy machine. */
export const timeoutMs = 60_000;

/** What tasks change: files in a folder, as it were. */
export class World {
  files = new Map<string, string>();
  log: string[] = [];
}

const fillInput = z.object({ names: z.array(z.string()).default(['a', 'b', 'c']) });

/** Writes files one after the other, each step one file that it remembers; the ideal task. */
export function fillTask(world: World, options: { onCrash?: 'resume' | 'undo'; pivot?: number } = {}) {
  const step = (index: number, isPivot = false) => ({
    name: `write ${index}`,
    timeoutMs: 10_000,
    isPivot,
    weight: index + 1,
    async run(context: {
      input: z.output<typeof fillInput>;
      state: Readonly<Record<string, unknown>>;
      remember(values: Record<string, unknown>): Promise<void>;
    }) {
      const name = context.input.names[index] ?? assert.fail();
      await context.remember({ [`file${index}`]: name });
      world.log.push(`run ${name}`);
      world.files.set(name, `content ${index}`);
    },
    ...(isPivot
      ? {}
      : {
          async undo(context: { state: Readonly<Record<string, unknown>> }) {
            const name = context.state[`file${index}`];
            world.log.push(`undo ${String(name)}`);
            if (typeof name === 'string') world.files.delete(name);
          },
        }),
  });
  return defineTask({
    type: 'vm.fill',
    input: fillInput,
    onCrash: options.onCrash,
    steps: [0, 1, 2].map((index) => step(index, index === options.pivot)),
  });
}

type Step = TaskStep<unknown, Record<string, unknown>, unknown>;

/** A task with one step, which runs the given function. */
export function singleTask(
  run: (context: StepContext<unknown, Record<string, unknown>, unknown>) => Promise<void> | void,
  more: Partial<Step> = {},
): TaskType {
  return defineTask({
    type: 'vm.single',
    input: z.unknown(),
    steps: [{ name: 'work', timeoutMs: 10_000, run, ...more }],
  });
}

export const submission = (name = 'web') => ({ target: target(name), input: {}, requestedBy: 'test' });

/** Rejects with the signal's reason. */
export const untilAborted = (signal: AbortSignal): Promise<void> =>
  new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason as Error)));
