import assert from 'node:assert/strict';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { type VmSeries } from '../../api/metrics.ts';
import { type Guest } from '../../drivers/driver.ts';
import {
  type DiskCounters,
  type GuestCounters,
  type GuestDetail,
  type GuestMemoryShares,
} from '../../drivers/measured.ts';
import { type MachineCounters } from '../../host/machine-counters.ts';
import { temporaryFolder } from '../../../test/support/temporary.ts';
import { MetricsHistory } from './metrics-history.ts';
import { MetricsSampler } from './metrics-sampler.ts';

const startMs = 1_800_000_000_000;
const idle: DiskCounters = { readBytes: 0, writtenBytes: 0, operations: 0, operationSeconds: 0, latency: [] };
const silent: GuestDetail = { disks: idle, exits: null, stealSeconds: null, inside: null, balloonMib: null };

interface Played {
  counters: GuestCounters;
  detail: GuestDetail | null;
  shares: GuestMemoryShares;
  /** How often its hypervisor was asked, and its memory walked over. */
  asked: number;
  walked: number;
}

class World {
  readonly history: MetricsHistory;
  readonly sampler: MetricsSampler;
  readonly guests = new Map<string, Played>();
  readonly warnings: unknown[] = [];
  node: MachineCounters = {
    cpu: { busy: 0, total: 0, steal: 0 },
    memory: { totalMib: 8000, usedMib: 1000, cachedMib: 500, hugeMib: 64, swapUsedMib: 0, ksmSavedMib: null },
    pressure: { cpu: 0, memory: 0, io: null },
    disks: { readBytes: 0, writtenBytes: 0 },
    network: { receivedBytes: 0, sentBytes: 0 },
  };
  nowMs = startMs;

  constructor(folder: string) {
    this.history = new MetricsHistory(folder, (id) => id === 'node' || this.guests.has(id));
    this.sampler = new MetricsSampler({
      guests: () =>
        [...this.guests].map(([id, known]) => ({
          id,
          guest: {
            counters: async () => known.counters,
            detail: async () => {
              known.asked++;
              return known.detail ?? Promise.reject(new Error('it does not answer'));
            },
            memoryShares: async () => {
              known.walked++;
              return known.shares;
            },
          } as unknown as Guest,
        })),
      nodeId: () => 'node',
      readNode: () => this.node,
      storageUsedMib: async () => 5000,
      history: this.history,
      log: { warn: (...all: unknown[]) => this.warnings.push(all) } as never,
      now: () => this.nowMs,
    });
  }

  add(id: string): void {
    const counters = { cpuSeconds: 0, memoryMib: 256, networkReceivedBytes: 0, networkSentBytes: 0 };
    const shares = { pssMib: 200, hugeMib: 64, ksmMib: null, swapMib: 0 };
    this.guests.set(id, { counters, detail: silent, shares, asked: 0, walked: 0 });
  }

  /** A second later, with these counters. */
  async second(change: Record<string, Partial<GuestCounters & GuestDetail>> = {}): Promise<void> {
    this.nowMs += 1000;
    for (const [id, changed] of Object.entries(change)) {
      const known = this.guests.get(id)!;
      known.counters = { ...known.counters, ...changed };
      if (known.detail) known.detail = { ...known.detail, ...changed };
    }
    await this.sampler.look();
  }

  async last(id: string, seconds: number, name: VmSeries): Promise<(number | null)[]> {
    const now = this.nowMs / 1000;
    const request = { from: new Date(this.nowMs - (seconds - 1) * 1000).toISOString(), stepS: 1 };
    return (await this.history.ofVm(id, { ...request, to: new Date((now + 1) * 1000).toISOString() }, now)).series[
      name
    ];
  }
}

async function world(t: TestContext): Promise<World> {
  return new World(join(await temporaryFolder(t), 'metrics'));
}

test('counters become rates of each second', async (t) => {
  const here = await world(t);
  here.add('a');
  await here.second();
  await here.second({ a: { cpuSeconds: 1.5, networkReceivedBytes: 3000, memoryMib: 300 } });
  await here.second({ a: { cpuSeconds: 1.75, networkReceivedBytes: 3000 } });
  assert.deepEqual(await here.last('a', 3, 'cpuPercent'), [null, 150, 25]);
  assert.deepEqual(await here.last('a', 2, 'networkReceiveBytesPerS'), [3000, 0]);
  assert.deepEqual(await here.last('a', 2, 'memoryMib'), [300, 300]);
});

test('a counter that fell makes no value, and one that is not known neither', async (t) => {
  const here = await world(t);
  here.add('a');
  await here.second({ a: { cpuSeconds: 50 } });
  await here.second({ a: { cpuSeconds: 1, networkSentBytes: null } });
  await here.second({ a: { cpuSeconds: 2 } });
  assert.deepEqual(await here.last('a', 2, 'cpuPercent'), [null, 100]);
  assert.deepEqual(await here.last('a', 2, 'networkSendBytesPerS'), [null, null]);
});

test('a guest that ended and one that begins again have nothing in common', async (t) => {
  const here = await world(t);
  here.add('a');
  await here.second({ a: { cpuSeconds: 1 } });
  const guest = here.guests.get('a')!;
  here.guests.delete('a');
  await here.second();
  here.guests.set('a', guest);
  await here.second({ a: { cpuSeconds: 9 } });
  await here.second({ a: { cpuSeconds: 9.5 } });
  assert.deepEqual(await here.last('a', 2, 'cpuPercent'), [null, 50]);
});

test('hypervisors are asked a few a second, in turn, and their rates hold until the next', async (t) => {
  const here = await world(t);
  for (let index = 0; index < 10; index++) here.add(`g${index}`);
  for (let second = 0; second < 5; second++) await here.second();
  const asked = [...here.guests.values()].map(({ asked }) => asked);
  assert.equal(
    asked.reduce((sum, each) => sum + each, 0),
    20,
  );
  assert.deepEqual([...new Set(asked)], [2]);
});

test('operations of disks become rates and their mean time', async (t) => {
  const here = await world(t);
  here.add('a');
  await here.second();
  await here.second({
    a: { disks: { ...idle, readBytes: 4_000_000, operations: 100, operationSeconds: 0.25 } },
  });
  // What was seen in one second is shown from the next on.
  await here.second();
  assert.deepEqual(await here.last('a', 1, 'diskReadBytesPerS'), [4_000_000]);
  assert.deepEqual(await here.last('a', 1, 'diskOperationsPerS'), [100]);
  assert.deepEqual(await here.last('a', 1, 'diskLatencyMs'), [2.5]);
  await here.second();
  assert.deepEqual(await here.last('a', 1, 'diskOperationsPerS'), [0]);
  assert.deepEqual(await here.last('a', 1, 'diskLatencyMs'), [null], 'no operation, no latency');
});

test('steal, exits and what the guest tells are kept beside', async (t) => {
  const here = await world(t);
  here.add('a');
  const exits = {
    exits: 1000,
    byKind: { io: 900 },
    haltPolls: { attempts: 0, successes: 0, successSeconds: 0, failSeconds: 0 },
  };
  await here.second({ a: { exits, stealSeconds: 1, balloonMib: 32 } });
  await here.second({
    a: { exits: { ...exits, exits: 3500 }, stealSeconds: 1.25, inside: { usedMib: 100, cachedMib: 50 } },
  });
  await here.second();
  assert.deepEqual(await here.last('a', 1, 'exitsPerS'), [2500]);
  assert.deepEqual(await here.last('a', 1, 'stealPercent'), [25]);
  assert.deepEqual(await here.last('a', 1, 'balloonMib'), [32]);
  assert.deepEqual(await here.last('a', 1, 'guestUsedMib'), [100]);
  assert.deepEqual(await here.last('a', 1, 'guestCachedMib'), [50]);
});

test('the memory of guests is walked over one after the other, and the next is not before its time', async (t) => {
  const here = await world(t);
  for (const id of ['a', 'b', 'c']) here.add(id);
  // What a walk costs here is next to nothing, but a thousand times that may still be more than a second.
  for (let second = 0; second < 12; second++) {
    here.nowMs += 60_000;
    await here.second();
  }
  const walked = [...here.guests.values()].map((guest) => guest.walked);
  assert.deepEqual(walked, [4, 4, 4]);
  await here.sampler.look();
  assert.deepEqual(await here.last('b', 1, 'memoryPssMib'), [200]);
  assert.deepEqual(await here.last('b', 1, 'memoryKsmMib'), [null]);
});

test('a hypervisor that counts no exits makes no rate of them', async (t) => {
  const here = await world(t);
  here.add('a');
  for (let second = 0; second < 3; second++) await here.second();
  assert.deepEqual(await here.last('a', 1, 'exitsPerS'), [null]);
});

test('the machine has its own history', async (t) => {
  const here = await world(t);
  await here.second();
  here.node = {
    ...here.node,
    cpu: { busy: 50, total: 200, steal: 20 },
    pressure: { cpu: 100_000, memory: 0, io: null },
    network: { receivedBytes: 10, sentBytes: 20 },
  };
  await here.second();
  const now = here.nowMs / 1000;
  const to = new Date((now + 1) * 1000).toISOString();
  const { series } = await here.history.ofNode('node', { from: new Date(here.nowMs).toISOString(), to }, now);
  assert.deepEqual(series.cpuPercent, [25]);
  assert.deepEqual(series.stealPercent, [10]);
  assert.deepEqual(series.memoryHugeMib, [64]);
  assert.deepEqual(series.memoryKsmSavedMib, [null], 'a kernel without KSM');
  assert.deepEqual(series.cpuPressurePercent, [10]);
  assert.deepEqual(series.ioPressurePercent, [null]);
  assert.deepEqual(series.networkSendBytesPerS, [20]);
  assert.deepEqual(series.storageUsedMib, [5000]);
});

test('a guest that does not answer hides no other', async (t) => {
  const here = await world(t);
  here.add('a');
  here.guests.get('a')!.detail = null;
  here.add('b');
  await here.second();
  await here.second({ b: { cpuSeconds: 1 } });
  assert.deepEqual(await here.last('b', 1, 'cpuPercent'), [100]);
  assert.deepEqual(here.warnings, []);
});

test('what is kept of a VM goes with it', async (t) => {
  const here = await world(t);
  here.add('a');
  await here.second();
  await here.second({ a: { cpuSeconds: 1 } });
  await here.history.flush(here.nowMs / 1000);
  here.guests.delete('a');
  await here.history.flush(here.nowMs / 1000);
  assert.deepEqual(await here.last('a', 1, 'cpuPercent'), [null]);
});

for (const [what, request, field] of [
  ['an end before the begin', { from: '2027-01-15T08:00:00Z', to: '2027-01-15T07:00:00Z' }, 'from'],
  ['more than two years', { from: '2020-01-01T00:00:00Z' }, 'from'],
  ['too many steps', { from: '2027-01-01T08:00:00Z', to: '2027-01-15T07:00:00Z', stepS: 60 }, 'stepS'],
] as const) {
  test(`${what} is refused with the field`, async (t) => {
    const here = await world(t);
    await assert.rejects(
      async () => here.history.ofVm('a', request, startMs / 1000),
      (error: Error & { fields?: { field: string }[] }) => error.fields?.[0]?.field === field,
    );
  });
}
