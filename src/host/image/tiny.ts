// Builds the guest images `tiny` and `tiny-pc`: a kernel that QEMU starts directly and an initramfs of a few MiB with
// busybox, the QEMU guest agent and drivers: for virtio in `tiny`, for the devices of a PC too in `tiny-pc`. Made of Debian packages that apt downloads and checks, without being root
// and without changing this machine; nothing in it depends on the time or place of the build.
import { createHash } from 'node:crypto';
import { readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { join, posix } from 'node:path';
import { run } from '../command.ts';
import { writeCpio, type CpioEntry } from '../../lib/cpio.ts';
import { readElf } from '../../lib/elf.ts';
import {
  downloadPackages,
  extractPackage,
  openApt,
  readDependencies,
  type AptContext,
  type DebianPackage,
} from './apt.ts';
import { collectModules, extractVmlinux, writeModuleIndexes, type KernelModule } from './linux-kernel.ts';
import { describeFiles, readManifest, writeManifest, type ImageManifest } from './manifest.ts';
import { ImageProblemError } from './problem.ts';
import type { OnBuildProgress } from './progress.ts';
import { publishFolder } from './publish.ts';

export interface BuildTinyOptions {
  /** The image's folder: vmlinux, initramfs.cpio, manifest.json. Replaced as a whole. */
  outDir: string;
  /** Which of them is built. Default: tiny. */
  variant?: TinyVariant;
  /** Keeps downloaded packages; may be shared by builds. */
  cacheDir: string;
  /** The guest's own files; default: guest/tiny/rootfs of this repository. */
  guestDir?: string;
  /** Build again although `outDir` holds an image of the same recipe, e.g. to take a newer kernel. */
  refresh?: boolean;
  onProgress?: OnBuildProgress;
  signal?: AbortSignal;
}

/**
 * Kernel command line. A serial console line costs an exit of the guest each, so the kernel stays silent; the rest
 * skips waits and self-tests that a virtual machine has no use for (measured: 4 s to 1.7 s to userspace under TCG).
 */
export const TINY_COMMAND_LINE =
  'console=ttyS0 quiet loglevel=1 tsc=reliable no_timer_check mitigations=off random.trust_cpu=on cryptomgr.notests ' +
  'rcupdate.rcu_expedited=1 8250.nr_uarts=2';

/** tiny: Debian's kernel for clouds; tiny-pc: its kernel for machines. */
export type TinyVariant = 'tiny' | 'tiny-pc';

interface VariantRecipe {
  metaPackage: string;
  requiredModules: readonly string[];
  optionalModules: readonly string[];
}

const VIRTIO_MODULES = [
  'virtio_pci',
  'virtio_mmio',
  'virtio_blk',
  'virtio_net',
  'virtio_console',
  'virtio_rng',
  'virtio_balloon',
];
/** Loaded by the guest only for devices that are there; a kernel may have them built in or not at all. */
const OPTIONAL_MODULES = [
  'button',
  'evdev',
  'qemu_fw_cfg',
  'af_packet',
  'virtio_scsi',
  'sd_mod',
  'sr_mod',
  'isofs',
  'virtio_mem',
  'virtiofs',
  'vmw_vsock_virtio_transport',
  'pvpanic_pci',
  'i6300esb',
  'virtio_input',
  'e1000',
  'e1000e',
  'vfat',
  'nls_cp437',
  'nls_ascii',
];
/** Drivers for emulated devices: disks, NICs, USB, input. */
const PC_MODULES = ['ahci', 'ata_piix', 'sd_mod', 'e1000e', 'e1000', '8139cp', 'xhci_pci', 'usbhid'];
const OPTIONAL_PC_MODULES = [
  'nvme',
  'ehci_pci',
  'uhci_hcd',
  'usb_storage',
  'hid_generic',
  'psmouse',
  'atkbd',
  'virtio_gpu',
  'bochs',
  '9p',
  '9pnet_virtio',
  'ptp_kvm',
];
const VARIANTS: Readonly<Record<TinyVariant, VariantRecipe>> = {
  tiny: {
    metaPackage: 'linux-image-cloud-amd64',
    requiredModules: VIRTIO_MODULES,
    optionalModules: OPTIONAL_MODULES,
  },
  'tiny-pc': {
    metaPackage: 'linux-image-amd64',
    requiredModules: [...VIRTIO_MODULES, ...PC_MODULES],
    optionalModules: [...OPTIONAL_MODULES, ...OPTIONAL_PC_MODULES],
  },
};
const MULTIARCH = 'lib/x86_64-linux-gnu';
const MIN_MEMORY_MIB = 128;
/** Part of every recipe: raise it when the builder makes something else of the same sources. */
const BUILDER_VERSION = 2;

const defaultGuestDir = (): string => join(import.meta.dirname, '../../../guest/tiny/rootfs');

/** Builds `tiny` or `tiny-pc`, or returns what is there when it was built from the same recipe. Takes some ten seconds. */
export async function buildTiny(options: BuildTinyOptions): Promise<ImageManifest> {
  const { outDir, cacheDir, signal, variant = 'tiny' } = options;
  const { metaPackage, requiredModules, optionalModules } = VARIANTS[variant];
  const guestFiles = await readGuestFiles(options.guestDir ?? defaultGuestDir());
  const recipe = hashRecipe(VARIANTS[variant], guestFiles);
  if (!options.refresh) {
    const present = await readManifest(outDir).catch(() => null);
    if (present?.recipe === recipe) return present;
  }
  const report = (step: string, percent: number): void => {
    if (signal?.aborted) throw new ImageProblemError('aborted', `The build of ${variant} was cancelled.`);
    options.onProgress?.({ step, percent });
  };

  return publishFolder(outDir, variant, async (folder) => {
    const unpacked = join(folder, 'unpacked');
    report('asking apt for packages', 0);
    const apt = await openApt(join(cacheDir, 'apt'), metaPackage, signal);
    const kernelName = (await readDependencies(apt, [metaPackage])).find((name) => name.startsWith('linux-image-'));
    if (!kernelName) throw new ImageProblemError('packages', `${metaPackage} names no kernel package.`);

    report('downloading Debian packages', 5);
    const [kernel, busybox, agent] = await downloadPackages(apt, [kernelName, 'busybox-static', 'qemu-guest-agent']);
    const roots = {
      kernel: join(unpacked, 'kernel'),
      busybox: join(unpacked, 'busybox'),
      agent: join(unpacked, 'agent'),
    };
    report('unpacking', 30);
    await extractPackage(kernel!, roots.kernel, signal);
    await extractPackage(busybox!, roots.busybox, signal);
    await extractPackage(agent!, roots.agent, signal);
    report('collecting libraries', 45);
    const agentProgram = await readFile(await firstExisting(roots.agent, ['usr/sbin/qemu-ga', 'usr/bin/qemu-ga']));
    const libraries = await collectLibraries(apt, agentProgram, 'qemu-guest-agent', join(unpacked, 'libraries'));

    report('extracting the kernel', 60);
    const kernelVersion = (await readdir(join(roots.kernel, 'boot')))
      .find((name) => name.startsWith('vmlinuz-'))
      ?.slice(8);
    if (!kernelVersion) throw new ImageProblemError('packages', `${kernelName} holds no boot/vmlinuz.`);
    await extractVmlinux(join(roots.kernel, 'boot', `vmlinuz-${kernelVersion}`), join(folder, 'vmlinux'), signal);
    const moduleFolder = await firstExisting(roots.kernel, [
      `lib/modules/${kernelVersion}`,
      `usr/lib/modules/${kernelVersion}`,
    ]);
    const modules = await collectModules(moduleFolder, requiredModules, optionalModules, signal);

    report('writing the initramfs', 80);
    const busyboxPath = await firstExisting(roots.busybox, ['bin/busybox', 'usr/bin/busybox']);
    const applets = (await run([busyboxPath, '--list-full'], { signal })).stdout.split('\n').filter(Boolean);
    const entries = composeRoot({
      guestFiles,
      busybox: await readFile(busyboxPath),
      applets,
      agentProgram,
      libraries: libraries.files,
      loader: readElf(agentProgram).interpreter,
      kernelVersion,
      modules,
    });
    await writeFile(join(folder, 'initramfs.cpio'), writeCpio(entries));
    await rm(unpacked, { recursive: true });

    report('checking', 95);
    const packages = [kernel!, busybox!, agent!, ...libraries.packages];
    const files = await describeFiles(folder, ['vmlinux', 'initramfs.cpio']);
    const manifest: ImageManifest = {
      name: variant,
      version: `${kernel!.version}-${createHash('sha256')
        .update(files.map((file) => file.sha256).join())
        .digest('hex')
        .slice(0, 12)}`,
      recipe,
      os: 'linux',
      architecture: 'x86_64',
      firmware: 'direct',
      kernel: 'vmlinux',
      initramfs: 'initramfs.cpio',
      commandLine: TINY_COMMAND_LINE,
      kernelVersion,
      minMemoryMib: MIN_MEMORY_MIB,
      hasAgent: true,
      hasCloudInit: false,
      files,
      packages: Object.fromEntries(
        packages.map((item) => [item.name, item.version] as const).toSorted(([a], [b]) => (a < b ? -1 : 1)),
      ),
    };
    await writeManifest(folder, manifest);
    report('done', 100);
    return manifest;
  });
}

interface GuestFile {
  path: string;
  data: Buffer;
  isExecutable: boolean;
}

async function readGuestFiles(folder: string): Promise<GuestFile[]> {
  const files: GuestFile[] = [];
  for (const path of (await readdir(folder, { recursive: true })).toSorted()) {
    const info = await stat(join(folder, path));
    if (info.isFile()) {
      files.push({ path, data: await readFile(join(folder, path)), isExecutable: (info.mode & 0o100) !== 0 });
    }
  }
  return files;
}

function hashRecipe(variant: VariantRecipe, guestFiles: readonly GuestFile[]): string {
  const hash = createHash('sha256');
  const { metaPackage, requiredModules, optionalModules } = variant;
  hash.update(JSON.stringify([BUILDER_VERSION, TINY_COMMAND_LINE, metaPackage, requiredModules, optionalModules]));
  for (const file of guestFiles)
    hash.update(`${file.path}\0${file.isExecutable}\0${file.data.length}\0`).update(file.data);
  return hash.digest('hex');
}

async function firstExisting(root: string, paths: readonly string[]): Promise<string> {
  for (const path of paths) if (await stat(join(root, path)).catch(() => null)) return join(root, path);
  throw new ImageProblemError('packages', `None of ${paths.join(', ')} is in the Debian package.`);
}

/** The shared libraries a program needs, from the packages that its package depends on: as few as will do. */
async function collectLibraries(apt: AptContext, program: Buffer, packageName: string, folder: string) {
  const packages: DebianPackage[] = [];
  const files = new Map<string, Buffer>();
  const wanted = new Set(readElf(program).neededLibraries);
  const loader = posix.basename(readElf(program).interpreter ?? '');
  if (loader) wanted.add(loader);
  const isSatisfied = (): boolean => [...wanted].every((name) => files.has(name));
  const seen = new Set<string>();
  let level = await readDependencies(apt, [packageName]);
  while (!isSatisfied() && level.length > 0) {
    const fresh = level.filter((name) => name.startsWith('lib') && !seen.has(name));
    fresh.forEach((name) => seen.add(name));
    for (const debianPackage of await downloadPackages(apt, fresh)) {
      const root = join(folder, debianPackage.name);
      await extractPackage(debianPackage, root, apt.signal);
      packages.push(debianPackage);
    }
    // A library may want others of the same packages, so look until nothing new turns up.
    for (let before = -1; before !== files.size;) {
      before = files.size;
      for (const name of [...wanted].filter((candidate) => !files.has(candidate))) {
        const data = await findLibrary(folder, name);
        if (!data) continue;
        files.set(name, data);
        readElf(data).neededLibraries.forEach((needed) => wanted.add(needed));
      }
    }
    level = isSatisfied() ? [] : await readDependencies(apt, fresh);
  }
  const missing = [...wanted].filter((name) => !files.has(name));
  if (missing.length > 0) {
    throw new ImageProblemError(
      'packages',
      `The libraries ${missing.join(', ')} are in no package that ${packageName} depends on.`,
    );
  }
  return { packages, files };
}

async function findLibrary(folder: string, name: string): Promise<Buffer | null> {
  for (const root of await readdir(folder)) {
    for (const place of [MULTIARCH, `usr/${MULTIARCH}`, 'lib64', 'usr/lib64']) {
      const data = await readFile(join(folder, root, place, name)).catch(() => null);
      if (data) return data;
    }
  }
  return null;
}

interface RootParts {
  guestFiles: readonly GuestFile[];
  busybox: Buffer;
  applets: readonly string[];
  agentProgram: Buffer;
  libraries: ReadonlyMap<string, Buffer>;
  loader: string | null;
  kernelVersion: string;
  modules: readonly KernelModule[];
}

/** The initramfs as a list of entries: parents first, the guest's own files over busybox's. */
function composeRoot(parts: RootParts): CpioEntry[] {
  const entries = new Map<string, CpioEntry>();
  const addDirectory = (path: string, mode = 0o755): void => {
    if (path === '.' || path === '' || entries.has(path)) return;
    addDirectory(posix.dirname(path));
    entries.set(path, { path, type: 'directory', mode });
  };
  const addFile = (path: string, data: Uint8Array, isExecutable: boolean): void => {
    addDirectory(posix.dirname(path));
    entries.set(path, { path, type: 'file', mode: isExecutable ? 0o755 : 0o644, data });
  };
  const addLink = (path: string, target: string): void => {
    addDirectory(posix.dirname(path));
    entries.set(path, { path, type: 'symlink', target });
  };
  for (const path of ['dev', 'proc', 'sys', 'run', 'mnt', 'var']) addDirectory(path);
  addDirectory('root', 0o700);
  addDirectory('tmp', 0o1777);
  addLink('var/run', '../run');
  addLink('var/log', '../run');
  entries.set('dev/console', { path: 'dev/console', type: 'character-device', mode: 0o600, major: 5, minor: 1 });

  addFile('bin/busybox', parts.busybox, true);
  for (const applet of parts.applets) if (applet !== 'bin/busybox') addLink(applet, '/bin/busybox');
  addLink('init', '/bin/busybox');
  addFile('usr/sbin/qemu-ga', parts.agentProgram, true);
  for (const [name, data] of parts.libraries) addFile(`${MULTIARCH}/${name}`, data, true);
  if (parts.loader) addLink(parts.loader.slice(1), `/${MULTIARCH}/${posix.basename(parts.loader)}`);

  const moduleFolder = `lib/modules/${parts.kernelVersion}`;
  for (const module of parts.modules) addFile(posix.join(moduleFolder, module.path), module.data, false);
  const indexes = writeModuleIndexes(parts.modules);
  addFile(`${moduleFolder}/modules.dep`, Buffer.from(indexes.dep), false);
  addFile(`${moduleFolder}/modules.alias`, Buffer.from(indexes.alias), false);

  for (const file of parts.guestFiles) addFile(file.path, file.data, file.isExecutable);
  return [...entries.values()];
}
