// Everything that is known of this machine's hardware assistance, in one answer. Promises: it only reads, takes some
// milliseconds, and says "unknown" where the machine doesn't tell.
import { release } from 'node:os';
import { parseCpuInfo } from '../cpu.ts';
import { readAmdV } from './amd-v.ts';
import { readConfidential } from './confidential.ts';
import { type HardwareGroup } from './fact.ts';
import { readIommu, readSriov, type SriovDevice } from './iommu.ts';
import { readAssistance, readKvmGroup, type HardwareAssistance } from './kvm.ts';
import { readMitigations } from './mitigations.ts';
import { thisMachine, type HardwareSource } from './source.ts';
import { readVtX } from './vt-x.ts';

export interface HardwareFacts {
  readonly vendor: string;
  readonly model: string;
  /** Family, model and stepping as CPUID counts them, and the microcode; null: unknown. */
  readonly signature: string | null;
  readonly microcode: string | null;
  /** This machine is itself a guest of a hypervisor. */
  readonly isVirtualMachine: boolean;
  readonly assistance: HardwareAssistance;
  readonly groups: HardwareGroup[];
  readonly sriovDevices: SriovDevice[];
}

/** Reads it all anew. */
export function readHardware(source: HardwareSource = thisMachine(), kernel: string = release()): HardwareFacts {
  const text = source.text('/proc/cpuinfo') ?? '';
  const { vendor, model, flags } = parseCpuInfo(text);
  const field = (name: string): string | null => new RegExp(`^${name}\\s*: (.+)$`, 'm').exec(text)?.[1]?.trim() ?? null;
  const vmxFlags = field('vmx flags');
  const assistance = readAssistance(source, { vendor, flags, kernel });
  const confidential = readConfidential(source, flags, vendor);
  const [family, number, stepping] = [field('cpu family'), field('model'), field('stepping')];
  return {
    vendor,
    model,
    signature: family && number && stepping ? `family ${family}, model ${number}, stepping ${stepping}` : null,
    microcode: field('microcode'),
    isVirtualMachine: flags.has('hypervisor'),
    assistance,
    groups: [
      ...(assistance.technology === 'vt-x' && assistance.isPresent !== false
        ? [readVtX(source, vmxFlags === null ? null : new Set(vmxFlags.split(/\s+/)))]
        : []),
      ...(assistance.technology === 'amd-v' && assistance.isPresent !== false ? [readAmdV(source, flags)] : []),
      readKvmGroup(source),
      readIommu(source),
      ...(confidential ? [confidential] : []),
      readMitigations(source),
    ],
    sriovDevices: readSriov(source),
  };
}
