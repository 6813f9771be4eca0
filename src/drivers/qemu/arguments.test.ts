import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import { LodgeError } from '../../api/errors.ts';
import { vmSpec, type VmSpecInput } from '../../api/vm-spec.ts';
import { type VmPinned } from '../../api/vm.ts';
import { type GuestDefinition, type GuestDisk, type GuestNic } from '../driver.ts';
import { plainHardware } from '../driver.conformance.ts';
import { buildCommand, type CommandContext, type QemuCommand } from './arguments.ts';
import { diskOfDevice, layerNode } from './device-arguments.ts';

const installation: CommandContext['installation'] = {
  binary: '/usr/bin/qemu-system-x86_64',
  version: '10.0.2',
  machines: new Map([
    ['q35', 'pc-q35-10.0'],
    ['pc', 'pc-i440fx-10.0'],
    ['microvm', 'microvm'],
  ]),
  machineNames: new Set(['q35', 'pc', 'microvm', 'pc-q35-10.0', 'pc-q35-9.2', 'pc-i440fx-10.0']),
  cpuModels: ['qemu64', 'Skylake-Server'],
  cpuFeatures: new Set(['avx2']),
  migrationCapabilities: new Set<string>(),
  chardevKinds: new Set(['socket', 'ringbuf', 'hub']),
  deviceModels: new Set(),
  swtpmPath: '/usr/bin/swtpm',
  virtiofsdPath: '/usr/libexec/virtiofsd',
  uefi: {
    codePath: '/usr/share/OVMF/OVMF_CODE_4M.fd',
    variablesPath: '/usr/share/OVMF/OVMF_VARS_4M.fd',
    secureBoot: {
      codePath: '/usr/share/OVMF/OVMF_CODE_4M.secboot.fd',
      variablesPath: '/usr/share/OVMF/OVMF_VARS_4M.fd',
      microsoftVariablesPath: '/usr/share/OVMF/OVMF_VARS_4M.ms.fd',
    },
  },
};

const tcg: CommandContext = {
  installation,
  accelerator: { accelerator: 'tcg', rung: 'tcg', acceleratorReason: 'Nothing else is there.' },
  probedCpuModel: 'max',
  uefiVariablesPath: null,
  hasVhostNet: true,
  tscKhz: 2_000_000,
  hasHyperV: true,
  isRestoring: false,
};
const kvm: CommandContext = {
  ...tcg,
  accelerator: { accelerator: 'kvm', rung: 'kvm', acceleratorReason: 'It works.' },
  probedCpuModel: 'host',
};

function define(spec: VmSpecInput = {}, change: Partial<GuestDefinition> = {}): GuestDefinition {
  const parsed = vmSpec.parse({ nics: [], ...spec });
  return {
    id: '0198a1b2-0000-7000-8000-000000000001',
    name: 'web1',
    spec: parsed,
    hardware: plainHardware(parsed, change),
    pinned: null,
    firmware: 'bios',
    kernel: null,
    disks: [],
    nics: [],
    directory: '/var/lib/lodge/vms/1',
    uid: 1_900_000_000,
    ...change,
  };
}

function disk(name: string, change: Partial<GuestDisk> = {}): GuestDisk {
  return {
    name,
    device: 'disk',
    bus: 'virtio',
    cache: 'writeback',
    isReadOnly: false,
    layers: [{ path: `/volumes/${name}.qcow2`, format: 'qcow2' }],
    bootIndex: 1,
    ...change,
  };
}

function nic(index: number, change: Partial<GuestNic> = {}): GuestNic {
  return {
    mac: `52:54:00:00:00:0${index}`,
    model: 'virtio',
    queues: 1,
    mtu: 1500,
    isConnected: true,
    attachment: { kind: 'tap', hostInterface: `tap${index}` },
    ...change,
  };
}

/** The values of one option, in order. */
function values({ argv }: QemuCommand, option: string): string[] {
  return argv.flatMap((argument, index) => (argv[index - 1] === option ? [argument] : []));
}

function value(command: QemuCommand, option: string): string {
  const [first, ...more] = values(command, option);
  assert.ok(first !== undefined && more.length === 0, `${option} is there once`);
  return first;
}

/** The arguments of the device with this id. */
function device(command: QemuCommand, id: string): string {
  const found = values(command, '-device').find((text) => text.split(',').includes(`id=${id}`));
  assert.ok(found, `there is a device ${id}`);
  return found;
}

function place(command: QemuCommand, id: string): string {
  return /addr=(\S+?)(?:,|$)/.exec(device(command, id))?.[1] ?? '';
}

/** The block nodes by name. */
function nodes(command: QemuCommand): Map<string, Record<string, unknown>> {
  const all = values(command, '-blockdev').map((text) => JSON.parse(text) as Record<string, unknown>);
  return new Map(all.map((node) => [String(node['node-name']), node]));
}

function refuses(run: () => unknown, code: string, words: RegExp): void {
  assert.throws(run, (error) => error instanceof LodgeError && error.code === code && words.test(error.message));
}

suite('the machine', () => {
  test('every guest begins stopped, without defaults, in the sandbox', () => {
    const command = buildCommand(define(), tcg);
    assert.equal(command.argv[0], '/usr/bin/qemu-system-x86_64');
    for (const flag of ['-nodefaults', '-no-user-config', '-S']) assert.ok(command.argv.includes(flag), flag);
    assert.equal(value(command, '-sandbox'), 'on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny');
    assert.equal(value(command, '-action'), 'reboot=reset,shutdown=pause,panic=pause');
    assert.equal(value(command, '-uuid'), '0198a1b2-0000-7000-8000-000000000001');
    assert.equal(value(command, '-m'), 'size=512M');
    assert.deepEqual(values(command, '-incoming'), []);
  });

  test('each type gets its newest version, and what only it has', () => {
    assert.equal(value(buildCommand(define(), tcg), '-machine'), 'pc-q35-10.0,vmport=off,hpet=on');
    assert.equal(value(buildCommand(define({ machine: 'pc' }), tcg), '-machine'), 'pc-i440fx-10.0,vmport=off,hpet=on');
    const microvm = buildCommand(define({ machine: 'microvm' }, { firmware: 'direct' }), tcg);
    assert.match(value(microvm, '-machine'), /^microvm,acpi=on,pit=on,pic=off,/);
    assert.ok(values(microvm, '-device').every((text) => !text.includes('-pci') && !text.includes('addr=')));
    assert.deepEqual(values(microvm, '-global'), []);
  });

  test('a pinned version stays when QEMU has a newer one', () => {
    const first = buildCommand(define(), tcg).pinned;
    const pinned: VmPinned = { ...first, machine: 'pc-q35-9.2', qemuVersion: '9.2.0' };
    const command = buildCommand(define({}, { pinned }), tcg);
    assert.match(value(command, '-machine'), /^pc-q35-9\.2,/);
    assert.equal(command.pinned.machine, 'pc-q35-9.2');
    assert.equal(command.pinned.qemuVersion, '10.0.2', 'which QEMU runs it is what is observed');
  });

  test('a pinned version gives way to another type, or when QEMU has dropped it', () => {
    const pinned: VmPinned = { ...buildCommand(define(), tcg).pinned, machine: 'pc-q35-9.2' };
    assert.match(value(buildCommand(define({ machine: 'pc' }, { pinned }), tcg), '-machine'), /^pc-i440fx-10\.0,/);
    const dropped: VmPinned = { ...pinned, machine: 'pc-q35-2.4' };
    assert.match(value(buildCommand(define({}, { pinned: dropped }), tcg), '-machine'), /^pc-q35-10\.0,/);
  });

  test('saved memory is not put into another machine', () => {
    const pinned: VmPinned = { ...buildCommand(define(), tcg).pinned, machine: 'pc-q35-2.4' };
    const restoring = { ...tcg, isRestoring: true };
    refuses(() => buildCommand(define({}, { pinned }), restoring), 'unsupported', /web1.*pc-q35-2\.4/);
    const kept = buildCommand(define({}, { pinned: { ...pinned, machine: 'pc-q35-9.2' } }), restoring);
    assert.equal(value(kept, '-incoming'), 'defer');
  });

  test('vCPUs are one socket unless a topology is given', () => {
    const smp = (cpu: VmSpecInput['cpu']): string => value(buildCommand(define({ cpu }), tcg), '-smp');
    assert.equal(smp({ count: 4 }), 'cpus=4,sockets=1,cores=4,threads=1');
    assert.equal(smp({ count: 8, sockets: 2, threadsPerCore: 2 }), 'cpus=8,sockets=2,cores=2,threads=2');
  });
});

suite('the accelerator', () => {
  test('emulation runs its vCPUs in threads', () => {
    const command = buildCommand(define(), tcg);
    assert.equal(value(command, '-accel'), 'tcg,thread=multi');
    assert.equal(value(command, '-cpu'), 'max');
    assert.deepEqual(command.files, []);
  });

  test('KVM comes in as a descriptor, since the guest’s user can not open it', () => {
    const command = buildCommand(define(), kvm);
    assert.equal(value(command, '-accel'), 'kvm,device=/dev/fdset/10');
    assert.deepEqual(command.files, [{ path: '/dev/kvm', mode: 'rw', fd: 10 }]);
    assert.deepEqual(values(command, '-add-fd'), ['fd=10,set=10,opaque=/dev/kvm']);
    assert.equal(command.pinned.cpuModel, 'host');
    assert.equal(command.pinned.rung, 'kvm');
  });

  test('a pinned CPU model stays as long as the choice is Lodge’s and the accelerator the same', () => {
    const pinned: VmPinned = { ...buildCommand(define(), kvm).pinned, cpuModel: 'host,-arch-capabilities' };
    const cpu = (spec: VmSpecInput, context: CommandContext): string =>
      buildCommand(define(spec, { pinned }), context).pinned.cpuModel;
    assert.equal(cpu({}, kvm), 'host,-arch-capabilities');
    assert.equal(cpu({}, tcg), 'max');
    assert.equal(cpu({ cpu: { model: 'Skylake-Server' } }, kvm), 'Skylake-Server');
    assert.equal(cpu({ cpu: { disable: ['avx2'] } }, kvm), 'host,avx2=off');
  });
});

suite('identity', () => {
  const generationId = '11111111-2222-4333-8444-555555555555';

  test('the UUID is the VM’s id unless SMBIOS is given one', () => {
    assert.equal(value(buildCommand(define(), tcg), '-uuid'), '0198a1b2-0000-7000-8000-000000000001');
    const command = buildCommand(define({ smbios: { uuid: generationId } }), tcg);
    assert.equal(value(command, '-uuid'), generationId);
    assert.deepEqual(values(command, '-smbios'), []);
  });

  test('SMBIOS fields go into their tables, with commas written twice', () => {
    const smbios = { manufacturer: 'ACME, Inc.', serial: 'S1', assetTag: 'A7', oemStrings: ['a=1,2', 'b'] };
    assert.deepEqual(values(buildCommand(define({ smbios }), tcg), '-smbios'), [
      'type=1,manufacturer=ACME,, Inc.,serial=S1',
      'type=2,manufacturer=ACME,, Inc.,serial=S1,asset=A7',
      'type=3,manufacturer=ACME,, Inc.,serial=S1,asset=A7',
      'type=11,value=a=1,,2,value=b',
    ]);
  });

  test('a guest is told its generation, but for a microvm, and one restored from memory without it', () => {
    const told = (definition: GuestDefinition, isRestoring = false): boolean =>
      values(buildCommand(definition, { ...tcg, isRestoring }), '-device').some(
        (text) => text === `vmgenid,id=generation0,guid=${generationId}`,
      );
    assert.ok(told(define({}, { generationId })));
    assert.ok(!told(define({}, { generationId: null })));
    assert.ok(!told(define({ machine: 'microvm' }, { generationId, firmware: 'direct' })));
    assert.ok(!told(define({}, { generationId }), true));
    const { pinned } = buildCommand(define({}, { generationId }), tcg);
    assert.ok(told(define({}, { generationId, pinned }), true));
  });
});

suite('firmware', () => {
  test('UEFI gets its code read-only and the VM’s own variables as a descriptor', () => {
    const command = buildCommand(define({}, { firmware: 'uefi' }), { ...tcg, uefiVariablesPath: '/vms/1/vars.fd' });
    assert.match(value(command, '-machine'), /,pflash0=uefi-code,pflash1=uefi-variables$/);
    assert.equal(nodes(command).get('uefi-code-file')?.['read-only'], true);
    assert.deepEqual(command.files, [{ path: '/vms/1/vars.fd', mode: 'rw', fd: 10 }]);
    assert.equal(nodes(command).get('uefi-variables-file')?.['filename'], '/dev/fdset/10');
  });

  test('Secure Boot has its own code, and flash that only system management mode writes', () => {
    const secure = define({ firmware: { secureBoot: {} } }, { firmware: 'uefi' });
    const command = buildCommand(secure, { ...tcg, uefiVariablesPath: '/vms/1/vars.fd' });
    assert.match(value(command, '-machine'), /,smm=on,pflash0=/);
    assert.ok(values(command, '-global').includes('driver=cfi.pflash01,property=secure,value=on'));
    assert.equal(nodes(command).get('uefi-code-file')?.['filename'], '/usr/share/OVMF/OVMF_CODE_4M.secboot.fd');
    const plain = buildCommand(define({}, { firmware: 'uefi' }), { ...tcg, uefiVariablesPath: '/vms/1/vars.fd' });
    assert.doesNotMatch(plain.argv.join(' '), /smm=|cfi\.pflash01/);
  });

  test('a TPM is reached by the interface that the machine’s guests look for', () => {
    const tpm = { isEnabled: true };
    assert.equal(device(buildCommand(define({ tpm }), tcg), 'tpm0'), 'tpm-crb,id=tpm0,tpmdev=tpm-backend');
    assert.match(device(buildCommand(define({ tpm, machine: 'pc' }), tcg), 'tpm0'), /^tpm-tis,/);
    assert.deepEqual(values(buildCommand(define({ tpm: { isEnabled: false } }), tcg), '-tpmdev'), []);
  });

  test('a boot menu is there when it is asked for', () => {
    assert.equal(value(buildCommand(define(), tcg), '-boot'), 'strict=on');
    const command = buildCommand(define({ firmware: { hasBootMenu: true } }), tcg);
    assert.equal(value(command, '-boot'), 'strict=on,menu=on,splash-time=5000');
  });

  test('UEFI without firmware is refused', () => {
    const context = { ...tcg, installation: { ...installation, uefi: null } };
    refuses(() => buildCommand(define({}, { firmware: 'uefi' }), context), 'unsupported', /UEFI/);
  });

  test('direct boot passes kernel and initramfs in, and the command line as it is', () => {
    const kernel = { kernelPath: '/i/vmlinux', initramfsPath: '/i/initramfs', commandLine: 'console=ttyS0 a,b="c d"' };
    const command = buildCommand(define({}, { firmware: 'direct', kernel }), tcg);
    assert.equal(value(command, '-kernel'), '/proc/self/fd/10');
    assert.equal(value(command, '-initrd'), '/proc/self/fd/11');
    assert.equal(value(command, '-append'), 'console=ttyS0 a,b="c d"');
    assert.deepEqual(
      command.files.map(({ path, mode }) => [path, mode]),
      [
        ['/i/vmlinux', 'ro'],
        ['/i/initramfs', 'ro'],
      ],
    );
    const microvm = buildCommand(define({ machine: 'microvm' }, { firmware: 'direct', kernel }), tcg);
    assert.match(value(microvm, '-append'), / tsc_early_khz=2000000$/);
  });

  test('a guest that boots its own way has a display, a kernel has none unless it is asked for', () => {
    const hasDisplay = (spec: VmSpecInput, firmware: GuestDefinition['firmware']): boolean =>
      values(buildCommand(define(spec, { firmware }), tcg), '-vnc').length > 0;
    assert.equal(hasDisplay({}, 'bios'), true);
    assert.equal(hasDisplay({ display: 'none' }, 'bios'), false);
    assert.equal(hasDisplay({}, 'direct'), false);
    assert.equal(hasDisplay({ display: 'vnc' }, 'direct'), true);
    assert.equal(value(buildCommand(define(), tcg), '-vnc'), 'unix:vnc.sock');
    assert.equal(value(buildCommand(define({ display: 'none' }), tcg), '-display'), 'none');
  });
});

suite('disks', () => {
  test('each bus has its device', () => {
    const on = (bus: GuestDisk['bus'], machine: 'q35' | 'pc' = 'q35'): string =>
      device(buildCommand(define({ machine }, { disks: [disk('root', { bus })] }), tcg), 'disk-root');
    assert.match(on('virtio'), /^virtio-blk-pci,.*drive=l[0-9a-f]{24},bootindex=1,num-queues=1,/);
    assert.match(on('scsi'), /^scsi-hd,bus=scsi0\.0,/);
    assert.match(on('nvme'), /^nvme,.*serial=root/);
    assert.match(on('sata'), /^ide-hd,bus=ide\.0,/);
    assert.match(on('sata', 'pc'), /^ide-hd,bus=ahci0\.0,/);
    assert.match(on('ide', 'pc'), /^ide-hd,bus=ide\.0,unit=0,/);
    refuses(() => on('ide'), 'unsupported', /IDE/);
  });

  test('the layers are one graph, only its top is written, and no image leads anywhere else', () => {
    const layers = [
      { path: '/v/top', format: 'qcow2' },
      { path: '/v/base', format: 'qcow2' },
      { path: '/v/raw', format: 'raw' },
    ] as const;
    const command = buildCommand(define({}, { disks: [disk('root', { layers: [...layers] })] }), tcg);
    const graph = nodes(command);
    const [top, base, raw] = layers.map(({ path }) => layerNode('root', path)) as [string, string, string];
    assert.equal(graph.get(top)?.['backing'], base);
    assert.equal(graph.get(base)?.['backing'], raw);
    assert.ok(!('backing' in graph.get(raw)!));
    assert.deepEqual(
      [top, base, raw].map((name) => graph.get(name)?.['read-only']),
      [false, true, true],
    );
    assert.ok([...graph.keys()].every((name) => Buffer.byteLength(name) <= 31));
    assert.deepEqual(
      command.files.map(({ path, mode }) => [path, mode]),
      [
        ['/v/raw', 'ro'],
        ['/v/base', 'ro'],
        ['/v/top', 'rw'],
      ],
    );
    const only = disk('root');
    const alone = nodes(buildCommand(define({}, { disks: [only] }), tcg)).get(layerNode('root', only.layers[0]!.path));
    assert.equal(alone?.['backing'], null, 'an image’s own record of a backing file is not followed');
    const files = [...graph.values()].filter((node) => node['driver'] === 'file');
    for (const { filename } of files) assert.match(filename as string, /^\/dev\/fdset\/\d+$/);
  });

  test('cache modes are those of QEMU', () => {
    const node = (cache: GuestDisk['cache']): unknown =>
      nodes(buildCommand(define({}, { disks: [disk('root', { cache })] }), tcg)).get(
        layerNode('root', disk('root').layers[0]!.path),
      )?.['cache'];
    assert.deepEqual(node('none'), { direct: true, 'no-flush': false });
    assert.deepEqual(node('writeback'), { direct: false, 'no-flush': false });
    assert.deepEqual(node('unsafe'), { direct: false, 'no-flush': true });
    const none = buildCommand(define({}, { disks: [disk('root', { cache: 'none' })] }), tcg);
    assert.deepEqual(
      none.files.map(({ mode }) => mode),
      ['rw-direct'],
      'QEMU takes no descriptor without O_DIRECT for it',
    );
    const through = buildCommand(define({}, { disks: [disk('root', { cache: 'writethrough' })] }), tcg);
    assert.match(device(through, 'disk-root'), /write-cache=off/);
  });

  test('a CD-ROM is read-only, may be empty, and goes where its machine has one', () => {
    const cdrom = disk('cd', { device: 'cdrom', bus: 'sata', layers: [{ path: '/i/x.iso', format: 'raw' }] });
    const command = buildCommand(define({}, { disks: [cdrom] }), tcg);
    assert.match(device(command, 'disk-cd'), /^ide-cd,bus=ide\.0,/);
    assert.deepEqual(command.files, [{ path: '/i/x.iso', mode: 'ro', fd: 10 }]);
    const empty = buildCommand(define({ machine: 'pc' }, { disks: [{ ...cdrom, bus: 'ide', layers: [] }] }), tcg);
    assert.match(device(empty, 'disk-cd'), /^ide-cd,bus=ide\.0,unit=0,/);
    assert.doesNotMatch(device(empty, 'disk-cd'), /drive=/);
  });

  test('as many as the contract allows have their places', () => {
    const many = (bus: GuestDisk['bus'], machine: 'q35' | 'pc' = 'q35'): string[] => {
      const disks = Array.from({ length: 64 }, (_, index) => disk(`d${index}`, { bus }));
      const command = buildCommand(define({ machine }, { disks }), tcg);
      return disks.map(({ name }) => device(command, `disk-${name}`));
    };
    for (const bus of ['virtio', 'nvme'] as const) {
      const places = many(bus).map((text) => /bus=([^,]+,addr=[^,]+)/.exec(text)?.[1]);
      assert.equal(new Set(places).size, 64);
      assert.deepEqual(
        [places[0], places[30], places[31], places[63]],
        ['hotplug,addr=0x1', 'hotplug,addr=0x1f', 'pcie.0,addr=0x10.0x0', 'pcie.0,addr=0x14.0x0'],
      );
    }
    for (const machine of ['q35', 'pc'] as const)
      assert.equal(new Set(many('sata', machine).map((text) => /bus=([^,]+)/.exec(text)?.[1])).size, 64);
  });

  test('a PC has four IDE drives', () => {
    const disks = (count: number): GuestDisk[] =>
      Array.from({ length: count }, (_, index) => disk(`d${index}`, { bus: 'ide' }));
    const four = buildCommand(define({ machine: 'pc' }, { disks: disks(4) }), tcg);
    assert.match(device(four, 'disk-d3'), /bus=ide\.1,unit=1/);
    refuses(() => buildCommand(define({ machine: 'pc' }, { disks: disks(5) }), tcg), 'unsupported', /four|4/);
  });

  test('the name of a disk is found by its device, for what QEMU says about it', () => {
    assert.equal(diskOfDevice('/machine/peripheral/disk-data/virtio-backend'), 'data');
    assert.equal(diskOfDevice('/machine/peripheral/disk-cd'), 'cd');
    assert.equal(diskOfDevice('/machine/peripheral/nic-525400000001'), null);
  });
});

suite('NICs', () => {
  test('a tap is a descriptor, and vhost is used where it helps', () => {
    const command = buildCommand(define({}, { nics: [nic(1)] }), tcg);
    assert.deepEqual(command.taps, [{ name: 'tap1', fd: 10 }]);
    assert.equal(value(command, '-netdev'), 'tap,id=net-525400000001,fd=10');
    assert.match(
      device(command, 'nic-525400000001'),
      /^virtio-net-pci,.*mac=52:54:00:00:00:01,host_mtu=1500,romfile=,/,
    );
    const fast = buildCommand(define({}, { nics: [nic(1)] }), kvm);
    assert.equal(value(fast, '-netdev'), 'tap,id=net-525400000001,fd=11,vhost=on,vhostfd=12');
    assert.deepEqual(fast.files.at(-1), { path: '/dev/vhost-net', mode: 'rw', fd: 12 });
    const emulated = buildCommand(define({}, { nics: [nic(1, { model: 'e1000e' })] }), kvm);
    assert.equal(value(emulated, '-netdev'), 'tap,id=net-525400000001,fd=11');
    assert.match(device(emulated, 'nic-525400000001'), /^e1000e,.*romfile=,/);
    assert.doesNotMatch(device(emulated, 'nic-525400000001'), /host_mtu/);
  });

  test('several queues are several descriptors of one tap, each with its own vhost', () => {
    const command = buildCommand(define({}, { nics: [nic(1, { queues: 3 }), nic(2)] }), kvm);
    assert.deepEqual(command.taps, [
      { name: 'tap1', fd: 11, queues: 3 },
      { name: 'tap2', fd: 17 },
    ]);
    assert.equal(values(command, '-netdev')[0], 'tap,id=net-525400000001,fds=11:12:13,vhost=on,vhostfds=14:15:16');
    assert.match(device(command, 'nic-525400000001'), /,mq=on,vectors=8,/);
    assert.doesNotMatch(device(command, 'nic-525400000002'), /mq=/);
    const descriptors = command.taps.flatMap(({ fd, queues = 1 }) => Array.from({ length: queues }, (_, n) => fd + n));
    const all = [...command.files.map(({ fd }) => fd), ...descriptors];
    assert.equal(new Set(all).size, all.length, 'every descriptor is given out once');
  });

  test('a user-mode network needs nothing of the host', () => {
    const attachment = {
      kind: 'user',
      ipv4Cidr: '10.0.2.0/24',
      dnsDomain: 'lodge.internal',
      hostname: 'web1',
    } as const;
    const command = buildCommand(define({}, { nics: [nic(1, { attachment })] }), tcg);
    assert.equal(
      value(command, '-netdev'),
      'user,id=net-525400000001,net=10.0.2.0/24,domainname=lodge.internal,hostname=web1',
    );
    assert.deepEqual([command.taps, command.files], [[], []]);
  });

  test('a NIC keeps its place when disks and other NICs come and go', () => {
    const build = (disks: number, nics: number, pinned: VmPinned | null): QemuCommand =>
      buildCommand(
        define(
          {},
          {
            disks: Array.from({ length: disks }, (_, index) => disk(`d${index}`)),
            nics: Array.from({ length: nics }, (_, index) => nic(index % 10)).map((one, index) => ({
              ...one,
              mac: `52:54:00:00:00:${(index + 16).toString(16)}`,
            })),
            pinned,
          },
        ),
        tcg,
      );
    const before = build(1, 1, null);
    const after = build(20, 32, before.pinned);
    for (const id of ['nic-525400000010', 'disk-d0', 'balloon0', 'virtio-serial0'])
      assert.equal(place(after, id), place(before, id), id);
    const places = values(after, '-device').flatMap((text) => /id=nic-.*,(bus=\S+)$/.exec(text)?.[1] ?? []);
    assert.equal(new Set(places).size, 32);
  });
});

suite('room to grow', () => {
  const room = { vcpus: 4, memoryMib: 2048 };

  test('is on the command line, but for a microvm, which has none', () => {
    const command = buildCommand(define({ cpu: { count: 2 } }, { room }), tcg);
    assert.equal(value(command, '-smp'), 'cpus=2,maxcpus=4,sockets=1,cores=4,threads=1');
    assert.equal(value(command, '-m'), 'size=512M,maxmem=2048M');
    const odd = buildCommand(define({ memoryMib: 100 }, { room: { vcpus: 1, memoryMib: 200 } }), tcg);
    assert.equal(value(odd, '-m'), 'size=100M,maxmem=228M', 'it grows by whole blocks');
    assert.match(device(command, 'hotplug'), /^pcie-pci-bridge,id=hotplug,bus=pcie\.0,addr=0x7$/);
    assert.match(device(buildCommand(define({ machine: 'pc' }, { room }), tcg), 'hotplug'), /^pci-bridge,.*bus=pci\.0/);
    const microvm = buildCommand(define({ machine: 'microvm' }, { room, firmware: 'direct' }), tcg);
    assert.equal(value(microvm, '-m'), 'size=512M');
    assert.equal(value(microvm, '-smp'), 'cpus=1,sockets=1,cores=1,threads=1');
    assert.ok(!values(microvm, '-device').some((text) => text.includes('hotplug')));
    assert.ok(!values(command, '-device').some((text) => text.startsWith('virtio-mem')), 'it costs nothing until used');
  });

  test('of a guest that is restored is what it was saved with, at the same places', () => {
    const first = buildCommand(define({}, { room, disks: [disk('root')], nics: [nic(1)] }), tcg).pinned;
    const hotplug = first.hotplug!;
    const targets = { 'usb-pointer': 2, 'disk-stick': 4 };
    const pinned = {
      ...first,
      hotplug: { ...hotplug, slots: { ...hotplug.slots, memory0: 7, usb: 9, 'disk-data': 8 }, targets },
    };
    const grown: VmSpecInput = { memoryMib: 768, cpu: { count: 3 }, usbDevices: [{ name: 'pointer', type: 'tablet' }] };
    const disks = [disk('root'), disk('data'), disk('stick', { bus: 'usb' })];
    const command = buildCommand(define(grown, { pinned, disks, nics: [nic(1)] }), { ...tcg, isRestoring: true });
    assert.equal(value(command, '-m'), 'size=512M,maxmem=2048M');
    assert.match(value(command, '-smp'), /^cpus=3,maxcpus=4/);
    assert.match(device(command, 'memory0'), /^virtio-mem-pci,.*requested-size=256M,bus=hotplug,addr=0x7$/);
    assert.match(device(command, 'disk-data'), /num-queues=1,.*bus=hotplug,addr=0x8$/);
    assert.match(device(command, 'usb'), /^qemu-xhci,id=usb,p2=8,p3=8,bus=hotplug,addr=0x9$/);
    assert.match(device(command, 'disk-stick'), /^usb-storage,bus=usb\.0,id=disk-stick,serial=stick,.*port=4$/);
    assert.match(device(command, 'usb-pointer'), /^usb-tablet,id=usb-pointer,bus=usb\.0,port=2$/);
    const afresh = buildCommand(define(grown, { pinned, room, disks: [disk('data')], nics: [nic(1)] }), tcg);
    assert.equal(value(afresh, '-m'), 'size=768M,maxmem=2048M');
    assert.match(device(afresh, 'disk-data'), /addr=0x8$/, 'what has a place keeps it');
    assert.ok(!values(afresh, '-device').some((text) => text.startsWith('virtio-mem')));
  });
});

suite('microvm', () => {
  const kernel = { kernelPath: '/i/vmlinux', initramfsPath: null, commandLine: '' };
  const build = (disks: number, nics: number): QemuCommand =>
    buildCommand(
      define(
        { machine: 'microvm' },
        {
          firmware: 'direct',
          kernel,
          disks: Array.from({ length: disks }, (_, index) => disk(`d${index}`)),
          nics: Array.from({ length: nics }, (_, index) => nic(index % 10)),
        },
      ),
      tcg,
    );

  test('every device has a transport of its own', () => {
    const transports = values(build(11, 10), '-device').flatMap(
      (text) => /bus=(virtio-mmio-bus\.\d+)/.exec(text)?.[1] ?? [],
    );
    // All 24 but that of the random number device, which an emulated microvm doesn't have.
    assert.equal(transports.length, 23);
    assert.equal(new Set(transports).size, 23);
  });

  test('what has no room, or no form there, is refused', () => {
    refuses(() => build(12, 10), 'unsupported', /room for 21/);
    const spec = { machine: 'microvm' } as const;
    const wrong = { firmware: 'direct', kernel } as const;
    refuses(
      () => buildCommand(define(spec, { ...wrong, disks: [disk('a', { bus: 'sata' })] }), tcg),
      'unsupported',
      /sata/,
    );
    refuses(
      () => buildCommand(define(spec, { ...wrong, nics: [nic(1, { model: 'e1000' })] }), tcg),
      'unsupported',
      /e1000/,
    );
  });
});

test('the agent’s channel is there unless it is not wanted', () => {
  assert.match(device(buildCommand(define(), tcg), 'agent'), /^virtserialport,.*name=org\.qemu\.guest_agent\.0$/);
  const without = buildCommand(define({ hasAgentChannel: false }), tcg);
  assert.ok(values(without, '-device').every((text) => !text.startsWith('virtserialport')));
});

test('what the guest was started with is pinned as a whole', () => {
  const command = buildCommand(define({}, { disks: [disk('root')], nics: [nic(1)] }), kvm);
  assert.deepEqual(command.pinned.arguments, command.argv);
  assert.equal(command.pinned.acceleratorReason, 'It works.');
  const descriptors = [...command.files, ...command.taps].map(({ fd }) => fd);
  assert.equal(new Set(descriptors).size, descriptors.length, 'every descriptor is given out once');
  assert.ok(descriptors.every((fd) => fd >= 10));
});

test('the serial console is logged beside its socket where QEMU can do that, else by the socket', () => {
  const serial = (chardevKinds: ReadonlySet<string>): string[] =>
    values(buildCommand(define(), { ...tcg, installation: { ...installation, chardevKinds } }), '-chardev').filter(
      (text) => text.includes('id=serial0'),
    );
  assert.deepEqual(serial(installation.chardevKinds), [
    'socket,id=serial0-socket,server=on,wait=off,path=serial.sock',
    'ringbuf,id=serial0-log,size=1024,logfile=serial.log,logappend=on',
    'hub,id=serial0,chardevs.0=serial0-socket,chardevs.1=serial0-log',
  ]);
  assert.deepEqual(serial(new Set(['socket', 'ringbuf'])), [
    'socket,id=serial0,server=on,wait=off,path=serial.sock,logfile=serial.log,logappend=on',
  ]);
});
