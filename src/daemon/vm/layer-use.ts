// Which guest has a volume's layers open, for the layer store.
import { liveVmStates } from '../../api/vm-state.ts';
import { type Vm } from '../../api/vm.ts';
import { type Volume } from '../../api/volume.ts';
import { type Collection } from '../store/collection.ts';
import { type LayerUse } from '../volume/volume-layers.ts';
import { type VmGuests } from './vm-guests.ts';

export interface LayerUseParts {
  volumes: Pick<Collection<Volume>, 'get'>;
  vms: Pick<Collection<Vm>, 'get' | 'setStatus'>;
  guests: Pick<VmGuests, 'get'>;
}

/** Where a volume is open now. */
export function layerUse({ volumes, vms, guests }: LayerUseParts, volumeId: string): LayerUse {
  const user = volumes.get(volumeId)?.status.usedBy;
  const vm = user ? vms.get(user.id) : null;
  if (!vm || !liveVmStates.has(vm.status.state)) return { state: 'off' };
  const disk = vm.status.disks.find((candidate) => candidate.volume === volumeId)?.name;
  if (disk === undefined) return { state: 'off' };
  const guest = guests.get(vm.id);
  if (!guest) return { state: 'unknown', vm: vm.name };
  const grow = async (sizeMib: number): Promise<void> => {
    await guest.devices.change({ kind: 'resize-disk', name: disk, sizeMib });
    await vms.setStatus(vm.id, (status) => ({
      ...status,
      disks: status.disks.map((one) => (one.volume === volumeId ? { ...one, sizeMib } : one)),
    }));
  };
  return { state: 'on', disk, snapshots: guest.snapshots, grow };
}
