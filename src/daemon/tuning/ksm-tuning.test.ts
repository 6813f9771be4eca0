import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type HostSetting } from '../../api/vm-memory.ts';
import { KsmTuning, stepMs } from './ksm-tuning.ts';

const folder = '/sys/kernel/mm/ksm';
const gib = 2 ** 30;

/** A kernel's KSM as mm/ksm.c has it: an advisor that begins or ends sets the pace, and refuses another's meanwhile. */
class FakeMachine {
  readonly files: Map<string, string>;
  noted: HostSetting[] = [];
  nowMs = 0;
  availableGib = 90;
  pressurePercent = 0;
  looks = 0;
  writes: string[] = [];

  constructor(files: Record<string, string>) {
    this.files = new Map(Object.entries(files));
  }

  tuning(): KsmTuning {
    return new KsmTuning({
      read: () => this.noted,
      write: async (settings) => {
        this.noted = settings;
      },
      load: async () => {
        this.looks += 1;
        const { pressurePercent } = this;
        return { totalBytes: 100 * gib, availableBytes: this.availableGib * gib, pressurePercent };
      },
      nowMs: () => this.nowMs,
      kernel: {
        text: (path) => {
          const value = this.files.get(path.slice(folder.length + 1)) ?? null;
          if (value === null || !path.endsWith('/advisor_mode')) return value;
          return value === 'none' ? '[none] scan-time' : 'none [scan-time]';
        },
        write: (path, value) => this.#write(path.slice(folder.length + 1), value),
      },
    });
  }

  values(): Record<string, string> {
    return Object.fromEntries(this.files);
  }

  #write(name: string, value: string): void {
    const path = `${folder}/${name}`;
    assert.ok(this.files.has(name), `there is no ${name}`);
    assert.ok(
      this.noted.some((one) => one.path === path),
      `${name} is changed before it is noted`,
    );
    if (name === 'pages_to_scan' && (this.files.get('advisor_mode') ?? 'none') !== 'none') throw new Error('EINVAL');
    if (name === 'advisor_mode' && this.files.get(name) !== value)
      this.files.set('pages_to_scan', value === 'none' ? '100' : '500');
    this.files.set(name, value);
    this.writes.push(`${name}=${value}`);
  }
}

const before = { run: '0', advisor_mode: 'none', pages_to_scan: '333' };
const other: HostSetting = { path: '/sys/other', original: '4', current: '8', reason: 'another' };

test('in auto, the pace rises step by step while memory is short, and falls when there is enough', async () => {
  const machine = new FakeMachine(before);
  const tuning = machine.tuning();
  machine.availableGib = 5;
  await tuning.apply('auto');
  assert.deepEqual(machine.values(), { run: '1', advisor_mode: 'none', pages_to_scan: '633' });
  for (const pages of ['933', '1233', '1250', '1250']) {
    machine.nowMs += stepMs;
    await tuning.apply('auto');
    assert.equal(machine.values().pages_to_scan, pages);
  }
  machine.availableGib = 90;
  machine.nowMs += stepMs;
  await tuning.apply('auto');
  assert.equal(machine.values().pages_to_scan, '1200');
  machine.pressurePercent = 20;
  machine.nowMs += stepMs;
  await tuning.apply('auto');
  assert.equal(machine.values().pages_to_scan, '1250');
});

test('between two steps the memory is not looked at, and nothing is written', async () => {
  const machine = new FakeMachine(before);
  const tuning = machine.tuning();
  assert.ok(tuning.isStepDue());
  await tuning.apply('auto');
  assert.ok(!tuning.isStepDue());
  const noted = machine.noted;
  machine.writes = [];
  machine.nowMs += stepMs - 1;
  await tuning.apply('auto');
  assert.equal(machine.looks, 1);
  assert.deepEqual(machine.writes, []);
  assert.equal(machine.noted, noted, 'nor is the status');
  machine.nowMs += 1;
  assert.ok(tuning.isStepDue());
});

test('what the machine had is noted once, with what is written now, and put back', async () => {
  const machine = new FakeMachine(before);
  machine.noted = [other];
  const tuning = machine.tuning();
  await tuning.apply('auto');
  machine.nowMs += stepMs;
  await tuning.apply('auto');
  assert.deepEqual(
    machine.noted.map(({ path, original, current }) => [path, original, current]),
    [
      ['/sys/other', '4', '8'],
      [`${folder}/advisor_mode`, 'none', 'none'],
      [`${folder}/pages_to_scan`, '333', '233'],
      [`${folder}/run`, '0', '1'],
    ],
  );
  await tuning.apply('off');
  assert.deepEqual(machine.values(), before);
  assert.deepEqual(machine.noted, [other]);
});

test('every way through on and auto ends with what the machine had', async () => {
  for (const had of [before, { ...before, advisor_mode: 'scan-time', pages_to_scan: '500' }, { ...before, run: '1' }])
    for (const way of [['on'], ['auto'], ['on', 'auto'], ['auto', 'on'], ['on', 'auto', 'on', 'auto']] as const) {
      const machine = new FakeMachine(had);
      for (const mode of way) {
        machine.nowMs += stepMs;
        // Each by a daemon of its own: what counts is what was noted.
        await machine.tuning().apply(mode);
        assert.equal(machine.values().run, '1');
        assert.equal(machine.values().advisor_mode, mode === 'on' ? 'scan-time' : 'none', way.join());
      }
      await machine.tuning().apply(undefined);
      assert.deepEqual(machine.values(), had, way.join());
      assert.deepEqual(machine.noted, []);
    }
});

test('an advisor that somebody else switches on meanwhile is switched off again', async () => {
  const machine = new FakeMachine(before);
  const tuning = machine.tuning();
  await tuning.apply('auto');
  machine.files.set('advisor_mode', 'scan-time');
  machine.files.set('pages_to_scan', '5000');
  machine.nowMs += stepMs;
  await tuning.apply('auto');
  assert.deepEqual(machine.values(), { run: '1', advisor_mode: 'none', pages_to_scan: '64' });
});

test('where an earlier version noted no pace, the kernel’s own is put back', async () => {
  const machine = new FakeMachine({ run: '1', advisor_mode: 'scan-time', pages_to_scan: '5000' });
  const note = (name: string, original: string, current: string): HostSetting => ({
    path: `${folder}/${name}`,
    original,
    current,
    reason: 'KSM is on for the node (spec.ksm).',
  });
  machine.noted = [note('advisor_mode', 'none', 'scan-time'), note('run', '0', '1')];
  await machine.tuning().apply('auto');
  await machine.tuning().apply('off');
  assert.deepEqual(machine.values(), { run: '0', advisor_mode: 'none', pages_to_scan: '100' });
});

test('kernels without an advisor are tuned, those without KSM are left alone', async () => {
  const old = new FakeMachine({ run: '0', pages_to_scan: '100' });
  old.availableGib = 1;
  await old.tuning().apply('auto');
  assert.deepEqual(old.values(), { run: '1', pages_to_scan: '400' });
  await old.tuning().apply('off');
  assert.deepEqual(old.values(), { run: '0', pages_to_scan: '100' });
  const none = new FakeMachine({});
  for (const mode of ['on', 'auto', 'off'] as const) await none.tuning().apply(mode);
  assert.deepEqual(none.noted, []);
});
