// The bus for devices that come and go while a guest runs: one PCI bridge with 31 slots. Disks and NICs sit there from the
// start, so that they can be taken out; what is added later takes a free slot. Whatever has a slot keeps it as long as it
// exists, also over restarts: names of NICs in the guest follow from it, and saved memory is only good for the same places.
//
// One bridge rather than a PCI Express root port for each device: guests probe every port when they boot, and a Linux
// guest under emulation takes 50 ms for each, but next to nothing for a bridge. Linux and Windows add and remove devices
// on it by ACPI. https://www.qemu.org/docs/master/pcie.html
import { type VmPinned } from '../../api/vm.ts';

/** Id of the bridge, by which its bus is named. */
export const hotplugBus = 'hotplug';
/** Slot 0 is the bridge's own hot-plug controller. */
export const hotplugSlots = 31;
/** The last target of a virtio SCSI controller. */
export const lastTarget = 255;
/**
 * Ports of a USB controller for what is plugged in, each with its own, as saved memory is only good for the same ports.
 * The two beyond are for the display's tablet and keyboard.
 */
export const usbPorts = 6;
/** Id of the device that brings memory: its slot is taken when memory is first added. */
export const memoryDevice = 'memory0';
/** Id of the memory that it brings, and name of the block. */
export const addedMemory = `${memoryDevice}-ram`;
/** Controllers that may be added for devices that need them. */
export const usbController = 'usb';
export const scsiController = 'scsi0';

export type Slots = NonNullable<VmPinned['hotplug']>['slots'];

/** Gives each device a slot from 1 to `last`: the one it had, else the first free. Those beyond the last get none. */
export function assignSlots(devices: readonly string[], before: Slots, last: number): Slots {
  const slots: Slots = {};
  for (const id of devices) {
    const kept = before[id];
    if (kept !== undefined && !Object.values(slots).includes(kept)) slots[id] = kept;
  }
  for (const id of devices) {
    const slot = slots[id] ?? freeSlot(slots, last);
    if (slot !== null) slots[id] = slot;
  }
  return slots;
}

/** The first slot that none of these has; null: all are taken. */
export function freeSlot(slots: Slots, last: number): number | null {
  const taken = new Set(Object.values(slots));
  for (let slot = 1; slot <= last; slot++) if (!taken.has(slot)) return slot;
  return null;
}

/** A slot as a device's address. */
export function slotAddress(slot: number): string {
  return `0x${slot.toString(16)}`;
}

/** Id of a disk's device. */
export function diskId(name: string): string {
  return `disk-${name}`;
}

/** Id of the device of a shared folder. */
export function sharedFolderId(name: string): string {
  return `share-${name}`;
}

/** Id of a NIC's device: by its address, which it has for life. */
export function nicId(mac: string): string {
  return `nic-${mac.replaceAll(':', '')}`;
}
