// Debian packages as files: finds, downloads and unpacks them with apt's own configuration of this machine (mirrors,
// keys, pins), and installs nothing. apt checks what it downloads against the signed lists. Packages are kept in a
// cache folder, so that a second build needs no network.
import { randomUUID } from 'node:crypto';
import { mkdir, readdir, rename, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { CommandError, run } from '../command.ts';
import { ImageProblemError } from './problem.ts';

export interface DebianPackage {
  name: string;
  version: string;
  /** The downloaded .deb. */
  path: string;
}

interface Candidate {
  name: string;
  version: string;
  /** As apt names the file: version with its colon as %3a. */
  fileName: string;
  sizeBytes: number;
}

/** How apt is called: where its lists are. A machine without lists (a fresh container) gets them in the cache folder. */
export interface AptContext {
  cacheDir: string;
  options: readonly string[];
  signal?: AbortSignal;
}

const LISTS_TIMEOUT_MS = 300_000;
const DOWNLOAD_TIMEOUT_MS = 600_000;

async function apt(
  context: AptContext,
  program: 'apt-get' | 'apt-cache',
  args: string[],
  timeoutMs = 60_000,
  cwd?: string,
) {
  try {
    return await run([program, ...context.options, ...args], { timeoutMs, signal: context.signal, cwd });
  } catch (error) {
    if (!(error instanceof CommandError)) throw error;
    if (error.reason === 'missing') {
      throw new ImageProblemError(
        'missing-program',
        `${program} is not installed. This image is built from Debian packages: build it on Debian or Ubuntu and import the result here.`,
        { cause: error },
      );
    }
    if (error.reason === 'aborted')
      throw new ImageProblemError('aborted', 'The build was cancelled.', { cause: error });
    throw new ImageProblemError('packages', `Debian packages could not be fetched: ${error.message}`, { cause: error });
  }
}

/** Prepares apt for use without root: own cache, and own package lists if the machine's do not know the package `probe`. */
export async function openApt(cacheDir: string, probe: string, signal?: AbortSignal): Promise<AptContext> {
  await mkdir(join(cacheDir, 'archives', 'partial'), { recursive: true });
  const options = [
    '-o',
    `Dir::Cache=${cacheDir}`,
    '-o',
    'Dir::Cache::pkgcache=',
    '-o',
    'Dir::Cache::srcpkgcache=',
    '-o',
    'APT::Sandbox::User=root',
    '-o',
    'APT::Update::Post-Invoke-Success::=true',
    '-o',
    'Acquire::Retries=3',
    '-o',
    'Acquire::http::Timeout=30',
  ];
  const machine: AptContext = { cacheDir, options, signal };
  if (await hasCandidate(machine, probe)) return machine;
  const lists = join(cacheDir, 'lists');
  await mkdir(join(lists, 'partial'), { recursive: true });
  const own: AptContext = { cacheDir, options: [...options, '-o', `Dir::State::Lists=${lists}`], signal };
  if (!(await hasCandidate(own, probe))) await apt(own, 'apt-get', ['update', '-qq'], LISTS_TIMEOUT_MS);
  return own;
}

async function hasCandidate(context: AptContext, name: string): Promise<boolean> {
  const { stdout } = await apt(context, 'apt-cache', ['policy', name]);
  return /^ {2}Candidate: (?!\(none\))/m.test(stdout);
}

/** The direct dependencies of these packages' candidate versions, of each alternative the first. */
export async function readDependencies(context: AptContext, names: readonly string[]): Promise<string[]> {
  if (names.length === 0) return [];
  const { stdout } = await apt(context, 'apt-cache', ['show', '--no-all-versions', ...names]);
  return parseDependencies(stdout);
}

/** Reads Depends and Pre-Depends of `apt-cache show` records. */
export function parseDependencies(records: string): string[] {
  const fields = [...records.matchAll(/^(?:Pre-)?Depends: (.*)$/gm)].map((match) => match[1] ?? '');
  const names = fields
    .flatMap((field) => field.split(','))
    .map((alternatives) => /^\s*([a-z0-9][a-z0-9.+-]+)/.exec(alternatives)?.[1])
    .filter((name) => name !== undefined);
  return [...new Set(names)];
}

/** Reads `apt-get download --print-uris`: one line a package, `'uri' file size hash`. */
export function parseUris(output: string): Candidate[] {
  return [...output.matchAll(/^'[^']*' (([^_\s]+)_([^_\s]+)_[^_\s]+\.deb) (\d+)/gm)].map((match) => ({
    fileName: match[1]!,
    name: match[2]!,
    version: decodeURIComponent(match[3]!),
    sizeBytes: Number(match[4]),
  }));
}

/** Downloads the candidate versions of these packages, as far as they are not in the cache. In the order of `names`. */
export async function downloadPackages(context: AptContext, names: readonly string[]): Promise<DebianPackage[]> {
  if (names.length === 0) return [];
  const { stdout } = await apt(context, 'apt-get', ['download', '--print-uris', ...names]);
  const candidates = parseUris(stdout);
  const missingNames = names.filter((name) => !candidates.some((candidate) => candidate.name === name));
  if (missingNames.length > 0) {
    throw new ImageProblemError('packages', `apt names no download for ${missingNames.join(', ')}.`);
  }
  const archives = join(context.cacheDir, 'archives');
  const pathOf = (candidate: Candidate): string => join(archives, candidate.fileName);
  const wanted: Candidate[] = [];
  for (const candidate of candidates) {
    const present = await stat(pathOf(candidate)).catch(() => null);
    if (present?.size !== candidate.sizeBytes) wanted.push(candidate);
  }
  if (wanted.length > 0) {
    // Two builds may share the cache: each downloads beside it, and puts whole files in their place.
    const incoming = join(archives, `incoming-${randomUUID()}`);
    await mkdir(incoming);
    try {
      const exact = wanted.map((candidate) => `${candidate.name}=${candidate.version}`);
      await apt(context, 'apt-get', ['download', '-qq', ...exact], DOWNLOAD_TIMEOUT_MS, incoming);
      for (const file of await readdir(incoming)) await rename(join(incoming, file), join(archives, file));
    } finally {
      await rm(incoming, { recursive: true, force: true });
    }
  }
  return names.map((name) => {
    const candidate = candidates.find((one) => one.name === name)!;
    return { name, version: candidate.version, path: pathOf(candidate) };
  });
}

/** Unpacks a package's files into a folder; runs none of its scripts. */
export async function extractPackage(
  debianPackage: DebianPackage,
  folder: string,
  signal?: AbortSignal,
): Promise<void> {
  await mkdir(folder, { recursive: true });
  await run(['dpkg-deb', '--extract', debianPackage.path, folder], { timeoutMs: 120_000, signal });
}
