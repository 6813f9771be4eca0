// Which guest has a volume's layers open, for the layer store.
import { liveVmStates } from '../../api/vm-state.ts';
import { type Vm } from '../../api/vm.ts';
import { type Volume } from '../../api/volume.ts';
import { type Collection } from '../store/collection.ts';
import { type LayerUse } from '../volume/volume-layers.ts';
import { type VmGuests } from './vm-guests.ts';

export interface LayerUseParts {
  volumes: Pick<Collection<Volume>, 'get'>;
  vms: Pick<Collection<Vm>, 'get'>;
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
  return guest ? { state: 'on', disk, snapshots: guest.snapshots } : { state: 'unknown', vm: vm.name };
}
