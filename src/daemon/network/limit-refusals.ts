// What is refused of the rates of NICs before anything is made of them: what contradicts itself, what the network's mode can't
// do, and guarantees that the network's ceiling doesn't hold. Pure.
import { invalidField } from '../../api/errors.ts';
import { type Network, type NetworkModeName } from '../../api/network.ts';
import { type NicRate } from '../../api/nic-limits.ts';
import { type Vm } from '../../api/vm.ts';
import { type VmNic } from '../../api/vm-spec.ts';

/** Modes whose frames pass a bridge of Linux, where packets can be counted. */
const bridges: ReadonlySet<NetworkModeName> = new Set<NetworkModeName>([
  'nat',
  'routed',
  'isolated',
  'bridged',
  'vlan',
]);

/** Refuses rates that a NIC can't have on its network. */
export function requireLimits(
  network: Network,
  { limits }: VmNic,
  field: string,
  others: { vm: Pick<Vm, 'id'> | { id: null }; vms: Iterable<Vm> },
): void {
  if (!limits) return;
  const { mode } = network.spec;
  if (mode === 'user')
    throw invalidField(`${field}.limits`, `network ${network.name} is inside QEMU, where nothing can be limited`, mode);
  for (const direction of ['inbound', 'outbound'] as const) {
    const rate = limits[direction];
    if (rate) requireRate(network, rate, `${field}.limits.${direction}`);
    if (rate?.guaranteedBytesPerSecond !== undefined)
      requireRoom(network, rate.guaranteedBytesPerSecond, `${field}.limits.${direction}`, direction, others);
  }
}

function requireRate(network: Network, rate: NicRate, field: string): void {
  const { bytesPerSecond, burstBytes, peakBytesPerSecond, packetsPerSecond, guaranteedBytesPerSecond } = rate;
  for (const [name, value] of Object.entries({ burstBytes, peakBytesPerSecond }))
    if (value !== undefined && bytesPerSecond === undefined)
      throw invalidField(`${field}.${name}`, 'goes with bytesPerSecond, the average', value);
  if (peakBytesPerSecond !== undefined && peakBytesPerSecond <= (bytesPerSecond ?? 0))
    throw invalidField(`${field}.peakBytesPerSecond`, `is above the average ${bytesPerSecond}`, peakBytesPerSecond);
  if (
    guaranteedBytesPerSecond !== undefined &&
    bytesPerSecond !== undefined &&
    guaranteedBytesPerSecond > bytesPerSecond
  )
    throw invalidField(
      `${field}.guaranteedBytesPerSecond`,
      `is at most bytesPerSecond ${bytesPerSecond}`,
      guaranteedBytesPerSecond,
    );
  if (packetsPerSecond !== undefined && !bridges.has(network.spec.mode))
    throw invalidField(
      `${field}.packetsPerSecond`,
      `network ${network.name} is of mode ${network.spec.mode}, whose frames pass no bridge of Linux: only bytes can be limited`,
      packetsPerSecond,
    );
}

/** What is guaranteed to all NICs of a network must fit under its ceiling. */
function requireRoom(
  network: Network,
  wanted: number,
  field: string,
  direction: 'inbound' | 'outbound',
  { vm, vms }: { vm: { id: string | null }; vms: Iterable<Vm> },
): void {
  const name = direction === 'inbound' ? 'inboundBytesPerSecond' : 'outboundBytesPerSecond';
  const ceiling = network.spec.limits?.[name];
  if (ceiling === undefined)
    throw invalidField(
      `${field}.guaranteedBytesPerSecond`,
      `network ${network.name} has no ceiling that it could be a part of (lodge network set ${network.name} limits.${name}=…)`,
      wanted,
    );
  let taken = 0;
  for (const other of vms) {
    if (other.id === vm.id || other.project !== network.project) continue;
    for (const nic of other.spec.nics)
      if (nic.network === network.name || nic.network === network.id)
        taken += nic.limits?.[direction]?.guaranteedBytesPerSecond ?? 0;
  }
  if (taken + wanted > ceiling)
    throw invalidField(
      `${field}.guaranteedBytesPerSecond`,
      `is more than is left: network ${network.name} has a ceiling of ${ceiling}, of which ${taken} are guaranteed to others`,
      wanted,
    );
}
