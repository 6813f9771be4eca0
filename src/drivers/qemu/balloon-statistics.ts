// What the driver of a guest's balloon tells of the guest's memory. QEMU asks it only when it is told to poll; it does so
// at once when polling begins, so polling is begun anew for an answer of this moment, and goes on once a minute after that,
// for whoever is content with what was told last.
// https://www.qemu.org/docs/master/devel/virtio-backends.html and docs/virtio-balloon-stats.txt of QEMU.
//
// Invariant: whoever asks while an answer is awaited gets that answer; polling is seldom when nobody waits.
import { setTimeout as delay } from 'node:timers/promises';
import * as z from 'zod';
import { type GuestMetrics } from '../../api/vm-guest-info.ts';
import { type CallOptions } from '../driver.ts';
import { type QmpConnection } from './qmp/connection.ts';
import { QmpError } from './qmp/errors.ts';

const path = '/machine/peripheral/balloon0';
const interval = 'guest-stats-polling-interval';
/** Seconds; it is asked once, at once. */
const pollS = 2;
/** When nobody waits. It wakes the guest each time. */
const seldomS = 60;
const sizeAgeMs = 60_000;
const answerMs = 3000;
const lookMs = 20;

/** Numbers that a guest doesn't tell are 2^64−1, as is what an old QEMU has for them. */
const unknown = 2 ** 64 - 1;
const number = z
  .number()
  .optional()
  .transform((value) => (value === undefined || value < 0 || value >= unknown ? null : value));
const answer = z.object({
  'last-update': z.number(),
  stats: z.object({
    'stat-total-memory': number,
    'stat-free-memory': number,
    'stat-available-memory': number,
    'stat-disk-caches': number,
    'stat-swap-in': number,
    'stat-swap-out': number,
    'stat-minor-faults': number,
    'stat-major-faults': number,
  }),
});

export class BalloonStatistics {
  readonly #qmp: QmpConnection;
  #asked: Promise<GuestMetrics['memory']> | null = null;
  #isMissing = false;
  #memory: { atMs: number; bytes: number } | null = null;

  constructor(qmp: QmpConnection) {
    this.#qmp = qmp;
  }

  /**
   * What the guest was last heard to say, at most minutes ago, and what the balloon has taken, MiB. Two questions to QEMU,
   * none to the guest. Null: there is no balloon.
   */
  async latest(
    timeoutMs: number,
  ): Promise<{ inside: { usedMib: number; cachedMib: number } | null; takenMib: number } | null> {
    if (this.#isMissing) return null;
    const [told, all, balloon] = await Promise.all([
      this.#look(timeoutMs),
      this.#memoryBytes(timeoutMs),
      this.#qmp.execute('query-balloon', {}, { timeoutMs }).catch(noBalloon),
    ]);
    if (!told || !balloon) {
      // A guest gets no balloon later.
      this.#isMissing = true;
      return null;
    }
    const isOld = told['last-update'] < Date.now() / 1000 - 3 * seldomS;
    if (isOld && !this.#asked)
      await this.#qmp.execute('qom-set', { path, property: interval, value: seldomS }, { timeoutMs });
    const { totalBytes, availableBytes, freeBytes, cacheBytes } = toMemory(told.stats);
    const leftBytes = availableBytes ?? freeBytes;
    return {
      inside:
        isOld || totalBytes === null || leftBytes === null
          ? null
          : { usedMib: (totalBytes - leftBytes) / 2 ** 20, cachedMib: (cacheBytes ?? 0) / 2 ** 20 },
      takenMib: Math.max(0, all - balloon.actual) / 2 ** 20,
    };
  }

  /** What the guest was given; it changes seldom. */
  async #memoryBytes(timeoutMs: number): Promise<number> {
    const now = performance.now();
    if (!this.#memory || now - this.#memory.atMs > sizeAgeMs) {
      const size = await this.#qmp.execute('query-memory-size-summary', {}, { timeoutMs });
      this.#memory = { atMs: now, bytes: size['base-memory'] + (size['plugged-memory'] ?? 0) };
    }
    return this.#memory.bytes;
  }

  /** Null: there is no balloon, or no driver for it that answers in time. */
  read({ timeoutMs = answerMs }: CallOptions = {}): Promise<GuestMetrics['memory']> {
    this.#asked ??= this.#ask(Math.min(timeoutMs, answerMs)).finally(() => {
      this.#asked = null;
    });
    return this.#asked;
  }

  async #ask(timeoutMs: number): Promise<GuestMetrics['memory']> {
    const deadline = performance.now() + timeoutMs;
    const before = await this.#look();
    if (!before) return null;
    await this.#qmp.execute('qom-set', { path, property: interval, value: pollS });
    try {
      for (;;) {
        const now = await this.#look();
        // Seconds: an answer within the second of the one before it is as good.
        const isFresh = now !== null && now['last-update'] >= Math.floor(Date.now() / 1000) - pollS;
        if (isFresh && now['last-update'] > 0) return toMemory(now.stats);
        if (now === null || performance.now() > deadline) return null;
        await delay(lookMs);
      }
    } finally {
      await this.#qmp.execute('qom-set', { path, property: interval, value: seldomS }).catch(() => {});
    }
  }

  async #look(timeoutMs = answerMs): Promise<z.output<typeof answer> | null> {
    const told = answer.safeParse(
      await this.#qmp.execute('qom-get', { path, property: 'guest-stats' }, { timeoutMs }).catch(noBalloon),
    );
    return told.success ? told.data : null;
  }
}

/** QEMU's refusal; that it doesn't answer is another thing. */
function noBalloon(error: unknown): null {
  if (error instanceof QmpError) return null;
  throw error;
}

function toMemory(stats: z.output<typeof answer>['stats']): NonNullable<GuestMetrics['memory']> {
  return {
    totalBytes: stats['stat-total-memory'],
    freeBytes: stats['stat-free-memory'],
    availableBytes: stats['stat-available-memory'],
    cacheBytes: stats['stat-disk-caches'],
    swappedInBytes: stats['stat-swap-in'],
    swappedOutBytes: stats['stat-swap-out'],
    minorFaults: stats['stat-minor-faults'],
    majorFaults: stats['stat-major-faults'],
  };
}
