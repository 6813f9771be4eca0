// The dnsmasq process of one network: DHCP, router advertisements and DNS for its guests.
//
// Promises: it is a daemon of its own, which a restart of Lodge's daemon does not touch, and which is found again by
// its arguments, whatever became of the file with its id. Its configuration file is named after its content, so that
// a look at a process tells whether it runs with what is wanted; it is restarted only when that differs, and told to
// read again (SIGHUP) when only reservations or names do. It serves one link and drops root's privileges.
// Callers make sure that no two calls for one folder overlap.
import { chmod, mkdir, readFile, readdir, rename, rm, stat, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { CommandError, run } from '../command.ts';
import {
  findProcesses,
  identifyProcess,
  isAlive,
  readArguments,
  signalProcess,
  terminateProcess,
  type ProcessIdentity,
} from '../process.ts';
import {
  buildDnsmasqConfig,
  buildNames,
  buildReservations,
  dnsmasqConfigName,
  parseLeases,
  type DhcpLease,
  type DhcpReservation,
  type DnsmasqDefinition,
  type DnsRecord,
} from './dnsmasq-config.ts';
import { findLink } from './link.ts';
import { inScope, type NetworkScope } from './netns.ts';

/** Everything that a network's dnsmasq serves. */
export interface DnsmasqService {
  readonly definition: DnsmasqDefinition;
  readonly reservations: readonly DhcpReservation[];
  readonly records: readonly DnsRecord[];
}

/** What of it is so. `differences` says in words what is not as wanted; empty: nothing is to be done. */
export interface DnsmasqObservation {
  readonly process: ProcessIdentity | null;
  readonly differences: readonly string[];
}

export type DnsmasqChange = 'started' | 'restarted' | 'reloaded';

/** dnsmasq could not be started or stopped. */
export class DnsmasqError extends Error {
  override name = 'DnsmasqError';
  readonly reason: 'missing-program' | 'missing-link' | 'address-in-use' | 'folder' | 'configuration' | 'other';
  readonly link: string;

  constructor(link: string, reason: DnsmasqError['reason'], message: string, options?: ErrorOptions) {
    super(message, options);
    this.link = link;
    this.reason = reason;
  }
}

/** A log that grew beyond this, in bytes, is begun anew at the next start. */
const maxLogBytes = 4 * 1024 * 1024;

/** Looks without changing anything. */
export async function observeDnsmasq(service: DnsmasqService, scope: NetworkScope = {}): Promise<DnsmasqObservation> {
  const { folder, link } = service.definition;
  const found = await findDnsmasq(folder);
  if (!found) return { process: null, differences: [`no dnsmasq runs for ${link}`] };
  const differences: string[] = [];
  const linkIndex = (await findLink(link, scope))?.index;
  if (linkIndex === undefined) differences.push(`the link ${link} of the running dnsmasq is missing`);
  else if (found.configName !== (await wantedConfig(service.definition, linkIndex)).name) {
    differences.push(`the dnsmasq of ${link} runs with another configuration`);
  }
  if (!(await hasRead(service, found.identity))) {
    differences.push(`the dnsmasq of ${link} has other reservations or names`);
  }
  return { process: found.identity, differences };
}

/**
 * Makes dnsmasq run with this definition, these reservations and names. The link must be there and have its addresses.
 * Returns what was done; null when nothing was to be done.
 */
export async function ensureDnsmasq(service: DnsmasqService, scope: NetworkScope = {}): Promise<DnsmasqChange | null> {
  const { definition } = service;
  const { folder, link } = definition;
  const linkIndex = (await findLink(link, scope))?.index;
  if (linkIndex === undefined)
    throw new DnsmasqError(link, 'missing-link', `there is no link ${link} for dnsmasq to serve`);
  const config = await wantedConfig(definition, linkIndex);
  const found = await findDnsmasq(folder);
  if (found?.configName === config.name) {
    if (await hasRead(service, found.identity)) return null;
    await writeServed(service);
    // It may have ended just now; then the next look finds that, and this call what a start says.
    if (signalProcess(found.identity, 'SIGHUP')) {
      await rememberRead(service, found.identity);
      return 'reloaded';
    }
  }
  if (found) await terminateProcess(found.identity, { termTimeoutMs: 5000 });
  await mkdir(folder, { recursive: true });
  // Whatever this process's umask: dnsmasq reads here as another user.
  await chmod(folder, 0o755);
  await checkPassable(folder, link);
  await writeServed(service);
  await replaceFile(path.join(folder, config.name), config.text);
  await shortenLog(folder);
  await start(service, config.name, scope);
  await removeOtherConfigs(folder, config.name);
  return found ? 'restarted' : 'started';
}

/** Ends the network's dnsmasq; false when none ran. Its leases stay. */
export async function stopDnsmasq(folder: string): Promise<boolean> {
  const found = await findDnsmasq(folder);
  if (!found) return false;
  await terminateProcess(found.identity, { termTimeoutMs: 5000 });
  return true;
}

/** Ends the network's dnsmasq and deletes its folder with everything in it; false when neither was there. */
export async function removeDnsmasq(folder: string): Promise<boolean> {
  const wasRunning = await stopDnsmasq(folder);
  const wasThere = await stat(folder).then(
    () => true,
    () => false,
  );
  await rm(folder, { recursive: true, force: true });
  return wasRunning || wasThere;
}

/** The addresses that are given out now, those that ran out left away. */
export async function readLeases(folder: string, now = new Date()): Promise<DhcpLease[]> {
  const text = await readOrNull(path.join(folder, 'leases'));
  return parseLeases(text ?? '').filter(({ expiresAt }) => expiresAt === null || expiresAt > now);
}

/**
 * Forgets leases, so that the addresses and names of guests that are gone are free at once. dnsmasq is stopped for it
 * (it holds the leases in memory): {@link ensureDnsmasq} starts it again. Returns how many were forgotten.
 */
export async function forgetLeases(folder: string, isForgotten: (lease: DhcpLease) => boolean): Promise<number> {
  const file = path.join(folder, 'leases');
  const remaining = (text: string): string[] =>
    text.split('\n').filter((line) => line !== '' && !parseLeases(line).some(isForgotten));
  const before = await readOrNull(file);
  if (before === null || remaining(before).length === before.split('\n').filter(Boolean).length) return 0;
  await stopDnsmasq(folder);
  // It may have written once more before it ended.
  const text = (await readOrNull(file)) ?? '';
  const kept = remaining(text);
  await replaceFile(file, kept.map((line) => `${line}\n`).join(''));
  return text.split('\n').filter(Boolean).length - kept.length;
}

/** Every dnsmasq whose files lie in a folder below `root`, with that folder: also those that no network is known for. */
export async function listDnsmasqs(root: string): Promise<{ folder: string; process: ProcessIdentity }[]> {
  const inside = `${path.resolve(root)}/`;
  const found = await findProcesses({ matchesArguments: (argv) => configPathOf(argv)?.startsWith(inside) ?? false });
  return found.map(({ identity, argv }) => ({ folder: path.dirname(configPathOf(argv)!), process: identity }));
}

interface FoundDnsmasq {
  identity: ProcessIdentity;
  /** The name of the configuration file it was started with. */
  configName: string;
}

/** By the file with its id where that is right, else by looking at every process. */
async function findDnsmasq(folder: string): Promise<FoundDnsmasq | null> {
  const isOurs = (argv: readonly string[]): boolean => {
    const config = configPathOf(argv);
    return config !== null && path.dirname(config) === path.resolve(folder);
  };
  const pid = Number((await readOrNull(path.join(folder, 'dnsmasq.pid')))?.trim());
  const identity = pid > 1 ? identifyProcess(pid) : null;
  if (identity) {
    const argv = (await readArguments(pid)) ?? [];
    if (isOurs(argv) && isAlive(identity)) return { identity, configName: path.basename(configPathOf(argv)!) };
  }
  const [first] = await findProcesses({ matchesArguments: isOurs });
  return first ? { identity: first.identity, configName: path.basename(configPathOf(first.argv)!) } : null;
}

function configPathOf(argv: readonly string[]): string | null {
  if (path.basename(argv[0] ?? '') !== 'dnsmasq') return null;
  const prefix = '--conf-file=';
  return argv.find((argument) => argument.startsWith(prefix))?.slice(prefix.length) ?? null;
}

async function wantedConfig(definition: DnsmasqDefinition, linkIndex: number): Promise<{ name: string; text: string }> {
  const text = buildDnsmasqConfig(definition, await unprivilegedUser(), linkIndex);
  return { name: dnsmasqConfigName(text), text };
}

/** The user that Debian's package makes for it, else nobody. */
async function unprivilegedUser(): Promise<string> {
  return /^dnsmasq:/m.test(await readFile('/etc/passwd', 'utf8')) ? 'dnsmasq' : 'nobody';
}

async function start(
  { definition, ...served }: DnsmasqService,
  configName: string,
  scope: NetworkScope,
): Promise<void> {
  const { folder, link } = definition;
  await rm(path.join(folder, 'dnsmasq.pid'), { force: true });
  try {
    // It makes itself a daemon once its sockets are open: what goes wrong until then is in its exit code and words.
    await run(inScope(scope, ['dnsmasq', `--conf-file=${path.join(folder, configName)}`]), { timeoutMs: 15_000 });
  } catch (error) {
    throw await explainStart(definition, error, scope);
  }
  const found = await findDnsmasq(folder);
  if (!found) {
    const log = (await readOrNull(path.join(folder, 'dnsmasq.log')))?.trim().split('\n').at(-1) ?? '';
    throw new DnsmasqError(link, 'other', `dnsmasq for ${link} ended right after its start: ${log}`);
  }
  await rememberRead({ definition, ...served }, found.identity);
}

async function explainStart(
  { link, folder, ipv4, ipv6 }: DnsmasqDefinition,
  error: unknown,
  scope: NetworkScope,
): Promise<unknown> {
  if (!(error instanceof CommandError)) return error;
  const options = { cause: error };
  const said = error.stderr.trim().replace(/^\s*dnsmasq:\s*/, '');
  if (error.reason === 'missing') {
    return new DnsmasqError(
      link,
      'missing-program',
      'dnsmasq is not installed: install the package dnsmasq-base',
      options,
    );
  }
  // Exit codes of dnsmasq(8): 1 configuration, 2 network, 3 files, 4 memory, 5 other.
  if (/Address already in use/i.test(said)) {
    const holders = await holdersOfPorts(scope);
    const addresses = [ipv4, ipv6].flatMap((addresses) => addresses?.cidr ?? []).join(', ');
    return new DnsmasqError(
      link,
      'address-in-use',
      `dnsmasq can't serve ${link} (${addresses}): ${said}` +
        (holders ? `. Ports 53 and 67 are held by ${holders}: keep it off this address (bind-interfaces)` : ''),
      options,
    );
  }
  if (error.exitCode === 3) {
    return new DnsmasqError(link, 'folder', `dnsmasq can't use its folder ${folder}: ${said}`, options);
  }
  return new DnsmasqError(
    link,
    error.exitCode === 1 ? 'configuration' : 'other',
    `dnsmasq for ${link} did not start: ${said}`,
    options,
  );
}

/** Who listens where dnsmasq has to, as far as `ss` tells. */
async function holdersOfPorts(scope: NetworkScope): Promise<string> {
  try {
    const { stdout } = await run(inScope(scope, ['ss', '-Hlntup']), { timeoutMs: 5000 });
    const lines = stdout.split('\n').filter((line) => /:(53|67)\s/.test(line));
    const holders = lines.flatMap((line) => [...line.matchAll(/"([^"]+)",pid=(\d+)/g)]);
    return [...new Set(holders.map(([, name, pid]) => `${name} (process ${pid})`))].join(', ');
  } catch {
    return '';
  }
}

/** Whether the process was told of these reservations and names: they are on disk, and it was the one that read them. */
async function hasRead(service: DnsmasqService, identity: ProcessIdentity): Promise<boolean> {
  const { folder } = service.definition;
  const [hosts, names, read] = await Promise.all(
    ['hosts', 'names', 'read.json'].map((name) => readOrNull(path.join(folder, name))),
  );
  const wanted = servedFiles(service);
  return hosts === wanted.hosts && names === wanted.names && read === JSON.stringify(identity);
}

/** Between the removal of this note and its return lies the reading: a crash in between leads to reading once more. */
async function rememberRead({ definition }: DnsmasqService, identity: ProcessIdentity): Promise<void> {
  await replaceFile(path.join(definition.folder, 'read.json'), JSON.stringify(identity));
}

async function writeServed(service: DnsmasqService): Promise<void> {
  const { folder } = service.definition;
  const { hosts, names } = servedFiles(service);
  await rm(path.join(folder, 'read.json'), { force: true });
  await replaceFile(path.join(folder, 'hosts'), hosts);
  await replaceFile(path.join(folder, 'names'), names);
}

function servedFiles({ definition, reservations, records }: DnsmasqService): { hosts: string; names: string } {
  return { hosts: buildReservations(definition, reservations), names: buildNames(records) };
}

/** dnsmasq reads its files again after it has become an unprivileged user. */
async function checkPassable(folder: string, link: string): Promise<void> {
  for (let current = path.resolve(folder); ; current = path.dirname(current)) {
    const { mode } = await stat(current);
    if ((mode & 0o001) === 0) {
      const message = `dnsmasq reads its files in ${folder} as an unprivileged user, but ${current} is closed to others: chmod o+x ${current}`;
      throw new DnsmasqError(link, 'folder', message);
    }
    if (current === '/') return;
  }
}

async function shortenLog(folder: string): Promise<void> {
  const log = path.join(folder, 'dnsmasq.log');
  const size = await stat(log).then(
    (stats) => stats.size,
    () => 0,
  );
  if (size > maxLogBytes) await rm(log, { force: true });
}

async function removeOtherConfigs(folder: string, kept: string): Promise<void> {
  for (const name of await readdir(folder)) {
    if (/^dnsmasq-[0-9a-f]+\.conf$/.test(name) && name !== kept) await rm(path.join(folder, name), { force: true });
  }
}

/** Whole or not at all: a reader sees the old content or the new one. */
async function replaceFile(file: string, text: string): Promise<void> {
  const temporary = `${file}.new`;
  await writeFile(temporary, text);
  await chmod(temporary, 0o644);
  await rename(temporary, file);
}

async function readOrNull(file: string): Promise<string | null> {
  try {
    return await readFile(file, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
    throw error;
  }
}
