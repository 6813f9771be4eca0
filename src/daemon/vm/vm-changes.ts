// What a VM has and what it is to have, put together from its object, image and addresses, and compared: the difference
// is made while it runs, or shown as pending with its reason.
import { type PendingChange, type Vm } from '../../api/vm.ts';
import { type VmSpec } from '../../api/vm-spec.ts';
import { planWithoutGuest, type Configuration } from './change-plan.ts';
import { imageOf, type DefinitionParts } from './definition.ts';
import { effectiveDisks } from './hardware.ts';
import { macsOf } from './vm-make-steps.ts';
import { type VmRecords } from './vm-records.ts';

export interface VmChangesParts extends Pick<DefinitionParts, 'images'> {
  records: VmRecords;
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

/** What of a VM's spec isn't in effect. */
export function pendingOf(parts: VmChangesParts, vm: Vm): PendingChange[] {
  const now = effectiveConfiguration(parts, vm);
  if (!now) return [];
  const reason =
    vm.status.state === 'suspended'
      ? 'It is suspended, and goes on with the hardware that its memory was saved with.'
      : 'It is read when the VM starts.';
  return planWithoutGuest(now, wantedConfiguration(parts, vm), reason);
}

function configure(parts: VmChangesParts, vm: Vm, spec: VmSpec, macs: readonly string[]): Configuration {
  return {
    spec,
    disks: effectiveDisks(spec, imageOf(parts, { ...vm, spec })),
    nics: spec.nics.map((nic, index) => ({ nic, mac: macs[index] ?? '' })),
  };
}
