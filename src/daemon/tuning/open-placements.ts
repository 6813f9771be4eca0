// The placement of this node's VMs, put together.
import { thisMachine } from '../../host/hardware/source.ts';
import { type NodeService } from '../node/node-service.ts';
import { type VmGuests } from '../vm/vm-guests.ts';
import { HostSettings } from './host-settings.ts';
import { PlacementService, type PlacementServiceParts } from './placement-service.ts';

export function openPlacements(
  parts: Pick<PlacementServiceParts, 'records' | 'events' | 'log'> & { guests: () => VmGuests; nodes: NodeService },
): PlacementService {
  const { guests, nodes, ...rest } = parts;
  return new PlacementService({
    ...rest,
    guestOf: (id) => guests().get(id),
    node: () => nodes.self,
    settings: new HostSettings({
      hasRealGuests: () => nodes.self.status.driver.name !== 'fake',
      read: () => nodes.self.status.hostSettings ?? [],
      write: (settings) => nodes.noteHostSettings(settings),
    }),
    machine: thisMachine(),
  });
}
