import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parseDiskStats, parseMachineMemory, parsePressureTotal } from './machine-counters.ts';

test('whole disks are summed, and their partitions are not', () => {
  const text = `   8       0 sda 100 0 2000 50 200 0 4000 60 0 0 0
   8       1 sda1 100 0 2000 50 200 0 4000 60 0 0 0
 253       0 dm-0 1 0 2 0 0 0 0 0 0 0 0
 259       0 nvme0n1 1 0 8 0 1 0 16 0 0 0 0`;
  assert.deepEqual(
    parseDiskStats(text, (name) => ['sda', 'nvme0n1'].includes(name)),
    { readBytes: 2008 * 512, writtenBytes: 4016 * 512 },
  );
});

test('the time in which something waited is the total of the line "some"', () => {
  const text = 'some avg10=0.00 avg60=0.00 avg300=0.00 total=12345\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=99';
  assert.equal(parsePressureTotal(text), 12_345);
  assert.equal(parsePressureTotal(''), null);
});

test('memory is told by what it is used for, and shared memory is no cache', () => {
  const text = `MemTotal:       8388608 kB
MemFree:        1048576 kB
MemAvailable:   4194304 kB
Buffers:         102400 kB
Cached:         3072000 kB
SReclaimable:    102400 kB
Shmem:           204800 kB
SwapTotal:      1048576 kB
SwapFree:        524288 kB
AnonHugePages:   409600 kB
ShmemHugePages:  204800 kB
Hugetlb:        2097152 kB
`;
  assert.deepEqual(parseMachineMemory(text, '1024\n'), {
    totalMib: 8192,
    usedMib: 4096,
    cachedMib: 3000,
    hugeMib: 2648,
    swapUsedMib: 512,
    ksmSavedMib: 4,
  });
  assert.equal(parseMachineMemory(text, null).ksmSavedMib, null);
});
