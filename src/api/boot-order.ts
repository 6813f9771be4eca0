// What a VM is booted from, and in which order; for the daemon, which tells the firmware, and for clients, which show it.
// Pure.
import { type VmDisk, type VmNic } from './vm-spec.ts';

/** A disk or CD-ROM by its name, a NIC by its address. */
export type BootDevice = { disk: string } | { mac: string };

/** What there is to boot from. */
export interface BootDevices {
  disks: readonly Pick<VmDisk, 'name' | 'device' | 'bootIndex'>[];
  nics: readonly (Pick<VmNic, 'bootIndex' | 'network'> & { mac: string })[];
}

/** Who is booted from, the first to be tried first: those with a place, then the other disks in their order. */
export function bootOrder({ disks, nics }: BootDevices): BootDevice[] {
  const placed = [
    ...disks.map(({ name, bootIndex }) => ({ device: { disk: name }, bootIndex })),
    ...nics.map(({ mac, bootIndex }) => ({ device: { mac }, bootIndex })),
  ].filter(({ bootIndex }) => bootIndex !== undefined);
  const others = disks.filter(({ bootIndex }) => bootIndex === undefined);
  return [
    ...placed.toSorted((one, other) => (one.bootIndex ?? 0) - (other.bootIndex ?? 0)).map(({ device }) => device),
    ...others.map(({ name }) => ({ disk: name })),
  ];
}

/** Place of a device in the order, from 1; undefined: it isn't booted from. */
export function placeIn(order: readonly BootDevice[], device: BootDevice): number | undefined {
  const index = order.findIndex((one) => isSame(one, device));
  return index === -1 ? undefined : index + 1;
}

/**
 * What is meant by a word: the name of a disk or CD-ROM, the address of a NIC, or disk, cdrom or network, which is the
 * first of its kind in the boot order, and where none of it is in there, the first that there is. Null: there is none.
 */
export function bootDeviceOf(word: string, devices: BootDevices): BootDevice | null {
  const { disks, nics } = devices;
  if (disks.some(({ name }) => name === word)) return { disk: word };
  if (nics.some(({ mac }) => mac === word.toLowerCase())) return { mac: word.toLowerCase() };
  const ofKind: BootDevice[] =
    word === 'network'
      ? nics.map(({ mac }) => ({ mac }))
      : disks.filter(({ device }) => device === word).map(({ name }) => ({ disk: name }));
  const ordered = bootOrder(devices).filter((one) => ofKind.some((other) => isSame(one, other)));
  return ordered[0] ?? ofKind[0] ?? null;
}

/** A device of a VM, for people. */
export function describeBootDevice(device: BootDevice, { nics }: Pick<BootDevices, 'nics'>): string {
  if ('disk' in device) return device.disk;
  const nic = nics.find(({ mac }) => mac === device.mac);
  return nic ? `network ${nic.network} (${device.mac})` : `NIC ${device.mac}`;
}

function isSame(one: BootDevice, other: BootDevice): boolean {
  return 'disk' in one ? 'disk' in other && one.disk === other.disk : 'mac' in other && one.mac === other.mac;
}
