// Where a guest's threads run and what its control group allows: set, and read back from the kernel.
//
// vCPUs and I/O threads are told apart by the thread ids that QEMU gives (query-cpus-fast, query-iothreads); all other
// threads, and the helpers in its control group (TPM, shared folders), are the emulator's. QEMU may not move its threads by
// itself (-sandbox resourcecontrol=deny), so what was set stays.
import { readFileSync, writeFileSync } from 'node:fs';
import { LodgeError } from '../../api/errors.ts';
import { type VmLimitReport, type VmPlacement, type VmPressure } from '../../api/vm-placement.ts';
import { AffinityError, readThreads, setAffinities } from '../../host/affinity.ts';
import { CgroupError, type CgroupGroup } from '../../host/cgroup-group.ts';
import { type GroupLimits } from '../../host/cgroup-layout.ts';
import { isAlive, type ProcessIdentity } from '../../host/process.ts';
import { parseNumberList } from '../../lib/number-list.ts';
import { type GuestLimits, type GuestThread, type GuestTuning, type OomPriority } from '../guest-tuning.ts';
import { type QmpConnection } from './qmp/connection.ts';

const answerMs = 5000;
/** Threads may be made while others are being placed; those inherit from a thread that is placed already. */
const rounds = 3;

export class QemuTuning implements GuestTuning {
  readonly #name: string;
  readonly #identity: ProcessIdentity;
  readonly #qmp: QmpConnection;
  readonly #group: CgroupGroup;

  constructor(parts: { name: string; identity: ProcessIdentity; qmp: QmpConnection; group: CgroupGroup }) {
    this.#name = parts.name;
    this.#identity = parts.identity;
    this.#qmp = parts.qmp;
    this.#group = parts.group;
  }

  async place(placement: VmPlacement): Promise<void> {
    try {
      for (let round = 0; round < rounds; round++) {
        const wrong = (await this.#wanted(placement)).filter(({ isRight }) => !isRight);
        if (wrong.length === 0) return;
        await setAffinities(wrong);
      }
    } catch (error) {
      if (!(error instanceof AffinityError)) throw error;
      throw new LodgeError('host_failed', `VM ${this.#name}: ${error.message}.`, { cause: error });
    }
  }

  async threads(): Promise<GuestThread[]> {
    const [cpus, ioThreads] = await Promise.all([
      this.#qmp.execute('query-cpus-fast', {}, { timeoutMs: answerMs }),
      this.#qmp.execute('query-iothreads', {}, { timeoutMs: answerMs }),
    ]);
    // What a guest's process says may be anything.
    if (!Array.isArray(cpus) || !Array.isArray(ioThreads))
      throw new LodgeError('hypervisor_failed', `QEMU does not tell which threads VM ${this.#name} has.`);
    const vcpus = cpus.toSorted((a, b) => a['cpu-index'] - b['cpu-index']).map((cpu) => cpu['thread-id']);
    const numberOf = new Map<number, { kind: GuestThread['kind']; number: number }>([
      ...vcpus.map((id, number) => [id, { kind: 'vcpu' as const, number }] as const),
      ...ioThreads.map((one, number) => [one['thread-id'], { kind: 'io-thread' as const, number }] as const),
    ]);
    let others = 0;
    const threads = readThreads(this.#identity.pid).map(({ lastProcessor, ...rest }): GuestThread => {
      const known = numberOf.get(rest.threadId);
      const { kind, number } = known ?? { kind: 'emulator' as const, number: others++ };
      return { kind, number, lastCpu: lastProcessor, ...rest };
    });
    const order: readonly GuestThread['kind'][] = ['vcpu', 'io-thread', 'emulator'];
    return threads.toSorted((a, b) => order.indexOf(a.kind) - order.indexOf(b.kind) || a.number - b.number);
  }

  async limit(limits: GuestLimits): Promise<VmLimitReport[]> {
    const wanted = groupLimits(limits);
    const { unapplied } = await this.#group.setLimits(wanted).catch((error: unknown) => {
      if (!(error instanceof CgroupError)) throw error;
      throw new LodgeError('host_failed', `VM ${this.#name}: ${error.message}.`, {
        hint: 'Another value may be accepted; what is above this group in the hierarchy may limit it too.',
        cause: error,
      });
    });
    if (limits.oomPriority !== undefined) this.#setOomScore(oomScoreOf(limits.oomPriority));
    return this.#report(limits, new Map(unapplied.map(({ limit, reason }) => [limit, reason])));
  }

  pressure(): Promise<VmPressure[]> {
    return this.#group.readPressure();
  }

  limits(limits: GuestLimits): Promise<VmLimitReport[]> {
    return this.#report(limits, new Map());
  }

  /** Who goes first when the machine runs out of memory: proc(5), oom_score_adj. */
  #setOomScore(score: number): void {
    if (!isAlive(this.#identity)) return;
    try {
      writeFileSync(`/proc/${this.#identity.pid}/oom_score_adj`, String(score), { flag: 'r+' });
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ESRCH') return;
      throw new LodgeError('host_failed', `VM ${this.#name}: its OOM priority can't be set to ${score}.`, {
        hint: 'The daemon needs CAP_SYS_RESOURCE to give a process a lower value than its own.',
        cause: error,
      });
    }
  }

  async #report(limits: GuestLimits, reasons: ReadonlyMap<string, string>): Promise<VmLimitReport[]> {
    const observed = await this.#group.readLimits(groupLimits(limits));
    const oom: VmLimitReport[] =
      limits.oomPriority === undefined ? [] : [readOom(this.#identity.pid, limits.oomPriority)];
    const others = limitNames.flatMap(({ limit, name, ask }) => {
      const value = ask(limits);
      if (value === undefined) return [];
      const found = observed.find((one) => one.limit === limit);
      return {
        limit: name,
        wanted: value === null ? null : String(value),
        observed: found?.value ?? null,
        file: found?.path ?? null,
        reason: reasons.get(limit) ?? found?.reason ?? null,
      };
    });
    return [...others, ...oom];
  }

  /** Every thread of the guest's processes with where it is to run. */
  async #wanted(placement: VmPlacement): Promise<{ threadId: number; processors: number[]; isRight: boolean }[]> {
    const vcpus = new Map(placement.vcpus.map(({ vcpu, cpus }) => [vcpu, parseNumberList(cpus)]));
    const emulator = parseNumberList(placement.emulator);
    const ioThreads = parseNumberList(placement.ioThreads);
    const own = (await this.threads()).map(({ kind, number, threadId, allowed }) => {
      const processors =
        kind === 'vcpu' ? (vcpus.get(number) ?? emulator) : kind === 'io-thread' ? ioThreads : emulator;
      return { threadId, processors, allowed };
    });
    const helpers = (await this.#group.processes().catch(() => [])).filter((pid) => pid !== this.#identity.pid);
    const others = helpers.flatMap((pid) =>
      readThreads(pid).map(({ threadId, allowed }) => ({ threadId, processors: emulator, allowed })),
    );
    return [...own, ...others].map(({ allowed, ...target }) => ({
      ...target,
      isRight: allowed.join() === target.processors.join(),
    }));
  }
}

/** The limits by their names in the spec, and in the control group. */
const limitNames: readonly {
  limit: keyof GroupLimits;
  name: string;
  ask: (limits: GuestLimits) => string | number | null | undefined;
}[] = [
  { limit: 'cpuWeight', name: 'cpu.weight', ask: ({ cpuWeight }) => cpuWeight },
  { limit: 'cpuMaxProcessors', name: 'cpu.capPercent', ask: ({ cpuCapPercent }) => cpuCapPercent },
  { limit: 'ioWeight', name: 'resources.ioWeight', ask: ({ ioWeight }) => ioWeight },
  { limit: 'memorySwapMaxBytes', name: 'resources.swapMaxMib', ask: ({ swapMaxMib }) => swapMaxMib },
];

/** oom_score_adj by priority: guests go before the daemon, which has less. */
function oomScoreOf(priority: OomPriority | null): number {
  return { low: 500, normal: 200, high: 50 }[priority ?? 'normal'];
}

function readOom(pid: number, priority: OomPriority | null): VmLimitReport {
  const file = `/proc/${pid}/oom_score_adj`;
  let observed: string | null = null;
  try {
    observed = readFileSync(file, 'utf8').trim();
  } catch {
    // The process is gone, or not ours to read: there is nothing to show.
  }
  return { limit: 'resources.oomPriority', wanted: priority, observed, file, reason: null };
}

/** The kernel's default. */
const defaultWeight = 100;

function groupLimits({ cpuWeight, cpuCapPercent, ioWeight, swapMaxMib }: GuestLimits): GroupLimits {
  return {
    ...(cpuWeight === undefined ? {} : { cpuWeight: cpuWeight ?? defaultWeight }),
    ...(cpuCapPercent === undefined ? {} : { cpuMaxProcessors: cpuCapPercent === null ? null : cpuCapPercent / 100 }),
    ...(ioWeight === undefined ? {} : { ioWeight: ioWeight ?? defaultWeight }),
    ...(swapMaxMib === undefined ? {} : { memorySwapMaxBytes: swapMaxMib === null ? null : swapMaxMib * 2 ** 20 }),
  };
}
