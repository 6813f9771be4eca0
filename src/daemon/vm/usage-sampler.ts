// What running guests use, sampled when somebody asks: two callers within a second share a sample, and nobody asking
// costs nothing.
import { type VmUsage } from '../../api/vm.ts';
import { type GuestUsage } from '../../drivers/measured.ts';
import { type VmGuests } from './vm-guests.ts';
import { type VmRecords } from './vm-records.ts';

const shareMs = 500;
/** A sample older than this says nothing about now. */
const staleMs = 60_000;
const noUsage: GuestUsage = {
  cpuSeconds: null,
  memoryMib: null,
  memoryPrivateMib: null,
  memorySharedMib: null,
  diskReadBytes: null,
  diskWrittenBytes: null,
  networkReceivedBytes: null,
  networkSentBytes: null,
};

export class UsageSampler {
  readonly #records: VmRecords;
  readonly #guests: VmGuests;
  readonly #before = new Map<string, { atMs: number; cpuSeconds: number }>();
  #latest: { atMs: number; sample: Promise<VmUsage[]> } | null = null;

  constructor(records: VmRecords, guests: VmGuests) {
    this.#records = records;
    this.#guests = guests;
  }

  sample(): Promise<VmUsage[]> {
    const atMs = performance.now();
    if (!this.#latest || atMs - this.#latest.atMs > shareMs) this.#latest = { atMs, sample: this.#take(atMs) };
    return this.#latest.sample;
  }

  async #take(atMs: number): Promise<VmUsage[]> {
    const guests = this.#guests.all();
    const known = new Set(guests.map(({ id }) => id));
    for (const id of this.#before.keys()) if (!known.has(id)) this.#before.delete(id);
    const items = await Promise.all(
      guests.map(async ({ id, guest }): Promise<VmUsage | null> => {
        const usage = await guest.usage().catch(() => noUsage);
        const vm = this.#records.collection.get(id);
        if (!vm) return null;
        const { cpuSeconds, ...rest } = usage;
        return {
          id,
          name: vm.name,
          project: vm.project,
          state: vm.status.state,
          cpuPercent: this.#cpuPercent(id, cpuSeconds, atMs),
          ...rest,
        };
      }),
    );
    return items.filter((item) => item !== null).toSorted((left, right) => left.name.localeCompare(right.name));
  }

  #cpuPercent(id: string, cpuSeconds: number | null, atMs: number): number | null {
    if (cpuSeconds === null) return null;
    const before = this.#before.get(id);
    this.#before.set(id, { atMs, cpuSeconds });
    if (!before || atMs - before.atMs > staleMs || cpuSeconds < before.cpuSeconds) return null;
    return (100_000 * (cpuSeconds - before.cpuSeconds)) / (atMs - before.atMs);
  }
}
