// How guests are reached from outside, put together: ports of the node that lead to them, tunnels through the daemon, and how
// much may go through their NICs.
import { type Vm } from '../../api/vm.ts';
import { type PublishedPort } from '../../api/port-forward.ts';
import { type Config } from '../config.ts';
import { type EventService } from '../event/event-service.ts';
import { type NetworkModes } from '../network/network-modes.ts';
import { PortForwards } from '../network/port-forwards.ts';
import { TrafficShaping } from '../network/traffic-shaping.ts';
import { type Objects } from '../objects.ts';
import { type Log } from '../store/informer.ts';
import { NicTraffic } from './nic-traffic.ts';
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
  config: Pick<Config, 'networks'>;
}

export interface Reach {
  ports: PortForwards;
  tunnels: Tunnels;
  traffic: NicTraffic;
  shaping: TrafficShaping;
  start: () => Promise<unknown>;
  close: () => Promise<unknown>;
}

export function openReach(parts: ReachParts): Reach {
  const checkIntervalMs = parts.config.networks.checkIntervalS * 1000;
  const { objects, records, guests, service } = parts;
  const { networkObjects, vmObjects } = objects;
  const macsOfVm = (vm: Vm): string[] => macsOf(records, vm, vm.spec.nics);
  const ports = new PortForwards({
    ...parts,
    checkIntervalMs,
    networks: () => networkObjects.all(),
    vms: vmObjects,
    macsOf: macsOfVm,
    setPublished: (id, publishedPorts: PublishedPort[]) => records.patch(id, { publishedPorts }),
    guest: (id) => guests.get(id),
  });
  const tunnels = new Tunnels({
    ports,
    network: (project, name) => networkObjects.find(project, name),
    guest: (vm) => service().guest(vm, 'guest'),
  });
  const shaping = new TrafficShaping({
    ...parts,
    checkIntervalMs,
    instance: parts.modes.instance,
    networks: networkObjects,
    vms: vmObjects,
    macsOf: macsOfVm,
    setVm: (id, nicLimits) => records.patch(id, { nicLimits }),
    setNetwork: (id, limits) => networkObjects.setStatus(id, (status) => ({ ...status, limits })),
  });
  const traffic = new NicTraffic((vm, network) => networkObjects.find(vm.project, network)?.spec.mode === 'macvtap');
  return {
    ports,
    traffic,
    tunnels,
    shaping,
    start: () => Promise.all([ports.start(), shaping.start()]),
    close: () => Promise.all([ports.close(), shaping.close()]),
  };
}
