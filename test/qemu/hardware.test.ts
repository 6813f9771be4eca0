// Emulated and paravirtual hardware as the guest itself finds it: its buses are asked whether they hold what the VM's
// status claims, all of it and nothing else.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type Vm } from '../../src/api/vm.ts';
import { type VmDevice } from '../../src/api/vm-hardware.ts';
import { type VmSpecInput } from '../../src/api/vm-spec.ts';
import { qemuDaemon, type QemuDaemon } from '../support/qemu-daemon.ts';

/** What a guest says of its buses, drivers and clocks. */
interface Seen {
  /** `vendor:device` of each PCI device that is no bridge and not the machine's own, with the driver bound to it. */
  pci: { id: string; driver: string }[];
  netDriver: string;
  /** Each block device with a device behind it: name, serial number or model, and the driver it is reached by. */
  disks: string[];
  clockSources: string[];
  hasHypervisorFlag: boolean;
  /** Kinds of the serial ports ttyS0 and ttyS1; 0: there is none. */
  serialPorts: string[];
  queues: number;
}

const script = `
for d in /sys/bus/pci/devices/*; do
  read -r vendor < $d/vendor; read -r device < $d/device; read -r class < $d/class
  driver=$(readlink $d/driver); echo "pci $vendor $device $class \${driver##*/}"
done
driver=$(readlink /sys/class/net/eth0/device/driver); echo "net \${driver##*/}"
echo "queues $(ls -d /sys/class/net/eth0/queues/tx-* | wc -l)"
for b in /sys/block/*; do [ -e $b/device ] && echo "disk \${b##*/} $(readlink -f $b)"; done
echo "clock $(cat /sys/devices/system/clocksource/clocksource0/available_clocksource)"
grep -qw hypervisor /proc/cpuinfo && echo hypervisor
echo "serial $(cat /sys/class/tty/ttyS0/type) $(cat /sys/class/tty/ttyS1/type)"
`;

async function look(host: QemuDaemon, name: string): Promise<Seen> {
  const { output, code } = await host.exec(name, ['sh', '-c', script]);
  assert.equal(code, 0, output);
  const lines = output.split('\n').map((line) => line.trim().split(/ +/));
  const of = (kind: string): string[][] => lines.filter(([first]) => first === kind).map(([, ...rest]) => rest);
  return {
    pci: of('pci')
      .filter(
        ([vendor, device, kind]) => !kind!.startsWith('0x06') && !chipset.has(`${short(vendor)}:${short(device)}`),
      )
      .map(([vendor, device, , driver]) => ({ id: `${short(vendor)}:${short(device)}`, driver: driver ?? '' }))
      .toSorted((one, other) => one.id.localeCompare(other.id)),
    netDriver: of('net')[0]?.[0] ?? '',
    disks: of('disk').map(([disk, path]) => `${disk}: ${/virtio|ata|nvme/.exec(path!)?.[0]}`),
    clockSources: of('clock')[0] ?? [],
    hasHypervisorFlag: lines.some(([first]) => first === 'hypervisor'),
    serialPorts: of('serial')[0] ?? [],
    queues: Number(of('queues')[0]?.[0]),
  };
}

function short(hex: string | undefined): string {
  return (hex ?? '').replace('0x', '');
}

/** What the machines q35 and pc bring along beside bridges: SMBus, power management, and the SATA or IDE controller of disks. */
const chipset = new Set(['8086:2930', '8086:7113']);
/** Controllers that are part of the machine, and hold disks where there are any: they are there without one too. */
const controllers: Readonly<Record<string, string>> = { q35: '8086:2922', pc: '8086:7010' };

/** PCI ids of QEMU's devices: docs/specs/pci-ids.rst of QEMU, and of the chips it emulates. On a root bus virtio is transitional. */
const pciIds: Readonly<Record<string, readonly string[]>> = {
  'virtio-net-pci': ['1af4:1000', '1af4:1041'],
  'virtio-blk-pci': ['1af4:1001', '1af4:1042'],
  'virtio-balloon-pci': ['1af4:1002', '1af4:1045'],
  'virtio-serial-pci': ['1af4:1003', '1af4:1043'],
  'virtio-rng-pci': ['1af4:1005', '1af4:1044'],
  'virtio-vga': ['1af4:1050'],
  'virtio-keyboard-pci': ['1af4:1052'],
  'virtio-tablet-pci': ['1af4:1052'],
  VGA: ['1234:1111'],
  'pvpanic-pci': ['1b36:0011'],
  'qemu-xhci': ['1b36:000d'],
  'piix3-usb-uhci': ['8086:7020'],
  e1000e: ['8086:10d3'],
  e1000: ['8086:100e'],
  nvme: ['1b36:0010'],
};

/** The PCI devices that a VM's status claims it has. */
function claimed(devices: readonly VmDevice[]): (readonly string[])[] {
  return devices.flatMap(({ model }) => {
    const names = Object.keys(pciIds).filter((name) => model.split(/[ ,]+/).includes(name));
    return names.map((name) => pciIds[name]!);
  });
}

function assertExactly(vm: Vm, seen: Seen): void {
  const machine = vm.spec.machine;
  const left = seen.pci.filter(({ id }) => id !== controllers[machine]);
  for (const ids of claimed(vm.status.devices)) {
    const at = left.findIndex(({ id }) => ids.includes(id));
    assert.notEqual(at, -1, `${vm.name} has ${ids.join(' or ')}: ${JSON.stringify(seen.pci)}`);
    left.splice(at, 1);
  }
  assert.deepEqual(left, [], `${vm.name} has nothing that its status does not claim`);
  const hpet = device(vm, 'timer').model === 'hpet';
  assert.equal(seen.clockSources.includes('hpet'), hpet, `${vm.name}: ${seen.clockSources.join()}`);
  assert.equal(
    seen.serialPorts[1] !== '0',
    device(vm, 'agent channel').model === 'isa-serial',
    'the second serial port',
  );
}

function device(vm: Vm, name: string): VmDevice {
  const found = vm.status.devices.find((one) => one.name === name);
  assert.ok(found, `${vm.name} has a device ${name}`);
  return found;
}

test('a guest has exactly the devices that its status claims', { timeout: 400_000 }, async (context) => {
  const host = await qemuDaemon(context, { images: ['tiny-pc'] });
  const common = {
    image: 'tiny-pc',
    memoryMib: 256,
    accelerator: 'tcg' as const,
    display: 'vnc' as const,
    disks: [{ name: 'data', sizeMib: 64, cache: 'none' as const }],
  } satisfies VmSpecInput;
  await host.client.network.create({ body: { name: 'lab', spec: { mode: 'nat', ipv4Cidr: '10.99.0.0/24' } } });
  await Promise.all([
    host.create('emulated', { ...common, nics: [{ network: 'user' }], hardware: 'emulated' }),
    host.create('paravirtual', {
      ...common,
      nics: [{ network: 'lab' }],
      cpu: { count: 2 },
      hardware: 'paravirtual',
      clock: { hasHpet: false },
    }),
  ]);
  const [emulated, paravirtual] = await Promise.all([host.untilUp('emulated'), host.untilUp('paravirtual')]);

  await context.test('emulated: what a PC has, and an agent on its second serial port', async () => {
    const seen = await look(host, 'emulated');
    assertExactly(emulated, seen);
    assert.ok(emulated.status.devices.every(({ kind }) => kind === 'emulated'));
    assert.equal(seen.netDriver, 'e1000e');
    assert.deepEqual(seen.disks, ['sda: ata']);
    assert.equal(seen.hasHypervisorFlag, false, 'its CPU says nothing of a hypervisor');
    assert.ok(
      seen.pci.every(({ id }) => !id.startsWith('1af4:')),
      'nothing is virtio',
    );
  });

  await context.test('paravirtual: virtio, and nothing that stands for a chip', async () => {
    const seen = await look(host, 'paravirtual');
    assertExactly(paravirtual, seen);
    assert.equal(seen.netDriver, 'virtio_net');
    assert.deepEqual(seen.disks, ['vda: virtio']);
    assert.equal(device(paravirtual, 'nic 0').model, 'virtio-net-pci, 2 queues');
    assert.equal(seen.queues, 2, 'each vCPU has a queue of its own');
    const kinds = ['disk data', 'nic 0', 'video', 'input', 'agent channel', 'random numbers', 'balloon', 'panic'];
    for (const name of kinds) assert.equal(device(paravirtual, name).kind, 'paravirtual', name);
  });

  await context.test('what an emulated processor has no form of is not claimed', async () => {
    const cpu = device(paravirtual, 'cpu interface');
    assert.deepEqual([cpu.kind, cpu.model], ['emulated', 'none']);
    assert.match(cpu.why, /TCG/);
    assert.ok(!(await look(host, 'paravirtual')).clockSources.includes('kvm-clock'));
  });

  await context.test('a device that is changed one by one is another at the next start, the rest stays', async () => {
    await host.done(host.client.vm.stop({ params: { vm: 'emulated' }, query: { project: 'default' }, body: {} }));
    const { spec, revision } = await host.vm('emulated');
    const changed = {
      ...spec,
      machine: 'pc' as const,
      nics: [{ network: 'user', model: 'virtio' as const, isConnected: true }],
    };
    const query = { project: 'default' };
    const planned = await host.client.vm.update({
      params: { vm: 'emulated' },
      query,
      body: { revision, spec: changed },
    });
    assert.equal(device(planned, 'nic 0').model, 'virtio-net-pci', 'it is shown before the start');
    assert.equal(device(planned, 'nic 0').why, 'spec.nics.0.model says so');
    await host.done(host.client.vm.start({ params: { vm: 'emulated' }, query }));
    const vm = await host.untilUp('emulated');
    const seen = await look(host, 'emulated');
    assertExactly(vm, seen);
    assert.equal(seen.netDriver, 'virtio_net');
    assert.deepEqual(seen.disks, ['sda: ata']);
    assert.match(device(vm, 'disk data').model, /piix3-ide/);
  });
});
