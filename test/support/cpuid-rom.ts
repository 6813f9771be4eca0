// A guest of one instruction: a BIOS image that executes CPUID for a list of leaves in real mode, writes what it got to a
// debug port, and ends its QEMU. So what a processor says of its hypervisor is read where a guest reads it, on a KVM too
// that runs no ordinary kernel. Intel SDM volume 2, CPUID; volume 3, "First Instruction Executed".

/** Ports of the devices that QEMU is to have: isa-debugcon and isa-debug-exit. */
export const reportPort = 0xe9;
export const exitPort = 0xf4;

const romBytes = 0x10000;
const tableOffset = 0x1000;
const resetOffset = 0xfff0;
/** EAX, EBX, ECX and EDX. */
const bytesOfLeaf = 16;

/** What CPUID gives for one leaf. */
export interface Leaf {
  eax: number;
  ebx: number;
  ecx: number;
  edx: number;
}

export function buildCpuidRom(leaves: readonly number[]): Uint8Array {
  // out PORT, al; shr eax, 8: four times.
  const writeEax = [0, 1, 2, 3].flatMap(() => [0xe6, reportPort, 0x66, 0xc1, 0xe8, 8]);
  const loop = [
    ...[0x2e, 0x66, 0x8b, 0x04], // mov eax, cs:[si]
    ...[0x66, 0x31, 0xc9], // xor ecx, ecx
    ...[0x0f, 0xa2], // cpuid
    ...writeEax,
    ...[0x66, 0x89, 0xd8, ...writeEax], // mov eax, ebx
    ...[0x66, 0x89, 0xc8, ...writeEax], // mov eax, ecx
    ...[0x66, 0x89, 0xd0, ...writeEax], // mov eax, edx
    ...[0x83, 0xc6, 4], // add si, 4
    0x4f, // dec di
  ];
  const program = [
    0xfa, // cli
    ...[0xbe, tableOffset & 0xff, tableOffset >> 8], // mov si, table
    ...[0xbf, leaves.length, 0], // mov di, count
    ...loop,
    ...[0x75, 256 - (loop.length + 2)], // jnz loop
    ...[0xb0, 0, 0xe6, exitPort], // mov al, 0; out PORT, al
    ...[0xf4, 0xeb, 0xfd], // hlt; jmp to it
  ];
  const rom = new Uint8Array(romBytes);
  rom.set(program, 0);
  const view = new DataView(rom.buffer);
  for (const [index, leaf] of leaves.entries()) view.setUint32(tableOffset + 4 * index, leaf, true);
  // jmp near to offset 0, around the end of the segment.
  rom.set([0xe9, (romBytes - resetOffset - 3) & 0xff, 0], resetOffset);
  return rom;
}

/** Reads what the ROM wrote; throws where it did not come to its end. */
export function parseCpuidReport(report: Uint8Array, leaves: readonly number[]): Map<number, Leaf> {
  if (report.length !== leaves.length * bytesOfLeaf)
    throw new Error(`the guest wrote ${report.length} bytes for ${leaves.length} leaves`);
  const view = new DataView(report.buffer, report.byteOffset, report.length);
  return new Map(
    leaves.map((leaf, index) => {
      const word = (number: number): number => view.getUint32(index * bytesOfLeaf + 4 * number, true);
      return [leaf, { eax: word(0), ebx: word(1), ecx: word(2), edx: word(3) }];
    }),
  );
}

/** The text in EBX, ECX and EDX of a hypervisor's first leaf. */
export function signatureOf({ ebx, ecx, edx }: Leaf): string {
  const text = Buffer.alloc(12);
  for (const [index, word] of [ebx, ecx, edx].entries()) text.writeUInt32LE(word, 4 * index);
  return text.toString('latin1').replace(/\0+$/, '');
}
