// Looks each second at what guests and the machine use, and keeps it as history.
//
// Invariants:
// - It costs at most a hundredth of a processor: when a look takes longer than a hundredth of the time until the next, the
//   next comes later. Steps in between have no value then.
// - Disks are asked of the hypervisor, which costs more: a few guests each second, in turn. Their rates hold until the next.
// - A counter that fell (the guest was started anew) makes no value.
import { setTimeout as delay } from 'node:timers/promises';
import { nodeSeries, vmSeries, type NodeSeries, type VmSeries } from '../../api/metrics.ts';
import { type DiskCounters, type Guest, type GuestCounters } from '../../drivers/driver.ts';
import { busyPercent } from '../../host/cpu.ts';
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
/** Guests whose disks are asked about in one look: an answer of QEMU costs as much as ten looks at its process. */
const disksEachLook = 4;
/** What is not written yet when the daemon dies is lost. */
const flushEveryMs = 30_000;

interface Known {
  atMs: number;
  counters: GuestCounters;
  disks: { atMs: number; counters: DiskCounters } | null;
  diskRates: DiskRates;
}

interface DiskRates {
  readBytesPerS: number;
  writeBytesPerS: number;
  operationsPerS: number;
  latencyMs: number;
}

const unknownDiskRates: DiskRates = {
  readBytesPerS: NaN,
  writeBytesPerS: NaN,
  operationsPerS: NaN,
  latencyMs: NaN,
};

/** Change of a counter over a time; NaN where it is not known or fell. */
function rate(before: number | null, after: number | null, seconds: number): number {
  if (before === null || after === null || after < before || seconds <= 0) return NaN;
  return (after - before) / seconds;
}

export class MetricsSampler {
  readonly #parts: MetricsSamplerParts;
  readonly #stopping = new AbortController();
  readonly #known = new Map<string, Known>();
  #node: { atMs: number; counters: MachineCounters } | null = null;
  /** Where the turn of asking about disks is. */
  #diskTurn = 0;
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
    return [...this.#known].map(([id, { counters, disks }]) => ({ id, counters, disks: disks?.counters ?? null }));
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
      await this.#lookAtDisks(guests);
    } catch (error) {
      log.warn({ err: error }, 'what guests use could not be read');
    }
    const { user, system } = process.cpuUsage(beganAt);
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
      disks: before?.disks ?? null,
      diskRates: before?.diskRates ?? unknownDiskRates,
    };
    this.#known.set(id, known);
    if (!before) return null;
    const seconds = (atMs - before.atMs) / 1000;
    const of = (field: keyof GuestCounters): number => rate(before.counters[field], counters[field], seconds);
    const cpuPercent = of('cpuSeconds') * 100;
    const { diskRates } = known;
    const values: Record<VmSeries, number> = {
      cpuPercent,
      cpuPercentMax: cpuPercent,
      memoryMib: counters.memoryMib ?? NaN,
      diskReadBytesPerS: diskRates.readBytesPerS,
      diskWriteBytesPerS: diskRates.writeBytesPerS,
      diskOperationsPerS: diskRates.operationsPerS,
      diskLatencyMs: diskRates.latencyMs,
      networkReceiveBytesPerS: of('networkReceivedBytes'),
      networkSendBytesPerS: of('networkSentBytes'),
    };
    return Float32Array.from(Object.keys(vmSeries), (name) => values[name as VmSeries]);
  }

  async #lookAtDisks(guests: readonly { id: string; guest: Guest }[]): Promise<void> {
    const count = Math.min(disksEachLook, guests.length);
    const turn = Array.from({ length: count }, (_, index) => guests[(this.#diskTurn + index) % guests.length]!);
    this.#diskTurn = guests.length === 0 ? 0 : (this.#diskTurn + count) % guests.length;
    await Promise.all(
      turn.map(async ({ id, guest }) => {
        const counters = await guest.diskCounters().catch(() => null);
        const known = this.#known.get(id);
        if (!known || !counters) return;
        const atMs = this.#parts.now();
        const { disks: before } = known;
        known.disks = { atMs, counters };
        if (!before) return;
        const seconds = (atMs - before.atMs) / 1000;
        const of = (field: keyof DiskCounters): number => rate(before.counters[field], counters[field], seconds);
        const operationsPerS = of('operations');
        known.diskRates = {
          readBytesPerS: of('readBytes'),
          writeBytesPerS: of('writtenBytes'),
          operationsPerS,
          // No operation has no latency.
          latencyMs: operationsPerS > 0 ? (of('operationSeconds') * 1000) / operationsPerS : NaN,
        };
      }),
    );
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
      memoryUsedMib: counters.memoryUsedMib,
      cpuPressurePercent: pressure('cpu'),
      memoryPressurePercent: pressure('memory'),
      ioPressurePercent: pressure('io'),
      diskReadBytesPerS: rate(before.counters.disks.readBytes, counters.disks.readBytes, seconds),
      diskWriteBytesPerS: rate(before.counters.disks.writtenBytes, counters.disks.writtenBytes, seconds),
      networkReceiveBytesPerS: rate(before.counters.network.receivedBytes, counters.network.receivedBytes, seconds),
      networkSendBytesPerS: rate(before.counters.network.sentBytes, counters.network.sentBytes, seconds),
      storageUsedMib,
    };
    const row = Float32Array.from(Object.keys(nodeSeries), (name) => values[name as NodeSeries]);
    this.#parts.history.noteNode(this.#parts.nodeId(), atMs / 1000, row);
  }
}
