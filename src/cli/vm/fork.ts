// lodge vm fork and lodge vm tree: running copies of a running VM, and what was made from what.
import { randomUUID } from 'node:crypto';
import type { Vm } from '../../api/vm.ts';
import type { Session } from '../connect/session.ts';
import { collect, withSuggestion } from '../list.ts';
import { followTask } from '../output/follow.ts';
import { printDocument, printList, type Printable } from '../output/print.ts';
import { colorState, momentOf } from '../view.ts';
import { relativesOf, treeLines } from './lineage.ts';
import { addressesOf, fetchVms } from './view.ts';

export interface ForkOptions {
  count?: number;
  name?: string;
  isolated?: boolean;
  wait: boolean;
}

/** Forks a VM and shows the copies. */
export async function forkVm(session: Session, options: ForkOptions, name: string): Promise<void> {
  const { client, project, terminal } = session;
  const body = { count: options.count, name: options.name, isIsolated: options.isolated };
  const idempotencyKey = randomUUID();
  const task = await withSuggestion(session, name, fetchVms, () =>
    // A lost answer must not make the copies twice.
    client.vm.fork({ params: { vm: name }, query: { project }, body, idempotencyKey }),
  );
  if (!options.wait) {
    terminal.line(`VM ${name} is being forked (task ${task.id}).`);
    terminal.note(`Follow it: lodge task wait ${task.id}`);
    return;
  }
  await followTask(session, task, `fork VM ${name}`, { done: 'forked' });
  const filter = `status.lineage.forkId=${task.id}`;
  const copies = await collect((query) => fetchVms(client, query), { project, filter });
  await printList(session, copyPrintable, copies.toSorted(byNumber), 'They were deleted meanwhile.');
  const withoutIdentity = copies.filter((copy) => !copy.status.lineage?.hasOwnIdentity).map((copy) => copy.name);
  if (withoutIdentity.length === 0) return;
  terminal.note(
    `Without their own identity, and so with their NICs disconnected: ${withoutIdentity.join(', ')}. lodge vm show tells why.`,
  );
}

function byNumber(one: Vm, other: Vm): number {
  return one.name.localeCompare(other.name, 'en', { numeric: true });
}

const copyPrintable: Printable<Vm> = {
  kind: 'Vm',
  name: (vm) => vm.name,
  columns: [
    { header: 'NAME', value: (vm) => vm.name, minWidth: 12 },
    {
      header: 'STATE',
      value: (vm) => vm.status.state,
      color: (text, vm, style) => colorState(text, vm.status.state, style),
    },
    { header: 'IDENTITY', value: (vm) => (vm.status.lineage?.hasOwnIdentity ? 'its own' : 'of its original') },
    { header: 'ADDRESS', value: (vm) => addressesOf(vm)[0] ?? '' },
    { header: 'MAC', value: (vm) => vm.status.nics[0]?.mac ?? '' },
  ],
};

/** Shows which VM was made from which: of all, or of the family of one. */
export async function showTree(session: Session, name: string | undefined): Promise<void> {
  const { client, project } = session;
  const query = { project };
  const all = await collect((request) => fetchVms(client, request), query);
  const shown =
    name === undefined
      ? all
      : relativesOf(
          all,
          await withSuggestion(session, name, fetchVms, () => client.vm.get({ params: { vm: name }, query })),
        );
  const rows = shown
    .filter((vm) => vm.status.lineage !== null || name !== undefined)
    .map(({ id, name: own, status }) => ({ id, name: own, state: status.state, lineage: status.lineage }));
  await printDocument(session, rows, () => {
    const lines = treeLines(shown, describe);
    return lines.length > 0 ? lines : ['No VM was made from another. lodge vm fork makes copies of a running one.'];
  });
}

function describe({ name, status }: Vm): string {
  const { lineage } = status;
  const from = lineage ? `, ${lineage.kind} of ${lineage.parentName}, ${momentOf(lineage.at) ?? ''}` : '';
  return `${name} (${status.state}${from})`;
}
