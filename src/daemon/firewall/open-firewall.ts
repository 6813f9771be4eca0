// Puts the firewall together, over the objects, networks and links of the daemon.
import { type Objects } from '../objects.ts';
import { type NetworkModes } from '../network/network-modes.ts';
import { type ReferenceLock } from '../store/reference-lock.ts';
import { FirewallService } from './firewall-service.ts';

export interface OpenFirewallParts {
  objects: Pick<
    Objects,
    'securityGroupObjects' | 'addressSetObjects' | 'policyObjects' | 'networkObjects' | 'vmObjects'
  >;
  modes: NetworkModes;
  references: ReferenceLock;
}

/** The firewall, which does nothing yet. */
export function openFirewall({ objects, modes, references }: OpenFirewallParts): FirewallService {
  return new FirewallService({
    groups: objects.securityGroupObjects,
    addressSets: objects.addressSetObjects,
    policies: objects.policyObjects,
    networks: objects.networkObjects,
    vms: objects.vmObjects,
    references,
    linkOf: ({ spec }, vmId, mac) => modes.of(spec.mode).hostInterface(vmId, mac),
    leases: () => new Map(),
    names: () => new Map(),
    enforcement: () => ({
      apply: async () => {},
      status: () => ({ state: 'idle', reason: 'Nothing is filtered.', method: 'none', nicCount: 0, problems: [] }),
    }),
  });
}
