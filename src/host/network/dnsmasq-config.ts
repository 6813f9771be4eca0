// The files of dnsmasq, which gives the guests of one network their addresses and names: its configuration, its
// reservations, its names, and the leases it writes. Pure: definitions in, text out, and back. Source: dnsmasq(8), 2.90.
import { createHash } from 'node:crypto';
import {
  boundsOf,
  compareIp,
  formatIp,
  isInside,
  netmaskOf,
  normalizeMac,
  parseCidr,
  parseIp,
} from '../../lib/ip-address.ts';
import { isLinkName } from './link.ts';

/** The addresses of one family on a network. */
export interface DhcpAddresses {
  /** The bridge's own address with its prefix length, `10.88.0.1/24`: the guests' router and name server. */
  readonly cidr: string;
  /** The addresses that are given out to guests without a reservation, first and last. */
  readonly rangeFirst: string;
  readonly rangeLast: string;
}

/** What a network's dnsmasq is to do. */
export interface DnsmasqDefinition {
  /** Full path of the folder for its files; every folder above must be passable for others, since it drops its privileges. */
  readonly folder: string;
  /** The bridge that it serves, and no other link. */
  readonly link: string;
  /** The domain that its guests' names stand in, such as `lodge.internal`. */
  readonly domain: string;
  readonly ipv4: DhcpAddresses | null;
  /** With it guests get router advertisements and DHCPv6. Its prefix length must be 64, else hosts can't use it. */
  readonly ipv6: DhcpAddresses | null;
  /** How long an address is a guest's without asking again, in seconds; at least 120. */
  readonly leaseSeconds: number;
  /** Where other names are asked for: the servers of /etc/resolv.conf, these addresses, or (empty) nowhere. */
  readonly upstreamServers: 'host' | readonly string[];
  /** Told to guests when it is not 1500, in bytes. */
  readonly mtu?: number;
  /** Whether guests are told that this machine is their way to everywhere else. Default true. */
  readonly isRouter?: boolean;
  /** What guests that boot over the network are told to load. */
  readonly boot?: BootService | undefined;
}

/** What is told to guests that boot over the network. A file is one of a TFTP server, or an http address. */
export interface BootService {
  /** To those with a BIOS. */
  readonly file?: string | undefined;
  /** To those with UEFI. */
  readonly uefiFile?: string | undefined;
  /** To iPXE, whatever it runs on. */
  readonly ipxeFile?: string | undefined;
  /** Full path of the folder that dnsmasq itself serves by TFTP. */
  readonly tftpFolder?: string | undefined;
  /** IPv4 address of another TFTP server. */
  readonly server?: string | undefined;
}

/** What the owner of a MAC address gets. */
export interface DhcpReservation {
  readonly macAddress: string;
  readonly ipv4?: string;
  readonly ipv6?: string;
  /** One label, such as `web1`: its name in the network's domain as long as it holds a lease. */
  readonly hostName?: string;
}

/** A name that resolves whether or not somebody holds a lease. */
export interface DnsRecord {
  /** One label, put into the network's domain. */
  readonly name: string;
  readonly addresses: readonly string[];
}

/** An address that dnsmasq gave to somebody. */
export interface DhcpLease {
  readonly family: 4 | 6;
  readonly address: string;
  /** Of IPv6 only where the client's DUID holds it. */
  readonly macAddress: string | null;
  /** The name it resolves by, without domain. */
  readonly hostName: string | null;
  /** The client's DHCP client identifier (IPv4) or DUID (IPv6), as hexadecimal bytes with colons. */
  readonly clientId: string | null;
  /** When it ends. Null: never. */
  readonly expiresAt: Date | null;
}

/** A value of a network's definition that can't be served. */
export class DnsmasqDefinitionError extends Error {
  override name = 'DnsmasqDefinitionError';
  readonly field: string;
  readonly value: string;
  constructor(field: string, value: string, allowed: string) {
    super(`${field} ${JSON.stringify(value)} ${allowed}`);
    this.field = field;
    this.value = value;
  }
}

/** A label of a host name: RFC 1123, 2.1. */
const label = /^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/i;

/** More addresses than this are never given out at once on one network. */
const maxLeases = 65_536;

/** The text of the configuration file. It names everything that a running dnsmasq has to be restarted for. */
export function buildDnsmasqConfig(definition: DnsmasqDefinition, user: string, linkIndex: number): string {
  const { folder, link, domain, ipv4, ipv6, upstreamServers, mtu, isRouter = true } = checkedDefinition(definition);
  const lease = definition.leaseSeconds;
  const lines = [
    '# Written by Lodge for one network; changes here are overwritten.',
    // A bridge that was made anew has another index, and this file therefore another name: sockets are bound to it.
    `# link index ${linkIndex}`,
    `user=${user}`,
    `pid-file=${folder}/dnsmasq.pid`,
    `log-facility=${folder}/dnsmasq.log`,
    // Sockets on the addresses of this link only: other DNS and DHCP servers of the machine keep theirs.
    `interface=${link}`,
    'except-interface=lo',
    'bind-dynamic',
    'no-hosts',
    `addn-hosts=${folder}/names`,
    'expand-hosts',
    `domain=${domain}`,
    `local=/${domain}/`,
    'domain-needed',
    'bogus-priv',
    'dns-loop-detect',
    'cache-size=1000',
    ...(upstreamServers === 'host'
      ? ['resolv-file=/etc/resolv.conf']
      : ['no-resolv', ...upstreamServers.map((server) => `server=${server}`)]),
    `dhcp-leasefile=${folder}/leases`,
    `dhcp-hostsfile=${folder}/hosts`,
    `dhcp-lease-max=${leaseCount(definition)}`,
    'dhcp-authoritative',
    // A guest is who its MAC address says: an installer, an initial RAM disk and the system itself send other client ids.
    'dhcp-ignore-clid',
    'dhcp-no-override',
    'dhcp-rapid-commit',
    // Asking the address itself first takes three seconds, and holds up every other client.
    'no-ping',
    // A guest can't take a name by asking for it: names come from Lodge's reservations.
    'dhcp-ignore-names=tag:!known',
    'quiet-dhcp',
    'quiet-dhcp6',
    'quiet-ra',
  ];
  if (ipv4) {
    const { prefixLength } = parseCidr(ipv4.cidr)!;
    lines.push(`dhcp-range=${ipv4.rangeFirst},${ipv4.rangeLast},${netmaskOf(prefixLength)},${lease}`);
    lines.push(`dhcp-option=option:domain-search,${domain}`);
    // Given without a value, an option is not told to anybody.
    if (!isRouter) lines.push('dhcp-option=option:router');
    if (mtu !== undefined && mtu !== 1500) lines.push(`dhcp-option=option:mtu,${mtu}`);
    if (definition.boot) lines.push(...bootLines(definition.boot));
  }
  if (ipv6) {
    const { prefixLength } = parseCidr(ipv6.cidr)!;
    // With slaac also a guest without a DHCPv6 client gets an address.
    lines.push('enable-ra', `dhcp-range=${ipv6.rangeFirst},${ipv6.rangeLast},slaac,${prefixLength},${lease}`);
    lines.push(`dhcp-option=option6:domain-search,${domain}`);
    const raMtu = mtu !== undefined && mtu !== 1500 ? `mtu:${mtu},` : '';
    // Interval 0: dnsmasq's own; lifetime 0: no router of last resort, just of the prefix (RFC 4861, 6.2.3).
    if (!isRouter) lines.push(`ra-param=${link},${raMtu}0,0`);
    else if (raMtu) lines.push(`ra-param=${link},${raMtu}0`);
  }
  return `${lines.join('\n')}\n`;
}

/**
 * What a guest is given follows from what it says of itself: its architecture (option 93; RFC 4578, and the numbers that
 * IANA has added), and option 175, which is iPXE's. https://ipxe.org/howto/dhcpd
 */
function bootLines({ file, uefiFile, ipxeFile, tftpFolder, server }: BootService): string[] {
  const from = server === undefined ? '' : `,,${server}`;
  // Where there is nothing for iPXE alone, it gets what its firmware would.
  const notIpxe = ipxeFile === undefined ? '' : 'tag:!ipxe,';
  const isHttp = (name: string): boolean => /^https?:/.test(name);
  const lines = [
    'dhcp-match=set:uefi,option:client-arch,7',
    'dhcp-match=set:uefi,option:client-arch,9',
    'dhcp-match=set:uefi-http,option:client-arch,16',
    'dhcp-match=set:ipxe,175',
  ];
  if (ipxeFile !== undefined) lines.push(`dhcp-boot=tag:ipxe,${ipxeFile}${from}`);
  if (uefiFile !== undefined) lines.push(`dhcp-boot=tag:uefi,${notIpxe}${uefiFile}${from}`);
  if (uefiFile !== undefined && isHttp(uefiFile)) {
    // UEFI specification, 24.7: the server says that it is one for HTTP boot.
    lines.push(`dhcp-boot=tag:uefi-http,${uefiFile}`, 'dhcp-option-force=tag:uefi-http,60,HTTPClient');
  }
  if (file !== undefined) lines.push(`dhcp-boot=tag:!uefi,tag:!uefi-http,${notIpxe}${file}${from}`);
  // A folder that is not there must not keep DHCP and DNS from starting.
  if (tftpFolder !== undefined)
    lines.push('enable-tftp', `tftp-root=${tftpFolder}`, 'tftp-no-fail', 'tftp-single-port');
  return lines;
}

/** Names the configuration file after its content, so that a process's arguments tell which content it runs with. */
export function dnsmasqConfigName(config: string): string {
  return `dnsmasq-${createHash('sha256').update(config).digest('hex').slice(0, 16)}.conf`;
}

/** The text of the file of reservations, in the order of MAC addresses. */
export function buildReservations(definition: DnsmasqDefinition, reservations: readonly DhcpReservation[]): string {
  const seen = new Map<string, string>();
  const once = (field: string, value: string): void => {
    const key = `${field} ${value}`;
    if (seen.has(key)) throw new DnsmasqDefinitionError(field, value, 'is reserved twice');
    seen.set(key, value);
  };
  const lines = reservations.map(({ macAddress, ipv4, ipv6, hostName }) => {
    const mac = normalizeMac(macAddress);
    if (!mac) throw new DnsmasqDefinitionError('macAddress', macAddress, 'is no MAC address such as 52:54:00:12:34:56');
    once('macAddress', mac);
    const words = [mac];
    if (ipv4 !== undefined) words.push(hostAddress('ipv4', ipv4, definition.ipv4));
    if (ipv6 !== undefined) words.push(`[${hostAddress('ipv6', ipv6, definition.ipv6)}]`);
    for (const word of words.slice(1)) once('address', word);
    if (hostName !== undefined) {
      if (!label.test(hostName)) {
        throw new DnsmasqDefinitionError(
          'hostName',
          hostName,
          'is no host name: use letters, digits and "-", 63 at most',
        );
      }
      once('hostName', hostName.toLowerCase());
      words.push(hostName.toLowerCase());
    }
    return words.join(',');
  });
  return lines
    .sort()
    .map((line) => `${line}\n`)
    .join('');
}

/** The text of the file of names: the format of /etc/hosts. */
export function buildNames(records: readonly DnsRecord[]): string {
  return records
    .flatMap(({ name, addresses }) => {
      if (!name.split('.').every((part) => label.test(part))) {
        throw new DnsmasqDefinitionError('name', name, 'is no host name: use letters, digits and "-"');
      }
      return addresses.map((text) => {
        const address = parseIp(text);
        if (!address) throw new DnsmasqDefinitionError('addresses', text, 'is no IP address');
        return `${formatIp(address)} ${name.toLowerCase()}\n`;
      });
    })
    .sort()
    .join('');
}

/**
 * Reads the file of leases. Each line stands for itself, and what is no lease is passed over: dnsmasq may be writing.
 * IPv4: `expiry mac address name client-id`; then, after a line `duid …`, IPv6: `expiry iaid address name duid`.
 */
export function parseLeases(text: string): DhcpLease[] {
  const leases: DhcpLease[] = [];
  for (const line of text.split('\n')) {
    const [expiry, hardware, addressText, hostName, clientId] = line.split(' ');
    if (!/^\d+$/.test(expiry ?? '') || clientId === undefined) continue;
    const address = parseIp(addressText!);
    if (!address) continue;
    const macAddress = address.family === 4 ? normalizeMac(hardware!) : macOfDuid(clientId);
    leases.push({
      family: address.family,
      address: formatIp(address),
      macAddress,
      hostName: hostName === '*' ? null : hostName!,
      clientId: clientId === '*' ? null : clientId,
      expiresAt: expiry === '0' ? null : new Date(Number(expiry) * 1000),
    });
  }
  return leases;
}

/** RFC 8415, 11.2 and 11.4: a DUID of type 1 (with a time) or 3 on Ethernet ends with the MAC address. */
function macOfDuid(duid: string): string | null {
  const match = /^00:(?:01:00:01(?::[0-9a-f]{2}){4}|03:00:01)((?::[0-9a-f]{2}){6})$/i.exec(duid);
  return match ? normalizeMac(match[1]!.slice(1)) : null;
}

function hostAddress(field: 'ipv4' | 'ipv6', text: string, network: DhcpAddresses | null): string {
  const address = parseIp(text);
  const cidr = network && parseCidr(network.cidr);
  if (!address || !cidr || !isInside(address, cidr)) {
    throw new DnsmasqDefinitionError(
      field,
      text,
      `is no address of the network ${network?.cidr ?? '(it has none of this family)'}`,
    );
  }
  if (compareIp(address, cidr.address) === 0) {
    throw new DnsmasqDefinitionError(field, text, "is the network's router");
  }
  const { first, last } = boundsOf(cidr);
  if (address.family === 4 && (compareIp(address, first) === 0 || compareIp(address, last) === 0)) {
    throw new DnsmasqDefinitionError(field, text, "is the network's own or its broadcast address");
  }
  return formatIp(address);
}

function leaseCount({ ipv4, ipv6 }: DnsmasqDefinition): number {
  const count = [ipv4, ipv6].reduce((sum, addresses) => {
    if (!addresses) return sum;
    return sum + parseIp(addresses.rangeLast)!.value - parseIp(addresses.rangeFirst)!.value + 1n;
  }, 0n);
  return count > maxLeases ? maxLeases : Number(count);
}

function checkedDefinition(definition: DnsmasqDefinition): DnsmasqDefinition {
  const { folder, link, domain, ipv4, ipv6, leaseSeconds, upstreamServers, mtu } = definition;
  if (!/^\/[\x21-\x7e]*$/.test(folder))
    throw new DnsmasqDefinitionError('folder', folder, 'is no full path without spaces');
  if (!isLinkName(link)) throw new DnsmasqDefinitionError('link', link, 'is no name of a link');
  if (domain.length > 200 || !domain.split('.').every((part) => label.test(part))) {
    throw new DnsmasqDefinitionError('domain', domain, 'is no domain such as lodge.internal');
  }
  if (!Number.isInteger(leaseSeconds) || leaseSeconds < 120 || leaseSeconds > 2 ** 31) {
    throw new DnsmasqDefinitionError(
      'leaseSeconds',
      String(leaseSeconds),
      'must be a whole number from 120 to 2147483648',
    );
  }
  if (mtu !== undefined && !(Number.isInteger(mtu) && mtu >= 576 && mtu <= 65521)) {
    throw new DnsmasqDefinitionError('mtu', String(mtu), 'must be a whole number from 576 to 65521');
  }
  for (const [field, value] of Object.entries(definition.boot ?? {})) {
    if (value !== undefined && !/^[A-Za-z0-9._~:/?&=%@+-]+$/.test(value))
      throw new DnsmasqDefinitionError(`boot.${field}`, value, 'has characters that mean something else to dnsmasq');
  }
  if (!ipv4 && !ipv6) throw new DnsmasqDefinitionError('ipv4', 'null', 'can be missing only where ipv6 is given');
  if (ipv4) checkAddresses('ipv4', ipv4);
  if (ipv6) checkAddresses('ipv6', ipv6);
  if (upstreamServers !== 'host') {
    for (const server of upstreamServers) {
      if (!parseIp(server)) throw new DnsmasqDefinitionError('upstreamServers', server, 'is no IP address');
    }
  }
  return definition;
}

function checkAddresses(field: 'ipv4' | 'ipv6', { cidr: text, rangeFirst, rangeLast }: DhcpAddresses): void {
  const cidr = parseCidr(text);
  const isIpv4 = field === 'ipv4';
  if (!cidr || cidr.address.family !== (isIpv4 ? 4 : 6)) {
    throw new DnsmasqDefinitionError(
      `${field}.cidr`,
      text,
      `is no address such as ${isIpv4 ? '10.88.0.1/24' : 'fd00:88::1/64'}`,
    );
  }
  const [shortest, longest] = isIpv4 ? [8, 30] : [64, 64];
  if (cidr.prefixLength < shortest || cidr.prefixLength > longest) {
    throw new DnsmasqDefinitionError(`${field}.cidr`, text, `must have a prefix length from ${shortest} to ${longest}`);
  }
  const addresses = [rangeFirst, rangeLast].map((value, index) => {
    const name = `${field}.${index === 0 ? 'rangeFirst' : 'rangeLast'}`;
    const address = parseIp(value);
    if (!address || !isInside(address, cidr)) throw new DnsmasqDefinitionError(name, value, `is no address of ${text}`);
    return address;
  });
  if (compareIp(addresses[0]!, addresses[1]!) > 0) {
    throw new DnsmasqDefinitionError(`${field}.rangeFirst`, rangeFirst, `stands after rangeLast ${rangeLast}`);
  }
}
