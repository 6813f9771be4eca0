import assert from 'node:assert/strict';
import { test } from 'node:test';
import { latencyEdgesUs, latencyQuantileUs, type LatencyCounts } from '../../api/vm-latency.ts';
import { plainStyle } from '../output/style.ts';
import { latencyLines } from './latency.ts';

/** Counts by the upper edge of their class, microseconds. */
function counts(byEdgeUs: Readonly<Record<string, number>>, seconds = 0): LatencyCounts {
  return { counts: [...latencyEdgesUs, Infinity].map((edge) => byEdgeUs[edge] ?? 0), seconds };
}

test('a histogram goes from its first class with something in it to its last, with what most operations took', () => {
  const read = counts({ 100: 90, 500: 9, 20_000: 1 }, 0.05);
  const lines = latencyLines(
    { edgesUs: latencyEdgesUs, disks: [{ disk: 'root', read, write: counts({}), flush: counts({}) }] },
    plainStyle,
  );
  assert.deepEqual(lines.slice(0, 5), [
    'disk root, 100 reads',
    'mean 500 µs, half of them ≤ 100 µs, 95 % ≤ 500 µs, 99 % ≤ 500 µs',
    ` under 100 µs         90  ${'█'.repeat(40)}`,
    ' under 200 µs          0',
    ` under 500 µs          9  ${'█'.repeat(4)}`,
  ]);
  assert.equal(lines.at(-1), '  under 20 ms          1  ▏');
});

test('what took longer than all classes is told as that', () => {
  const flush = counts({ Infinity: 3 }, 30);
  const lines = latencyLines(
    { edgesUs: latencyEdgesUs, disks: [{ disk: 'data', read: counts({}), write: counts({}), flush }] },
    plainStyle,
  );
  assert.equal(lines[0], 'disk data, 3 flushes');
  assert.match(lines[1]!, /mean 10 s, half of them over 5 s/);
  assert.match(lines[2]!, /^ +over 5 s +3 +█+$/);
});

test('without operations, and without disks, that is said', () => {
  const idle = { disk: 'root', read: counts({}), write: counts({}), flush: counts({}) };
  assert.deepEqual(latencyLines({ edgesUs: latencyEdgesUs, disks: [idle] }, plainStyle), [
    'Nothing was read or written yet.',
  ]);
  assert.deepEqual(latencyLines({ edgesUs: latencyEdgesUs, disks: [] }, plainStyle), ['It has no disk.']);
});

test('a share of nothing is no duration', () => {
  assert.equal(latencyQuantileUs(counts({}).counts, 0.5), null);
  assert.equal(latencyQuantileUs(counts({ 25: 1 }).counts, 1), 25);
});
