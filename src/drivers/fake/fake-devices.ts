// The devices of a guest of the fake driver: kept in its file, changed at once, and refused where a real guest would
// refuse. One that is deaf doesn't let go of anything.
import { isDeepStrictEqual } from 'node:util';
import { LodgeError } from '../../api/errors.ts';
import { type VmDiskLimits } from '../../api/vm-spec.ts';
import { type VmPinned } from '../../api/vm.ts';
import { readLayerSize } from '../../host/image/layer.ts';
import { resizeVolume } from '../../host/image/volume.ts';
import {
  type DeviceChange,
  type DeviceReport,
  type GuestDefinition,
  type GuestDevices,
  type UserForward,
} from '../driver.ts';
import { type FakeProcess } from './fake-guest.ts';

/** What a fake guest is made of. */
export interface FakeHardware {
  vcpus: number;
  memoryMib: number;
  balloonMib: number;
  /** `sizeMib`: what it was resized to; null: as it was. */
  disks: { name: string; bus: string; sizeMib: number | null; limits: VmDiskLimits | null; layers: string[] }[];
  nics: { mac: string; isConnected: boolean }[];
  usbDevices: string[];
  bootOrder: string[];
}

const slots = 31;
const stepMib = 2;
const mib = 2 ** 20;

export function fakeHardware({ spec, disks, nics }: GuestDefinition): FakeHardware {
  return {
    vcpus: spec.cpu.count,
    memoryMib: spec.memoryMib,
    balloonMib: spec.memoryTargetMib ?? spec.memoryMib,
    disks: disks.map(({ name, bus, limits, layers }) => ({
      name,
      bus,
      sizeMib: null,
      limits: limits ?? null,
      layers: layers.map(({ path }) => path),
    })),
    nics: nics.map(({ mac, isConnected }) => ({ mac, isConnected })),
    usbDevices: spec.usbDevices.map(({ name }) => name),
    bootOrder: [],
  };
}

/** What it has room for; one that is restored has what it had. */
export function fakeRoom(
  { spec, room, pinned }: GuestDefinition,
  isRestoring: boolean,
): NonNullable<VmPinned['hotplug']> {
  if (isRestoring && pinned?.hotplug) return pinned.hotplug;
  const isFixed = spec.machine === 'microvm';
  return {
    baseVcpus: spec.cpu.count,
    maxVcpus: isFixed ? spec.cpu.count : Math.max(room?.vcpus ?? 0, spec.cpu.count),
    baseMemoryMib: spec.memoryMib,
    maxMemoryMib: isFixed ? spec.memoryMib : Math.max(room?.memoryMib ?? 0, spec.memoryMib),
    slots: {},
    targets: {},
  };
}

/** Makes the file of a layer larger, as the hypervisor that has it open does. */
async function growTop(path: string | undefined, sizeMib: number): Promise<void> {
  const format = path?.endsWith('.raw') ? 'raw' : 'qcow2';
  if (path === undefined || (await readLayerSize({ path, format })) >= sizeMib * mib) return;
  await resizeVolume({ path, format, sizeBytes: sizeMib * mib });
}

/** The layers that are open after a change: those of a disk that was added are those it was given, the others stay. */
function openLayers(
  before: Readonly<Record<string, string[]>>,
  { disks }: FakeHardware,
  change: DeviceChange,
): Record<string, string[]> {
  const isGiven = (name: string): boolean =>
    before[name] === undefined || (change.kind === 'medium' && change.disk.name === name);
  const open = disks.map(({ name, layers }) => [name, isGiven(name) ? layers : before[name]!] as const);
  return Object.fromEntries(open.filter(([, layers]) => layers.length > 0));
}

export interface FakeDevicesParts {
  name: string;
  pinned: VmPinned;
  read: () => Promise<FakeProcess>;
  change: (change: (now: FakeProcess) => FakeProcess) => Promise<void>;
}

export class FakeDevices implements GuestDevices {
  readonly #parts: FakeDevicesParts;
  /** Forwarded ports by the NIC's address; nobody is reached by them. */
  readonly #forwards = new Map<string, UserForward[]>();

  constructor(parts: FakeDevicesParts) {
    this.#parts = parts;
  }

  async report(): Promise<DeviceReport> {
    const { hardware } = await this.#parts.read();
    const { hotplug, machine } = this.#parts.pinned;
    const isFixed = machine === 'microvm';
    const fixedBy = isFixed ? 'A microvm’s devices stay as long as it runs.' : null;
    const most = hotplug?.maxVcpus ?? hardware.vcpus;
    const leastMib = hotplug?.baseMemoryMib ?? hardware.memoryMib;
    const mostMib = hotplug?.maxMemoryMib ?? hardware.memoryMib;
    const used = hardware.nics.length + hardware.disks.filter(({ bus }) => bus === 'virtio').length;
    return {
      vcpus: {
        now: hardware.vcpus,
        least: 1,
        most,
        reason: `It was started with room for ${most} vCPUs (cpu.maxCount).`,
      },
      memory: {
        nowMib: hardware.memoryMib,
        leastMib,
        mostMib,
        stepMib,
        reason: `It was started with ${leastMib} MiB and room for ${mostMib} MiB (maxMemoryMib).`,
      },
      balloon: { nowMib: hardware.balloonMib, reason: 'Played by the fake driver' },
      disks: hardware.disks.map(({ name, bus, sizeMib }) => ({
        name,
        sizeMib,
        fixedBy: fixedBy ?? (bus === 'sata' || bus === 'ide' ? `A drive on ${bus} stays while it runs.` : null),
      })),
      nics: hardware.nics.map(({ mac }) => ({ mac, fixedBy })),
      usbDevices: hardware.usbDevices,
      room: {
        diskBuses: isFixed ? [] : ['virtio', 'nvme', 'scsi', 'usb'],
        nicModels: isFixed ? [] : ['virtio', 'e1000', 'e1000e', 'rtl8139'],
        hasUsb: !isFixed,
        slots: isFixed ? 0 : slots - used,
        reason: isFixed
          ? 'A microvm takes no devices while it runs.'
          : 'Disks can be added on virtio, nvme, scsi and usb.',
      },
    };
  }

  async mountPoints(disk: string): Promise<string[] | null> {
    const { state, mounted = {} } = await this.#parts.read();
    return state === 'running' ? (mounted[disk] ?? []) : null;
  }

  async change(change: DeviceChange): Promise<void> {
    const process = await this.#parts.read();
    const hardware = await this.#changed(process, change);
    const { nics } = hardware;
    const links = nics.map(({ isConnected }) => isConnected);
    await this.#parts.change((now) => ({
      ...now,
      hardware,
      macs: nics.map(({ mac }) => mac),
      links,
      disks: openLayers(now.disks ?? {}, hardware, change),
    }));
  }

  async forwards(mac: string): Promise<UserForward[]> {
    return [...(this.#forwards.get(mac) ?? [])];
  }

  async addForward(mac: string, forward: UserForward): Promise<void> {
    const others = (this.#forwards.get(mac) ?? []).filter((one) => !isDeepStrictEqual(one, forward));
    this.#forwards.set(mac, [...others, forward]);
  }

  async removeForward(mac: string, forward: UserForward): Promise<void> {
    this.#forwards.set(
      mac,
      (this.#forwards.get(mac) ?? []).filter((one) => !isDeepStrictEqual(one, forward)),
    );
  }

  async #changed(process: FakeProcess, change: DeviceChange): Promise<FakeHardware> {
    const { hardware } = process;
    const report = await this.report();
    const without = <T>(list: readonly T[], isIt: (one: T) => boolean, what: string): T[] => {
      if (process.isDeaf && list.some(isIt))
        throw new LodgeError('timeout', `The guest did not let go of ${what}.`, { hint: 'Restart the VM.' });
      return list.filter((one) => !isIt(one));
    };
    const changeDisk = (
      name: string,
      to: (disk: FakeHardware['disks'][number]) => FakeHardware['disks'][number],
    ): FakeHardware => ({ ...hardware, disks: hardware.disks.map((disk) => (disk.name === name ? to(disk) : disk)) });
    switch (change.kind) {
      case 'vcpus':
        if (change.count > report.vcpus.most) throw new LodgeError('unsupported', report.vcpus.reason);
        return { ...hardware, vcpus: change.count };
      case 'memory':
        if (change.sizeMib < report.memory.leastMib || change.sizeMib > report.memory.mostMib)
          throw new LodgeError('unsupported', report.memory.reason);
        return { ...hardware, memoryMib: change.sizeMib };
      case 'balloon':
        return { ...hardware, balloonMib: change.targetMib };
      case 'attach-disk': {
        const { name, bus, limits, layers } = change.disk;
        if (hardware.disks.some((disk) => disk.name === name)) return hardware;
        if (!report.room.diskBuses.includes(bus)) throw new LodgeError('unsupported', report.room.reason);
        const paths = layers.map(({ path }) => path);
        const added = { name, bus, sizeMib: null, limits: limits ?? null, layers: paths };
        return { ...hardware, disks: [...hardware.disks, added] };
      }
      case 'detach-disk': {
        const isIt = ({ name }: { name: string }): boolean => name === change.name;
        return { ...hardware, disks: without(hardware.disks, isIt, `disk ${change.name}`) };
      }
      case 'resize-disk':
        await growTop(process.disks?.[change.name]?.[0], change.sizeMib);
        return changeDisk(change.name, (disk) => ({ ...disk, sizeMib: change.sizeMib }));
      case 'limits':
        return changeDisk(change.name, (disk) => ({ ...disk, limits: change.limits }));
      case 'medium':
        if (process.isDeaf && !change.isForced)
          throw new LodgeError('timeout', `The guest keeps the tray of ${change.disk.name} locked.`);
        return changeDisk(change.disk.name, (disk) => ({
          ...disk,
          layers: change.disk.layers.map(({ path }) => path),
        }));
      case 'attach-nic': {
        const { mac, isConnected, model } = change.nic;
        if (hardware.nics.some((nic) => nic.mac === mac)) return hardware;
        if (!report.room.nicModels.includes(model)) throw new LodgeError('unsupported', report.room.reason);
        return { ...hardware, nics: [...hardware.nics, { mac, isConnected }] };
      }
      case 'detach-nic':
        return { ...hardware, nics: without(hardware.nics, ({ mac }) => mac === change.mac, `the NIC ${change.mac}`) };
      case 'link':
        return {
          ...hardware,
          nics: hardware.nics.map((nic) =>
            nic.mac === change.mac ? { ...nic, isConnected: change.isConnected } : nic,
          ),
        };
      case 'boot-order':
        return { ...hardware, bootOrder: change.order.map((one) => ('disk' in one ? one.disk : one.mac)) };
      case 'attach-usb':
        return { ...hardware, usbDevices: [...new Set([...hardware.usbDevices, change.device.name])] };
      case 'detach-usb':
        return { ...hardware, usbDevices: hardware.usbDevices.filter((name) => name !== change.name) };
    }
  }
}
