// What a network may be asked to be, checked before anything is made of it. Pure.
import { LodgeError, invalidField } from '../../api/errors.ts';
import {
  networkMode,
  type Network,
  type NetworkModeName,
  type NetworkSpec,
  type NetworkVlan,
} from '../../api/network.ts';
import {
  boundsOf,
  compareIp,
  formatCidr,
  isInside,
  networkOf,
  overlaps,
  parseCidr,
  parseIp,
} from '../../lib/ip-address.ts';
import { isRouterOf } from './router-networks.ts';

/** Blocks that no guest can have an address of: RFC 6890. */
const unusable = ['0.0.0.0/8', '127.0.0.0/8', '169.254.0.0/16', '224.0.0.0/4', '240.0.0.0/4'].map((text) =>
  parseCidr(text)!,
);
const unusableIpv6 = ['::/8', 'fe80::/10', 'ff00::/8'].map((text) => parseCidr(text)!);
/** The least that every link with IPv6 must carry: RFC 8200, 5. */
const minIpv6Mtu = 1280;
/** What Linux itself calls by these names in /proc/sys/net. */
const kernelNames = new Set(['all', 'default', 'lo']);
/** The largest MTU dnsmasq can tell guests of. */
const maxDhcpMtu = 65_521;

type OptionalField = Exclude<
  keyof NetworkSpec,
  'mode' | 'description' | 'dhcp' | 'hasHost' | 'dnsDomain' | 'mtu' | 'confirmTimeoutS'
>;

/** Modes that know a field; in the others it would be without effect. */
const modesOf: Record<OptionalField, readonly NetworkModeName[]> = {
  ipv4Cidr: ['nat', 'routed', 'isolated', 'user'],
  ipv6Cidr: ['nat', 'routed', 'isolated'],
  dnsServers: ['nat', 'routed', 'isolated'],
  bridge: ['nat', 'routed', 'isolated', 'bridged', 'vlan', 'ovs'],
  uplink: ['bridged', 'vlan', 'macvtap', 'ovs'],
  vlan: ['vlan', 'ovs'],
  macvtapMode: ['macvtap'],
  boot: ['nat', 'routed', 'isolated'],
  limits: ['nat', 'routed', 'isolated'],
  // Which modes can be filtered, and why others can't, is the firewall's to say.
  firewall: networkMode.options,
};

/** Throws invalid_request that names the field. */
export function checkNetworkSpec(spec: NetworkSpec): void {
  const { mode, ipv4Cidr, ipv6Cidr, bridge, mtu } = spec;
  for (const [field, modes] of Object.entries(modesOf) as [OptionalField, readonly NetworkModeName[]][]) {
    if (spec[field] !== undefined && !modes.includes(mode))
      throw invalidField(`spec.${field}`, `is for networks in mode ${modes.join(', ')}`, spec[field]);
  }
  if (ipv4Cidr !== undefined) checkCidr(ipv4Cidr);
  if (ipv6Cidr !== undefined && ipv6Cidr !== 'auto') checkIpv6Cidr(ipv6Cidr);
  checkDhcp(spec);
  checkBoot(spec);
  if (!spec.hasHost) checkWithoutHost(spec);
  if (mode === 'routed' && ipv4Cidr === undefined)
    throw invalidField('spec.ipv4Cidr', 'is needed in mode routed: others must have a route to it', null);
  if ((mode === 'bridged' || mode === 'vlan' || mode === 'macvtap') && spec.uplink === undefined)
    throw invalidField('spec.uplink', `is needed in mode ${mode}: the interface of the host that leads outside`, null);
  if (mode === 'vlan' && spec.vlan === undefined)
    throw invalidField('spec.vlan', 'is needed in mode vlan: access with one VLAN, or trunk with several', null);
  if (spec.vlan) checkVlan(spec.vlan);
  if (bridge !== undefined && kernelNames.has(bridge))
    throw invalidField('spec.bridge', 'is a name that Linux keeps for itself', bridge);
  if (ipv6Cidr !== undefined && mtu < minIpv6Mtu)
    throw invalidField('spec.mtu', `is at least ${minIpv6Mtu} with IPv6`, mtu);
  if (isRouterOf({ spec }) && spec.dhcp.isEnabled && mtu > maxDhcpMtu)
    throw invalidField('spec.mtu', `is at most ${maxDhcpMtu} with DHCP`, mtu);
}

function checkVlan({ access, trunk, native }: NetworkVlan): void {
  if ((access === undefined) === (trunk === undefined))
    throw invalidField('spec.vlan', 'takes either access or trunk', { access, trunk });
  if (native !== undefined && trunk === undefined) throw invalidField('spec.vlan.native', 'goes with trunk', native);
  if (trunk && new Set(trunk).size < trunk.length) throw invalidField('spec.vlan.trunk', 'names a VLAN twice', trunk);
}

/** Without the host there is nobody who could serve what these ask for. */
function checkWithoutHost(spec: NetworkSpec): void {
  if (spec.mode !== 'isolated')
    throw invalidField('spec.hasHost', 'can be false only on networks in mode isolated', false);
  for (const field of ['ipv4Cidr', 'ipv6Cidr', 'dnsServers'] as const) {
    if (spec[field] !== undefined)
      throw invalidField(`spec.${field}`, 'is without effect where the host is not on the network', spec[field]);
  }
}

function checkIpv6Cidr(text: string): void {
  const cidr = parseCidr(text);
  if (!cidr || cidr.prefixLength !== 64)
    throw invalidField('spec.ipv6Cidr', 'is a prefix of length 64: guests make their addresses of it (RFC 4862)', text);
  if (unusableIpv6.some((block) => overlaps(block, cidr)))
    throw invalidField('spec.ipv6Cidr', 'is not for networks of guests: take one of fd00::/8, or “auto”', text);
  const block = networkOf(cidr);
  if (compareIp(block.address, cidr.address) !== 0)
    throw invalidField('spec.ipv6Cidr', `has bits beyond its prefix set: it is ${formatCidr(block)}`, text);
}

function checkCidr(text: string): void {
  const cidr = parseCidr(text);
  if (!cidr || cidr.prefixLength < 8 || cidr.prefixLength > 29)
    throw invalidField('spec.ipv4Cidr', 'is a prefix from /8 to /29', text);
  if (unusable.some((block) => overlaps(block, cidr)))
    throw invalidField(
      'spec.ipv4Cidr',
      'is not for networks of guests: take one of 10.0.0.0/8 or 192.168.0.0/16',
      text,
    );
  const block = networkOf(cidr);
  if (compareIp(block.address, cidr.address) !== 0)
    throw invalidField('spec.ipv4Cidr', `has bits beyond its prefix set: it is ${formatCidr(block)}`, text);
}

function checkDhcp({ dhcp, ipv4Cidr }: NetworkSpec): void {
  const { firstAddress, lastAddress } = dhcp;
  if ((firstAddress === undefined) !== (lastAddress === undefined))
    throw invalidField('spec.dhcp', 'takes firstAddress and lastAddress together', dhcp);
  for (const [field, address] of Object.entries({ firstAddress, lastAddress })) {
    if (address === undefined) continue;
    if (ipv4Cidr === undefined) throw invalidField(`spec.dhcp.${field}`, 'needs spec.ipv4Cidr', address);
    if (!isWithin(ipv4Cidr, address)) throw invalidField(`spec.dhcp.${field}`, `is not in ${ipv4Cidr}`, address);
    if (!isWithin(ipv4Cidr, address, { isHost: true }))
      throw invalidField(`spec.dhcp.${field}`, `is an address of ${ipv4Cidr} that no guest can have`, address);
  }
  const [first, last] = [parseIp(firstAddress ?? ''), parseIp(lastAddress ?? '')];
  if (first && last && compareIp(first, last) > 0)
    throw invalidField('spec.dhcp.firstAddress', `stands after lastAddress ${lastAddress}`, firstAddress);
}

function checkBoot({ boot, dhcp, hasHost }: NetworkSpec): void {
  if (boot === undefined) return;
  if (!dhcp.isEnabled || !hasHost)
    throw invalidField('spec.boot', 'is for networks with DHCP, which tells guests what to load', boot);
  const { tftpFolder, server } = boot;
  if (tftpFolder !== undefined && server !== undefined)
    throw invalidField('spec.boot.server', 'is another TFTP server: it goes without tftpFolder', server);
  const files = Object.entries({ file: boot.file, uefiFile: boot.uefiFile, ipxeFile: boot.ipxeFile });
  if (files.every(([, file]) => file === undefined))
    throw invalidField('spec.boot', 'names no file that guests could load: give file, uefiFile or both', boot);
  const hasTftp = tftpFolder !== undefined || server !== undefined;
  for (const [field, file] of files)
    if (file !== undefined && !hasTftp && !isAddress(file))
      throw invalidField(
        `spec.boot.${field}`,
        'is on a TFTP server: give tftpFolder or server, or an http address',
        file,
      );
}

function isAddress(file: string): boolean {
  return /^https?:\/\//.test(file);
}

/** Whether an IPv4 address lies in a prefix; with `isHost`, as one that a guest can have. */
export function isWithin(cidr: string, address: string, { isHost = false } = {}): boolean {
  const block = parseCidr(cidr);
  const ip = parseIp(address);
  if (!block || !ip || ip.family !== block.address.family || !isInside(ip, block)) return false;
  const { first, last } = boundsOf(block);
  return !isHost || (compareIp(ip, first) !== 0 && compareIp(ip, last) !== 0);
}

/** Refuses a prefix that has addresses in common with that of another network of Lodge's. */
export function requireNoOverlap(spec: NetworkSpec, other: Network): void {
  for (const field of ['ipv4Cidr', 'ipv6Cidr'] as const) {
    const asked = spec[field];
    const given = other.spec[field];
    const taken = given === undefined || given === 'auto' ? other.status[field] : given;
    const [wanted, theirs] = [parseCidr(asked ?? ''), parseCidr(taken ?? '')];
    if (!wanted || !theirs || !overlaps(wanted, theirs)) continue;
    const message = `${asked} overlaps ${taken} of network ${other.name}`;
    throw new LodgeError('host_conflict', `spec.${field}: ${message}.`, {
      fields: [{ field: `spec.${field}`, message, value: asked }],
      hint: 'Choose another prefix, or none: Lodge picks a free one.',
    });
  }
}
