// Guests whose memory the host can't read: AMD's SEV, SEV-ES and SEV-SNP, Intel's TDX. Sources: AMD64 APM volume 3, E.4.17
// (CPUID Fn8000_001F), volume 2, 15.34–15.36; the kernel's Documentation/arch/x86/tdx.rst and amd-memory-encryption.rst;
// parameters of kvm_amd and kvm_intel.
import { readSwitch, type HardwareFact, type HardwareGroup } from './fact.ts';
import { type HardwareSource } from './source.ts';

const encryptionLeaf = 0x8000_001f;

export function readConfidential(
  source: HardwareSource,
  flags: ReadonlySet<string>,
  vendor: string,
): HardwareGroup | null {
  const facts =
    vendor === 'GenuineIntel' ? intel(source, flags) : vendor === 'AuthenticAMD' ? amd(source, flags) : null;
  if (!facts) return null;
  return {
    name: 'confidential',
    title: 'Confidential computing',
    explanation:
      'The processor encrypts a guest’s memory with a key that the host doesn’t have, and can prove to the guest’s owner what was started.',
    facts,
  };
}

function amd(source: HardwareSource, flags: ReadonlySet<string>): HardwareFact[] {
  const leaf = source.cpuid(encryptionLeaf);
  const of = (
    name: string,
    title: string,
    bit: number,
    flag: string,
    parameter: string,
    explanation: string,
  ): HardwareFact => ({
    name,
    title,
    isPresent: leaf ? ((leaf.eax >>> bit) & 1) === 1 : flags.has(flag),
    value: null,
    isUsed: readSwitch(source.text(`/sys/module/kvm_amd/parameters/${parameter}`)),
    explanation,
    source: leaf ? `CPUID 0x8000001F EAX bit ${bit} (APM volume 3, E.4.17)` : `/proc/cpuinfo, flags: ${flag}`,
  });
  const facts = [
    of('sev', 'SEV', 1, 'sev', 'sev', 'A guest’s memory is encrypted with a key of its own.'),
    of('sev-es', 'SEV-ES', 3, 'sev_es', 'sev_es', 'Its registers are encrypted too when it leaves to the hypervisor.'),
    of(
      'sev-snp',
      'SEV-SNP',
      4,
      'sev_snp',
      'sev_snp',
      'The host can’t change, swap or remap its memory either, and it can be attested.',
    ),
  ];
  if (leaf && facts[0]!.isPresent) {
    facts.push({
      name: 'sev-guests',
      title: 'Encrypted guests at once',
      isPresent: true,
      value: `${leaf.ecx}, of which SEV-ES and SEV-SNP have ${Math.max(0, leaf.edx - 1)}`,
      isUsed: null,
      explanation: 'Keys that the memory controller holds; firmware divides them between SEV and the later kinds.',
      source: 'CPUID 0x8000001F ECX and EDX (APM volume 3, E.4.17)',
    });
  }
  return facts;
}

function intel(source: HardwareSource, flags: ReadonlySet<string>): HardwareFact[] {
  return [
    {
      name: 'tdx',
      title: 'Trust Domain Extensions (TDX)',
      isPresent: flags.has('tdx_host_platform'),
      value: null,
      isUsed: readSwitch(source.text('/sys/module/kvm_intel/parameters/tdx')),
      explanation:
        'A guest (trust domain) whose memory and registers are encrypted and kept from the host by a signed module of Intel’s.',
      source: '/proc/cpuinfo, flags: tdx_host_platform',
    },
  ];
}
