// What a user may ask of a VM: its hardware, disks, NICs, first boot and behaviour.
import * as z from 'zod';
import { objectName, objectReference } from './object.ts';
import { ipv4Address, ipv6Address, macAddress } from './network.ts';
import { nicLimits } from './nic-limits.ts';
import { portForward } from './port-forward.ts';
import { vmFirmware, vmSmbios, vmTpm } from './vm-firmware.ts';
import { vmSharedFolder } from './vm-shared-folder.ts';
import { cpuInterface, diskBus, guestOs, hardwarePreset, nicModel, vmDeviceChoices } from './vm-hardware.ts';
import { inheritedField } from './vm-inherited.ts';
import { vmMemoryBacking, vmResources } from './vm-memory.ts';
import { vmCpuPlacement, vmNuma } from './vm-placement.ts';
import { vmDisplayChoices } from './vm-display.ts';
import { maxVolumeMib } from './volume.ts';

/** Limits of what QEMU's machines take; a node may have less. */
export const maxVcpus = 1024;
/** 16 TiB, in MiB. */
export const maxMemoryMib = 16_777_216;
/** Pairs of queues that a tap takes: MAX_TAP_QUEUES of Linux. */
export const maxNicQueues = 256;
/** Smallest memory a machine's firmware and a small kernel start in, MiB. */
export const minMemoryMib = 16;

const cpuFeature = z
  .string()
  .max(40)
  .regex(/^[a-z0-9][a-z0-9_.-]*$/, 'is the name of a CPU feature as QEMU spells it: aes, avx2, pcid');

export const vmCpu = z
  .strictObject({
    count: z.int().min(1).max(maxVcpus).default(1).describe('vCPUs; can change while it runs, up to maxCount'),
    maxCount: z
      .int()
      .min(1)
      .max(maxVcpus)
      .optional()
      .describe(
        'Most vCPUs it can have without a restart. Without it, four times count, at most the node’s processors; with a topology, count',
      ),
    model: z
      .string()
      .max(60)
      .regex(
        /^[A-Za-z0-9][A-Za-z0-9_.-]*$/,
        'is the name of a CPU model: auto, host, max, x86-64-v2, x86-64-v3, x86-64-v4, or one of QEMU’s',
      )
      .default('auto')
      .describe(
        'auto (host under KVM, max under TCG), host, max, x86-64-v2, x86-64-v3, x86-64-v4, or a model of QEMU (see the node’s status)',
      ),
    enable: z.array(cpuFeature).max(100).default([]).describe('CPU features to switch on'),
    disable: z.array(cpuFeature).max(100).default([]).describe('CPU features to switch off'),
    sockets: z.int().min(1).max(maxVcpus).optional().describe('Without topology, one socket with all cores'),
    coresPerSocket: z.int().min(1).max(maxVcpus).optional(),
    threadsPerCore: z.int().min(1).max(16).optional(),
    interface: cpuInterface.optional(),
    ...vmCpuPlacement,
  })
  .meta({ id: 'VmCpu' });

const perSecond = (what: string): z.ZodOptional<z.ZodInt> =>
  z.int().min(1).max(1_000_000_000_000_000).optional().describe(`${what} a second`);

const rates = {
  iops: perSecond('Operations'),
  readIops: perSecond('Read operations'),
  writeIops: perSecond('Write operations'),
  bytesPerSecond: perSecond('Bytes'),
  readBytesPerSecond: perSecond('Bytes read'),
  writeBytesPerSecond: perSecond('Bytes written'),
};

/** How much a disk may do. A total and its read or write part exclude each other, as in QEMU's throttling. */
export const vmDiskLimits = z
  .strictObject({
    ...rates,
    burst: z
      .strictObject({
        ...rates,
        lengthS: z.int().min(1).max(3600).default(1).describe('How long the higher rate may last, seconds'),
      })
      .optional()
      .describe('Higher rates for a short time, each for one that is given outside it'),
  })
  .meta({ id: 'VmDiskLimits' });
export type VmDiskLimits = z.output<typeof vmDiskLimits>;

const bootIndex = z
  .int()
  .min(1)
  .max(1000)
  .optional()
  .describe('Place in the boot order; those with one come first, then the disks without in their order');

export const vmDisk = z
  .strictObject({
    name: objectName.describe('Unique in the VM: root, data'),
    volume: objectReference
      .optional()
      .describe('An existing volume. Without it, one is made with the VM and deleted with it'),
    image: objectReference
      .optional()
      .describe('Image a new disk is a copy-on-write copy of; for a CD-ROM, the ISO in it'),
    sizeMib: z.int().min(1).max(maxVolumeMib).optional().describe('Size of a new disk, MiB'),
    device: z.enum(['disk', 'cdrom']).default('disk'),
    bus: diskBus.optional().describe('Without it, what hardware stands for'),
    isReadOnly: z.boolean().default(false),
    cache: z
      .enum(['none', 'writeback', 'writethrough', 'unsafe'])
      .default('writeback')
      .describe('As QEMU’s cache modes'),
    limits: vmDiskLimits.optional().describe('Without it, no limit. Can change while it runs'),
    bootIndex,
  })
  .meta({ id: 'VmDisk' });
export type VmDisk = z.output<typeof vmDisk>;

export const vmNic = z
  .strictObject({
    network: objectReference.default('default'),
    model: nicModel.optional().describe('Without it, what hardware stands for'),
    queues: z
      .int()
      .min(1)
      .max(maxNicQueues)
      .optional()
      .describe('Pairs of queues of a virtio NIC. Without it, one for each vCPU where the network allows it'),
    mac: macAddress.optional().describe('Without it, Lodge makes one and keeps it'),
    ipv4Address: ipv4Address.optional().describe('Reserved for this NIC in the network’s DHCP'),
    ipv6Address: ipv6Address.optional().describe('Reserved for this NIC in the network’s DHCPv6'),
    isConnected: z.boolean().default(true).describe('Whether the link is up'),
    securityGroups: z
      .array(objectReference)
      .max(16)
      .optional()
      .describe('Groups whose rules count for it, beside those of its network and project. Changes count at once'),
    hasAntiSpoofing: z
      .boolean()
      .optional()
      .describe(
        'Whether it is kept from sending under the MAC and IP addresses of others, and from answering as DHCP server or router. Without it, true where its network’s mode can do that',
      ),
    allowedAddresses: z
      .array(
        z
          .string()
          .max(64)
          .regex(/^[0-9a-fA-F.:]+(\/\d{1,3})?$/, 'is an address or a prefix: 10.20.0.0/16, fd00::5'),
      )
      .max(64)
      .optional()
      .describe(
        'Addresses and prefixes that it may send from beside those that Lodge gives it, such as of a virtual router. With them, or a reserved address, it may send from no others',
      ),
    limits: nicLimits.optional().describe('Without it, as much as it can'),
    forwards: z
      .array(portForward)
      .max(64)
      .optional()
      .describe('Ports of the node that lead to it, on networks of mode nat, routed and user. Changed while it runs'),
    bootIndex,
  })
  .meta({ id: 'VmNic' });
export type VmNic = z.output<typeof vmNic>;

export const vmUsbDevice = z
  .strictObject({
    name: objectName.describe('Unique in the VM: pointer'),
    type: z.enum(['tablet', 'mouse', 'keyboard']),
  })
  .meta({ id: 'VmUsbDevice' });
export type VmUsbDevice = z.output<typeof vmUsbDevice>;

const sshKey = z
  .string()
  .max(16_384)
  .regex(
    /^(ssh-(ed25519|rsa|dss)|ecdsa-sha2-nistp(256|384|521)|sk-[a-z0-9@.-]+) [A-Za-z0-9+/]+={0,3}( [^\n\r\0]*)?$/,
    'is one public key as in an authorized_keys file: ssh-ed25519 AAAA… comment',
  );

/**
 * What stands in place of a first-boot secret (`password`, `userData`) for callers who may not change VMs. It is no value
 * that a VM can be given, so that such an answer can't be written back by accident.
 */
export const hiddenSecret = '(hidden)';

export const vmCloudInit = z
  .strictObject({
    user: z
      .string()
      .regex(/^[a-z_][a-z0-9_-]{0,31}$/, 'is a Linux user name')
      .optional()
      .describe('User that is made; without it, the image’s own default user'),
    sshKeys: z.array(sshKey).max(100).default([]).describe('Public keys that may sign in'),
    password: z
      .string()
      .min(1)
      .max(256)
      .optional()
      .describe(
        'Password of the user. It is kept, and shown, only as a SHA-512 crypt hash; as (hidden) to who may not change VMs',
      ),
    userData: z
      .string()
      .max(262_144)
      .optional()
      .describe(
        'Own user-data (#cloud-config or a script); merged with the fields above where it is #cloud-config. Shown as (hidden) to who may not change VMs',
      ),
    networkConfig: z
      .string()
      .max(65_536)
      .optional()
      .describe('Own network-config, version 2; without it, DHCP on every NIC'),
    hostname: objectName.optional().describe('Without it, the VM’s name'),
  })
  .meta({ id: 'VmCloudInit' });

export const vmSpec = z
  .strictObject({
    description: z.string().max(1000).default(''),
    image: objectReference
      .optional()
      .describe('Image the VM is made from: its first disk, or for an image with kernel and initramfs what is booted'),
    os: guestOs.optional().describe('Operating system it is to run. Without it, that of the image, else linux'),
    hardware: hardwarePreset
      .optional()
      .describe(
        'Set of devices for all that is not set one by one. Without it: linux and bsd paravirtual, windows mixed, other emulated',
      ),
    cpu: vmCpu.prefault({}),
    memoryMib: z.int().min(minMemoryMib).max(maxMemoryMib).default(512).describe('MiB'),
    maxMemoryMib: z
      .int()
      .min(minMemoryMib)
      .max(maxMemoryMib)
      .optional()
      .describe('Most memory it can have without a restart, MiB. Without it, four times memoryMib, at most the node’s'),
    memoryTargetMib: z
      .int()
      .min(minMemoryMib)
      .max(maxMemoryMib)
      .optional()
      .describe('What the guest is to make do with: the balloon takes the rest. Without it, all of memoryMib. MiB'),
    numa: vmNuma.optional().describe('Where its memory comes from, and the NUMA nodes that the guest sees'),
    memoryBacking: vmMemoryBacking.optional().describe('What its memory is made of on the node'),
    resources: vmResources.optional().describe('What it may take of disks, swap and memory. Can change while it runs'),
    onShortage: z
      .enum(['refuse', 'start'])
      .optional()
      .describe(
        'At a start, when the node lacks CPUs or memory of the kind it asks for: refuse: it is not started; start: it is, without them, and status.warnings says what it lacks. Without it, refuse',
      ),
    machine: z
      .enum(['q35', 'pc', 'microvm'])
      .default('q35')
      .describe('QEMU machine type; its version is pinned at the first start'),
    accelerator: z
      .enum(['auto', 'kvm', 'tcg'])
      .default('auto')
      .describe('auto takes the best rung of the node’s accelerator ladder'),
    firmware: vmFirmware.prefault({}),
    tpm: vmTpm.optional().describe('TPM 2.0. Without it, none'),
    smbios: vmSmbios.optional().describe('What the guest is told of the machine it is. Without it, QEMU’s'),
    disks: z.array(vmDisk).max(64).default([]).describe('The first bootable one is booted'),
    nics: z
      .array(vmNic)
      .max(32)
      .default([{ network: 'default', isConnected: true }]),
    usbDevices: z.array(vmUsbDevice).max(16).default([]).describe('Emulated USB devices besides those of the display'),
    sharedFolders: z
      .array(vmSharedFolder)
      .max(16)
      .default([])
      .describe('Folders of the node that the guest can mount; not part of snapshots'),
    display: z.enum(['auto', 'none', 'vnc']).default('auto').describe('auto: vnc, but none for direct boot'),
    ...vmDisplayChoices,
    hasAgentChannel: z.boolean().default(true).describe('Whether the guest agent can be reached'),
    ...vmDeviceChoices,
    clock: z
      .strictObject({
        base: z
          .enum(['utc', 'localtime'])
          .optional()
          .describe('What the real-time clock shows at the start. Without it, localtime for windows, else utc'),
        hasHpet: z
          .boolean()
          .optional()
          .describe('High precision event timer. Without it, there is one where the CPU tells no paravirtual time'),
      })
      .prefault({}),
    guestAgent: z
      .enum(['auto', 'install', 'none'])
      .default('auto')
      .describe(
        'Who sees to the guest agent. auto: cloud-init installs it at the first boot if the VM has first-boot data and its image is not known to have one; install: the VM is given first-boot data for it; none: nobody',
      ),
    hasClockSync: z
      .boolean()
      .default(true)
      .describe(
        'The guest’s clock is set through its agent when it goes on after it was paused, suspended, or reverted to a snapshot with memory',
      ),
    cloudInit: vmCloudInit.optional(),
    autostart: z.boolean().default(false).describe('Started when the node comes up'),
    restartPolicy: z
      .strictObject({
        mode: z
          .enum(['never', 'on-failure', 'always'])
          .default('never')
          .describe('on-failure: when QEMU dies or the guest panics; always: also when the guest powers itself off'),
        maxRetries: z.int().min(0).max(1000).default(10).describe('Starts in a row before it gives up; 0: no limit'),
        backOffS: z
          .int()
          .min(1)
          .max(3600)
          .default(2)
          .describe('Wait before the first new start, doubled each time up to five minutes, seconds'),
      })
      .prefault({}),
    stopTimeoutS: z
      .int()
      .min(0)
      .max(86_400)
      .default(90)
      .describe('How long a guest may take to shut down before it is switched off, seconds'),
    instanceType: objectReference
      .optional()
      .describe('Instance type that says its vCPUs and memory: one of its project, else of the project default'),
    profiles: z
      .array(objectReference)
      .max(20)
      .optional()
      .describe(
        'Profiles whose fields it has where it says nothing itself. Where several set a field, the last counts',
      ),
    inherited: z
      .array(inheritedField)
      .max(1000)
      .optional()
      .describe(
        'What profiles and instance type set, as the VM took it over. Lodge writes it; what a request says here is ignored',
      ),
  })
  .meta({ id: 'VmSpec' });
export type VmSpec = z.output<typeof vmSpec>;
export type VmSpecInput = z.input<typeof vmSpec>;
