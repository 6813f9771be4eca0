// What the driver of a guest's balloon tells of the guest's memory. QEMU asks it only when it is told to poll; it does so
// at once when polling begins, so polling is switched on for a single answer and off again.
// https://www.qemu.org/docs/master/devel/virtio-backends.html and docs/virtio-balloon-stats.txt of QEMU.
//
// Invariant: whoever asks while an answer is awaited gets that answer; polling is off when nobody waits.
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

  constructor(qmp: QmpConnection) {
    this.#qmp = qmp;
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
      await this.#qmp.execute('qom-set', { path, property: interval, value: 0 }).catch(() => {});
    }
  }

  async #look(): Promise<z.output<typeof answer> | null> {
    try {
      const told = answer.safeParse(await this.#qmp.execute('qom-get', { path, property: 'guest-stats' }));
      return told.success ? told.data : null;
    } catch (error) {
      if (error instanceof QmpError) return null;
      throw error;
    }
  }
}

function toMemory(stats: z.output<typeof answer>['stats']): GuestMetrics['memory'] {
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
