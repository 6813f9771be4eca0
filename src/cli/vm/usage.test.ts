import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { VmUsage } from '../../api/vm.ts';
import { sortRows, usageRows } from './usage.ts';

const usage = (name: string, change: Partial<VmUsage> = {}): VmUsage => ({
  id: name,
  name,
  project: 'default',
  state: 'running',
  cpuPercent: 1,
  memoryMib: 100,
  memoryPrivateMib: 60,
  memorySharedMib: 40,
  diskReadBytes: 0,
  diskWrittenBytes: 0,
  networkReceivedBytes: 0,
  networkSentBytes: null,
  ...change,
});
const at = (second: number, ...items: VmUsage[]) => ({ at: new Date(second * 1000).toISOString(), items });

test('rates are the growth of counters over the time between two readings', () => {
  const [row] = usageRows(at(12, usage('a', { diskReadBytes: 3000 })), at(10, usage('a', { diskReadBytes: 1000 })));
  assert.equal(row?.diskReadRate, 1000);
  assert.equal(row?.sendRate, null);
});

test('there is no rate without a reading before, for a new VM, or after a restart', () => {
  assert.equal(usageRows(at(1, usage('a')), null)[0]?.diskReadRate, null);
  assert.equal(usageRows(at(2, usage('b')), at(1, usage('a')))[0]?.diskReadRate, null);
  const restarted = usageRows(at(2, usage('a', { diskReadBytes: 5 })), at(1, usage('a', { diskReadBytes: 900 })));
  assert.equal(restarted[0]?.diskReadRate, null);
});

test('the largest comes first, equal ones by name, unknown ones last', () => {
  const rows = usageRows(
    at(1, usage('b', { cpuPercent: 5 }), usage('c', { cpuPercent: null }), usage('a', { cpuPercent: 5 })),
    null,
  );
  assert.deepEqual(
    sortRows(rows, 'cpu').map((row) => row.name),
    ['a', 'b', 'c'],
  );
  assert.deepEqual(
    sortRows(rows, 'name').map((row) => row.name),
    ['a', 'b', 'c'],
  );
});
