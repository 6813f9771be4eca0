// From a VM object to what a driver starts: looks up its image, volumes and networks, and connects its NICs.
import { join } from 'node:path';
import { LodgeError } from '../../api/errors.ts';
import { type Image } from '../../api/image.ts';
import { type Vm } from '../../api/vm.ts';
import { type VmDisk } from '../../api/vm-spec.ts';
import { type GuestDefinition, type GuestDisk, type GuestNic } from '../../drivers/driver.ts';
import { type ImageService } from '../image/image-service.ts';
import { type NetworkService } from '../network/network-service.ts';
import { type VolumeService } from '../volume/volume-service.ts';
import { chooseFirmware, effectiveDisks } from './hardware.ts';

/** Name of the drive that carries first-boot data to cloud-init. */
export const seedDiskName = 'cidata';

export interface DefinitionParts {
  images: ImageService;
  volumes: VolumeService;
  networks: NetworkService;
  /** Folder in which every VM has its own. */
  directory: string;
  hasUefi: () => Promise<boolean>;
}

/** The folder of a VM on its node. */
export function vmDirectory(parts: Pick<DefinitionParts, 'directory'>, id: string): string {
  return join(parts.directory, id);
}

/** The image a VM is made from, or null. */
export function imageOf(parts: Pick<DefinitionParts, 'images'>, vm: Pick<Vm, 'project' | 'spec'>): Image | null {
  return vm.spec.image ? parts.images.require(vm.project, vm.spec.image) : null;
}

export function seedPath(parts: Pick<DefinitionParts, 'directory'>, id: string): string {
  return join(vmDirectory(parts, id), 'seed.iso');
}

/** Whether the VM gets first-boot data: it was asked for, or its image runs cloud-init and would wait for it in vain. */
export function needsSeed(vm: Pick<Vm, 'spec'>, image: Image | null): boolean {
  return vm.spec.cloudInit !== undefined || (image?.status.hasCloudInit ?? false);
}

/** Connects the VM’s NICs on the host and describes the whole guest. */
export async function defineGuest(parts: DefinitionParts, vm: Vm): Promise<GuestDefinition> {
  const image = imageOf(parts, vm);
  const { uid } = vm.status;
  if (uid === null) throw new LodgeError('internal', `VM ${vm.name} has no user to run as.`);
  const files = image ? parts.images.files(image) : null;
  const firmware =
    vm.status.pinned?.firmware && vm.spec.firmware.type === 'auto'
      ? vm.status.pinned.firmware
      : chooseFirmware(vm.spec, image, await parts.hasUefi());
  const disks: GuestDisk[] = effectiveDisks(vm.spec, image).map((disk) => guestDisk(parts, vm, disk));
  if (needsSeed(vm, image)) {
    // Kernels made for clouds have no drivers for emulated CD-ROM drives; they look for the volume on any disk. Other
    // systems look for a CD-ROM.
    const isDisk = vm.spec.machine === 'microvm' || (image?.spec.os ?? 'linux') === 'linux';
    disks.push({
      name: seedDiskName,
      device: isDisk ? 'disk' : 'cdrom',
      bus: isDisk ? 'virtio' : vm.spec.machine === 'pc' ? 'ide' : 'sata',
      cache: 'writeback',
      isReadOnly: true,
      layers: [{ path: seedPath(parts, vm.id), format: 'raw' }],
    });
  }
  const nics: GuestNic[] = [];
  for (const [index, nic] of vm.spec.nics.entries()) {
    const network = parts.networks.require(vm.project, nic.network);
    const observed = vm.status.nics[index];
    if (!observed) throw new LodgeError('internal', `NIC ${index} of VM ${vm.name} has no address.`);
    nics.push({
      mac: observed.mac,
      model: nic.model,
      mtu: network.spec.mtu,
      isConnected: nic.isConnected,
      attachment: await parts.networks.connect(network, { vm, index, uid }),
    });
  }
  return {
    id: vm.id,
    name: vm.name,
    spec: vm.spec,
    pinned: vm.status.pinned,
    firmware,
    kernel:
      files?.kind === 'kernel'
        ? {
            kernelPath: files.kernelPath,
            initramfsPath: files.initramfsPath,
            commandLine: [files.commandLine, vm.spec.firmware.commandLineExtra].filter(Boolean).join(' '),
          }
        : null,
    disks,
    nics,
    directory: vmDirectory(parts, vm.id),
    uid,
  };
}

function guestDisk(parts: DefinitionParts, vm: Vm, disk: VmDisk): GuestDisk {
  const common = { name: disk.name, device: disk.device, bus: disk.bus, cache: disk.cache };
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
  return { ...common, isReadOnly: disk.isReadOnly, layers: parts.volumes.layers(volume) };
}
