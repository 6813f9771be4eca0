// This machine as a whole: name, kernel, distribution, boot, what it itself runs in, KVM, free disk space.
// Promises: reading never fails for what a machine doesn't have; it says so instead. Sources: os-release(5), random(4)
// (boot_id), the kernel's Documentation/virt/kvm/api.rst.
import { constants } from 'node:fs';
import { open, readFile, readdir, stat, statfs } from 'node:fs/promises';
import { hostname, machine, release } from 'node:os';
import { CommandError, run } from './command.ts';
import { readBootId } from './process.ts';

/** What this machine is. Fixed until it is started again. */
export interface MachineFacts {
  readonly hostname: string;
  /** The kernel's release: `6.1.0-32-amd64`. */
  readonly kernel: string;
  /** `x86_64`, `aarch64`. */
  readonly architecture: string;
  readonly bootId: string;
  /** The distribution's name with version: `Debian GNU/Linux 12 (bookworm)`. */
  readonly operatingSystem: string;
  /** ID of os-release: `debian`; and VERSION_ID: `12`. Empty where unknown. */
  readonly distribution: string;
  readonly distributionVersion: string;
  /** The hypervisor this machine is itself a guest of: `kvm`, `qemu`, `vmware`, …; `none` on bare metal; null: unknown. */
  readonly hypervisor: string | null;
}

/** A kernel module of KVM. */
export interface KvmModule {
  /** `kvm`, `kvm_intel`, `kvm_amd`, `kvm_pvm`. */
  readonly name: string;
  /** Its parameters as the kernel shows them: `nested` → `Y`. */
  readonly parameters: ReadonlyMap<string, string>;
}

/** The state of KVM on this machine. */
export interface KvmFacts {
  readonly device: string;
  readonly isPresent: boolean;
  /** Whether this process may open it for reading and writing. */
  readonly canOpen: boolean;
  /** Why it can't be opened, in one sentence; empty when it can. */
  readonly problem: string;
  readonly modules: readonly KvmModule[];
  /** Whether guests can themselves run hardware-assisted guests (parameter `nested`); null: no module says so. */
  readonly isNestingEnabled: boolean | null;
}

/** Free space of the file system that holds a path, in bytes. */
export interface DiskSpace {
  readonly totalBytes: number;
  /** Without what is kept back for root. */
  readonly freeBytes: number;
}

/** Reads os-release(5): names to values, quotes removed. */
export function parseOsRelease(text: string): Map<string, string> {
  const values = new Map<string, string>();
  for (const match of text.matchAll(/^([A-Z0-9_]+)=(.*)$/gm)) {
    const raw = (match[2] ?? '').trim();
    const quoted = /^(["'])(.*)\1$/.exec(raw);
    values.set(match[1] ?? '', quoted ? (quoted[2] ?? '').replace(/\\(["'`$\\])/g, '$1') : raw);
  }
  return values;
}

/** The hypervisor in the output of lscpu, in lower case; null when it names none. */
export function parseHypervisor(lscpu: string): string | null {
  return /^Hypervisor vendor:\s+(\S.*)$/m.exec(lscpu)?.[1]?.trim().toLowerCase() ?? null;
}

async function readHypervisor(): Promise<string | null> {
  try {
    // Ends with code 1 and says "none" on bare metal.
    const { stdout } = await run(['systemd-detect-virt', '--vm'], { okExitCodes: [0, 1], timeoutMs: 5000 });
    if (stdout.trim() !== '') return stdout.trim();
  } catch (error) {
    if (!(error instanceof CommandError)) throw error;
  }
  try {
    const { stdout } = await run(['lscpu'], { timeoutMs: 5000 });
    const found = parseHypervisor(stdout);
    if (found !== null) return found;
    // The processor's flag says that there is one, but not which.
    return / hypervisor( |$)/m.test(stdout) ? null : 'none';
  } catch (error) {
    if (!(error instanceof CommandError)) throw error;
    return null;
  }
}

/** Reads what this machine is. Starts a program or two, so it takes some 10 ms: read it once. */
export async function readMachine(): Promise<MachineFacts> {
  const text = await readFile('/etc/os-release', 'utf8').catch(
    async () => await readFile('/usr/lib/os-release', 'utf8').catch(() => ''),
  );
  const osRelease = parseOsRelease(text);
  return {
    hostname: hostname(),
    kernel: release(),
    architecture: machine(),
    bootId: readBootId(),
    operatingSystem: osRelease.get('PRETTY_NAME') ?? 'Linux',
    distribution: osRelease.get('ID') ?? '',
    distributionVersion: osRelease.get('VERSION_ID') ?? '',
    hypervisor: await readHypervisor(),
  };
}

async function readModules(root: string): Promise<KvmModule[]> {
  const modules: KvmModule[] = [];
  for (const name of (await readdir(root).catch(() => [])).filter((entry) => /^kvm(_|$)/.test(entry)).toSorted()) {
    const parameters = new Map<string, string>();
    for (const parameter of await readdir(`${root}/${name}/parameters`).catch(() => [])) {
      // Some parameters can only be written.
      const value = await readFile(`${root}/${name}/parameters/${parameter}`, 'utf8').catch(() => null);
      if (value !== null) parameters.set(parameter, value.trim());
    }
    modules.push({ name, parameters });
  }
  return modules;
}

async function whyNotOpen(device: string): Promise<string> {
  try {
    const handle = await open(device, constants.O_RDWR);
    await handle.close();
    return '';
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT') return `${device} does not exist`;
    if (code === 'EACCES' || code === 'EPERM') {
      return `user ${process.getuid?.() ?? '?'} may not open ${device}: add it to the device's group (kvm), or run as root`;
    }
    if (code === 'ENODEV' || code === 'ENXIO') return `${device} has no driver behind it`;
    return `${device} can't be opened: ${message}`;
  }
}

/** Reads the state of KVM: device and modules. `moduleRoot` is where the kernel shows its modules. */
export async function readKvm(device: string = '/dev/kvm', moduleRoot: string = '/sys/module'): Promise<KvmFacts> {
  const isPresent = await stat(device).then(
    (entry) => entry.isCharacterDevice(),
    () => false,
  );
  const problem = isPresent ? await whyNotOpen(device) : `${device} does not exist or is no device`;
  const modules = await readModules(moduleRoot);
  const nested = modules.map((each) => each.parameters.get('nested')).find((value) => value !== undefined);
  return {
    device,
    isPresent,
    canOpen: problem === '',
    problem,
    modules,
    isNestingEnabled: nested === undefined ? null : ['Y', '1'].includes(nested),
  };
}

/** Reads the space of the file system that holds a path. Rejects when the path does not exist. */
export async function readDiskSpace(path: string): Promise<DiskSpace> {
  const { blocks, bavail, bsize } = await statfs(path);
  return { totalBytes: blocks * bsize, freeBytes: bavail * bsize };
}
