// One control group: limits, members, use, freezing, emptying, removal, in version 1 and 2. One group of Lodge is one
// folder in each hierarchy that holds a controller it uses. Promises: a limit whose controller a machine doesn't offer
// is named with its reason and the rest still works; a limit that the kernel refused is an error with the kernel's
// words; every wait has a deadline.
//
//   no folder --create--> empty --join/launcher--> populated --killAll--> empty --remove--> no folder
//                                                    | ^ freeze / thaw
import { access, mkdir, readFile, readdir, rmdir, writeFile } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import { parsePressure } from './memory.ts';
import { limitWrites, parseFlatKeyed, type Controller, type GroupLimits, type HierarchyPlan } from './cgroup-layout.ts';

/** Something the kernel's control groups refused. The message names the file, the value and the kernel's answer. */
export class CgroupError extends Error {
  override name = 'CgroupError';
  readonly path: string;
  /** The kernel's error code (`EBUSY`, `EINVAL`, …), where there was one. */
  readonly code: string | null;
  constructor(path: string, message: string, cause?: unknown) {
    super(message, { cause });
    this.path = path;
    this.code = (cause as NodeJS.ErrnoException | undefined)?.code ?? null;
  }
}

/** A controller that can't be used on this machine, and why. */
export interface MissingController {
  readonly controller: Controller;
  readonly reason: string;
}

/** What setting limits did. A limit whose controller is missing is not an error: it is listed with the reason. */
export interface LimitResult {
  readonly applied: readonly (keyof GroupLimits)[];
  readonly unapplied: readonly { readonly limit: keyof GroupLimits; readonly reason: string }[];
}

/** The share of time in which a group waited, percent; null for the reason. */
export interface GroupPressure {
  readonly resource: 'cpu' | 'memory' | 'io';
  readonly somePercent: number | null;
  readonly fullPercent: number | null;
  readonly reason: string | null;
}

/** What the file of a limit holds. */
export interface LimitReading {
  readonly limit: keyof GroupLimits;
  /** Null: there is none, for the reason. */
  readonly path: string | null;
  readonly value: string | null;
  readonly reason: string | null;
}

/** What a group has used and uses. Null: this machine doesn't measure it. */
export interface GroupUsage {
  /** Processor time of all its processes since it was made, in microseconds. */
  readonly cpuMicroseconds: number | null;
  /** Time its threads were held back by `cpuMaxProcessors`, in microseconds. */
  readonly cpuThrottledMicroseconds: number | null;
  readonly memoryBytes: number | null;
  /** The most memory at any time; needs kernel 5.19 in version 2. */
  readonly memoryPeakBytes: number | null;
  /** Processes of the group that the kernel's out-of-memory killer has ended. */
  readonly oomKills: number | null;
  /** Processes and threads now. */
  readonly pids: number | null;
}

/** Limits of a wait for the kernel. */
export interface CgroupWaitOptions {
  /** In milliseconds. Default 5,000. */
  readonly timeoutMs?: number;
}

const DEFAULT_WAIT_MS = 5000;

/** The code of a system call's error. */
export function codeOf(error: unknown): string | undefined {
  return (error as NodeJS.ErrnoException).code;
}

export async function exists(path: string): Promise<boolean> {
  return await access(path).then(
    () => true,
    () => false,
  );
}

/** Writes a kernel file in one write, without ever creating it. */
export async function writeKernelFile(path: string, value: string): Promise<void> {
  await writeFile(path, value, { flag: 'r+' });
}

/** The content of a kernel file, or null when the group or the file is not there. */
export async function readOrNull(path: string): Promise<string | null> {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    // ENODEV: the group was removed while its file was open. EOPNOTSUPP: a file that this group's type doesn't fill.
    if (['ENOENT', 'ENODEV', 'EOPNOTSUPP'].includes(codeOf(error) ?? '')) return null;
    throw error;
  }
}

/** The names of the groups directly below a folder; none when it does not exist. */
export async function childDirectories(directory: string): Promise<string[]> {
  try {
    const entries = await readdir(directory, { withFileTypes: true });
    return entries.filter((entry) => entry.isDirectory()).map((entry) => entry.name);
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return [];
    throw error;
  }
}

/** The process ids in a group and all groups below it. */
async function pidsBelow(directory: string): Promise<number[]> {
  const text = (await readOrNull(`${directory}/cgroup.procs`)) ?? '';
  // 0 stands for a process of another pid namespace, which can't be named from here.
  const pids = text
    .split('\n')
    .map(Number)
    .filter((pid) => pid > 0);
  for (const child of await childDirectories(directory)) pids.push(...(await pidsBelow(`${directory}/${child}`)));
  return pids;
}

/** Looks again and again, 1 ms apart at first and 50 ms later, until `isDone` or the deadline; false at the deadline. */
async function poll(timeoutMs: number, isDone: () => Promise<boolean>): Promise<boolean> {
  const deadline = performance.now() + timeoutMs;
  for (let pause = 1; !(await isDone()); pause = Math.min(pause * 1.5, 50)) {
    if (performance.now() >= deadline) return false;
    await delay(pause);
  }
  return true;
}

/** One group: a folder in each hierarchy in use. Made by {@link CgroupTree}. */
export class CgroupGroup {
  readonly name: string;
  private readonly hierarchies: readonly HierarchyPlan[];
  private readonly missing: readonly MissingController[];

  constructor(name: string, hierarchies: readonly HierarchyPlan[], missing: readonly MissingController[]) {
    this.name = name;
    this.hierarchies = hierarchies;
    this.missing = missing;
  }

  /** Its folders, one a hierarchy. Keep them with the guest: {@link CgroupTree.groupAt} finds the group by them again. */
  get directories(): string[] {
    return this.hierarchies.map((hierarchy) => this.directoryIn(hierarchy));
  }

  /**
   * The `cgroup.procs` files of the group. A launcher that writes `0` into each of them before it replaces itself by
   * the guest's program puts that in from its first instruction, so that all of its memory is counted here.
   */
  get processFiles(): string[] {
    return this.directories.map((directory) => `${directory}/cgroup.procs`);
  }

  /** Puts processes (with all their threads) into the group. Takes some 15 ms: the kernel waits for a grace period. */
  async join(pids: readonly number[]): Promise<void> {
    for (const pid of pids) {
      for (const file of this.processFiles) {
        try {
          await writeKernelFile(file, String(pid));
        } catch (error) {
          const why =
            {
              ESRCH: 'no such process',
              ENOENT: 'there is no such group',
              ENOSPC: 'its cpuset has no processors or memory nodes',
              EBUSY: 'the group hands controllers on to groups below it and may hold no process itself',
            }[codeOf(error) ?? ''] ?? (error as Error).message;
          throw new CgroupError(
            file,
            `process ${pid} can't be put into the group ${this.name} (${file}): ${why}`,
            error,
          );
        }
      }
    }
  }

  /** Sets limits, each as it is asked for. A value that the kernel refuses rejects with {@link CgroupError}. */
  async setLimits(limits: GroupLimits): Promise<LimitResult> {
    const applied = new Set<keyof GroupLimits>();
    const unapplied: { limit: keyof GroupLimits; reason: string }[] = [];
    // Both versions give the same limits in the same order, so version 1's list only serves to find missing ones.
    for (const { limit, controller } of limitWrites(2, limits)) {
      const hierarchy = this.hierarchies.find((candidate) => candidate.controllers.includes(controller));
      if (!hierarchy) {
        const known = this.missing.find((entry) => entry.controller === controller);
        unapplied.push({ limit, reason: known?.reason ?? `this machine has no ${controller} controller` });
        continue;
      }
      const directory = this.directoryIn(hierarchy);
      let isWritten = true;
      for (const write of limitWrites(hierarchy.version, limits).filter((candidate) => candidate.limit === limit)) {
        const file = await this.firstExisting(directory, write.files);
        if (!file) {
          const names = write.files.map((candidate) => candidate.name).join(' or ');
          unapplied.push({ limit, reason: `the kernel offers no ${names} in ${directory}` });
          isWritten = false;
          break;
        }
        await this.writeLimit(hierarchy, directory, file.name, file.value, limit);
      }
      if (isWritten) applied.add(limit);
    }
    return { applied: [...applied], unapplied };
  }

  /** What the files of these limits hold now; `reason`: why there is none. The values given say nothing but which. */
  async readLimits(limits: GroupLimits): Promise<LimitReading[]> {
    const readings = new Map<keyof GroupLimits, LimitReading>();
    for (const { limit, controller } of limitWrites(2, limits)) {
      const hierarchy = this.hierarchies.find((candidate) => candidate.controllers.includes(controller));
      const known = this.missing.find((entry) => entry.controller === controller);
      const reason = known?.reason ?? `this machine has no ${controller} controller`;
      if (!hierarchy) {
        readings.set(limit, { limit, path: null, value: null, reason });
        continue;
      }
      const directory = this.directoryIn(hierarchy);
      // Of several files the last holds the limit itself: the period stands before the quota.
      const write = limitWrites(hierarchy.version, limits).findLast((candidate) => candidate.limit === limit);
      const file = write && (await this.firstExisting(directory, write.files));
      const path = file ? `${directory}/${file.name}` : null;
      const value = path === null ? null : await readOrNull(path);
      const names = write?.files.map(({ name }) => name).join(' or ') ?? '';
      readings.set(limit, {
        limit,
        path,
        value: value?.trim() ?? null,
        reason: value === null ? `the kernel offers no ${names} in ${directory}` : null,
      });
    }
    return [...readings.values()];
  }

  /** How long its processes waited, mean of 10 s. Only version 2 counts that by groups (Documentation/accounting/psi.rst). */
  async readPressure(): Promise<GroupPressure[]> {
    const unified = this.hierarchies.find(({ version }) => version === 2);
    return Promise.all(
      (['cpu', 'memory', 'io'] as const).map(async (resource) => {
        const unknown = (reason: string): GroupPressure => ({ resource, somePercent: null, fullPercent: null, reason });
        if (!unified) return unknown('control groups of version 1 do not count it, only version 2 does');
        const path = `${this.directoryIn(unified)}/${resource}.pressure`;
        const text = await readFile(path, 'utf8').catch(() => null);
        if (text === null) return unknown(`${path} can't be read; psi=1 on the kernel’s command line switches it on`);
        return { resource, ...parsePressure(text), reason: null };
      }),
    );
  }

  /** What its processes have used so far and use now. */
  async readUsage(): Promise<GroupUsage> {
    const file = async (controller: Controller, v1: string, v2: string): Promise<string | null> => {
      const hierarchy = this.hierarchies.find((candidate) => candidate.controllers.includes(controller));
      if (!hierarchy) return null;
      const name = hierarchy.version === 1 ? v1 : v2;
      return name === '' ? null : await readOrNull(`${this.directoryIn(hierarchy)}/${name}`);
    };
    const number = (text: string | null): number | null => (text === null ? null : Number(text));
    const keyed = (text: string | null, key: string): number | null =>
      text === null ? null : (parseFlatKeyed(text).get(key) ?? null);

    // Version 2 counts processor time in every group, also where the cpu controller isn't enabled.
    const accounting = this.hierarchies.find((candidate) => candidate.hasCpuAccounting);
    const unified = this.hierarchies.find((candidate) => candidate.version === 2);
    const v2Stat = unified ? await readOrNull(`${this.directoryIn(unified)}/cpu.stat`) : null;
    const nanoseconds = accounting ? number(await readOrNull(`${this.directoryIn(accounting)}/cpuacct.usage`)) : null;
    const v1Throttled = keyed(await file('cpu', 'cpu.stat', ''), 'throttled_time');

    const pidsNow = number(await file('pids', 'pids.current', 'pids.current'));
    return {
      cpuMicroseconds: nanoseconds === null ? keyed(v2Stat, 'usage_usec') : Math.floor(nanoseconds / 1000),
      cpuThrottledMicroseconds: v1Throttled === null ? keyed(v2Stat, 'throttled_usec') : Math.floor(v1Throttled / 1000),
      memoryBytes: number(await file('memory', 'memory.usage_in_bytes', 'memory.current')),
      memoryPeakBytes: number(await file('memory', 'memory.max_usage_in_bytes', 'memory.peak')),
      oomKills: keyed(await file('memory', 'memory.oom_control', 'memory.events'), 'oom_kill'),
      pids: pidsNow,
    };
  }

  /** The processes in the group, or in any group below it. */
  async processes(): Promise<number[]> {
    const pids = new Set<number>();
    for (const directory of this.directories) for (const pid of await pidsBelow(directory)) pids.add(pid);
    return [...pids].toSorted((a, b) => a - b);
  }

  /** Whether at least one of its folders exists. */
  async exists(): Promise<boolean> {
    for (const directory of this.directories) if (await exists(directory)) return true;
    return false;
  }

  /** Stops all its processes where they stand. Rejects with {@link CgroupError} when they don't all stop in time. */
  async freeze(options: CgroupWaitOptions = {}): Promise<void> {
    await this.setFrozen(true, options);
  }

  /** Lets frozen processes go on. */
  async thaw(options: CgroupWaitOptions = {}): Promise<void> {
    await this.setFrozen(false, options);
  }

  /** Whether the group is frozen. False on machines without a freezer. */
  async isFrozen(): Promise<boolean> {
    const hierarchy = this.freezer();
    if (!hierarchy) return false;
    const directory = this.directoryIn(hierarchy);
    if (hierarchy.version === 1) return (await readOrNull(`${directory}/freezer.state`))?.trim() === 'FROZEN';
    return parseFlatKeyed((await readOrNull(`${directory}/cgroup.events`)) ?? '').get('frozen') === 1;
  }

  /**
   * Ends all its processes with SIGKILL and waits until none is left. Rejects with {@link CgroupError}, naming those
   * that are left, when the deadline passes: they hang in the kernel.
   */
  async killAll(options: CgroupWaitOptions = {}): Promise<void> {
    const { timeoutMs = DEFAULT_WAIT_MS } = options;
    for (const hierarchy of this.hierarchies) {
      // Kernel 5.14 ends a whole subtree at once in version 2, also processes that keep forking.
      if (hierarchy.version === 2) {
        await writeKernelFile(`${this.directoryIn(hierarchy)}/cgroup.kill`, '1').catch(() => {});
      }
    }
    // Version 1 keeps a frozen process from dying.
    if (this.freezer()?.version === 1 && (await this.exists())) await this.thaw(options);
    let left: number[] = [];
    const isEmpty = await poll(timeoutMs, async () => {
      left = await this.processes();
      for (const pid of left) {
        try {
          process.kill(pid, 'SIGKILL');
        } catch (error) {
          if (codeOf(error) !== 'ESRCH') throw error;
        }
      }
      return left.length === 0;
    });
    if (!isEmpty) {
      const directory = this.directories[0] ?? this.name;
      throw new CgroupError(
        directory,
        `processes ${left.slice(0, 10).join(', ')} of the group ${this.name} are still there ${timeoutMs} ms after SIGKILL: they wait in the kernel`,
      );
    }
  }

  /**
   * Removes its folders and those below them. No process may be in it; processes that have just ended keep a folder
   * busy for a moment, so it is tried again until the deadline, then rejects with {@link CgroupError}.
   */
  async remove(options: CgroupWaitOptions = {}): Promise<void> {
    const { timeoutMs = DEFAULT_WAIT_MS } = options;
    for (const directory of this.directories) {
      let failure: unknown = null;
      const isRemoved = await poll(timeoutMs, async () => {
        try {
          await removeBelow(directory);
          return true;
        } catch (error) {
          if (codeOf(error) !== 'EBUSY') throw error;
          failure = error;
          return false;
        }
      });
      if (!isRemoved) {
        const pids = await pidsBelow(directory);
        const who =
          pids.length > 0 ? `processes ${pids.slice(0, 10).join(', ')} are in it` : 'the kernel still uses it';
        throw new CgroupError(
          directory,
          `the group ${directory} can't be removed within ${timeoutMs} ms: ${who}`,
          failure,
        );
      }
    }
  }

  /** Makes the folders. Part of {@link CgroupTree.createGroup}. */
  async create(): Promise<void> {
    for (const hierarchy of this.hierarchies) {
      const directory = this.directoryIn(hierarchy);
      await makeDirectory(directory);
      if (hierarchy.version === 1 && hierarchy.controllers.includes('cpuset')) {
        await inheritCpuset(hierarchy.rootDirectory, directory);
      }
    }
  }

  private directoryIn(hierarchy: HierarchyPlan): string {
    return `${hierarchy.rootDirectory}/${this.name}`;
  }

  private freezer(): HierarchyPlan | undefined {
    return this.hierarchies.find((hierarchy) => hierarchy.controllers.includes('freezer'));
  }

  private async firstExisting<T extends { readonly name: string }>(
    directory: string,
    files: readonly T[],
  ): Promise<T | null> {
    for (const file of files) if (await exists(`${directory}/${file.name}`)) return file;
    return null;
  }

  private async writeLimit(
    hierarchy: HierarchyPlan,
    directory: string,
    file: string,
    value: string,
    limit: keyof GroupLimits,
  ): Promise<void> {
    const path = `${directory}/${file}`;
    if (hierarchy.version === 2 && file === 'memory.max' && value !== 'max') {
      await this.makeRoom(directory, Number(value));
    }
    try {
      await writeKernelFile(path, value);
    } catch (error) {
      const code = codeOf(error);
      if (file === 'memory.limit_in_bytes' && code === 'EINVAL') {
        // Version 1 demands that the sum with swap is never under the memory: it has to be raised first.
        await writeKernelFile(`${directory}/memory.memsw.limit_in_bytes`, '-1').catch(() => {});
        await writeKernelFile(path, value);
        return;
      }
      const why = code === 'EBUSY' ? 'its processes already use more' : (error as Error).message;
      throw new CgroupError(
        path,
        `${limit} of the group ${this.name} can't be set (${value} to ${path}): ${why}`,
        error,
      );
    }
  }

  /**
   * Version 2 would end processes to get under a limit that is lower than what is used; version 1 refuses it. Here
   * both refuse: first the kernel is asked to give back what it can.
   */
  private async makeRoom(directory: string, limitBytes: number): Promise<void> {
    const current = async (): Promise<number> => Number((await readOrNull(`${directory}/memory.current`)) ?? 0);
    const excess = (await current()) - limitBytes;
    if (excess <= 0) return;
    // Kernel 5.19; EAGAIN when it couldn't free all of it.
    await writeKernelFile(`${directory}/memory.reclaim`, String(excess)).catch(() => {});
    const used = await current();
    if (used > limitBytes) {
      throw new CgroupError(
        `${directory}/memory.max`,
        `memoryMaxBytes of the group ${this.name} can't be ${limitBytes}: its processes use ${used} bytes`,
      );
    }
  }

  private async setFrozen(isWanted: boolean, options: CgroupWaitOptions): Promise<void> {
    const { timeoutMs = DEFAULT_WAIT_MS } = options;
    const hierarchy = this.freezer();
    if (!hierarchy) {
      const known = this.missing.find((entry) => entry.controller === 'freezer');
      throw new CgroupError(
        this.name,
        `the group ${this.name} can't be frozen: ${known?.reason ?? 'there is no freezer'}`,
      );
    }
    const directory = this.directoryIn(hierarchy);
    const [path, value] =
      hierarchy.version === 1
        ? [`${directory}/freezer.state`, isWanted ? 'FROZEN' : 'THAWED']
        : [`${directory}/cgroup.freeze`, isWanted ? '1' : '0'];
    const isDone = await poll(timeoutMs, async () => {
      try {
        await writeKernelFile(path, value);
      } catch (error) {
        throw new CgroupError(
          path,
          `the group ${this.name} can't be frozen or thawed (${path}): ${(error as Error).message}`,
          error,
        );
      }
      return (await this.isFrozen()) === isWanted;
    });
    if (!isDone) {
      throw new CgroupError(
        path,
        `the group ${this.name} is not ${isWanted ? 'frozen' : 'thawed'} after ${timeoutMs} ms`,
      );
    }
  }
}

/** Makes a group's folder, and those above it that are missing. Rejects with {@link CgroupError}. */
export async function makeDirectory(directory: string): Promise<void> {
  try {
    await mkdir(directory, { recursive: true });
  } catch (error) {
    throw new CgroupError(directory, `the group ${directory} can't be made: ${(error as Error).message}`, error);
  }
}

async function removeBelow(directory: string): Promise<void> {
  for (const child of await childDirectories(directory)) await removeBelow(`${directory}/${child}`);
  try {
    await rmdir(directory);
  } catch (error) {
    if (codeOf(error) !== 'ENOENT') throw error;
  }
}

/** A new cpuset of version 1 is empty, and nothing can join it: it gets what its parent has. */
export async function inheritCpuset(parent: string, directory: string): Promise<void> {
  for (const file of ['cpuset.cpus', 'cpuset.mems']) {
    if ((await readFile(`${directory}/${file}`, 'utf8')).trim() !== '') continue;
    await writeKernelFile(`${directory}/${file}`, (await readFile(`${parent}/${file}`, 'utf8')).trim());
  }
}
