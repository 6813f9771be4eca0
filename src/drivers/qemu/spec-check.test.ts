import assert from 'node:assert/strict';
import { test } from 'node:test';
import { LodgeError } from '../../api/errors.ts';
import { vmSpec, type VmSpecInput } from '../../api/vm-spec.ts';
import { plainHardware } from '../driver.conformance.ts';
import { checkSpec } from './spec-check.ts';

const installation: Parameters<typeof checkSpec>[2] = {
  version: '10.0.2',
  chardevKinds: new Set(['qemu-vdagent']),
  machines: new Map([
    ['q35', 'pc-q35-10.0'],
    ['pc', 'pc-i440fx-10.0'],
    ['microvm', 'microvm'],
  ]),
  cpuModels: ['qemu64'],
  cpuFeatures: new Set(['avx2', 'lahf-lm', 'sse4.1']),
  deviceModels: new Set(
    (
      'virtio-blk-pci virtio-scsi-pci scsi-hd scsi-cd ich9-ahci ide-hd ide-cd nvme virtio-net-pci e1000e e1000 rtl8139 ' +
      'VGA virtio-vga usb-kbd usb-tablet virtio-keyboard-pci virtio-tablet-pci qemu-xhci virtio-rng-pci ' +
      'virtio-balloon-pci pvpanic-pci virtio-serial-pci virtserialport isa-serial virtio-net-device virtio-blk-device ' +
      'virtio-serial-device virtio-balloon-device virtio-rng-device tpm-crb'
    ).split(' '),
  ),
  swtpmPath: '/usr/bin/swtpm',
  virtiofsdPath: '/usr/libexec/virtiofsd',
  uefi: {
    codePath: '/code',
    variablesPath: '/vars',
    secureBoot: { codePath: '/secure', variablesPath: '/vars', microsoftVariablesPath: '/microsoft' },
  },
};

/** The field that the refusal names. */
function refusedField(spec: VmSpecInput, given = installation): string | null {
  try {
    const parsed = vmSpec.parse(spec);
    checkSpec(parsed, plainHardware(parsed), given);
    return null;
  } catch (error) {
    assert.ok(error instanceof LodgeError);
    assert.notEqual(error.hint, '');
    assert.equal(error.fields?.length, 1);
    return error.fields[0]!.field;
  }
}

test('what QEMU can do passes', () => {
  const specs: VmSpecInput[] = [
    {},
    { cpu: { model: 'x86-64-v3', enable: ['avx2', 'lahf_lm'], disable: ['sse4.1'] } },
    { cpu: { count: 8, sockets: 2, coresPerSocket: 2, threadsPerCore: 2 } },
    {
      machine: 'pc',
      disks: [
        { name: 'a', bus: 'ide' },
        { name: 'b', device: 'cdrom' },
      ],
    },
    { machine: 'microvm', disks: [{ name: 'a' }, { name: 'b' }] },
    { firmware: { type: 'uefi' } },
    { disks: Array.from({ length: 64 }, (_, index) => ({ name: `d${index}` })) },
  ];
  for (const spec of specs) assert.equal(refusedField(spec), null, JSON.stringify(spec));
});

test('what it can not do is refused with the name of the field', () => {
  const cases: [VmSpecInput, string][] = [
    [{ cpu: { model: 'nonsense' } }, 'spec.cpu.model'],
    [{ cpu: { enable: ['avx2', 'nonsense'] } }, 'spec.cpu.enable.1'],
    [{ cpu: { disable: ['nonsense'] } }, 'spec.cpu.disable.0'],
    [{ cpu: { count: 4, sockets: 3 } }, 'spec.cpu'],
    [{ cpu: { count: 4, coresPerSocket: 8 } }, 'spec.cpu'],
    [{ machine: 'pc', cpu: { count: 256 } }, 'spec.cpu.count'],
    [{ machine: 'microvm', cpu: { count: 289 } }, 'spec.cpu.count'],
    [{ disks: [{ name: 'a' }, { name: 'b', bus: 'ide' }] }, 'spec.disks.1.bus'],
    [
      {
        machine: 'pc',
        disks: Array.from({ length: 5 }, (_, index) => ({ name: `d${index}`, bus: 'ide' as const })),
      },
      'spec.disks.4.bus',
    ],
    [{ machine: 'microvm', usb: 'xhci' }, 'spec.usb'],
    [{ machine: 'microvm', agentChannel: 'isa-serial' }, 'spec.agentChannel'],
    [{ usb: 'uhci' }, 'spec.usb'],
    [{ usb: 'none', input: 'usb' }, 'spec.input'],
    [{ machine: 'microvm', nics: [{}, { model: 'rtl8139' }] }, 'spec.nics.1.model'],
    [{ machine: 'microvm', disks: [{ name: 'a', device: 'cdrom' }] }, 'spec.disks.0.device'],
    [{ machine: 'microvm', disks: [{ name: 'a', bus: 'scsi' }] }, 'spec.disks.0.bus'],
    [{ machine: 'microvm', nics: Array.from({ length: 22 }, () => ({})) }, 'spec.nics'],
    [{ machine: 'microvm', firmware: { type: 'bios' } }, 'spec.firmware.type'],
    [{ machine: 'microvm', display: 'vnc' }, 'spec.display'],
    [{ machine: 'microvm', tpm: {} }, 'spec.tpm.isEnabled'],
    [{ machine: 'pc', tpm: {} }, 'spec.tpm.isEnabled'],
    [{ machine: 'pc', firmware: { secureBoot: {} } }, 'spec.machine'],
  ];
  for (const [spec, field] of cases) assert.equal(refusedField(spec), field, JSON.stringify(spec));
});

test('what is not installed is refused with what to install', () => {
  assert.equal(refusedField({ firmware: { type: 'uefi' } }, { ...installation, uefi: null }), 'spec.firmware.type');
  const withClipboard = { hasClipboard: true, display: 'vnc' } as const;
  assert.equal(refusedField(withClipboard), null);
  assert.equal(refusedField({ hasClipboard: true, machine: 'microvm' }), 'spec.hasClipboard');
  assert.equal(refusedField(withClipboard, { ...installation, chardevKinds: new Set() }), 'spec.hasClipboard');
  assert.equal(refusedField({ tpm: {} }), null);
  assert.equal(refusedField({ tpm: {} }, { ...installation, swtpmPath: null }), 'spec.tpm.isEnabled');
  const uefi = { codePath: '/code', variablesPath: '/vars', secureBoot: null };
  const secure = { firmware: { secureBoot: {} } };
  assert.equal(refusedField(secure, { ...installation, uefi }), 'spec.firmware.secureBoot.isEnabled');
  const withoutKeys = { codePath: '/secure', variablesPath: '/vars', microsoftVariablesPath: null };
  assert.equal(
    refusedField(secure, { ...installation, uefi: { ...uefi, secureBoot: withoutKeys } }),
    'spec.firmware.secureBoot.keys',
  );
  assert.equal(refusedField({}, { ...installation, machines: new Map([['pc', 'pc-i440fx-10.0']]) }), 'spec.machine');
});

test('a CPU model that is not there is refused with those near it', () => {
  const refused = (model: string): string => {
    try {
      const parsed = vmSpec.parse({ cpu: { model } });
      checkSpec(parsed, plainHardware(parsed), {
        ...installation,
        cpuModels: ['qemu64', 'EPYC', 'EPYC-Milan', 'EPYC-Rome', 'Skylake-Server', 'Skylake-Client'],
      });
      return '';
    } catch (error) {
      return (error as Error).message;
    }
  };
  assert.match(refused('epyc'), /near it are EPYC, EPYC-Milan, EPYC-Rome; lodge node show/);
  assert.match(refused('Skylake'), /near it are Skylake-Server, Skylake-Client;/);
  assert.match(refused('x86-64-v33'), /near it are x86-64-v3[,;]/);
  assert.match(refused('foo'), /of this name; lodge node show/);
});
