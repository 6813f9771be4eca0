// Where a guest's devices sit on its bus. Every device has a place of its own kind, so that a disk that is added does not
// move the NICs (whose names in the guest follow from their places), and the places of one start are those of the next.
//
// PCI (q35 and pc), slot.function:
//   1, 31     the machine's own            4      USB
//   2         video                        5      SCSI controller
//   3.0–3.3   rng, balloon, serial, panic  6      further SATA controllers
//   3.4, 3.5  keyboard and tablet on virtio
//   7         the bus of slots.ts: disks on virtio or nvme, NICs
//   16–23     disks beyond its last slot, eight a slot
//   24–27     NICs beyond its last slot, eight a slot
//   28, 29    shared folders beyond its last slot, eight a slot
// microvm has 24 virtio-mmio transports: rng 0, balloon 1, serial 2, disks upwards from 3, NICs downwards from 23.
// https://www.qemu.org/docs/master/system/i386/microvm.html
import { LodgeError } from '../../api/errors.ts';
import { hotplugBus, scsiController, slotAddress, type Slots } from './slots.ts';

/** Devices of which a machine has one. */
export type FixedDevice =
  | 'video'
  | 'rng'
  | 'balloon'
  | 'serial'
  | 'panic'
  | 'keyboard'
  | 'tablet'
  | 'usb'
  | 'scsi'
  | 'hotplug';

const pciPlaces: Record<FixedDevice, readonly [slot: number, fn: number, isShared: boolean]> = {
  video: [2, 0, false],
  rng: [3, 0, true],
  balloon: [3, 1, true],
  serial: [3, 2, true],
  panic: [3, 3, true],
  keyboard: [3, 4, true],
  tablet: [3, 5, true],
  usb: [4, 0, false],
  scsi: [5, 0, false],
  hotplug: [7, 0, false],
};
const mmioPlaces: Partial<Record<FixedDevice, number>> = { rng: 0, balloon: 1, serial: 2 };

/** With ACPI, a second IOAPIC serves those beyond the first eight. */
const mmioTransports = 24;
const firstMmioDisk = 3;
/** Disks and NICs that a microvm has room for together. */
export const microvmRoom = mmioTransports - firstMmioDisk;

/** Gives each device its place, in the order in which they are asked for. */
export class DevicePlaces {
  readonly #bus: string;
  readonly #isMmio: boolean;
  #nics = 0;
  #disks = 0;
  #controllers = 0;
  #sharedFolders = 0;
  readonly #slots: Slots;

  /** `slots`: of the devices that sit on the bus of slots.ts. */
  constructor(machine: 'q35' | 'pc' | 'microvm', slots: Slots = {}) {
    this.#slots = slots;
    this.#isMmio = machine === 'microvm';
    this.#bus = machine === 'q35' ? 'pcie.0' : 'pci.0';
  }

  fixed(device: FixedDevice): string {
    // A controller that was added while the guest ran is where it was added.
    const slot = this.slot(device === 'scsi' ? scsiController : device);
    if (slot !== null) return slot;
    const transport = mmioPlaces[device];
    if (this.#isMmio && transport !== undefined) return this.#mmio(transport);
    return this.#pci(...pciPlaces[device]);
  }

  /** Of a device by its id, where it has a slot on the bus of slots.ts; null: it has none. */
  slot(id: string): string | null {
    const slot = this.#slots[id];
    return slot === undefined ? null : `,bus=${hotplugBus},addr=${slotAddress(slot)}`;
  }

  nic(id: string): string {
    const slot = this.slot(id);
    if (slot !== null) return slot;
    const index = this.#nics++;
    if (this.#isMmio) return this.#mmio(this.#roomFor(mmioTransports - 1 - index));
    return this.#pci(24 + Math.floor(index / 8), index % 8, true);
  }

  /** A disk that is a device of the bus itself. */
  disk(id: string): string {
    const slot = this.slot(id);
    if (slot !== null) return slot;
    const index = this.#disks++;
    if (this.#isMmio) return this.#mmio(this.#roomFor(firstMmioDisk + index));
    return this.#pci(16 + Math.floor(index / 8), index % 8, true);
  }

  sharedFolder(id: string): string {
    const slot = this.slot(id);
    if (slot !== null) return slot;
    if (this.#isMmio) return this.disk(id);
    const index = this.#sharedFolders++;
    return this.#pci(28 + Math.floor(index / 8), index % 8, true);
  }

  /** A SATA controller besides the machine's own. */
  sataController(): string {
    return this.#pci(6, this.#controllers++, true);
  }

  /** Refuses what the other kind of device has taken already. */
  #roomFor(transport: number): number {
    if (this.#nics + this.#disks <= microvmRoom) return transport;
    throw new LodgeError(
      'unsupported',
      `A microvm has room for ${microvmRoom} disks, shared folders and NICs together.`,
      {
        hint: 'Take some away (first-boot data is a disk too), or set machine to q35.',
      },
    );
  }

  #pci(slot: number, fn: number, isShared: boolean): string {
    const hex = (value: number): string => `0x${value.toString(16)}`;
    return isShared
      ? `,bus=${this.#bus},addr=${hex(slot)}.${hex(fn)}${fn === 0 ? ',multifunction=on' : ''}`
      : `,bus=${this.#bus},addr=${hex(slot)}`;
  }

  #mmio(transport: number): string {
    return `,bus=virtio-mmio-bus.${transport}`;
  }
}
