// lodge vm clone: new VMs with the disks of another.
import { randomUUID } from 'node:crypto';
import type { CloneMode, CloneTpm } from '../../api/vm-clone.ts';
import type { Vm } from '../../api/vm.ts';
import { usageError } from '../usage-error.ts';
import type { Session } from '../connect/session.ts';
import { collect, withSuggestion } from '../list.ts';
import { followTask, followTasks } from '../output/follow.ts';
import { printList } from '../output/print.ts';
import { fetchVms, vmPrintable } from './view.ts';

export interface CloneOptions {
  full?: boolean;
  linked?: boolean;
  count?: number;
  start?: boolean;
  snapshot?: string;
  tpm?: CloneTpm;
  wait: boolean;
}

/** Clones a VM and shows the clones. */
export async function cloneVm(session: Session, options: CloneOptions, vm: string, name?: string): Promise<void> {
  if (options.full === true && options.linked === true)
    throw usageError('--full and --linked exclude each other', { hint: 'Without either, clones are linked.' });
  const mode: CloneMode = options.full === true ? 'full' : 'linked';
  const { client, project, terminal } = session;
  const body = {
    name,
    count: options.count,
    mode,
    isStarted: options.start,
    snapshot: options.snapshot,
    tpm: options.tpm,
  };
  const idempotencyKey = randomUUID();
  const task = await withSuggestion(session, vm, fetchVms, () =>
    // A lost answer must not make the clones twice.
    client.vm.clone({ params: { vm }, query: { project }, body, idempotencyKey }),
  );
  if (!options.wait) {
    terminal.line(`VM ${vm} is being cloned (task ${task.id}).`);
    terminal.note(`Follow it: lodge task wait ${task.id}`);
    return;
  }
  await followTask(session, task, `clone VM ${vm}`, { done: 'cloned' });
  const filter = `status.lineage.forkId=${task.id}`;
  const read = (): Promise<Vm[]> => collect((query) => fetchVms(client, query), { project, filter });
  let clones = await read();
  if (options.start === true) {
    const left = await followStarts(session, clones);
    clones = await read();
    if (left.length > 0) terminal.note(`Not started: ${left.join(', ')}. Why: lodge task list, lodge events`);
  }
  await printList(session, vmPrintable, clones.toSorted(byNumber), 'They were deleted meanwhile.');
}

/** Follows the tasks that start clones, which were begun when these were made; names those that didn't start. */
async function followStarts(session: Session, clones: readonly Vm[]): Promise<string[]> {
  const query = { filter: 'type=vm.start', sort: '-createdAt', limit: 500 };
  const { items } = await session.client.task.list({ query });
  const starts = clones.flatMap(({ id, name }) => {
    const task = items.find(({ target }) => target.id === id);
    return task ? [{ task, title: `start VM ${name}`, done: 'started' }] : [];
  });
  const ended = await followTasks(session, starts);
  const started = new Set(ended.flatMap(({ task, error }) => (error === null ? [task.target.id] : [])));
  return clones.filter(({ id }) => !started.has(id)).map(({ name }) => name);
}

function byNumber(one: Vm, other: Vm): number {
  return one.name.localeCompare(other.name, 'en', { numeric: true });
}
