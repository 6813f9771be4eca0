// Routes of networks.
import { type NounHandlers } from '../../api/contract.ts';
import { network, type Network } from '../../api/network.ts';
import { type ByteSource, type RequestContext } from '../http/context.ts';
import { type FirewallService } from '../firewall/firewall-service.ts';
import { type Collection } from '../store/collection.ts';
import { lister } from '../store/list-page.ts';
import { type NetworkService } from './network-service.ts';

export function networkHandlers(
  networks: NetworkService,
  collection: Collection<Network>,
  firewall: Pick<FirewallService, 'checkNetwork'>,
): NounHandlers<'network', RequestContext, ByteSource> {
  const list = lister(network, { all: () => collection.all(), revision: () => collection.revision });
  const find = ({ params, query }: { params: { network: string }; query: { project: string } }): Network =>
    networks.require(query.project, params.network);
  return {
    list: async ({ query }) => list(query),
    create: async ({ body }) => {
      firewall.checkNetwork(body.project, body.spec);
      return networks.create(body);
    },
    get: async (request) => find(request),
    update: async (request) => {
      const found = find(request);
      firewall.checkNetwork(found.project, request.body.spec);
      return networks.update(found, request.body);
    },
    delete: (request) => networks.delete(find(request)),
    confirm: (request) => networks.confirm(find(request)),
    diagnose: async (request) => ({ items: await networks.diagnose(find(request)) }),
    leases: async (request) => ({ items: await networks.leases(find(request)) }),
  };
}
