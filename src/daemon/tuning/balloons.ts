// Takes memory from guests by their balloons while the node is short of it, and gives it back: those whose spec has
// resources.memoryGuaranteedMib. How much is decided in balloon-targets.ts.
//
// Invariants:
// - One round at a time; in it a guest is only changed while nothing else changes its VM.
// - What a guest has is asked of its hypervisor each time: a daemon that was restarted goes on where the last one was.
// - A guest that was never in a round is never touched.
import { LodgeError } from '../../api/errors.ts';
import { type Vm } from '../../api/vm.ts';
import { type Guest } from '../../drivers/driver.ts';
import { type Log } from '../store/informer.ts';
import { balloonTargets, type BalloonGuest } from './balloon-targets.ts';
import { readMemoryLoad, type MemoryLoad } from './memory-load.ts';

export interface BalloonsParts {
  records: { collection: { all: () => Iterable<Vm>; get: (id: string) => Vm | null } };
  guests: {
    get: (id: string) => Pick<Guest, 'devices' | 'detail'> | null;
    exclusively: <T>(id: string, work: () => Promise<T>) => Promise<T>;
  };
  log: Pick<Log, 'info' | 'warn'>;
  load?: () => Promise<MemoryLoad>;
  /** Milliseconds of a clock that only goes forward. */
  nowMs?: () => number;
}

/** Pressure is a mean of 10 s. */
const roundMs = 10_000;
/** A guest goes on towards its target by itself; the next round sees how far it has come. */
const followMs = 1000;
/** One that didn't follow at all is left out for so long. */
const deafMs = 300_000;

export class Balloons {
  readonly #parts: Required<BalloonsParts>;
  /** Guests that may have less than all, by what was asked of them last. */
  readonly #touched = new Map<string, { fromMib: number; toMib: number; atMs: number } | null>();
  #takenMs = Number.NEGATIVE_INFINITY;
  #timer: NodeJS.Timeout | null = null;
  #working: Promise<void> | null = null;

  constructor(parts: BalloonsParts) {
    this.#parts = { load: readMemoryLoad, nowMs: () => performance.now(), ...parts };
  }

  start(): void {
    this.#timer = setInterval(() => {
      this.#working ??= this.round()
        .catch((error: unknown) => this.#parts.log.warn({ err: error }, 'balloons could not be set'))
        .finally(() => {
          this.#working = null;
        });
    }, roundMs).unref();
  }

  /** When it has answered, nothing is changed any more. */
  async close(): Promise<void> {
    if (this.#timer) clearInterval(this.#timer);
    await this.#working;
  }

  /** Looks once, and changes what is to be changed. */
  async round(): Promise<void> {
    const { records, load, nowMs, log } = this.#parts;
    const vms = [...records.collection.all()].filter(isReady);
    const known = new Set([...records.collection.all()].filter(({ status }) => status.state !== 'stopped').map(idOf));
    for (const id of this.#touched.keys()) if (!known.has(id)) this.#touched.delete(id);
    const asking = vms.filter((vm) => guaranteeOf(vm) !== null || this.#touched.has(vm.id));
    if (asking.length === 0) return;
    const told = await Promise.all(asking.map((vm) => this.#look(vm)));
    const seen = told.filter((guest) => guest !== null);
    const taking = seen.filter(({ id }) => guaranteeOf(records.collection.get(id)) !== null);
    for (const { id, nowMib, fullMib } of taking)
      if (nowMib < fullMib && !this.#touched.has(id)) this.#touched.set(id, null);
    const hearing = taking.filter((guest) => !this.#isDeaf(guest));
    const { kind, targets } = balloonTargets(hearing, await load(), nowMs() - this.#takenMs);
    if (kind === 'take' && targets.size > 0) this.#takenMs = nowMs();
    // One that takes part no more gets all of it back.
    for (const { id, nowMib, fullMib } of seen)
      if (guaranteeOf(records.collection.get(id)) === null) {
        if (nowMib < fullMib) targets.set(id, fullMib);
        else this.#touched.delete(id);
      }
    for (const [id, targetMib] of targets) {
      const fromMib = seen.find((guest) => guest.id === id)?.nowMib ?? targetMib;
      await this.#change(id, fromMib, targetMib).catch((error: unknown) =>
        log.warn({ err: error, vm: records.collection.get(id)?.name }, 'the balloon of a VM could not be set'),
      );
    }
  }

  async #look(vm: Vm): Promise<BalloonGuest | null> {
    const guest = this.#parts.guests.get(vm.id);
    if (!guest) return null;
    try {
      const [report, { inside }] = await Promise.all([guest.devices.report({ timeoutMs: followMs }), guest.detail()]);
      const { nowMib } = report.balloon;
      if (nowMib === null) return null;
      const fullMib = Math.min(vm.status.startedSpec?.memoryTargetMib ?? report.memory.nowMib, report.memory.nowMib);
      const idleMib = inside === null ? null : Math.max(nowMib - inside.usedMib, 0);
      return { id: vm.id, fullMib, guaranteedMib: guaranteeOf(vm) ?? fullMib, nowMib, idleMib };
    } catch {
      // One that doesn't answer now is asked again in the next round.
      return null;
    }
  }

  async #change(id: string, fromMib: number, targetMib: number): Promise<void> {
    const { guests, records, nowMs, log } = this.#parts;
    await guests.exclusively(id, async () => {
      const vm = records.collection.get(id);
      const guest = guests.get(id);
      if (!vm || !guest || !isReady(vm)) return;
      this.#touched.set(id, { fromMib, toMib: targetMib, atMs: nowMs() });
      try {
        await guest.devices.change({ kind: 'balloon', targetMib }, { timeoutMs: followMs });
      } catch (error) {
        if (!(error instanceof LodgeError) || error.code !== 'timeout') throw error;
      }
      log.info({ vm: vm.name, fromMib, targetMib }, 'the balloon of a VM was set by the memory of the node');
    });
  }

  /** It was to give memory up, and gave none. */
  #isDeaf({ id, nowMib }: BalloonGuest): boolean {
    const asked = this.#touched.get(id);
    if (!asked || asked.toMib >= asked.fromMib) return false;
    return nowMib >= asked.fromMib && this.#parts.nowMs() - asked.atMs < deafMs;
  }
}

function idOf({ id }: Vm): string {
  return id;
}

/** Its guest runs, and no task is at work on it. */
function isReady({ status }: Vm): boolean {
  return status.state === 'running' && status.taskId === null;
}

/** What a VM keeps in any case, MiB; null: it takes no part, as it wasn't asked for, or the node would not get anything. */
function guaranteeOf(vm: Vm | null): number | null {
  if (!vm) return null;
  const { memoryBacking } = vm.status.startedSpec ?? vm.spec;
  if (memoryBacking?.pageSize || memoryBacking?.isLocked) return null;
  // Its memory lies in a file that copies share: what a copy gives up stays with the file.
  if (vm.status.lineage?.kind === 'fork' || vm.status.lineage?.kind === 'warm') return null;
  return vm.spec.resources?.memoryGuaranteedMib ?? null;
}
