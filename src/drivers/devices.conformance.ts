// What every driver must keep of the promises about devices that change while a guest runs in driver.ts (GuestDevices).
import assert from 'node:assert/strict';
import { mkdir, truncate, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { type TestContext } from 'node:test';
import { type VmSpec } from '../api/vm-spec.ts';
import { driverSuite, failure, type DriverSubject, type Subject } from './conformance-subject.ts';
import { plainHardware } from './driver.conformance.ts';
import { type DeviceReport, type GuestDefinition, type GuestDisk, type GuestNic } from './driver.ts';

const mib = 2 ** 20;
const diskMib = 8;
/** Memory is plugged in blocks, of 128 MiB in Linux on x86. */
const moreMemoryMib = 128;
const mac = '52:54:00:0a:0b:0c';

const nic: GuestNic = {
  mac,
  model: 'virtio',
  queues: 1,
  mtu: 1500,
  isConnected: true,
  attachment: { kind: 'user', ipv4Cidr: '10.0.2.0/24', dnsDomain: 'test', hostname: 'web1' },
};

/** A guest with a disk, a USB controller, and room for another vCPU and more memory. */
async function define(subject: Subject): Promise<{ definition: GuestDefinition; disk: (name: string) => GuestDisk }> {
  const plain = await subject.given.define();
  const folder = join(dirname(plain.directory), `disks-${plain.id}`);
  await mkdir(folder, { recursive: true });
  const disk = (name: string): GuestDisk => ({
    name,
    device: 'disk',
    bus: 'virtio',
    cache: 'writeback',
    isReadOnly: false,
    layers: [{ path: join(folder, `${name}.raw`), format: 'raw' }],
  });
  for (const name of ['root', 'data']) {
    await writeFile(join(folder, `${name}.raw`), '');
    await truncate(join(folder, `${name}.raw`), diskMib * mib);
  }
  const spec: VmSpec = { ...plain.spec, usb: 'xhci' };
  const disks = [disk('root')];
  const definition = {
    ...plain,
    spec,
    disks,
    hardware: plainHardware(spec, { firmware: plain.firmware, disks }),
    room: { vcpus: 2, memoryMib: spec.memoryMib + moreMemoryMib },
  };
  return { definition, disk };
}

const namesOf = (report: DeviceReport): { disks: string[]; nics: string[]; usbDevices: string[] } => ({
  disks: report.disks.map(({ name }) => name).toSorted(),
  nics: report.nics.map((one) => one.mac),
  usbDevices: report.usbDevices,
});

/** Runs the suite against a driver. `setup` is called for each test. */
export function devicesConformance(name: string, setup: (context: TestContext) => Promise<DriverSubject>): void {
  driverSuite(`${name} keeps the promises about devices that change`, setup, (check) => {
    check('devices come, change and go while the guest runs, each told by the guest’s report', async (subject) => {
      const { definition, disk } = await define(subject);
      const { guest } = await subject.start(definition);
      await subject.given.untilUp(guest);
      const { devices } = guest;
      const first = await devices.report();
      const { cpu, memoryMib } = definition.spec;
      assert.deepEqual([first.vcpus.now, first.vcpus.most], [cpu.count, 2]);
      assert.deepEqual([first.memory.nowMib, first.memory.mostMib], [memoryMib, memoryMib + moreMemoryMib]);
      assert.deepEqual(namesOf(first), { disks: ['root'], nics: [], usbDevices: [] });
      for (const reason of [first.vcpus.reason, first.memory.reason, first.room.reason]) assert.ok(reason.length > 10);

      // Done already: nothing happens.
      for (let round = 0; round < 2; round++) {
        await devices.change({ kind: 'attach-disk', disk: disk('data') });
        await devices.change({ kind: 'attach-nic', nic });
        await devices.change({ kind: 'attach-usb', device: { name: 'pointer', type: 'tablet' } });
      }
      const second = await devices.report();
      assert.deepEqual(namesOf(second), { disks: ['data', 'root'], nics: [mac], usbDevices: ['pointer'] });
      assert.equal(second.room.slots, first.room.slots - 2);
      assert.deepEqual(await devices.mountPoints('data'), [], 'nothing is mounted that nobody has mounted');

      await devices.change({ kind: 'resize-disk', name: 'data', sizeMib: 2 * diskMib });
      await devices.change({ kind: 'limits', name: 'data', limits: { iops: 100 } });
      await devices.change({ kind: 'limits', name: 'data', limits: null });
      for (const isConnected of [false, true]) await devices.change({ kind: 'link', mac, isConnected });
      await devices.change({ kind: 'balloon', targetMib: memoryMib - 16 });
      assert.equal((await devices.report()).balloon.nowMib, memoryMib - 16);
      await devices.change({ kind: 'balloon', targetMib: memoryMib });
      await devices.change({ kind: 'vcpus', count: 2 });
      await devices.change({ kind: 'memory', sizeMib: memoryMib + moreMemoryMib });
      await devices.change({ kind: 'boot-order', order: [{ disk: 'data' }, { disk: 'root' }] });
      const third = await devices.report();
      assert.equal(third.disks.find((one) => one.name === 'data')?.sizeMib, 2 * diskMib);
      assert.deepEqual([third.vcpus.now, third.memory.nowMib], [2, memoryMib + moreMemoryMib]);

      // A later driver finds the same.
      await subject.driver.close();
      subject.replaceDriver();
      const adopted = (await subject.adopt(guest, definition)).devices;
      const found = await adopted.report();
      assert.deepEqual(
        [found.vcpus, found.memory, found.disks, found.nics, found.usbDevices, found.room.slots],
        [third.vcpus, third.memory, third.disks, third.nics, third.usbDevices, third.room.slots],
      );

      // Not every guest can do with fewer vCPUs before its next start.
      const count = Math.max(cpu.count, found.vcpus.least);
      for (let round = 0; round < 2; round++) {
        await adopted.change({ kind: 'detach-usb', name: 'pointer' });
        await adopted.change({ kind: 'detach-nic', mac });
        await adopted.change({ kind: 'detach-disk', name: 'data' });
        await adopted.change({ kind: 'vcpus', count });
      }
      const last = await adopted.report();
      assert.deepEqual(namesOf(last), namesOf(first));
      assert.deepEqual([last.vcpus.now, last.room.slots], [count, third.room.slots + 2]);
    });

    check('what can not be changed is refused with the reason, and the guest is as it was', async (subject) => {
      const { definition, disk } = await define(subject);
      const { guest } = await subject.start(definition);
      await subject.given.untilUp(guest);
      const { devices } = guest;
      const before = await devices.report();
      const { vcpus, memory } = before;
      const tooMuch = memory.mostMib + memory.stepMib;
      const refused = [
        [{ kind: 'vcpus', count: vcpus.most + 1 }, String(vcpus.most)],
        [{ kind: 'memory', sizeMib: tooMuch }, String(memory.mostMib)],
        [{ kind: 'attach-disk', disk: { ...disk('data'), bus: 'ide' } }, ''],
      ] as const;
      for (const [change, limit] of refused) {
        const error = await failure(devices.change(change), ['unsupported']);
        assert.ok(`${error.message} ${error.hint}`.includes(limit), `${change.kind}: ${error.message}`);
      }
      assert.deepEqual(await devices.report(), before);
      assert.equal(await guest.state(), 'running');
    });
  });
}
