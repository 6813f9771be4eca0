// From what a spec asks for to the whole set of a VM's devices. What the spec leaves open follows from `hardware`, and that
// from the operating system; what an earlier start has chosen stays, so that a VM keeps its devices when Lodge learns
// better ones. Pure: the daemon resolves, and whoever shows a VM before it is made may too.
import {
  type CpuInterface,
  type DiskBus,
  type GuestOs,
  type HardwarePreset,
  type NicModel,
  type VmHardware,
} from './vm-hardware.ts';
import { type VmDisk, type VmSpec } from './vm-spec.ts';

export interface HardwareQuestion {
  spec: VmSpec;
  /** Every drive of the VM in its order, those too that the spec doesn't name (the image's own, first-boot data). */
  disks: readonly (Pick<VmDisk, 'name' | 'device' | 'bus'> & { field: string })[];
  /** Operating system of the image; null where it has none. */
  imageOs: GuestOs | null;
  hasDisplay: boolean;
  /** What it runs on now; an emulated processor has no paravirtual interface. */
  accelerator: 'kvm' | 'tcg';
  /** Queues that the network of each NIC allows. */
  mostQueues: readonly number[];
  /** The node has virtiofsd. */
  hasVirtiofs: boolean;
  /** What its last start had; null at the first. */
  before: VmHardware | null;
}

const presetOfOs: Record<GuestOs, HardwarePreset> = {
  linux: 'paravirtual',
  bsd: 'paravirtual',
  windows: 'mixed',
  other: 'emulated',
};
const interfaceOfOs: Record<GuestOs, CpuInterface> = { linux: 'kvm', bsd: 'kvm', windows: 'hyper-v', other: 'kvm' };

/** Drives on the two IDE channels of a PC. */
export const ideDrives = 4;
/** Beyond these, threads for disks wait for each other more than they help. */
/** Beyond these, queues cost more memory and descriptors than a guest's network has use for. */
const maxChosenQueues = 8;

interface Choice<Model extends string> {
  model: Model;
  isAsked: boolean;
  why: string;
}

/** The operating system and the set of devices that a spec means. */
export function presetOf(
  spec: Pick<VmSpec, 'os' | 'hardware' | 'machine'>,
  imageOs: GuestOs | null,
): { os: GuestOs; preset: HardwarePreset } {
  const os = spec.os ?? imageOs ?? 'linux';
  return { os, preset: spec.hardware ?? (spec.machine === 'microvm' ? 'paravirtual' : presetOfOs[os]) };
}

export function resolveHardware(question: HardwareQuestion): VmHardware {
  const { spec, accelerator, hasDisplay } = question;
  const { machine } = spec;
  const { os, preset } = presetOf(spec, question.imageOs);
  const isParavirtual = preset === 'paravirtual';
  const isEmulated = preset === 'emulated';
  const isMicrovm = machine === 'microvm';
  const presetWhy = spec.hardware
    ? `hardware is ${preset}`
    : isMicrovm
      ? 'a microvm has only virtio'
      : `${os} gets ${preset} hardware`;
  // Another operating system or machine is another computer; for the same one, what was chosen stays.
  const kept =
    question.before?.os === os && question.before.preset === preset && question.before.machine === machine
      ? question.before
      : null;
  const choose = <Model extends string>(
    field: string,
    asked: Model | undefined,
    before: Choice<Model> | null | undefined,
    model: Model,
    why: string,
  ): Choice<Model> => {
    if (asked !== undefined) return { model: asked, isAsked: true, why: `${field} says so` };
    return before && !before.isAsked ? before : { model, isAsked: false, why };
  };

  const disks = resolveDisks(question, os, preset, presetWhy, kept);
  const nics = spec.nics.map((nic, index): VmHardware['nics'][number] => {
    const choice = choose<NicModel>(
      `spec.nics.${index}.model`,
      nic.model,
      kept?.nics[index],
      isParavirtual || isMicrovm ? 'virtio' : emulatedNic(machine, os),
      isMicrovm ? 'a microvm has only virtio' : presetWhy,
    );
    const most = question.mostQueues[index] ?? 1;
    const queues = choice.model === 'virtio' ? (nic.queues ?? Math.min(spec.cpu.count, most, maxChosenQueues)) : 1;
    return { model: choice.model, isAsked: choice.isAsked, why: choice.why, queues };
  });
  const paravirtualDisks = disks.filter(
    ({ device, model }) => device === 'disk' && (model === 'virtio' || model === 'scsi'),
  ).length;
  const ioThreads = {
    count: Math.min(paravirtualDisks, spec.ioThreads ?? 0),
    why:
      spec.ioThreads === undefined
        ? 'not asked for: with QEMU 10.0 they can stop a guest while layers of its disks change'
        : paravirtualDisks === 0
          ? 'no disk is on virtio or scsi'
          : 'spec.ioThreads says so, at most one for each disk on virtio or scsi',
  };

  const withDrivers = isEmulated ? ('none' as const) : ('virtio' as const);
  const rngWhy =
    isMicrovm && accelerator === 'tcg'
      ? 'on an emulated microvm its driver holds up one shutdown in thirty'
      : presetWhy;
  const video = resolveVideo(hasDisplay, isParavirtual, os, presetWhy);
  const hasUsbInput = spec.usb !== 'none';
  const input = isParavirtual && os === 'linux' ? 'virtio' : hasUsbInput ? 'usb' : 'ps2';
  const hasUsb = hasDisplay || spec.usbDevices.length > 0;
  const isHidden = isEmulated && !isMicrovm;
  const cpuInterface = choose<CpuInterface>(
    'spec.cpu.interface',
    spec.cpu.interface,
    kept?.cpuInterface,
    isHidden ? 'none' : interfaceOfOs[os],
    isHidden ? presetWhy : `${presetWhy}, and ${os === 'windows' ? 'Windows knows Hyper-V' : 'it knows KVM'}`,
  );
  const tellsTime = accelerator === 'kvm' && cpuInterface.model !== 'none';
  const hasHpet = !isMicrovm && !tellsTime;
  const askedHpet = spec.clock.hasHpet === undefined ? undefined : spec.clock.hasHpet ? 'hpet' : 'none';
  return {
    os,
    preset,
    machine,
    disks,
    nics,
    sharedFolders: resolveSharedFolders(question, os, kept),
    ioThreads,
    video: hasDisplay ? choose('spec.video', spec.video, kept?.video, video.model, video.why) : video,
    input: hasDisplay
      ? choose('spec.input', spec.input, kept?.input, input, presetWhy)
      : { model: spec.input ?? 'ps2', isAsked: spec.input !== undefined, why: 'without a display nobody types' },
    usb: choose(
      'spec.usb',
      spec.usb,
      kept?.usb,
      isMicrovm || !hasUsb ? 'none' : machine === 'pc' && isEmulated ? 'uhci' : 'xhci',
      isMicrovm ? 'a microvm has no PCI bus' : hasDisplay ? presetWhy : 'without a display nothing is plugged in',
    ),
    // What depends on the accelerator is not kept: a guest may go from one to the other.
    rng: choose('spec.rng', spec.rng, null, rngWhy === presetWhy ? withDrivers : 'none', rngWhy),
    balloon: choose('spec.balloon', spec.balloon, kept?.balloon, withDrivers, presetWhy),
    panicDevice: choose(
      'spec.panicDevice',
      spec.panicDevice,
      kept?.panicDevice,
      isEmulated || isMicrovm ? 'none' : 'pvpanic',
      isMicrovm ? 'a microvm has no PCI bus' : presetWhy,
    ),
    agentChannel: spec.hasAgentChannel
      ? choose(
          'spec.agentChannel',
          spec.agentChannel,
          // Choosing "none" belongs to a spec without an agent, not to this one.
          kept?.agentChannel.model === 'none' ? null : kept?.agentChannel,
          isEmulated && !isMicrovm ? 'isa-serial' : 'virtio-serial',
          presetWhy,
        )
      : { model: 'none', isAsked: true, why: 'spec.hasAgentChannel is false' },
    serialConsole: choose(
      'spec.serialConsole',
      spec.serialConsole,
      kept?.serialConsole,
      'isa-serial',
      'firmware and kernels of every kind write to it',
    ),
    cpuInterface,
    clockBase: choose(
      'spec.clock.base',
      spec.clock.base,
      kept?.clockBase,
      os === 'windows' ? 'localtime' : 'utc',
      os === 'windows' ? 'Windows keeps the clock in local time' : `${os} keeps the clock in UTC`,
    ),
    hpet: choose(
      'spec.clock.hasHpet',
      askedHpet,
      null,
      hasHpet ? 'hpet' : 'none',
      isMicrovm
        ? 'a microvm has none'
        : tellsTime
          ? 'the hypervisor tells the time through the CPU'
          : accelerator === 'tcg' && cpuInterface.model !== 'none'
            ? 'emulation tells no paravirtual time'
            : presetWhy,
    ),
  };
}

/** Folders are shared by virtio in one way or the other: a PC has no device for them. */
function resolveSharedFolders(
  { spec, hasVirtiofs }: HardwareQuestion,
  os: GuestOs,
  kept: VmHardware | null,
): VmHardware['sharedFolders'] {
  return spec.sharedFolders.map(({ name, driver }, index) => {
    const field = `spec.sharedFolders.${index}.driver`;
    const of = { name, field };
    if (driver) return { ...of, model: driver, isAsked: true, why: `${field} says so` };
    const before = kept?.sharedFolders.find((one) => one.name === name && !one.isAsked);
    if (before) return { ...before, ...of };
    if (os === 'bsd')
      return { ...of, model: '9p', isAsked: false, why: 'of the BSDs, FreeBSD knows 9p and none knows virtio-fs' };
    if (os === 'windows')
      return { ...of, model: 'virtiofs', isAsked: false, why: 'the drivers for Windows know virtio-fs and no 9p' };
    return hasVirtiofs
      ? { ...of, model: 'virtiofs', isAsked: false, why: 'it is the faster one, and the node has virtiofsd' }
      : { ...of, model: '9p', isAsked: false, why: 'the node has no virtiofsd' };
  });
}

function resolveVideo(
  hasDisplay: boolean,
  isParavirtual: boolean,
  os: GuestOs,
  presetWhy: string,
): Choice<'vga' | 'virtio' | 'none'> {
  if (!hasDisplay) return { model: 'none', isAsked: false, why: 'it has no display' };
  if (isParavirtual && os === 'bsd') {
    return { model: 'vga', isAsked: false, why: 'not every BSD has a driver for virtio-gpu' };
  }
  return { model: isParavirtual ? 'virtio' : 'vga', isAsked: false, why: presetWhy };
}

function resolveDisks(
  { spec, disks }: HardwareQuestion,
  os: GuestOs,
  preset: HardwarePreset,
  presetWhy: string,
  kept: VmHardware | null,
): VmHardware['disks'] {
  const { machine } = spec;
  let ideFree = ideDrives - disks.filter(({ bus }) => bus === 'ide').length;
  return disks.map(({ name, device, bus, field }) => {
    const of = { name, device, field };
    const isCdrom = device === 'cdrom';
    // A CD-ROM has no virtio, NVMe or USB form, and goes where a PC of this type has it.
    if (bus !== undefined && !(isCdrom && (bus === 'virtio' || bus === 'nvme' || bus === 'usb')))
      return { ...of, model: bus, isAsked: true, why: `${field} says so` };
    const before = kept?.disks.find((one) => one.name === name && one.device === device && !one.isAsked);
    if (before && (before.model !== 'ide' || ideFree-- > 0)) return { ...before, ...of };
    let model: DiskBus = 'virtio';
    let why = presetWhy;
    if (machine === 'microvm') why = 'a microvm has only virtio';
    else if (isCdrom && preset === 'paravirtual' && machine === 'q35' && os === 'linux') {
      // Kernels that distributions make for clouds have no drivers for SATA.
      model = 'scsi';
      why = 'there is no CD-ROM on virtio, and not every Linux has drivers for SATA';
    } else if (isCdrom || preset !== 'paravirtual') {
      model = machine === 'pc' ? 'ide' : 'sata';
      if (isCdrom && preset === 'paravirtual') why = 'there is no CD-ROM on virtio';
      if (model === 'ide' && ideFree-- <= 0) {
        model = 'sata';
        why = `a PC has room for ${ideDrives} IDE drives`;
      }
    }
    return { ...of, model, isAsked: false, why };
  });
}

function emulatedNic(machine: VmSpec['machine'], os: GuestOs): NicModel {
  if (machine === 'q35') return 'e1000e';
  return os === 'other' ? 'rtl8139' : 'e1000';
}
