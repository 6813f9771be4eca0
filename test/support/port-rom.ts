// A guest that writes to an I/O port some times, and then halts for good: a BIOS image in real mode.
// Intel SDM volume 2, OUT; volume 3, "First Instruction Executed".

const romBytes = 0x10000;
const resetOffset = 0xfff0;
/** The port for POST codes: a write to it has no effect. */
const port = 0x80;

export function buildPortRom(writes: number): Uint8Array {
  const rom = new Uint8Array(romBytes);
  rom.set([
    0xfa, // cli
    ...[0xb9, writes & 0xff, writes >> 8], // mov cx, writes
    ...[0xe6, port], // out PORT, al
    0x49, // dec cx
    ...[0x75, 256 - 5], // jnz to out
    ...[0xf4, 0xeb, 0xfd], // hlt; jmp to it
  ]);
  // jmp near to offset 0, around the end of the segment.
  rom.set([0xe9, (romBytes - resetOffset - 3) & 0xff, 0], resetOffset);
  return rom;
}
