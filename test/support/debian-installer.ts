// Debian's installer from Debian's own packages (debian-installer-13-netboot-amd64), as an ISO that boots by BIOS and answers
// its own questions. It brings the modules of its kernel that an installation here needs, and the programs that make its
// file system, from packages of the system: a mirror that fetches what it is asked for has been seen without the installer's
// own form of them, without which the disk can't be divided.
import { copyFile, cp, mkdir, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { run } from '../../src/host/command.ts';
import { readPackage, type InstallerArchive, type InstallerPackage } from './installer-archive.ts';
import { mirrorFolder } from './installer-mirror.ts';

const packageName = 'debian-installer-13-netboot-amd64';
const inPackage = 'usr/lib/debian-installer/images/13/amd64/text/debian-installer/amd64';
const unpackMs = 600_000;
/** Modules that are put into its initial RAM disk, with those that they need: the disk, the ISO, and the file system of the root. */
const modules = ['virtio_blk', 'virtio_scsi', 'sd_mod', 'sr_mod', 'ahci', 'isofs', 'ext4'];
/** Packages of the system whose programs and libraries do for those of the installer that make ext4. */
const fileSystemPackages = ['e2fsprogs', 'libext2fs2t64', 'libcom-err2'];
/** What packages of the installer may ask for and all this is. */
const provided = [
  'e2fsprogs-udeb',
  // It makes partitions of Windows smaller, and an empty disk has none.
  'ntfs-3g-udeb',
  ...['ext2', 'ext3', 'ext4', 'scsi', 'ata', 'cdrom-core', 'isofs'].map((name) => `${name}-modules`),
];

export interface Installer {
  kernelPath: string;
  initramfsPath: string;
  /** What is put into the initial RAM disk: a folder as it is to be laid over it. */
  overlay: string;
  /** Packages that are in its initial RAM disk. */
  installed: readonly InstallerPackage[];
}

/** Fetches the installer and its kernel's package, and lays out what is added to its initial RAM disk. */
export async function fetchInstaller(archive: InstallerArchive, folder: string): Promise<Installer> {
  const unpacked = await unpack(archive, packageName, join(folder, 'installer'));
  const initramfsPath = join(unpacked, inPackage, 'initrd.gz');
  const initramfs = join(folder, 'initramfs');
  await mkdir(initramfs);
  const status = 'var/lib/dpkg/status';
  const script = 'zcat "$1" | cpio -i -d --quiet "$2" "usr/lib/modules/*"';
  await run(['sh', '-c', script, 'sh', initramfsPath, status], { cwd: initramfs, timeoutMs: unpackMs });
  const text = await readFile(join(initramfs, status), 'utf8');
  const version = /^Package: nic-modules-(.*)-di$/m.exec(text)?.[1];
  if (version === undefined) throw new Error('the installer doesn’t say which kernel it has');
  const overlay = join(folder, 'overlay');
  await addModules(
    await unpack(archive, `linux-image-${version}`, join(folder, 'kernel')),
    version,
    initramfs,
    overlay,
  );
  for (const name of fileSystemPackages) await unpack(archive, name, overlay);
  for (const name of ['usr/share', 'usr/lib/systemd', 'etc/cron.d'])
    await rm(join(overlay, name), { recursive: true, force: true });
  const added = `Package: brought-along\nStatus: install ok installed\nVersion: 1\nProvides: ${provided.join(', ')}`;
  const whole = `${text.trimEnd()}\n\n${added}\n`;
  await mkdir(dirname(join(overlay, status)), { recursive: true });
  await writeFile(join(overlay, status), whole);
  return {
    kernelPath: join(unpacked, inPackage, 'linux'),
    initramfsPath,
    overlay,
    installed: whole.trim().split(/\n\n+/).map(readPackage),
  };
}

async function unpack(archive: InstallerArchive, name: string, folder: string): Promise<string> {
  const path = (await archive.download([name])).get(name);
  if (path === undefined) throw new Error(`the mirror lacks ${name}`);
  await run(['dpkg-deb', '-x', path, folder], { timeoutMs: unpackMs });
  return folder;
}

/** Puts modules of a kernel over those of the initial RAM disk, and the index of all of them. */
async function addModules(kernel: string, version: string, initramfs: string, overlay: string): Promise<void> {
  const inside = join('usr/lib/modules', version);
  const index = async (root: string): Promise<void> => {
    // depmod looks below /lib, which the packages take for a link.
    await symlink('usr/lib', join(root, 'lib'));
    await run(['depmod', '-b', root, version], { timeoutMs: unpackMs });
  };
  await index(kernel);
  const needs = new Map(
    (await readFile(join(kernel, inside, 'modules.dep'), 'utf8'))
      .split('\n')
      .filter((line) => line !== '')
      .map((line) => [basename(line.split(':')[0]!).split('.')[0]!, line.split(/:? /).filter((path) => path !== '')]),
  );
  const paths = modules.flatMap((name) => (needs.get(name) ?? []).map((path) => path.replace(/:$/, '')));
  for (const path of [...new Set(paths), 'modules.order', 'modules.builtin', 'modules.builtin.modinfo']) {
    const from = join(kernel, inside, path);
    for (const root of [initramfs, overlay]) await cp(from, join(root, inside, path));
  }
  await index(initramfs);
  const indexed = await readdir(join(initramfs, inside));
  for (const name of indexed.filter((one) => one.startsWith('modules.')))
    await cp(join(initramfs, inside, name), join(overlay, inside, name));
}

export interface PreseedOptions {
  /** Host and port that the installer asks, and what the system is called. */
  mirror: string;
  hostname: string;
}

/** How the disk is divided: one bootable partition for all of it. */
const recipe =
  'whole :: 2048 100 -1 ext4 $primary{ } $bootable{ } method{ format } format{ } use_filesystem{ } filesystem{ ext4 } mountpoint{ / } .';

/** Answers to all questions: one partition on the first virtio disk, nothing that is not needed, root’s password `secret`. */
export function preseed({ mirror, hostname }: PreseedOptions): string {
  const answers: [name: string, type: string, value: string][] = [
    ['debian-installer/locale', 'string', 'en_US.UTF-8'],
    ['debian-installer/allow_unauthenticated', 'boolean', 'true'],
    ['keyboard-configuration/xkb-keymap', 'select', 'us'],
    ['netcfg/choose_interface', 'select', 'auto'],
    ['netcfg/hostname', 'string', hostname],
    ['netcfg/get_domain', 'string', 'test'],
    ['mirror/country', 'string', 'manual'],
    ['mirror/http/hostname', 'string', mirror],
    ['mirror/http/directory', 'string', mirrorFolder],
    ['mirror/http/proxy', 'string', ''],
    ['anna/no_kernel_modules', 'boolean', 'true'],
    ['passwd/root-password', 'password', 'secret'],
    ['passwd/root-password-again', 'password', 'secret'],
    ['passwd/make-user', 'boolean', 'false'],
    ['clock-setup/utc', 'boolean', 'true'],
    ['clock-setup/ntp', 'boolean', 'false'],
    ['time/zone', 'string', 'UTC'],
    ['partman-auto/disk', 'string', '/dev/vda'],
    ['partman-auto/method', 'string', 'regular'],
    ['partman-auto/expert_recipe', 'string', recipe],
    ['partman-auto/choose_recipe', 'select', 'whole'],
    ['partman-basicfilesystems/no_swap', 'boolean', 'false'],
    ['partman-partitioning/confirm_write_new_label', 'boolean', 'true'],
    ['partman/choose_partition', 'select', 'finish'],
    ['partman/confirm', 'boolean', 'true'],
    ['partman/confirm_nooverwrite', 'boolean', 'true'],
    ['base-installer/install-recommends', 'boolean', 'false'],
    ['base-installer/kernel/image', 'string', 'linux-image-cloud-amd64'],
    ['apt-setup/services-select', 'multiselect', ''],
    ['apt-setup/enable-source-repositories', 'boolean', 'false'],
    ['hw-detect/load_firmware', 'boolean', 'false'],
    ['pkgsel/upgrade', 'select', 'none'],
    ['grub-installer/only_debian', 'boolean', 'true'],
    ['grub-installer/bootdev', 'string', 'default'],
    ['finish-install/keep-consoles', 'boolean', 'true'],
    ['finish-install/reboot_in_progress', 'note', ''],
  ];
  const lines = answers.map(([name, type, value]) => `d-i ${name} ${type} ${value}`.trimEnd());
  return [
    ...lines,
    'tasksel tasksel/first multiselect',
    'popularity-contest popularity-contest/participate boolean false',
    '',
  ].join('\n');
}

/** Makes the ISO: what boots says so on the first serial port, and so does the system that it installs. */
export async function makeInstallerIso(
  path: string,
  folder: string,
  { kernelPath, initramfsPath, overlay }: Installer,
  answers: string,
): Promise<void> {
  const content = join(folder, 'content');
  const boot = join(content, 'boot');
  await mkdir(join(boot, 'grub'), { recursive: true });
  await copyFile(kernelPath, join(boot, 'linux'));
  await writeFile(join(overlay, 'preseed.cfg'), answers);
  // The kernel unpacks one archive after the other; the installer reads /preseed.cfg by itself.
  const append = 'cd "$1" && { cat "$2"; find . -mindepth 1 | cpio -o -H newc --quiet | gzip -1; } >"$3"';
  await run(['sh', '-c', append, 'sh', overlay, initramfsPath, join(boot, 'initrd.gz')], { timeoutMs: unpackMs });
  const grub = [
    'serial --unit=0',
    'terminal_output serial',
    'echo INSTALLER BOOTS',
    'linux /boot/linux auto=true priority=critical DEBIAN_FRONTEND=text debian-installer/allow_unauthenticated=true console=ttyS0 --- console=ttyS0',
    'initrd /boot/initrd.gz',
    'boot',
    '',
  ];
  await writeFile(join(boot, 'grub', 'grub.cfg'), grub.join('\n'));
  await run(['grub-mkrescue', '-d', '/usr/lib/grub/i386-pc', '-o', path, content], { timeoutMs: 120_000 });
}
