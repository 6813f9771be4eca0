import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Task } from '../../api/task.ts';
import {
  currentStep,
  describeBytes,
  itemLines,
  overviewLine,
  plainLine,
  progressBar,
  RateMeter,
  stepLines,
} from './progress.ts';
import { plainStyle } from './style.ts';

const at = '2026-01-01T00:00:00.000Z';
function taskWith(change: Partial<Task>): Task {
  return {
    id: '0198c0de-0000-7000-8000-000000000001',
    type: 'image.create',
    target: { kind: 'image', id: 'x', name: 'debian', project: 'default' },
    project: 'default',
    state: 'running',
    steps: [
      { name: 'download', state: 'done', startedAt: at, endedAt: '2026-01-01T00:00:03.000Z' },
      { name: 'convert-disk', state: 'running', startedAt: at, endedAt: null },
    ],
    progress: { percent: 42.7, bytesDone: 50 * 2 ** 20, bytesTotal: 100 * 2 ** 20 },
    error: null,
    requestedBy: 'root',
    createdAt: at,
    startedAt: at,
    endedAt: null,
    deadline: null,
    items: [],
    parentId: null,
    ...change,
  };
}

test('the objects of a task are shown one by one', () => {
  const item = { id: 'x', taskId: null, error: null };
  const items = [
    { ...item, name: 'web1', state: 'done' as const, message: 'VM web1 is stopped.' },
    { ...item, name: 'web2', state: 'running' as const, message: 'It is being stopped.' },
    { ...item, name: 'web3', state: 'failed' as const, message: 'It is busy.' },
    { ...item, name: 'web4', state: 'pending' as const, message: '' },
  ];
  assert.deepEqual(itemLines(taskWith({ items }), plainStyle), [
    '  ✓ web1  VM web1 is stopped.',
    '  … web2  It is being stopped.',
    '  ✗ web3  It is busy.',
    '  · web4',
  ]);
});

test('a rate is measured over time and forgets when a new step begins', () => {
  const meter = new RateMeter();
  meter.note(0, 0);
  assert.equal(meter.bytesPerSecond, null);
  meter.note(10_000, 1000);
  assert.equal(meter.bytesPerSecond, 10_000);
  meter.note(40_000, 2000);
  assert.ok((meter.bytesPerSecond ?? 0) > 10_000 && (meter.bytesPerSecond ?? 0) < 30_000);
  meter.note(0, 3000);
  assert.equal(meter.bytesPerSecond, null);
});

test('bytes come with their total, rate and time left as far as these are known', () => {
  assert.equal(describeBytes(2 ** 20, undefined, null), '1 MiB');
  assert.equal(describeBytes(2 ** 20, 3 * 2 ** 20, 2 ** 20), '1 MiB of 3 MiB, 1 MiB/s, 2.0s left');
});

test('the bar never leaves its bounds', () => {
  for (const percent of [-5, 0, 50, 100, 250]) assert.equal(progressBar(percent, plainStyle).length, 24);
});

test('the current step is said in words', () => {
  assert.equal(currentStep(taskWith({})), 'convert disk');
  assert.equal(currentStep(taskWith({ state: 'queued' })), 'waiting for its turn');
  assert.equal(currentStep(taskWith({ state: 'undoing' })), 'undoing: convert disk');
  assert.equal(currentStep(taskWith({ progress: { percent: 1, message: 'unpacking' } })), 'unpacking');
});

test('steps that are done are listed with the time they took', () => {
  assert.deepEqual(stepLines(taskWith({}), plainStyle), ['  ✓ download  3.0s']);
});

test('an overview line tells step, percent and bytes', () => {
  const line = overviewLine(
    { title: 'import image debian', task: taskWith({}), startedAtMs: 0 },
    0,
    new RateMeter(),
    5000,
    plainStyle,
  );
  assert.match(line, /import image debian .* 42 % {2}convert disk {2}50 MiB of 100 MiB {2}5\.0s$/);
});

test('without a terminal a line is said for each step and each tenth, and not twice', () => {
  const followed = { title: 'import image debian', task: taskWith({}), startedAtMs: 0 };
  const first = plainLine(followed, undefined);
  assert.equal(first?.line, 'import image debian: convert disk (42 %)');
  assert.equal(plainLine(followed, first?.key), null);
  assert.equal(plainLine({ ...followed, task: taskWith({ progress: { percent: 49 } }) }, first?.key), null);
  assert.ok(plainLine({ ...followed, task: taskWith({ progress: { percent: 51 } }) }, first?.key));
  assert.equal(plainLine({ ...followed, task: taskWith({ state: 'succeeded' }) }, first?.key), null);
});
