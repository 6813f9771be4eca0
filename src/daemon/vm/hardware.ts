// From what a user asked for to what a VM is made of: fills in what the image decides (firmware, first disk, memory) and
// keeps what was decided before (MAC addresses). Pure, so that it can be tested without a machine.
import { createHash, randomBytes, X509Certificate } from 'node:crypto';
import { LodgeError, invalidField } from '../../api/errors.ts';
import { type Image } from '../../api/image.ts';
import { formatNumberList, parseNumberList } from '../../lib/number-list.ts';
import { presetOf, resolveHardware } from '../../api/resolve-hardware.ts';
import { type VmHardware } from '../../api/vm-hardware.ts';
import { requireNumberList } from '../../api/vm-placement.ts';
import { type VmPinned, type VmStatus } from '../../api/vm.ts';
import { type VmDisk, type VmDiskLimits, type VmSpec } from '../../api/vm-spec.ts';

/** A new address in QEMU's and KVM's locally administered range, not among those in use. */
export function newMac(inUse: ReadonlySet<string>, random: (size: number) => Uint8Array = randomBytes): string {
  for (;;) {
    const mac = ['52', '54', '00', ...[...random(3)].map((byte) => byte.toString(16).padStart(2, '0'))].join(':');
    if (!inUse.has(mac)) return mac;
  }
}

/**
 * The addresses of a spec's NICs: given ones, then that of the NIC on the same network at the same place or at another
 * one, then that of the same place, then new ones. So a NIC stays the same one when another is taken out before it.
 */
export function assignMacs(
  nics: VmSpec['nics'],
  before: Pick<VmStatus['nics'][number], 'mac' | 'network'>[],
  inUse: ReadonlySet<string>,
  random?: (size: number) => Uint8Array,
): string[] {
  const macs: (string | null)[] = nics.map((nic) => nic.mac ?? null);
  const left = before.map((one, place) => ({ ...one, place })).filter(({ mac }) => !macs.includes(mac));
  const takeOver = (isMeant: (one: (typeof left)[number], index: number) => boolean): void => {
    for (const [index, mac] of macs.entries()) {
      const at = mac === null ? left.findIndex((one) => isMeant(one, index)) : -1;
      if (at !== -1) macs[index] = left.splice(at, 1)[0]!.mac;
    }
  };
  const isOnSame = ({ network }: { network: string }, index: number): boolean => network === nics[index]?.network;
  takeOver((one, index) => one.place === index && isOnSame(one, index));
  takeOver(isOnSame);
  takeOver(({ place }, index) => place === index);
  const taken = new Set([...inUse, ...before.map(({ mac }) => mac), ...macs.filter((mac) => mac !== null)]);
  return macs.map((given) => {
    const mac = given ?? newMac(taken, random);
    taken.add(mac);
    return mac;
  });
}

/** Bytes that are the same for the same VM, so that a NIC that is only planned has one address every time it is looked at. */
export function bytesOf(seed: string): (size: number) => Uint8Array {
  let count = 0;
  return (size) => createHash('sha256').update(`${seed}:${count++}`).digest().subarray(0, size);
}

/** The disks a VM has: those of the spec, with the image’s own disk before them when the spec names only an image. */
export function effectiveDisks(spec: VmSpec, image: Image | null): VmDisk[] {
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
    isReadOnly: false,
    cache: 'writeback',
  };
  return [root, ...spec.disks];
}

/** Name of the drive that carries first-boot data to cloud-init. */
export const seedDiskName = 'cidata';

/** Whether the VM gets first-boot data: it was asked for, or its image runs cloud-init and would wait for it in vain. */
export function needsSeed(spec: VmSpec, image: Image | null): boolean {
  if (spec.guestAgent === 'install' && spec.hasAgentChannel) return true;
  return spec.cloudInit !== undefined || (image?.status.hasCloudInit ?? false);
}

/**
 * What the first-boot data is to the guest. Kernels made for clouds have no drivers for emulated CD-ROM drives; they look
 * for the volume on any disk. Other systems look for a CD-ROM.
 */
export function seedDevice(spec: VmSpec, image: Image | null): 'disk' | 'cdrom' {
  return spec.machine === 'microvm' || presetOf(spec, image?.spec.os ?? null).os === 'linux' ? 'disk' : 'cdrom';
}

/** What the choice of devices depends on besides the spec. */
export interface HardwareFacts {
  image: Image | null;
  firmware: VmPinned['firmware'];
  accelerator: 'kvm' | 'tcg';
  /** Queues that the network of each NIC allows. */
  mostQueues: readonly number[];
  /** The node can share folders by virtio-fs. */
  hasVirtiofs: boolean;
  /** What its last start had; null at the first. */
  before: VmHardware | null;
}

/** All devices of a VM, with nothing left open. */
export function hardwareOf(spec: VmSpec, facts: HardwareFacts): VmHardware {
  const { image, firmware, accelerator, mostQueues, hasVirtiofs, before } = facts;
  const disks: Parameters<typeof resolveHardware>[0]['disks'][number][] = effectiveDisks(spec, image).map((disk) => {
    const index = spec.disks.findIndex(({ name }) => name === disk.name);
    return { ...disk, field: index < 0 ? 'spec.hardware' : `spec.disks.${index}.bus` };
  });
  if (needsSeed(spec, image))
    disks.push({ name: seedDiskName, device: seedDevice(spec, image), bus: undefined, field: 'spec.hardware' });
  return resolveHardware({
    spec,
    disks,
    imageOs: image?.spec.os ?? null,
    hasDisplay:
      spec.machine !== 'microvm' && (spec.display === 'vnc' || (spec.display === 'auto' && firmware !== 'direct')),
    accelerator,
    mostQueues,
    hasVirtiofs,
    before,
  });
}

/** What boots the VM: as asked for, else as the image can. */
export function chooseFirmware(spec: VmSpec, image: Image | null, hasUefi: boolean): VmPinned['firmware'] {
  const { type, secureBoot } = spec.firmware;
  if (secureBoot?.isEnabled) {
    const known = image?.status.firmware ?? [];
    if (known.length > 0 && !known.includes('uefi'))
      throw invalidField(
        'spec.firmware.secureBoot.isEnabled',
        `Secure Boot is of UEFI, and image ${image?.name} boots by ${known.join(' or ')}`,
        true,
      );
    if (type !== 'auto' && type !== 'uefi')
      throw invalidField('spec.firmware.type', 'Secure Boot is of UEFI: auto or uefi', type);
    return 'uefi';
  }
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
  if (spec.machine === 'microvm' && spec.hardware && spec.hardware !== 'paravirtual')
    throw invalidField('spec.hardware', 'the machine type microvm has only paravirtual devices', spec.hardware);
  const macs = new Set<string>();
  for (const [index, nic] of spec.nics.entries()) {
    if (nic.mac && macs.has(nic.mac))
      throw invalidField(`spec.nics.${index}.mac`, 'two NICs can not have the same address', nic.mac);
    if (nic.mac) macs.add(nic.mac);
    for (const field of ['ipv4Address', 'ipv6Address'] as const) {
      const isTaken = spec.nics.some(
        (other, place) => place < index && other.network === nic.network && other[field] === nic[field],
      );
      if (nic[field] !== undefined && isTaken)
        throw invalidField(`spec.nics.${index}.${field}`, 'is reserved for another NIC of the VM already', nic[field]);
    }
  }
  if (image && image.status.state !== 'ready') {
    throw new LodgeError('wrong_state', `Image ${image.name} is ${image.status.state}: ${image.status.reason}`, {
      hint: 'Wait until it is ready (lodge image list), or choose another.',
    });
  }
  // QEMU puts the initramfs where the firmware puts the TPM's log with the ACPI tables (pc_memory_init and build_tpm2, QEMU 10).
  if (spec.tpm?.isEnabled && image?.status.kind === 'kernel')
    throw invalidField(
      'spec.tpm.isEnabled',
      `a VM whose kernel is booted directly, as that of image ${image.name}, can have no TPM`,
      true,
    );
  checkRoom(spec);
  checkCpus(spec);
  checkKeys(spec);
  checkBootOrder(spec);
  for (const [index, disk] of spec.disks.entries()) checkLimits(disk.limits, `spec.disks.${index}.limits`);
  const usbNames = new Set<string>();
  for (const [index, { name }] of spec.usbDevices.entries()) {
    if (usbNames.has(name))
      throw invalidField(`spec.usbDevices.${index}.name`, 'two USB devices of a VM can not have the same name', name);
    usbNames.add(name);
  }
  const folderNames = new Set<string>();
  for (const [index, { name }] of spec.sharedFolders.entries()) {
    if (folderNames.has(name))
      throw invalidField(
        `spec.sharedFolders.${index}.name`,
        'two shared folders of a VM can not have the same name',
        name,
      );
    folderNames.add(name);
  }
  const minimum = Math.max(image?.status.minMemoryMib ?? 0, image?.spec.minMemoryMib ?? 0);
  if (spec.memoryMib < minimum) {
    throw invalidField('spec.memoryMib', `image ${image?.name} needs at least ${minimum} MiB`, spec.memoryMib);
  }
}

function checkKeys({ firmware: { secureBoot } }: VmSpec): void {
  if (!secureBoot) return;
  const { keys, ownCertificates } = secureBoot;
  const field = 'spec.firmware.secureBoot.ownCertificates';
  if (keys === 'own' && ownCertificates.length === 0)
    throw invalidField(field, 'needs a certificate at least where keys is own', ownCertificates.length);
  if (keys === 'microsoft' && ownCertificates.length > 0)
    throw invalidField('spec.firmware.secureBoot.keys', 'is own where ownCertificates are given', keys);
  for (const [index, text] of ownCertificates.entries()) {
    try {
      void new X509Certificate(text);
    } catch {
      throw invalidField(`${field}.${index}`, 'is no X.509 certificate', text.slice(0, 60));
    }
  }
}

function checkRoom({ cpu, memoryMib, maxMemoryMib, memoryTargetMib }: VmSpec): void {
  if (cpu.maxCount !== undefined && cpu.maxCount < cpu.count)
    throw invalidField('spec.cpu.maxCount', `is at least count, ${cpu.count}`, cpu.maxCount);
  if (maxMemoryMib !== undefined && maxMemoryMib < memoryMib)
    throw invalidField('spec.maxMemoryMib', `is at least memoryMib, ${memoryMib}`, maxMemoryMib);
  if (memoryTargetMib !== undefined && memoryTargetMib > memoryMib)
    throw invalidField('spec.memoryTargetMib', `is at most memoryMib, ${memoryMib}`, memoryTargetMib);
}

/** What a placement can't be about: vCPUs that there are not, and NUMA nodes that don't add up. */
function checkCpus({ cpu, numa, memoryMib, maxMemoryMib, machine }: VmSpec): void {
  const { count, maxCount = count } = cpu;
  const seen = new Set<number>();
  for (const [index, { vcpu }] of (cpu.pinning ?? []).entries()) {
    const field = `spec.cpu.pinning.${index}.vcpu`;
    if (vcpu >= maxCount) throw invalidField(field, `is at most ${maxCount - 1}, the last vCPU`, vcpu);
    if (seen.has(vcpu)) throw invalidField(field, 'is pinned twice', vcpu);
    seen.add(vcpu);
  }
  for (const [index, { cpus }] of (cpu.pinning ?? []).entries())
    requireNumberList(`spec.cpu.pinning.${index}.cpus`, cpus);
  requireNumberList('spec.cpu.affinity', cpu.affinity);
  requireNumberList('spec.cpu.emulatorAffinity', cpu.emulatorAffinity);
  requireNumberList('spec.cpu.ioThreadAffinity', cpu.ioThreadAffinity);
  requireNumberList('spec.numa.nodes', numa?.nodes);
  if (!numa?.cells) return;
  const listed = numa.cells.flatMap(({ vcpus }, index) => {
    requireNumberList(`spec.numa.cells.${index}.vcpus`, vcpus);
    return parseNumberList(vcpus);
  });
  if (listed.toSorted((a, b) => a - b).join() !== Array.from({ length: count }, (_, vcpu) => vcpu).join())
    throw invalidField('spec.numa.cells', `name each vCPU from 0 to ${count - 1} once`, formatNumberList(listed));
  const sum = numa.cells.reduce((total, cell) => total + cell.memoryMib, 0);
  if (sum !== memoryMib)
    throw invalidField('spec.numa.cells', `have ${memoryMib} MiB together, as spec.memoryMib says, not ${sum}`, sum);
  if (cpu.maxCount !== undefined && cpu.maxCount !== count)
    throw invalidField('spec.cpu.maxCount', 'is count where spec.numa.cells is given', cpu.maxCount);
  if (maxMemoryMib !== undefined && maxMemoryMib !== memoryMib)
    throw invalidField('spec.maxMemoryMib', 'is memoryMib where spec.numa.cells is given', maxMemoryMib);
  if (machine === 'microvm')
    throw invalidField(
      'spec.numa.cells',
      'the machine type microvm has no NUMA nodes: take q35 or pc',
      numa.cells.length,
    );
}

function checkBootOrder({ disks, nics }: VmSpec): void {
  const taken = new Map<number, string>();
  const places = [
    ...disks.map(({ bootIndex }, index) => [`spec.disks.${index}`, bootIndex] as const),
    ...nics.map(({ bootIndex }, index) => [`spec.nics.${index}`, bootIndex] as const),
  ];
  for (const [field, bootIndex] of places) {
    if (bootIndex === undefined) continue;
    const other = taken.get(bootIndex);
    if (other)
      throw invalidField(`${field}.bootIndex`, `is the place of ${other} in the boot order already`, bootIndex);
    taken.set(bootIndex, field);
  }
}

const rateKinds = [
  ['iops', 'readIops', 'writeIops'],
  ['bytesPerSecond', 'readBytesPerSecond', 'writeBytesPerSecond'],
] as const;

/** Limits as QEMU takes them: util/throttle.c, throttle_is_valid. */
function checkLimits(limits: VmDiskLimits | undefined, field: string): void {
  if (!limits) return;
  for (const [total, read, write] of rateKinds) {
    for (const [rates, where] of [
      [limits, field],
      [limits.burst, `${field}.burst`],
    ] as const) {
      if (rates?.[total] !== undefined && (rates[read] !== undefined || rates[write] !== undefined))
        throw invalidField(
          `${where}.${total}`,
          `excludes ${read} and ${write}: give the total, or its parts`,
          rates[total],
        );
    }
    for (const name of [total, read, write]) {
      const burst = limits.burst?.[name];
      const rate = limits[name];
      if (burst === undefined) continue;
      if (rate === undefined)
        throw invalidField(
          `${field}.burst.${name}`,
          `needs ${name} beside it, the rate that holds in the long run`,
          burst,
        );
      if (burst < rate) throw invalidField(`${field}.burst.${name}`, `is at least ${name}, ${rate}`, burst);
    }
  }
}
