// The QEMU that is installed on this node: where it is, its version, and what it says it can do. Features are read from
// its own answers, not concluded from version numbers; only a version below the oldest one Lodge was built for is refused.
import { access } from 'node:fs/promises';
import { CommandError, run } from '../../host/command.ts';
import { LodgeError } from '../../api/errors.ts';
import { parseCpuHelp } from './cpu-model.ts';

/** Oldest QEMU that has what Lodge needs (`-run-with`, fdset for `file:` migration came with 8.2 and 9.0). */
export const oldestQemu = [8, 2] as const;

export interface QemuInstallation {
  binary: string;
  /** `10.0.2`. */
  version: string;
  /** Versioned name of each machine type that Lodge offers: q35 → pc-q35-10.0. */
  machines: ReadonlyMap<string, string>;
  /** Every machine name QEMU takes, versioned ones included. */
  machineNames: ReadonlySet<string>;
  cpuModels: readonly string[];
  cpuFeatures: ReadonlySet<string>;
  /** The kinds of character devices: socket, ringbuf, hub. */
  chardevKinds: ReadonlySet<string>;
  /** Every device it has, by QEMU's name: virtio-net-pci, e1000e. */
  deviceModels: ReadonlySet<string>;
  /** What it can do when it saves or moves a guest: mapped-ram, multifd. */
  migrationCapabilities: ReadonlySet<string>;
  /** UEFI firmware and the template of its variable store; null where it is not installed. */
  uefi: UefiFirmware | null;
  /** The program that is a TPM; null where it is not installed. */
  swtpmPath: string | null;
  /** The program that serves folders by virtio-fs; null where it is not installed. */
  virtiofsdPath: string | null;
}

/** Where UEFI firmware lies: its code, and templates of its variable store. */
export interface UefiFirmware {
  codePath: string;
  variablesPath: string;
  /** The build with Secure Boot, an empty store for it, and one with Microsoft's keys; null where it is not installed. */
  secureBoot: { codePath: string; variablesPath: string; microsoftVariablesPath: string | null } | null;
}

/** Places in Debian, Arch, Fedora, SUSE, and Debian's smaller build; those for Secure Boot are of the same flash size. */
const uefiCandidates: readonly UefiFirmware[] = [
  uefiIn('/usr/share/OVMF', 'OVMF_CODE_4M.fd', 'OVMF_VARS_4M.fd', 'OVMF_CODE_4M.secboot.fd', 'OVMF_VARS_4M.ms.fd'),
  uefiIn('/usr/share/edk2/x64', 'OVMF_CODE.4m.fd', 'OVMF_VARS.4m.fd', 'OVMF_CODE.secboot.4m.fd', null),
  uefiIn('/usr/share/edk2/ovmf', 'OVMF_CODE.fd', 'OVMF_VARS.fd', 'OVMF_CODE.secboot.fd', 'OVMF_VARS.secboot.fd'),
  uefiIn(
    '/usr/share/qemu',
    'ovmf-x86_64-code.bin',
    'ovmf-x86_64-vars.bin',
    'ovmf-x86_64-smm-code.bin',
    'ovmf-x86_64-smm-ms-vars.bin',
  ),
  uefiIn('/usr/share/OVMF', 'OVMF_CODE.fd', 'OVMF_VARS.fd', 'OVMF_CODE.secboot.fd', 'OVMF_VARS.ms.fd'),
];

function uefiIn(
  folder: string,
  code: string,
  variables: string,
  secureCode: string,
  microsoftVariables: string | null,
): UefiFirmware {
  const path = (name: string): string => `${folder}/${name}`;
  const microsoftVariablesPath = microsoftVariables === null ? null : path(microsoftVariables);
  return {
    codePath: path(code),
    variablesPath: path(variables),
    secureBoot: { codePath: path(secureCode), variablesPath: path(variables), microsoftVariablesPath },
  };
}

/** Reads `QEMU emulator version 10.0.2 (Debian …)`. */
export function parseQemuVersion(text: string): string | null {
  return /version (\d+\.\d+(?:\.\d+)?)/.exec(text)?.[1] ?? null;
}

/** Whether a version is at least `oldest`. */
export function isAtLeast(version: string, oldest: readonly [number, number]): boolean {
  const [major = 0, minor = 0] = version.split('.').map(Number);
  return major > oldest[0] || (major === oldest[0] && minor >= oldest[1]);
}

/** Reads `-machine help`: every name, and what the aliases q35 and pc stand for. */
export function parseMachineHelp(text: string): { names: Set<string>; aliases: Map<string, string> } {
  const names = new Set<string>();
  const aliases = new Map<string, string>();
  for (const line of text.split('\n').slice(1)) {
    const name = line.split(/\s/, 1)[0];
    if (!name) continue;
    names.add(name);
    const alias = /\(alias of ([^)]+)\)/.exec(line)?.[1];
    if (alias) aliases.set(name, alias);
  }
  return { names, aliases };
}

/** Reads `-chardev help`: a headline, and each kind on a line of its own. */
export function parseChardevHelp(text: string): Set<string> {
  const lines = text.split('\n').slice(1);
  return new Set(lines.map((line) => line.trim()).filter((line) => line !== ''));
}

/** Reads `-device help`: the names of all devices. */
export function parseDeviceHelp(text: string): Set<string> {
  return new Set([...text.matchAll(/^name "([^"]+)"/gm)].map(([, name]) => name!));
}

/** Asks the installed QEMU about itself. Throws `unavailable` when there is none, or one too old. */
export async function inspectInstallation(
  binary: string,
  { virtiofsd }: { virtiofsd?: string | undefined } = {},
): Promise<QemuInstallation> {
  const ask = async (...args: string[]): Promise<string> =>
    (await run([binary, ...args], { timeoutMs: 20_000 })).stdout;
  let version: string | null;
  try {
    version = parseQemuVersion(await ask('--version'));
  } catch (error) {
    if (error instanceof CommandError && error.reason === 'missing') {
      throw new LodgeError('unavailable', `QEMU (${binary}) is not installed on this node.`, {
        hint: 'Install qemu-system-x86 (npm start does it on Debian), or set qemu.binary in the configuration.',
        cause: error,
      });
    }
    throw new LodgeError('unavailable', `QEMU (${binary}) does not run on this node.`, { cause: error });
  }
  if (!version || !isAtLeast(version, oldestQemu)) {
    throw new LodgeError(
      'unavailable',
      `QEMU ${version ?? 'of an unknown version'} (${binary}) is too old: Lodge needs ${oldestQemu.join('.')} or newer.`,
      {
        hint: 'On Debian 12 install it from bookworm-backports (npm start does it).',
      },
    );
  }
  const [machineHelp, cpuHelp, chardevHelp, deviceHelp, migrationCapabilities, uefi, swtpmPath, virtiofsdPath] =
    await Promise.all([
      ask('-machine', 'help'),
      ask('-cpu', 'help'),
      ask('-chardev', 'help'),
      ask('-device', 'help'),
      readMigrationCapabilities(binary),
      findUefi(),
      findSwtpm(),
      findVirtiofsd(virtiofsd),
    ]);
  const { names, aliases } = parseMachineHelp(machineHelp);
  const machines = new Map<string, string>();
  for (const type of ['q35', 'pc', 'microvm']) if (names.has(type)) machines.set(type, aliases.get(type) ?? type);
  const cpus = parseCpuHelp(cpuHelp);
  return {
    binary,
    version,
    machines,
    machineNames: names,
    cpuModels: cpus.models,
    cpuFeatures: new Set(cpus.features),
    chardevKinds: parseChardevHelp(chardevHelp),
    deviceModels: parseDeviceHelp(deviceHelp),
    migrationCapabilities,
    uefi,
    swtpmPath,
    virtiofsdPath,
  };
}

/** Asks a QEMU without a machine. */
async function readMigrationCapabilities(binary: string): Promise<Set<string>> {
  const commands = ['qmp_capabilities', 'query-migrate-capabilities', 'quit'];
  const { stdout } = await run([binary, '-M', 'none', '-nodefaults', '-display', 'none', '-qmp', 'stdio'], {
    input: commands.map((execute) => JSON.stringify({ execute })).join('\n'),
    timeoutMs: 20_000,
  });
  return parseMigrationCapabilities(stdout);
}

/** Reads the answer to `query-migrate-capabilities` among the lines of a monitor. */
export function parseMigrationCapabilities(lines: string): Set<string> {
  return new Set([...lines.matchAll(/"capability": ?"([^"]+)"/g)].map((match) => match[1]!));
}

async function findUefi(): Promise<UefiFirmware | null> {
  for (const candidate of uefiCandidates) {
    if (!(await isThere(candidate.codePath)) || !(await isThere(candidate.variablesPath))) continue;
    const { secureBoot } = candidate;
    if (!secureBoot || !(await isThere(secureBoot.codePath))) return { ...candidate, secureBoot: null };
    const { microsoftVariablesPath: keys } = secureBoot;
    return {
      ...candidate,
      secureBoot: { ...secureBoot, microsoftVariablesPath: keys !== null && (await isThere(keys)) ? keys : null },
    };
  }
  return null;
}

async function findSwtpm(): Promise<string | null> {
  for (const path of ['/usr/bin/swtpm', '/usr/local/bin/swtpm']) if (await isThere(path)) return path;
  return null;
}

/** Places in Debian, Fedora and SUSE, and in Arch and Alpine. What QEMU had in its own folder before 8.0 is another program. */
async function findVirtiofsd(configured: string | undefined): Promise<string | null> {
  const places = configured ? [configured] : ['/usr/libexec/virtiofsd', '/usr/lib/virtiofsd', '/usr/bin/virtiofsd'];
  for (const path of places) if (await isThere(path)) return path;
  return null;
}

function isThere(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  );
}
