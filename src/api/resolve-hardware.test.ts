import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { describeDevices } from './describe-devices.ts';
import { presetOf, resolveHardware, type HardwareQuestion } from './resolve-hardware.ts';
import { guestOs, hardwarePreset, vmHardware, type VmDevice, type VmHardware } from './vm-hardware.ts';
import { vmSpec, type VmSpecInput } from './vm-spec.ts';

function resolve(input: VmSpecInput = {}, change: Partial<HardwareQuestion> = {}): VmHardware {
  const spec = vmSpec.parse({ disks: [{ name: 'root', sizeMib: 1 }], ...input });
  const hardware = resolveHardware({
    spec,
    disks: spec.disks.map((disk, index) => ({ ...disk, field: `spec.disks.${index}.bus` })),
    imageOs: null,
    hasDisplay: true,
    accelerator: 'kvm',
    mostQueues: spec.nics.map(() => 1),
    hasVirtiofs: true,
    before: null,
    ...change,
  });
  assert.ok(vmHardware.safeParse(hardware).success, 'it is what the contract promises');
  return hardware;
}

/** The models of a hardware, in a line for each device. */
function models(hardware: VmHardware): Record<string, string> {
  const { disks, nics, video, input, usb, rng, balloon, panicDevice, agentChannel, cpuInterface, clockBase, hpet } =
    hardware;
  return {
    disks: disks.map(({ model }) => model).join(' '),
    nics: nics.map(({ model }) => model).join(' '),
    ...Object.fromEntries(
      Object.entries({ video, input, usb, rng, balloon, panicDevice, agentChannel, cpuInterface, clockBase, hpet }).map(
        ([key, { model }]) => [key, model],
      ),
    ),
  };
}

describe('The set of devices', () => {
  it('follows from the operating system: that of the spec, else of the image, else Linux', () => {
    const preset = (spec: VmSpecInput, imageOs: HardwareQuestion['imageOs'] = null): string =>
      Object.values(presetOf(vmSpec.parse(spec), imageOs)).join(' ');
    assert.equal(preset({}), 'linux paravirtual');
    assert.equal(preset({}, 'windows'), 'windows mixed');
    assert.equal(preset({ os: 'bsd' }, 'windows'), 'bsd paravirtual');
    assert.equal(preset({ os: 'other' }), 'other emulated');
    assert.equal(preset({ os: 'other', hardware: 'mixed' }), 'other mixed');
    assert.equal(preset({ os: 'windows', machine: 'microvm' }), 'windows paravirtual');
  });

  it('paravirtual is virtio, KVM’s CPU interface and no emulated timer', () => {
    assert.deepEqual(models(resolve()), {
      disks: 'virtio',
      nics: 'virtio',
      video: 'virtio',
      input: 'virtio',
      usb: 'xhci',
      rng: 'virtio',
      balloon: 'virtio',
      panicDevice: 'pvpanic',
      agentChannel: 'virtio-serial',
      cpuInterface: 'kvm',
      clockBase: 'utc',
      hpet: 'none',
    });
  });

  it('the serial console is a serial port, unless the spec says otherwise', () => {
    for (const hardware of ['paravirtual', 'emulated', 'mixed'] as const)
      assert.equal(resolve({ hardware }).serialConsole?.model, 'isa-serial');
    const asked = resolve({ serialConsole: 'virtio-console' });
    assert.deepEqual(asked.serialConsole, {
      model: 'virtio-console',
      isAsked: true,
      why: 'spec.serialConsole says so',
    });
    const { serialConsole: _later, ...earlier } = resolve({});
    assert.equal(resolve({}, { before: earlier }).serialConsole?.model, 'isa-serial');
  });

  it('emulated is what a PC has, and nothing a PC doesn’t have', () => {
    const emulated = {
      disks: 'sata',
      nics: 'e1000e',
      video: 'vga',
      input: 'usb',
      usb: 'xhci',
      rng: 'none',
      balloon: 'none',
      panicDevice: 'none',
      agentChannel: 'isa-serial',
      cpuInterface: 'none',
      clockBase: 'utc',
      hpet: 'hpet',
    };
    assert.deepEqual(models(resolve({ hardware: 'emulated' })), emulated);
    assert.deepEqual(models(resolve({ hardware: 'emulated', machine: 'pc' })), {
      ...emulated,
      disks: 'ide',
      nics: 'e1000',
      usb: 'uhci',
    });
    assert.equal(models(resolve({ os: 'other', machine: 'pc' }))['nics'], 'rtl8139');
  });

  it('mixed, as Windows gets it, boots without drivers and offers the rest', () => {
    assert.deepEqual(models(resolve({ os: 'windows' })), {
      disks: 'sata',
      nics: 'e1000e',
      video: 'vga',
      input: 'usb',
      usb: 'xhci',
      rng: 'virtio',
      balloon: 'virtio',
      panicDevice: 'pvpanic',
      agentChannel: 'virtio-serial',
      cpuInterface: 'hyper-v',
      clockBase: 'localtime',
      hpet: 'none',
    });
    assert.equal(resolve({ os: 'windows', hardware: 'paravirtual' }).disks[0]?.model, 'virtio');
  });

  it('gives way to what the spec says of a single device, and says so', () => {
    const asked = resolve({
      hardware: 'emulated',
      disks: [{ name: 'root', sizeMib: 1, bus: 'nvme' }],
      nics: [{ model: 'virtio' }, {}],
      cpu: { interface: 'kvm' },
      video: 'virtio',
      input: 'ps2',
      usb: 'none',
      rng: 'virtio',
      balloon: 'virtio',
      panicDevice: 'pvpanic',
      agentChannel: 'virtio-serial',
      clock: { base: 'localtime', hasHpet: false },
    });
    assert.deepEqual(models(asked), {
      disks: 'nvme',
      nics: 'virtio e1000e',
      video: 'virtio',
      input: 'ps2',
      usb: 'none',
      rng: 'virtio',
      balloon: 'virtio',
      panicDevice: 'pvpanic',
      agentChannel: 'virtio-serial',
      cpuInterface: 'kvm',
      clockBase: 'localtime',
      hpet: 'none',
    });
    assert.equal(asked.nics[0]?.why, 'spec.nics.0.model says so');
    assert.equal(asked.nics[1]?.why, 'hardware is emulated');
    assert.deepEqual([asked.nics[0]?.isAsked, asked.nics[1]?.isAsked], [true, false]);
  });

  it('keeps what it chose before, as long as operating system, set and machine are the same', () => {
    const before: VmHardware = {
      ...resolve({ os: 'windows' }),
      disks: [{ name: 'root', device: 'disk', field: '', model: 'nvme', isAsked: false, why: 'it was so' }],
      nics: [{ model: 'rtl8139', queues: 1, isAsked: false, why: 'it was so' }],
      video: { model: 'virtio', isAsked: true, why: 'spec.video says so' },
    };
    const same = resolve({ os: 'windows' }, { before });
    assert.equal(same.disks[0]?.model, 'nvme');
    assert.equal(same.nics[0]?.model, 'rtl8139');
    assert.equal(same.video.model, 'vga', 'what was asked for and is so no more, is chosen anew');
    assert.equal(resolve({ os: 'windows', nics: [{ model: 'e1000' }] }, { before }).nics[0]?.model, 'e1000');
    for (const other of [{ os: 'linux' }, { os: 'windows', machine: 'pc' }, { os: 'windows', hardware: 'emulated' }])
      assert.notEqual(resolve(other as VmSpecInput, { before }).nics[0]?.model, 'rtl8139', JSON.stringify(other));
  });

  it('has an agent’s channel again after a time without one', () => {
    const before = resolve({ hasAgentChannel: false });
    assert.equal(before.agentChannel.model, 'none');
    assert.equal(resolve({}, { before }).agentChannel.model, 'virtio-serial');
  });
});

describe('Disks', () => {
  const cdrom = { name: 'cd', device: 'cdrom' as const };

  it('that are CD-ROMs are where the guest has drivers for them, whatever is said of virtio', () => {
    assert.equal(resolve({ disks: [cdrom] }).disks[0]?.model, 'scsi');
    assert.equal(resolve({ disks: [cdrom], os: 'bsd' }).disks[0]?.model, 'sata');
    assert.equal(resolve({ disks: [cdrom], os: 'windows' }).disks[0]?.model, 'sata');
    assert.equal(resolve({ disks: [cdrom], hardware: 'emulated' }).disks[0]?.model, 'sata');
    assert.equal(resolve({ disks: [cdrom], machine: 'pc' }).disks[0]?.model, 'ide');
    assert.equal(resolve({ disks: [{ ...cdrom, bus: 'virtio' }] }).disks[0]?.model, 'scsi');
    assert.equal(resolve({ disks: [{ ...cdrom, bus: 'sata' }] }).disks[0]?.model, 'sata');
    assert.match(resolve({ disks: [cdrom] }).disks[0]!.why, /no CD-ROM on virtio/);
  });

  it('beyond the four IDE drives of a PC are on SATA, and those that ask for IDE come first', () => {
    const disks = [
      ...Array.from({ length: 5 }, (_, index) => ({ name: `d${index}`, sizeMib: 1 })),
      { name: 'ide', sizeMib: 1, bus: 'ide' as const },
    ];
    const hardware = resolve({ hardware: 'emulated', machine: 'pc', disks });
    assert.equal(models(hardware)['disks'], 'ide ide ide sata sata ide');
    assert.match(hardware.disks[3]!.why, /room for 4 IDE drives/);
    const again = resolve({ hardware: 'emulated', machine: 'pc', disks }, { before: hardware });
    assert.equal(models(again)['disks'], models(hardware)['disks']);
  });

  it('on virtio and scsi have as many threads of their own as are asked for, one for each at most', () => {
    const disks = Array.from({ length: 6 }, (_, index) => ({ name: `d${index}`, sizeMib: 1 }));
    assert.equal(resolve({ disks }).ioThreads.count, 0);
    assert.match(resolve({ disks }).ioThreads.why, /not asked for/);
    assert.equal(resolve({ disks, ioThreads: 2 }).ioThreads.count, 2);
    assert.equal(resolve({ disks: disks.slice(0, 1), ioThreads: 8 }).ioThreads.count, 1);
    assert.equal(resolve({ disks: [], ioThreads: 2 }).ioThreads.count, 0);
    assert.equal(resolve({ disks, ioThreads: 2, hardware: 'emulated' }).ioThreads.count, 0);
  });
});

describe('NICs', () => {
  const queues = (spec: VmSpecInput, mostQueues: number[]): number[] =>
    resolve(spec, { mostQueues }).nics.map((nic) => nic.queues);

  it('have a pair of queues for each vCPU, as far as the network takes them', () => {
    assert.deepEqual(queues({ cpu: { count: 4 }, nics: [{}, {}] }, [256, 1]), [4, 1]);
    assert.deepEqual(queues({ cpu: { count: 64 }, nics: [{}] }, [256]), [8]);
    assert.deepEqual(queues({ cpu: { count: 4 }, nics: [{ queues: 2 }] }, [256]), [2]);
    assert.deepEqual(queues({ cpu: { count: 4 }, nics: [{ model: 'e1000e' }] }, [256]), [1]);
  });
});

describe('Shared folders', () => {
  const sharedFolders = [{ name: 'data', path: '/srv/data' }];
  const chosen = (input: VmSpecInput, change: Partial<HardwareQuestion> = {}): string =>
    resolve({ sharedFolders, ...input }, change).sharedFolders.map(({ model, isAsked }) => `${model} ${isAsked}`)[0]!;

  it('are on virtio-fs where node and guest know it, else on 9p', () => {
    assert.equal(chosen({}), 'virtiofs false');
    assert.equal(chosen({}, { hasVirtiofs: false }), '9p false');
    assert.equal(chosen({ os: 'bsd' }), '9p false');
    assert.equal(chosen({ os: 'windows' }, { hasVirtiofs: false }), 'virtiofs false');
    assert.equal(chosen({ sharedFolders: [{ ...sharedFolders[0]!, driver: '9p' }] }), '9p true');
  });

  it('stay as they were chosen, each by its name', () => {
    const before = resolve({ sharedFolders }, { hasVirtiofs: false });
    assert.equal(chosen({}, { before }), '9p false');
    const other = [{ name: 'other', path: '/srv/data' }];
    assert.equal(chosen({ sharedFolders: other }, { before }), 'virtiofs false');
    assert.equal(
      chosen({ sharedFolders: [{ ...sharedFolders[0]!, driver: 'virtiofs' }] }, { before }),
      'virtiofs true',
    );
  });

  it('are paravirtual on every hardware, and have no emulated form', () => {
    for (const hardware of hardwarePreset.options) {
      const devices = describeDevices(resolve({ hardware, sharedFolders }), { accelerator: 'kvm', cpuFeatures: null });
      const found = devices.find(({ name }) => name === 'shared folder data');
      assert.deepEqual(found && [found.kind, found.model, found.otherKind], ['paravirtual', 'vhost-user-fs-pci', null]);
    }
  });
});

describe('A microvm', () => {
  it('has virtio and nothing of a PC', () => {
    const hardware = resolve({ machine: 'microvm', os: 'windows' }, { hasDisplay: false });
    assert.equal(hardware.preset, 'paravirtual');
    assert.deepEqual(models(hardware), {
      disks: 'virtio',
      nics: 'virtio',
      video: 'none',
      input: 'ps2',
      usb: 'none',
      rng: 'virtio',
      balloon: 'virtio',
      panicDevice: 'none',
      agentChannel: 'virtio-serial',
      cpuInterface: 'hyper-v',
      clockBase: 'localtime',
      hpet: 'none',
    });
  });

  it('has no source of random numbers while it is emulated, and has one again under KVM', () => {
    const emulated = resolve({ machine: 'microvm' }, { accelerator: 'tcg', hasDisplay: false });
    assert.equal(emulated.rng.model, 'none');
    assert.match(emulated.rng.why, /one shutdown in thirty/);
    assert.equal(resolve({ machine: 'microvm' }, { hasDisplay: false, before: emulated }).rng.model, 'virtio');
  });
});

describe('The table of devices', () => {
  const table = (hardware: VmHardware, facts: Parameters<typeof describeDevices>[1]): Map<string, VmDevice> =>
    new Map(describeDevices(hardware, facts).map((device) => [device.name, device]));
  const kvm = { accelerator: 'kvm', cpuFeatures: ['kvmclock', 'kvm-pv-eoi'] } as const;

  it('shows for each device what it is and what the other kind would be', () => {
    const paravirtual = table(resolve({ nics: [{}] }, { mostQueues: [1] }), kvm);
    const emulated = table(resolve({ nics: [{}], hardware: 'emulated' }), kvm);
    const of = (name: string): string[] =>
      [paravirtual.get(name)!, emulated.get(name)!].map(
        ({ kind, model, otherKind }) => `${kind}: ${model} | ${otherKind}`,
      );
    assert.deepEqual(of('disk root'), [
      'paravirtual: virtio-blk-pci | ide-hd on ich9-ahci (q35)',
      'emulated: ide-hd on ich9-ahci (q35) | virtio-blk-pci',
    ]);
    assert.deepEqual(of('nic 0'), ['paravirtual: virtio-net-pci | e1000e', 'emulated: e1000e | virtio-net-pci']);
    assert.deepEqual(of('timer'), ['emulated: none | hpet', 'emulated: hpet | none']);
    assert.deepEqual(of('video'), ['paravirtual: virtio-vga | VGA', 'emulated: VGA | virtio-vga']);
    assert.deepEqual(of('cpu interface'), ['paravirtual: kvm: kvmclock kvm-pv-eoi | none', 'emulated: none | kvm']);
    assert.deepEqual(of('balloon'), ['paravirtual: virtio-balloon-pci | none', 'emulated: none | virtio-balloon-pci']);
  });

  it('never claims what the accelerator can’t do', () => {
    const hardware = resolve({}, { accelerator: 'tcg' });
    const emulated = table(hardware, { accelerator: 'tcg', cpuFeatures: [] }).get('cpu interface')!;
    assert.deepEqual([emulated.kind, emulated.model], ['emulated', 'none']);
    assert.match(emulated.why, /TCG/);
    const poor = table(resolve(), { accelerator: 'kvm', cpuFeatures: [] }).get('cpu interface')!;
    assert.deepEqual([poor.kind, poor.model], ['emulated', 'none']);
    assert.match(poor.why, /KVM of this node/);
    assert.equal(hardware.hpet.model, 'hpet', 'without paravirtual time there is a timer to go by');
  });

  it('has a reason, a field and a name of its own for every device of every set', () => {
    for (const os of guestOs.options) {
      for (const hardware of hardwarePreset.options) {
        for (const machine of ['q35', 'pc'] as const) {
          const devices = describeDevices(resolve({ os, hardware, machine }), { ...kvm, cpuFeatures: null });
          assert.equal(new Set(devices.map(({ name }) => name)).size, devices.length);
          for (const { name, why, field, model } of devices)
            assert.ok(why && field.startsWith('spec.') && model, `${os} ${hardware} ${machine} ${name}`);
        }
      }
    }
  });
});
