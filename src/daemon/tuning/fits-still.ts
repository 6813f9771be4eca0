// Whether a VM may stay on the CPUs that it has. Pure.
import { type VmPlacement } from '../../api/vm-placement.ts';
import { onlineProcessors } from '../../host/topology.ts';
import { parseNumberList } from '../../lib/number-list.ts';
import { placeVm, type PlacementRequest, type PlacementWorld } from './cpu-placement.ts';

/** What is said of where QEMU’s own threads are, which may change without a vCPU being moved. */
const ofEmulator = 'What QEMU does besides';

/**
 * The placement that a VM has, where it may stay: vCPUs and cores as they are, QEMU's own threads where they belong now.
 * Null: it has to be decided anew. Only dedicated VMs stay: where the others may run follows from who has CPUs alone now.
 * One with a shortage is decided anew, since what it lacked may have become free.
 */
export function placementThatStays(
  placement: VmPlacement,
  request: PlacementRequest,
  world: PlacementWorld,
): VmPlacement | null {
  const { cpu, vcpus } = request;
  if (placement.policy !== 'dedicated' || cpu.policy !== 'dedicated' || placement.shortages.length > 0) return null;
  if (placement.vcpus.length !== vcpus) return null;
  const exclusive = parseNumberList(placement.exclusiveCpus);
  const online = new Set(onlineProcessors(world.topology));
  if (exclusive.some((id) => !online.has(id))) return null;
  const taken = new Set(world.others.flatMap((other) => [...other.exclusive, ...other.named]));
  if (exclusive.some((id) => taken.has(id) || world.housekeeping?.includes(id))) return null;
  const pins = cpu.pinning ?? [];
  const isPinned = (vcpu: number): boolean => pins.some((pin) => pin.vcpu === vcpu);
  const allowed = cpu.affinity === undefined ? null : new Set(parseNumberList(cpu.affinity));
  const isOutside = ({ vcpu, cpus }: VmPlacement['vcpus'][number]): boolean =>
    !isPinned(vcpu) && allowed !== null && parseNumberList(cpus).some((id) => !allowed.has(id));
  if (placement.vcpus.some(isOutside)) return null;
  // With the CPUs that it has named too, all else that it asks for decides whether they are still the right ones.
  const kept = placement.vcpus.filter(({ vcpu }) => !isPinned(vcpu));
  const again = placeVm({ ...request, cpu: { ...cpu, pinning: [...pins, ...kept] } }, world);
  const isSame =
    again.problems.length === 0 &&
    JSON.stringify(again.placement.vcpus) === JSON.stringify(placement.vcpus) &&
    again.placement.exclusiveCpus === placement.exclusiveCpus;
  if (!isSame) return null;
  const { emulator, ioThreads, reasons } = again.placement;
  return {
    ...placement,
    emulator,
    ioThreads,
    reasons: [
      ...placement.reasons.filter((reason) => !reason.startsWith(ofEmulator)),
      ...reasons.filter((reason) => reason.startsWith(ofEmulator)),
    ],
  };
}
