// The smallest thing that a BIOS can boot: a sector that says something on the first serial port, and then halts or resets
// the machine. The same bytes are a disk's first sector, the boot image of a CD-ROM (El Torito, without emulation) and
// what a network card loads (a network bootstrap program): all three are put at 0x7C00 and jumped to in real mode.
import { mkdir, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { run } from '../../src/host/command.ts';
import { makeEfiDisk } from './efi-disk.ts';

const loadedAt = 0x7c00;
const sectorBytes = 512;

/** Port 0x3F8 is the first serial port; bit 5 of its line status says that it takes a character. */
const code = [
  ...[0xfa, 0x31, 0xc0, 0x8e, 0xd8], // cli; xor ax,ax; mov ds,ax
  ...[0xbe, 0, 0], // mov si, text
  ...[0xac, 0x84, 0xc0, 0x74, 0x11], // next: lodsb; test al,al; jz done
  ...[0x88, 0xc3, 0xba, 0xfd, 0x03], // mov bl,al; mov dx,0x3FD
  ...[0xec, 0xa8, 0x20, 0x74, 0xfb], // wait: in al,dx; test al,0x20; jz wait
  ...[0xb2, 0xf8, 0x88, 0xd8, 0xee, 0xeb, 0xea], // mov dl,0xF8; mov al,bl; out dx,al; jmp next
];
/** done: hlt; jmp done. */
const halt = [0xf4, 0xeb, 0xfd];
/** done: the keyboard controller pulses the processor's reset. */
const reset = [0xb0, 0xfe, 0xe6, 0x64, ...halt];

/** The sector. What it says ends its line. */
export function bootSector(words: string, { isResetting = false } = {}): Buffer {
  const program = Buffer.from([...code, ...(isResetting ? reset : halt)]);
  program.writeUInt16LE(loadedAt + program.length, code.indexOf(0xbe) + 1);
  const sector = Buffer.alloc(sectorBytes);
  Buffer.concat([program, Buffer.from(`${words}\r\n\0`)]).copy(sector);
  sector.writeUInt16LE(0xaa55, sectorBytes - 2);
  return sector;
}

/** Makes a disk that a BIOS boots. */
export async function makeBiosDisk(path: string, words: string): Promise<void> {
  await writeFile(path, bootSector(words));
  await truncate(path, 2 ** 20);
}

/** Makes a CD-ROM that a BIOS boots by the sector, and UEFI by the loader, an EFI program. */
export async function makeBootableIso(
  path: string,
  folder: string,
  { sector, loader }: { sector: Buffer; loader: string },
): Promise<void> {
  const content = join(folder, 'iso');
  await mkdir(content);
  await writeFile(join(content, 'boot.bin'), Buffer.concat([sector, Buffer.alloc(3 * sectorBytes)]));
  await makeEfiDisk(join(content, 'efi.img'), loader);
  await run([
    'xorriso',
    ...['-as', 'mkisofs', '-quiet', '-o', path],
    ...['-b', 'boot.bin', '-no-emul-boot', '-boot-load-size', '4'],
    ...['-eltorito-alt-boot', '-e', 'efi.img', '-no-emul-boot'],
    content,
  ]);
}
