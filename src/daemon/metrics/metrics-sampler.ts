// Looks each second at what guests and the machine use, and keeps it as history.
//
// Invariants:
// - It costs at most a hundredth of a processor: when a look takes longer than a hundredth of the time until the next, the
//   next comes later. Steps in between have no value then.
// - What has to be asked of the hypervisor (disks, exits, balloon) costs more: a few guests each second, in turn. Their rates
//   hold until the next.
// - How a guest's memory is made up costs the kernel a walk over it, the longer the more it has: one guest at a time, in turn,
//   and so seldom that all walks together take at most a thousandth of a processor.
// - A counter that fell (the guest was started anew) makes no value.
import { setTimeout as delay } from 'node:timers/promises';
import { nodeSeries, vmSeries, type NodeSeries, type VmSeries } from '../../api/metrics.ts';
import { type Guest } from '../../drivers/driver.ts';
import {
  type DiskCounters,
  type GuestCounters,
  type GuestDetail,
  type GuestMemoryShares,
} from '../../drivers/measured.ts';
import { busyPercent, stealPercent } from '../../host/cpu.ts';
import { type MachineCounters } from '../../host/machine-counters.ts';
import { type Log } from '../store/informer.ts';
import { type MetricsHistory } from './metrics-history.ts';
import { type SeenCounters } from './vm-exposition.ts';

export interface MetricsSamplerParts {
  guests: () => readonly { id: string; guest: Guest }[];
  nodeId: () => string;
  readNode: () => MachineCounters;
  /** Used on the file system of the data, MiB. */
  storageUsedMib: () => Promise<number>;
  history: MetricsHistory;
  log: Log;
  /** Milliseconds since 1970. */
  now: () => number;
}

const secondMs = 1000;
/** A hundredth of a processor. */
const budgetShare = 0.01;
/** Guests that are asked about in one look: an answer of QEMU costs as much as ten looks at its process. */
const asksEachLook = 4;
/** Of a processor, for walks over the memory of guests. */
const walkShare = 0.001;
/** What is not written yet when the daemon dies is lost. */
const flushEveryMs = 30_000;

interface Known {
  atMs: number;
  counters: GuestCounters;
  detail: { atMs: number; counters: GuestDetail } | null;
  rates: AskedRates;
  shares: GuestMemoryShares | null;
}

/** What follows from two answers of a hypervisor. */
type AskedRates = Pick<
  Record<VmSeries, number>,
  'diskReadBytesPerS' | 'diskWriteBytesPerS' | 'diskOperationsPerS' | 'diskLatencyMs' | 'stealPercent' | 'exitsPerS'
>;

const unknownRates: AskedRates = {
  diskReadBytesPerS: NaN,
  diskWriteBytesPerS: NaN,
  diskOperationsPerS: NaN,
  diskLatencyMs: NaN,
  stealPercent: NaN,
  exitsPerS: NaN,
};

/** Change of a counter over a time; NaN where it is not known or fell. */
function rate(before: number | null, after: number | null, seconds: number): number {
  if (before === null || after === null || after < before || seconds <= 0) return NaN;
  return (after - before) / seconds;
}

/** `before` and `after`: what the hypervisor has told, so many seconds apart. */
function askedRates(before: GuestDetail, after: GuestDetail, seconds: number): AskedRates {
  const ofDisks = (field: Exclude<keyof DiskCounters, 'latency'>): number =>
    rate(before.disks?.[field] ?? null, after.disks?.[field] ?? null, seconds);
  const operationsPerS = ofDisks('operations');
  return {
    diskReadBytesPerS: ofDisks('readBytes'),
    diskWriteBytesPerS: ofDisks('writtenBytes'),
    diskOperationsPerS: operationsPerS,
    // No operation has no latency.
    diskLatencyMs: operationsPerS > 0 ? (ofDisks('operationSeconds') * 1000) / operationsPerS : NaN,
    stealPercent: rate(before.stealSeconds, after.stealSeconds, seconds) * 100,
    exitsPerS: rate(before.exits?.exits ?? null, after.exits?.exits ?? null, seconds),
  };
}

export class MetricsSampler {
  readonly #parts: MetricsSamplerParts;
  readonly #stopping = new AbortController();
  readonly #known = new Map<string, Known>();
  #node: { atMs: number; counters: MachineCounters } | null = null;
  /** Where the turn of asking hypervisors is. */
  #turn = 0;
  /** Whose memory was walked over last, and when the next may be. */
  #walk: { turn: number; nextMs: number } = { turn: 0, nextMs: 0 };
  #costSeconds = 0;
  #running: Promise<void> | null = null;

  constructor(parts: MetricsSamplerParts) {
    this.#parts = parts;
  }

  start(): void {
    this.#running = this.#run();
  }

  async close(): Promise<void> {
    this.#stopping.abort();
    await this.#running;
    await this.#parts.history.flush(this.#parts.now() / 1000);
  }

  /** What was last seen of each guest. */
  latest(): SeenCounters[] {
    return [...this.#known].map(([id, { counters, detail, shares }]) => ({
      id,
      counters,
      detail: detail?.counters ?? null,
      shares,
    }));
  }

  /** What was last seen of the machine; null: not looked at yet. */
  latestOfNode(): MachineCounters | null {
    return this.#node?.counters ?? null;
  }

  /** Processor time that all looks have cost this process, seconds. */
  get costSeconds(): number {
    return this.#costSeconds;
  }

  /** One look. Answers with what it cost this process, in milliseconds. */
  async look(): Promise<number> {
    const beganAt = process.cpuUsage();
    const { history, log } = this.#parts;
    try {
      this.#lookAtNode(await this.#parts.storageUsedMib().catch(() => NaN));
      const guests = this.#parts.guests();
      const ids = new Set(guests.map(({ id }) => id));
      for (const id of this.#known.keys()) if (!ids.has(id)) this.#known.delete(id);
      for (const { id, guest } of guests) {
        const values = await this.#lookAtGuest(id, guest);
        if (values) history.note(id, this.#parts.now() / 1000, values);
      }
      await this.#askHypervisors(guests);
      await this.#walkMemory(guests);
    } catch (error) {
      log.warn({ err: error }, 'what guests use could not be read');
    }
    const { user, system } = process.cpuUsage(beganAt);
    this.#costSeconds += (user + system) / 1e6;
    return (user + system) / 1000;
  }

  async #run(): Promise<void> {
    const { history, log, now } = this.#parts;
    const { signal } = this.#stopping;
    let flushedMs = now();
    let pauseMs = secondMs;
    while (!signal.aborted) {
      // Looks fall on whole seconds, so that each step has one.
      const untilSecond = pauseMs - (now() % secondMs);
      await delay(untilSecond < 50 ? untilSecond + secondMs : untilSecond, undefined, { signal, ref: false }).catch(
        () => {},
      );
      if (signal.aborted) return;
      const costMs = await this.look();
      pauseMs = Math.max(secondMs, Math.ceil(costMs / budgetShare / secondMs) * secondMs);
      if (now() - flushedMs < flushEveryMs) continue;
      flushedMs = now();
      await history.flush(flushedMs / 1000).catch((error: unknown) => {
        log.warn({ err: error }, 'the history of what guests use could not be written');
      });
    }
  }

  async #lookAtGuest(id: string, guest: Guest): Promise<Float32Array | null> {
    const counters = await guest.counters();
    const atMs = this.#parts.now();
    const before = this.#known.get(id);
    const known: Known = {
      atMs,
      counters,
      detail: before?.detail ?? null,
      rates: before?.rates ?? unknownRates,
      shares: before?.shares ?? null,
    };
    this.#known.set(id, known);
    if (!before) return null;
    const seconds = (atMs - before.atMs) / 1000;
    const of = (field: keyof GuestCounters): number => rate(before.counters[field], counters[field], seconds);
    const cpuPercent = of('cpuSeconds') * 100;
    const { shares } = known;
    const detail = known.detail?.counters;
    const values: Record<VmSeries, number> = {
      cpuPercent,
      cpuPercentMax: cpuPercent,
      memoryMib: counters.memoryMib ?? NaN,
      ...known.rates,
      networkReceiveBytesPerS: of('networkReceivedBytes'),
      networkSendBytesPerS: of('networkSentBytes'),
      memoryPssMib: shares?.pssMib ?? NaN,
      memoryHugeMib: shares?.hugeMib ?? NaN,
      memoryKsmMib: shares?.ksmMib ?? NaN,
      balloonMib: detail?.balloonMib ?? NaN,
      guestUsedMib: detail?.inside?.usedMib ?? NaN,
      guestCachedMib: detail?.inside?.cachedMib ?? NaN,
    };
    return Float32Array.from(Object.keys(vmSeries), (name) => values[name as VmSeries]);
  }

  async #askHypervisors(guests: readonly { id: string; guest: Guest }[]): Promise<void> {
    const count = Math.min(asksEachLook, guests.length);
    const turn = Array.from({ length: count }, (_, index) => guests[(this.#turn + index) % guests.length]!);
    this.#turn = guests.length === 0 ? 0 : (this.#turn + count) % guests.length;
    await Promise.all(
      turn.map(async ({ id, guest }) => {
        const counters = await guest.detail().catch(() => null);
        const known = this.#known.get(id);
        if (!known || !counters) return;
        const atMs = this.#parts.now();
        const { detail: before } = known;
        known.detail = { atMs, counters };
        if (before) known.rates = askedRates(before.counters, counters, (atMs - before.atMs) / 1000);
      }),
    );
  }

  async #walkMemory(guests: readonly { id: string; guest: Guest }[]): Promise<void> {
    const beganMs = this.#parts.now();
    if (guests.length === 0 || beganMs < this.#walk.nextMs) return;
    const { id, guest } = guests[this.#walk.turn % guests.length]!;
    const cpuBefore = process.cpuUsage();
    const shares = await guest.memoryShares().catch(() => null);
    const { user, system } = process.cpuUsage(cpuBefore);
    this.#walk = {
      turn: (this.#walk.turn + 1) % guests.length,
      nextMs: beganMs + (user + system) / 1000 / walkShare,
    };
    const known = this.#known.get(id);
    if (known && shares) known.shares = shares;
  }

  #lookAtNode(storageUsedMib: number): void {
    const counters = this.#parts.readNode();
    const atMs = this.#parts.now();
    const before = this.#node;
    this.#node = { atMs, counters };
    if (!before) return;
    const seconds = (atMs - before.atMs) / 1000;
    const cpuPercent = busyPercent(before.counters.cpu, counters.cpu);
    // Microseconds of waiting in each second, as percent of it.
    const pressure = (kind: keyof MachineCounters['pressure']): number =>
      Math.min(100, rate(before.counters.pressure[kind], counters.pressure[kind], seconds) / 10_000);
    const values: Record<NodeSeries, number> = {
      cpuPercent,
      cpuPercentMax: cpuPercent,
      memoryUsedMib: counters.memory.usedMib,
      cpuPressurePercent: pressure('cpu'),
      memoryPressurePercent: pressure('memory'),
      ioPressurePercent: pressure('io'),
      diskReadBytesPerS: rate(before.counters.disks.readBytes, counters.disks.readBytes, seconds),
      diskWriteBytesPerS: rate(before.counters.disks.writtenBytes, counters.disks.writtenBytes, seconds),
      networkReceiveBytesPerS: rate(before.counters.network.receivedBytes, counters.network.receivedBytes, seconds),
      networkSendBytesPerS: rate(before.counters.network.sentBytes, counters.network.sentBytes, seconds),
      storageUsedMib,
      stealPercent: stealPercent(before.counters.cpu, counters.cpu),
      memoryCachedMib: counters.memory.cachedMib,
      memoryHugeMib: counters.memory.hugeMib,
      memoryKsmSavedMib: counters.memory.ksmSavedMib ?? NaN,
      swapUsedMib: counters.memory.swapUsedMib,
    };
    const row = Float32Array.from(Object.keys(nodeSeries), (name) => values[name as NodeSeries]);
    this.#parts.history.noteNode(this.#parts.nodeId(), atMs / 1000, row);
  }
}
