// Debian's installer from Debian's own packages (debian-installer-13-netboot-amd64), as an ISO that boots by BIOS and answers
// its own questions.
import { copyFile, mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { run } from '../../src/host/command.ts';
import { DEBIAN_KEYRING, type DebianMirrors } from '../../src/host/image/apt-mirrors.ts';
import { exists, get, mirrorFolder } from './installer-mirror.ts';

export const installerSuite = 'trixie';
const packageName = 'debian-installer-13-netboot-amd64';
const inPackage = 'usr/lib/debian-installer/images/13/amd64/text/debian-installer/amd64';
/** Releases of the installer before the newest that are tried. */
const olderReleases = 3;
const downloadMs = 600_000;

export interface Installer {
  kernelPath: string;
  initramfsPath: string;
  /** Packages that are in its initial RAM disk. */
  installed: ReadonlySet<string>;
}

/**
 * The newest installer whose kernel's modules the mirror has: a mirror keeps them for one or two kernels only. Found by apt,
 * in the archive that this machine gets its packages from, with lists of its own.
 */
export async function fetchInstaller(mirrors: DebianMirrors, folder: string): Promise<Installer> {
  const lists = join(folder, 'lists');
  await mkdir(join(lists, 'partial'), { recursive: true });
  const sources = join(folder, 'sources.list');
  await writeFile(
    sources,
    `deb [signed-by=${mirrors.keyring ?? DEBIAN_KEYRING}] ${mirrors.archive} ${installerSuite} main\n`,
  );
  const options = [
    `Dir::Etc::sourcelist=${sources}`,
    'Dir::Etc::sourceparts=-',
    `Dir::State::Lists=${lists}`,
    `Dir::Cache=${folder}`,
    'APT::Sandbox::User=root',
  ].flatMap((option) => ['-o', option]);
  const apt = (...args: string[]): ReturnType<typeof run> =>
    run(['apt-get', ...options, '-qq', ...args], { cwd: folder, timeoutMs: downloadMs });
  await apt('update');
  const { stdout } = await apt('download', '--print-uris', packageName);
  const uri = /^'([^']+)'/m.exec(stdout)?.[1];
  if (!uri) throw new Error(`apt names no download for ${packageName}`);
  await apt('download', packageName);
  const [newest] = (await readdir(folder)).filter((name) => name.endsWith('.deb'));
  const tried: string[] = [];
  for (const [index, candidate] of [uri, ...olderThan(uri)].entries()) {
    const path = join(folder, index === 0 ? newest! : decodeURIComponent(basename(candidate)));
    if (index > 0 && !(await exists(candidate))) continue;
    if (index > 0) await writeFile(path, await get(candidate));
    const installer = await unpackInstaller(path, join(folder, `installer-${index}`));
    const modules = [...installer.installed].find((name) => /^nic-modules-.*-di$/.test(name)) ?? '';
    const version = modules.slice('nic-modules-'.length);
    if (await hasModules(mirrors, version, folder)) return installer;
    tried.push(version);
  }
  throw new Error(`the mirror has no kernel modules for the installer: of ${tried.join(', ')}`);
}

/** Where the releases of the installer before this one would be in the pool: …+deb13u6, …+deb13u5. */
function olderThan(uri: string): string[] {
  const release = Number(/deb13u(\d+)_/.exec(uri)?.[1] ?? 1);
  const count = Math.min(olderReleases, release - 1);
  return Array.from({ length: count }, (_, index) => uri.replace(/deb13u\d+_/, `deb13u${release - 1 - index}_`));
}

async function hasModules({ archive }: DebianMirrors, version: string, folder: string): Promise<boolean> {
  const packed = join(folder, 'Packages.xz');
  const list = `${archive}/dists/${installerSuite}/main/debian-installer/binary-amd64/Packages.xz`;
  await writeFile(packed, await get(list));
  const { stdout } = await run(['xz', '-dc', packed]);
  const path = new RegExp(`^Filename: (\\S*/ext4-modules-${version.replaceAll(/[.+]/g, '\\$&')}_\\S+)$`, 'm').exec(
    stdout,
  );
  return path !== null && (await exists(`${archive}/${path[1]}`));
}

async function unpackInstaller(path: string, folder: string): Promise<Installer> {
  await rm(folder, { recursive: true, force: true });
  await run(['dpkg-deb', '-x', path, folder], { timeoutMs: downloadMs });
  const initramfsPath = join(folder, inPackage, 'initrd.gz');
  const root = join(folder, 'initrd');
  await mkdir(root);
  const status = 'var/lib/dpkg/status';
  await run(['sh', '-c', 'zcat "$1" | cpio -i -d --quiet "$2"', 'sh', initramfsPath, status], { cwd: root });
  const text = await readFile(join(root, status), 'utf8');
  const installed = new Set([...text.matchAll(/^Package: (.*)$/gm)].map((match) => match[1]!));
  return { kernelPath: join(folder, inPackage, 'linux'), initramfsPath, installed };
}

export interface PreseedOptions {
  /** Host and port that the installer asks, and what the system is called. */
  mirror: string;
  hostname: string;
  fileSystem: 'ext4' | 'btrfs';
  /** Packages of the installer that it takes besides its own choice. */
  modules: readonly string[];
}

/** Answers to all questions: one partition and swap on the first virtio disk, nothing that is not needed, root’s password `secret`. */
export function preseed({ mirror, hostname, fileSystem, modules }: PreseedOptions): string {
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
    ['anna/choose_modules', 'string', modules.join(', ')],
    ['passwd/root-password', 'password', 'secret'],
    ['passwd/root-password-again', 'password', 'secret'],
    ['passwd/make-user', 'boolean', 'false'],
    ['clock-setup/utc', 'boolean', 'true'],
    ['clock-setup/ntp', 'boolean', 'false'],
    ['time/zone', 'string', 'UTC'],
    ['partman-auto/disk', 'string', '/dev/vda'],
    ['partman-auto/method', 'string', 'regular'],
    ['partman-auto/choose_recipe', 'select', 'atomic'],
    ['partman/default_filesystem', 'string', fileSystem],
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
  { kernelPath, initramfsPath }: Installer,
  answers: string,
): Promise<void> {
  const content = join(folder, 'content');
  const boot = join(content, 'boot');
  await mkdir(join(boot, 'grub'), { recursive: true });
  await copyFile(kernelPath, join(boot, 'linux'));
  await writeFile(join(folder, 'preseed.cfg'), answers);
  // The kernel unpacks one archive after the other; the installer reads /preseed.cfg by itself.
  const append = 'cd "$1" && { cat "$2"; echo preseed.cfg | cpio -o -H newc --quiet | gzip; } >"$3"';
  await run(['sh', '-c', append, 'sh', folder, initramfsPath, join(boot, 'initrd.gz')]);
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
