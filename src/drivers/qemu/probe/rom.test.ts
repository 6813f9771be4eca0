// The ROM as bytes: its size, where the processor enters, how its parts point at each other, and that it only changes
// when somebody means it to.
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { test } from 'node:test';
import { PROBE_MEASUREMENTS } from './rom-format.ts';
import { buildProbeRom } from './rom.ts';

const { bytes, listing } = buildProbeRom();
const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
const lines = listing
  .split('\n')
  .map((line) => /^([0-9a-f]{8}) {2}([0-9a-f]+)(\.\.)? +(.*)$/.exec(line))
  .filter((match) => match !== null)
  .map((match) => ({
    address: Number.parseInt(match[1] ?? '', 16),
    hex: match[2] ?? '',
    isCut: match[3] !== undefined,
    text: match[4] ?? '',
  }));

/** Where an address of the listing lies in the ROM. */
function offsetOf(address: number): number {
  return address >= 0xffff0000 ? address - 0xffff0000 : address - 0x10000;
}

test('the ROM has 64 KiB and is the same every time', () => {
  assert.equal(bytes.length, 65_536);
  assert.deepEqual(buildProbeRom().bytes, bytes);
  // A change of the code changes this; run test/qemu/probe.test.ts then, and put the new value here.
  assert.equal(
    createHash('sha256').update(bytes).digest('hex'),
    '90586dd564c3ffbb63153682da427f66c62193ee002e4ade736c7739ac23e9fe',
  );
});

test('the reset vector jumps to the real-mode code', () => {
  assert.equal(bytes[0xfff0], 0xe9);
  const target = (0xfff3 + view.getInt16(0xfff1, true)) & 0xffff;
  assert.equal(target, 0xf000);
  // cli; cld; o32 lgdt [cs:…]
  assert.equal(Buffer.from(bytes.subarray(target, target + 7)).toString('hex'), 'fafc662e0f0116');
});

test('the descriptor table is found from real mode and holds flat code and data', () => {
  const pointer = view.getUint16(0xf007, true);
  assert.equal(view.getUint16(pointer, true), 63);
  const table = view.getUint32(pointer + 2, true) - 0xffff0000;
  assert.equal(view.getBigUint64(table, true), 0n);
  assert.equal(view.getBigUint64(table + 0x08, true), 0x00cf9b000000ffffn);
  assert.equal(view.getBigUint64(table + 0x10, true), 0x00cf93000000ffffn);
  assert.equal(view.getBigUint64(table + 0x18, true), 0x00af9b000000ffffn);
});

test('the jump to long mode goes to the 64-bit entry in RAM', () => {
  const jump = lines.find(({ text }) => text.startsWith('jmp 0x18:'));
  assert.ok(jump);
  const offset = offsetOf(jump.address);
  assert.equal(bytes[offset], 0xea);
  assert.equal(view.getUint32(offset + 1, true), 0x10000);
  assert.equal(view.getUint16(offset + 5, true), 0x18);
  // mov esp, 0xd000
  assert.equal(Buffer.from(bytes.subarray(0, 5)).toString('hex'), 'bc00d00000');
});

test('all of the 64-bit part is copied to RAM', () => {
  const last = lines.filter(({ address }) => address < 0xffff0000).at(-1);
  assert.ok(last);
  const end = offsetOf(last.address) + last.hex.length / 2;
  const copy = lines.find(
    ({ text, address }) => address > 0xffff0000 && text.startsWith('mov ecx, 0x') && text !== 'mov ecx, 0xc0000080',
  );
  assert.equal(Number.parseInt(copy?.text.split(' ').at(-1) ?? '', 16), end);
});

test('the listing covers every byte of the ROM that is not zero, with the bytes that are there', () => {
  const isListed = new Uint8Array(bytes.length);
  for (const { address, hex, isCut, text } of lines) {
    const offset = offsetOf(address);
    assert.equal(Buffer.from(bytes.subarray(offset, offset + hex.length / 2)).toString('hex'), hex, text);
    // Only fillers are longer than a line shows.
    const length = isCut ? Number(/^times (\d+) /.exec(text)?.[1]) : hex.length / 2;
    isListed.fill(1, offset, offset + length);
  }
  const unlisted = bytes.findIndex((byte, offset) => byte !== 0 && isListed[offset] === 0);
  assert.equal(unlisted, -1);
});

test('the table has each measurement with its number, in order', () => {
  const at = listing.indexOf('\ntable:\n');
  const names = [...listing.slice(at).matchAll(/^ +; (\w+)$/gm)].map((match) => match[1]);
  assert.deepEqual(names, [...PROBE_MEASUREMENTS]);
});
