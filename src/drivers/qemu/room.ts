// What a guest has room for while it runs, settled at its start: vCPUs, memory, and where its devices sit. A guest that is
// restored gets the room it was saved with, and where things were added since, they are on its command line.
import { type VmPinned } from '../../api/vm.ts';
import { type VmUsbDevice } from '../../api/vm-spec.ts';
import { type GuestDefinition } from '../driver.ts';
import { type ArgumentTools } from './device-arguments.ts';
import {
  addedMemory,
  assignSlots,
  diskId,
  hotplugSlots,
  lastTarget,
  memoryDevice,
  nicId,
  sharedFolderId,
  usbController,
  usbPorts,
} from './slots.ts';

export type Room = NonNullable<VmPinned['hotplug']>;

/** What Linux takes and gives back whole memory blocks by: 128 MiB on x86 (MIN_MEMORY_BLOCK_SIZE). */
const memoryBlockMib = 128;

export function planRoom(definition: GuestDefinition, isRestoring: boolean): Room {
  const { spec, room, pinned } = definition;
  const before = pinned?.hotplug;
  if (isRestoring && before) return { ...before, slots: slotsOfCopy(definition, before.slots) };
  const isMicrovm = spec.machine === 'microvm';
  const bus = new Map(definition.disks.map((disk) => [diskId(disk.name), disk.bus]));
  const onSlots = [
    ...definition.nics.map(({ mac }) => nicId(mac)),
    ...[...bus].flatMap(([id, on]) => (on === 'virtio' || on === 'nvme' ? [id] : [])),
    ...(definition.sharedFolders ?? []).map(({ name }) => sharedFolderId(name)),
  ];
  const onTargets = [...bus].flatMap(([id, on]) => (on === 'scsi' ? [id] : []));
  const onUsb = [
    ...[...bus].flatMap(([id, on]) => (on === 'usb' ? [id] : [])),
    ...spec.usbDevices.map(({ name }) => usbId(name)),
  ];
  const targets = before?.targets ?? {};
  // The NUMA nodes of a guest are what they were at its start.
  const isFixed = isMicrovm || spec.numa?.cells !== undefined;
  const moreMib = Math.max(0, (room?.memoryMib ?? 0) - spec.memoryMib);
  return {
    baseVcpus: spec.cpu.count,
    maxVcpus: isFixed ? spec.cpu.count : Math.max(room?.vcpus ?? 0, spec.cpu.count),
    baseMemoryMib: spec.memoryMib,
    maxMemoryMib: spec.memoryMib + (isFixed ? 0 : Math.ceil(moreMib / memoryBlockMib) * memoryBlockMib),
    slots: isMicrovm ? {} : assignSlots(onSlots, before?.slots ?? {}, hotplugSlots),
    targets: { ...assignSlots(onTargets, targets, lastTarget), ...assignSlots(onUsb, targets, usbPorts) },
  };
}

/** A copy of a guest has its NICs in the same order at the same places, and addresses of its own. */
function slotsOfCopy({ nics }: GuestDefinition, slots: Room['slots']): Room['slots'] {
  if (nics.every(({ mac }) => slots[nicId(mac)] !== undefined)) return slots;
  const isNic = ([id]: [string, number]): boolean => id.startsWith(nicId(''));
  const ofNics = Object.entries(slots).filter((entry) => isNic(entry));
  return Object.fromEntries([
    ...ofNics.map(([id, slot], index): [string, number] => [nics[index] ? nicId(nics[index].mac) : id, slot]),
    ...Object.entries(slots).filter((entry) => !isNic(entry)),
  ]);
}

/** The same places in the order in which they were taken, which copies go by. */
export function inOrderOf(places: Room['slots'], before: Room['slots']): Room['slots'] {
  const order = [...new Set([...Object.keys(before), ...Object.keys(places)])];
  return Object.fromEntries(order.flatMap((id) => (places[id] === undefined ? [] : [[id, places[id]]])));
}

/** Memory that was added before the guest was saved; none at another start. */
export function addMemoryDevice(
  { spec }: GuestDefinition,
  room: Room,
  isShared: boolean,
  { add, places }: ArgumentTools,
): void {
  const slot = places.slot(memoryDevice);
  if (slot === null) return;
  const { backend, device } = memoryParts(room, isShared);
  add('-object', JSON.stringify(backend));
  const requested = `requested-size=${spec.memoryMib - room.baseMemoryMib}M`;
  add('-device', `${device.driver},id=${device.id},memdev=${device.memdev},${requested}${slot}`);
}

/**
 * The memory that can be added, and the device by which the guest takes it: its pages cost nothing until then.
 * `isShared`: another process has to see it too.
 */
export function memoryParts(
  { baseMemoryMib, maxMemoryMib }: Pick<Room, 'baseMemoryMib' | 'maxMemoryMib'>,
  isShared: boolean,
): {
  backend: { 'qom-type': string; id: string; size: number; reserve: boolean; share?: boolean };
  device: { driver: string; id: string; memdev: string };
} {
  const memdev = addedMemory;
  return {
    backend: {
      'qom-type': isShared ? 'memory-backend-memfd' : 'memory-backend-ram',
      ...(isShared ? { share: true } : {}),
      id: memdev,
      size: (maxMemoryMib - baseMemoryMib) * 2 ** 20,
      reserve: false,
    },
    device: { driver: 'virtio-mem-pci', id: memoryDevice, memdev },
  };
}

const usbDrivers: Record<VmUsbDevice['type'], string> = {
  tablet: 'usb-tablet',
  mouse: 'usb-mouse',
  keyboard: 'usb-kbd',
};

/** Id of a USB device. */
export function usbId(name: string): string {
  return `usb-${name}`;
}

export function usbProperties({ name, type }: VmUsbDevice): { driver: string; id: string; bus: string } {
  return { driver: usbDrivers[type], id: usbId(name), bus: `${usbController}.0` };
}

/** The controller that a guest gets who asked for none and has a device on USB. */
export const usbControllerModel = { driver: 'qemu-xhci', p2: usbPorts + 2, p3: usbPorts + 2 } as const;
