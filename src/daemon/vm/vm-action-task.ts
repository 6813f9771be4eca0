// One action on many VMs, as a task: a bounded number at a time, each by a task of its own where the action is one. What
// fails for one does not hold up the others. Resumed after a crash; cancelled, what has not begun is left as it is.
import * as z from 'zod';
import { LodgeError } from '../../api/errors.ts';
import { type TaskItem } from '../../api/task.ts';
import { maxActionParallelism, vmBulkAction, type VmBulkAction } from '../../api/vm-action.ts';
import { vmActions } from '../../api/vm-state.ts';
import { type Vm } from '../../api/vm.ts';
import { type TaskEngine } from '../task/task-engine.ts';
import { defineTask, type TaskRecord, type TaskType } from '../task/task.ts';
import { actionWords } from './vm-records.ts';
import { ItemBoard, waitForPart } from '../task/task-items.ts';

const input = z.strictObject({
  /** Tells one action from another: any number of them run at once. */
  key: z.string(),
  action: vmBulkAction,
  parallelism: z.int().min(1).max(maxActionParallelism),
});
export type VmActionInput = z.input<typeof input>;

export interface VmActionTaskParts {
  engine: () => TaskEngine;
  vm: (id: string) => Vm | null;
  /** Begins the action on one VM, by a task that is a part of `parentId`; null: it is done. */
  act: (vm: Vm, action: VmBulkAction, parentId: string) => Promise<TaskRecord | null>;
}

/** Every VM has its own deadlines; this is for all of them. */
const longestMs = 7 * 86_400_000;

/** How an action is told: "is stopped". */
const doneWords: Readonly<Record<VmBulkAction['type'], string>> = {
  start: 'is running',
  stop: 'is stopped',
  forceOff: 'is switched off',
  restart: 'is restarted',
  reset: 'is reset',
  pause: 'is paused',
  resume: 'runs on',
  suspend: 'is suspended',
  delete: 'is deleted',
  snapshot: 'has the snapshot',
  update: 'is changed',
};
export function vmActionTask(parts: VmActionTaskParts): TaskType<VmActionInput> {
  return defineTask({
    type: 'vm.act',
    input,
    waitsForTasks: true,
    exclusiveKey: ({ key }) => `vm-act/${key}`,
    steps: [
      {
        name: 'one VM after the other',
        timeoutMs: longestMs,
        isPivot: true,
        run: async (context) => {
          const { action, parallelism } = context.input;
          const board = new ItemBoard(context);
          // What an earlier run has begun comes first: it counts among those that are worked on.
          const rank = ({ state }: TaskItem): number => (state === 'running' ? 0 : 1);
          const queue = board
            .all()
            .filter(({ id }) => !board.hasEnded(id))
            .toSorted((left, right) => rank(left) - rank(right));
          const worker = async (): Promise<void> => {
            for (let next = queue.shift(); next && !context.signal.aborted; next = queue.shift())
              await actOnOne(parts, board, next, action, context);
          };
          await Promise.all(Array.from({ length: Math.min(parallelism, queue.length) }, worker));
          if (context.signal.aborted) board.noteAborted();
          context.signal.throwIfAborted();
          requireAllDone(board.all(), actionWords[action.type]);
        },
      },
    ],
  });
}

async function actOnOne(
  parts: VmActionTaskParts,
  board: ItemBoard,
  { id, name, state }: TaskItem,
  action: VmBulkAction,
  { taskId, signal }: { taskId: string; signal: AbortSignal },
): Promise<void> {
  const engine = parts.engine();
  const wasBegun = state === 'running';
  board.set(id, { state: 'running', message: '' });
  try {
    const begun = engine.partsOf(taskId).find(({ target }) => target.id === id);
    const vm = parts.vm(id);
    const isGone = !vm && !begun;
    if (isGone && !(wasBegun && action.type === 'delete'))
      throw new LodgeError('not_found', `There is no VM ${name}; it was deleted meanwhile.`);
    // Broken off after it had taken effect and before that was noted.
    const isDone = isGone || (wasBegun && !begun && vm !== null && endsIn(action, vm));
    const part = begun ?? (vm && !isDone ? await parts.act(vm, action, taskId) : null);
    if (part) {
      board.set(id, { taskId: part.id });
      await waitForPart(engine, part.id, signal);
    }
    board.set(id, { state: 'done', message: `VM ${name} ${doneWords[action.type]}.` });
  } catch (error) {
    if (!signal.aborted) board.fail(id, error);
  }
}

/** Whether what takes effect at once has taken effect. A reset leaves no trace, and can be repeated. */
function endsIn({ type }: VmBulkAction, vm: Vm): boolean {
  return (type === 'pause' || type === 'resume') && vm.status.state === vmActions[type].to;
}

/** Throws when some could not be done: what the first failed with, and how many there are. */
export function requireAllDone(items: readonly TaskItem[], participle: string): void {
  const failed = items.filter(({ state }) => state === 'failed');
  const [first] = failed;
  if (!first) return;
  const names = failed.slice(0, 5).map(({ name }) => name);
  const more = failed.length > names.length ? ` and ${failed.length - names.length} more` : '';
  throw new LodgeError(
    first.error?.code ?? 'internal',
    `${failed.length} of ${items.length} VMs could not be ${participle}: ${names.join(', ')}${more}. ${first.message}`,
    { hint: first.error?.hint },
  );
}
