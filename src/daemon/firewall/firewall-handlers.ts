// Routes of security groups, address sets and the firewall.
import { type AddressSet, addressSet as addressSetSchema } from '../../api/address-set.ts';
import { type NounHandlers } from '../../api/contract.ts';
import { type SecurityGroup, securityGroup as securityGroupSchema } from '../../api/security-group.ts';
import { type Vm } from '../../api/vm.ts';
import { type ByteSource, type RequestContext } from '../http/context.ts';
import { type Collection } from '../store/collection.ts';
import { lister } from '../store/list-page.ts';
import { type FirewallService } from './firewall-service.ts';

type InProject = { project: string };

export function securityGroupHandlers(
  service: FirewallService,
  collection: Collection<SecurityGroup>,
): NounHandlers<'securityGroup', RequestContext, ByteSource> {
  const list = lister(securityGroupSchema, {
    all: () => service.viewGroups([...collection.all()]),
    revision: () => collection.revision,
  });
  const find = ({ params, query }: { params: { securityGroup: string }; query: InProject }): SecurityGroup =>
    service.requireGroup(query.project, params.securityGroup);
  return {
    list: async ({ query }) => list(query),
    create: ({ body }) => service.createGroup(body),
    get: async (request) => service.viewGroups([find(request)])[0]!,
    update: (request) => service.updateGroup(find(request), request.body),
    delete: (request) => service.deleteGroup(find(request)),
  };
}

export function addressSetHandlers(
  service: FirewallService,
  collection: Collection<AddressSet>,
): NounHandlers<'addressSet', RequestContext, ByteSource> {
  const list = lister(addressSetSchema, {
    all: () => [...collection.all()].map((set) => service.viewSet(set)),
    revision: () => collection.revision,
  });
  const find = ({ params, query }: { params: { addressSet: string }; query: InProject }): AddressSet =>
    service.requireSet(query.project, params.addressSet);
  return {
    list: async ({ query }) => list(query),
    create: ({ body }) => service.createSet(body),
    get: async (request) => service.viewSet(find(request)),
    update: (request) => service.updateSet(find(request), request.body),
    delete: (request) => service.deleteSet(find(request)),
  };
}

export function firewallHandlers(
  service: FirewallService,
  vms: Collection<Vm>,
): NounHandlers<'firewall', RequestContext, ByteSource> {
  return {
    get: async ({ query }) => service.project(query.project),
    update: ({ query, body }) => service.updateProject(query.project, body),
    rules: async ({ params, query }) => ({
      items: await service.rulesOf(vms.require(query.project, params.vm), query.counters),
    }),
    explain: async ({ query }) => service.explain(query),
  };
}
