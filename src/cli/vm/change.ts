// Changing a VM and waiting until it is changed: what can change while it runs is changed by a task of the daemon, and
// what is left pending is told with its reason.
import type { Vm } from '../../api/vm.ts';
import { liveVmStates } from '../../api/vm-state.ts';
import type { VmSpec } from '../../api/vm-spec.ts';
import { LodgeError } from '../../api/errors.ts';
import type { Session } from '../connect/session.ts';
import { closestWord } from '../../lib/closest-word.ts';
import { withSuggestion } from '../list.ts';
import { followTask } from '../output/follow.ts';
import { usageError } from '../usage-error.ts';
import { fetchVms, pendingText, sourceText } from './view.ts';

export interface ChangeOptions {
  wait: boolean;
  force?: boolean;
}

/** How often a change is tried on what somebody else has just changed. */
const tries = 5;

/** Changes a VM's spec by a function of what it is, and waits until it is changed. */
export async function changeVm(
  session: Session,
  name: string,
  options: ChangeOptions,
  change: (spec: VmSpec, vm: Vm) => VmSpec,
): Promise<void> {
  const params = { vm: name };
  const query = { project: session.project };
  for (let left = tries; ; left--) {
    const before = await withSuggestion(session, name, fetchVms, () => session.client.vm.get({ params, query }));
    const spec = change(before.spec, before);
    try {
      const changed = await session.client.vm.update({
        params,
        query: { ...query, force: options.force === true },
        body: { revision: before.revision, labels: before.labels, spec },
      });
      const after = await untilChanged(session, changed, options.wait);
      for (const line of changedLines(after)) session.terminal.line(line);
      return;
    } catch (failure) {
      if (left === 1 || !(failure instanceof LodgeError) || failure.code !== 'revision_conflict') throw failure;
    }
  }
}

/** Follows the task that changes a VM that runs. Answers with the VM as it is then. */
export async function untilChanged(session: Session, vm: Vm, isWaiting: boolean): Promise<Vm> {
  const { taskId, pendingChanges, state } = vm.status;
  const isUnderWay = taskId !== null && liveVmStates.has(state) && pendingChanges.some((one) => !one.needsRestart);
  if (!isUnderWay || !isWaiting) return vm;
  const task = await session.client.task.get({ params: { task: taskId } });
  if (task.type === 'vm.change') await followTask(session, task, `change VM ${vm.name}`);
  return session.client.vm.get({ params: { vm: vm.name }, query: { project: session.project } });
}

/** What is told of a VM that was changed. */
export function changedLines(vm: Pick<Vm, 'name' | 'status'>): string[] {
  const pending = vm.status.pendingChanges;
  if (pending.length === 0) return [`VM ${vm.name} is changed.`];
  return [
    `VM ${vm.name} is changed. Not in effect yet:`,
    ...pending.map((change) => `  ${pendingText(change)}`),
    ...(pending.some(({ needsRestart }) => needsRestart)
      ? [`What waits for a restart: lodge vm restart ${vm.name}`]
      : []),
  ];
}

/** What is told where removing a field of its own left a VM as it was: the field comes from somewhere else. */
export function unchangedLines(vm: Pick<Vm, 'name' | 'spec'>, words: readonly string[]): string[] {
  const fields = words.filter((word) => word.endsWith('-')).map((word) => word.slice(0, -1));
  const from = (vm.spec.inherited ?? []).filter(({ field }) => fields.some((one) => `${field}.`.startsWith(`${one}.`)));
  return [
    `VM ${vm.name} is as it was.`,
    ...from.map(({ field, kind, name }) => `  ${field} comes from ${sourceText({ kind, name })}.`),
  ];
}

/** The place of a disk in the spec; a mistyped name gets a suggestion. */
export function diskIndex(
  spec: VmSpec,
  vm: string,
  disk: string,
  isWanted: (disk: VmSpec['disks'][number]) => boolean = () => true,
): number {
  const index = spec.disks.findIndex((one) => one.name === disk && isWanted(one));
  if (index !== -1) return index;
  const known = spec.disks.filter((one) => isWanted(one)).map((one) => one.name);
  const near = closestWord(disk, known);
  throw usageError(`VM ${vm} has no such drive in its spec: ${disk}`, {
    hint: near !== null ? `Did you mean ${near}?` : known.length > 0 ? `It has ${known.join(', ')}.` : 'It has none.',
  });
}

/** The place of a NIC in the spec: by its number, its address, or the name of its network where that is one's only NIC. */
export function nicIndex(vm: Vm, given: string): number {
  const { spec, status } = vm;
  const macOf = (index: number): string | undefined => spec.nics[index]?.mac ?? status.nics[index]?.mac;
  const byPlace = /^\d+$/.test(given) ? Number(given) : -1;
  if (spec.nics[byPlace]) return byPlace;
  const found = spec.nics.flatMap((nic, index) =>
    macOf(index)?.toLowerCase() === given.toLowerCase() || nic.network === given ? [index] : [],
  );
  if (found.length === 1) return found[0]!;
  const all = spec.nics.map((nic, index) => `${index} (${[nic.network, macOf(index)].filter(Boolean).join(', ')})`);
  throw usageError(`${found.length === 0 ? 'no NIC' : 'more than one NIC'} of VM ${vm.name} is meant by ${given}`, {
    hint: all.length > 0 ? `Give its number or address: ${all.join('; ')}.` : 'It has none.',
  });
}

/** The NICs with the addresses they have, so that taking one out leaves the others what they are. */
export function keptNics({ spec, status }: Vm): VmSpec['nics'] {
  return spec.nics.map((nic, index) => {
    const mac = nic.mac ?? status.nics[index]?.mac;
    return mac === undefined ? nic : { ...nic, mac };
  });
}
