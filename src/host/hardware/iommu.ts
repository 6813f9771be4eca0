// The IOMMU: VT-d and AMD-Vi, which translate and check what devices read and write, so that one can be given to a guest.
// Sources: the kernel's Documentation/ABI/testing/sysfs-class-iommu and sysfs-kernel-iommu_groups; the ACPI table DMAR
// (Intel VT-d specification, 8.1) and IVRS (AMD IOMMU specification 48882, 5.2); /proc/interrupts, where the kernel writes
// IR- before the chip whose interrupts are remapped (arch/x86/kernel/apic/io_apic.c, drivers/iommu).
import { type HardwareFact, type HardwareGroup } from './fact.ts';
import { type HardwareSource } from './source.ts';

const dmarPath = '/sys/firmware/acpi/tables/DMAR';
const ivrsPath = '/sys/firmware/acpi/tables/IVRS';

/** What the IOMMU of this machine is and does. */
export function readIommu(source: HardwareSource): HardwareGroup {
  const units = source.list('/sys/class/iommu').filter((name) => /^(dmar|ivhd)/.test(name));
  const groups = source.list('/sys/kernel/iommu_groups');
  const isRemapping = /\bIR-/.test(source.text('/proc/interrupts') ?? '');
  const dmar = source.bytes(dmarPath);
  const ivrs = source.bytes(ivrsPath);
  const isActive = groups.length > 0;
  const facts: HardwareFact[] = [
    {
      name: 'iommu',
      title: dmar ? 'Intel VT-d' : ivrs ? 'AMD-Vi' : 'IOMMU',
      isPresent: dmar !== null || ivrs !== null || units.length > 0,
      value: units.length > 0 ? `${units.length} ${units.length === 1 ? 'unit' : 'units'}: ${units.join(', ')}` : null,
      isUsed: isActive,
      explanation:
        'Translates the addresses that devices use and keeps each to the memory it was given. Without it a passed-through device could read and write all of the host.',
      source: dmar
        ? `${dmarPath} (firmware), /sys/class/iommu (kernel)`
        : ivrs
          ? `${ivrsPath} (firmware), /sys/class/iommu (kernel)`
          : `/sys/class/iommu; firmware has neither ${dmarPath} nor ${ivrsPath}`,
    },
    {
      name: 'iommu-groups',
      title: 'IOMMU groups',
      isPresent: isActive,
      value: isActive ? String(groups.length) : null,
      isUsed: null,
      explanation:
        'Devices that can reach each other without passing the IOMMU are one group, and can only be given to guests together.',
      source: '/sys/kernel/iommu_groups',
    },
    {
      name: 'interrupt-remapping',
      title: 'Interrupt remapping',
      isPresent: isRemapping ? true : dmar ? ((dmar[37] ?? 0) & 1) === 1 : isActive ? null : false,
      value: null,
      isUsed: isRemapping,
      explanation:
        'Checks the interrupts that devices send. Without it a guest with a passed-through device could send any interrupt to the host, and VFIO refuses by default.',
      source: dmar ? `${dmarPath} byte 37 bit 0, and IR- in /proc/interrupts` : 'IR- in /proc/interrupts',
    },
  ];
  if (dmar && dmar.length > 37) {
    facts.push({
      name: 'host-address-width',
      title: 'Host address width',
      isPresent: true,
      value: `${dmar[36]! + 1} bits`,
      isUsed: null,
      explanation: 'The addresses that VT-d can reach.',
      source: `${dmarPath} byte 36 (VT-d specification, 8.1)`,
    });
  }
  return {
    name: 'iommu',
    title: 'IOMMU (VT-d, AMD-Vi)',
    explanation: 'What gives a device to a guest safely: PCI passthrough and SR-IOV need it.',
    facts,
  };
}

/** A PCI device that can be shared out as virtual functions. */
export interface SriovDevice {
  /** `0000:3b:00.0`. */
  readonly address: string;
  /** Vendor and device number as in lspci -n: `8086:1592`. */
  readonly id: string;
  /** The kernel's driver; null: none. */
  readonly driver: string | null;
  /** Its network links, if it has any. */
  readonly links: string[];
  /** Virtual functions it can have, and those it has now. */
  readonly functionsMax: number;
  readonly functions: number;
  readonly iommuGroup: number | null;
  readonly numaNode: number | null;
}

const pciRoot = '/sys/bus/pci/devices';

/** The devices with SR-IOV (PCI Express base specification, 9; sysfs-bus-pci: sriov_totalvfs, sriov_numvfs). */
export function readSriov(source: HardwareSource): SriovDevice[] {
  return source.list(pciRoot).flatMap((address) => {
    const folder = `${pciRoot}/${address}`;
    const total = source.text(`${folder}/sriov_totalvfs`);
    if (total === null) return [];
    const hex = (name: string): string => (source.text(`${folder}/${name}`) ?? '').replace(/^0x/, '');
    const group = source.link(`${folder}/iommu_group`);
    const numa = Number(source.text(`${folder}/numa_node`) ?? '-1');
    return [
      {
        address,
        id: `${hex('vendor')}:${hex('device')}`,
        driver: source.link(`${folder}/driver`),
        links: source.list(`${folder}/net`),
        functionsMax: Number(total),
        functions: Number(source.text(`${folder}/sriov_numvfs`) ?? '0'),
        iommuGroup: group === null ? null : Number(group),
        // The kernel says -1 where there is no NUMA.
        numaNode: numa < 0 ? null : numa,
      },
    ];
  });
}
