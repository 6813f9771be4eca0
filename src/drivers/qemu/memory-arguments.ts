// QEMU's memory for a guest: where it comes from, and the NUMA nodes that the guest sees. Pure.
import { type VmNuma, type VmPlacement } from '../../api/vm-placement.ts';
import { formatNumberList, parseNumberList } from '../../lib/number-list.ts';
import { type GuestDefinition } from '../driver.ts';
import { type ArgumentTools } from './device-arguments.ts';
import { type Room } from './room.ts';

/** What QEMU calls our policies: HostMemPolicy of qapi/machine-common.json. */
const hostPolicies = { strict: 'bind', preferred: 'preferred', interleave: 'interleave' } as const;

/** Name of the block of memory that a machine of this type has (MachineClass.default_ram_id). */
export function memoryBlock(machine: GuestDefinition['spec']['machine']): string {
  return machine === 'microvm' ? 'microvm.ram' : 'pc.ram';
}

/**
 * Adds the memory's objects where it is more than what QEMU takes by itself. Gives back what the machine is told of it.
 * `isShared`: another process has to map it too.
 */
export function addMemory(
  { spec, placement }: Pick<GuestDefinition, 'spec' | 'placement'>,
  { baseMemoryMib }: Pick<Room, 'baseMemoryMib'>,
  isShared: boolean,
  { add }: Pick<ArgumentTools, 'add'>,
): string[] {
  const from = placement?.memory ?? { policy: 'default' as const, numaNodes: [] };
  const pageBytes = hugePageBytes(spec, placement);
  const cells = spec.numa?.cells;
  if (cells) {
    for (const [index, { vcpus, memoryMib, hostNode }] of cells.entries()) {
      const id = `ram-node${index}`;
      const near = hostNode === undefined ? from : cellMemory(spec.numa, hostNode, from);
      add('-object', backend(id, memoryMib, { isShared, pageBytes }, near));
      const cpus = formatNumberList(parseNumberList(vcpus)).split(',');
      add('-numa', `node,nodeid=${index},${cpus.map((range) => `cpus=${range}`).join(',')},memdev=${id}`);
    }
    return [];
  }
  if (!isShared && pageBytes === null && from.policy === 'default') return [];
  const id = memoryBlock(spec.machine);
  add('-object', backend(id, baseMemoryMib, { isShared, pageBytes }, from));
  return [`memory-backend=${id}`];
}

/** A NUMA node that the node lacks was told as a shortage; its memory comes from where there is some. */
function cellMemory(numa: VmNuma | undefined, hostNode: number, from: VmPlacement['memory']): VmPlacement['memory'] {
  return from.numaNodes.includes(hostNode) ? { policy: numa?.policy ?? 'strict', numaNodes: [hostNode] } : from;
}

/** Size of the huge pages that it has; null: ordinary ones, also where the node had none of the size that it asks for. */
function hugePageBytes(
  { memoryBacking }: GuestDefinition['spec'],
  placement: GuestDefinition['placement'],
): number | null {
  if (!memoryBacking?.pageSize) return null;
  if (placement?.shortages.some((shortage) => shortage.startsWith('spec.memoryBacking.pageSize'))) return null;
  return memoryBacking.pageSize === '1GiB' ? 2 ** 30 : 2 ** 21;
}

/** What the machine and QEMU are told of how its memory is treated. */
export function memoryTreatment({ memoryBacking }: GuestDefinition['spec']): { machine: string[]; options: string[] } {
  return {
    machine: memoryBacking?.isMergeable === false ? ['mem-merge=off'] : [],
    options: memoryBacking?.isLocked === true ? ['-overcommit', 'mem-lock=on'] : [],
  };
}

interface Kind {
  isShared: boolean;
  pageBytes: number | null;
}

function backend(
  id: string,
  sizeMib: number,
  { isShared, pageBytes }: Kind,
  { policy, numaNodes }: VmPlacement['memory'],
): string {
  if (isShared && pageBytes === null && policy === 'default')
    return `memory-backend-memfd,id=${id},size=${sizeMib}M,share=on`;
  return JSON.stringify({
    'qom-type': isShared || pageBytes !== null ? 'memory-backend-memfd' : 'memory-backend-ram',
    id,
    size: sizeMib * 2 ** 20,
    ...(isShared ? { share: true } : pageBytes === null ? {} : { share: false }),
    // Every page is taken now: a guest that touches one that isn't there any more would be killed.
    ...(pageBytes === null ? {} : { hugetlb: true, hugetlbsize: pageBytes, prealloc: true }),
    ...(policy === 'default' ? {} : { policy: hostPolicies[policy], 'host-nodes': numaNodes }),
  });
}
