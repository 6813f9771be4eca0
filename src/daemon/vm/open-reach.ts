// How guests are reached from outside, put together: ports of the node that lead to them, and tunnels through the daemon.
import { type PublishedPort } from '../../api/port-forward.ts';
import { type EventService } from '../event/event-service.ts';
import { type NetworkModes } from '../network/network-modes.ts';
import { PortForwards } from '../network/port-forwards.ts';
import { type Objects } from '../objects.ts';
import { type Log } from '../store/informer.ts';
import { Tunnels } from './tunnels.ts';
import { macsOf } from './vm-changes.ts';
import { type VmGuests } from './vm-guests.ts';
import { type VmRecords } from './vm-records.ts';
import { type VmService } from './vm-service.ts';

export interface ReachParts {
  objects: Pick<Objects, 'networkObjects' | 'vmObjects'>;
  modes: NetworkModes;
  records: VmRecords;
  guests: VmGuests;
  service: () => VmService;
  events: EventService;
  log: Log;
  checkIntervalMs: number;
}

export function openReach(parts: ReachParts): { ports: PortForwards; tunnels: Tunnels } {
  const { objects, records, guests, service } = parts;
  const { networkObjects, vmObjects } = objects;
  const ports = new PortForwards({
    ...parts,
    networks: () => networkObjects.all(),
    vms: vmObjects,
    macsOf: (vm) => macsOf(records, vm, vm.spec.nics),
    setPublished: (id, publishedPorts: PublishedPort[]) => records.patch(id, { publishedPorts }),
    guest: (id) => guests.get(id),
  });
  const tunnels = new Tunnels({
    ports,
    network: (project, name) => networkObjects.find(project, name),
    guest: (vm) => service().guest(vm, 'guest'),
  });
  return { ports, tunnels };
}
