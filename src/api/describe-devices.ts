// The resolved devices of a VM as people are shown them: QEMU's name of each, its kind, what the other kind would be,
// which field decides it and why it is as it is.
import { type VmDevice, type VmHardware } from './vm-hardware.ts';

/** What was observed, or is known before the first start. */
export interface DeviceFacts {
  accelerator: 'kvm' | 'tcg';
  /** Features of the paravirtual CPU interface that the vCPUs have; null before the first start. */
  cpuFeatures: readonly string[] | null;
}

type Kind = VmDevice['kind'];

export function describeDevices(hardware: VmHardware, facts: DeviceFacts): VmDevice[] {
  const { machine } = hardware;
  const isMicrovm = machine === 'microvm';
  const virtio = (name: string): string => `virtio-${name}-${isMicrovm ? 'device' : 'pci'}`;
  const device = (
    name: string,
    field: string,
    choice: { why: string },
    [kind, model]: readonly [Kind, string],
    otherKind: string | null,
  ): VmDevice => ({ name, kind, model, otherKind, field, why: choice.why });
  const pair = (
    name: string,
    field: string,
    choice: { model: string; why: string },
    models: Readonly<Record<string, readonly [Kind, string]>>,
    others: { emulated: string | null; paravirtual: string | null },
  ): VmDevice => {
    const found = models[choice.model]!;
    return device(name, field, choice, found, found[0] === 'emulated' ? others.paravirtual : others.emulated);
  };

  const sata = machine === 'q35' ? 'ich9-ahci (q35)' : 'ich9-ahci';
  const disks = hardware.disks.map((disk) => {
    const ide = disk.device === 'cdrom' ? 'ide-cd' : 'ide-hd';
    const scsi = `${disk.device === 'cdrom' ? 'scsi-cd' : 'scsi-hd'} on virtio-scsi-pci`;
    return pair(
      `disk ${disk.name}`,
      disk.field,
      disk,
      {
        virtio: ['paravirtual', virtio('blk')],
        scsi: ['paravirtual', scsi],
        sata: ['emulated', `${ide} on ${sata}`],
        ide: ['emulated', `${ide} on piix3-ide`],
        nvme: ['emulated', 'nvme'],
        usb: ['emulated', 'usb-storage'],
      },
      {
        emulated: isMicrovm ? null : machine === 'pc' ? `${ide} on piix3-ide` : `${ide} on ${sata}`,
        paravirtual: disk.device === 'cdrom' ? scsi : virtio('blk'),
      },
    );
  });
  const nics = hardware.nics.map((nic, index) => {
    const [kind, model] =
      nic.model === 'virtio' ? (['paravirtual', virtio('net')] as const) : (['emulated', nic.model] as const);
    const text = nic.queues > 1 ? `${model}, ${nic.queues} queues` : model;
    const other = nic.model === 'virtio' ? (isMicrovm ? null : machine === 'pc' ? 'e1000' : 'e1000e') : virtio('net');
    return device(`nic ${index}`, `spec.nics.${index}.model`, nic, [kind, text], other);
  });
  const sharedFolders = hardware.sharedFolders.map((folder) => {
    const model = folder.model === '9p' ? virtio('9p') : `vhost-user-fs-${isMicrovm ? 'device' : 'pci'}`;
    return device(`shared folder ${folder.name}`, folder.field, folder, ['paravirtual', model], null);
  });
  const without: readonly [Kind, string] = ['emulated', 'none'];
  const optional = (name: string, field: string, choice: { model: string; why: string }, model: string): VmDevice =>
    choice.model === 'none'
      ? device(name, field, choice, without, isMicrovm && model.endsWith('-pci') ? null : model)
      : device(name, field, choice, ['paravirtual', model], 'none');
  const hasPs2 = !isMicrovm;
  return [
    ...disks,
    ...nics,
    ...sharedFolders,
    describeCpu(hardware, facts),
    ...describeClock(hardware),
    pair(
      'video',
      'spec.video',
      hardware.video,
      { none: without, vga: ['emulated', 'VGA'], virtio: ['paravirtual', 'virtio-vga'] },
      { emulated: 'VGA', paravirtual: isMicrovm ? null : 'virtio-vga' },
    ),
    ...(hasPs2
      ? [
          pair(
            'input',
            'spec.input',
            hardware.input,
            {
              ps2: ['emulated', 'i8042'],
              usb: ['emulated', 'usb-kbd and usb-tablet'],
              virtio: ['paravirtual', 'virtio-keyboard-pci and virtio-tablet-pci'],
            },
            { emulated: 'i8042', paravirtual: 'virtio-keyboard-pci and virtio-tablet-pci' },
          ),
          pair(
            'usb',
            'spec.usb',
            hardware.usb,
            {
              none: without,
              xhci: ['emulated', 'qemu-xhci'],
              ehci: ['emulated', 'usb-ehci'],
              uhci: ['emulated', 'piix3-usb-uhci'],
            },
            { emulated: null, paravirtual: null },
          ),
        ]
      : []),
    pair(
      'agent channel',
      'spec.agentChannel',
      hardware.agentChannel,
      {
        none: without,
        'virtio-serial': ['paravirtual', `virtserialport on ${virtio('serial')}`],
        'isa-serial': ['emulated', 'isa-serial'],
      },
      { emulated: 'isa-serial', paravirtual: `virtserialport on ${virtio('serial')}` },
    ),
    optional('random numbers', 'spec.rng', hardware.rng, virtio('rng')),
    optional('balloon', 'spec.balloon', hardware.balloon, virtio('balloon')),
    optional('panic', 'spec.panicDevice', hardware.panicDevice, 'pvpanic-pci'),
    pair(
      'console',
      'spec.serialConsole',
      hardware.serialConsole ?? { model: 'isa-serial', why: 'firmware and kernels of every kind write to it' },
      {
        'isa-serial': ['emulated', 'isa-serial'],
        'virtio-console': ['paravirtual', `virtconsole on ${virtio('serial')}`],
      },
      { emulated: 'isa-serial', paravirtual: `virtconsole on ${virtio('serial')}` },
    ),
  ];
}

/** What the CPU says of the hypervisor: what was read from it, not what was asked for. */
function describeCpu(hardware: VmHardware, { accelerator, cpuFeatures }: DeviceFacts): VmDevice {
  const { model, why } = hardware.cpuInterface;
  const common = { name: 'cpu interface', field: 'spec.cpu.interface' };
  if (model === 'none') return { ...common, kind: 'emulated', model: 'none', otherKind: otherInterface(hardware), why };
  if (accelerator === 'tcg') {
    return {
      ...common,
      kind: 'emulated',
      model: 'none',
      otherKind: model,
      why: `${why}; but the processor is emulated (TCG), which has no paravirtual interface`,
    };
  }
  if (cpuFeatures?.length === 0) {
    return {
      ...common,
      kind: 'emulated',
      model: 'none',
      otherKind: model,
      why: `${why}; but the KVM of this node offers none of it`,
    };
  }
  const detail = cpuFeatures ? `${model}: ${cpuFeatures.join(' ')}` : model;
  return { ...common, kind: 'paravirtual', model: detail, otherKind: 'none', why };
}

function otherInterface({ os }: VmHardware): string {
  return os === 'windows' ? 'hyper-v' : 'kvm';
}

function describeClock({ clockBase, hpet, machine }: VmHardware): VmDevice[] {
  const clock: VmDevice = {
    name: 'clock',
    kind: 'emulated',
    model: `mc146818rtc, ${clockBase.model}`,
    otherKind: null,
    field: 'spec.clock.base',
    why: clockBase.why,
  };
  if (machine === 'microvm') return [clock];
  return [
    clock,
    {
      name: 'timer',
      kind: 'emulated',
      model: hpet.model,
      // Its paravirtual counterpart is the time that the CPU interface tells.
      otherKind: hpet.model === 'none' ? 'hpet' : 'none',
      field: 'spec.clock.hasHpet',
      why: hpet.why,
    },
  ];
}
