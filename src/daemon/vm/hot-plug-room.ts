// What a VM gets without asking: room for more vCPUs and memory while it runs. Pure.
import { type VmSpec } from '../../api/vm-spec.ts';

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
