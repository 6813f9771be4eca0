// The part of QEMU's command line that describes disks and NICs: block graphs over files that are passed in as
// descriptors, and devices at places that stay the same.
import { createHash } from 'node:crypto';
import { LodgeError } from '../../api/errors.ts';
import { ideDrives } from '../../api/resolve-hardware.ts';
import { type DiskLayer, type GuestDefinition, type GuestDisk, type GuestNic } from '../driver.ts';
import { type LaunchFile } from '../../host/launch/launch.ts';
import { type DevicePlaces } from './places.ts';
import { diskId, hotplugBus, nicId, scsiController, type Slots } from './slots.ts';

/** What makes the arguments: a list that grows, and descriptors that are given out. */
export interface ArgumentTools {
  add: (...args: string[]) => void;
  /** Passes a file in; the name by which QEMU opens it. */
  passFile: (path: string, mode: LaunchFile['mode']) => string;
  /** Passes a file in; the descriptor's number. */
  passDescriptor: (path: string, mode: LaunchFile['mode']) => number;
  /** Passes a tap in, by one descriptor for each queue; the number of the first, the others follow it. */
  passTap: (name: string, queues: number) => number;
  /** Name of a virtio device on this machine's bus. */
  virtio: (name: string) => string;
  places: DevicePlaces;
}

const cacheOptions: Record<GuestDisk['cache'], { direct: boolean; noFlush: boolean }> = {
  none: { direct: true, noFlush: false },
  writeback: { direct: false, noFlush: false },
  writethrough: { direct: false, noFlush: false },
  unsafe: { direct: false, noFlush: true },
};

/** SATA ports of one controller (ICH9). */
const sataPorts = 6;
/** What QEMU keeps of a disk's serial number: VIRTIO_BLK_ID_BYTES of the virtio specification, and the same for the others. */
const serialLength = 20;

/** The disk whose device has this place in QEMU's object tree (`/machine/peripheral/disk-root/virtio-backend`); null for another. */
export function diskOfDevice(qomPath: string): string | null {
  return /^\/machine\/peripheral\/disk-([^/]+)(\/|$)/.exec(qomPath)?.[1] ?? null;
}

/** What the device of a disk is told, whatever bus it is on. */
export function diskProperties(disk: GuestDisk, node: string | null): Record<string, string | number> {
  return {
    id: diskId(disk.name),
    serial: disk.name.slice(0, serialLength),
    ...(node === null ? {} : { drive: node }),
    ...(disk.bootIndex === undefined ? {} : { bootindex: disk.bootIndex }),
    ...(disk.device === 'disk' && disk.cache === 'writethrough' && disk.bus !== 'nvme' ? { 'write-cache': 'off' } : {}),
  };
}

/** Properties as an option of the command line. */
export function propertyText(properties: Readonly<Record<string, string | number>>): string {
  return Object.entries(properties)
    .map(([name, value]) => `${name}=${value}`)
    .join(',');
}

/** Gives the bus its place, where the machine can have it. */
export function addHotplugBus(machine: GuestDefinition['spec']['machine'], { add, places }: ArgumentTools): void {
  if (machine === 'microvm') return;
  const bridge = machine === 'q35' ? 'pcie-pci-bridge' : 'pci-bridge,chassis_nr=1';
  add('-device', `${bridge},id=${hotplugBus}${places.fixed('hotplug')}`);
}

/**
 * Pairs of queues of disks on virtio: one for each vCPU that the guest was started with, as QEMU would choose. Said, so
 * that those of a guest that is restored don't follow the vCPUs it has by then.
 */
export function diskQueues(baseVcpus: number): number {
  return Math.min(baseVcpus, 256);
}

export function addDisks(
  definition: GuestDefinition,
  { targets, baseVcpus }: { targets: Slots; baseVcpus: number },
  tools: ArgumentTools,
): void {
  const { machine } = definition.spec;
  let threadsUsed = 0;
  // Disks share the threads in turn.
  const ioThread = (): string => {
    const { count } = definition.hardware.ioThreads;
    return count === 0 ? '' : `,iothread=iothread${threadsUsed++ % count}`;
  };
  const { add, virtio, places } = tools;
  const queues = diskQueues(baseVcpus);
  let hasScsi = false;
  let ideUnits = 0;
  let sataUnits = 0;
  let sataControllers = machine === 'q35' ? 1 : 0;
  for (const disk of definition.disks) {
    if (disk.bus === 'usb') continue;
    const node = addLayers(disk, tools);
    const isCdrom = disk.device === 'cdrom';
    const { bus } = disk;
    const common = propertyText(diskProperties(disk, node));
    if (machine === 'microvm' && bus !== 'virtio') {
      throw new LodgeError(
        'unsupported',
        `Disk ${disk.name} is on bus ${bus}; the machine type microvm has only virtio.`,
        { hint: 'Set its bus to virtio, or machine to q35.' },
      );
    }
    switch (bus) {
      case 'virtio':
        add('-device', `${virtio('blk')},${common},num-queues=${queues}${ioThread()}${places.disk(diskId(disk.name))}`);
        break;
      case 'nvme':
        add('-device', `nvme,${common}${places.disk(diskId(disk.name))}`);
        break;
      case 'scsi':
        if (!hasScsi)
          add(
            '-device',
            `${virtio('scsi')},id=${scsiController},num_queues=${queues}${ioThread()}${places.fixed('scsi')}`,
          );
        hasScsi = true;
        add(
          '-device',
          `scsi-${isCdrom ? 'cd' : 'hd'},bus=${scsiController}.0,${common},scsi-id=${targets[diskId(disk.name)] ?? 0}`,
        );
        break;
      case 'sata': {
        const controller = Math.floor(sataUnits / sataPorts);
        if (controller >= sataControllers) {
          add('-device', `ich9-ahci,id=ahci${controller}${places.sataController()}`);
          sataControllers++;
        }
        const name = controller === 0 && machine === 'q35' ? 'ide' : `ahci${controller}`;
        add('-device', `ide-${isCdrom ? 'cd' : 'hd'},bus=${name}.${sataUnits % sataPorts},${common}`);
        sataUnits++;
        break;
      }
      case 'ide':
        if (machine !== 'pc') {
          throw new LodgeError(
            'unsupported',
            `Disk ${disk.name} is on an IDE bus, which the machine type ${machine} does not have.`,
            { hint: 'Set its bus to sata, or machine to pc.' },
          );
        }
        if (ideUnits === ideDrives) {
          throw new LodgeError('unsupported', `A PC has room for ${ideDrives} IDE drives; ${disk.name} is one more.`, {
            hint: 'Set the bus of some drives to sata, scsi or virtio (first-boot data is an IDE drive too).',
          });
        }
        add(
          '-device',
          `ide-${isCdrom ? 'cd' : 'hd'},bus=ide.${Math.floor(ideUnits / 2)},unit=${ideUnits % 2},${common}`,
        );
        ideUnits++;
        break;
    }
  }
}

/** The block graph of a disk, lowest layer first. Returns the node the device uses, null for an empty drive. */
export function addLayers(disk: GuestDisk, { add, passFile }: ArgumentTools): string | null {
  let below: string | null = null;
  for (const [depth, layer] of [...disk.layers.entries()].reverse()) {
    const isWritten = depth === 0 && !disk.isReadOnly && disk.device === 'disk';
    const filename = passFile(layer.path, layerMode(disk.cache, isWritten));
    for (const node of layerNodes(disk, layer, { filename, isWritten, below })) add('-blockdev', JSON.stringify(node));
    below = layerNode(disk.name, layer.path);
  }
  return below;
}

/** How a layer's file is opened: QEMU takes a descriptor only if its flags are those it would open the file with. */
export function layerMode(cache: GuestDisk['cache'], isWritten: boolean): LaunchFile['mode'] {
  if (cache === 'none') return isWritten ? 'rw-direct' : 'ro-direct';
  return isWritten ? 'rw' : 'ro';
}

/** A block node, as `-blockdev` and `blockdev-add` take it. */
export interface BlockNode {
  driver: string;
  'node-name': string;
  [option: string]: unknown;
}

/**
 * Name of the block node of a layer: the same for the same disk and file, whatever else the guest has, so that a later
 * daemon finds it. At most 31 bytes, with "-file" for the file below it (BlockDriverState.node_name).
 */
export function layerNode(disk: string, path: string): string {
  return `l${createHash('sha256').update(`${disk}\0${path}`).digest('hex').slice(0, 24)}`;
}

/** The two nodes of a layer: its file, and its format on top of that. `below`: the node it is based on. */
export function layerNodes(
  disk: Pick<GuestDisk, 'name' | 'cache'>,
  layer: DiskLayer,
  { filename, isWritten, below }: { filename: string; isWritten: boolean; below: string | null },
): [BlockNode, BlockNode] {
  const { direct, noFlush } = cacheOptions[disk.cache];
  const name = layerNode(disk.name, layer.path);
  const common = { cache: { direct, 'no-flush': noFlush }, discard: 'unmap' };
  // A layer's own record of what it is based on is not followed: the graph is the one given here.
  const backing = layer.format === 'qcow2' ? { backing: below } : {};
  // The file of a layer that is read only is opened for writing when layers are merged into it, by a descriptor that QEMU
  // is given then; until then it has none that could be written to.
  const fileAccess = isWritten ? { 'read-only': false } : { 'read-only': false, 'auto-read-only': true };
  return [
    { driver: 'file', 'node-name': `${name}-file`, filename, ...fileAccess, ...common },
    { driver: layer.format, 'node-name': name, file: `${name}-file`, 'read-only': !isWritten, ...common, ...backing },
  ];
}

export function addNics(
  definition: GuestDefinition,
  { canUseVhost, isRestoring }: { canUseVhost: boolean; isRestoring: boolean },
  { add, virtio, passTap, passDescriptor, places }: ArgumentTools,
): void {
  const isMicrovm = definition.spec.machine === 'microvm';
  for (const [index, nic] of definition.nics.entries()) {
    const id = nicId(nic.mac);
    if (isMicrovm && nic.model !== 'virtio') {
      throw new LodgeError('unsupported', `NIC ${index} is a ${nic.model}; the machine type microvm has only virtio.`, {
        hint: 'Set its model to virtio, or machine to q35.',
      });
    }
    if (nic.attachment.kind === 'tap') {
      const { queues } = nic;
      const first = passTap(nic.attachment.device ?? nic.attachment.hostInterface, queues);
      const taps = Array.from({ length: queues }, (_, queue) => first + queue);
      const useVhost = canUseVhost && nic.model === 'virtio';
      const vhosts = useVhost ? taps.map(() => passDescriptor('/dev/vhost-net', 'rw')) : [];
      const [fd, vhostfd] = queues > 1 ? ['fds', 'vhostfds'] : ['fd', 'vhostfd'];
      const vhost = useVhost ? `,vhost=on,${vhostfd}=${vhosts.join(':')}` : '';
      add('-netdev', `tap,id=${netdevId(nic.mac)},${fd}=${taps.join(':')}${vhost}`);
    } else add('-netdev', `user,${propertyText(userNetdev(nic.mac, nic.attachment))}`);
    const model = nic.model === 'virtio' ? virtio('net') : nic.model;
    const place = places.nic(id);
    const { romfile, ...properties } = nicProperties(nic, isMicrovm);
    const hasRom =
      (isRestoring ? hadBootRom(definition.pinned?.arguments ?? [], place) : null) ?? romfile === undefined;
    add('-device', `${model},${propertyText({ ...properties, ...(hasRom ? {} : { romfile: '' }) })}${place}`);
  }
}

/** Whether the NIC in a place was given code to boot by, which is a part of its saved state; null: it was added since. */
function hadBootRom(args: readonly string[], place: string): boolean | null {
  const device = args.find((argument) => argument.includes(',id=nic-') && argument.endsWith(place));
  return device === undefined ? null : !/,romfile=(,|$)/.test(device);
}

/** Id of what connects a NIC to the host. */
export function netdevId(mac: string): string {
  return `net-${mac.replaceAll(':', '')}`;
}

/** What connects a NIC to a network inside QEMU. */
export function userNetdev(
  mac: string,
  { ipv4Cidr, dnsDomain, hostname }: Extract<GuestNic['attachment'], { kind: 'user' }>,
): Record<string, string> {
  return { id: netdevId(mac), net: ipv4Cidr, domainname: dnsDomain, hostname };
}

/** What the device of a NIC is told. */
export function nicProperties(nic: GuestNic, isMicrovm: boolean): Record<string, string | number> {
  return {
    id: nicId(nic.mac),
    netdev: netdevId(nic.mac),
    mac: nic.mac,
    ...(nic.model === 'virtio' ? { host_mtu: nic.mtu } : {}),
    ...(nic.model === 'virtio' && nic.queues > 1 ? { mq: 'on' } : {}),
    // An interrupt for each direction of each queue, one for its control and one for its configuration.
    ...(nic.model === 'virtio' && nic.queues > 1 && !isMicrovm ? { vectors: 2 * nic.queues + 2 } : {}),
    ...(nic.bootIndex === undefined ? {} : { bootindex: nic.bootIndex }),
    // Without network boot no option ROM: it is code that nobody asked for.
    ...(isMicrovm || nic.bootIndex !== undefined ? {} : { romfile: '' }),
  };
}
