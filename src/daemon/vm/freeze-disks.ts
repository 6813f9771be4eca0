// The disks of a VM as they are now, for whoever goes on from them: frozen while it runs and while it is off. It stays as
// it is meanwhile: no start reads the layers that are about to change.
import { setTimeout as delay } from 'node:timers/promises';
import { LodgeError } from '../../api/errors.ts';
import { type Vm } from '../../api/vm.ts';
import { type VmState } from '../../api/vm-state.ts';
import { type LayerHolder } from '../volume/layer.ts';
import { type FreezeTarget } from '../volume/volume-layers.ts';
import { type VmStepParts } from './vm-step.ts';

/** What a VM has been between for longer than this is not waited for. */
const settleMs = 60_000;
const lookAgainMs = 100;
const offStates: ReadonlySet<VmState> = new Set(['stopped', 'suspended']);
const onStates: ReadonlySet<VmState> = new Set(['running', 'paused', 'crashed']);

/**
 * Freezes all disks of a VM in one moment, held by `holder`. Answers with the frozen layer of each, by the disk's name.
 * Where nothing was written since they were frozen last, those layers are taken again.
 */
export async function freezeDisks(
  parts: Pick<VmStepParts, 'records' | 'guests' | 'volumes'>,
  vmId: string,
  { key, holder, signal }: { key: string; holder: LayerHolder; signal: AbortSignal },
): Promise<Record<string, string>> {
  const deadline = Date.now() + settleMs;
  for (;;) {
    signal.throwIfAborted();
    const layers = await parts.guests.exclusively(vmId, () => freezeNow(parts, vmId, key, holder));
    if (layers) return layers;
    const { name, status } = parts.records.byId(vmId);
    if (Date.now() > deadline)
      throw new LodgeError(
        'wrong_state',
        `VM ${name} is still ${status.state}, and its disks can not be frozen then.`,
        {
          hint: 'Wait until it has settled (lodge vm show), and try again.',
        },
      );
    await delay(lookAgainMs, undefined, { signal });
  }
}

/** Null: the VM is between two states. */
async function freezeNow(
  { records, guests, volumes }: Pick<VmStepParts, 'records' | 'guests' | 'volumes'>,
  vmId: string,
  key: string,
  holder: LayerHolder,
): Promise<Record<string, string> | null> {
  const vm = records.byId(vmId);
  const guest = guests.get(vmId);
  const { state } = vm.status;
  if (!(guest ? onStates : offStates).has(state)) return null;
  const targets = diskVolumes({ volumes }, vm);
  if (targets.length === 0) return {};
  const frozen = await volumes.layers.freeze({
    key,
    targets,
    holder,
    isReused: true,
    onSwitch: guest ? (fresh) => guest.snapshots.freeze(fresh) : null,
  });
  return Object.fromEntries(targets.map(({ disk, volume }) => [disk, frozen.get(volume.id)!.id]));
}

/**
 * The disks of a VM with their volumes, as they are frozen: also those that it may only read, so that what goes on from
 * them has all of them, whatever is written to the volumes later. Drives with a medium of an image, or none, are not in it.
 */
export function diskVolumes(
  { volumes }: Pick<VmStepParts, 'volumes'>,
  vm: Pick<Vm, 'name' | 'status'>,
): FreezeTarget[] {
  return vm.status.disks.flatMap(({ name, volume: id }) => {
    if (id === null) return [];
    const volume = volumes.get(id);
    if (!volume)
      throw new LodgeError('not_found', `The volume of disk ${name} of VM ${vm.name} does not exist any more.`, {
        hint: 'Take the disk out of the VM’s spec, or restore the volume.',
      });
    return [{ disk: name, volume }];
  });
}
