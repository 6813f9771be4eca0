// One thing done to many VMs: those named, those with certain labels, or all of the project. The daemon does it, as one
// task; here it is asked for, confirmed where something would be lost, followed, and told for each VM.
import { randomUUID } from 'node:crypto';
import type { PlannedVmAction, VmActionsInput } from '../../api/vm-action.ts';
import { LodgeError } from '../../api/errors.ts';
import { wholeNumber } from '../command.ts';
import { confirm } from '../confirm.ts';
import type { Session } from '../connect/session.ts';
import type { SelectionOptions } from '../list.ts';
import { followItems } from '../output/items.ts';
import { printDocument } from '../output/print.ts';
import { renderTable, type Column } from '../output/table.ts';
import { usageError } from '../usage-error.ts';
import { colorState } from '../view.ts';
import type { Command } from 'commander';

/** Options of verbs that take many VMs. */
export interface ManyOptions extends SelectionOptions {
  parallel?: number;
  dryRun?: boolean;
  yes?: boolean;
  wait?: boolean;
}

/** How an action is told. */
export interface ManyWords {
  /** "stop": for "stop 3 VMs". */
  verb: string;
  /** "is stopped". */
  done: string;
  /** What is asked before it is done, where something may be lost: "Switch off". */
  question?: string;
  /** Also asked where nobody is there to answer: then --yes is needed. */
  isAlwaysAsked?: boolean;
}

/** Adds the options that choose several VMs, and how many at a time. */
export function selecting(command: Command): Command {
  return command
    .option('-l, --selector <labels>', 'all VMs with these labels: app=web,tier!=db')
    .option('--all', 'all VMs of the project')
    .option('--parallel <count>', 'of several, this many at a time, at most 16 (default: 8)', wholeNumber(1, 16))
    .option('--dry-run', 'show which VMs would be meant, and do nothing');
}

/** Whether a command line is about one VM that it names: then it is asked for itself. */
export function isOneNamed(names: readonly string[], options: ManyOptions): boolean {
  return names.length === 1 && options.selector === undefined && options.all !== true && options.dryRun !== true;
}

/** The VMs that a command line means, as the contract has it. Refuses both names and a selection, and neither. */
export function choiceOf(names: readonly string[], options: SelectionOptions): VmActionsInput['vms'] {
  const { selector, all } = options;
  const ways = [names.length > 0, selector !== undefined, all === true].filter(Boolean).length;
  if (ways === 0)
    throw usageError('no VM is named', {
      hint: 'Name one or several, select them with -l app=web, or take --all of the project.',
    });
  if (ways > 1)
    throw usageError('VMs are chosen in more than one way', { hint: 'Give names, or --selector, or --all.' });
  if (selector !== undefined) return { selector };
  return names.length > 0 ? { names: [...new Set(names)] } : { all: true };
}

const plannedColumns: readonly Column<PlannedVmAction>[] = [
  { header: 'NAME', value: (one) => one.name, minWidth: 12 },
  {
    header: 'STATE',
    value: (one) => one.state ?? '',
    color: (text, one, style) => colorState(text, one.state ?? '', style),
  },
  { header: 'MEANT', value: (one) => (one.isHit ? 'yes' : 'no') },
  { header: 'WHY NOT', value: (one) => one.reason, minWidth: 12 },
];

/** Does one thing to many VMs. Gives the exit code: that of the first VM for which it failed. */
export async function actOnMany(
  session: Session,
  names: readonly string[],
  options: ManyOptions,
  action: VmActionsInput['action'],
  words: ManyWords,
  onDone: (name: string) => void = () => undefined,
): Promise<number> {
  const { client, project, terminal } = session;
  const vms = choiceOf(names, options);
  const body: VmActionsInput = { project, action, vms, parallelism: options.parallel };
  const isAsked =
    words.question !== undefined && options.yes !== true && (words.isAlwaysAsked === true || terminal.canAsk);
  const planned = 'names' in vms && options.dryRun !== true && !isAsked ? null : await plan(session, body);
  if (options.dryRun === true) {
    await printDocument(session, planned ?? [], () =>
      renderTable(plannedColumns, planned ?? [], { width: terminal.width, style: terminal.style }),
    );
    return 0;
  }
  const hits = planned?.filter(({ isHit }) => isHit);
  if (planned && (hits?.length ?? 0) === 0 && !('names' in vms)) {
    const found = planned.length === 0 ? '' : ` ${planned.map(({ name, state }) => `${name} is ${state}`).join(', ')}.`;
    terminal.note(`No VM to ${words.verb}.${found}`);
    return 0;
  }
  if (isAsked && hits) {
    const meant = hits.map(({ name }) => name);
    const what = meant.length === 1 ? `VM ${meant[0]}` : `${meant.length} VMs (${meant.join(', ')})`;
    await confirm(session, `${words.question} ${what}?`, false);
    // What was agreed to is what is done, whatever has got the labels meanwhile.
    body.vms = { names: 'names' in vms ? vms.names : hits.map(({ id }) => id) };
  }
  const task = await client.vm.act({ body, idempotencyKey: randomUUID() });
  const count = task.items.filter(({ state }) => state === 'pending').length;
  if (options.wait === false) {
    terminal.line(`${words.verb} of ${count} VMs has begun (task ${task.id}).`);
    return 0;
  }
  const title = task.items.length === 1 ? `VM ${task.items[0]?.name}` : `${task.items.length} VMs`;
  return followItems(session, task, `${words.verb} ${title}`, (name) => {
    onDone(name);
    return `VM ${name} ${words.done}.`;
  });
}

/** The VMs that would be meant; none where nothing has the labels. */
async function plan(session: Session, body: VmActionsInput): Promise<PlannedVmAction[]> {
  try {
    return (await session.client.vm.planAction({ body })).items;
  } catch (failure) {
    if (!(failure instanceof LodgeError) || failure.code !== 'not_found') throw failure;
    session.terminal.note(failure.message);
    return [];
  }
}
