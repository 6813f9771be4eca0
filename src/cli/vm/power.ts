// Switching VMs: start, stop, force-off, restart, suspend (tasks), reset, pause, resume (at once). One that is named is
// asked for itself; of several, the daemon makes one task.
import type { Task } from '../../api/task.ts';
import type { Vm } from '../../api/vm.ts';
import type { VmActionsInput } from '../../api/vm-action.ts';
import type { Session } from '../connect/session.ts';
import { taskForEach } from '../delete-each.ts';
import { withSuggestion } from '../list.ts';
import { untilInterrupted } from '../output/follow.ts';
import { ProgressBoard } from '../output/progress.ts';
import { mapConcurrently } from '../concurrent.ts';
import { actOnMany, isOneNamed, type ManyOptions, type ManyWords } from './many.ts';
import { fetchVms } from './view.ts';
import { goalText, waitForVm, type VmGoal } from './wait.ts';

export interface PowerOptions extends ManyOptions {
  wait: boolean;
  waitFor?: VmGoal;
  timeout?: number;
  force?: boolean;
  bootOnce?: string;
}

/** What a power verb does and how it is told. */
export interface PowerWords extends ManyWords {
  action: VmActionsInput['action'];
  /** "is starting". */
  doing: string;
}

/** Runs a power task for each VM and follows it; then, if asked, waits until the guests are up. */
export async function powerTask(
  session: Session,
  names: readonly string[],
  options: PowerOptions,
  words: PowerWords,
  start: (name: string) => Promise<Task>,
): Promise<number> {
  const [name = ''] = names;
  if (!isOneNamed(names, options)) {
    const done: string[] = [];
    const code = await actOnMany(session, names, options, words.action, words, (one) => done.push(one));
    if (options.wait && options.waitFor !== undefined && done.length > 0)
      await waitForVms(session, done, options.waitFor, options.timeout ?? defaultGuestTimeoutMs);
    return code;
  }
  const code = await taskForEach(
    session,
    [name],
    {
      title: () => `${words.verb} VM ${name}`,
      done: () => `VM ${name} ${words.done}.`,
      doing: () => `VM ${name} ${words.doing}`,
    },
    options.wait,
    () => withSuggestion(session, name, fetchVms, () => start(name)),
  );
  if (!options.wait || options.waitFor === undefined) return code;
  await waitForVms(session, [name], options.waitFor, options.timeout ?? defaultGuestTimeoutMs);
  return code;
}

/** How long a guest may take to boot: emulated, a distribution takes minutes. */
export const defaultGuestTimeoutMs = 15 * 60_000;

/** Waits for several VMs with progress. */
export async function waitForVms(
  session: Session,
  names: readonly string[],
  goal: VmGoal,
  timeoutMs: number,
): Promise<Vm[]> {
  const board = new ProgressBoard(session.terminal);
  try {
    return await untilInterrupted(
      session,
      (signal) =>
        mapConcurrently(names, 8, async (name) => {
          const row = board.add(`wait for VM ${name}`);
          const vm = await waitForVm(session, name, goal, {
            signal,
            timeoutMs,
            onMissing: (text) => board.update(row, { waitingFor: text }),
          });
          board.update(row, { outcome: { isGood: true, text: goalText(goal) } });
          return vm;
        }),
      () => {
        board.close();
        return [
          `Stopped waiting; the ${names.length === 1 ? 'VM goes' : 'VMs go'} on. Wait again: lodge vm wait ${names.join(' ')} --for ${goal}`,
        ];
      },
    );
  } finally {
    board.close();
  }
}

/** Does what takes effect at once to each VM. */
export async function powerAtOnce(
  session: Session,
  names: readonly string[],
  options: ManyOptions,
  words: PowerWords,
  act: (name: string) => Promise<Vm>,
): Promise<number> {
  const [name = ''] = names;
  if (!isOneNamed(names, options)) return actOnMany(session, names, options, words.action, words);
  await withSuggestion(session, name, fetchVms, () => act(name));
  session.terminal.line(`VM ${name} ${words.done}.`);
  return 0;
}
