import assert from 'node:assert/strict';
import { test } from 'node:test';
import { throttleArguments } from './throttle.ts';

test('limits are told in QEMU’s words, and what is not limited is zero', () => {
  assert.deepEqual(throttleArguments('disk', null), {
    id: 'disk',
    iops: 0,
    iops_rd: 0,
    iops_wr: 0,
    bps: 0,
    bps_rd: 0,
    bps_wr: 0,
  });
  const limits = { readIops: 100, writeIops: 50, bytesPerSecond: 1000, burst: { readIops: 200, lengthS: 5 } };
  assert.deepEqual(throttleArguments('disk', limits), {
    id: 'disk',
    iops: 0,
    iops_rd: 100,
    iops_rd_max: 200,
    iops_rd_max_length: 5,
    iops_wr: 50,
    bps: 1000,
    bps_rd: 0,
    bps_wr: 0,
  });
});
