// Intel VT-x: what the processor can do for guests, read from the VMX capability registers where they may be read, and
// otherwise from what the kernel found in them at boot. Sources: Intel SDM volume 3, appendix A ("VMX capability reporting
// facility"; the numbers of registers and bits below), the kernel's arch/x86/kernel/cpu/feat_ctl.c (line "vmx flags" of
// /proc/cpuinfo), arch/x86/kvm/vmx/vmx.c (parameters of kvm_intel).
import { readSwitch, type HardwareFact, type HardwareGroup } from './fact.ts';
import { type HardwareSource } from './source.ts';

const msrFeatureControl = 0x3a;
const msrBasic = 0x480;
const msrPinBased = 0x481;
const msrMisc = 0x485;
const msrSecondary = 0x48b;
const msrEptVpid = 0x48c;

/** Which register tells of an ability, and at which bit. Controls may be switched on where their upper half has a 1. */
interface Place {
  readonly msr: number;
  readonly bit: number;
  readonly names: string;
}

const pin = (bit: number): Place => ({ msr: msrPinBased, bit: bit + 32, names: 'IA32_VMX_PINBASED_CTLS, SDM A.3.1' });
const secondary = (bit: number): Place => ({
  msr: msrSecondary,
  bit: bit + 32,
  names: 'IA32_VMX_PROCBASED_CTLS2, SDM A.3.3',
});
const ept = (bit: number): Place => ({ msr: msrEptVpid, bit, names: 'IA32_VMX_EPT_VPID_CAP, SDM A.10' });

interface Ability {
  name: string;
  title: string;
  place: Place;
  /** The kernel's word for it in the line "vmx flags"; null: it has none. */
  flag: string | null;
  /** The parameter of kvm_intel that says whether KVM uses it. */
  parameter?: string;
  explanation: string;
}

const abilities: readonly Ability[] = [
  {
    name: 'ept',
    title: 'Extended page tables (EPT)',
    place: secondary(1),
    flag: 'ept',
    parameter: 'ept',
    explanation:
      'The processor translates a guest’s physical addresses by itself, through a second set of page tables. Without it the hypervisor keeps shadow page tables, and the guest leaves to it at each change of its own.',
  },
  {
    name: 'ept-2mib-pages',
    title: 'EPT 2-MiB pages',
    place: ept(16),
    flag: null,
    explanation:
      'A guest’s memory can be mapped in 2-MiB pieces: fewer misses of the translation cache, shorter walks.',
  },
  {
    name: 'ept-1gib-pages',
    title: 'EPT 1-GiB pages',
    place: ept(17),
    flag: 'ept_1gb',
    explanation: 'The same with pieces of 1 GiB, for guests with large memory on 1-GiB huge pages.',
  },
  {
    name: 'ept-accessed-dirty',
    title: 'EPT accessed and dirty flags',
    place: ept(21),
    flag: 'ept_ad',
    parameter: 'eptad',
    explanation:
      'The processor marks pages that a guest has read or written, so that the hypervisor needn’t catch the first access to find out; for swapping, working sets and migration.',
  },
  {
    name: 'ept-execute-only',
    title: 'EPT execute-only pages',
    place: ept(0),
    flag: 'ept_x_only',
    explanation: 'Pages that can be run but not read; used by inspection and protection of guests from outside.',
  },
  {
    name: 'ept-5-level',
    title: 'EPT with 5 levels',
    place: ept(7),
    flag: 'ept_5level',
    explanation: 'Guest-physical addresses of up to 57 bits instead of 48, for guests with more than 256 TiB.',
  },
  {
    name: 'vpid',
    title: 'Virtual-processor identifiers (VPID)',
    place: secondary(5),
    flag: 'vpid',
    parameter: 'vpid',
    explanation:
      'Translations in the cache bear the number of their virtual processor, so that they need not be thrown away at each VM entry and exit.',
  },
  {
    name: 'unrestricted-guest',
    title: 'Unrestricted guest',
    place: secondary(7),
    flag: 'unrestricted_guest',
    parameter: 'unrestricted_guest',
    explanation:
      'A guest can run in real mode and without paging in VMX non-root operation. Without it the hypervisor emulates firmware and boot loaders instruction by instruction.',
  },
  {
    name: 'vmcs-shadowing',
    title: 'VMCS shadowing',
    place: secondary(14),
    flag: 'shadow_vmcs',
    parameter: 'enable_shadow_vmcs',
    explanation:
      'A guest that is itself a hypervisor reads and writes its VMCS without leaving: the main cost of nested virtualization.',
  },
  {
    name: 'apic-register-virtualization',
    title: 'APIC-register virtualization (APICv)',
    place: secondary(8),
    flag: 'vapic_reg',
    parameter: 'enable_apicv',
    explanation: 'Most accesses to the interrupt controller stay in the guest.',
  },
  {
    name: 'virtual-interrupt-delivery',
    title: 'Virtual-interrupt delivery (APICv)',
    place: secondary(9),
    flag: 'vid',
    parameter: 'enable_apicv',
    explanation:
      'The processor evaluates and delivers pending interrupts in the guest, and its end-of-interrupt needs no exit.',
  },
  {
    name: 'posted-interrupts',
    title: 'Posted interrupts',
    place: pin(7),
    flag: 'posted_intr',
    parameter: 'enable_apicv',
    explanation:
      'An interrupt reaches a running guest without making it leave; with VT-d also straight from a passed-through device.',
  },
  {
    name: 'ipi-virtualization',
    title: 'IPI virtualization',
    // A tertiary control: its register is IA32_VMX_PROCBASED_CTLS3, all of which are allowed-1 bits.
    place: { msr: 0x492, bit: 4, names: 'IA32_VMX_PROCBASED_CTLS3, SDM A.3.4' },
    flag: 'ipi_virt',
    parameter: 'enable_ipiv',
    explanation: 'Interrupts that vCPUs send each other need no exit of the sender.',
  },
  {
    name: 'page-modification-log',
    title: 'Page-modification logging (PML)',
    place: secondary(17),
    flag: 'pml',
    parameter: 'pml',
    explanation:
      'The processor writes down which pages a guest changes: live migration and snapshots cost the guest less.',
  },
  {
    name: 'tsc-scaling',
    title: 'TSC scaling',
    place: secondary(25),
    flag: 'tsc_scaling',
    explanation:
      'A guest keeps the speed of its time stamp counter after migration to a processor with another frequency.',
  },
  {
    name: 'preemption-timer',
    title: 'VMX-preemption timer',
    place: pin(6),
    flag: 'preemption_timer',
    parameter: 'preemption_timer',
    explanation: 'The guest’s own timer is kept by the processor instead of a timer of the host.',
  },
  {
    name: 'pause-loop-exiting',
    title: 'PAUSE-loop exiting',
    place: secondary(10),
    flag: 'ple',
    explanation: 'A vCPU that spins for a lock gives its processor up, so that the one that holds the lock can run.',
  },
  {
    name: 'mode-based-execute',
    title: 'Mode-based execute control (MBEC)',
    place: secondary(22),
    flag: 'ept_mode_based_exec',
    explanation: 'Separate execute permission for kernel and user pages; Windows’ memory integrity is slow without it.',
  },
  {
    name: 'virtual-nmi',
    title: 'Virtual NMIs',
    place: pin(5),
    flag: 'vnmi',
    explanation: 'Non-maskable interrupts are kept and masked for the guest by the processor.',
  },
];

/**
 * Whether firmware has switched VMX on: what it wrote into IA32_FEATURE_CONTROL (SDM volume 3, “Enabling and
 * entering VMX operation”); null: it can't be read. */
export function vmxLock(source: HardwareSource): 'on' | 'off-locked' | 'off' | null {
  const control = source.msr(msrFeatureControl);
  if (control === null) return null;
  // Bit 0: locked until the next reset; bit 2: VMXON outside of SMX.
  if ((control & 4n) !== 0n) return 'on';
  return (control & 1n) === 0n ? 'off' : 'off-locked';
}

/** What VT-x can do here. `vmxFlags`: the words of the line "vmx flags" of /proc/cpuinfo; null: the kernel has none. */
export function readVtX(source: HardwareSource, vmxFlags: ReadonlySet<string> | null): HardwareGroup {
  const facts: HardwareFact[] = [...basics(source)];
  for (const { name, title, place, flag, parameter, explanation } of abilities) {
    const register = source.msr(place.msr);
    const isPresent =
      register !== null
        ? ((register >> BigInt(place.bit)) & 1n) === 1n
        : flag !== null && vmxFlags
          ? vmxFlags.has(flag)
          : null;
    const where = `MSR 0x${place.msr.toString(16)} bit ${place.bit} (${place.names})`;
    facts.push({
      name,
      title,
      isPresent,
      value: null,
      isUsed: parameter ? readSwitch(source.text(`/sys/module/kvm_intel/parameters/${parameter}`)) : null,
      explanation,
      source: register === null && flag !== null ? `/proc/cpuinfo, vmx flags: ${flag}` : where,
    });
  }
  return {
    name: 'vt-x',
    title: 'Intel VT-x',
    explanation:
      'VMX gives the processor two modes: root operation for the hypervisor, non-root operation for guests. VM entry loads a guest’s state from its VMCS (virtual-machine control structure) and runs it at full speed; an instruction or event that the VMCS names makes a VM exit back to the hypervisor.',
    facts,
  };
}

function basics(source: HardwareSource): HardwareFact[] {
  const basic = source.msr(msrBasic);
  const misc = source.msr(msrMisc);
  const field = (register: bigint | null, low: number, bits: number): number | null =>
    register === null ? null : Number((register >> BigInt(low)) & ((1n << BigInt(bits)) - 1n));
  const revision = field(basic, 0, 31);
  const vmcsBytes = field(basic, 32, 13);
  const rate = field(misc, 0, 5);
  const fact = (
    name: string,
    title: string,
    value: string | null,
    explanation: string,
    from: string,
  ): HardwareFact => ({
    name,
    title,
    isPresent: value === null ? null : true,
    value,
    isUsed: null,
    explanation,
    source: from,
  });
  return [
    fact(
      'vmcs-revision',
      'VMCS revision identifier',
      revision === null ? null : `0x${revision.toString(16)}`,
      'Processors with the same number lay out the VMCS in the same way.',
      'MSR 0x480 bits 30:0 (IA32_VMX_BASIC, SDM A.1)',
    ),
    fact(
      'vmcs-size',
      'Size of a VMCS',
      vmcsBytes === null ? null : `${vmcsBytes} bytes`,
      'Memory that the processor uses to keep one virtual processor’s state, controls and reason of the last exit.',
      'MSR 0x480 bits 44:32 (IA32_VMX_BASIC, SDM A.1)',
    ),
    fact(
      'preemption-timer-rate',
      'Rate of the VMX-preemption timer',
      rate === null ? null : `1 tick each ${2 ** rate} TSC ticks`,
      'How fine the processor’s own timer for guests is.',
      'MSR 0x485 bits 4:0 (IA32_VMX_MISC, SDM A.6)',
    ),
  ];
}
