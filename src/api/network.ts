// Networks: what guests are connected to. A network's mode decides how its guests reach the world and each other.
import * as z from 'zod';
import { firewallPolicy } from './firewall-policy.ts';
import { networkLimits, networkLimitStatus } from './nic-limits.ts';
import { creation, inProject, listQuery, metadata, page, timestamp, update } from './object.ts';
import { route, type RouteTable } from './route.ts';

export const ipv4Address = z.ipv4().describe('IPv4 address');
export const ipv6Address = z.ipv6().describe('IPv6 address');
export const ipv4Cidr = z.cidrv4().describe('IPv4 prefix, such as 10.77.0.0/24');

export const ipv6Cidr = z.cidrv6().describe('IPv6 prefix, such as fd00:77::/64');

/**
 * nat: a bridge on the host with DHCP, DNS and address translation. routed: the same without translation, for prefixes
 * that others have a route to. isolated: its guests among themselves, and the host where that is wanted. bridged:
 * guests are neighbours of what is beyond an interface of the host. vlan: the same, in one
 * or some VLANs of it. ovs: on a bridge of Open vSwitch. macvtap: the same without a bridge, the interface stays
 * as it is, and the host itself is not reached. user: inside QEMU, no privileges, guests are alone.
 */
export const networkMode = z
  .enum(['nat', 'routed', 'isolated', 'bridged', 'vlan', 'macvtap', 'ovs', 'user'])
  .meta({ id: 'NetworkMode' });
export type NetworkModeName = z.output<typeof networkMode>;

const vlanId = z.int().min(1).max(4094);

export const networkVlan = z
  .strictObject({
    access: vlanId.optional().describe('The one VLAN that NICs are in, whose frames they get without a tag'),
    trunk: z.array(vlanId).min(1).max(256).optional().describe('The VLANs that NICs get with their tags'),
    native: vlanId.optional().describe('With trunk: the VLAN whose frames have no tag'),
  })
  .describe('VLANs (802.1Q) of the NICs on the network: either access or trunk')
  .meta({ id: 'NetworkVlan' });
export type NetworkVlan = z.output<typeof networkVlan>;

/** Linux interface names: at most 15 characters. */
export const interfaceName = z
  .string()
  .regex(
    /^[a-zA-Z][a-zA-Z0-9_.-]{0,14}$/,
    'is an interface name: a letter, then letters, digits, "_", ".", "-", at most 15 characters',
  );

export const macAddress = z
  .string()
  .regex(/^[0-9a-f][02468ace](:[0-9a-f]{2}){5}$/, 'is a unicast MAC address in lower case: 52:54:00:12:34:56')
  .describe('Unicast MAC address, lower case');

export const dnsDomain = z
  .string()
  .max(200)
  .regex(
    /^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/,
    'is a DNS domain in lower case',
  );

/** Neither blanks, quotes, commas nor "#", which mean something else in dnsmasq's files. */
const bootFile = z
  .string()
  .max(120)
  .regex(/^[A-Za-z0-9._~:/?&=%@+-]+$/, 'is a file name or an http address, without blanks, commas and quotes')
  .optional();

/** How guests of a network boot from it; the same that libvirt's <tftp> and <bootp> say. */
export const networkBoot = z
  .strictObject({
    file: bootFile.describe(
      'What BIOS guests load: the name of a file on the TFTP server, or an http address. Their NICs boot by iPXE, so it may be a script of iPXE’s',
    ),
    uefiFile: bootFile.describe('What UEFI guests load: an EFI program. An http address is for UEFI HTTP boot'),
    ipxeFile: bootFile.describe(
      'What iPXE loads in place of the others, whichever firmware it runs on: a script. For UEFI guests whose uefiFile is iPXE',
    ),
    tftpFolder: z
      .string()
      .max(500)
      .regex(/^\/[A-Za-z0-9._~/+-]*$/, 'is the full path of a folder on the node, without blanks and commas')
      .optional()
      .describe('Folder on the node that the network serves by TFTP. Its files must be readable for all'),
    server: ipv4Address.optional().describe('Another TFTP server. Without it, the network’s own'),
  })
  .meta({ id: 'NetworkBoot' });
export type NetworkBoot = z.output<typeof networkBoot>;

export const networkSpec = z
  .strictObject({
    description: z.string().max(1000).default(''),
    mode: networkMode.default('nat'),
    ipv4Cidr: ipv4Cidr
      .optional()
      .describe(
        'Prefix of the network; its first address is the host’s. Without it, Lodge picks a free one and keeps it',
      ),
    ipv6Cidr: z
      .union([z.literal('auto'), ipv6Cidr])
      .optional()
      .describe(
        'Prefix of length 64, advertised to guests, who also get addresses of it by DHCPv6; “auto”: a private one (RFC 4193) that follows from the network’s id. Without it, the network has no IPv6',
      ),
    hasHost: z
      .boolean()
      .default(true)
      .describe(
        'Whether the host is on it too, with DHCP and DNS for the guests. Only isolated networks can do without',
      ),
    dhcp: z
      .strictObject({
        isEnabled: z.boolean().default(true),
        firstAddress: ipv4Address.optional(),
        lastAddress: ipv4Address.optional(),
        leaseTimeS: z.int().min(120).max(31_536_000).default(43_200).describe('Seconds'),
      })
      .prefault({}),
    dnsDomain: dnsDomain.default('lodge.internal').describe('Guests find each other as name.domain'),
    dnsServers: z
      .array(z.union([z.ipv4(), z.ipv6()]))
      .max(8)
      .optional()
      .describe('Asked for names outside the domain. Without it those of the host, and on an isolated network nobody'),
    bridge: interfaceName.optional().describe('Name of the bridge; without it, Lodge makes one from the network’s id'),
    uplink: interfaceName
      .optional()
      .describe(
        'bridged, vlan, macvtap, ovs: interface of the host that leads outside. In modes bridged and vlan, a bridge, or a port of one, is used as it is; any other becomes a port of a bridge that Lodge makes, with its addresses and routes moved there, once that is confirmed',
      ),
    vlan: networkVlan.optional(),
    macvtapMode: z
      .enum(['bridge', 'private', 'vepa'])
      .optional()
      .describe(
        'macvtap: whether its guests reach each other. bridge (default): directly; private: not at all; vepa: by a switch that sends frames back',
      ),
    confirmTimeoutS: z
      .int()
      .min(5)
      .max(600)
      .default(30)
      .describe('How long a change of the uplink waits to be confirmed before it is put back, seconds'),
    mtu: z.int().min(576).max(65_535).default(1500),
    limits: networkLimits.optional().describe('Without it, none'),
    boot: networkBoot.optional().describe('What guests that boot over the network are given. Without it, nothing'),
    firewall: firewallPolicy
      .optional()
      .describe('What counts for the NICs on it where no rule of theirs decides. Without it, what the project says'),
  })
  .meta({ id: 'NetworkSpec' });
export type NetworkSpec = z.output<typeof networkSpec>;

export const networkStatus = z
  .object({
    state: z.enum(['pending', 'ready', 'degraded', 'failed', 'deleting']),
    reason: z.string(),
    problems: z.array(z.string()).describe('What differs from what should be, one sentence each'),
    bridge: z.string().nullable(),
    ipv4Cidr: z.string().nullable(),
    ipv6Cidr: z.string().nullable(),
    gateway: z.string().nullable().describe('The host’s address on the network'),
    ipv6Gateway: z.string().nullable().describe('The host’s IPv6 address on the network'),
    routes: z
      .array(z.object({ destination: z.string(), via: z.string() }))
      .describe('Of a routed network: what the routers beside this host have to be told'),
    uplink: z
      .object({
        interface: z.string(),
        change: z
          .enum(['none', 'waiting', 'confirmed', 'reverted'])
          .describe('none: it is used as it was. The others: what became of making it the port of a bridge'),
        confirmBy: timestamp.nullable().describe('While it waits: when it is put back'),
      })
      .nullable(),
    dhcpRange: z.object({ first: z.string(), last: z.string() }).nullable(),
    limits: networkLimitStatus.nullable().describe('How spec.limits are kept; null: it has none'),
    leaseCount: z.int(),
    usedBy: z.array(z.string()).describe('Names of VMs with a NIC on it'),
  })
  .meta({ id: 'NetworkStatus' });
export type NetworkStatus = z.output<typeof networkStatus>;

export const network = z.object({ ...metadata, spec: networkSpec, status: networkStatus }).meta({ id: 'Network' });
export type Network = z.output<typeof network>;

export const lease = z
  .object({
    address: z.string().describe('IPv4 or IPv6'),
    mac: z.string(),
    hostname: z.string().nullable().describe('As the guest calls itself'),
    vm: z.string().nullable().describe('Name of the VM the MAC address belongs to'),
    expiresAt: timestamp.nullable().describe('null: never'),
  })
  .meta({ id: 'Lease' });
export type Lease = z.output<typeof lease>;

export const networkFinding = z
  .object({
    severity: z.enum(['ok', 'warning', 'error']),
    message: z.string().describe('What was found, in a sentence'),
    remedies: z.array(z.string()).describe('Commands for the host that put it right, in their order'),
  })
  .meta({ id: 'NetworkFinding' });
export type NetworkFinding = z.output<typeof networkFinding>;

export const networkRoutes = {
  list: route({
    method: 'GET',
    path: '/v1/networks',
    tag: 'networks',
    summary: 'List networks',
    permission: 'network.read',
    query: listQuery,
    response: page('NetworkPage', network),
    errors: [],
  }),
  create: route({
    method: 'POST',
    path: '/v1/networks',
    tag: 'networks',
    summary: 'Create a network',
    description:
      'Answers when the network is up. Where the host’s own configuration had to be changed for it (mode bridged), it is in state pending and is put back at status.uplink.confirmBy, unless confirmed by then.',
    permission: 'network.create',
    body: creation('NetworkCreate', networkSpec),
    status: 201,
    response: network,
    errors: ['name_taken', 'not_found', 'host_conflict', 'host_failed', 'unsupported', 'idempotency_conflict'],
    isIdempotentByKey: true,
  }),
  get: route({
    method: 'GET',
    path: '/v1/networks/{network}',
    tag: 'networks',
    summary: 'Read a network',
    permission: 'network.read',
    query: inProject,
    response: network,
    errors: ['not_found'],
  }),
  update: route({
    method: 'PUT',
    path: '/v1/networks/{network}',
    tag: 'networks',
    summary: 'Change a network',
    description: 'Mode, prefixes, bridge, uplink and VLANs can not be changed while VMs use it.',
    permission: 'network.update',
    query: inProject,
    body: update('NetworkUpdate', networkSpec),
    response: network,
    errors: ['not_found', 'revision_conflict', 'in_use', 'host_conflict', 'host_failed', 'unsupported'],
  }),
  delete: route({
    method: 'DELETE',
    path: '/v1/networks/{network}',
    tag: 'networks',
    summary: 'Delete a network that no VM uses',
    permission: 'network.delete',
    query: inProject,
    status: 200,
    response: network,
    errors: ['not_found', 'in_use', 'host_failed'],
  }),
  confirm: route({
    method: 'POST',
    path: '/v1/networks/{network}/confirm',
    tag: 'networks',
    summary: 'Confirm the change of the host’s uplink',
    description:
      'Says that the host can still be reached after its interface has become a port of a bridge. Without it, the change is put back.',
    permission: 'network.create',
    query: inProject,
    response: network,
    errors: ['not_found', 'wrong_state', 'host_failed'],
  }),
  diagnose: route({
    method: 'GET',
    path: '/v1/networks/{network}/diagnosis',
    tag: 'networks',
    summary: 'Look for what keeps a network’s guests from reaching what they should',
    description:
      'Follows packets such as guests send and get through all rules of the host, those of Docker, firewalld, libvirt and others too, and tells which of them drops them and what lets them pass. Nothing is changed.',
    permission: 'network.read',
    query: inProject,
    response: z.object({ items: z.array(networkFinding) }).meta({ id: 'NetworkDiagnosis' }),
    errors: ['not_found', 'host_failed'],
  }),
  leases: route({
    method: 'GET',
    path: '/v1/networks/{network}/leases',
    tag: 'networks',
    summary: 'List DHCP leases',
    permission: 'network.read',
    query: inProject,
    response: z.object({ items: z.array(lease) }).meta({ id: 'LeaseList' }),
    errors: ['not_found'],
  }),
} as const satisfies RouteTable;
