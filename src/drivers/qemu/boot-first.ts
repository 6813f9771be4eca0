// A device that is booted from once. QEMU hands the boot order to the firmware when the guest is started and at each reset,
// from the devices' places (bootindex) as they are then: a guest is started with that device in front of all others, and
// gets its own order before it runs. https://www.qemu.org/docs/master/system/bootindex.html
import { type BootDevice } from '../../api/boot-order.ts';
import { type GuestDefinition } from '../driver.ts';

/** The place in front of the first. */
const inFront = 0;

/** The definition with a device in front of all others. */
export function withFirst(definition: GuestDefinition, first: BootDevice | undefined): GuestDefinition {
  if (first === undefined) return definition;
  const isFirst = (one: BootDevice): boolean => JSON.stringify(one) === JSON.stringify(first);
  return {
    ...definition,
    disks: definition.disks.map((disk) => (isFirst({ disk: disk.name }) ? { ...disk, bootIndex: inFront } : disk)),
    nics: definition.nics.map((nic) => (isFirst({ mac: nic.mac }) ? { ...nic, bootIndex: inFront } : nic)),
  };
}

/** The order that a definition gives. */
export function orderOf({ disks, nics }: Pick<GuestDefinition, 'disks' | 'nics'>): BootDevice[] {
  const all: { device: BootDevice; bootIndex: number | undefined }[] = [
    ...disks.map(({ name, bootIndex }) => ({ device: { disk: name }, bootIndex })),
    ...nics.map(({ mac, bootIndex }) => ({ device: { mac }, bootIndex })),
  ];
  return all
    .filter(({ bootIndex }) => bootIndex !== undefined)
    .toSorted((one, other) => (one.bootIndex ?? 0) - (other.bootIndex ?? 0))
    .map(({ device }) => device);
}
