// Port forwards: ports of the node that lead to ports of a guest. What is asked for stands at the NIC that they lead to,
// what is in effect in the VM's status.
import * as z from 'zod';

const port = z.int().min(1).max(65_535);
const ipAddress = z.union([z.ipv4(), z.ipv6()]);

/** Ports that one forward may have. */
export const maxForwardedRange = 1000;

export const portForward = z
  .strictObject({
    protocol: z.enum(['tcp', 'udp']).default('tcp'),
    listenAddress: ipAddress
      .optional()
      .describe(
        'Address of the node that it is for: 127.0.0.1 keeps it to the node itself, 0.0.0.0 and :: are all of IPv4 and IPv6. Without it, all addresses',
      ),
    port: port.describe('Port of the node'),
    lastPort: port.optional().describe('Last port of a range, which leads to as many ports of the guest'),
    guestPort: port.optional().describe('Port of the guest, or the first of a range. Without it, the same as port'),
  })
  .describe('A port of the node that leads to a port of the guest')
  .meta({ id: 'PortForward' });
export type PortForward = z.output<typeof portForward>;

export const publishedPort = z
  .object({
    mac: z.string().describe('NIC that it leads to'),
    protocol: z.enum(['tcp', 'udp']),
    listenAddress: z.string().nullable().describe('Address of the node; null: all'),
    port: z.int(),
    lastPort: z.int().nullable().describe('Last port of a range'),
    guestAddresses: z.array(z.string()).describe('Where it leads to now'),
    guestPort: z.int(),
    state: z
      .enum(['active', 'waiting', 'failed'])
      .describe('waiting: the VM is not up, or has no address yet; failed: the node refuses it'),
    reason: z.string(),
  })
  .meta({ id: 'PublishedPort' });
export type PublishedPort = z.output<typeof publishedPort>;

/** "0.0.0.0:8000-8010/tcp": what of the node a forward takes. */
export function forwardText({
  protocol,
  listenAddress,
  port: first,
  lastPort,
}: {
  protocol: string;
  listenAddress?: string | null | undefined;
  port: number;
  lastPort?: number | null | undefined;
}): string {
  const address = listenAddress?.includes(':') ? `[${listenAddress}]` : (listenAddress ?? '*');
  return `${address}:${first}${lastPort === undefined || lastPort === null || lastPort === first ? '' : `-${lastPort}`}/${protocol}`;
}
