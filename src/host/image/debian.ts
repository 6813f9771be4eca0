// Builds `debian-12` and `debian-13`: Debian from its packages (mmdebstrap) as a disk that boots by BIOS and UEFI,
// with cloud-init, ssh and the guest agent. The mirror is this machine's; the image itself names Debian's public one
// and holds nothing of this machine: no host keys, no machine id, no name, no name server.
import { createHash } from 'node:crypto';
import { lstat, mkdir, readdir, readFile, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { CommandError, run } from '../command.ts';
import { asBuildProcess } from './build-process.ts';
import { readDebianMirrors, type DebianMirrors } from './apt-mirrors.ts';
import { writeBootDisk } from './boot-disk.ts';
import { describeFiles, readManifest, writeManifest, type ImageManifest } from './manifest.ts';
import { ImageProblemError } from './problem.ts';
import type { OnBuildProgress } from './progress.ts';
import { publishFolder } from './publish.ts';
import { runQemuImg } from './qemu-img.ts';

export type DebianRelease = 'bookworm' | 'trixie';

export interface BuildDebianOptions {
  release: DebianRelease;
  /** The image's folder: disk.qcow2, manifest.json. Replaced as a whole. */
  outDir: string;
  /** Files laid over the root; default: guest/debian/rootfs of this repository. */
  guestDir?: string;
  /** Build again although `outDir` holds an image of the same recipe, e.g. to take newer packages. */
  refresh?: boolean;
  onProgress?: OnBuildProgress;
  signal?: AbortSignal;
}

const RELEASES: Record<DebianRelease, { version: string; prettyName: string }> = {
  bookworm: { version: '12', prettyName: 'Debian GNU/Linux 12 (bookworm)' },
  trixie: { version: '13', prettyName: 'Debian GNU/Linux 13 (trixie)' },
};

const PACKAGES = [
  // What makes it a machine.
  'linux-image-cloud-amd64',
  'initramfs-tools',
  'zstd',
  'systemd-sysv',
  'udev',
  'kmod',
  'dbus',
  'libpam-systemd',
  'e2fsprogs',
  'fdisk',
  'tzdata',
  'locales',
  'logrotate',
  // Its network: netplan writes for systemd-networkd what cloud-init was given.
  'netplan.io',
  'systemd-resolved',
  'systemd-timesyncd',
  'iproute2',
  'iputils-ping',
  'netbase',
  'ca-certificates',
  // How it is set up and reached.
  'cloud-init',
  'cloud-guest-utils',
  'qemu-guest-agent',
  'openssh-server',
  'sudo',
  // What one misses at once when logged in.
  'apt-utils',
  'bash-completion',
  'curl',
  'less',
  'nano',
  'procps',
  'vim-tiny',
  'wget',
];

const DISK_BYTES = 3 * 1024 ** 3;
const MIN_MEMORY_MIB = 512;
const BUILDER_VERSION = 3;
const BOOTSTRAP_TIMEOUT_MS = 45 * 60_000;

const defaultGuestDir = (): string => join(import.meta.dirname, '../../../guest/debian/rootfs');

/** Builds a Debian image, or returns what is there when it was built from the same recipe. Takes two minutes, as root. */
export async function buildDebian(options: BuildDebianOptions): Promise<ImageManifest> {
  const { release, outDir, signal } = options;
  const { version, prettyName } = RELEASES[release];
  const guestDir = options.guestDir ?? defaultGuestDir();
  const overlay = await readOverlay(guestDir);
  const recipe = hashRecipe(release, overlay);
  if (!options.refresh) {
    const present = await readManifest(outDir).catch(() => null);
    if (present?.recipe === recipe) return present;
  }
  if (process.getuid?.() !== 0) {
    throw new ImageProblemError(
      'invalid',
      'Building a Debian image needs root, for the owners of its files. Run the build with sudo.',
    );
  }
  const report = (step: string, percent: number): void => {
    if (signal?.aborted) throw new ImageProblemError('aborted', `The build of debian-${version} was cancelled.`);
    options.onProgress?.({ step, percent });
  };

  return publishFolder(outDir, `debian-${version}`, async (folder) => {
    const root = join(folder, 'root');
    report('reading the package sources of this machine', 0);
    const mirrors = await readDebianMirrors(signal);
    report('downloading and installing Debian packages', 2);
    await bootstrap(release, root, mirrors, report, signal);

    report('removing traces of this machine', 72);
    const rootUuid = uuidOf(`${recipe} root`);
    await tidy(root);
    await layOver(root, overlay, { ROOT_UUID: rootUuid, CODENAME: release, PRETTY_NAME: prettyName });
    const packages = parseInstalledPackages(await readFile(join(root, 'var/lib/dpkg/status'), 'utf8'));
    const pointRelease = (await readFile(join(root, 'etc/debian_version'), 'utf8')).trim();
    const kernelVersion = (await readdir(join(root, 'boot'))).find((name) => name.startsWith('vmlinuz-'))?.slice(8);
    if (!kernelVersion) throw new ImageProblemError('packages', 'No kernel was installed into the image.');

    report('writing the disk', 75);
    const raw = join(folder, 'disk.raw');
    const workFolder = join(folder, 'boot-disk');
    await writeBootDisk({
      rootFolder: root,
      path: raw,
      sizeBytes: DISK_BYTES,
      rootUuid,
      diskUuid: uuidOf(`${recipe} disk`),
      workFolder,
      signal,
    });
    await rm(root, { recursive: true });

    report('compressing', 85);
    const disk = join(folder, 'disk.qcow2');
    await runQemuImg(
      ['convert', '-c', '-W', '-m', '4', '-f', 'raw', '-O', 'qcow2', '-o', 'compression_type=zstd'],
      [raw, disk],
      { timeoutMs: 1_800_000, signal },
    );
    await rm(raw);
    await rm(workFolder, { recursive: true });

    report('checking', 97);
    const packagesHash = createHash('sha256').update(JSON.stringify(packages)).digest('hex').slice(0, 12);
    const manifest: ImageManifest = {
      name: `debian-${version}`,
      version: `${pointRelease}-${packagesHash}`,
      recipe,
      os: 'linux',
      architecture: 'x86_64',
      firmware: 'disk',
      disk: 'disk.qcow2',
      virtualSizeBytes: DISK_BYTES,
      kernelVersion,
      minMemoryMib: MIN_MEMORY_MIB,
      hasAgent: true,
      hasCloudInit: true,
      files: await describeFiles(folder, ['disk.qcow2']),
      packages,
    };
    await writeManifest(folder, manifest);
    report('done', 100);
    return manifest;
  });
}

interface OverlayFile {
  path: string;
  text: string;
}

async function readOverlay(folder: string): Promise<OverlayFile[]> {
  const files: OverlayFile[] = [];
  for (const path of (await readdir(folder, { recursive: true })).toSorted()) {
    if ((await stat(join(folder, path))).isFile())
      files.push({ path, text: await readFile(join(folder, path), 'utf8') });
  }
  return files;
}

const hashRecipe = (release: DebianRelease, overlay: readonly OverlayFile[]): string =>
  createHash('sha256')
    .update(JSON.stringify([BUILDER_VERSION, release, PACKAGES, DISK_BYTES, overlay]))
    .digest('hex');

/** A UUID that follows from a text (in the manner of RFC 9562, version 8). */
function uuidOf(text: string): string {
  const bytes = createHash('sha256').update(text).digest().subarray(0, 16);
  bytes[6] = (bytes[6]! & 0x0f) | 0x80;
  bytes[8] = (bytes[8]! & 0x3f) | 0x80;
  return bytes.toString('hex').replace(/^(.{8})(.{4})(.{4})(.{4})/, '$1-$2-$3-$4-');
}

/** How far mmdebstrap is at each of its announcements, in percent of its own work. */
const STAGES: readonly [RegExp, string, number][] = [
  [/running apt-get update/, 'reading package lists', 2],
  [/downloading packages with apt/, 'downloading Debian packages', 10],
  [/extracting archives/, 'unpacking the base system', 30],
  [/installing essential packages/, 'installing the base system', 36],
  [/installing remaining packages/, 'installing packages', 45],
  [/cleaning package lists/, 'tidying up', 98],
];

/**
 * Installs Debian into a folder. In namespaces of its own, and ended with this process: whatever happens, its mounts and
 * processes do not stay.
 */
async function bootstrap(
  release: DebianRelease,
  root: string,
  mirrors: DebianMirrors,
  report: (step: string, percent: number) => void,
  signal: AbortSignal | undefined,
): Promise<void> {
  if (mirrors.keyring === null) {
    throw new ImageProblemError(
      'missing-program',
      "Debian's archive keys are not installed. Install the package debian-archive-keyring.",
    );
  }
  const signedBy = `[signed-by=${mirrors.keyring}]`;
  const sources = [
    `deb ${signedBy} ${mirrors.archive} ${release} main`,
    `deb ${signedBy} ${mirrors.archive} ${release}-updates main`,
    `deb ${signedBy} ${mirrors.security} ${release}-security main`,
  ];
  const argv = asBuildProcess([
    'mmdebstrap',
    '--mode=root',
    '--format=directory',
    '--variant=minbase',
    '--architectures=amd64',
    '--skip=check/signed-by',
    `--include=${PACKAGES.join(',')}`,
    '--dpkgopt=force-unsafe-io',
    ...mirrors.aptOptions.map((option) => `--aptopt=${option}`),
    release,
    root,
    ...sources,
  ]);
  try {
    await run(argv, {
      timeoutMs: BOOTSTRAP_TIMEOUT_MS,
      signal,
      env: { TMPDIR: dirname(root), DEBIAN_FRONTEND: 'noninteractive' },
      onLine: (line) => {
        const stage = STAGES.find(([pattern]) => pattern.test(line));
        if (stage) report(stage[1], Math.round(2 + stage[2] * 0.7));
      },
    });
  } catch (error) {
    throw explainBootstrap(error, release);
  }
}

function explainBootstrap(error: unknown, release: DebianRelease): unknown {
  if (!(error instanceof CommandError)) return error;
  if (error.reason === 'aborted') return new ImageProblemError('aborted', 'The build was cancelled.', { cause: error });
  if (error.reason === 'missing' || /failed to execute mmdebstrap/.test(error.stderr)) {
    return new ImageProblemError('missing-program', 'mmdebstrap is not installed. Images of Debian are built by it.', {
      cause: error,
    });
  }
  if (/No space left on device/.test(error.stderr)) {
    return new ImageProblemError(
      'no-space',
      `There is no space left to build Debian ${release}; it takes about 3 GiB.`,
      { cause: error },
    );
  }
  if (/NO_PUBKEY|is not signed/.test(error.stderr)) {
    return new ImageProblemError(
      'packages',
      `This machine's Debian keys are older than ${release}. Upgrade the package debian-archive-keyring.`,
      { cause: error },
    );
  }
  const reason = error.stderr.split('\n').findLast((line) => /^(?:E|W):/.test(line)) ?? error.message;
  return new ImageProblemError(
    'packages',
    `Debian ${release} could not be installed into the image: ${reason.slice(0, 400)}`,
    { cause: error },
  );
}

/** Whatever of the build or of this machine must not be in an image: removed, from the root folder down. */
const TRACES = [
  'etc/apt/apt.conf.d/99mmdebstrap',
  'etc/dpkg/dpkg.cfg.d/99mmdebstrap',
  'etc/.resolv.conf.systemd-resolved.bak',
  'etc/resolv.conf',
  'etc/machine-id',
  'var/lib/dbus/machine-id',
  'var/lib/systemd/random-seed',
  'var/lib/systemd/credential.secret',
  'root/.bash_history',
  'etc/apt/sources.list',
];
/** Services for LVM snapshots, which the image has not: several seconds of each boot. */
const DISABLED_UNITS = [
  'default.target.wants/e2scrub_reap.service',
  'multi-user.target.wants/e2scrub_reap.service',
  'timers.target.wants/e2scrub_all.timer',
];
/** Folders whose content goes. */
const EMPTIED = [
  'etc/apt/sources.list.d',
  'var/lib/apt/lists',
  'var/cache/apt',
  'var/log/apt',
  'tmp',
  'var/tmp',
  'run',
];

async function tidy(root: string): Promise<void> {
  for (const path of TRACES) await rm(join(root, path), { force: true });
  for (const unit of DISABLED_UNITS) await rm(join(root, 'etc/systemd/system', unit), { force: true });
  for (const path of EMPTIED) {
    const folder = join(root, path);
    const isFolder = await lstat(folder).then(
      (info) => info.isDirectory(),
      () => false,
    );
    if (isFolder)
      for (const name of await readdir(folder)) await rm(join(folder, name), { recursive: true, force: true });
  }
  for (const name of await readdir(join(root, 'etc/ssh'))) {
    if (name.startsWith('ssh_host_')) await rm(join(root, 'etc/ssh', name));
  }
  for (const name of await readdir(join(root, 'var/log'))) {
    if (name.endsWith('.log')) await rm(join(root, 'var/log', name));
  }
  // Empty, and not missing: systemd then makes a new id at each first boot.
  await writeFile(join(root, 'etc/machine-id'), '');
  await writeFile(join(root, 'etc/hostname'), 'debian\n');
  await writeFile(
    join(root, 'etc/hosts'),
    '127.0.0.1 localhost\n127.0.1.1 debian\n::1 localhost ip6-localhost ip6-loopback\n',
  );
  await writeFile(join(root, 'etc/default/locale'), 'LANG=C.UTF-8\n');
  await symlink('../run/systemd/resolve/stub-resolv.conf', join(root, 'etc/resolv.conf'));
}

async function layOver(root: string, overlay: readonly OverlayFile[], values: Record<string, string>): Promise<void> {
  for (const file of overlay) {
    const target = join(root, file.path);
    await mkdir(dirname(target), { recursive: true });
    const text = file.text.replaceAll(/@([A-Z_]+)@/g, (whole, name: string) => values[name] ?? whole);
    await writeFile(target, text);
  }
}

/** Installed packages of a dpkg status file, name → version. */
export function parseInstalledPackages(status: string): Record<string, string> {
  const packages: Record<string, string> = {};
  for (const record of status.split('\n\n')) {
    const field = (name: string): string | undefined => new RegExp(`^${name}: (.*)$`, 'm').exec(record)?.[1];
    const name = field('Package');
    const version = field('Version');
    if (name && version && field('Status') === 'install ok installed') packages[name] = version;
  }
  return packages;
}
