// What a VM has and what it is to have, put together from its object, image and addresses, and compared: the difference
// is made while it runs, or shown as pending with its reason.
import { type PendingChange, type Vm } from '../../api/vm.ts';
import { type VmSpec } from '../../api/vm-spec.ts';
import { type Guest } from '../../drivers/driver.ts';
import { planChanges, planWithoutGuest, type ChangePlan, type Configuration } from './change-plan.ts';
import { imageOf, type DefinitionParts } from './definition.ts';
import { assignMacs, bytesOf, effectiveDisks } from './hardware.ts';
import { type VmRecords } from './vm-records.ts';

export interface VmChangesParts extends Pick<DefinitionParts, 'images'> {
  records: VmRecords;
}

const isBeingMade = 'It is being changed.';

/** The addresses of the NICs of a spec: those they keep, and for new ones always the same. */
export function macsOf(records: VmRecords, vm: Vm, nics: VmSpec['nics']): string[] {
  const others = [...records.collection.all()].filter((other) => other.id !== vm.id);
  const inUse = new Set(others.flatMap((other) => other.status.nics.map((nic) => nic.mac)));
  return assignMacs(nics, vm.status.nics, inUse, bytesOf(vm.id));
}

/** What a VM that is up has by now; null for one that is down. */
export function effectiveConfiguration(parts: VmChangesParts, vm: Vm): Configuration | null {
  const { startedSpec, nics } = vm.status;
  if (!startedSpec) return null;
  const macs = startedSpec.nics.map((nic, index) => nics[index]?.mac ?? nic.mac ?? '');
  return configure(parts, vm, startedSpec, macs);
}

/** What a VM is to have by its spec. */
export function wantedConfiguration(parts: VmChangesParts, vm: Vm): Configuration {
  return configure(parts, vm, vm.spec, macsOf(parts.records, vm, vm.spec.nics));
}

/** What is to be done about the difference while the guest runs; null where there is nobody to ask. */
export async function planFor(parts: VmChangesParts, vm: Vm, guest: Guest): Promise<ChangePlan | null> {
  const now = effectiveConfiguration(parts, vm);
  return now && planChanges(now, wantedConfiguration(parts, vm), await guest.devices.report());
}

/** What of a VM's spec isn't in effect, with the reason where it was refused. */
export async function pendingFrom(
  parts: VmChangesParts,
  vm: Vm,
  guest: Guest,
  refused: Readonly<Record<string, string>> = {},
): Promise<PendingChange[]> {
  const plan = await planFor(parts, vm, guest);
  if (!plan) return [];
  const seen = new Set<string>();
  const steps = plan.steps.filter(({ field }) => !seen.has(field) && seen.add(field));
  return [
    ...steps.map(({ field, current, wanted }) => {
      const reason = refused[field] ?? isBeingMade;
      return { field, current, wanted, reason, needsRestart: false };
    }),
    ...plan.pending,
  ];
}

/** The same for a VM whose guest can't be asked now. */
export function pendingWithoutGuest(parts: VmChangesParts, vm: Vm): PendingChange[] {
  const now = effectiveConfiguration(parts, vm);
  if (!now) return [];
  const reason =
    vm.status.state === 'suspended'
      ? 'It is suspended, and goes on with the hardware that its memory was saved with.'
      : `It is ${vm.status.state}, and can not be changed now.`;
  return planWithoutGuest(now, wantedConfiguration(parts, vm), reason);
}

function configure(parts: VmChangesParts, vm: Vm, spec: VmSpec, macs: readonly string[]): Configuration {
  return {
    spec,
    disks: effectiveDisks(spec, imageOf(parts, { ...vm, spec })),
    nics: spec.nics.map((nic, index) => ({ nic, mac: macs[index] ?? '' })),
  };
}
