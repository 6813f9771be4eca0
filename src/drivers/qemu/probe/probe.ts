// Climbs the accelerator ladder: hardware KVM, KVM without VT-x and AMD-V, QEMU's emulation (TCG). A rung counts only
// for what the probe guest did in it, here and now; the choice among them follows from what was measured, not from
// what is installed. docs/decisions/accelerator-choice.md has the reasons and the numbers. Promises: never rejects for
// what a machine lacks, but says it; no rung takes longer than its models times the deadline; no process or file is left.
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { LodgeError } from '../../../api/errors.ts';
import { type AcceleratorRung } from '../../../api/node.ts';
import { readCpu, type HardwareVirtualization } from '../../../host/cpu.ts';
import { readKvm, type KvmFacts } from '../../../host/machine.ts';
import { interfaceOptions } from '../cpu-interface.ts';
import { attemptProbe, type Attempt, type AttemptOptions } from './attempt.ts';
import { buildProbeRom } from './rom.ts';

/** A rung with what only the driver needs. */
export interface ProbedRung extends AcceleratorRung {
  readonly accelerator: 'kvm' | 'tcg';
  /** Ticks of the guest's time stamp counter in a millisecond; null when the guest did not get that far. */
  readonly tscKhz: number | null;
  /** The probe guest ran with Hyper-V's enlightenments too. */
  readonly hasHyperV: boolean;
  /** Every try, in order: the model and what became of it. */
  readonly attempts: readonly { readonly cpuModel: string; readonly problem: string | null }[];
}

/** What a guest needs: `ordinary` has a kernel of its own; `rom` is a small image that runs in kernel mode alone. */
export type GuestKind = 'ordinary' | 'rom';

/** The accelerator for a guest, and why. */
export interface AcceleratorChoice {
  readonly accelerator: 'kvm' | 'tcg';
  readonly rung: AcceleratorRung['rung'];
  /** One or two sentences for people. */
  readonly reason: string;
  /** What `host` or `auto` should be after `-cpu`. */
  readonly cpuModel: string;
  readonly tscKhz: number | null;
  readonly hasHyperV: boolean;
}

/** What to probe with. */
export interface ProbeOptions {
  /** QEMU's program; default `qemu-system-x86_64` of the PATH. */
  readonly binary?: string;
  /** The machine type; default `q35`. */
  readonly machine?: string;
  /** The longest that one run of the guest may take, in milliseconds. Default 10,000; a good one takes some 100. */
  readonly deadlineMs?: number;
  readonly signal?: AbortSignal;
  /** Another ROM than Lodge's own. */
  readonly rom?: Uint8Array;
  /** Instead of what this machine shows. */
  readonly kvm?: KvmFacts;
  /** Instead of what this machine shows. */
  readonly virtualization?: HardwareVirtualization;
}

/** CPU models to try in each rung, best first. */
const CPU_MODELS: Record<AcceleratorRung['rung'], readonly string[]> = {
  // On some machines KVM shows MSR 0x10a (IA32_ARCH_CAPABILITIES) but refuses to set it, and QEMU aborts.
  kvm: ['host', 'host,-arch-capabilities', 'qemu64'],
  'kvm-pvm': ['host,-arch-capabilities', 'host', 'qemu64'],
  tcg: ['max', 'qemu64'],
};

const TITLES: Record<AcceleratorRung['rung'], string> = {
  kvm: 'KVM with hardware virtualization',
  'kvm-pvm': 'KVM without hardware virtualization',
  tcg: 'emulation by QEMU (TCG)',
};

const EXTENSION_NAMES = { vmx: 'VT-x', svm: 'AMD-V' } as const;

/** Runs the probe guests and judges each rung. Resolves with all three, best first. */
export async function probeLadder(options: ProbeOptions = {}): Promise<ProbedRung[]> {
  const { binary = 'qemu-system-x86_64', machine = 'q35', deadlineMs = 10_000, signal } = options;
  const kvm = options.kvm ?? (await readKvm());
  const virtualization = options.virtualization ?? (await readCpu()).virtualization;
  const directory = await mkdtemp(join(tmpdir(), 'lodge-probe-'));
  try {
    const romPath = join(directory, 'probe.rom');
    await writeFile(romPath, options.rom ?? buildProbeRom().bytes);
    const common = { binary, machine, romPath, kvmDevice: kvm.device, deadlineMs, signal };
    // One after the other: they are compared with each other, so they must not take time from each other.
    const tcg = judge('tcg', await tryModels('tcg', common), null);
    const rungs: ProbedRung[] = [];
    for (const rung of ['kvm', 'kvm-pvm'] as const) {
      const obstacle = obstacleTo(rung, kvm, virtualization);
      if (obstacle !== null) {
        rungs.push(absent(rung, obstacle));
        continue;
      }
      const judged = judge(rung, await tryModels(rung, common), tcg);
      rungs.push({ ...judged, hasHyperV: judged.cpuModel !== null && (await tryHyperV(judged.cpuModel, common)) });
    }
    return [...rungs, tcg];
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}

/** Why a rung need not be tried on this machine; null when it has to be. */
function obstacleTo(rung: 'kvm' | 'kvm-pvm', kvm: KvmFacts, virtualization: HardwareVirtualization): string | null {
  const has = (name: string): boolean => kvm.modules.some((module) => module.name === name);
  const hardwareModule = { vmx: 'kvm_intel', svm: 'kvm_amd', none: null }[virtualization];
  const isHardware = hardwareModule !== null && has(hardwareModule);
  if (rung === 'kvm-pvm') {
    if (isHardware) return 'Not needed: the processor has hardware virtualization.';
    return kvm.canOpen ? null : `KVM can't be used: ${kvm.problem}.`;
  }
  if (virtualization === 'none' || hardwareModule === null) {
    return 'The processor shows neither VT-x (vmx) nor AMD-V (svm); in a virtual machine, its hypervisor must pass it on (nested virtualization).';
  }
  if (!isHardware) {
    return (
      `The processor has ${EXTENSION_NAMES[virtualization]}, but the kernel module ${hardwareModule} is not loaded: ` +
      `run "modprobe ${hardwareModule}"; if it refuses, switch virtualization on in the firmware's setup.`
    );
  }
  return kvm.canOpen ? null : `KVM can't be used: ${kvm.problem}.`;
}

/** Tries the models until one runs; without one, all attempts tell why. */
async function tryModels(
  rung: AcceleratorRung['rung'],
  common: Omit<AttemptOptions, 'accelerator' | 'cpuModel'>,
): Promise<Attempt[]> {
  const accelerator = rung === 'tcg' ? 'tcg' : 'kvm';
  const attempts: Attempt[] = [];
  for (const cpuModel of CPU_MODELS[rung]) {
    const attempt = await attemptProbe({ ...common, accelerator, cpuModel });
    attempts.push(attempt);
    if (attempt.report.isRomFit) break;
  }
  return attempts;
}

/** Whether the probe guest runs with all enlightenments that guests are given. */
async function tryHyperV(cpuModel: string, common: Omit<AttemptOptions, 'accelerator' | 'cpuModel'>): Promise<boolean> {
  const options = interfaceOptions('hyper-v', 'kvm', true);
  const { report } = await attemptProbe({ ...common, accelerator: 'kvm', cpuModel: `${cpuModel}${options}` });
  return report.isRomFit;
}

function absent(rung: 'kvm' | 'kvm-pvm', reason: string): ProbedRung {
  return {
    rung,
    accelerator: 'kvm',
    isUsable: false,
    isForOrdinaryGuests: false,
    reason,
    cpuModel: null,
    startMs: null,
    costs: {},
    tscKhz: null,
    hasHyperV: false,
    attempts: [],
  };
}

/** Puts a duration into words: `11 ns`, `9.2 µs`. */
function duration(nanoseconds: number): string {
  if (nanoseconds < 1000) return `${Math.round(nanoseconds)} ns`;
  return `${(nanoseconds / 1000).toPrecision(2)} µs`;
}

/**
 * How a rung compares with emulation at plain kernel code (loads, stores, calls, branches at the addresses where a
 * kernel lies, nothing that leaves the guest): the factor by which it is faster, null when one of them wasn't measured.
 */
export function speedAgainst(
  rung: Pick<AcceleratorRung, 'costs'>,
  emulation: Pick<AcceleratorRung, 'costs'> | null,
): number | null {
  const own = rung.costs['kernelWorkHigh'];
  const other = emulation?.costs['kernelWorkHigh'];
  return own === undefined || other === undefined || own <= 0 ? null : other / own;
}

/** What the attempts in a rung are worth. `emulation` is the rung TCG of the same run, to compare with. */
export function judge(
  rung: AcceleratorRung['rung'],
  attempts: readonly Attempt[],
  emulation: Pick<AcceleratorRung, 'costs'> | null,
): ProbedRung {
  const best = attempts.find((attempt) => attempt.report.isRomFit) ?? attempts.at(-1);
  const isUsable = best?.report.isRomFit ?? false;
  const costs = best?.report.costs ?? {};
  const speed = speedAgainst({ costs }, emulation);
  const isSlower = speed !== null && speed < 1;
  const isKernelFit = best?.report.isKernelFit ?? false;
  const startMs = best?.startMs ?? null;
  return {
    rung,
    accelerator: rung === 'tcg' ? 'tcg' : 'kvm',
    isUsable,
    isForOrdinaryGuests: isUsable && isKernelFit && !isSlower,
    reason: reasonFor(rung, attempts, best, speed),
    cpuModel: isUsable && best ? best.cpuModel : null,
    startMs: startMs === null ? null : Math.round(startMs * 10) / 10,
    costs,
    tscKhz: best?.report.tscKhz ?? null,
    hasHyperV: false,
    attempts: attempts.map(({ cpuModel, problem }) => ({ cpuModel, problem })),
  };
}

function reasonFor(
  rung: AcceleratorRung['rung'],
  attempts: readonly Attempt[],
  best: Attempt | undefined,
  speed: number | null,
): string {
  const title = TITLES[rung];
  if (!best?.report.isRomFit) {
    // The same complaint for every model is said once.
    const problems = new Map<string, string[]>();
    for (const { cpuModel, problem } of attempts) {
      const key = problem ?? 'nothing was seen';
      problems.set(key, [...(problems.get(key) ?? []), cpuModel]);
    }
    const said = [...problems].map(([problem, models]) => `${problem} (-cpu ${models.join('; ')})`).join('; ');
    return `No probe guest ran in ${title}: ${said}.`;
  }
  const sentences = [
    `A probe guest ran in ${title} with -cpu ${best.cpuModel} and was in long mode after ${Math.round(best.startMs ?? 0)} ms.`,
  ];
  const own = best.report.costs.kernelWorkHigh;
  if (speed !== null && own !== undefined) {
    const isSlower = speed < 1;
    const factor = isSlower ? 1 / speed : speed;
    sentences.push(
      `Plain kernel code runs ${factor < 10 ? factor.toPrecision(2) : Math.round(factor)} times as ${isSlower ? 'slowly' : 'fast'} as under emulation (${duration(own)} against ${duration(own * speed)} a round).`,
    );
  }
  if (best.problem !== null) {
    sentences.push(`It does not do what an operating system's kernel needs: ${best.problem}.`);
  }
  if (best.problem !== null || (speed !== null && speed < 1)) {
    sentences.push('It is good for small ROM guests only.');
  }
  return sentences.join(' ');
}

/**
 * Chooses the accelerator for a guest. `auto`: the first rung, best first, in which a guest of this kind runs and which
 * is not slower than emulation. `kvm`: the first KVM rung that a probe guest ran in, with a warning in the reason where
 * an ordinary guest is not expected to do well. `tcg`: emulation. Throws `unsupported` when there is none, with all
 * reasons.
 */
export function chooseAccelerator(
  ladder: readonly ProbedRung[],
  wanted: 'auto' | 'kvm' | 'tcg',
  kind: GuestKind = 'ordinary',
): AcceleratorChoice {
  const emulation = ladder.find((rung) => rung.accelerator === 'tcg') ?? null;
  const isFit = (rung: ProbedRung): boolean => {
    if (!rung.isUsable) return false;
    if (wanted !== 'auto') return true;
    return kind === 'ordinary' ? rung.isForOrdinaryGuests : (speedAgainst(rung, emulation) ?? 1) >= 1;
  };
  const candidates = ladder.filter((rung) => wanted === 'auto' || rung.accelerator === wanted);
  const found = candidates.find(isFit);
  if (!found || found.cpuModel === null) {
    const reasons = candidates.map((rung) => `${rung.rung}: ${rung.reason}`).join(' ');
    const what = wanted === 'auto' ? 'No accelerator works' : `The accelerator ${wanted} does not work`;
    throw new LodgeError('unsupported', `${what} on this node. ${reasons}`, {
      hint:
        wanted === 'kvm'
          ? 'Set accelerator to auto or tcg, or remove what the message names and probe the node again (lodge node probe).'
          : 'Install QEMU, or remove what the message names, and probe the node again (lodge node probe).',
    });
  }
  const passed = candidates.slice(0, candidates.indexOf(found)).map((rung) => `Not ${rung.rung}: ${rung.reason}`);
  const asked = wanted === 'auto' ? '' : `Asked for by accelerator "${wanted}". `;
  return {
    accelerator: found.accelerator,
    rung: found.rung,
    reason: [`${asked}${found.reason}`, ...passed].join(' '),
    cpuModel: found.cpuModel,
    tscKhz: found.tscKhz,
    hasHyperV: found.hasHyperV,
  };
}
