import assert from 'node:assert/strict';
import { test } from 'node:test';
import { crc32 } from 'node:zlib';
import { GPT_HEAD_BYTES, GPT_TAIL_BYTES, PARTITION_TYPE, writeGpt, type GptPartition } from './gpt.ts';

const MIB = 1024 * 1024;
const DISK_ID = '11223344-5566-8788-99aa-bbccddeeff00';
const partition: GptPartition = {
  number: 15,
  type: PARTITION_TYPE.efiSystem,
  id: '00112233-4455-6677-8899-aabbccddeeff',
  name: 'efi',
  startBytes: MIB,
  sizeBytes: 4 * MIB,
};

test('both copies of the table agree, point at each other, and have right checksums', () => {
  const { head, tail } = writeGpt(16 * MIB, DISK_ID, [partition]);
  assert.equal(head.length, GPT_HEAD_BYTES);
  assert.equal(tail.length, GPT_TAIL_BYTES);
  const primary = head.subarray(512, 1024);
  const backup = tail.subarray(tail.length - 512);
  const table = head.subarray(1024);
  assert.ok(table.equals(tail.subarray(0, tail.length - 512)));
  const last = BigInt((16 * MIB) / 512 - 1);
  assert.deepEqual([primary.readBigUInt64LE(24), primary.readBigUInt64LE(32)], [1n, last]);
  assert.deepEqual([backup.readBigUInt64LE(24), backup.readBigUInt64LE(32)], [last, 1n]);
  for (const header of [primary, backup]) {
    assert.equal(header.toString('latin1', 0, 8), 'EFI PART');
    assert.equal(header.readUInt32LE(88), crc32(table));
    const blank = Buffer.from(header.subarray(0, 92));
    blank.writeUInt32LE(0, 16);
    assert.equal(header.readUInt32LE(16), crc32(blank));
  }
});

test('an entry stands at its number, GUIDs are stored mixed-endian, the last sector is included', () => {
  const { head } = writeGpt(16 * MIB, DISK_ID, [partition]);
  const entry = head.subarray(1024 + 14 * 128, 1024 + 15 * 128);
  assert.equal(entry.toString('hex', 0, 16), '28732ac11ff8d211ba4b00a0c93ec93b');
  assert.equal(entry.toString('hex', 16, 32), '33221100554477668899aabbccddeeff');
  assert.deepEqual([entry.readBigUInt64LE(32), entry.readBigUInt64LE(40)], [2048n, 10239n]);
  assert.equal(entry.toString('utf16le', 56, 62), 'efi');
});

test('the protective MBR covers the disk and is marked bootable for BIOSes by its signature', () => {
  const { head } = writeGpt(16 * MIB, DISK_ID, []);
  assert.equal(head[450], 0xee);
  assert.equal(head.readUInt32LE(454), 1);
  assert.equal(head.readUInt32LE(458), (16 * MIB) / 512 - 1);
  assert.equal(head.readUInt16LE(510), 0xaa55);
});

test('partitions outside the disk or across its tables are refused', () => {
  for (const change of [{ startBytes: 0 }, { startBytes: 13 * MIB }, { sizeBytes: 0 }, { startBytes: MIB + 1 }]) {
    assert.throws(() => writeGpt(16 * MIB, DISK_ID, [{ ...partition, ...change }]), RangeError);
  }
});
