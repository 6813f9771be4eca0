// Cutting a stream of packets between two of them.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { PacketCutter } from './capture.ts';

function packet(size: number): Buffer {
  const record = Buffer.alloc(16 + size);
  record.writeUInt32LE(size, 8);
  return record;
}

test('a capture is cut between packets, however the stream comes', () => {
  const stream = Buffer.concat([Buffer.alloc(24), packet(10), packet(100), packet(10)]);
  for (const step of [1, 7, 24, 1000]) {
    const all = (maxBytes: number): { bytes: number; isFull: boolean } => {
      const cutter = new PacketCutter(maxBytes);
      let bytes = 0;
      for (let at = 0; at < stream.length; at += step) bytes += cutter.take(stream.subarray(at, at + step)).length;
      return { bytes, isFull: cutter.isFull };
    };
    assert.deepEqual(all(10_000), { bytes: stream.length, isFull: false });
    assert.deepEqual(all(stream.length - 1), { bytes: 24 + 26 + 116, isFull: true });
    assert.deepEqual(all(100), { bytes: 24 + 26, isFull: true });
  }
  assert.equal(new PacketCutter(100).isEmpty, true);
});
