// Memory taken from guests of the fake driver while the node is short of it, and given back: the machine's memory and the
// clock are the test's, the devices are those of the fake driver.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { LodgeError } from '../../src/api/errors.ts';
import { vmSpec } from '../../src/api/vm-spec.ts';
import { type Vm } from '../../src/api/vm.ts';
import { Balloons } from '../../src/daemon/tuning/balloons.ts';
import { initialVmStatus } from '../../src/daemon/vm/vm-records.ts';
import { type DeviceChange } from '../../src/drivers/driver.ts';
import { FakeDevices, fakeHardware } from '../../src/drivers/fake/fake-devices.ts';
import { type FakeProcess } from '../../src/drivers/fake/fake-guest.ts';
import { type GuestDetail } from '../../src/drivers/measured.ts';

const gib = 2 ** 30;

class Scene {
  availableGib = 90;
  nowMs = 0;
  readonly vms = new Map<string, Vm>();
  readonly balloons: Balloons;
  /** Changes that guests were asked for. */
  asked: string[] = [];
  /** Guests that don't do their part. */
  readonly deaf = new Set<string>();
  readonly #processes = new Map<string, FakeProcess>();
  readonly #usedMib = new Map<string, number>();

  constructor() {
    this.balloons = this.another();
  }

  /** Looks after the same guests, as a daemon that was restarted. */
  another(): Balloons {
    return new Balloons({
      records: { collection: { all: () => this.vms.values(), get: (id) => this.vms.get(id) ?? null } },
      guests: { get: (id) => this.#guest(id), exclusively: (_id, work) => work() },
      log: { info: () => {}, warn: (fields: unknown) => assert.fail(JSON.stringify(fields)) },
      load: async () => ({ totalBytes: 100 * gib, availableBytes: this.availableGib * gib, pressurePercent: 0 }),
      nowMs: () => this.nowMs,
    });
  }

  /** A guest of 4000 MiB that runs. */
  add(id: string, fields: Record<string, unknown>, usedMib: number): void {
    const spec = vmSpec.parse({ memoryMib: 4000, ...fields });
    const status = { ...initialVmStatus(''), state: 'running' as const, startedSpec: spec };
    this.vms.set(id, { id, name: id, spec, status } as unknown as Vm);
    const definition = { spec, disks: [], nics: [] } as unknown as Parameters<typeof fakeHardware>[0];
    this.#processes.set(id, { hardware: fakeHardware(definition) } as unknown as FakeProcess);
    this.#usedMib.set(id, usedMib);
  }

  update(id: string, change: (vm: Vm) => Vm): void {
    this.vms.set(id, change(this.vms.get(id)!));
  }

  has(id: string): number {
    return this.#processes.get(id)!.hardware.balloonMib;
  }

  async rounds(count: number, balloons = this.balloons): Promise<void> {
    for (let round = 0; round < count; round++) {
      this.nowMs += 10_000;
      await balloons.round();
    }
  }

  #guest(id: string): ReturnType<ConstructorParameters<typeof Balloons>[0]['guests']['get']> {
    const process = this.#processes.get(id);
    if (!process) return null;
    const devices = new FakeDevices({
      name: id,
      pinned: { machine: 'q35', hotplug: null } as unknown as FakeProcess['pinned'],
      read: async () => this.#processes.get(id)!,
      change: async (change) => void this.#processes.set(id, change(this.#processes.get(id)!)),
    });
    const make = devices.change.bind(devices);
    devices.change = async (change: DeviceChange) => {
      this.asked.push(id);
      if (this.deaf.has(id)) throw new LodgeError('timeout', 'The guest did not follow.');
      await make(change);
    };
    const detail = { inside: { usedMib: this.#usedMib.get(id)!, cachedMib: 0 } } as unknown as GuestDetail;
    return Object.assign(devices, { devices, detail: async () => detail });
  }
}

const guaranteed = (memoryGuaranteedMib: number): Record<string, unknown> => ({ resources: { memoryGuaranteedMib } });

test('guests with a guarantee give memory up to it while the node is short, and get it back slowly', async () => {
  const scene = new Scene();
  scene.add('idle', guaranteed(1000), 500);
  scene.add('busy', guaranteed(3000), 3900);
  scene.add('outside', {}, 100);
  await scene.rounds(3);
  assert.deepEqual(scene.asked, [], 'there is enough');
  scene.availableGib = 12.4;
  await scene.rounds(1);
  assert.deepEqual(scene.asked, [], 'nor is it tight');
  scene.availableGib = 5;
  await scene.rounds(1);
  assert.deepEqual([scene.has('idle'), scene.has('busy'), scene.asked], [3600, 3600, ['idle', 'busy']]);
  await scene.rounds(20);
  assert.deepEqual([scene.has('idle'), scene.has('busy'), scene.has('outside')], [1000, 3000, 4000]);
  scene.availableGib = 60;
  scene.asked = [];
  await scene.rounds(1);
  assert.deepEqual([scene.has('busy'), scene.has('idle')], [3120, 1120]);
  await scene.rounds(30);
  assert.deepEqual([scene.has('idle'), scene.has('busy')], [4000, 4000]);
  assert.ok(!scene.asked.includes('outside'));
});

test('nothing is given back within a minute after it was taken', async () => {
  const scene = new Scene();
  scene.add('web', guaranteed(1000), 500);
  scene.availableGib = 5;
  await scene.rounds(1);
  scene.availableGib = 60;
  await scene.rounds(5);
  assert.equal(scene.has('web'), 3600);
  await scene.rounds(1);
  assert.equal(scene.has('web'), 3720);
});

test('one that takes part no more gets all of it back at once, also from a daemon that did not take it', async () => {
  const scene = new Scene();
  scene.add('web', guaranteed(1000), 500);
  scene.availableGib = 5;
  await scene.rounds(3);
  assert.equal(scene.has('web'), 2800);
  const next = scene.another();
  await scene.rounds(1, next);
  scene.update('web', (vm) => ({ ...vm, spec: { ...vm.spec, resources: {} } }));
  await scene.rounds(1, next);
  assert.equal(scene.has('web'), 4000);
  scene.asked = [];
  await scene.rounds(3, next);
  assert.deepEqual(scene.asked, []);
});

test('a target of the spec is the most that it is given back', async () => {
  const scene = new Scene();
  scene.add('web', { memoryTargetMib: 2000, ...guaranteed(1900) }, 500);
  scene.availableGib = 5;
  await scene.rounds(3);
  assert.equal(scene.has('web'), 1900);
  scene.availableGib = 60;
  await scene.rounds(20);
  assert.equal(scene.has('web'), 2000);
});

test('guests at work by a task, paused, of huge or locked pages, or going on from another’s memory are left alone', async () => {
  const scene = new Scene();
  scene.add('task', guaranteed(1000), 500);
  scene.add('paused', guaranteed(1000), 500);
  scene.add('huge', { memoryBacking: { pageSize: '2MiB' }, ...guaranteed(1000) }, 500);
  scene.add('locked', { memoryBacking: { isLocked: true }, ...guaranteed(1000) }, 500);
  scene.add('copy', guaranteed(1000), 500);
  const lineage = { kind: 'fork' } as Vm['status']['lineage'];
  scene.update('copy', (vm) => ({ ...vm, status: { ...vm.status, lineage } }));
  scene.update('task', (vm) => ({ ...vm, status: { ...vm.status, taskId: 'one' } }));
  scene.update('paused', (vm) => ({ ...vm, status: { ...vm.status, state: 'paused' } }));
  scene.availableGib = 1;
  await scene.rounds(3);
  assert.deepEqual(scene.asked, []);
  scene.update('task', (vm) => ({ ...vm, status: { ...vm.status, taskId: null } }));
  await scene.rounds(1);
  assert.deepEqual(scene.asked, ['task']);
});

test('a guest that does not follow is left out for five minutes', async () => {
  const scene = new Scene();
  scene.add('deaf', guaranteed(1000), 500);
  scene.deaf.add('deaf');
  scene.availableGib = 1;
  await scene.rounds(30);
  assert.deepEqual(scene.asked, ['deaf']);
  await scene.rounds(1);
  assert.deepEqual(scene.asked, ['deaf', 'deaf']);
});
