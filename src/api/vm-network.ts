// What goes through the NICs of a VM: counters, and packets themselves.
import * as z from 'zod';
import { inProject } from './object.ts';
import { bytes, route, type RouteTable } from './route.ts';

const count = z.int().min(0);

/** Since the VM was started, as its guest sees it. */
export const nicCounters = z
  .object({
    index: z.int().describe('Number of the NIC'),
    mac: z.string(),
    network: z.string(),
    hostInterface: z.string(),
    receivedBytes: count,
    receivedPackets: count,
    receivedDropped: count.describe('Packets for the guest that it had no room for, or that were above a rate'),
    receivedErrors: count,
    sentBytes: count,
    sentPackets: count,
    sentDropped: count,
    sentErrors: count,
  })
  .meta({ id: 'NicCounters' });
export type NicCounters = z.output<typeof nicCounters>;

export const vmNetworkRoutes = {
  nicCounters: route({
    method: 'GET',
    path: '/v1/vms/{vm}/nic-counters',
    tag: 'vms',
    summary: 'Read what went through each NIC of a VM',
    description: 'NICs on networks of mode user have no link on the node, and are not in it.',
    permission: 'vm.read',
    query: inProject,
    response: z.object({ items: z.array(nicCounters) }).meta({ id: 'NicCountersList' }),
    errors: ['not_found', 'wrong_state'],
  }),
  capture: route({
    method: 'GET',
    path: '/v1/vms/{vm}/capture',
    tag: 'vms',
    summary: 'Capture the packets of a NIC',
    description:
      'A stream in the format of pcap, which ends when one of its bounds is reached, or when the client goes. A VM has at most two at once.',
    permission: 'vm.guest',
    query: inProject.extend({
      nic: z.coerce.number<number | string>().int().min(0).max(31).default(0).describe('Number of the NIC'),
      filter: z.string().max(1000).default('').describe('As pcap-filter(7) has it: port 53 and not host 10.88.0.1'),
      packets: z.coerce.number<number | string>().int().min(1).max(10_000_000).optional().describe('Most packets'),
      timeS: z.coerce.number<number | string>().int().min(1).max(3600).default(60).describe('Longest time, seconds'),
      maxBytes: z.coerce
        .number<number | string>()
        .int()
        .min(1000)
        .max(1_073_741_824)
        .default(10_485_760)
        .describe('Most bytes of the stream'),
      snapLength: z.coerce
        .number<number | string>()
        .int()
        .min(64)
        .max(65_535)
        .default(65_535)
        .describe('Bytes of a packet that are kept'),
    }),
    response: bytes('application/vnd.tcpdump.pcap', 'Packets as pcap'),
    errors: ['not_found', 'wrong_state', 'unsupported', 'rate_limited', 'host_failed'],
  }),
} as const satisfies RouteTable;
