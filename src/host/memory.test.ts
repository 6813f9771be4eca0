// Memory: recorded texts of /proc and /sys.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { memoryOf, parseMeminfo, parsePressure } from './memory.ts';

const MEMINFO = `MemTotal:       24684096 kB
MemFree:        21808968 kB
MemAvailable:   24012792 kB
Cached:          2286812 kB
Active(anon):       1612 kB
SwapTotal:       1048576 kB
SwapFree:        1048000 kB
HugePages_Total:       4
Hugepagesize:       2048 kB
`;

test('meminfo gives bytes, and counts without a unit stay counts', () => {
  assert.deepEqual(memoryOf(MEMINFO), {
    totalBytes: 24_684_096 * 1024,
    availableBytes: 24_012_792 * 1024,
    swapTotalBytes: 1_048_576 * 1024,
    swapFreeBytes: 1_048_000 * 1024,
  });
  assert.equal(parseMeminfo(MEMINFO).get('HugePages_Total'), 4);
  assert.equal(parseMeminfo(MEMINFO).get('Active(anon)'), 1612 * 1024);
});

test('the meminfo of a NUMA node is read like the machine’s', () => {
  assert.equal(
    parseMeminfo('Node 1 MemTotal:        6252760 kB\nNode 1 HugePages_Free:     3\n').get('MemTotal'),
    6_252_760 * 1024,
  );
});

test('a kernel without an estimate of available memory counts free and cached', () => {
  const old = MEMINFO.replace(/^MemAvailable.*\n/m, '');
  assert.equal(memoryOf(old).availableBytes, (21_808_968 + 2_286_812) * 1024);
});

test('memory pressure is the mean of ten seconds', () => {
  const text = 'some avg10=1.53 avg60=0.87 avg300=0.00 total=1234\nfull avg10=0.50 avg60=0.00 avg300=0.00 total=99\n';
  assert.deepEqual(parsePressure(text), { somePercent: 1.53, fullPercent: 0.5 });
});
