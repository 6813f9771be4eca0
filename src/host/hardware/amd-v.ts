// AMD-V (SVM): what the processor can do for guests, from CPUID leaf 0x8000000A where the cpuid device may be read, and
// otherwise from the kernel's flags. Sources: AMD64 APM volume 2, chapter 15 and volume 3, appendix E.4.9 (Fn8000_000A; the
// bits below), the kernel's arch/x86/include/asm/cpufeatures.h (words of /proc/cpuinfo), arch/x86/kvm/svm (parameters of
// kvm_amd).
import { readSwitch, type HardwareFact, type HardwareGroup } from './fact.ts';
import { type HardwareSource } from './source.ts';

const svmLeaf = 0x8000_000a;
const msrVmCr = 0xc001_0114;

interface Ability {
  name: string;
  title: string;
  /** Bit of EDX. */
  bit: number;
  /** The kernel's word; null: it has none. */
  flag: string | null;
  parameter?: string;
  explanation: string;
}

const abilities: readonly Ability[] = [
  {
    name: 'nested-paging',
    title: 'Nested paging (NPT)',
    bit: 0,
    flag: 'npt',
    parameter: 'npt',
    explanation:
      'The processor translates a guest’s physical addresses by itself, through a second set of page tables. Without it the hypervisor keeps shadow page tables, and the guest leaves to it at each change of its own.',
  },
  {
    name: 'lbr-virtualization',
    title: 'LBR virtualization',
    bit: 1,
    flag: 'lbrv',
    parameter: 'lbrv',
    explanation: 'The record of last branches is switched with the guest, so that debuggers work in it.',
  },
  {
    name: 'svm-lock',
    title: 'SVM lock',
    bit: 2,
    flag: 'svm_lock',
    explanation: 'Firmware can lock SVM off so that only a key switches it on again.',
  },
  {
    name: 'nrip-save',
    title: 'NRIP save',
    bit: 3,
    flag: 'nrip_save',
    parameter: 'nrips',
    explanation: 'At an exit the processor tells the address of the next instruction; otherwise it has to be decoded.',
  },
  {
    name: 'tsc-scaling',
    title: 'TSC ratio',
    bit: 4,
    flag: 'tsc_scale',
    parameter: 'tsc_scaling',
    explanation:
      'A guest keeps the speed of its time stamp counter after migration to a processor with another frequency.',
  },
  {
    name: 'vmcb-clean',
    title: 'VMCB clean bits',
    bit: 5,
    flag: 'vmcb_clean',
    explanation: 'The hypervisor marks what it hasn’t changed in the VMCB, and the processor needn’t load it again.',
  },
  {
    name: 'flush-by-asid',
    title: 'Flush by ASID',
    bit: 6,
    flag: 'flushbyasid',
    explanation: 'The cached translations of one guest can be thrown away without those of the others.',
  },
  {
    name: 'decode-assists',
    title: 'Decode assists',
    bit: 7,
    flag: 'decodeassists',
    explanation: 'At an exit the processor hands over the bytes of the instruction that made it.',
  },
  {
    name: 'pause-filter',
    title: 'Pause filter',
    bit: 10,
    flag: 'pausefilter',
    explanation: 'A vCPU that spins for a lock gives its processor up, so that the one that holds the lock can run.',
  },
  {
    name: 'pause-filter-threshold',
    title: 'Pause filter threshold',
    bit: 12,
    flag: 'pfthreshold',
    explanation: 'Only a tight loop of PAUSE counts as spinning.',
  },
  {
    name: 'avic',
    title: 'Advanced virtual interrupt controller (AVIC)',
    bit: 13,
    flag: 'avic',
    parameter: 'avic',
    explanation:
      'Interrupts reach a running guest without making it leave, and vCPUs interrupt each other by themselves.',
  },
  {
    name: 'x2avic',
    title: 'x2AVIC',
    bit: 18,
    flag: 'x2avic',
    explanation: 'AVIC for the x2APIC mode, which guests with many vCPUs use.',
  },
  {
    name: 'virtual-vmsave-vmload',
    title: 'Virtual VMSAVE and VMLOAD',
    bit: 15,
    flag: 'v_vmsave_vmload',
    parameter: 'vls',
    explanation: 'A guest that is itself a hypervisor switches its guests’ state without leaving.',
  },
  {
    name: 'vgif',
    title: 'Virtual global interrupt flag (vGIF)',
    bit: 16,
    flag: 'vgif',
    parameter: 'vgif',
    explanation: 'STGI and CLGI of a guest that is itself a hypervisor need no exit.',
  },
  {
    name: 'virtual-nmi',
    title: 'Virtual NMIs (VNMI)',
    bit: 25,
    flag: 'vnmi',
    parameter: 'vnmi',
    explanation: 'Non-maskable interrupts are kept and masked for the guest by the processor.',
  },
  {
    name: 'virtual-spec-ctrl',
    title: 'SPEC_CTRL virtualization',
    bit: 20,
    flag: 'v_spec_ctrl',
    explanation: 'A guest sets its own mitigations against speculation without exits.',
  },
];

/** Whether firmware has switched SVM off: bits of VM_CR (APM 15.30.1); null: it can't be read. */
export function svmLock(source: HardwareSource): 'on' | 'off-locked' | 'off' | null {
  const control = source.msr(msrVmCr);
  if (control === null) return null;
  // Bit 4: SVMDIS; bit 3: LOCK.
  if ((control & 16n) === 0n) return 'on';
  return (control & 8n) === 0n ? 'off' : 'off-locked';
}

/** What AMD-V can do here. `flags`: those of /proc/cpuinfo. */
export function readAmdV(source: HardwareSource, flags: ReadonlySet<string>): HardwareGroup {
  // Without SVM the leaf is all zeros, or another processor's.
  const leaf = flags.has('svm') ? source.cpuid(svmLeaf) : null;
  const facts: HardwareFact[] = [
    {
      name: 'svm-revision',
      title: 'SVM revision',
      isPresent: leaf ? true : null,
      value: leaf ? String(leaf.eax & 0xff) : null,
      isUsed: null,
      explanation: 'Revision of the architecture; 1 on every processor so far.',
      source: 'CPUID 0x8000000A EAX bits 7:0 (APM volume 3, E.4.9)',
    },
    {
      name: 'asids',
      title: 'Address space identifiers (ASIDs)',
      isPresent: leaf ? true : null,
      value: leaf ? String(leaf.ebx) : null,
      isUsed: null,
      explanation:
        'How many guests’ translations the processor tells apart in its cache. Encrypted guests (SEV) take one each for as long as they run.',
      source: 'CPUID 0x8000000A EBX (APM volume 3, E.4.9)',
    },
  ];
  for (const { name, title, bit, flag, parameter, explanation } of abilities) {
    facts.push({
      name,
      title,
      isPresent: leaf ? ((leaf.edx >>> bit) & 1) === 1 : flag !== null && flags.has('svm') ? flags.has(flag) : null,
      value: null,
      isUsed: parameter ? readSwitch(source.text(`/sys/module/kvm_amd/parameters/${parameter}`)) : null,
      explanation,
      source: leaf
        ? `CPUID 0x8000000A EDX bit ${bit} (APM volume 3, E.4.9)`
        : flag === null
          ? 'CPUID 0x8000000A'
          : `/proc/cpuinfo, flags: ${flag}`,
    });
  }
  return {
    name: 'amd-v',
    title: 'AMD-V (SVM)',
    explanation:
      'VMRUN loads a guest’s state from its VMCB (virtual machine control block) and runs it at full speed in guest mode; an instruction or event that the VMCB intercepts makes a #VMEXIT back to the hypervisor.',
    facts,
  };
}
