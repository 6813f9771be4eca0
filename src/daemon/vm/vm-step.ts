// What the steps of tasks on VMs have in common. Each step can be run again and undone; see task.ts for what that demands.
import { type Vm } from '../../api/vm.ts';
import { type Driver } from '../../drivers/driver.ts';
import { type EventService } from '../event/event-service.ts';
import { type TaskStep } from '../task/task.ts';
import { type PlacementService } from '../tuning/placement-service.ts';
import { type DefinitionParts } from './definition.ts';
import { assignMacs, bytesOf } from './hardware.ts';
import { type UidPool } from './uid-pool.ts';
import { type VmGuests } from './vm-guests.ts';
import { type VmRecords } from './vm-records.ts';

export interface VmStepParts extends DefinitionParts {
  records: VmRecords;
  guests: VmGuests;
  driver: Driver;
  events: EventService;
  uids: UidPool;
  /** Decides on which CPUs a VM runs that is being started. */
  placements: Pick<PlacementService, 'reserve'>;
  node: string;
  /** Takes away the snapshots of a VM that is being deleted. Can be repeated. */
  forgetSnapshots: (vmId: string) => Promise<void>;
}

/** What every task on a VM is given. */
export interface VmTaskInput {
  id: string;
  timeoutS?: number | undefined;
  isForced?: boolean | undefined;
  /** What this start boots from before all else: a word that bootDeviceOf knows. */
  bootOnce?: string | undefined;
}

export type VmStep = TaskStep<VmTaskInput, Record<string, unknown>, unknown>;

/** The longest that what a step does on the host may take. */
export const hostTimeoutMs = 60_000;

/** Takes away the VM's taps: of the NICs it has, and of those it was about to get. */
export function disconnect(parts: Pick<VmStepParts, 'networks'>, vm: Vm): Promise<void> {
  const has = vm.status.nics.map(({ mac }) => mac);
  const planned = assignMacs(vm.spec.nics, vm.status.nics, new Set(), bytesOf(vm.id));
  return parts.networks.disconnect(vm.id, new Set([...has, ...planned]));
}
