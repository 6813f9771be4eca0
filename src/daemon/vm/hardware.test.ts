import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { type Image } from '../../api/image.ts';
import { vmSpec, type VmSpec, type VmSpecInput } from '../../api/vm-spec.ts';
import { LodgeError } from '../../api/errors.ts';
import { initialImageStatus } from '../image/image-service.ts';
import { assignMacs, bytesOf, checkSpec, chooseFirmware, effectiveDisks, newMac } from './hardware.ts';

const spec = (input: VmSpecInput): VmSpec => vmSpec.parse(input);

function image(status: Partial<Image['status']>): Image {
  return {
    id: '01a205b2-725c-77b1-b90b-9f32b4e2f99f',
    name: 'base',
    project: 'default',
    labels: {},
    spec: { description: '', source: { type: 'build', recipe: 'tiny' }, os: 'linux', minMemoryMib: 0 },
    status: {
      ...initialImageStatus(),
      state: 'ready',
      kind: 'disk',
      firmware: ['uefi', 'bios'],
      format: 'qcow2',
      virtualSizeMib: 2048,
      ...status,
    },
    revision: 1,
    createdAt: '2026-01-01T00:00:00.000Z',
  };
}

const refuses = (work: () => unknown, field: string): void => {
  assert.throws(
    work,
    (error: unknown) =>
      error instanceof LodgeError && error.code === 'invalid_request' && error.fields?.[0]?.field === field,
  );
};

describe('MAC addresses', () => {
  it('are made in the range of KVM and not twice', () => {
    const bytes = [Uint8Array.of(1, 2, 3), Uint8Array.of(4, 5, 6)];
    assert.equal(
      newMac(new Set(['52:54:00:01:02:03']), () => bytes.shift()!),
      '52:54:00:04:05:06',
    );
  });

  it('stay what they were, and a given one comes first', () => {
    const nics = spec({ nics: [{ mac: '52:54:00:00:00:01' }, {}, {}] }).nics;
    const network = 'default';
    const before = ['52:54:00:aa:aa:aa', '52:54:00:bb:bb:bb'].map((mac) => ({ mac, network }));
    const macs = assignMacs(nics, before, new Set());
    assert.deepEqual(macs.slice(0, 2), ['52:54:00:00:00:01', '52:54:00:bb:bb:bb']);
    assert.match(macs[2]!, /^52:54:00/);
    assert.equal(new Set(macs).size, 3);
  });

  it('follow their network when a NIC before them is taken out, and their place when their network changes', () => {
    const before = [
      { mac: '52:54:00:aa:aa:aa', network: 'front' },
      { mac: '52:54:00:bb:bb:bb', network: 'back' },
    ];
    const of = (...networks: string[]): string[] =>
      assignMacs(spec({ nics: networks.map((network) => ({ network })) }).nics, before, new Set());
    assert.deepEqual(of('back'), ['52:54:00:bb:bb:bb']);
    assert.deepEqual(of('other', 'back'), ['52:54:00:aa:aa:aa', '52:54:00:bb:bb:bb']);
    assert.deepEqual(of('back', 'front'), ['52:54:00:bb:bb:bb', '52:54:00:aa:aa:aa']);
  });

  it('of a NIC that is only planned are the same each time, and not those of another', () => {
    const { nics } = spec({ nics: [{}, {}] });
    const once = assignMacs(nics, [], new Set(), bytesOf('web1'));
    assert.deepEqual(assignMacs(nics, [], new Set(), bytesOf('web1')), once);
    assert.notDeepEqual(assignMacs(nics, [], new Set(), bytesOf('web2')), once);
    assert.ok(!assignMacs(nics, [], new Set(once), bytesOf('web1')).some((mac) => once.includes(mac)));
  });
});

describe('The disks of a VM', () => {
  it('begin with a copy of its image', () => {
    const disks = effectiveDisks(spec({ image: 'base', disks: [{ name: 'data', sizeMib: 10 }] }), image({}));
    assert.deepEqual(
      disks.map(({ name, image: from }) => [name, from]),
      [
        ['root', 'base'],
        ['data', undefined],
      ],
    );
  });

  it('use a disk called root for the image, with its size', () => {
    const disks = effectiveDisks(spec({ image: 'base', disks: [{ name: 'root', sizeMib: 20_480 }] }), image({}));
    assert.deepEqual(
      disks.map(({ name, image: from, sizeMib }) => [name, from, sizeMib]),
      [['root', 'base', 20_480]],
    );
  });

  it('are none for an image that is only a kernel, and a CD-ROM for an ISO', () => {
    assert.deepEqual(effectiveDisks(spec({ image: 'base' }), image({ kind: 'kernel' })), []);
    assert.deepEqual(
      effectiveDisks(spec({ image: 'base' }), image({ kind: 'iso' })).map(({ device }) => device),
      ['cdrom'],
    );
  });
});

describe('The firmware', () => {
  it('follows from the image unless it is asked for', () => {
    assert.equal(chooseFirmware(spec({}), image({ kind: 'kernel', firmware: ['direct'] }), true), 'direct');
    assert.equal(chooseFirmware(spec({}), image({}), true), 'uefi');
    assert.equal(chooseFirmware(spec({}), image({}), false), 'bios');
    assert.equal(chooseFirmware(spec({ firmware: { type: 'bios' } }), image({}), true), 'bios');
    assert.equal(chooseFirmware(spec({}), null, true), 'bios');
  });

  it('is refused where the image can not boot by it', () => {
    refuses(() => chooseFirmware(spec({ firmware: { type: 'direct' } }), image({}), true), 'spec.firmware.type');
    refuses(
      () => chooseFirmware(spec({ firmware: { type: 'uefi' } }), image({ firmware: ['bios'] }), true),
      'spec.firmware.type',
    );
    refuses(
      () => chooseFirmware(spec({ firmware: { type: 'uefi' } }), image({ kind: 'kernel' }), true),
      'spec.firmware.type',
    );
    refuses(() => chooseFirmware(spec({ machine: 'microvm' }), null, true), 'spec.machine');
  });
});

describe('A spec', () => {
  it('is refused when two disks or NICs have the same name or address', () => {
    refuses(
      () =>
        checkSpec(
          spec({
            disks: [
              { name: 'a', sizeMib: 1 },
              { name: 'a', sizeMib: 1 },
            ],
          }),
          null,
        ),
      'spec.disks.1.name',
    );
    const mac = '52:54:00:00:00:01';
    refuses(() => checkSpec(spec({ nics: [{ mac }, { mac }] }), null), 'spec.nics.1.mac');
  });

  it('is refused when a new disk has neither size nor image, or a volume has both', () => {
    refuses(() => checkSpec(spec({ disks: [{ name: 'a' }] }), null), 'spec.disks.0.sizeMib');
    refuses(() => checkSpec(spec({ disks: [{ name: 'a', volume: 'v', sizeMib: 1 }] }), null), 'spec.disks.0');
  });

  it('is refused when it places vCPUs that it does not have, or NUMA nodes do not add up', () => {
    const pin = (vcpu: number, cpus = '0'): object => ({ vcpu, cpus });
    const pinned = (...pinning: object[]): VmSpec => spec({ cpu: { count: 2, pinning: pinning as never } });
    assert.doesNotThrow(() => checkSpec(pinned(pin(0), pin(1, '2-3')), null));
    refuses(() => checkSpec(pinned(pin(2)), null), 'spec.cpu.pinning.0.vcpu');
    refuses(() => checkSpec(pinned(pin(1), pin(1)), null), 'spec.cpu.pinning.1.vcpu');
    refuses(() => checkSpec(pinned(pin(0, '3-1')), null), 'spec.cpu.pinning.0.cpus');
    refuses(() => checkSpec(spec({ cpu: { affinity: '9-8' } }), null), 'spec.cpu.affinity');
    const cells = (...of: [vcpus: string, memoryMib: number][]): VmSpec =>
      spec({
        memoryMib: 512,
        cpu: { count: 2 },
        numa: { cells: of.map(([vcpus, memoryMib]) => ({ vcpus, memoryMib })) },
      });
    assert.doesNotThrow(() => checkSpec(cells(['1', 256], ['0', 256]), null));
    refuses(() => checkSpec(cells(['0', 256], ['0', 256]), null), 'spec.numa.cells');
    refuses(() => checkSpec(cells(['0', 256], ['1', 128]), null), 'spec.numa.cells');
  });

  it('is refused with less memory than the image needs, or an image that is not ready', () => {
    refuses(() => checkSpec(spec({ memoryMib: 64 }), image({ minMemoryMib: 128 })), 'spec.memoryMib');
    assert.throws(() => checkSpec(spec({}), image({ state: 'importing' })), { code: 'wrong_state' });
  });

  it('is refused when its room for more, boot order or disk limits contradict themselves', () => {
    refuses(() => checkSpec(spec({ cpu: { count: 4, maxCount: 2 } }), null), 'spec.cpu.maxCount');
    refuses(() => checkSpec(spec({ memoryMib: 512, maxMemoryMib: 256 }), null), 'spec.maxMemoryMib');
    refuses(() => checkSpec(spec({ memoryMib: 512, memoryTargetMib: 600 }), null), 'spec.memoryTargetMib');
    const data = { name: 'data', sizeMib: 1 };
    refuses(
      () => checkSpec(spec({ disks: [{ ...data, bootIndex: 1 }], nics: [{ bootIndex: 1 }] }), null),
      'spec.nics.0.bootIndex',
    );
    const limited = (limits: NonNullable<VmSpecInput['disks']>[number]['limits']) => () =>
      checkSpec(spec({ disks: [{ ...data, limits }] }), null);
    refuses(limited({ iops: 100, readIops: 50 }), 'spec.disks.0.limits.iops');
    refuses(limited({ burst: { iops: 100 } }), 'spec.disks.0.limits.burst.iops');
    refuses(limited({ iops: 100, burst: { iops: 50 } }), 'spec.disks.0.limits.burst.iops');
    limited({ readIops: 100, writeIops: 50, bytesPerSecond: 1, burst: { readIops: 200, lengthS: 5 } })();
  });
});

describe('Secure Boot', () => {
  const secureBoot = (change: object): VmSpec => spec({ firmware: { secureBoot: change } });

  it('means UEFI, and refuses what boots otherwise', () => {
    assert.equal(chooseFirmware(secureBoot({}), null, true), 'uefi');
    assert.equal(chooseFirmware(secureBoot({}), image({}), true), 'uefi');
    assert.equal(chooseFirmware(secureBoot({ isEnabled: false }), null, true), 'bios');
    refuses(
      () => chooseFirmware(secureBoot({}), image({ firmware: ['bios'] }), true),
      'spec.firmware.secureBoot.isEnabled',
    );
    refuses(
      () => chooseFirmware(spec({ firmware: { type: 'bios', secureBoot: {} } }), null, true),
      'spec.firmware.type',
    );
  });

  it('is as little for a directly booted kernel as a TPM', () => {
    refuses(() => checkSpec(spec({ tpm: {} }), image({ kind: 'kernel', firmware: ['direct'] })), 'spec.tpm.isEnabled');
    checkSpec(spec({ tpm: {} }), image({}));
  });

  it('takes certificates that are some, for own keys', () => {
    const noCertificate = '-----BEGIN CERTIFICATE-----\nQUJD\n-----END CERTIFICATE-----';
    const field = 'spec.firmware.secureBoot.ownCertificates';
    refuses(() => checkSpec(secureBoot({ keys: 'own' }), null), field);
    refuses(() => checkSpec(secureBoot({ keys: 'own', ownCertificates: [noCertificate] }), null), `${field}.0`);
    refuses(() => checkSpec(secureBoot({ ownCertificates: [noCertificate] }), null), 'spec.firmware.secureBoot.keys');
    checkSpec(secureBoot({}), null);
  });
});
