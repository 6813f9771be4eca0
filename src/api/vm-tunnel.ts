// Tunnels: a connection to a TCP port of a guest through the daemon, for those who don't reach the guest themselves.
import * as z from 'zod';
import { inProject } from './object.ts';
import { route, type RouteTable } from './route.ts';

export const vmTunnelRoutes = {
  tunnel: route({
    method: 'GET',
    path: '/v1/vms/{vm}/tunnel',
    tag: 'vms',
    summary: 'Connect to a TCP port of a guest',
    description:
      'One connection from the node to the guest, at an address that its network has given it; on networks beyond the node, one that the guest tells. A VM has at most 64 at once. It ends when either side closes it.',
    permission: 'vm.guest',
    query: inProject.extend({
      port: z.coerce.number<number | string>().int().min(1).max(65_535).describe('TCP port of the guest'),
    }),
    response: { kind: 'websocket', description: 'Bytes of the connection in binary frames' },
    errors: ['not_found', 'wrong_state', 'unavailable', 'unsupported', 'host_conflict', 'rate_limited'],
  }),
} as const satisfies RouteTable;
