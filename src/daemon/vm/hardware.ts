// From what a user asked for to what a VM is made of: fills in what the image decides (firmware, first disk, memory) and
// keeps what was decided before (MAC addresses). Pure, so that it can be tested without a machine.
import { randomBytes } from 'node:crypto';
import { LodgeError, invalidField } from '../../api/errors.ts';
import { type Image } from '../../api/image.ts';
import { type VmPinned, type VmStatus } from '../../api/vm.ts';
import { type VmDisk, type VmSpec } from '../../api/vm-spec.ts';

/** A new address in QEMU's and KVM's locally administered range, not among those in use. */
export function newMac(inUse: ReadonlySet<string>, random: (size: number) => Uint8Array = randomBytes): string {
  for (;;) {
    const mac = ['52', '54', '00', ...[...random(3)].map((byte) => byte.toString(16).padStart(2, '0'))].join(':');
    if (!inUse.has(mac)) return mac;
  }
}

/** The NICs of a spec with their addresses: given ones, then those the VM had at the same place, then new ones. */
export function assignMacs(
  nics: VmSpec['nics'],
  before: Pick<VmStatus['nics'][number], 'mac'>[],
  inUse: ReadonlySet<string>,
): string[] {
  const taken = new Set(inUse);
  return nics.map((nic, index) => {
    const mac = nic.mac ?? before[index]?.mac ?? newMac(taken);
    taken.add(mac);
    return mac;
  });
}

/**
 * The disks a VM has: those of the spec, with the image’s own disk before them when the spec names only an image, and
 * CD-ROMs on a bus that they can be on.
 */
export function effectiveDisks(spec: VmSpec, image: Image | null): VmDisk[] {
  return namedDisks(spec, image).map((disk) =>
    disk.device === 'cdrom' && (disk.bus === 'virtio' || disk.bus === 'nvme')
      ? { ...disk, bus: cdromBus(spec.machine, image?.spec.os ?? 'linux') }
      : disk,
  );
}

/** There is no CD-ROM on virtio. Kernels that Linux distributions make for clouds have no drivers for SATA. */
function cdromBus(machine: VmSpec['machine'], os: Image['spec']['os']): VmDisk['bus'] {
  if (machine === 'pc') return 'ide';
  return os === 'linux' ? 'scsi' : 'sata';
}

function namedDisks(spec: VmSpec, image: Image | null): VmDisk[] {
  if (!spec.image || !image || image.status.kind === 'kernel') return spec.disks;
  const hasIt = spec.disks.some(
    (disk) => disk.image === spec.image || disk.image === image.id || disk.image === image.name,
  );
  if (hasIt) return spec.disks;
  if (image.status.kind === 'iso') {
    const cdrom: VmDisk = {
      name: 'cdrom',
      image: spec.image,
      device: 'cdrom',
      bus: 'virtio',
      isReadOnly: true,
      cache: 'writeback',
    };
    return [...spec.disks, cdrom];
  }
  const first = spec.disks[0];
  if (first?.name === 'root' && !first.volume && !first.image)
    return [{ ...first, image: spec.image }, ...spec.disks.slice(1)];
  const root: VmDisk = {
    name: 'root',
    image: spec.image,
    device: 'disk',
    bus: 'virtio',
    isReadOnly: false,
    cache: 'writeback',
  };
  return [root, ...spec.disks];
}

/** What boots the VM: as asked for, else as the image can. */
export function chooseFirmware(spec: VmSpec, image: Image | null, hasUefi: boolean): VmPinned['firmware'] {
  const { type } = spec.firmware;
  if (type === 'direct' && image?.status.kind !== 'kernel') {
    throw invalidField('spec.firmware.type', 'direct boot needs an image with a kernel, such as tiny', type);
  }
  if (image?.status.kind === 'kernel') {
    if (type === 'auto' || type === 'direct') return 'direct';
    throw invalidField(
      'spec.firmware.type',
      `image ${image.name} holds a kernel and no boot loader: it boots by direct only`,
      type,
    );
  }
  if (type !== 'auto') {
    const known = image?.status.firmware ?? [];
    if (image && known.length > 0 && !known.includes(type)) {
      throw invalidField('spec.firmware.type', `image ${image.name} boots by ${known.join(' or ')}`, type);
    }
    return type;
  }
  if (spec.machine === 'microvm') {
    throw invalidField(
      'spec.machine',
      'the machine type microvm boots a kernel directly, and the VM has no image with one',
      spec.machine,
    );
  }
  const known = image?.status.firmware ?? [];
  if (known.length === 0) return 'bios';
  return known.includes('uefi') && hasUefi ? 'uefi' : 'bios';
}

/** Refuses a spec that contradicts itself or its image; what the hypervisor can do is the driver's to say. */
export function checkSpec(spec: VmSpec, image: Image | null): void {
  const names = new Set<string>();
  for (const [index, disk] of spec.disks.entries()) {
    const field = `spec.disks.${index}`;
    if (names.has(disk.name))
      throw invalidField(`${field}.name`, 'two disks of a VM can not have the same name', disk.name);
    names.add(disk.name);
    if (disk.volume && (disk.image || disk.sizeMib))
      throw invalidField(field, 'a disk is an existing volume, or made from an image or a size: not both', disk.name);
    if (
      disk.device === 'disk' &&
      !disk.volume &&
      !disk.image &&
      !disk.sizeMib &&
      !(spec.image && disk.name === 'root')
    ) {
      throw invalidField(`${field}.sizeMib`, 'a new disk needs a size or an image', disk.name);
    }
  }
  const macs = new Set<string>();
  for (const [index, nic] of spec.nics.entries()) {
    if (nic.mac && macs.has(nic.mac))
      throw invalidField(`spec.nics.${index}.mac`, 'two NICs can not have the same address', nic.mac);
    if (nic.mac) macs.add(nic.mac);
  }
  if (image && image.status.state !== 'ready') {
    throw new LodgeError('wrong_state', `Image ${image.name} is ${image.status.state}: ${image.status.reason}`, {
      hint: 'Wait until it is ready (lodge image list), or choose another.',
    });
  }
  const minimum = Math.max(image?.status.minMemoryMib ?? 0, image?.spec.minMemoryMib ?? 0);
  if (spec.memoryMib < minimum) {
    throw invalidField('spec.memoryMib', `image ${image?.name} needs at least ${minimum} MiB`, spec.memoryMib);
  }
}

/** Fields that need a restart to take effect, between the spec a guest was started with and the one it has now. */
export function pendingChanges(started: VmSpec, now: VmSpec): string[] {
  const coldFields = [
    'image',
    'cpu',
    'memoryMib',
    'machine',
    'accelerator',
    'firmware',
    'disks',
    'nics',
    'display',
    'hasAgentChannel',
    'cloudInit',
  ] as const;
  return coldFields
    .filter((field) => JSON.stringify(started[field]) !== JSON.stringify(now[field]))
    .map((field) => `spec.${field}`);
}
