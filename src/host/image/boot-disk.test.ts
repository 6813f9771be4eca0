import assert from 'node:assert/strict';
import { test } from 'node:test';
import { patchBiosLoader } from './boot-disk.ts';

test("GRUB's sectors are told where its core image lies, and the partition table's place is left alone", () => {
  const { mbrCode, core } = patchBiosLoader(Buffer.alloc(512, 0x11), Buffer.alloc(512 * 3 + 7, 0x22), 2048);
  assert.equal(mbrCode.length, 440);
  assert.equal(mbrCode.readBigUInt64LE(0x5c), 2048n);
  assert.equal(mbrCode.readUInt16LE(0x66), 0x9090);
  assert.equal(core.readBigUInt64LE(0x1f4), 2049n);
  assert.equal(core.readUInt16LE(0x1fc), 3);
  assert.equal(core.length, 512 * 3 + 7);
});
