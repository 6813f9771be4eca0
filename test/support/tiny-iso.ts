// An ISO that boots `tiny` by BIOS, as installers boot: for guests that are to come by firmware and boot loader.
import { copyFile, mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { run } from '../../src/host/command.ts';
import { bootableKernel, tinyImage } from './qemu.ts';

/** Makes an ISO of the volume `INSTALLER`, with files of its own in a folder. */
export async function makeTinyIso(path: string, folder: string): Promise<void> {
  const { manifest, initramfsPath } = await tinyImage();
  const content = join(folder, 'installer');
  await mkdir(join(content, 'boot', 'grub'), { recursive: true });
  await copyFile(await bootableKernel(), join(content, 'boot', 'vmlinuz'));
  await run(['sh', '-c', 'gzip -1 <"$1" >"$2"', 'sh', initramfsPath, join(content, 'boot', 'initramfs.gz')]);
  const commands = [
    'serial --unit=0',
    'terminal_output serial',
    `linux /boot/vmlinuz ${manifest.commandLine}`,
    'initrd /boot/initramfs.gz',
    'boot',
    '',
  ];
  await writeFile(join(content, 'boot', 'grub', 'grub.cfg'), commands.join('\n'));
  await run(['grub-mkrescue', '-d', '/usr/lib/grub/i386-pc', '-o', path, content, '--', '-volid', 'INSTALLER'], {
    timeoutMs: 60_000,
  });
}
