import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import { vmSpec, type VmSpecInput } from '../../api/vm-spec.ts';
import { type DeviceReport } from '../../drivers/driver.ts';
import { planChanges, planWithoutGuest, withStep, type ChangePlan, type Configuration } from './change-plan.ts';

const macs = ['52:54:00:00:00:0a', '52:54:00:00:00:0b', '52:54:00:00:00:0c'];

function configuration(input: VmSpecInput): Configuration {
  const spec = vmSpec.parse({ nics: [], ...input });
  return {
    spec,
    disks: spec.disks,
    nics: spec.nics.map((nic, index) => ({ nic, mac: nic.mac ?? macs[index] ?? '' })),
  };
}

/** A guest that can change everything, with room. */
function report(now: Configuration, more: Partial<DeviceReport> = {}): DeviceReport {
  return {
    vcpus: { now: now.spec.cpu.count, least: 1, most: 8, reason: 'It has room for 8 vCPUs.' },
    memory: {
      nowMib: now.spec.memoryMib,
      leastMib: 512,
      mostMib: 2048,
      stepMib: 2,
      reason: 'It has room from 512 to 2048 MiB.',
    },
    balloon: { nowMib: now.spec.memoryMib, reason: '' },
    disks: now.disks.map(({ name }) => ({ name, sizeMib: 10, fixedBy: null })),
    nics: now.nics.map(({ mac }) => ({ mac, fixedBy: null })),
    usbDevices: [],
    room: {
      diskBuses: ['virtio', 'scsi', 'nvme'],
      nicModels: ['virtio'],
      hasUsb: true,
      slots: 4,
      reason: 'Only virtio, scsi and nvme can be added.',
    },
    ...more,
  };
}

function plan(before: VmSpecInput, after: VmSpecInput, more: Partial<DeviceReport> = {}): ChangePlan {
  const now = configuration(before);
  return planChanges(now, configuration(after), report(now, more));
}

const actions = ({ steps }: ChangePlan): unknown[] => steps.map(({ action }) => action);
const waiting = ({ pending }: ChangePlan): [string, string][] => pending.map(({ field, reason }) => [field, reason]);

const data = { name: 'data', sizeMib: 10 };

suite('what changes while a guest runs', () => {
  test('nothing where nothing is asked for, or only what counts at once', () => {
    assert.deepEqual(plan({}, {}), { steps: [], pending: [] });
    const after = { description: 'x', autostart: true, stopTimeoutS: 5, restartPolicy: { mode: 'always' as const } };
    assert.deepEqual(plan({}, after), { steps: [], pending: [] });
  });

  test('vCPUs within the room there is; beyond it they wait, with the number', () => {
    assert.deepEqual(actions(plan({}, { cpu: { count: 8 } })), [{ kind: 'vcpus', count: 8 }]);
    assert.deepEqual(actions(plan({ cpu: { count: 4 } }, { cpu: { count: 2 } })), [{ kind: 'vcpus', count: 2 }]);
    const beyond = plan({}, { cpu: { count: 9 } });
    assert.deepEqual(actions(beyond), []);
    assert.deepEqual(beyond.pending, [
      { field: 'spec.cpu.count', current: 1, wanted: 9, reason: 'It has room for 8 vCPUs.', needsRestart: true },
    ]);
  });

  test('not fewer vCPUs where none can be taken out', () => {
    const vcpus = { now: 4, least: 4, most: 8, reason: 'None can be taken out.' };
    const fewer = plan({ cpu: { count: 4 } }, { cpu: { count: 2 } }, { vcpus });
    assert.deepEqual(actions(fewer), []);
    assert.deepEqual(waiting(fewer), [['spec.cpu.count', 'None can be taken out.']]);
  });

  test('not the model of the processor, nor the room itself', () => {
    const changed = plan({}, { cpu: { count: 2, maxCount: 16, model: 'host', enable: ['aes'] } });
    assert.deepEqual(actions(changed), [{ kind: 'vcpus', count: 2 }]);
    assert.deepEqual(
      changed.pending.map(({ field, current, wanted }) => [field, current, wanted]),
      [
        ['spec.cpu.model', 'auto', 'host'],
        ['spec.cpu.enable', '[]', '["aes"]'],
        ['spec.cpu.maxCount', null, 16],
      ],
    );
  });

  test('memory in both directions, in steps and within limits', () => {
    assert.deepEqual(actions(plan({}, { memoryMib: 2048 })), [{ kind: 'memory', sizeMib: 2048 }]);
    assert.deepEqual(actions(plan({ memoryMib: 2048 }, { memoryMib: 512 })), [{ kind: 'memory', sizeMib: 512 }]);
    assert.deepEqual(waiting(plan({}, { memoryMib: 2050 })), [['spec.memoryMib', 'It has room from 512 to 2048 MiB.']]);
    assert.deepEqual(waiting(plan({}, { memoryMib: 256 })), [['spec.memoryMib', 'It has room from 512 to 2048 MiB.']]);
    assert.match(waiting(plan({}, { memoryMib: 513 }))[0]![1], /multiples of 2 MiB/);
  });

  test('the balloon, as far as there is one and the target is within what the guest has then', () => {
    assert.deepEqual(actions(plan({}, { memoryTargetMib: 256 })), [{ kind: 'balloon', targetMib: 256 }]);
    assert.deepEqual(actions(plan({ memoryTargetMib: 256 }, {})), [{ kind: 'balloon', targetMib: null }]);
    const none = { balloon: { nowMib: null, reason: 'It has no balloon.' } };
    assert.deepEqual(waiting(plan({}, { memoryTargetMib: 256 }, none)), [
      ['spec.memoryTargetMib', 'It has no balloon.'],
    ]);
    const grown = plan({}, { memoryMib: 1024, memoryTargetMib: 768 });
    assert.deepEqual(actions(grown), [
      { kind: 'memory', sizeMib: 1024 },
      { kind: 'balloon', targetMib: 768 },
    ]);
    const tooFar = plan({}, { memoryMib: 4096, memoryTargetMib: 768 });
    assert.deepEqual(
      waiting(tooFar).map(([field]) => field),
      ['spec.memoryMib', 'spec.memoryTargetMib'],
    );
  });

  test('disks come and go, those that go first', () => {
    const bus = 'virtio';
    const swapped = plan({ disks: [{ ...data, bus }] }, { disks: [{ name: 'other', sizeMib: 20, bus }] });
    assert.deepEqual(actions(swapped), [
      { kind: 'detach-disk', name: 'data' },
      { kind: 'attach-disk', name: 'other' },
    ]);
    assert.deepEqual(
      swapped.steps.map(({ field, current, wanted }) => [field, current, wanted]),
      [
        ['spec.disks.data', 'disk, 10 MiB, on virtio', null],
        ['spec.disks.other', null, 'disk, 20 MiB, on virtio'],
      ],
    );
  });

  test('not a disk that is fixed, or whose bus takes none while it runs, or that finds no place', () => {
    const fixed = { disks: [{ name: 'data', sizeMib: 10, fixedBy: 'A SATA drive stays.' }] };
    assert.deepEqual(waiting(plan({ disks: [data] }, { disks: [] }, fixed)), [
      ['spec.disks.data', 'A SATA drive stays.'],
    ]);
    assert.deepEqual(waiting(plan({}, { disks: [{ ...data, bus: 'sata' }] })), [
      ['spec.disks.data', 'Only virtio, scsi and nvme can be added.'],
    ]);
    const many = Array.from({ length: 6 }, (_, index) => ({ name: `d${index}`, sizeMib: 1 }));
    const full = plan({}, { disks: many });
    assert.equal(full.steps.length, 4);
    assert.deepEqual(
      full.pending.map(({ field }) => field),
      ['spec.disks.d4', 'spec.disks.d5'],
    );
    assert.match(full.pending[0]!.reason, /room for 4 more/);
    const exchanged = plan(
      { disks: many.slice(0, 3) },
      { disks: many.slice(3) },
      { room: { ...report(configuration({})).room, slots: 0 } },
    );
    assert.equal(exchanged.pending.length, 0, 'what goes makes room');
    const onScsi = plan({}, { disks: many.map((disk) => ({ ...disk, bus: 'scsi' as const })) });
    assert.equal(onScsi.steps.length, 6, 'drives on one controller take no places');
  });

  test('a disk’s size and limits, and the medium of a CD-ROM', () => {
    const limits = { iops: 100 };
    assert.deepEqual(actions(plan({ disks: [data] }, { disks: [{ ...data, sizeMib: 20, limits }] })), [
      { kind: 'resize-disk', name: 'data', sizeMib: 20 },
      { kind: 'limits', name: 'data' },
    ]);
    assert.deepEqual(actions(plan({ disks: [{ ...data, limits }] }, { disks: [data] })), [
      { kind: 'limits', name: 'data' },
    ]);
    const cdrom = { name: 'cd', device: 'cdrom' as const };
    const medium = [{ kind: 'medium', name: 'cd' }];
    assert.deepEqual(actions(plan({ disks: [cdrom] }, { disks: [{ ...cdrom, image: 'one' }] })), medium);
    assert.deepEqual(actions(plan({ disks: [{ ...cdrom, image: 'one' }] }, { disks: [cdrom] })), medium);
    const other = plan({ disks: [{ ...cdrom, image: 'one' }] }, { disks: [{ ...cdrom, image: 'two' }] });
    assert.deepEqual(actions(other), medium);
  });

  test('not how a disk is attached', () => {
    const changed = plan({ disks: [data] }, { disks: [{ ...data, bus: 'scsi', cache: 'none', isReadOnly: true }] });
    assert.deepEqual(actions(changed), []);
    assert.deepEqual(
      waiting(changed)
        .map(([field]) => field)
        .toSorted(),
      ['spec.disks.data.bus', 'spec.disks.data.cache', 'spec.disks.data.isReadOnly'],
    );
  });

  test('NICs come and go, and are switched on and off', () => {
    const nic = { network: 'front' };
    assert.deepEqual(actions(plan({ nics: [nic] }, { nics: [nic, { network: 'back' }] })), [
      { kind: 'attach-nic', mac: macs[1] },
    ]);
    assert.deepEqual(actions(plan({ nics: [nic, nic] }, { nics: [nic] })), [{ kind: 'detach-nic', mac: macs[1] }]);
    assert.deepEqual(actions(plan({ nics: [nic] }, { nics: [{ ...nic, isConnected: false }] })), [
      { kind: 'link', mac: macs[0], isConnected: false },
    ]);
  });

  test('a NIC that moves to another network is taken out and put in again, if that can be', () => {
    const moved: [VmSpecInput, VmSpecInput] = [{ nics: [{ network: 'front' }] }, { nics: [{ network: 'back' }] }];
    assert.deepEqual(actions(plan(...moved)), [
      { kind: 'detach-nic', mac: macs[0] },
      { kind: 'attach-nic', mac: macs[0] },
    ]);
    const fixed = plan(...moved, { nics: [{ mac: macs[0]!, fixedBy: 'It stays.' }] });
    assert.deepEqual(actions(fixed), []);
    assert.deepEqual(waiting(fixed), [['spec.nics.0', 'It stays.']]);
    const model = plan({ nics: [{}] }, { nics: [{ model: 'rtl8139' }] });
    assert.deepEqual(actions(model), [], 'nothing is taken out that could not be put in again');
    assert.equal(waiting(model)[0]?.[0], 'spec.nics.0');
  });

  test('the boot order, for the guest’s next boot', () => {
    const changed = plan(
      { disks: [data], nics: [{ bootIndex: 3 }] },
      { disks: [{ ...data, bootIndex: 2 }], nics: [{ bootIndex: 1 }] },
    );
    assert.deepEqual(actions(changed), [{ kind: 'boot-order' }]);
    assert.equal(changed.steps[0]?.wanted, `${macs[0]}, data`);
    const newcomer = plan({ disks: [data], nics: [{}] }, { disks: [data], nics: [{ bootIndex: 1 }] });
    assert.deepEqual(actions(newcomer), [], 'a NIC gets what it boots by at a start');
    assert.equal(waiting(newcomer)[0]?.[0], 'spec.bootOrder');
  });

  test('USB devices where there is a controller', () => {
    const usbDevices = [{ name: 'pointer', type: 'tablet' as const }];
    assert.deepEqual(actions(plan({}, { usbDevices })), [{ kind: 'attach-usb', name: 'pointer' }]);
    assert.deepEqual(actions(plan({ usbDevices }, {})), [{ kind: 'detach-usb', name: 'pointer' }]);
    assert.deepEqual(actions(plan({ usbDevices }, { usbDevices: [{ name: 'pointer', type: 'mouse' }] })), [
      { kind: 'detach-usb', name: 'pointer' },
      { kind: 'attach-usb', name: 'pointer' },
    ]);
    const room = { ...report(configuration({})).room, hasUsb: false };
    assert.deepEqual(waiting(plan({}, { usbDevices }, { room }))[0]?.[0], 'spec.usbDevices.pointer');
  });

  test('everything else waits for the next start, and secrets are not shown', () => {
    const changed = plan(
      {},
      { machine: 'pc', maxMemoryMib: 4096, cloudInit: { user: 'me', password: 'secret' }, hasAgentChannel: false },
    );
    assert.deepEqual(actions(changed), []);
    assert.deepEqual(changed.pending.map(({ field, current, wanted }) => [field, current, wanted]).toSorted(byText), [
      ['spec.cloudInit', null, 'given'],
      ['spec.hasAgentChannel', true, false],
      ['spec.machine', 'q35', 'pc'],
      ['spec.maxMemoryMib', null, 4096],
    ]);
  });
});

suite('the effective configuration', () => {
  const base: VmSpecInput = {
    memoryMib: 512,
    disks: [data, { name: 'cd', device: 'cdrom', image: 'one' }],
    nics: [{ network: 'front' }, { network: 'back', mac: macs[2] }],
    usbDevices: [{ name: 'pointer', type: 'tablet' }],
  };
  const wishes: Record<string, VmSpecInput> = {
    'more vCPUs': { ...base, cpu: { count: 4 } },
    'more memory and a target': { ...base, memoryMib: 1024, memoryTargetMib: 600 },
    'another disk': { ...base, disks: [...base.disks!, { name: 'more', sizeMib: 5, limits: { iops: 5 } }] },
    'a disk less': { ...base, disks: [data] },
    'a larger disk with limits, and no medium': {
      ...base,
      disks: [
        { ...data, sizeMib: 40, limits: { bytesPerSecond: 1000 } },
        { name: 'cd', device: 'cdrom' },
      ],
    },
    'another NIC': { ...base, nics: [...base.nics!, { network: 'third', mac: '52:54:00:00:00:ff' }] },
    'a NIC off and one on another network': {
      ...base,
      nics: [
        { network: 'front', isConnected: false },
        { network: 'elsewhere', mac: macs[2] },
      ],
    },
    'another boot order': { ...base, disks: [{ ...data, bootIndex: 3 }, base.disks![1]!] },
    'another USB device': { ...base, usbDevices: [{ name: 'pointer', type: 'mouse' }] },
  };
  for (const [name, wish] of Object.entries(wishes)) {
    test(`is the wanted one when all steps are made, and what it was when they are taken back: ${name}`, () => {
      const before = configuration(base);
      const wanted = configuration(wish);
      const walk = (from: Configuration, to: Configuration): Configuration => {
        const { steps, pending } = planChanges(from, to, report(from));
        assert.ok(steps.length > 0);
        assert.deepEqual(pending, []);
        return steps.reduce((now, step) => withStep(now, to, step), from);
      };
      const after = walk(before, wanted);
      assert.deepEqual(planChanges(after, wanted, report(after)), { steps: [], pending: [] });
      assert.deepEqual(sorted(after), sorted(wanted));
      assert.deepEqual(sorted(walk(after, before)), sorted(before));
    });
  }
});

function byText(one: unknown, other: unknown): number {
  return JSON.stringify(one).localeCompare(JSON.stringify(other));
}

/** Without the order of lists, which a guest that changes while it runs doesn't have. */
function sorted({ spec, disks, nics }: Configuration): unknown {
  return {
    spec: { ...spec, disks: [], nics: [] },
    disks: disks.toSorted((one, other) => one.name.localeCompare(other.name)),
    nics: nics.toSorted((one, other) => one.mac.localeCompare(other.mac)),
  };
}

test('while a guest can not be asked, everything waits for its next start, with one reason', () => {
  const pending = planWithoutGuest(
    configuration({ disks: [data] }),
    configuration({ memoryMib: 1024, cpu: { count: 2 }, disks: [{ ...data, limits: { iops: 1 } }], nics: [{}] }),
    'It is suspended.',
  );
  assert.deepEqual(
    pending.map(({ field, reason, needsRestart }) => [field, reason, needsRestart]).toSorted(byText),
    ['spec.cpu.count', 'spec.disks.data.limits', 'spec.memoryMib', 'spec.nics.0'].map((field) => [
      field,
      'It is suspended.',
      true,
    ]),
  );
});
