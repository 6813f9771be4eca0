// The control groups of this machine, versions 1 and 2, with systemd or without: which hierarchies there are, where
// Lodge's groups lie in them, making, finding and listing groups. Promises: what a machine doesn't offer is told with its
// reason (`missing`) and never an error; nothing is changed outside Lodge's own root except that controllers of version
// 2 are handed down to it.
import { readFile, rmdir } from 'node:fs/promises';
import {
  CgroupError,
  CgroupGroup,
  childDirectories,
  codeOf,
  inheritCpuset,
  makeDirectory,
  readOrNull,
  writeKernelFile,
  type LimitResult,
  type MissingController,
} from './cgroup-group.ts';
import {
  CONTROLLERS,
  isGroupName,
  parseCgroupLayout,
  planHierarchies,
  type CgroupLayout,
  type Controller,
  type GroupLimits,
  type HierarchyPlan,
} from './cgroup-layout.ts';

/** Options of {@link openCgroupTree}. */
export interface CgroupTreeOptions {
  /**
   * Where Lodge's groups are made: a path from the top of each hierarchy (`/lodge`; for a part handed over by systemd,
   * `/system.slice/lodge.service/lodge`), or `auto`, the default: beside this program when it is in a leaf `daemon`,
   * at the top from any other unit or session of systemd, and else below this program's own group.
   */
  readonly root?: 'auto' | `/${string}`;
  /** The name of the root's folder with `auto`: two daemons on one machine need two. Default `lodge`. */
  readonly name?: string;
  /** The hierarchies to use instead of what /proc shows. */
  readonly layout?: CgroupLayout;
}

/** All of Lodge's groups on this machine. */
export class CgroupTree {
  readonly kind: CgroupLayout['kind'];
  /** Where its groups are: the folder in each hierarchy in use. */
  readonly rootDirectories: readonly string[];
  /** The controllers that work. */
  readonly controllers: readonly Controller[];
  /** Those that don't, with the reasons. */
  readonly missing: readonly MissingController[];
  private readonly hierarchies: readonly HierarchyPlan[];

  constructor(
    kind: CgroupLayout['kind'],
    hierarchies: readonly HierarchyPlan[],
    missing: readonly MissingController[],
  ) {
    this.kind = kind;
    this.hierarchies = hierarchies;
    this.missing = missing;
    this.rootDirectories = hierarchies.map((hierarchy) => hierarchy.rootDirectory);
    this.controllers = CONTROLLERS.filter((name) =>
      hierarchies.some((hierarchy) => hierarchy.controllers.includes(name)),
    );
  }

  /**
   * Makes a group (or takes the one that is there) and sets its limits. `name`: letters, digits, `_`, `.`, `-`, at most
   * 128. When a limit is refused the group is removed again, if this call made it.
   */
  async createGroup(name: string, limits: GroupLimits = {}): Promise<{ group: CgroupGroup; limits: LimitResult }> {
    const group = this.group(name);
    const isNew = !(await group.exists());
    try {
      await group.create();
      return { group, limits: await group.setLimits(limits) };
    } catch (error) {
      if (isNew) await group.remove({ timeoutMs: 100 }).catch(() => {});
      throw error;
    }
  }

  /** The group of this name, whether or not it exists. */
  group(name: string): CgroupGroup {
    if (!isGroupName(name)) {
      throw new CgroupError(
        name,
        `"${name}" can't be the name of a group: letters, digits, "_", "." and "-", at most 128, not a kernel file's name`,
      );
    }
    return new CgroupGroup(name, this.hierarchies, this.missing);
  }

  /**
   * The group with these folders (`CgroupGroup.directories` of an earlier daemon, which may have had another root).
   * Folders in hierarchies that are not in use any more are left out; null when none is left.
   */
  groupAt(directories: readonly string[]): CgroupGroup | null {
    let name: string | null = null;
    const hierarchies: HierarchyPlan[] = [];
    for (const directory of directories) {
      const slash = directory.lastIndexOf('/');
      const hierarchy = this.hierarchies.find((candidate) => directory.startsWith(`${candidate.mountPoint}/`));
      if (!hierarchy || !isGroupName(directory.slice(slash + 1)) || directory.split('/').includes('..')) continue;
      name ??= directory.slice(slash + 1);
      hierarchies.push({ ...hierarchy, rootDirectory: directory.slice(0, slash) });
    }
    return name === null ? null : new CgroupGroup(name, hierarchies, this.missing);
  }

  /** All groups that are there, for finding those that nothing knows of any more. */
  async listGroups(): Promise<CgroupGroup[]> {
    const names = new Set<string>();
    for (const root of this.rootDirectories) for (const name of await childDirectories(root)) names.add(name);
    return [...names]
      .filter(isGroupName)
      .toSorted()
      .map((name) => this.group(name));
  }

  /** Removes the root folders when they are empty; groups that are there keep them. */
  async removeRootIfEmpty(): Promise<void> {
    for (const root of this.rootDirectories) {
      await rmdir(root).catch((error: unknown) => {
        if (!['EBUSY', 'ENOTEMPTY', 'ENOENT'].includes(codeOf(error) ?? '')) throw error;
      });
    }
  }
}

/** The hierarchies that /proc/self/mountinfo shows. */
export async function readCgroupLayout(): Promise<CgroupLayout> {
  const mountinfo = await readFile('/proc/self/mountinfo', 'utf8');
  const controllers = new Map<string, string>();
  // The first pass only finds the mount points of version 2, the second knows their controllers.
  for (const mount of parseCgroupLayout(mountinfo, () => '').mounts) {
    if (mount.version === 2) {
      controllers.set(mount.mountPoint, (await readOrNull(`${mount.mountPoint}/cgroup.controllers`)) ?? '');
    }
  }
  return parseCgroupLayout(mountinfo, (mountPoint) => controllers.get(mountPoint) ?? '');
}

/**
 * Finds this machine's control groups and prepares Lodge's part of them. Never rejects for what a machine doesn't
 * offer: `missing` tells it. In version 2 this program and its neighbours in its own group are moved into a group
 * `daemon` below it when Lodge's groups lie there, because a group that hands controllers on may hold no process.
 */
export async function openCgroupTree(options: CgroupTreeOptions = {}): Promise<CgroupTree> {
  const { root = 'auto', name = 'lodge' } = options;
  if (root.split('/').includes('..')) {
    throw new CgroupError(root, `the root of the groups can't be ${root}: ".." is not allowed`);
  }
  if (!isGroupName(name)) throw new CgroupError(name, `"${name}" can't be the name of the groups' root`);
  const layout = options.layout ?? (await readCgroupLayout());
  const plans = planHierarchies(layout, await readFile('/proc/self/cgroup', 'utf8'), root, name);
  const missing = new Map<Controller, string>();
  const hierarchies: HierarchyPlan[] = [];
  for (const plan of plans) {
    try {
      hierarchies.push(await prepare(plan, missing));
    } catch (error) {
      for (const controller of plan.controllers) missing.set(controller, (error as Error).message);
    }
  }
  for (const controller of CONTROLLERS) {
    if (missing.has(controller) || hierarchies.some((hierarchy) => hierarchy.controllers.includes(controller))) {
      continue;
    }
    missing.set(
      controller,
      layout.kind === 'none'
        ? 'no control groups are mounted (see /proc/self/mountinfo)'
        : `no mounted hierarchy of control groups has the ${controller} controller`,
    );
  }
  return new CgroupTree(
    layout.kind,
    hierarchies,
    [...missing].map(([controller, reason]) => ({ controller, reason })),
  );
}

/** Makes the root folder of one hierarchy and enables the controllers there; gives back those that work. */
async function prepare(plan: HierarchyPlan, missing: Map<Controller, string>): Promise<HierarchyPlan> {
  const root = plan.rootDirectory;
  await makeDirectory(root);
  if (plan.version === 1) {
    if (plan.controllers.includes('cpuset')) {
      // Every folder between the top and the root may be new and empty.
      let parent = plan.mountPoint;
      for (const part of root.slice(plan.mountPoint.length).split('/').filter(Boolean)) {
        await inheritCpuset(parent, `${parent}/${part}`);
        parent = `${parent}/${part}`;
      }
    }
    return plan;
  }
  const controllers: Controller[] = [];
  for (const controller of plan.controllers) {
    const reason = controller === 'freezer' ? null : await enableDownTo(plan, controller);
    if (reason === null) controllers.push(controller);
    else missing.set(controller, reason);
  }
  if ((await readOrNull(`${root}/cgroup.type`))?.trim() === 'domain invalid') {
    throw new CgroupError(
      root,
      `processes can't be put into ${root}: a group above it holds processes and hands controllers on`,
    );
  }
  return { ...plan, controllers };
}

/** Enables a controller of version 2 in every group from the top to the root of Lodge's; the reason when it can't be. */
async function enableDownTo(plan: HierarchyPlan, controller: Controller): Promise<string | null> {
  let directory = plan.mountPoint;
  const parts = plan.rootDirectory.slice(plan.mountPoint.length).split('/').filter(Boolean);
  for (const part of [...parts, '']) {
    const has = async (file: string): Promise<boolean> =>
      ((await readOrNull(`${directory}/${file}`)) ?? '').split(/\s+/).includes(controller);
    if (!(await has('cgroup.controllers'))) {
      return `the controller ${controller} is not handed on to ${directory}; a systemd unit needs Delegate=yes`;
    }
    if (!(await has('cgroup.subtree_control'))) {
      const reason = await enableIn(plan, directory, controller);
      if (reason !== null) return reason;
    }
    directory = `${directory}/${part}`;
  }
  return null;
}

/**
 * Enables a controller for the groups below a folder. In version 2 a group below the top either holds processes or
 * hands controllers on. For some controllers the kernel does not refuse that, but takes the groups below it out of
 * service ("domain invalid", cgroup-v2.rst, Threads), so it is checked beforehand.
 */
async function enableIn(plan: HierarchyPlan, directory: string, controller: Controller): Promise<string | null> {
  const file = `${directory}/cgroup.subtree_control`;
  // The top of the hierarchy has no type, and may do both.
  const isTop = (await readOrNull(`${directory}/cgroup.type`)) === null;
  const pids = isTop ? [] : ((await readOrNull(`${directory}/cgroup.procs`)) ?? '').split('\n').filter(Boolean);
  try {
    if (pids.length > 0) {
      if (directory !== plan.ownDirectory) {
        return `the controller ${controller} can't be enabled in ${file}: processes (${pids.slice(0, 5).join(', ')}) are in that group itself`;
      }
      const leaf = `${directory}/daemon`;
      await makeDirectory(leaf);
      for (const pid of pids) {
        await writeKernelFile(`${leaf}/cgroup.procs`, pid).catch((error: unknown) => {
          if (codeOf(error) !== 'ESRCH') throw error;
        });
      }
    }
    await writeKernelFile(file, `+${controller}`);
    return null;
  } catch (error) {
    return `the controller ${controller} can't be enabled in ${file}: ${(error as Error).message}`;
  }
}
