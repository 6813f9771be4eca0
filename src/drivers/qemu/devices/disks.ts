// Disks and media of a running guest: their files are handed in as descriptors, opened as block nodes, and given to a
// device. Whatever fails in between, the nodes and descriptors that were made go again.
import { LodgeError } from '../../../api/errors.ts';
import { sendDescriptors, SendDescriptorsError } from '../../../host/launch/send-descriptors.ts';
import { type GuestDisk } from '../../driver.ts';
import { diskProperties, layerMode, layerNode, layerNodes } from '../device-arguments.ts';
import { type QmpConnection } from '../qmp/connection.ts';
import { QmpError } from '../qmp/errors.ts';
import { type QmpReturn } from '../qmp/commands.ts';
import { diskId, hotplugBus, scsiController, slotAddress, usbController } from '../slots.ts';
import { readDrives, type Drive } from './inventory.ts';

export interface DiskPlugParts {
  /** Name of the VM. */
  name: string;
  qmp: QmpConnection;
  /** The monitor that descriptors are handed in over. */
  descriptorSocket: string;
}

/** Opens the layers of a disk that aren't open yet. Answers with the node that the device uses; null: no medium. */
export async function openLayers(parts: DiskPlugParts, disk: GuestDisk): Promise<string | null> {
  const { qmp, name, descriptorSocket } = parts;
  const open = new Set((await qmp.execute('query-named-block-nodes', { flat: true })).map((node) => node['node-name']));
  const missing = [...disk.layers.entries()]
    .reverse()
    .filter(([, { path }]) => !open.has(layerNode(disk.name, path)))
    .map(([depth, layer]) => ({ depth, layer, isWritten: depth === 0 && !disk.isReadOnly && disk.device === 'disk' }));
  try {
    const given = await sendDescriptors({
      socketPath: descriptorSocket,
      commands: missing.map(({ layer: { path }, isWritten }) => ({
        execute: 'add-fd',
        arguments: { opaque: path },
        descriptor: { path, mode: layerMode(disk.cache, isWritten) },
      })),
    });
    for (const [index, { depth, layer, isWritten }] of missing.entries()) {
      const { 'fdset-id': set } = given[index] as QmpReturn<'add-fd'>;
      const lower = disk.layers[depth + 1];
      const below = lower ? layerNode(disk.name, lower.path) : null;
      for (const node of layerNodes(disk, layer, { filename: `/dev/fdset/${set}`, isWritten, below }))
        await qmp.execute('blockdev-add', node);
    }
  } catch (error) {
    await closeLayers(parts, disk.name);
    if (!(error instanceof SendDescriptorsError)) throw error;
    throw new LodgeError(
      'hypervisor_failed',
      `QEMU of VM ${name} could not be given disk ${disk.name}: ${error.message}.`,
      {
        cause: error,
      },
    );
  }
  const [top] = disk.layers;
  return top ? layerNode(disk.name, top.path) : null;
}

/** Closes all layers of a disk that no device uses, with their descriptors. */
export async function closeLayers({ qmp }: DiskPlugParts, disk: string): Promise<void> {
  const sets = await qmp.execute('query-fdsets');
  const open = new Set((await qmp.execute('query-named-block-nodes', { flat: true })).map((node) => node['node-name']));
  const paths = new Set(sets.flatMap(({ fds }) => fds.flatMap(({ opaque }) => opaque ?? [])));
  const mine = [...paths].filter((path) => {
    const node = layerNode(disk, path);
    return open.has(node) || open.has(`${node}-file`);
  });
  const closed = new Set<string>();
  // The upper ones hold the lower ones; which is which shows by what can be closed.
  for (let before = -1; before !== closed.size;) {
    before = closed.size;
    for (const path of mine) {
      if (closed.has(path)) continue;
      const node = layerNode(disk, path);
      const isGone = async (name: string): Promise<boolean> =>
        !open.has(name) ||
        qmp.execute('blockdev-del', { 'node-name': name }).then(
          () => open.delete(name),
          (error: unknown) => {
            if (error instanceof QmpError) return false;
            throw error;
          },
        );
      if ((await isGone(node)) && (await isGone(`${node}-file`))) closed.add(path);
    }
  }
  for (const { 'fdset-id': set, fds } of sets)
    if (fds.some(({ opaque }) => opaque !== undefined && closed.has(opaque)))
      await qmp.execute('remove-fd', { 'fdset-id': set }).catch(ignoreRefusal);
}

/** The device of a disk that is added, as `device_add` takes it. */
export function diskDevice(
  disk: GuestDisk,
  node: string | null,
  place: { slot: number } | { target: number } | { port: number | null },
  { ioThread, queues }: { ioThread: string | null; queues: number },
): { driver: string; id: string; bus: string; [property: string]: unknown } {
  // Places in the boot order are given together: two devices can't have the same one.
  const properties = diskProperties({ ...disk, bootIndex: undefined }, node);
  const common = { ...properties, id: diskId(disk.name) };
  if ('port' in place) {
    const port = place.port === null ? {} : { port: String(place.port) };
    return { driver: 'usb-storage', ...common, bus: `${usbController}.0`, ...port };
  }
  if ('target' in place) {
    const driver = disk.device === 'cdrom' ? 'scsi-cd' : 'scsi-hd';
    return { driver, ...common, bus: `${scsiController}.0`, 'scsi-id': place.target };
  }
  const driver = disk.bus === 'nvme' ? 'nvme' : 'virtio-blk-pci';
  const threaded = ioThread === null ? {} : { iothread: ioThread };
  const virtio = driver === 'nvme' ? {} : { 'num-queues': queues, ...threaded };
  return { driver, ...common, ...virtio, bus: hotplugBus, addr: slotAddress(place.slot) };
}

/** A drive of the guest by the disk's name. */
export async function findDrive(qmp: QmpConnection, name: string): Promise<Drive | null> {
  return (await readDrives(qmp)).find((drive) => drive.name === name) ?? null;
}

/** Refusals that don't matter: what was to go is gone. */
export function ignoreRefusal(error: unknown): void {
  if (!(error instanceof QmpError)) throw error;
}
