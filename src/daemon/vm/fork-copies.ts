// What the copies of a forked VM are as objects: their names, what they ask for, and what is known of them from the start.
// Pure.
import { LodgeError } from '../../api/errors.ts';
import { type VmLineage } from '../../api/vm-fork.ts';
import { type VmSpec } from '../../api/vm-spec.ts';
import { type Vm, type VmPinned } from '../../api/vm.ts';

/** Longest name of an object (objectName in src/api/object.ts). */
const longestName = 63;

/** Names for copies: `prefix` with the first numbers that are free, or just so for a single one that was given a name. */
export function namesOfCopies(
  prefix: string,
  { count, isWhole, isTaken }: { count: number; isWhole: boolean; isTaken: (name: string) => boolean },
): string[] {
  if (isWhole && count === 1) {
    if (isTaken(prefix)) throw new LodgeError('name_taken', `There is a VM ${prefix} in this project already.`);
    return [prefix];
  }
  const names: string[] = [];
  for (let number = 1; names.length < count; number++) {
    const name = `${prefix.slice(0, longestName - 1 - String(number).length)}-${number}`;
    if (!isTaken(name)) names.push(name);
  }
  return names;
}

/**
 * What a copy asks for: what its original was started with, but for what only one VM can have. `networks`: other networks
 * for those of the NICs, in their order; `sizes`: of the disks whose volumes the original was given, MiB by name.
 */
export function specOfCopy(
  started: VmSpec,
  { networks, sizes }: { networks: readonly string[] | null; sizes: ReadonlyMap<string, number> },
): VmSpec {
  return {
    ...started,
    autostart: false,
    ...(started.smbios ? { smbios: { ...started.smbios, uuid: undefined, serial: undefined } } : {}),
    disks: started.disks.map((disk) => {
      const { volume, ...rest } = disk;
      return volume === undefined ? disk : { ...rest, sizeMib: sizes.get(disk.name) };
    }),
    nics: started.nics.map((nic, index) => {
      const { mac: _mac, ipv4Address: _ipv4, ipv6Address: _ipv6, forwards: _forwards, ...rest } = nic;
      return { ...rest, network: networks?.[index] ?? nic.network };
    }),
    ...(started.cloudInit ? { cloudInit: { ...started.cloudInit, hostname: undefined } } : {}),
  };
}

/** Whether a VM began to run as a copy of another guest's memory: its task gives it its identity. */
export function isRunningCopy({ kind }: Pick<VmLineage, 'kind'>): boolean {
  return kind === 'fork' || kind === 'warm';
}

/** What a guest had that copies go on from. */
export interface CopiedGuest {
  /** For people: "VM web1". */
  what: string;
  status: Pick<Vm['status'], 'pinned' | 'devices' | 'disks' | 'nics'>;
}

/** Status of a copy before it runs. */
export function statusOfCopy(
  original: CopiedGuest,
  initial: Vm['status'],
  own: {
    spec: VmSpec;
    node: string;
    uid: number;
    macs: readonly string[];
    taskId: string;
    lineage: VmLineage;
    generationId: string;
  },
): Vm['status'] {
  const { status } = original;
  return {
    ...initial,
    reason: `It is being made as a copy of ${original.what}.`,
    node: own.node,
    uid: own.uid,
    taskId: own.taskId,
    generationId: own.generationId,
    pinned: status.pinned,
    devices: status.devices,
    // Those of disks that were made with a VM are filled in when they are there.
    disks: status.disks.filter(({ volume }) => volume === null),
    nics: status.nics.map((nic, index) => ({
      ...nic,
      network: own.spec.nics[index]?.network ?? nic.network,
      mac: own.macs[index] ?? nic.mac,
      hostInterface: null,
      addresses: [],
    })),
    startedSpec: own.spec,
    lineage: own.lineage,
  };
}

/** Why a VM with this spec in effect can't be forked; null: it can, as far as that goes. */
export function whyNotForkable({
  spec,
  pinned,
}: {
  spec: VmSpec;
  pinned: { hotplug?: Pick<NonNullable<VmPinned['hotplug']>, 'baseMemoryMib'> | undefined } | null;
}): string | null {
  if (spec.tpm?.isEnabled) return 'it has a TPM, whose keys only one VM can have';
  // QEMU 10.0.2 has died or stood still while the memory of such guests was frozen for copies.
  const base = pinned?.hotplug?.baseMemoryMib;
  return base !== undefined && base !== spec.memoryMib
    ? 'its memory was changed while it ran; after a restart it can be'
    : null;
}

/** Memory that copies are expected to take beside what they share, MiB each; measured with Linux guests that idle: 23 to 45. */
export const privateMibOfCopy = 48;

/** Refuses copies that the node has no memory for. `frozenMib`: what they share, which is new too. */
export function requireMemoryForCopies(
  vm: Pick<Vm, 'name'>,
  { count, frozenMib, availableMib, node }: { count: number; frozenMib: number; availableMib: number; node: string },
): void {
  const neededMib = Math.ceil(frozenMib + count * privateMibOfCopy);
  if (neededMib <= availableMib) return;
  const room = Math.max(0, Math.floor((availableMib - frozenMib) / privateMibOfCopy));
  throw new LodgeError(
    'insufficient_resources',
    `${count} copies of VM ${vm.name} would take some ${neededMib} MiB (${Math.ceil(frozenMib)} MiB that they share, and ${privateMibOfCopy} MiB each), and node ${node} has ${Math.floor(availableMib)} MiB to spare.`,
    {
      hint:
        room === 0
          ? 'Stop other VMs first.'
          : `Ask for at most ${room} ${room === 1 ? 'copy' : 'copies'}, or stop other VMs.`,
    },
  );
}
