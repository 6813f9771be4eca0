// Whether guests run with hardware assistance here, and if not, what is in the way and what to do. Sources: the kernel's
// Documentation/virt/kvm, arch/x86/kernel/cpu/feat_ctl.c (the flag vmx goes when firmware has locked VMX off),
// arch/x86/kvm/svm/svm.c (is "SVM disabled (by BIOS)"), nested virtualization: Documentation/virt/kvm/x86/nested-vmx.rst.
import { readSwitch, type HardwareFact, type HardwareGroup } from './fact.ts';
import { svmLock } from './amd-v.ts';
import { vmxLock } from './vt-x.ts';
import { type HardwareSource } from './source.ts';

/** The verdict on hardware assistance. */
export interface HardwareAssistance {
  readonly technology: 'vt-x' | 'amd-v' | null;
  /** The processor has it, whether it is switched on or not; null: it can't be told. */
  readonly isPresent: boolean | null;
  /** KVM runs guests with it. */
  readonly isUsable: boolean;
  readonly cause:
    | 'usable'
    | 'switched-off-by-firmware'
    | 'not-in-processor'
    | 'not-passed-to-this-vm'
    | 'module-not-loaded'
    | 'no-module'
    | 'no-device'
    | 'no-permission';
  readonly reason: string;
  /** What to do about it; null: nothing is to be done. */
  readonly remedy: string | null;
}

export interface ProcessorWords {
  readonly vendor: string;
  readonly flags: ReadonlySet<string>;
  /** This machine's kernel, as in /lib/modules. */
  readonly kernel: string;
}

export function readAssistance(source: HardwareSource, { vendor, flags, kernel }: ProcessorWords): HardwareAssistance {
  const isIntel = vendor === 'GenuineIntel';
  const technology = isIntel ? 'vt-x' : ['AuthenticAMD', 'HygonGenuine'].includes(vendor) ? 'amd-v' : null;
  const maker = isIntel ? 'VT-x' : 'AMD-V';
  if (technology === null) {
    return {
      technology,
      isPresent: false,
      isUsable: false,
      cause: 'not-in-processor',
      reason: `Processors of ${vendor} have neither VT-x nor AMD-V.`,
      remedy: null,
    };
  }
  const verdict = (
    cause: HardwareAssistance['cause'],
    isPresent: boolean | null,
    reason: string,
    remedy: string | null,
  ): HardwareAssistance => ({ technology, isPresent, isUsable: cause === 'usable', cause, reason, remedy });

  const hasFlag = flags.has(isIntel ? 'vmx' : 'svm');
  const lock = isIntel ? vmxLock(source) : svmLock(source);
  // CPUID says what the processor has, also where the kernel has taken its flag away.
  const leaf = source.cpuid(isIntel ? 1 : 0x8000_0001);
  const isInProcessor = leaf ? ((leaf.ecx >>> (isIntel ? 5 : 2)) & 1) === 1 : hasFlag ? true : null;
  const isGuest = flags.has('hypervisor');
  if (!hasFlag || lock === 'off-locked') {
    if (isInProcessor && (lock !== 'on' || !hasFlag)) {
      return verdict(
        'switched-off-by-firmware',
        true,
        `The processor has ${maker}, but ${isGuest ? 'the hypervisor that this machine runs on' : 'firmware'} has switched it off${lock === 'off-locked' ? ' and locked it' : ''}.`,
        isGuest
          ? `Switch nested virtualization on for this VM where it runs, and start it again.`
          : `Switch ${isIntel ? '“Intel Virtualization Technology”' : '“SVM Mode”'} on in the firmware’s set-up (often under CPU or Advanced), and start the machine again.`,
      );
    }
    if (isGuest) {
      return verdict(
        'not-passed-to-this-vm',
        false,
        `This machine is itself a VM, and its hypervisor does not pass ${maker} on.`,
        'On the outer host, switch nested virtualization on (kvm_intel or kvm_amd with nested=1; in vSphere “Expose hardware assisted virtualization”; in Lodge a VM with cpu.model=host) and give this VM the host’s CPU model.',
      );
    }
    return verdict('not-in-processor', isInProcessor, `The processor does not have ${maker}.`, null);
  }
  const module = isIntel ? 'kvm_intel' : 'kvm_amd';
  const device = source.openProblem('/dev/kvm');
  const isLoaded = source.list('/sys/module').includes(module);
  if (!isLoaded && device !== null) {
    const hasModules = source.list(`/lib/modules/${kernel}`).length > 0;
    return hasModules
      ? verdict('module-not-loaded', true, `The kernel’s module ${module} is not loaded.`, `modprobe ${module}`)
      : verdict(
          'no-module',
          true,
          `The kernel ${kernel} has no module ${module}.`,
          'Run a kernel of the distribution, which has it as a module.',
        );
  }
  if (device === 'ENOENT' || device === 'ENODEV' || device === 'ENXIO') {
    return verdict(
      'no-device',
      true,
      `The module ${module} is loaded, but /dev/kvm is not there.`,
      'In a container, pass the device in (--device /dev/kvm); otherwise: udevadm trigger /dev/kvm, or mknod /dev/kvm c 10 232',
    );
  }
  if (device !== null) {
    return verdict(
      'no-permission',
      true,
      `/dev/kvm can't be opened (${device}).`,
      'Run the daemon as root, or add its user to the group kvm: usermod -aG kvm USER',
    );
  }
  return verdict('usable', true, `The processor has ${maker}, and KVM uses it.`, null);
}

/** What KVM itself says of how it works here. */
export function readKvmGroup(source: HardwareSource): HardwareGroup {
  const modules = source.list('/sys/module').filter((name) => /^kvm(_|$)/.test(name));
  const facts: HardwareFact[] = [
    {
      name: 'kvm-modules',
      title: 'Modules of KVM',
      isPresent: modules.length > 0,
      value: modules.join(', ') || null,
      isUsed: null,
      explanation:
        'kvm_intel and kvm_amd run guests with VT-x and AMD-V. kvm_pvm runs them without, as processes of the host with page tables of its own.',
      source: '/sys/module',
    },
  ];
  for (const module of ['kvm_intel', 'kvm_amd']) {
    const nested = source.text(`/sys/module/${module}/parameters/nested`);
    if (nested === null) continue;
    facts.push({
      name: 'nested',
      title: 'Nested virtualization',
      isPresent: true,
      value: null,
      isUsed: readSwitch(nested),
      explanation: 'A guest with the CPU model “host” can itself run guests with hardware assistance.',
      source: `/sys/module/${module}/parameters/nested`,
    });
  }
  const number = (name: string, title: string, unit: string, explanation: string): void => {
    const path = `/sys/module/kvm/parameters/${name}`;
    const value = source.text(path);
    if (value === null) return;
    const state = readSwitch(value);
    const isNumber = unit !== '';
    facts.push({
      name: name.replaceAll('_', '-'),
      title,
      isPresent: true,
      value: isNumber ? `${value} ${unit}` : null,
      isUsed: isNumber ? value !== '0' : state,
      explanation,
      source: path,
    });
  };
  number(
    'halt_poll_ns',
    'Halt polling',
    'ns',
    'How long the host spins for a halted vCPU’s next interrupt before it lets the processor go: less latency for more processor time.',
  );
  number(
    'tdp_mmu',
    'Two-dimensional paging MMU',
    '',
    'The second page tables are kept with few locks, for guests with many vCPUs.',
  );
  number(
    'nx_huge_pages',
    'Huge pages without execution',
    '',
    'The mitigation of iTLB multihit: pages that a guest runs are split into 4 KiB.',
  );
  number('enable_pmu', 'Virtual performance counters', '', 'Guests can count cycles and cache misses (perf).');
  return {
    name: 'kvm',
    title: 'KVM',
    explanation: 'The part of the kernel that uses this hardware; QEMU asks it to run vCPUs.',
    facts,
  };
}
