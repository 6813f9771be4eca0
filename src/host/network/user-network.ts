// The user-mode network: QEMU itself is the router, DHCP and name server of one guest (libslirp). It needs no
// privilege and leaves nothing on the host; the guest reaches out, and is reached only by forwarded ports.
import { isIP } from 'node:net';
import { formatCidr, networkOf, parseCidr } from '../../lib/ip-address.ts';

/** A port of the host that leads to a port of the guest. */
export interface HostForward {
  readonly protocol: 'tcp' | 'udp';
  /** An IPv4 address of the host. Default 127.0.0.1: only the host itself reaches it. */
  readonly hostAddress?: string;
  readonly hostPort: number;
  readonly guestPort: number;
}

export interface UserNetworkOptions {
  /** The id that the guest's network card refers to it by (`netdev=`). */
  readonly id: string;
  /** The guest's block. Default 10.0.2.0/24: the guest gets .15, .2 is the host, .3 the name server. */
  readonly ipv4Cidr?: string;
  /** Default true. */
  readonly hasIpv6?: boolean;
  /** Told to the guest by DHCP. */
  readonly hostName?: string;
  readonly domain?: string;
  /** Cuts the guest off from everything but its forwarded ports. Default false. */
  readonly isRestricted?: boolean;
  readonly forwards?: readonly HostForward[];
}

/** QEMU's NetdevUserOptions (qapi/net.json), as `-netdev` takes it in JSON and `netdev_add` as arguments. */
export interface QemuUserNetdev {
  type: 'user';
  id: string;
  ipv4: boolean;
  ipv6: boolean;
  net: string;
  restrict: boolean;
  hostname?: string;
  domainname?: string;
  dnssearch?: { str: string }[];
  hostfwd?: { str: string }[];
}

/** A value that a user-mode network can't have. */
export class UserNetworkError extends Error {
  override name = 'UserNetworkError';
  readonly field: string;
  readonly value: string;
  constructor(field: string, value: string, allowed: string) {
    super(`${field} ${JSON.stringify(value)} ${allowed}`);
    this.field = field;
    this.value = value;
  }
}

/** Builds the back end of a guest's network card. Throws {@link UserNetworkError}. */
export function buildUserNetdev(options: UserNetworkOptions): QemuUserNetdev {
  const { id, ipv4Cidr = '10.0.2.0/24', hostName, domain, forwards = [] } = options;
  // QEMU's own rule for ids: id_wellformed in util/id.c.
  if (!/^[A-Za-z][A-Za-z0-9_.-]*$/.test(id)) throw new UserNetworkError('id', id, 'must begin with a letter');
  const block = parseCidr(ipv4Cidr);
  if (!block || block.address.family !== 4 || block.prefixLength < 8 || block.prefixLength > 27) {
    throw new UserNetworkError('ipv4Cidr', ipv4Cidr, 'is no IPv4 block with a prefix length from 8 to 27');
  }
  for (const [field, name] of [
    ['hostName', hostName],
    ['domain', domain],
  ] as const) {
    if (name !== undefined && !/^[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?$/.test(name)) {
      throw new UserNetworkError(field, name, 'is no host name: use letters, digits, "-" and "."');
    }
  }
  const taken = new Set<string>();
  const rules = forwards.map((forward, index) => {
    const rule = forwardRule(forward, `forwards[${index}]`);
    const [protocol, hostAddress, hostPort] = rule.split(':');
    const socket = `${protocol}:${hostAddress}:${hostPort!.split('-')[0]}`;
    if (taken.has(socket)) throw new UserNetworkError(`forwards[${index}]`, socket, 'is forwarded twice');
    taken.add(socket);
    return { str: rule };
  });
  return {
    type: 'user',
    id,
    ipv4: true,
    ipv6: options.hasIpv6 ?? true,
    net: formatCidr(networkOf(block)),
    restrict: options.isRestricted ?? false,
    ...(hostName === undefined ? {} : { hostname: hostName }),
    ...(domain === undefined ? {} : { domainname: domain, dnssearch: [{ str: domain }] }),
    ...(rules.length === 0 ? {} : { hostfwd: rules }),
  };
}

/** `tcp:127.0.0.1:2222-:22`: slirp_hostfwd in QEMU's net/slirp.c. */
function forwardRule(forward: HostForward, field: string): string {
  const { protocol, hostAddress = '127.0.0.1', hostPort, guestPort } = forward;
  if (isIP(hostAddress) !== 4) throw new UserNetworkError(`${field}.hostAddress`, hostAddress, 'is no IPv4 address');
  for (const [name, port] of [
    ['hostPort', hostPort],
    ['guestPort', guestPort],
  ] as const) {
    if (!Number.isInteger(port) || port < 1 || port > 65535) {
      throw new UserNetworkError(`${field}.${name}`, String(port), 'must be a whole number from 1 to 65535');
    }
  }
  return `${protocol}:${hostAddress}:${hostPort}-:${guestPort}`;
}
