// The archive that Debian's installer is taken from and installs from: apt's view of it, with lists of its own, so that
// what is fetched is fetched and checked by apt, from the mirror and by the way that this machine's apt is configured with.
import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { run } from '../../src/host/command.ts';
import { DEBIAN_KEYRING, type DebianMirrors } from '../../src/host/image/apt-mirrors.ts';

export const installerSuite = 'trixie';
const downloadMs = 600_000;
/** What apt-get ends with when one of several packages could not be fetched. */
const someFailed = 100;

/** A package as its archive's list describes it. */
export interface InstallerPackage {
  name: string;
  /** Its paragraph of the list. */
  text: string;
  depends: readonly string[];
  provides: readonly string[];
  isStandard: boolean;
  /** Set for modules of one kernel. */
  kernelVersion: string | null;
  /** Where the archive has it. */
  path: string;
}

export interface InstallerArchive {
  /** The archive's own description of all its lists, without its signature. */
  release: string;
  /** All packages of the installer. */
  packages: readonly InstallerPackage[];
  /** Fetches packages by name, of the system or of the installer; those that the mirror doesn't have are not in the answer. */
  download: (names: readonly string[]) => Promise<Map<string, string>>;
}

/** Opens the archive in a folder that is the caller's. */
export async function openInstallerArchive(mirrors: DebianMirrors, folder: string): Promise<InstallerArchive> {
  const lists = join(folder, 'lists');
  const packages = join(folder, 'packages');
  await mkdir(join(lists, 'partial'), { recursive: true });
  await mkdir(join(folder, 'archives', 'partial'), { recursive: true });
  await mkdir(packages);
  const sources = join(folder, 'sources.list');
  const signedBy = mirrors.keyring ?? DEBIAN_KEYRING;
  await writeFile(
    sources,
    `deb [signed-by=${signedBy}] ${mirrors.archive} ${installerSuite} main main/debian-installer\n`,
  );
  const options = [
    `Dir::Etc::sourcelist=${sources}`,
    'Dir::Etc::sourceparts=-',
    `Dir::State::Lists=${lists}`,
    `Dir::Cache=${folder}`,
    'APT::Sandbox::User=root',
  ].flatMap((option) => ['-o', option]);
  const apt = (args: string[], okExitCodes = [0]): ReturnType<typeof run> =>
    run(['apt-get', ...options, '-qq', ...args], { cwd: packages, timeoutMs: downloadMs, okExitCodes });
  await apt(['update']);
  const filter = ['Identifier: Packages', 'Component: main/debian-installer'];
  const { stdout: listPath } = await apt(['indextargets', '--format', '$(FILENAME)', ...filter]);
  const { stdout: list } = await run(['/usr/lib/apt/apt-helper', 'cat-file', listPath.trim()]);
  const releaseName = (await readdir(lists)).find((name) => name.endsWith('_InRelease'));
  if (releaseName === undefined) throw new Error('apt kept no InRelease of the archive');
  return {
    release: unsigned(await readFile(join(lists, releaseName), 'utf8')),
    packages: list
      .split(/\n\n+/)
      .filter((text) => text.trim() !== '')
      .map(readPackage),
    download: async (names) => {
      await apt(['download', ...names], [0, someFailed]);
      const fetched = await readdir(packages);
      const paths = names.map((name) => [name, fetched.find((file) => file.startsWith(`${name}_`))] as const);
      return new Map(paths.flatMap(([name, file]) => (file === undefined ? [] : [[name, join(packages, file)]])));
    },
  };
}

/** Of a clear-signed message, what was signed. */
function unsigned(message: string): string {
  const [, text] = /^Hash:.*\n\n([\s\S]*?)\n-----BEGIN PGP SIGNATURE-----/m.exec(message) ?? [];
  if (text === undefined) throw new Error('the InRelease of the archive is not clear-signed');
  return `${text}\n`;
}

/** Reads a paragraph of a list of packages. */
export function readPackage(text: string): InstallerPackage {
  const field = (name: string): string | null => new RegExp(`^${name}: (.*)$`, 'm').exec(text)?.[1] ?? null;
  const names = (list: string | null): string[] =>
    (list ?? '').split(',').flatMap((one) => one.trim().split(/[ :]/)[0] || []);
  return {
    name: field('Package') ?? '',
    text,
    depends: names(field('Depends')),
    provides: names(field('Provides')),
    isStandard: ['required', 'important', 'standard'].includes(field('Priority') ?? ''),
    kernelVersion: field('Kernel-Version'),
    path: field('Filename') ?? '',
  };
}
