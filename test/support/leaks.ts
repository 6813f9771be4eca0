// Finds what a test run left on the machine, and removes it: processes, links, network namespaces, mounts, nftables
// tables, cgroups and files. It looks with its own eyes (/proc, ip, nft), not with Lodge's code, which is under test.
//
// Promises: what bears the run's mark is always found and may be removed; what merely looks like Lodge's and appeared
// meanwhile is reported but never removed, since it may belong to a Lodge that this machine really runs.
import { readdir, readFile, readlink, rm, rmdir } from 'node:fs/promises';
import { join } from 'node:path';
import { run } from '../../src/host/command.ts';
import { findProcesses, terminateProcess, type FoundProcess } from '../../src/host/process.ts';
import { MARK_VARIABLE, markedFolder } from './mark.ts';
import { eventually } from './wait.ts';

type LeakKind = 'process' | 'link' | 'namespace' | 'mount' | 'nft table' | 'cgroup' | 'file';

/** One thing that was left behind. */
export interface Leak {
  kind: LeakKind;
  name: string;
  /** Whether it bears the mark of the run, so that it is surely the tests' own. */
  isMarked: boolean;
  remove: () => Promise<void>;
}

/** What the machine had before the run, of the things that look like Lodge's: `kind name`. */
export type SystemState = ReadonlySet<string>;

interface Thing {
  kind: LeakKind;
  name: string;
  /** What the mark is looked for in, where it is not the name alone. */
  text?: string;
  remove: () => Promise<void>;
}

/** Looks like something Lodge makes, whoever made it. */
const LODGE_NAME = /lodge/;

async function entries(path: string): Promise<string[]> {
  try {
    return await readdir(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
    throw error;
  }
}

async function links(): Promise<Thing[]> {
  const { stdout } = await run(['ip', '-json', 'link', 'show']);
  const found = JSON.parse(stdout) as { ifname: string; ifalias?: string }[];
  return found.map(({ ifname, ifalias }) => ({
    kind: 'link',
    name: ifname,
    text: `${ifname} ${ifalias ?? ''}`,
    remove: async () => {
      await run(['ip', 'link', 'delete', 'dev', ifname]);
    },
  }));
}

async function namespaces(): Promise<Thing[]> {
  return (await entries('/run/netns')).map((name) => ({
    kind: 'namespace',
    name,
    remove: async () => {
      await run(['ip', 'netns', 'delete', name]);
    },
  }));
}

async function mounts(): Promise<Thing[]> {
  const text = await readFile('/proc/self/mountinfo', 'utf8');
  const points = text
    .trimEnd()
    .split('\n')
    // Field 5 of proc(5) is the mount point; blanks in it are written as octal escapes.
    .map((line) => (line.split(' ')[4] ?? '').replaceAll(/\\(\d{3})/g, (_, octal: string) => unescapeOctal(octal)))
    // A network namespace is a mount too; it is found and removed as what it is.
    .filter((point) => !point.startsWith('/run/netns'));
  return points.toReversed().map((point) => ({
    kind: 'mount',
    name: point,
    remove: async () => {
      await run(['umount', '--lazy', point]);
    },
  }));
}

function unescapeOctal(digits: string): string {
  return String.fromCharCode(Number.parseInt(digits, 8));
}

async function nftTables(): Promise<Thing[]> {
  const { stdout } = await run(['nft', '--json', 'list', 'tables']);
  const { nftables } = JSON.parse(stdout) as { nftables: { table?: { family: string; name: string } }[] };
  return nftables.flatMap(({ table }) =>
    table === undefined
      ? []
      : [
          {
            kind: 'nft table' as const,
            name: `${table.family} ${table.name}`,
            remove: async () => {
              await run(['nft', 'delete', 'table', table.family, table.name]);
            },
          },
        ],
  );
}

/** The groups of every hierarchy, the inner ones first; Lodge's lie at most a few levels below the root. */
async function cgroups(folder = '/sys/fs/cgroup', depth = 0): Promise<Thing[]> {
  if (depth > 5) return [];
  const found: Thing[] = [];
  for (const entry of await readdir(folder, { withFileTypes: true }).catch(() => [])) {
    if (!entry.isDirectory()) continue;
    const path = join(folder, entry.name);
    found.push(...(await cgroups(path, depth + 1)));
    // Linked hierarchies (cpu -> cpu,cpuacct) are no directories here, so every group is met once.
    if (depth > 0) found.push({ kind: 'cgroup', name: path, remove: () => removeGroup(path) });
  }
  return found;
}

/** A process that was killed may be in its group for a moment longer, until the kernel is done with it. */
async function removeGroup(path: string): Promise<void> {
  await eventually(() => rmdir(path).then(() => true), { timeoutMs: 3000, describe: 'the group is empty' });
}

async function files(): Promise<Thing[]> {
  const found: Thing[] = [];
  for (const folder of ['/tmp', '/run', '/var/tmp', '/var/lib', '/var/log', '/var/cache', '/etc', '/dev/shm'])
    for (const name of await entries(folder)) {
      const path = join(folder, name);
      found.push({ kind: 'file', name: path, remove: () => rm(path, { recursive: true, force: true }) });
    }
  return found;
}

async function things(): Promise<Thing[]> {
  // Removing goes in this order: what holds others first (a group can't go before its processes, nor a file system
  // before its mount).
  const kinds = [namespaces(), links(), nftTables(), mounts(), cgroups(), files()];
  return (await Promise.all(kinds)).flat();
}

/** What looks like Lodge's on this machine now; taken before the tests, so that they aren't blamed for it. */
export async function readSystemState(): Promise<SystemState> {
  const found = await things();
  return new Set(found.filter((thing) => LODGE_NAME.test(thing.name)).map((thing) => `${thing.kind} ${thing.name}`));
}

/** The processes of the run with this mark, without this one and those that started it. */
export async function findMarkedProcesses(mark: string): Promise<Leak[]> {
  const byEnvironment = await findProcesses({ environmentVariable: MARK_VARIABLE });
  const bySigns = await findProcessesBySigns(`${markedFolder(mark)}/`, mark);
  return asLeaks([...byEnvironment.filter((process) => process.mark === mark), ...bySigns]);
}

/**
 * The processes that name a file below a folder, work in it, or are in a cgroup whose name holds a text. QEMU and its
 * like are started with an environment of their own and may name nothing but descriptors.
 */
async function findProcessesBySigns(folder: string, groupText: string): Promise<FoundProcess[]> {
  const all = await findProcesses({ matchesArguments: () => true });
  const matches = await Promise.all(
    all.map(async ({ identity, argv }) => {
      if (argv.some((word) => word.includes(folder))) return true;
      const group = await readFile(`/proc/${identity.pid}/cgroup`, 'utf8').catch(() => '');
      if (group.includes(groupText)) return true;
      return `${await readlink(`/proc/${identity.pid}/cwd`).catch(() => '')}/`.startsWith(folder);
    }),
  );
  return all.filter((_, index) => matches[index]);
}

async function asLeaks(processes: readonly FoundProcess[]): Promise<Leak[]> {
  const found = new Map(processes.map((process) => [process.identity.pid, process]));
  for (const pid of await ownAncestors()) found.delete(pid);
  return [...found.values()].map(({ identity, argv }) => ({
    kind: 'process',
    name: `${identity.pid} ${argv.join(' ').slice(0, 160)}`,
    isMarked: true,
    remove: async () => {
      await terminateProcess(identity, { termTimeoutMs: 500 });
    },
  }));
}

/** This process and those above it: they bear the mark themselves, and are no leak. */
async function ownAncestors(): Promise<number[]> {
  const pids: number[] = [];
  for (let pid = process.pid; pid > 1;) {
    pids.push(pid);
    const status = await readFile(`/proc/${pid}/status`, 'utf8').catch(() => '');
    pid = Number(/^PPid:\s+(\d+)$/m.exec(status)?.[1] ?? 0);
  }
  return pids;
}

/** What the run with this mark has left, in the order in which it can be removed. */
export async function findLeaks(mark: string, before: SystemState): Promise<Leak[]> {
  const processes = await findMarkedProcesses(mark);
  const others = (await things()).flatMap((thing): Leak[] => {
    const isMarked = (thing.text ?? thing.name).includes(mark);
    const isNew = LODGE_NAME.test(thing.name) && !before.has(`${thing.kind} ${thing.name}`);
    return isMarked || isNew ? [{ kind: thing.kind, name: thing.name, isMarked, remove: thing.remove }] : [];
  });
  return [...processes, ...others];
}

/**
 * Removes the group that every instance of Lodge makes and shares, where the run made it and nobody uses it: it bears no
 * mark, and rmdir succeeds only when nothing is in it.
 */
export async function removeSharedGroups(before: SystemState): Promise<void> {
  for (const group of await cgroups()) {
    if (group.name.endsWith('/lodge') && !before.has(`${group.kind} ${group.name}`))
      await group.remove().catch(() => {});
  }
}

/** Removes the leaks that bear the mark; answers with those that could not be removed, and why. */
export async function removeLeaks(leaks: readonly Leak[]): Promise<string[]> {
  const problems: string[] = [];
  for (const leak of leaks.filter(({ isMarked }) => isMarked)) {
    try {
      await leak.remove();
    } catch (error) {
      if (await isStillThere(leak)) problems.push(`${leak.kind} ${leak.name}: ${(error as Error).message}`);
    }
  }
  return problems;
}

/**
 * Removes what one daemon of a test has on the machine: the processes that have to do with its folder or are
 * in its cgroups, and everything that bears its instance's name. For the end of a test; whether the daemon itself cleans
 * up is tested elsewhere.
 */
export async function removeTraces(instance: string, folder: string): Promise<void> {
  const processes = await asLeaks(await findProcessesBySigns(`${folder}/`, instance));
  const problems = await removeLeaks([
    ...processes,
    ...(await findLeaks(instance, new Set())).filter(({ isMarked, kind }) => isMarked && kind !== 'file'),
  ]);
  if (problems.length > 0) throw new Error(`traces of ${instance} could not be removed: ${problems.join('; ')}`);
}

/** Removing one thing takes others with it (a namespace its links, a folder its files): that is no failure. */
async function isStillThere(leak: Leak): Promise<boolean> {
  if (leak.kind === 'process') return true;
  return (await things()).some(({ kind, name }) => kind === leak.kind && name === leak.name);
}

/** The files below a folder, for telling what a run left in its temporary folder; at most `limit` of them. */
export async function listBelow(folder: string, limit: number): Promise<string[]> {
  const found: string[] = [];
  for (const entry of await readdir(folder, { withFileTypes: true, recursive: true }).catch(() => [])) {
    if (found.length >= limit) break;
    const path = join(entry.parentPath, entry.name);
    const target = entry.isSymbolicLink() ? ` -> ${await readlink(path).catch(() => '?')}` : '';
    found.push(`${path}${target}`);
  }
  return found;
}
