// Machines of both makers as a HardwareSource: files, CPUID leaves and registers, written down from the definitions in
// the makers' manuals and the kernel's documentation, so that the parsers of hardware facts run over machines that aren't
// here.
import { type CpuidRegisters, type HardwareSource } from '../../src/host/hardware/source.ts';

export interface Recording {
  files?: Record<string, string | Uint8Array>;
  links?: Record<string, string>;
  /** By leaf. */
  cpuid?: Record<number, Partial<CpuidRegisters>>;
  /** By register. */
  msr?: Record<number, bigint>;
  /** Why devices can't be opened; the others can. */
  problems?: Record<string, string>;
}

export function recordedMachine(recording: Recording): HardwareSource {
  const { files = {}, links = {}, cpuid = {}, msr = {}, problems = {} } = recording;
  const paths = [...Object.keys(files), ...Object.keys(links)];
  return {
    text: (path) => {
      const content = files[path];
      return content === undefined ? null : Buffer.from(content).toString('utf8').trim();
    },
    bytes: (path) => (files[path] === undefined ? null : Buffer.from(files[path])),
    list: (folder) => {
      const below = paths.filter((path) => path.startsWith(`${folder}/`));
      return [...new Set(below.map((path) => path.slice(folder.length + 1).split('/')[0]!))].toSorted();
    },
    link: (path) => links[path]?.split('/').at(-1) ?? null,
    cpuid: (leaf) => (cpuid[leaf] ? { eax: 0, ebx: 0, ecx: 0, edx: 0, ...cpuid[leaf] } : null),
    msr: (index) => msr[index] ?? null,
    openProblem: (path) => problems[path] ?? null,
  };
}

/** The allowed-1 half of a control register, with these bits. */
export function allowed(...bits: number[]): bigint {
  return bits.reduce((sum, bit) => sum | (1n << BigInt(bit + 32)), 0n);
}

function cpuInfo(fields: Record<string, string>): string {
  return `processor\t: 0\n${Object.entries(fields)
    .map(([name, value]) => `${name}\t: ${value}`)
    .join('\n')}\n\n`;
}

/** DMAR: 36 bytes of head, host address width less one, flags (bit 0: interrupt remapping). */
function dmarTable(addressBits: number, flags: number): Uint8Array {
  const table = Buffer.alloc(48);
  table.write('DMAR');
  table[36] = addressBits - 1;
  table[37] = flags;
  return table;
}

/** A Xeon with everything, VT-d on, nested virtualization on, one NIC with SR-IOV; registers can be read. */
export const xeon: Recording = {
  files: {
    '/proc/cpuinfo': cpuInfo({
      vendor_id: 'GenuineIntel',
      'cpu family': '6',
      model: '106',
      'model name': 'Intel(R) Xeon(R) Gold 6338 CPU @ 2.00GHz',
      stepping: '6',
      microcode: '0xd0003d1',
      flags: 'fpu vme tsc msr vmx smx ept vpid',
      'vmx flags':
        'vnmi preemption_timer posted_intr invvpid ept_x_only ept_ad ept_1gb flexpriority apicv tsc_offset vtpr mtf vapic ept vpid unrestricted_guest vapic_reg vid ple shadow_vmcs pml ept_mode_based_exec tsc_scaling',
    }),
    '/sys/module/kvm/parameters/halt_poll_ns': '200000',
    '/sys/module/kvm/parameters/tdp_mmu': 'Y',
    '/sys/module/kvm_intel/parameters/ept': 'Y',
    '/sys/module/kvm_intel/parameters/vpid': 'Y',
    '/sys/module/kvm_intel/parameters/unrestricted_guest': 'Y',
    '/sys/module/kvm_intel/parameters/enable_apicv': 'Y',
    '/sys/module/kvm_intel/parameters/pml': 'N',
    '/sys/module/kvm_intel/parameters/nested': '1',
    '/sys/firmware/acpi/tables/DMAR': dmarTable(46, 1),
    '/sys/class/iommu/dmar0/intel-iommu/version': '5:0',
    '/sys/class/iommu/dmar1/intel-iommu/version': '5:0',
    '/sys/kernel/iommu_groups/0/type': 'DMA-FQ',
    '/sys/kernel/iommu_groups/1/type': 'DMA-FQ',
    '/proc/interrupts': '  9:  0  IR-IO-APIC    9-fasteoi   acpi\n120:  3  IR-PCI-MSI 1-edge eth0',
    '/sys/bus/pci/devices/0000:3b:00.0/sriov_totalvfs': '64',
    '/sys/bus/pci/devices/0000:3b:00.0/sriov_numvfs': '4',
    '/sys/bus/pci/devices/0000:3b:00.0/vendor': '0x8086',
    '/sys/bus/pci/devices/0000:3b:00.0/device': '0x1592',
    '/sys/bus/pci/devices/0000:3b:00.0/numa_node': '0',
    '/sys/bus/pci/devices/0000:3b:00.0/net/ens1f0/mtu': '1500',
    '/sys/bus/pci/devices/0000:00:1f.0/vendor': '0x8086',
    '/sys/devices/system/cpu/vulnerabilities/l1tf': 'Not affected',
    '/sys/devices/system/cpu/vulnerabilities/mmio_stale_data': 'Mitigation: Clear CPU buffers; SMT vulnerable',
    '/sys/devices/system/cpu/smt/control': 'on',
    '/sys/devices/system/clocksource/clocksource0/current_clocksource': 'tsc',
    '/sys/kernel/mm/transparent_hugepage/enabled': 'always [madvise] never',
    '/proc/sys/vm/overcommit_memory': '0',
    '/proc/pressure/memory': 'some avg10=0.00 avg60=0.00 avg300=0.00 total=0',
    '/proc/cmdline': 'BOOT_IMAGE=/vmlinuz root=/dev/sda1 ro intel_iommu=on iommu=pt',
  },
  links: {
    '/sys/bus/pci/devices/0000:3b:00.0/driver': '../../../bus/pci/drivers/ice',
    '/sys/bus/pci/devices/0000:3b:00.0/iommu_group': '../../../kernel/iommu_groups/1',
  },
  cpuid: { 1: { ecx: 1 << 5 } },
  msr: {
    // Locked, VMX outside of SMX.
    0x3a: 0b101n,
    // Revision 4, 1024 bytes, write-back, true controls.
    0x480: 4n | (1024n << 32n) | (6n << 50n) | (1n << 55n),
    0x481: allowed(5, 6, 7),
    0x485: 5n,
    0x48b: allowed(0, 1, 5, 7, 8, 9, 10, 14, 17, 22, 25),
    0x48c: 1n | (1n << 6n) | (1n << 14n) | (1n << 16n) | (1n << 17n) | (1n << 21n),
  },
};

/** An EPYC whose registers can't be read, but CPUID can. */
export const epyc: Recording = {
  files: {
    '/proc/cpuinfo': cpuInfo({
      vendor_id: 'AuthenticAMD',
      'cpu family': '25',
      model: '1',
      'model name': 'AMD EPYC 7763 64-Core Processor',
      stepping: '1',
      microcode: '0xa0011d5',
      flags:
        'fpu msr svm npt lbrv svm_lock nrip_save tsc_scale vmcb_clean flushbyasid decodeassists pausefilter pfthreshold v_vmsave_vmload vgif sev sev_es',
    }),
    '/sys/module/kvm/parameters/halt_poll_ns': '0',
    '/sys/module/kvm_amd/parameters/npt': 'Y',
    '/sys/module/kvm_amd/parameters/avic': 'N',
    '/sys/module/kvm_amd/parameters/nested': '0',
    '/sys/module/kvm_amd/parameters/sev': 'Y',
    '/sys/module/kvm_amd/parameters/sev_es': 'N',
    '/sys/firmware/acpi/tables/IVRS': Buffer.alloc(48),
    '/proc/interrupts': '  9:  0  IO-APIC    9-fasteoi   acpi',
    '/sys/devices/system/cpu/vulnerabilities/retbleed': 'Vulnerable',
    '/proc/cmdline': 'root=/dev/sda1 mitigations=off',
  },
  cpuid: {
    0x8000_0001: { ecx: 1 << 2 },
    // Revision 1, 32768 ASIDs; nested paging … vGIF, with AVIC.
    0x8000_000a: {
      eax: 1,
      ebx: 32_768,
      edx: [0, 1, 2, 3, 4, 5, 6, 7, 10, 12, 13, 15, 16].reduce((sum, bit) => (sum | (1 << bit)) >>> 0, 0),
    },
    0x8000_001f: { eax: 0b1_1011, ecx: 509, edx: 100 },
  },
};

/** The same machine with other files, leaves, registers or problems. */
export function changed(recording: Recording, change: Recording): Recording {
  return {
    files: { ...recording.files, ...change.files },
    links: { ...recording.links, ...change.links },
    cpuid: { ...recording.cpuid, ...change.cpuid },
    msr: { ...recording.msr, ...change.msr },
    problems: { ...recording.problems, ...change.problems },
  };
}

/** The same machine without the files whose path begins so. */
export function without(recording: Recording, ...prefixes: string[]): Recording {
  const files = Object.entries(recording.files ?? {}).filter(
    ([path]) => !prefixes.some((prefix) => path.startsWith(prefix)),
  );
  return { ...recording, files: Object.fromEntries(files) };
}

/** The same machine with other words in the line "flags" of /proc/cpuinfo. */
export function withFlags(recording: Recording, change: (flags: string[]) => string[]): Recording {
  const text = String(recording.files!['/proc/cpuinfo']).replace(
    /^flags\t: (.*)$/m,
    (_, flags: string) => `flags\t: ${change(flags.split(' ')).join(' ')}`,
  );
  return changed(recording, { files: { '/proc/cpuinfo': text } });
}
