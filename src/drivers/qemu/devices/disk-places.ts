// Where disks sit in the terms in which a guest sees them: by the address of the PCI device, and where that has several
// disks, by their places on it. What the guest's agent tells of disks is matched with it.
import { type DiskPlace } from '../agent/guest-report.ts';
import { type QmpConnection } from '../qmp/connection.ts';
import { scsiController } from '../slots.ts';
import { readDevices, readProperty, type PlacedDevice } from './inventory.ts';

interface PciDevice {
  bus: number;
  slot: number;
  qdev_id: string;
  /** Class and subclass: PCI Code and ID Assignment Specification. */
  class: number;
}

const diskPrefix = 'disk-';
const sataClass = 0x0106;
const ideClass = 0x0101;

/** The disks of a guest. Those whose place can't be told are not in it. */
export async function readDiskPlaces(qmp: QmpConnection): Promise<DiskPlace[]> {
  const disks = (await readDevices(qmp)).filter(({ id }) => id.startsWith(diskPrefix));
  const pci = await readPci(qmp);
  const places = await Promise.all(disks.map((device) => placeOf(qmp, device, pci)));
  return places.flatMap((place, index) => {
    const name = disks[index]!.id.slice(diskPrefix.length);
    return place ? [{ disk: name, ...place }] : [];
  });
}

async function placeOf(
  qmp: QmpConnection,
  device: PlacedDevice,
  pci: readonly PciDevice[],
): Promise<Omit<DiskPlace, 'disk'> | null> {
  const isCdrom = String(await readProperty(qmp, device.id, 'type')).endsWith('-cd');
  const withId = (id: string): DiskPlace['pci'] | null => addressOf(pci.find((one) => one.qdev_id === id));
  const withClass = (wanted: number): DiskPlace['pci'] | null => addressOf(pci.find((one) => one.class === wanted));
  const channel = /\/ide\.(\d+)$/.exec(device.bus ?? '')?.[1];
  if (channel !== undefined) {
    const added = /\/machine\/peripheral\/([^/]+)\//.exec(device.bus ?? '')?.[1];
    const sata = added === undefined ? withClass(sataClass) : withId(added);
    if (sata) return { pci: sata, isCdrom, at: { port: Number(channel) } };
    const ide = withClass(ideClass);
    const unit = await readProperty(qmp, device.id, 'unit');
    return ide && typeof unit === 'number' ? { pci: ide, isCdrom, at: { channel: Number(channel), unit } } : null;
  }
  const controller = withId(device.target === null ? device.id : scsiController);
  return controller && { pci: controller, isCdrom, at: device.target === null ? null : { target: device.target } };
}

function addressOf(device: PciDevice | undefined): DiskPlace['pci'] | null {
  // A guest sees the number its firmware gave the bus, which QEMU knows from the bridge.
  return device ? { bus: device.bus, slot: device.slot } : null;
}

/** Every PCI device. A machine without PCI has none. */
async function readPci(qmp: QmpConnection): Promise<PciDevice[]> {
  interface Found {
    bus: number;
    slot: number;
    qdev_id: string;
    class_info: { class: number };
    pci_bridge?: { devices?: unknown } | undefined;
  }
  const all = (devices: readonly Found[]): PciDevice[] =>
    devices.flatMap((device) => [
      { bus: device.bus, slot: device.slot, qdev_id: device.qdev_id, class: device.class_info.class },
      ...all((device.pci_bridge?.devices ?? []) as Found[]),
    ]);
  return (await qmp.execute('query-pci')).flatMap(({ devices }) => all(devices));
}
