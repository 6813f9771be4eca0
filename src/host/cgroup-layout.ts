// Where this machine has its control groups, and which text goes into which of their files. Pure: text in, plan out,
// so that machines of every kind (version 2 only, hybrid, version 1, containers) can be tested from recorded text.
// Sources: the kernel's Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/*.rst, cgroups(7), proc(5).

import { parseMountInfo } from './mount.ts';

/** What Lodge uses control groups for, in the names of version 2. `freezer` is part of version 2 itself. */
export type Controller = 'cpu' | 'cpuset' | 'memory' | 'io' | 'pids' | 'freezer';

/** All of {@link Controller}. */
export const CONTROLLERS: readonly Controller[] = ['cpu', 'cpuset', 'memory', 'io', 'pids', 'freezer'];

/** One mounted hierarchy of control groups. */
export interface CgroupMount {
  readonly version: 1 | 2;
  readonly mountPoint: string;
  /** The group that is visible at the mount point: `/`, or deeper in a container. */
  readonly root: string;
  /** The controllers in the kernel's own names (version 1: from the mount options, with `cpuacct` and `blkio`). */
  readonly kernelControllers: readonly string[];
}

/** The hierarchies of a machine. */
export interface CgroupLayout {
  /** `hybrid`: version 1 and 2 are both mounted; `none`: no hierarchy is. */
  readonly kind: 'v2' | 'hybrid' | 'v1' | 'none';
  readonly mounts: readonly CgroupMount[];
}

/** One hierarchy as Lodge uses it. */
export interface HierarchyPlan {
  readonly version: 1 | 2;
  readonly mountPoint: string;
  /** The controllers that this hierarchy holds and Lodge uses; for version 2, those of them that can be enabled. */
  readonly controllers: readonly Controller[];
  /** Whether `cpuacct` is here (version 1; processor time is measured there). */
  readonly hasCpuAccounting: boolean;
  /** The folder of the group this program is in. */
  readonly ownDirectory: string;
  /** The folder that Lodge's groups are made in. */
  readonly rootDirectory: string;
}

/** What a group may use. A field that is missing is left as it is; null takes the limit away. */
export interface GroupLimits {
  /** Share of the processors under contention, 1–10,000; the kernel's default is 100. */
  readonly cpuWeight?: number;
  /** The most processor time, in processors (1.5: one and a half); at least 0.01. */
  readonly cpuMaxProcessors?: number | null;
  /** The most memory in bytes; when it can't be kept, the kernel ends a process of the group. */
  readonly memoryMaxBytes?: number | null;
  /** The most swap in bytes beside the memory. */
  readonly memorySwapMaxBytes?: number | null;
  /** The most processes and threads. */
  readonly pidsMax?: number | null;
  /** Share of the disks under contention, 1–10,000, default 100; works with the schedulers bfq and iocost. */
  readonly ioWeight?: number;
  /** The processors it may run on, as a kernel list (`0-3,8`). */
  readonly processors?: string;
  /** The NUMA nodes its memory may come from, as a kernel list (`0`). */
  readonly memoryNodes?: string;
}

/** One file to write for a limit. */
export interface LimitWrite {
  readonly limit: keyof GroupLimits;
  readonly controller: Controller;
  /** The files that can hold it, best first: which of them exists depends on the kernel's configuration. */
  readonly files: readonly { readonly name: string; readonly value: string }[];
}

/** The quota's period: the kernel's default, which is also the longest that keeps pauses short. */
const CPU_PERIOD_US = 100_000;

/**
 * Finds the hierarchies in /proc/PID/mountinfo (proc(5)). `v2Controllers` gives the content of `cgroup.controllers` at
 * a mount point of version 2. Named hierarchies without a controller (systemd's own in version 1) are left out.
 */
export function parseCgroupLayout(mountinfo: string, v2Controllers: (mountPoint: string) => string): CgroupLayout {
  const mounts: CgroupMount[] = [];
  for (const { root, mountPoint, type, superOptions } of parseMountInfo(mountinfo)) {
    // A hierarchy can be mounted more than once (a container that shares the host's); the first is taken.
    if (type === 'cgroup2') {
      if (mounts.some((mount) => mount.version === 2)) continue;
      const kernelControllers = v2Controllers(mountPoint).split(/\s+/).filter(Boolean);
      mounts.push({ version: 2, mountPoint, root, kernelControllers });
    } else if (type === 'cgroup') {
      const kernelControllers = superOptions.filter((option) =>
        /^(cpu|cpuacct|cpuset|memory|blkio|pids|freezer)$/.test(option),
      );
      const isKnown = mounts.some((mount) => mount.kernelControllers.join() === kernelControllers.join());
      if (kernelControllers.length > 0 && !isKnown) mounts.push({ version: 1, mountPoint, root, kernelControllers });
    }
  }
  const hasV1 = mounts.some((mount) => mount.version === 1);
  const hasV2 = mounts.some((mount) => mount.version === 2);
  return { kind: hasV1 ? (hasV2 ? 'hybrid' : 'v1') : hasV2 ? 'v2' : 'none', mounts };
}

/** Reads /proc/PID/cgroup: the path of a process in each hierarchy; the key is the list of controllers, '' for version 2. */
export function parseProcessCgroups(text: string): Map<string, string> {
  const paths = new Map<string, string>();
  for (const line of text.split('\n')) {
    const match = /^\d+:([^:]*):(.*)$/.exec(line);
    if (match) paths.set(match[1] ?? '', match[2] ?? '/');
  }
  return paths;
}

/** Joins a folder and a path inside a hierarchy. */
function below(directory: string, path: string): string {
  const trimmed = path.replace(/^\/+|\/+$/g, '');
  return trimmed === '' ? directory : `${directory.replace(/\/$/, '')}/${trimmed}`;
}

/** The path of a group as seen from a mount point that shows the hierarchy from `root` downwards. */
function relativeTo(root: string, path: string): string {
  if (root === '/') return path;
  if (path === root) return '/';
  // Inside a cgroup namespace the kernel shows paths from the namespace's root already.
  return path.startsWith(`${root}/`) ? path.slice(root.length) : path;
}

/**
 * Where Lodge's groups go when nothing is configured, for a program that is in the group `own` of a hierarchy:
 * - in a leaf `daemon` (a systemd unit with Delegate=yes and DelegateSubgroup=daemon, systemd 254, or moved there by an
 *   earlier start): beside it, since the group above is handed over;
 * - in another unit or a login session of systemd: at the top of the hierarchy. A session's group ends before the
 *   guests do; and a unit whose own group hands controllers on, while guests live in it, can't be started again,
 *   because systemd then has no place for its first process (exit code 219/CGROUP);
 * - anywhere else (the top, a container): below it, so that the limits on this program hold for its guests too.
 */
function automaticRoot(own: string, name: string): string {
  if (own.endsWith('/daemon')) return `${own.slice(0, -'/daemon'.length)}/${name}`;
  if (/\.(scope|service|slice)$/.test(own)) return `/${name}`;
  return `${own === '/' ? '' : own}/${name}`;
}

/**
 * Which hierarchies Lodge uses and where in them. `root`: a path from the top of every hierarchy (`/lodge`), or `auto`:
 * a folder `name` in the place that fits this program's own group.
 * Each controller is used where it is; a hierarchy of version 2 beside version 1 only if it holds one of them.
 */
export function planHierarchies(
  layout: CgroupLayout,
  ownCgroups: string,
  root: 'auto' | `/${string}`,
  name: string = 'lodge',
): HierarchyPlan[] {
  const own = parseProcessCgroups(ownCgroups);
  const plans: HierarchyPlan[] = [];
  for (const mount of layout.mounts) {
    const kernelNames = new Set(mount.kernelControllers);
    const controllers = CONTROLLERS.filter((controller) => {
      if (controller === 'freezer' && mount.version === 2) return layout.kind === 'v2';
      return kernelNames.has(controller === 'io' && mount.version === 1 ? 'blkio' : controller);
    });
    const hasCpuAccounting = kernelNames.has('cpuacct');
    if (controllers.length === 0 && !hasCpuAccounting) continue;
    const key = [...own.keys()].find((names) =>
      mount.version === 2 ? names === '' : names.split(',').some((name) => kernelNames.has(name)),
    );
    const ownPath = relativeTo(mount.root, (key === undefined ? undefined : own.get(key)) ?? '/');
    // `/..` is what a process outside the reader's cgroup namespace shows: nothing there can be used.
    const visiblePath = ownPath.startsWith('/..') ? '/' : ownPath;
    plans.push({
      version: mount.version,
      mountPoint: mount.mountPoint,
      controllers,
      hasCpuAccounting,
      ownDirectory: below(mount.mountPoint, visiblePath),
      rootDirectory: below(mount.mountPoint, root === 'auto' ? automaticRoot(visiblePath, name) : root),
    });
  }
  return plans;
}

/** A name that is one path component and can't be taken for a file of the kernel (those begin with a controller and a dot). */
export function isGroupName(name: string): boolean {
  return (
    /^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$/.test(name) &&
    !/^(cgroup|cpu|cpuacct|cpuset|memory|io|blkio|pids|freezer|hugetlb|rdma|misc|devices)\./.test(name)
  );
}

/** A weight of version 2 (1–10,000, default 100) as `cpu.shares` (2–262,144, default 1024), the way systemd converts it. */
export function sharesOfWeight(weight: number): number {
  return Math.min(262_144, Math.max(2, Math.round((weight * 1024) / 100)));
}

/** A weight of version 2 as a weight of the bfq scheduler (1–1,000, default 100), the way systemd converts it. */
export function bfqWeightOf(weight: number): number {
  return weight <= 100 ? weight : Math.round(100 + ((weight - 100) * 900) / 9900);
}

/**
 * The files that put limits into effect, in the order in which they must be written. Of `files` the first that exists
 * is written. Throws RangeError for a value the kernel would not take.
 */
export function limitWrites(version: 1 | 2, limits: GroupLimits): LimitWrite[] {
  checkLimits(limits);
  const isV2 = version === 2;
  const writes: LimitWrite[] = [];
  const add = (limit: keyof GroupLimits, controller: Controller, ...files: [string, string | number][]): void => {
    writes.push({ limit, controller, files: files.map(([name, value]) => ({ name, value: String(value) })) });
  };
  if (limits.processors !== undefined) add('processors', 'cpuset', ['cpuset.cpus', limits.processors]);
  if (limits.memoryNodes !== undefined) add('memoryNodes', 'cpuset', ['cpuset.mems', limits.memoryNodes]);
  if (limits.cpuWeight !== undefined) {
    if (isV2) add('cpuWeight', 'cpu', ['cpu.weight', limits.cpuWeight]);
    else add('cpuWeight', 'cpu', ['cpu.shares', sharesOfWeight(limits.cpuWeight)]);
  }
  if (limits.cpuMaxProcessors !== undefined) {
    const quota = limits.cpuMaxProcessors === null ? null : Math.round(limits.cpuMaxProcessors * CPU_PERIOD_US);
    if (isV2) add('cpuMaxProcessors', 'cpu', ['cpu.max', `${quota ?? 'max'} ${CPU_PERIOD_US}`]);
    else {
      add('cpuMaxProcessors', 'cpu', ['cpu.cfs_period_us', CPU_PERIOD_US]);
      add('cpuMaxProcessors', 'cpu', ['cpu.cfs_quota_us', quota ?? -1]);
    }
  }
  if (limits.memoryMaxBytes !== undefined) {
    if (isV2) add('memoryMaxBytes', 'memory', ['memory.max', limits.memoryMaxBytes ?? 'max']);
    else add('memoryMaxBytes', 'memory', ['memory.limit_in_bytes', limits.memoryMaxBytes ?? -1]);
  }
  if (limits.memorySwapMaxBytes !== undefined) {
    if (isV2) add('memorySwapMaxBytes', 'memory', ['memory.swap.max', limits.memorySwapMaxBytes ?? 'max']);
    else if (limits.memorySwapMaxBytes === 0 && limits.memoryMaxBytes === undefined) {
      // Version 1 can't limit swap alone, but leave it unused.
      add('memorySwapMaxBytes', 'memory', ['memory.swappiness', 0]);
    } else {
      // Version 1 limits the sum of both, so it needs to know the memory's part.
      const both =
        limits.memorySwapMaxBytes === null || limits.memoryMaxBytes === null || limits.memoryMaxBytes === undefined
          ? -1
          : limits.memoryMaxBytes + limits.memorySwapMaxBytes;
      add('memorySwapMaxBytes', 'memory', ['memory.memsw.limit_in_bytes', both]);
    }
  }
  if (limits.pidsMax !== undefined) add('pidsMax', 'pids', ['pids.max', limits.pidsMax ?? 'max']);
  if (limits.ioWeight !== undefined) {
    const bfq = bfqWeightOf(limits.ioWeight);
    if (isV2) add('ioWeight', 'io', ['io.weight', `default ${limits.ioWeight}`], ['io.bfq.weight', bfq]);
    else add('ioWeight', 'io', ['blkio.bfq.weight', bfq], ['blkio.weight', Math.max(10, bfq)]);
  }
  return writes;
}

function checkLimits(limits: GroupLimits): void {
  const weight = (name: 'cpuWeight' | 'ioWeight'): void => {
    const value = limits[name];
    if (value !== undefined && !(Number.isInteger(value) && value >= 1 && value <= 10_000)) {
      throw new RangeError(`${name} is ${value}; it must be a whole number from 1 to 10000`);
    }
  };
  const amount = (name: 'memoryMaxBytes' | 'memorySwapMaxBytes' | 'pidsMax', least: number): void => {
    const value = limits[name];
    if (value !== undefined && value !== null && !(Number.isSafeInteger(value) && value >= least)) {
      throw new RangeError(`${name} is ${value}; it must be a whole number of at least ${least}, or null for no limit`);
    }
  };
  const list = (name: 'processors' | 'memoryNodes'): void => {
    const value = limits[name];
    if (value !== undefined && !/^\d+(-\d+)?(,\d+(-\d+)?)*$/.test(value)) {
      throw new RangeError(`${name} is "${value}"; it must be a list such as 0-3,8`);
    }
  };
  weight('cpuWeight');
  weight('ioWeight');
  amount('memoryMaxBytes', 1);
  amount('memorySwapMaxBytes', 0);
  amount('pidsMax', 1);
  list('processors');
  list('memoryNodes');
  const cpus = limits.cpuMaxProcessors;
  // The kernel refuses a quota under 1 ms.
  if (cpus !== undefined && cpus !== null && !(Number.isFinite(cpus) && cpus >= 0.01 && cpus <= 100_000)) {
    throw new RangeError(`cpuMaxProcessors is ${cpus}; it must be from 0.01 to 100000, or null for no limit`);
  }
}

/** Reads a file of lines `name value` (cpu.stat, memory.events, memory.oom_control, cgroup.events). */
export function parseFlatKeyed(text: string): Map<string, number> {
  const values = new Map<string, number>();
  for (const line of text.split('\n')) {
    const [name, value] = line.split(' ');
    if (name && value !== undefined) values.set(name, Number(value));
  }
  return values;
}
