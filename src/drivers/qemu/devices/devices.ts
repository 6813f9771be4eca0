// The devices of a running QEMU: added, taken out and changed while its guest goes on.
//
// Invariants:
// - Changes of one guest go one after the other.
// - A change that fails leaves the guest as it was; one that was made already does nothing.
// - What the guest has is asked of QEMU, before and after: never concluded from what was sent.
// - A device is gone when QEMU says so; a guest that doesn't let go keeps it, with everything that belongs to it.
import { setTimeout as delay } from 'node:timers/promises';
import { LodgeError } from '../../../api/errors.ts';
import { type VmDiskLimits } from '../../../api/vm-spec.ts';
import { SerialQueues } from '../../../lib/serial-queues.ts';
import { sendDescriptors, SendDescriptorsError, type MonitorCommand } from '../../../host/launch/send-descriptors.ts';
import {
  type CallOptions,
  type DeviceChange,
  type DeviceReport,
  type GuestDefinition,
  type GuestDevices,
  type GuestDisk,
  type GuestNic,
  type UserForward,
} from '../../driver.ts';
import { diskQueues, netdevId, nicProperties, userNetdev } from '../device-arguments.ts';
import { asking } from '../qmp-failure.ts';
import { type QmpConnection } from '../qmp/connection.ts';
import { type QemuGuestAgent } from '../agent/guest-agent.ts';
import { memoryParts, usbControllerModel, usbId, usbProperties, type Room } from '../room.ts';
import {
  diskId,
  freeSlot,
  hotplugBus,
  hotplugSlots,
  lastTarget,
  memoryDevice,
  nicId,
  scsiController,
  slotAddress,
  usbController,
} from '../slots.ts';
import { addForward, listForwards, removeForward } from './user-forwards.ts';
import { closeLayers, diskDevice, findDrive, ignoreRefusal, openLayers } from './disks.ts';
import {
  freePort,
  placesOf,
  readAddedMemory,
  readBalloon,
  readDevices,
  readReport,
  requireSlot,
  vcpuRange,
  type PlacedDevice,
} from './inventory.ts';
import { throttleArguments } from './throttle.ts';
import { unplug } from './unplug.ts';

export interface QemuDevicesParts {
  /** Name of the VM. */
  name: string;
  qmp: QmpConnection;
  agent: QemuGuestAgent;
  descriptorSocket: string;
  /** What it was started with room for; undefined: by a Lodge that gave none. */
  room: () => Room | undefined;
  /** Takes note of where devices sit now. */
  onPlaced: (places: Pick<Room, 'slots' | 'targets'>) => void;
  isEmulated: boolean;
  /** /dev/vhost-net can be used by it. */
  canUseVhost: boolean;
  /** Another process sees its memory, and must see what is added. */
  isMemoryShared: boolean;
}

const mib = 2 ** 20;
/** How long a guest has to do its part. */
const guestMs = 20_000;
/** Memory moves by blocks; a guest under emulation takes 128 MiB in less than a second. */
const memoryMs = 60_000;
const agentMs = 3000;
const lookMs = 50;

export class QemuDevices implements GuestDevices {
  readonly #parts: QemuDevicesParts;
  readonly #queue = new SerialQueues();
  #changing = 0;

  constructor(parts: QemuDevicesParts) {
    this.#parts = parts;
  }

  /** Whether a change is being made: what is heard of devices meanwhile is its doing. */
  get isChanging(): boolean {
    return this.#changing > 0;
  }

  /** What a guest that doesn't run yet can't be given on its command line. */
  async settleAtStart({ spec, disks, nics }: GuestDefinition): Promise<void> {
    const { qmp } = this.#parts;
    for (const { mac, isConnected } of nics)
      if (!isConnected) await qmp.execute('set_link', { name: nicId(mac), up: false });
    for (const { name, limits } of disks) if (limits) await this.#setLimits(name, limits);
    // What the balloon is to leave stands there when the guest's driver comes to look.
    if (spec.memoryTargetMib !== undefined && (await readBalloon(qmp)) !== null)
      await qmp.execute('balloon', { value: await this.#balloonBytes(spec.memoryTargetMib) });
  }

  /** Learns where devices sit of a guest that ran before it was connected to. */
  async lookAtPlaces(): Promise<void> {
    if (this.#parts.room()) await this.#notePlaces();
  }

  report(): Promise<DeviceReport> {
    const { qmp, name, room, isEmulated } = this.#parts;
    return this.#ask('tell the devices of', () => readReport(qmp, name, { room: room(), isEmulated }));
  }

  mountPoints(disk: string, options: CallOptions = {}): Promise<string[] | null> {
    return this.#ask('look for a disk of', async () => {
      try {
        return await this.#parts.agent.mountPoints(disk, { timeoutMs: agentMs, ...options });
      } catch (error) {
        if (error instanceof LodgeError) return null;
        throw error;
      }
    });
  }

  async change(change: DeviceChange, options: CallOptions = {}): Promise<void> {
    this.#changing++;
    try {
      await this.#queue.run('devices', () => this.#ask(wordsFor(change), () => this.#make(change, options)));
    } finally {
      this.#changing--;
    }
  }

  forwards(mac: string): Promise<UserForward[]> {
    return this.#ask('list the forwarded ports of', () => listForwards(this.#parts.qmp, mac));
  }

  addForward(mac: string, forward: UserForward): Promise<void> {
    return this.#ask('forward a port to', () => addForward(this.#parts.qmp, mac, forward));
  }

  removeForward(mac: string, forward: UserForward): Promise<void> {
    return this.#ask('take a forwarded port from', () => removeForward(this.#parts.qmp, mac, forward));
  }

  async #make(change: DeviceChange, options: CallOptions): Promise<void> {
    switch (change.kind) {
      case 'vcpus':
        return this.#setVcpus(change.count, options);
      case 'memory':
        return this.#setMemory(change.sizeMib, options);
      case 'balloon':
        return this.#setBalloon(change.targetMib, options);
      case 'attach-disk':
        return this.#attachDisk(change.disk);
      case 'detach-disk':
        return this.#detachDisk(change.name, options);
      case 'resize-disk':
        return this.#resizeDisk(change.name, change.sizeMib);
      case 'limits':
        return this.#setLimits(change.name, change.limits);
      case 'medium':
        return this.#changeMedium(change.disk, change.isForced, options);
      case 'attach-nic':
        return this.#attachNic(change.nic);
      case 'detach-nic':
        return this.#detachNic(change.mac, options);
      case 'link':
        await this.#parts.qmp.execute('set_link', { name: nicId(change.mac), up: change.isConnected });
        return;
      case 'boot-order':
        return this.#setBootOrder(change.order);
      case 'attach-usb':
        return this.#attachUsb(change.device);
      case 'detach-usb':
        return this.#unplug(usbId(change.name), `the USB device ${change.name}`, options);
    }
  }

  async #setVcpus(count: number, options: CallOptions): Promise<void> {
    const { qmp, agent, name } = this.#parts;
    const position = (props: { 'socket-id'?: number; 'core-id'?: number; 'thread-id'?: number }): number =>
      ((props['socket-id'] ?? 0) * 4096 + (props['core-id'] ?? 0)) * 64 + (props['thread-id'] ?? 0);
    const all = (await qmp.execute('query-hotpluggable-cpus')).toSorted(
      (one, other) => position(one.props) - position(other.props),
    );
    const now = all.filter((cpu) => cpu['qom-path'] !== undefined).length;
    if (count === now) return;
    const range = vcpuRange({ now, possible: all.length }, this.#parts.room(), this.#parts.isEmulated);
    const { least, most, reason } = range;
    if (count < least || count > most)
      throw new LodgeError('unsupported', `VM ${name} can not have ${count} vCPUs now. ${reason}`);
    for (const [index, cpu] of all.entries()) {
      if (index < count && cpu['qom-path'] === undefined) {
        const { 'node-id': _node, ...props } = cpu.props;
        await qmp.execute('device_add', { driver: cpu.type, id: `vcpu${index}`, ...props });
      }
    }
    for (const [index, cpu] of [...all.entries()].reverse()) {
      const path = cpu['qom-path'];
      if (index < count || path === undefined) continue;
      const id = /^\/machine\/peripheral\/([^/]+)$/.exec(path)?.[1] ?? null;
      await unplug(qmp, { id, path }, `vCPU ${index}`, { timeoutMs: guestMs, ...options });
    }
    // Best effort: a guest without an agent, or with rules of its own, does this by itself or not.
    if (count > now) await agent.useVcpus(count).catch(ignoreAgent);
  }

  async #setMemory(sizeMib: number, options: CallOptions): Promise<void> {
    const { qmp, agent, name, room } = this.#parts;
    const { baseMemoryMib = 0, maxMemoryMib = 0 } = room() ?? {};
    if (sizeMib < baseMemoryMib || sizeMib > maxMemoryMib)
      throw new LodgeError('unsupported', `VM ${name} has room for ${baseMemoryMib} to ${maxMemoryMib} MiB.`);
    const wanted = (sizeMib - baseMemoryMib) * mib;
    let added = await readAddedMemory(qmp);
    if (!added) {
      if (wanted === 0) return;
      await this.#addMemoryDevice({ baseMemoryMib, maxMemoryMib });
      added = { size: 0, requested: 0 };
    }
    if (wanted > added.size) await agent.useAddedMemory({ timeoutMs: agentMs }).catch(ignoreAgent);
    if (added.requested !== wanted) {
      const path = `/machine/peripheral/${memoryDevice}`;
      await qmp.execute('qom-set', { path, property: 'requested-size', value: wanted });
    }
    const isDone = async (): Promise<boolean> => {
      added = await readAddedMemory(qmp);
      return added?.size === wanted;
    };
    if (await this.#until(isDone, memoryMs, options)) return;
    const nowMib = baseMemoryMib + Math.floor((added?.size ?? 0) / mib);
    throw new LodgeError('timeout', `The guest has ${nowMib} of ${sizeMib} MiB so far, and goes on.`, {
      hint:
        nowMib > sizeMib
          ? 'It gives memory back when it has less use for it.'
          : 'It needs a driver for virtio-mem, and must bring added memory online by itself or through its agent.',
    });
  }

  async #addMemoryDevice(sizes: Pick<Room, 'baseMemoryMib' | 'maxMemoryMib'>): Promise<void> {
    const { qmp } = this.#parts;
    const { backend, device } = memoryParts(sizes, this.#parts.isMemoryShared);
    const slot = requireSlot(freeSlot((await this.#places()).slots, hotplugSlots), this.#parts.name);
    const objects = await qmp.execute('qom-list', { path: '/objects' });
    if (!objects.some((object) => object.name === backend.id)) await qmp.execute('object-add', backend);
    try {
      await qmp.execute('device_add', { ...device, bus: hotplugBus, addr: slotAddress(slot) });
    } catch (error) {
      await qmp.execute('object-del', { id: backend.id }).catch(ignoreRefusal);
      throw error;
    }
    await this.#notePlaces();
  }

  async #setBalloon(targetMib: number, options: CallOptions): Promise<void> {
    const { qmp } = this.#parts;
    const wanted = await this.#balloonBytes(targetMib);
    const addedBytes = (await readAddedMemory(qmp))?.size ?? 0;
    await qmp.execute('balloon', { value: wanted });
    let now = 0;
    const isDone = async (): Promise<boolean> => {
      now = (await readBalloon(qmp)) ?? 0;
      return Math.abs(now - wanted) < mib;
    };
    if (await this.#until(isDone, guestMs, options)) return;
    throw new LodgeError(
      'timeout',
      `The balloon leaves the guest ${Math.floor((now + addedBytes) / mib)} MiB so far, and goes on to ${targetMib} MiB.`,
      { hint: 'A guest without a driver for it, or without that much memory to spare, does not get there.' },
    );
  }

  get #queues(): number {
    return diskQueues(this.#parts.room()?.baseVcpus ?? 1);
  }

  /** The balloon takes of the memory the guest was started with, and knows nothing of what was added. */
  async #balloonBytes(targetMib: number): Promise<number> {
    const { qmp, name } = this.#parts;
    const [summary, added] = await Promise.all([qmp.execute('query-memory-size-summary'), readAddedMemory(qmp)]);
    const wanted = Math.min(summary['base-memory'], targetMib * mib - (added?.size ?? 0));
    if (wanted >= mib) return wanted;
    throw new LodgeError('unsupported', `The balloon of VM ${name} can not take added memory.`, {
      hint: `Set memoryMib to less first, or memoryTargetMib to more than ${Math.floor((added?.size ?? 0) / mib)} MiB.`,
    });
  }

  async #attachDisk(disk: GuestDisk): Promise<void> {
    const { qmp, name } = this.#parts;
    const devices = await readDevices(qmp);
    if (!devices.some(({ id }) => id === diskId(disk.name))) {
      const place = await this.#placeFor(disk, devices);
      const node = await openLayers(this.#parts, disk);
      const [ioThread] = await qmp.execute('query-iothreads');
      try {
        await qmp.execute(
          'device_add',
          diskDevice(disk, node, place, { ioThread: ioThread?.id ?? null, queues: this.#queues }),
        );
      } catch (error) {
        await closeLayers(this.#parts, disk.name);
        throw error;
      }
    }
    try {
      await this.#setLimits(disk.name, disk.limits ?? null);
    } catch (error) {
      await this.#detachDisk(disk.name, {}).catch(() => {});
      throw error;
    }
    if (!(await findDrive(qmp, disk.name)))
      throw new LodgeError('hypervisor_failed', `QEMU of VM ${name} does not show disk ${disk.name}, which it took.`);
    await this.#notePlaces();
  }

  async #placeFor(
    disk: GuestDisk,
    devices: readonly PlacedDevice[],
  ): Promise<{ slot: number } | { target: number } | { port: number | null }> {
    const { slots, targets } = placesOf(devices);
    const hasBus = devices.some(({ id }) => id === hotplugBus);
    if (disk.bus === 'scsi') {
      if (!devices.some(({ id }) => id === scsiController)) {
        const slot = requireSlot(hasBus ? freeSlot(slots, hotplugSlots) : null, this.#parts.name);
        await this.#parts.qmp.execute('device_add', {
          driver: 'virtio-scsi-pci',
          id: scsiController,
          num_queues: this.#queues,
          bus: hotplugBus,
          addr: slotAddress(slot),
        });
      }
      return { target: requireSlot(freeSlot(targets, lastTarget), this.#parts.name) };
    }
    if (disk.bus === 'usb') return { port: await this.#portFor(devices) };
    if (disk.bus !== 'virtio' && disk.bus !== 'nvme')
      throw new LodgeError(
        'unsupported',
        `A disk on ${disk.bus} can not be added to VM ${this.#parts.name} while it runs.`,
      );
    return { slot: requireSlot(hasBus ? freeSlot(slots, hotplugSlots) : null, this.#parts.name) };
  }

  async #detachDisk(disk: string, options: CallOptions): Promise<void> {
    await this.#unplug(diskId(disk), `disk ${disk}`, options);
    await closeLayers(this.#parts, disk);
  }

  async #resizeDisk(disk: string, sizeMib: number): Promise<void> {
    const { qmp, name } = this.#parts;
    const drive = await findDrive(qmp, disk);
    const node = drive?.inserted?.['node-name'];
    if (!node) throw new LodgeError('wrong_state', `VM ${name} runs without the disk ${disk}.`);
    const before = drive.inserted?.image['virtual-size'] ?? 0;
    if (before >= sizeMib * mib) return;
    await qmp.execute('block_resize', { 'node-name': node, size: sizeMib * mib });
    const after = (await findDrive(qmp, disk))?.inserted?.image['virtual-size'];
    if (after !== sizeMib * mib)
      throw new LodgeError('hypervisor_failed', `Disk ${disk} of VM ${name} has ${after} bytes after it was resized.`);
  }

  async #setLimits(disk: string, limits: VmDiskLimits | null): Promise<void> {
    const { qmp } = this.#parts;
    const drive = await findDrive(qmp, disk);
    // An empty drive has nothing to limit.
    if (!drive?.inserted || !drive.qdev) return;
    await qmp.execute('block_set_io_throttle', throttleArguments(drive.qdev, limits));
  }

  async #changeMedium(disk: GuestDisk, isForced: boolean, options: CallOptions): Promise<void> {
    const { qmp, name } = this.#parts;
    const drive = await findDrive(qmp, disk.name);
    const id = drive?.qdev;
    if (!drive || !id) throw new LodgeError('wrong_state', `VM ${name} runs without the drive ${disk.name}.`);
    const node = await openLayers(this.#parts, disk);
    if ((drive.inserted?.['node-name'] ?? null) === node && drive.tray_open !== true) return;
    if (drive.inserted && drive.inserted['node-name'] !== node) {
      // A guest that has locked the tray is asked to open it, as by the button of a drive.
      await qmp.execute('blockdev-open-tray', { id, force: isForced }).catch(ignoreRefusal);
      const isOpen = async (): Promise<boolean> => (await findDrive(qmp, disk.name))?.tray_open === true;
      if (!(await this.#until(isOpen, guestMs, options))) {
        await closeLayers(this.#parts, disk.name);
        throw new LodgeError('timeout', `The guest keeps the tray of ${disk.name} locked.`, {
          hint: 'Unmount the medium in the guest, or take it out by force: lodge vm cdrom eject --force.',
        });
      }
      await qmp.execute('blockdev-remove-medium', { id });
    }
    if (node !== null) {
      if (drive.tray_open !== true) await qmp.execute('blockdev-open-tray', { id, force: true }).catch(ignoreRefusal);
      await qmp.execute('blockdev-insert-medium', { id, 'node-name': node });
    }
    await qmp.execute('blockdev-close-tray', { id });
    await closeLayers(this.#parts, disk.name);
  }

  async #attachNic(nic: GuestNic): Promise<void> {
    const { qmp, name } = this.#parts;
    const devices = await readDevices(qmp);
    const id = nicId(nic.mac);
    if (!devices.some((device) => device.id === id)) {
      const hasBus = devices.some((device) => device.id === hotplugBus);
      const slot = requireSlot(hasBus ? freeSlot(placesOf(devices).slots, hotplugSlots) : null, name);
      // One that an interrupted change has left is of no use to anybody.
      await qmp.execute('netdev_del', { id: netdevId(nic.mac) }).catch(ignoreRefusal);
      await this.#addNetdev(nic);
      const driver = nic.model === 'virtio' ? 'virtio-net-pci' : nic.model;
      const { bootindex: _order, mq, ...others } = nicProperties(nic, false);
      // The command line's "on" is a truth value here.
      const properties = { ...others, ...(mq === undefined ? {} : { mq: true }) };
      try {
        await qmp.execute('device_add', { driver, ...properties, id, bus: hotplugBus, addr: slotAddress(slot) });
      } catch (error) {
        await qmp.execute('netdev_del', { id: netdevId(nic.mac) }).catch(ignoreRefusal);
        throw error;
      }
    }
    await qmp.execute('set_link', { name: id, up: nic.isConnected });
    await this.#notePlaces();
  }

  async #addNetdev(nic: GuestNic): Promise<void> {
    const { qmp, name, descriptorSocket, canUseVhost } = this.#parts;
    const { attachment } = nic;
    if (attachment.kind === 'user') {
      await qmp.execute('netdev_add', { type: 'user', ...userNetdev(nic.mac, attachment), id: netdevId(nic.mac) });
      return;
    }
    const useVhost = canUseVhost && nic.model === 'virtio';
    const names = Array.from({ length: nic.queues }, (_, queue) => `tap-${nic.mac.replaceAll(':', '')}-${queue}`);
    const isMultiQueue = nic.queues > 1;
    const taps = names.map((fdname): MonitorCommand => {
      const descriptor = { tapName: attachment.device ?? attachment.hostInterface, isMultiQueue };
      return { execute: 'getfd', arguments: { fdname }, descriptor };
    });
    const vhosts = (useVhost ? names : []).map((name): MonitorCommand => {
      const descriptor = { path: '/dev/vhost-net', mode: 'rw' } as const;
      return { execute: 'getfd', arguments: { fdname: `${name}-vhost` }, descriptor };
    });
    const [fd, vhostfd] = isMultiQueue ? ['fds', 'vhostfds'] : ['fd', 'vhostfd'];
    const vhost = useVhost ? { vhost: true, [vhostfd]: names.map((name) => `${name}-vhost`).join(':') } : {};
    const commands: MonitorCommand[] = [
      ...taps,
      ...vhosts,
      { execute: 'netdev_add', arguments: { type: 'tap', id: netdevId(nic.mac), [fd]: names.join(':'), ...vhost } },
      ...names.map((fdname): MonitorCommand => ({ execute: 'closefd', arguments: { fdname }, isUndo: true })),
    ];
    try {
      await sendDescriptors({ socketPath: descriptorSocket, commands });
    } catch (error) {
      if (!(error instanceof SendDescriptorsError)) throw error;
      throw new LodgeError('hypervisor_failed', `QEMU of VM ${name} could not be given a NIC: ${error.message}.`, {
        cause: error,
      });
    }
  }

  async #detachNic(mac: string, options: CallOptions): Promise<void> {
    await this.#unplug(nicId(mac), `the NIC ${mac}`, options);
    await this.#parts.qmp.execute('netdev_del', { id: netdevId(mac) }).catch(ignoreRefusal);
  }

  async #setBootOrder(order: Extract<DeviceChange, { kind: 'boot-order' }>['order']): Promise<void> {
    const { qmp } = this.#parts;
    const ids = order.map((one) => ('disk' in one ? diskId(one.disk) : nicId(one.mac)));
    const bootable = (await readDevices(qmp)).filter(({ id }) => /^(disk|nic)-/.test(id)).map(({ id }) => id);
    const set = (id: string, value: number): Promise<unknown> =>
      qmp.execute('qom-set', { path: `/machine/peripheral/${id}`, property: 'bootindex', value });
    // No two may have the same place, not even for a moment.
    for (const id of bootable) await set(id, -1);
    for (const [index, id] of ids.entries()) if (bootable.includes(id)) await set(id, index + 1);
  }

  async #attachUsb(device: Parameters<typeof usbProperties>[0]): Promise<void> {
    const { qmp } = this.#parts;
    const devices = await readDevices(qmp);
    if (devices.some(({ id }) => id === usbId(device.name))) return;
    const port = await this.#portFor(devices);
    await qmp.execute('device_add', { ...usbProperties(device), ...(port === null ? {} : { port: String(port) }) });
    await this.#notePlaces();
  }

  /** Where something can be plugged into USB, with a controller for it. Null: the controller has ports of its own kind. */
  async #portFor(devices: readonly PlacedDevice[]): Promise<number | null> {
    const { qmp, name } = this.#parts;
    if (devices.some(({ id }) => id === usbController)) {
      const path = `/machine/peripheral/${usbController}`;
      const model = await qmp.execute('qom-get', { path, property: 'type' });
      return model === usbControllerModel.driver ? requireSlot(freePort(devices), name) : null;
    }
    const hasBus = devices.some(({ id }) => id === hotplugBus);
    const slot = requireSlot(hasBus ? freeSlot(placesOf(devices).slots, hotplugSlots) : null, name);
    await qmp.execute('device_add', {
      ...usbControllerModel,
      id: usbController,
      bus: hotplugBus,
      addr: slotAddress(slot),
    });
    await this.#notePlaces();
    return 1;
  }

  async #unplug(id: string, what: string, options: CallOptions): Promise<void> {
    const { qmp } = this.#parts;
    if (!(await readDevices(qmp)).some((device) => device.id === id)) return;
    await unplug(qmp, { id, path: `/machine/peripheral/${id}` }, what, { timeoutMs: guestMs, ...options });
    await this.#notePlaces();
  }

  async #places(): Promise<Pick<Room, 'slots' | 'targets'>> {
    return placesOf(await readDevices(this.#parts.qmp));
  }

  async #notePlaces(): Promise<void> {
    this.#parts.onPlaced(await this.#places());
  }

  /** Looks again and again until it is so. False: not in time. */
  async #until(isSo: () => Promise<boolean>, timeoutMs: number, options: CallOptions): Promise<boolean> {
    const deadline = performance.now() + (options.timeoutMs ?? timeoutMs);
    for (;;) {
      if (await isSo()) return true;
      if (performance.now() > deadline) return false;
      await delay(lookMs, undefined, { signal: options.signal });
    }
  }

  #ask<T>(what: string, work: () => Promise<T>): Promise<T> {
    return asking(`${what} VM ${this.#parts.name}`, work);
  }
}

function wordsFor(change: DeviceChange): string {
  switch (change.kind) {
    case 'vcpus':
      return `set ${change.count} vCPUs of`;
    case 'memory':
      return `set ${change.sizeMib} MiB of memory of`;
    case 'balloon':
      return 'set the balloon of';
    case 'attach-disk':
      return `add disk ${change.disk.name} to`;
    case 'detach-disk':
      return `take disk ${change.name} out of`;
    case 'resize-disk':
      return `resize disk ${change.name} of`;
    case 'limits':
      return `limit disk ${change.name} of`;
    case 'medium':
      return `change the medium in ${change.disk.name} of`;
    case 'attach-nic':
      return `add NIC ${change.nic.mac} to`;
    case 'detach-nic':
      return `take NIC ${change.mac} out of`;
    case 'link':
      return `switch NIC ${change.mac} of`;
    case 'boot-order':
      return 'set the boot order of';
    case 'attach-usb':
      return `add the USB device ${change.device.name} to`;
    case 'detach-usb':
      return `take the USB device ${change.name} out of`;
  }
}

function ignoreAgent(error: unknown): void {
  if (!(error instanceof LodgeError)) throw error;
}
