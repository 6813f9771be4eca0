// A disk with nothing but an EFI loader, which says on the serial console that it runs, and then switches the machine off or does as it is told: what
// firmware runs and what it refuses is seen by that.
import { truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { run } from '../../src/host/command.ts';

export const loaderWords = 'LOADER RUNS';

const diskBytes = 4 * 2 ** 20;

/** Makes `name.efi`, the loader, without a signature. `commands`: what GRUB is to do then. */
export async function makeLoader(
  folder: string,
  {
    name = 'loader',
    words = loaderWords,
    commands = 'halt',
  }: { name?: string; words?: string; commands?: string } = {},
): Promise<string> {
  const early = join(folder, `${name}.cfg`);
  const path = join(folder, `${name}.efi`);
  await writeFile(early, `serial --unit=0\nterminal_output serial\necho ${words}\n${commands}\n`);
  const modules = ['serial', 'terminal', 'echo', 'halt', 'sleep', 'lsacpi', 'reboot'];
  await run(['grub-mkimage', '-O', 'x86_64-efi', '-o', path, '-p', '/none', '-c', early, ...modules]);
  return path;
}

/** Makes a FAT file system with the loader at the place that firmware looks at without being told. */
export async function makeEfiDisk(path: string, loader: string): Promise<void> {
  await writeFile(path, '');
  await truncate(path, diskBytes);
  await run(['mformat', '-i', path, '-v', 'EFI', '::']);
  await run(['mmd', '-i', path, '::/EFI', '::/EFI/BOOT']);
  await run(['mcopy', '-i', path, loader, '::/EFI/BOOT/BOOTX64.EFI']);
}
