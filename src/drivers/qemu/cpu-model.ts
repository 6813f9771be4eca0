// What goes after -cpu. The levels of the x86-64 psABI are no models of QEMU's: they are composed here from the
// processor features that the psABI lists for them.
import { type VmSpec } from '../../api/vm-spec.ts';

/**
 * Features a level adds to the one below it, as QEMU names them.
 * Source: x86-64 psABI, "Micro-architecture levels", https://gitlab.com/x86-psABIs/x86-64-ABI
 */
const levels: readonly (readonly [string, readonly string[]])[] = [
  ['x86-64-v2', ['cx16', 'lahf-lm', 'popcnt', 'pni', 'sse4.1', 'sse4.2', 'ssse3']],
  ['x86-64-v3', ['avx', 'avx2', 'bmi1', 'bmi2', 'f16c', 'fma', 'abm', 'movbe', 'xsave']],
  ['x86-64-v4', ['avx512f', 'avx512bw', 'avx512cd', 'avx512dq', 'avx512vl']],
];

/**
 * What goes with the features of a level though the psABI does not name it. XSAVE alone, which no processor with AVX has
 * ever had, ends Linux 6.1 while it sets up its FPU (seen with -cpu qemu64,xsave=on under TCG).
 */
const companions: Readonly<Record<string, string>> = { xsave: 'xsaveopt' };

/** Names of the levels. */
export const cpuLevels: readonly string[] = levels.map(([name]) => name);

/** The features a level has in all, or null when the name is none of a level. */
export function featuresOfLevel(name: string): string[] | null {
  const index = levels.findIndex(([level]) => level === name);
  return index < 0 ? null : levels.slice(0, index + 1).flatMap(([, features]) => features);
}

/** How `auto` and `host` are to be understood with the accelerator that was chosen. */
export interface CpuContext {
  accelerator: 'kvm' | 'tcg';
  /** Model that the probe guest ran with in the chosen rung; where `host` doesn't run, it says what does. */
  probedModel: string | null;
}

/** The argument of -cpu for a spec. */
export function cpuArgument(cpu: VmSpec['cpu'], context: CpuContext): string {
  const parts: string[] = [];
  const level = featuresOfLevel(cpu.model);
  if (level) {
    const all = level.flatMap((feature) => (companions[feature] ? [feature, companions[feature]] : [feature]));
    parts.push('qemu64', ...all.map((feature) => `${feature}=on`));
  } else if (cpu.model === 'auto' || (cpu.model === 'host' && context.accelerator === 'tcg')) {
    parts.push(context.accelerator === 'tcg' ? 'max' : (context.probedModel ?? 'host'));
  } else if (cpu.model === 'host') {
    parts.push(context.probedModel?.startsWith('host') ? context.probedModel : 'host');
  } else parts.push(cpu.model);
  parts.push(...cpu.enable.map((feature) => `${feature}=on`), ...cpu.disable.map((feature) => `${feature}=off`));
  return parts.join(',');
}

/** What `qemu-system-x86_64 -cpu help` lists. */
export function parseCpuHelp(text: string): { models: string[]; features: string[] } {
  const models: string[] = [];
  const features: string[] = [];
  let section: 'models' | 'features' | null = null;
  for (const line of text.split('\n')) {
    if (line.startsWith('Available CPUs:')) section = 'models';
    else if (line.startsWith('Recognized CPUID flags:')) section = 'features';
    else if (section === 'features' && line.startsWith('  ')) features.push(...line.trim().split(/\s+/));
    else if (section === 'models') {
      // QEMU before 9 puts "x86" before each name.
      const name = /^(?:x86)?\s+(\S+)/.exec(line)?.[1];
      if (name) models.push(name);
    }
  }
  return { models, features };
}
