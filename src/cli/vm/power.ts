// Switching VMs: start, stop, force-off, restart, suspend (tasks), reset, pause, resume (at once). Several at a time.
import type { Task } from '../../api/task.ts';
import type { Vm } from '../../api/vm.ts';
import { canVm, type VmAction } from '../../api/vm-state.ts';
import type { Session } from '../connect/session.ts';
import { eachOf, taskForEach } from '../delete-each.ts';
import { selectedNames, withSuggestion, type SelectionOptions } from '../list.ts';
import { untilInterrupted } from '../output/follow.ts';
import { ProgressBoard } from '../output/progress.ts';
import { mapConcurrently } from '../concurrent.ts';
import { fetchVms } from './view.ts';
import { goalText, waitForVm, type VmGoal } from './wait.ts';

export interface PowerOptions extends SelectionOptions {
  wait: boolean;
  waitFor?: VmGoal;
  timeout?: number;
  force?: boolean;
  bootOnce?: string;
}

/** What a power verb does and how it is told. */
export interface PowerWords {
  action: VmAction;
  /** "start": for "start vm web1". */
  verb: string;
  /** "is running". */
  done: string;
  /** "is starting". */
  doing: string;
}

/** The VMs meant; those that a selector finds and for which there is something to do. */
export function meantVms(
  session: Session,
  names: readonly string[],
  options: SelectionOptions,
  action: VmAction,
): Promise<string[]> {
  return selectedNames(session, names, options, {
    noun: 'VM',
    fetch: fetchVms,
    isWanted: (vm) => canVm(action, vm.status.state),
  });
}

/** Runs a power task for each VM and follows it; then, if asked, waits until the guests are up. */
export async function powerTask(
  session: Session,
  names: readonly string[],
  options: PowerOptions,
  words: PowerWords,
  start: (name: string) => Promise<Task>,
): Promise<number> {
  const meant = await meantVms(session, names, options, words.action);
  if (meant.length === 0) {
    session.terminal.note(`No VM to ${words.verb}.`);
    return 0;
  }
  const code = await taskForEach(
    session,
    meant,
    {
      title: (name) => `${words.verb} VM ${name}`,
      done: (name) => `VM ${name} ${words.done}.`,
      doing: (name) => `VM ${name} ${words.doing}`,
    },
    options.wait,
    (name) => withSuggestion(session, name, fetchVms, () => start(name)),
  );
  if (!options.wait || options.waitFor === undefined) return code;
  await waitForVms(session, meant, options.waitFor, options.timeout ?? defaultGuestTimeoutMs);
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
  options: SelectionOptions,
  words: PowerWords,
  act: (name: string) => Promise<Vm | void>,
): Promise<number> {
  const meant = await meantVms(session, names, options, words.action);
  if (meant.length === 0) session.terminal.note(`No VM to ${words.verb}.`);
  const acted = await eachOf(session, meant, (name) => withSuggestion(session, name, fetchVms, () => act(name)));
  for (const { name } of acted) session.terminal.line(`VM ${name} ${words.done}.`);
  return Number(process.exitCode ?? 0);
}
