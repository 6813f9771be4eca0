// What a VM gets without asking: room for more vCPUs and memory while it runs, and an order to boot from. Pure.
import { type VmDisk, type VmNic, type VmSpec } from '../../api/vm-spec.ts';

/** A VM has room for this many times what it is started with, as far as the node has it. */
const growth = 4;
/** Above this, a processor whose width nobody has asked for may not address it: 1 TiB by QEMU's models, half is safe. */
const mostMemoryMib = 524_288;
/** The least that every machine type with room takes. */
const mostVcpus = 255;

/** What a VM is to have room for without a restart. */
export function roomOf(
  { cpu, memoryMib, maxMemoryMib }: Pick<VmSpec, 'cpu' | 'memoryMib' | 'maxMemoryMib'>,
  node: { vcpus: number; memoryMib: number },
): { vcpus: number; memoryMib: number } {
  // Sockets, cores and threads that were given leave no doubt about how many vCPUs they are.
  const hasTopology = cpu.sockets ?? cpu.coresPerSocket ?? cpu.threadsPerCore;
  const vcpus = hasTopology ? cpu.count : Math.max(cpu.count, Math.min(growth * cpu.count, node.vcpus, mostVcpus));
  const most = Math.max(memoryMib, Math.min(growth * memoryMib, node.memoryMib, mostMemoryMib));
  return { vcpus: cpu.maxCount ?? vcpus, memoryMib: maxMemoryMib ?? most };
}

export type BootDevice = { disk: string } | { mac: string };

/** Who is booted from, the first to be tried first: those with a place, then the other disks in their order. */
export function bootOrder(
  disks: readonly Pick<VmDisk, 'name' | 'bootIndex'>[],
  nics: readonly Pick<VmNic, 'bootIndex'>[],
  macs: readonly string[],
): BootDevice[] {
  const placed = [
    ...disks.map(({ name, bootIndex }) => ({ device: { disk: name }, bootIndex })),
    ...nics.map(({ bootIndex }, index) => ({ device: { mac: macs[index] ?? '' }, bootIndex })),
  ].filter(({ bootIndex }) => bootIndex !== undefined);
  const others = disks.filter(({ bootIndex }) => bootIndex === undefined);
  return [
    ...placed.toSorted((one, other) => (one.bootIndex ?? 0) - (other.bootIndex ?? 0)).map(({ device }) => device),
    ...others.map(({ name }) => ({ disk: name })),
  ];
}

/** Place of a device in the order, from 1; undefined: it isn't booted from. */
export function placeIn(order: readonly BootDevice[], device: BootDevice): number | undefined {
  const text = JSON.stringify(device);
  const index = order.findIndex((one) => JSON.stringify(one) === text);
  return index === -1 ? undefined : index + 1;
}
