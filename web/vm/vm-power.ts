// What can be done with a VM, how it is asked for, and why it can't be done now: from the table of states that the daemon
// goes by itself (src/api/vm-state.ts).
import { roleAllows, type Permission, type Role } from '../../src/api/permission.ts';
import { canVm, vmActions, type VmAction } from '../../src/api/vm-state.ts';
import { type Vm } from '../../src/api/vm.ts';
import { client } from '../data/client.ts';
import { say, sayOr } from '../i18n/language.ts';

export type PowerAction = 'start' | 'stop' | 'forceOff' | 'restart' | 'reset' | 'pause' | 'resume' | 'suspend';

/** What an action needs; what is not named here is a matter of power. */
const permissions: Readonly<Partial<Record<VmAction, Permission>>> = {
  delete: 'vm.delete',
  console: 'vm.console',
  guest: 'vm.guest',
  update: 'vm.update',
  fork: 'vm.create',
  clone: 'vm.create',
};

/** Why an action can't be done now, in a sentence; null: it can. */
export function reasonAgainst(vm: Vm, action: VmAction, role: Role | null): string | null {
  const permission = permissions[action] ?? 'vm.power';
  if (role === null || !roleAllows(role, permission)) {
    return say('vm.reason.role', { role: role ?? '–', permission });
  }
  const { state, taskId } = vm.status;
  if (!canVm(action, state)) {
    const states = vmActions[action].from.map((one) => sayOr(`state.${one}`, one)).join(', ');
    return say('vm.reason.state', { state: sayOr(`state.${state}`, state), states });
  }
  // What ends a VM may be asked for while something else is at work; the daemon says so where it may not.
  if (taskId !== null && action !== 'forceOff' && action !== 'console') return say('vm.reason.busy');
  return null;
}

/** Whether there is a display to look at. */
export function hasDisplay({ status }: Vm): boolean {
  return (
    canVm('console', status.state) && status.devices.some(({ name, model }) => name === 'video' && model !== 'none')
  );
}

/** Does it. Answers with the task, or with the VM where it is done at once. */
export function powerVm(vm: Vm, action: PowerAction): Promise<unknown> {
  return client.vm[action]({ params: { vm: vm.id } });
}
