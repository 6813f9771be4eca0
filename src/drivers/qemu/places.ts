// Where a guest's devices sit on its bus. Every device has a place of its own kind, so that a disk that is added does not
// move the NICs (whose names in the guest follow from their places), and the places of one start are those of the next.
//
// PCI (q35 and pc), slot.function:
//   1, 31     the machine's own            8–15   NICs 0–7, a slot each
//   2         video                        16–23  disks on virtio or nvme, eight a slot
//   3.0–3.3   rng, balloon, serial, panic  24–26  NICs 8–31, eight a slot
//   3.4, 3.5  keyboard and tablet on virtio
//   4         USB                          5      SCSI controller      6  further SATA controllers
// microvm has 24 virtio-mmio transports: rng 0, balloon 1, serial 2, disks upwards from 3, NICs downwards from 23.
// https://www.qemu.org/docs/master/system/i386/microvm.html
import { LodgeError } from '../../api/errors.ts';

/** Devices of which a machine has one. */
export type FixedDevice = 'video' | 'rng' | 'balloon' | 'serial' | 'panic' | 'keyboard' | 'tablet' | 'usb' | 'scsi';

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

  constructor(machine: 'q35' | 'pc' | 'microvm') {
    this.#isMmio = machine === 'microvm';
    this.#bus = machine === 'q35' ? 'pcie.0' : 'pci.0';
  }

  fixed(device: FixedDevice): string {
    const transport = mmioPlaces[device];
    if (this.#isMmio && transport !== undefined) return this.#mmio(transport);
    return this.#pci(...pciPlaces[device]);
  }

  nic(): string {
    const index = this.#nics++;
    if (this.#isMmio) return this.#mmio(this.#roomFor(mmioTransports - 1 - index));
    return index < 8
      ? this.#pci(8 + index, 0, false)
      : this.#pci(24 + Math.floor((index - 8) / 8), (index - 8) % 8, true);
  }

  /** A disk that is a device of the bus itself. */
  disk(): string {
    const index = this.#disks++;
    if (this.#isMmio) return this.#mmio(this.#roomFor(firstMmioDisk + index));
    return this.#pci(16 + Math.floor(index / 8), index % 8, true);
  }

  /** A SATA controller besides the machine's own. */
  sataController(): string {
    return this.#pci(6, this.#controllers++, true);
  }

  /** Refuses what the other kind of device has taken already. */
  #roomFor(transport: number): number {
    if (this.#nics + this.#disks <= microvmRoom) return transport;
    throw new LodgeError('unsupported', `A microvm has room for ${microvmRoom} disks and NICs together.`, {
      hint: 'Take some away (first-boot data is a disk too), or set machine to q35.',
    });
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
