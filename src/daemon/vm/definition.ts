// From a VM object to what a driver starts: looks up its image, volumes and networks, and connects its NICs.
import { join } from 'node:path';
import { bootOrder, placeIn, type BootDevices } from '../../api/boot-order.ts';
import { describeDevices } from '../../api/describe-devices.ts';
import { LodgeError, invalidField } from '../../api/errors.ts';
import { type Image } from '../../api/image.ts';
import { type Network } from '../../api/network.ts';
import { presetOf } from '../../api/resolve-hardware.ts';
import { type Vm, type VmPinned } from '../../api/vm.ts';
import { type DiskBus, type GuestOs, type VmDevice, type VmHardware } from '../../api/vm-hardware.ts';
import { type VmDisk, type VmNic, type VmSpec } from '../../api/vm-spec.ts';
import { type GuestDefinition, type GuestDisk, type GuestNic } from '../../drivers/driver.ts';
import { type FirewallService } from '../firewall/firewall-service.ts';
import { type ImageService } from '../image/image-service.ts';
import { type NetworkService } from '../network/network-service.ts';
import { type TrafficShaping } from '../network/traffic-shaping.ts';
import { type VolumeService } from '../volume/volume-service.ts';
import { roomOf } from './hot-plug-room.ts';
import { startLimitsOf } from '../tuning/placement-service.ts';
import { type SharedFolders } from './shared-folders.ts';
import { chooseFirmware, effectiveDisks, hardwareOf, needsSeed, seedDevice, seedDiskName } from './hardware.ts';

export interface DefinitionParts {
  images: ImageService;
  volumes: VolumeService;
  networks: NetworkService;
  shaping: Pick<TrafficShaping, 'shapeNew'>;
  firewall: Pick<FirewallService, 'checkNic'>;
  /** Folder in which every VM has its own. */
  directory: string;
  hasUefi: () => Promise<boolean>;
  hasVirtiofs: () => Promise<boolean>;
  sharedFolders: SharedFolders;
  /** What a VM with this spec runs on here. */
  /** What this node has, for the room a VM gets without asking. */
  nodeSize: () => { vcpus: number; memoryMib: number };
  acceleratorFor: (spec: Pick<VmSpec, 'accelerator'>) => Promise<'kvm' | 'tcg'>;
}

/** The folder of a VM on its node. */
export function vmDirectory(parts: Pick<DefinitionParts, 'directory'>, id: string): string {
  return join(parts.directory, id);
}

/** The image a VM is made from, or null. */
export function imageOf(parts: Pick<DefinitionParts, 'images'>, vm: Pick<Vm, 'project' | 'spec'>): Image | null {
  return vm.spec.image ? parts.images.require(vm.project, vm.spec.image) : null;
}

/** The network that a NIC names. Throws not_found with the field, and with how to make it. */
export function networkOf(
  { networks }: Pick<DefinitionParts, 'networks'>,
  project: string,
  { network }: Pick<VmNic, 'network'>,
  index: number,
): Network {
  const found = networks.find(project, network);
  if (found) return found;
  const field = `spec.nics.${index}.network`;
  const message = `there is no network "${network}" in project "${project}"`;
  throw new LodgeError('not_found', `${field}: ${message}`, {
    hint: `Make it (lodge network create ${network}), name one that is there (lodge network list), or leave the VM without a NIC (--network none).`,
    fields: [{ field, message, value: network }],
  });
}

/** What runs on a VM with this spec, and whether it gets first-boot data. */
export function systemOf(
  parts: Pick<DefinitionParts, 'images'>,
  vm: Pick<Vm, 'project' | 'spec'>,
): { os: GuestOs; hasFirstBoot: boolean } {
  const image = imageOf(parts, vm);
  return { os: presetOf(vm.spec, image?.spec.os ?? null).os, hasFirstBoot: needsSeed(vm.spec, image) };
}

export function seedPath(parts: Pick<DefinitionParts, 'directory'>, id: string): string {
  return join(vmDirectory(parts, id), 'seed.iso');
}

/** The firmware a VM boots by, and all its devices: kept from its last start where the spec leaves the choice open. */
export async function planHardware(
  parts: Pick<DefinitionParts, 'images' | 'networks' | 'hasUefi' | 'hasVirtiofs' | 'acceleratorFor'>,
  vm: Pick<Vm, 'project' | 'spec'> & { status: Pick<Vm['status'], 'pinned'> },
): Promise<{ firmware: VmPinned['firmware']; hardware: VmHardware; accelerator: 'kvm' | 'tcg' }> {
  const image = imageOf(parts, vm);
  const { pinned } = vm.status;
  const firmware =
    pinned?.firmware && vm.spec.firmware.type === 'auto' && !vm.spec.firmware.secureBoot?.isEnabled
      ? pinned.firmware
      : chooseFirmware(vm.spec, image, await parts.hasUefi());
  const accelerator = await parts.acceleratorFor(vm.spec);
  const mostQueues = vm.spec.nics.map((nic, index) => {
    const network = networkOf(parts, vm.project, nic, index);
    const { name, spec } = network;
    const most = parts.networks.mostQueues(network);
    const queues = nic.queues ?? 1;
    if (queues > most)
      throw invalidField(`spec.nics.${index}.queues`, `network ${name} is of mode ${spec.mode}, which has one`, queues);
    if (queues > 1 && nic.model !== undefined && nic.model !== 'virtio')
      throw invalidField(`spec.nics.${index}.queues`, 'only a NIC of model virtio has several', queues);
    return most;
  });
  const hardware = hardwareOf(vm.spec, {
    image,
    firmware,
    accelerator,
    mostQueues,
    hasVirtiofs: vm.spec.sharedFolders.length > 0 && (await parts.hasVirtiofs()),
    before: pinned?.hardware ?? null,
  });
  return { firmware, hardware, accelerator };
}

/** The devices that the next start of a VM would give it. */
export async function plannedDevices(
  parts: Parameters<typeof planHardware>[0],
  vm: Parameters<typeof planHardware>[1],
): Promise<VmDevice[]> {
  const { hardware, accelerator } = await planHardware(parts, vm);
  return describeDevices(hardware, { accelerator, cpuFeatures: null });
}

/**
 * Connects the VM’s NICs on the host and describes the whole guest. One that is restored has the devices that its memory
 * was saved with.
 */
export async function defineGuest(
  parts: DefinitionParts,
  vm: Vm,
  { isRestoring }: { isRestoring: boolean },
): Promise<GuestDefinition> {
  const image = imageOf(parts, vm);
  const { uid } = vm.status;
  if (uid === null) throw new LodgeError('internal', `VM ${vm.name} has no user to run as.`);
  const files = image ? parts.images.files(image) : null;
  const plan = await planHardware(parts, vm);
  const { firmware } = plan;
  const hardware = (isRestoring ? vm.status.pinned?.hardware : null) ?? plan.hardware;
  const busOf = (name: string): DiskBus => {
    const found = hardware.disks.find((disk) => disk.name === name);
    if (!found) throw new LodgeError('internal', `Disk ${name} of VM ${vm.name} has no bus.`);
    return found.model;
  };
  const all = effectiveDisks(vm.spec, image);
  const order = bootOrder(bootDevices(parts, vm));
  const disks: GuestDisk[] = [];
  for (const disk of all) {
    const files = await guestDisk(parts, vm, disk, busOf(disk.name));
    disks.push({ ...files, bootIndex: placeIn(order, { disk: disk.name }) });
  }
  if (needsSeed(vm.spec, image)) {
    disks.push({
      name: seedDiskName,
      device: seedDevice(vm.spec, image),
      bus: busOf(seedDiskName),
      cache: 'writeback',
      isReadOnly: true,
      layers: [{ path: seedPath(parts, vm.id), format: 'raw' }],
    });
  }
  const nics: GuestNic[] = [];
  for (const [index, nic] of vm.spec.nics.entries()) {
    const observed = vm.status.nics[index];
    const device = hardware.nics[index];
    if (!observed || !device) throw new LodgeError('internal', `NIC ${index} of VM ${vm.name} has no address.`);
    nics.push({
      ...(await guestNic(parts, vm, nic, { mac: observed.mac, field: `spec.nics.${index}`, device, uid })),
      bootIndex: placeIn(order, { mac: observed.mac }),
    });
  }
  return {
    id: vm.id,
    name: vm.name,
    spec: vm.spec,
    hardware,
    room: roomOf(vm.spec, parts.nodeSize()),
    pinned: vm.status.pinned,
    firmware,
    kernel:
      files?.kind === 'kernel'
        ? {
            kernelPath: files.kernelPath,
            initramfsPath: files.initramfsPath,
            commandLine: [consoleIn(files.commandLine, hardware), vm.spec.firmware.commandLineExtra]
              .filter(Boolean)
              .join(' '),
          }
        : null,
    disks,
    nics,
    sharedFolders: await parts.sharedFolders.resolve(vm.spec, hardware),
    generationId: vm.status.generationId,
    placement: vm.status.placement,
    limits: startLimitsOf(vm.spec),
    directory: vmDirectory(parts, vm.id),
    uid,
  };
}

/** What a VM could be booted from. */
export function bootDevices(parts: Pick<DefinitionParts, 'images'>, vm: Vm): BootDevices {
  return {
    disks: effectiveDisks(vm.spec, imageOf(parts, vm)),
    nics: vm.spec.nics.map((nic, index) => ({ ...nic, mac: vm.status.nics[index]?.mac ?? nic.mac ?? '' })),
  };
}

/** Connects a NIC on the host. */
export async function guestNic(
  parts: Pick<DefinitionParts, 'networks' | 'shaping'>,
  vm: Vm,
  nic: VmNic,
  its: { mac: string; field: string; device: VmHardware['nics'][number]; uid: number },
): Promise<GuestNic> {
  const { mac, field, device, uid } = its;
  const network = parts.networks.require(vm.project, nic.network);
  const attachment = await parts.networks.connect(network, { vm, mac, field, uid, queues: device.queues });
  await parts.shaping.shapeNew(network, nic, attachment);
  return {
    mac,
    model: device.model,
    queues: device.queues,
    mtu: network.spec.mtu,
    isConnected: nic.isConnected,
    attachment,
  };
}

/** A drive with the files that hold its blocks. */
export async function guestDisk(
  parts: Pick<DefinitionParts, 'images' | 'volumes'>,
  vm: Vm,
  disk: VmDisk,
  bus: DiskBus,
): Promise<GuestDisk> {
  const { limits } = disk;
  const common = { name: disk.name, device: disk.device, bus, cache: disk.cache, ...(limits ? { limits } : {}) };
  if (disk.device === 'cdrom') {
    if (!disk.image) return { ...common, isReadOnly: true, layers: [] };
    const image = parts.images.require(vm.project, disk.image);
    const files = parts.images.files(image);
    if (files.kind === 'kernel')
      throw new LodgeError(
        'unsupported',
        `Image ${image.name} is a kernel, and disk ${disk.name} of VM ${vm.name} is a CD-ROM.`,
      );
    return { ...common, isReadOnly: true, layers: [files.layer] };
  }
  const volumeId = vm.status.disks.find((candidate) => candidate.name === disk.name)?.volume;
  const volume = volumeId ? parts.volumes.get(volumeId) : null;
  if (!volume) {
    throw new LodgeError('not_found', `The volume of disk ${disk.name} of VM ${vm.name} does not exist any more.`, {
      hint: 'Take the disk out of the VM’s spec, or restore the volume.',
    });
  }
  return { ...common, isReadOnly: disk.isReadOnly, layers: await parts.volumes.layersForStart(volume) };
}

/** An image's command line names the serial console that most VMs have; the VM's own may be another. */
function consoleIn(commandLine: string, { serialConsole }: VmHardware): string {
  return serialConsole?.model === 'virtio-console'
    ? commandLine.replace(/(^| )console=ttyS0(?:,\S*)?(?= |$)/g, '$1console=hvc0')
    : commandLine;
}
