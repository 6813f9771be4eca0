// What a running QEMU says it is made of: its devices with their buses and places, its vCPUs and its memory. Asked each
// time, so that a daemon that comes later knows as much as the one that made a change.
import { LodgeError } from '../../../api/errors.ts';
import { type DeviceReport } from '../../driver.ts';
import { type QmpConnection } from '../qmp/connection.ts';
import { QmpError } from '../qmp/errors.ts';
import { type Room } from '../room.ts';
import {
  freeSlot,
  hotplugBus,
  hotplugSlots,
  lastTarget,
  memoryDevice,
  scsiController,
  usbController,
  usbPorts,
  type Slots,
} from '../slots.ts';

const mib = 2 ** 20;
/** Memory is given and taken by blocks of a transparent huge page: virtio-mem's default on x86. */
const memoryStepMib = 2;

/** A device with an id. */
export interface PlacedDevice {
  id: string;
  /** Path of its bus in QEMU's object tree; null: it has none. */
  bus: string | null;
  /** Slot on the bus for devices that come and go; null: it is elsewhere. */
  slot: number | null;
  /** SCSI target, or port of the USB controller; null: it is on neither. */
  target: number | null;
  /** Whether it is on the USB controller. */
  isOnUsb: boolean;
}

export async function readDevices(qmp: QmpConnection): Promise<PlacedDevice[]> {
  const entries = await qmp.execute('qom-list', { path: '/machine/peripheral' });
  const ids = entries.filter(({ type }) => type.startsWith('child<')).map(({ name }) => name);
  return Promise.all(
    ids.map(async (id) => {
      const bus = await readProperty(qmp, id, 'parent_bus');
      const isOn = (name: string): boolean => typeof bus === 'string' && bus.includes(`/machine/peripheral/${name}/`);
      const place = isOn(hotplugBus) ? await readProperty(qmp, id, 'addr') : null;
      const target = isOn(scsiController) ? await readProperty(qmp, id, 'scsi-id') : null;
      const isOnUsb = isOn(usbController);
      const port = isOnUsb ? Number(await readProperty(qmp, id, 'port')) : Number.NaN;
      return {
        id,
        bus: typeof bus === 'string' && bus !== '' ? bus : null,
        // Slot and function in one number: PCI_DEVFN of Linux.
        slot: typeof place === 'number' ? place >> 3 : null,
        target: typeof target === 'number' ? target : Number.isInteger(port) ? port : null,
        isOnUsb,
      };
    }),
  );
}

/** A property of a device with an id; null: it has none of that name. */
export async function readProperty(qmp: QmpConnection, id: string, property: string): Promise<unknown> {
  try {
    return await qmp.execute('qom-get', { path: `/machine/peripheral/${id}`, property });
  } catch (error) {
    if (error instanceof QmpError) return null;
    throw error;
  }
}

/** Where everything sits that has a place of its own. */
export function placesOf(devices: readonly PlacedDevice[]): { slots: Slots; targets: Slots } {
  const pick = (key: 'slot' | 'target'): Slots =>
    Object.fromEntries(devices.flatMap((device) => (device[key] === null ? [] : [[device.id, device[key]]])));
  return { slots: pick('slot'), targets: pick('target') };
}

/** The virtio-mem device: how much the guest has of it and how much was asked for, bytes. Null: there is none. */
export async function readAddedMemory(qmp: QmpConnection): Promise<{ size: number; requested: number } | null> {
  for (const device of await qmp.execute('query-memory-devices')) {
    if (device.type === 'virtio-mem' && device.data.id === memoryDevice)
      return { size: device.data.size, requested: device.data['requested-size'] };
  }
  return null;
}

/** What the balloon leaves of the memory the guest was started with, bytes; null: there is no balloon. */
export async function readBalloon(qmp: QmpConnection): Promise<number | null> {
  try {
    return (await qmp.execute('query-balloon')).actual;
  } catch (error) {
    if (error instanceof QmpError) return null;
    throw error;
  }
}

export type Drive = Awaited<ReturnType<typeof readDrives>>[number];

/** The drives with a name. */
export async function readDrives(qmp: QmpConnection) {
  const blocks = await qmp.execute('query-block');
  return blocks.flatMap((block) => {
    const name = /\/machine\/peripheral\/disk-([^/]+)(?:\/|$)|^disk-(.+)$/.exec(block.qdev ?? '');
    return name ? [{ ...block, name: name[1] ?? name[2] ?? '' }] : [];
  });
}

/** How many vCPUs a guest can have, and why. */
export function vcpuRange(
  { now, possible }: { now: number; possible: number },
  room: Room | undefined,
  isEmulated: boolean,
): { least: number; most: number; reason: string } {
  const most = room === undefined ? now : possible;
  const upTo = `It was started with room for ${most > now ? '' : 'no more than '}${most} vCPUs (cpu.maxCount).`;
  // QEMU 10.0: tcg_log_global_after_sync waits for ever for vCPUs that are gone.
  const down =
    'Under emulation none can be taken out while it runs: QEMU could not save the memory of the guest any more.';
  return { least: isEmulated ? now : 1, most, reason: isEmulated ? `${upTo} ${down}` : upTo };
}

/** The vCPUs there are, and those there could be. A machine that takes none while it runs refuses the question. */
export async function countVcpus(qmp: QmpConnection): Promise<{ now: number; possible: number }> {
  try {
    const cpus = await qmp.execute('query-hotpluggable-cpus');
    return { now: cpus.filter((cpu) => cpu['qom-path'] !== undefined).length, possible: cpus.length };
  } catch (error) {
    if (!(error instanceof QmpError)) throw error;
    const now = (await qmp.execute('query-cpus-fast')).length;
    return { now, possible: now };
  }
}

export async function readReport(
  qmp: QmpConnection,
  vm: string,
  { room, isEmulated }: { room: Room | undefined; isEmulated: boolean },
): Promise<DeviceReport> {
  const [devices, cpus, summary, added, balloon, drives] = await Promise.all([
    readDevices(qmp),
    countVcpus(qmp),
    qmp.execute('query-memory-size-summary'),
    readAddedMemory(qmp),
    readBalloon(qmp),
    readDrives(qmp),
  ]);
  const baseMib = Math.floor(summary['base-memory'] / mib);
  const mostMib = Math.max(baseMib, room?.maxMemoryMib ?? baseMib);
  const addedMib = Math.floor((added?.size ?? 0) / mib);
  const hasBus = devices.some(({ id }) => id === hotplugBus);
  const hasUsb = hasBus || devices.some(({ id }) => id === usbController);
  const { slots, targets } = placesOf(devices);
  const free = hasBus ? hotplugSlots - Object.keys(slots).length : 0;
  return {
    vcpus: { now: cpus.now, ...vcpuRange(cpus, room, isEmulated) },
    memory: {
      nowMib: baseMib + addedMib,
      leastMib: baseMib,
      mostMib,
      stepMib: memoryStepMib,
      reason:
        mostMib > baseMib
          ? `It was started with ${baseMib} MiB and room for ${mostMib} MiB (maxMemoryMib); less than it was started with takes a restart, or a memoryTargetMib.`
          : `It was started with ${baseMib} MiB and no room for more (maxMemoryMib).`,
    },
    balloon: {
      nowMib: balloon === null ? null : Math.floor(balloon / mib) + addedMib,
      reason: balloon === null ? 'It has no balloon device.' : 'virtio balloon',
    },
    disks: drives.map((drive) => ({
      name: drive.name,
      sizeMib: drive.inserted ? Math.floor(drive.inserted.image['virtual-size'] / mib) : null,
      fixedBy: whyFixed(devices.find(({ id }) => id === `disk-${drive.name}`)),
    })),
    nics: devices
      .filter(({ id }) => id.startsWith('nic-'))
      .map((device) => ({ mac: macOf(device.id), fixedBy: whyFixed(device) })),
    usbDevices: devices.filter(({ id }) => id.startsWith('usb-')).map(({ id }) => id.slice('usb-'.length)),
    room: {
      diskBuses: [
        ...(hasBus ? ['virtio', 'nvme'] : []),
        ...((hasBus || devices.some(({ id }) => id === scsiController)) && Object.keys(targets).length < lastTarget
          ? ['scsi']
          : []),
        ...(hasUsb ? ['usb'] : []),
      ],
      nicModels: hasBus ? ['virtio', 'e1000', 'e1000e', 'rtl8139'] : [],
      hasUsb,
      slots: free,
      reason: hasBus
        ? 'While it runs, disks can be added on virtio, nvme, scsi and usb.'
        : `The machine of VM ${vm} has no bus that devices can be added to while it runs.`,
    },
  };
}

/** The first port of the USB controller that nothing is plugged into; null: all are taken. */
export function freePort(devices: readonly PlacedDevice[]): number | null {
  return freeSlot(placesOf(devices.filter(({ isOnUsb }) => isOnUsb)).targets, usbPorts);
}

/** Why a device can't be taken out; null: it can. */
function whyFixed(device: PlacedDevice | undefined): string | null {
  if (!device || device.slot !== null || device.target !== null || device.isOnUsb) return null;
  if (device.bus?.includes('virtio-mmio')) return 'A microvm’s devices stay as long as it runs.';
  if (/\/(ide|ahci\d*)\./.test(device.bus ?? '')) return 'A drive on SATA or IDE can not be taken out while it runs.';
  return 'It sits on a bus that nothing can be taken out of while it runs.';
}

/** The address in a NIC's id. */
export function macOf(id: string): string {
  return id.slice('nic-'.length).replace(/..(?=.)/g, '$&:');
}

/** Refuses what needs a bus for devices that come and go. */
export function requireSlot(slot: number | null, vm: string): number {
  if (slot !== null) return slot;
  throw new LodgeError('unsupported', `VM ${vm} has no place for another device while it runs.`, {
    hint: 'It has one after a restart, or when another disk or NIC is taken out.',
  });
}
