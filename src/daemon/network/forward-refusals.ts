// What is refused of port forwards before anything is made of them: what their network can't do, what contradicts itself,
// and ports that are taken, by another VM or by a program of the node. Pure.
import { isIPv4 } from 'node:net';
import { LodgeError, invalidField } from '../../api/errors.ts';
import { type Network } from '../../api/network.ts';
import { forwardText, maxForwardedRange, type PortForward } from '../../api/port-forward.ts';
import { type Vm } from '../../api/vm.ts';
import { type VmNic } from '../../api/vm-spec.ts';
import { type Listener } from '../../host/network/listeners.ts';
import { hasDhcp } from './router-networks.ts';

/** Each port is a socket of QEMU's. */
const maxUserPorts = 100;
const maxPort = 65_535;
/** Ports below it are not for programs without privileges: ip_unprivileged_port_start of Linux. */
const firstUnprivileged = 1024;

/** Ports that a host is administered by, and its addresses are given by: never taken from all of its addresses. */
const reserved: readonly { protocol: 'tcp' | 'udp'; port: number; what: string }[] = [
  { protocol: 'tcp', port: 22, what: 'SSH of the node itself' },
  { protocol: 'udp', port: 68, what: 'DHCP of the node itself' },
  { protocol: 'udp', port: 67, what: 'DHCP of guests' },
  { protocol: 'udp', port: 546, what: 'DHCPv6 of the node itself' },
  { protocol: 'udp', port: 547, what: 'DHCPv6 of guests' },
];

/** A forward with all that it leaves open. */
export interface ForwardRange {
  protocol: 'tcp' | 'udp';
  /** Null: all addresses. */
  address: string | null;
  /** Which addresses it takes; null: both families. */
  family: 4 | 6 | null;
  first: number;
  last: number;
  guestPort: number;
}

/** An address in all families, "0.0.0.0" and "::" included. */
export function rangeOf({ protocol, listenAddress, port, lastPort, guestPort }: PortForward): ForwardRange {
  const isAll = listenAddress === undefined || listenAddress === '0.0.0.0' || isAllOfIpv6(listenAddress);
  return {
    protocol,
    address: isAll ? null : listenAddress,
    family: listenAddress === undefined ? null : isIPv4(listenAddress) ? 4 : 6,
    first: port,
    last: lastPort ?? port,
    guestPort: guestPort ?? port,
  };
}

function isAllOfIpv6(address: string): boolean {
  return /^[0:]+$/.test(address) && address.includes(':');
}

type Taken = Pick<ForwardRange, 'protocol' | 'address' | 'family' | 'first' | 'last'>;

/** Whether two would take the same packets. */
export function isSamePort(one: Taken, other: Taken): boolean {
  if (one.protocol !== other.protocol || one.last < other.first || other.last < one.first) return false;
  if (one.family !== null && other.family !== null && one.family !== other.family) return false;
  return one.address === null || other.address === null || one.address === other.address;
}

/** Refuses forwards that contradict themselves or that the network can't have. */
export function requireForwards(network: Network, { forwards = [] }: VmNic, field: string): void {
  const { mode } = network.spec;
  if (forwards.length > 0 && mode !== 'nat' && mode !== 'routed' && mode !== 'user')
    throw invalidField(
      `${field}.forwards`,
      mode === 'isolated'
        ? `network ${network.name} is isolated: nothing leads into it from outside`
        : `network ${network.name} is of mode ${mode}: its guests are reached at their own addresses`,
      forwards.length,
    );
  if (forwards.length > 0 && mode !== 'user' && !hasDhcp(network))
    throw invalidField(
      `${field}.forwards`,
      `network ${network.name} has no DHCP, so that nobody knows the guest’s address`,
      forwards.length,
    );
  let sockets = 0;
  for (const [index, forward] of forwards.entries()) {
    const place = `${field}.forwards.${index}`;
    const range = rangeOf(forward);
    const count = range.last - range.first + 1;
    sockets += count;
    if (count < 1) throw invalidField(`${place}.lastPort`, `is below port ${range.first}`, range.last);
    if (count > maxForwardedRange)
      throw invalidField(
        `${place}.lastPort`,
        `makes ${count} ports; a forward has at most ${maxForwardedRange}`,
        range.last,
      );
    if (range.guestPort + count - 1 > maxPort)
      throw invalidField(`${place}.guestPort`, `leaves no room for ${count} ports up to ${maxPort}`, range.guestPort);
    if (range.family === 6 && mode === 'user')
      throw invalidField(`${place}.listenAddress`, 'a network inside QEMU is reached by IPv4 only', range.address);
    if (range.family === 6 && network.status.ipv6Cidr === null)
      throw invalidField(
        `${place}.listenAddress`,
        `network ${network.name} has no IPv6 that it could lead to (spec.ipv6Cidr, or --subnet6 auto)`,
        forward.listenAddress,
      );
    if (mode === 'user' && range.first < firstUnprivileged)
      throw invalidField(
        `${place}.port`,
        `is below ${firstUnprivileged}, which QEMU has no privileges for: take a higher one, or a network of mode nat`,
        range.first,
      );
    requireUnreserved(range, place);
    const twice = forwards.slice(0, index).find((other) => isSamePort(rangeOf(other), range));
    if (twice) throw invalidField(`${place}.port`, `is forwarded already, by ${forwardText(twice)}`, range.first);
  }
  if (mode === 'user' && sockets > maxUserPorts)
    throw invalidField(
      `${field}.forwards`,
      `are ${sockets} ports; in mode user there are at most ${maxUserPorts}`,
      sockets,
    );
}

function requireUnreserved(range: ForwardRange, place: string): void {
  if (range.address !== null) return;
  for (const { protocol, port, what } of reserved)
    if (protocol === range.protocol && range.first <= port && port <= range.last)
      throw invalidField(
        `${place}.port`,
        `${port}/${protocol} on all addresses is ${what}: take another port, or one address (listenAddress)`,
        range.first,
      );
}

/** Refuses ports that another NIC has, of this VM or of another, whether it runs or not. */
export function requireFreeForwards(vm: Pick<Vm, 'spec'> & { id: string | null }, vms: Iterable<Vm>): void {
  const others = [...vms].filter(({ id }) => id !== vm.id);
  for (const [index, { forwards = [] }] of vm.spec.nics.entries())
    for (const [at, forward] of forwards.entries()) {
      const range = rangeOf(forward);
      const place = `spec.nics.${index}.forwards.${at}.port`;
      const isTaken = (nics: readonly VmNic[]): boolean =>
        nics.some((nic) => nic.forwards?.some((one) => isSamePort(rangeOf(one), range)));
      if (isTaken(vm.spec.nics.slice(0, index)))
        throw invalidField(place, 'is forwarded to another NIC already', range.first);
      const other = others.find(({ spec }) => isTaken(spec.nics));
      if (other) throw takenPort(place, forward, `is forwarded to VM ${other.name} already`);
    }
}

/** Refuses ports that a program listens on, but for those that the VM had before. */
export function requireUnlistened(
  vm: Pick<Vm, 'spec'>,
  before: Vm | null,
  listeners: readonly Listener[],
  own: { pid: number },
): void {
  const had = new Set(before?.spec.nics.flatMap(({ forwards = [] }) => forwards.map(forwardText)));
  for (const [index, { forwards = [] }] of vm.spec.nics.entries())
    for (const [at, forward] of forwards.entries()) {
      if (had.has(forwardText(forward))) continue;
      const range = rangeOf(forward);
      const holder = listeners.find(
        (one) =>
          isSamePort({ ...one, first: one.port, last: one.port }, range) && one.pid !== (before?.status.pid ?? 0),
      );
      if (!holder) continue;
      const who =
        holder.pid === own.pid
          ? 'Lodge itself'
          : holder.program === null
            ? 'a program of the node'
            : `${holder.program} (process ${holder.pid})`;
      const where = holder.address === null ? '' : ` at ${holder.address}`;
      throw takenPort(`spec.nics.${index}.forwards.${at}.port`, forward, `${holder.port} is in use by ${who}${where}`);
    }
}

function takenPort(field: string, forward: PortForward, message: string): LodgeError {
  return new LodgeError('host_conflict', `${field}: ${forwardText(forward)} ${message}.`, {
    fields: [{ field, message, value: forward.port }],
    hint: 'Choose another port of the node, or one of its addresses (listenAddress).',
  });
}
