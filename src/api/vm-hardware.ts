// The virtual hardware of a VM in two ways of virtualizing: emulated devices, as an unmodified operating system finds
// them on a PC, and paravirtual ones, which it needs drivers for. Here are the sets a user chooses from, the set that
// was resolved for a VM, and how each device is shown.
import * as z from 'zod';
import { sharedFolderDriver } from './vm-shared-folder.ts';

export const guestOs = z.enum(['linux', 'windows', 'bsd', 'other']).meta({ id: 'GuestOs' });
export type GuestOs = z.output<typeof guestOs>;

export const hardwarePreset = z
  .enum(['emulated', 'paravirtual', 'mixed'])
  .describe(
    'emulated: what a driver-less operating system finds on a PC; paravirtual: virtio and the hypervisor’s CPU interface; mixed: disks, NICs and display emulated, the rest paravirtual',
  )
  .meta({ id: 'HardwarePreset' });
export type HardwarePreset = z.output<typeof hardwarePreset>;

export const diskBus = z
  .enum(['virtio', 'scsi', 'sata', 'ide', 'nvme', 'usb'])
  .describe(
    'virtio: virtio-blk; scsi: a SCSI disk at a virtio-scsi controller; sata, ide, nvme and usb (a stick) are emulated',
  )
  .meta({ id: 'DiskBus' });
export type DiskBus = z.output<typeof diskBus>;

export const nicModel = z.enum(['virtio', 'e1000e', 'e1000', 'rtl8139']).meta({ id: 'NicModel' });
export type NicModel = z.output<typeof nicModel>;

export const videoModel = z
  .enum(['vga', 'virtio'])
  .describe('vga: standard VGA with VESA BIOS extensions; virtio: virtio-gpu with VGA compatibility for the firmware')
  .meta({ id: 'VideoModel' });

export const inputModel = z
  .enum(['ps2', 'usb', 'virtio'])
  .describe(
    'ps2: keyboard and mouse at the PC’s keyboard controller; usb: USB keyboard and tablet; virtio: virtio-input',
  )
  .meta({ id: 'InputModel' });

export const usbController = z
  .enum(['xhci', 'ehci', 'uhci', 'none'])
  .describe('xhci: USB 3; ehci: USB 2 with high-speed devices only; uhci: USB 1.1, for operating systems before 2001')
  .meta({ id: 'UsbController' });

export const agentChannelModel = z
  .enum(['virtio-serial', 'isa-serial'])
  .describe(
    'virtio-serial: port org.qemu.guest_agent.0; isa-serial: the second serial port (COM2, ttyS1), for an agent started with --method=isa-serial',
  )
  .meta({ id: 'AgentChannelModel' });

export const serialConsoleModel = z
  .enum(['isa-serial', 'virtio-console'])
  .describe(
    'isa-serial: the first serial port (COM1, ttyS0), which firmware, boot loaders and kernels of every kind write to; virtio-console: hvc0, which takes many bytes at once and needs a driver: nothing is seen before the guest has loaded it',
  )
  .meta({ id: 'SerialConsoleModel' });

export const cpuInterface = z
  .enum(['none', 'kvm', 'hyper-v'])
  .describe(
    'What the CPU says of the hypervisor: none: nothing, as on a machine; kvm: KVM’s leaves (kvmclock, end-of-interrupt, spinlocks, TLB flush); hyper-v: Hyper-V enlightenments',
  )
  .meta({ id: 'CpuInterface' });
export type CpuInterface = z.output<typeof cpuInterface>;

/** A device that a VM has one of, or none: what the spec asks for, each left out where `hardware` is to decide. */
export const vmDeviceChoices = {
  video: videoModel.optional(),
  input: inputModel.optional(),
  usb: usbController.optional(),
  rng: z.enum(['virtio', 'none']).optional().describe('Source of random numbers'),
  ioThreads: z
    .int()
    .min(0)
    .max(16)
    .optional()
    .describe(
      'Threads of QEMU that serve disks on virtio and scsi, at most one for each of these. More throughput where several disks are busy. Without it, none: with them, QEMU 10.0 can stand still for good while layers of a busy disk are frozen or merged',
    ),
  balloon: z
    .enum(['virtio', 'none'])
    .optional()
    .describe('Balloon, through which the guest also gives back memory that it has freed'),
  panicDevice: z.enum(['pvpanic', 'none']).optional().describe('Through which the guest tells that it has panicked'),
  agentChannel: agentChannelModel.optional().describe('How the guest agent is reached, where hasAgentChannel is set'),
  serialConsole: serialConsoleModel.optional().describe('What the serial console is. Without it, isa-serial'),
};

const chosen = {
  isAsked: z.boolean().describe('The spec asks for it; otherwise it follows from hardware'),
  why: z.string().describe('Why it is this one'),
};

/** The whole set of devices of a VM, resolved: nothing in it is left to be decided. */
export const vmHardware = z
  .object({
    os: guestOs,
    preset: hardwarePreset,
    machine: z.enum(['q35', 'pc', 'microvm']),
    disks: z.array(
      z.object({
        name: z.string(),
        device: z.enum(['disk', 'cdrom']),
        field: z.string().describe('Field of the spec that decides it'),
        model: diskBus,
        ...chosen,
      }),
    ),
    nics: z.array(z.object({ model: nicModel, queues: z.int().describe('Pairs of queues'), ...chosen })),
    sharedFolders: z.array(
      z.object({
        name: z.string(),
        field: z.string().describe('Field of the spec that decides it'),
        model: sharedFolderDriver,
        ...chosen,
      }),
    ),
    ioThreads: z.object({ count: z.int().describe('Threads that serve disks on virtio and scsi'), why: z.string() }),
    video: z.object({ model: z.enum([...videoModel.options, 'none']), ...chosen }),
    input: z.object({ model: inputModel, ...chosen }),
    usb: z.object({ model: usbController, ...chosen }),
    rng: z.object({ model: z.enum(['virtio', 'none']), ...chosen }),
    balloon: z.object({ model: z.enum(['virtio', 'none']), ...chosen }),
    panicDevice: z.object({ model: z.enum(['pvpanic', 'none']), ...chosen }),
    agentChannel: z.object({ model: z.enum([...agentChannelModel.options, 'none']), ...chosen }),
    serialConsole: z
      .object({ model: serialConsoleModel, ...chosen })
      .optional()
      .describe('Without it, isa-serial: it was started when there was nothing else'),
    cpuInterface: z.object({ model: cpuInterface, ...chosen }),
    clockBase: z.object({ model: z.enum(['utc', 'localtime']), ...chosen }),
    hpet: z.object({ model: z.enum(['hpet', 'none']), ...chosen }),
  })
  .meta({ id: 'VmHardware' });
export type VmHardware = z.output<typeof vmHardware>;

/** One device of a VM, as it is shown. */
export const vmDevice = z
  .object({
    name: z.string().describe('What it is in the VM: disk root, nic 0, video, clock'),
    kind: z.enum(['emulated', 'paravirtual', 'passthrough']),
    model: z.string().describe('QEMU’s name of it: virtio-blk-pci; none where the VM has no such device'),
    otherKind: z.string().nullable().describe('What it would be in the other kind; null where there is none'),
    field: z.string().describe('Field of the spec that decides it'),
    why: z.string().describe('Why it is this one'),
  })
  .meta({ id: 'VmDevice' });
export type VmDevice = z.output<typeof vmDevice>;
