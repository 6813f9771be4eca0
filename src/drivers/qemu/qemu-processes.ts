// The QEMU processes of one installation of Lodge: the mark in their environment by which they are found again, and the
// control groups that they run in.
import { findProcesses, isAlive, terminateProcess, type ProcessIdentity } from '../../host/process.ts';
import { CgroupError, type CgroupGroup } from '../../host/cgroup-group.ts';
import { openCgroupTree, type CgroupTree } from '../../host/cgroup.ts';

export interface QemuProcessesOptions {
  /** Name of this installation of Lodge; marks its processes and groups. */
  instance: string;
  /** Where its control groups are made; see CgroupTreeOptions. */
  cgroupRoot?: 'auto' | `/${string}`;
}

/** Environment variable that marks a QEMU process as a guest of Lodge: `instance/id`. */
const markVariable = 'LODGE_VM';

/** What is found by one search of /proc is good for so long, where many guests are adopted at once. */
const freshMs = 1000;

export class QemuProcesses {
  readonly #options: QemuProcessesOptions;
  #cgroups: Promise<CgroupTree> | null = null;
  #recent: { atMs: number; processes: Promise<Map<string, ProcessIdentity>> } | null = null;

  constructor(options: QemuProcessesOptions) {
    this.#options = options;
  }

  /** What a process of this VM bears. */
  mark(id: string): string {
    return `${this.#options.instance}/${id}`;
  }

  /** The environment that marks a process of this VM. */
  environment(id: string): Record<string, string> {
    return { [markVariable]: this.mark(id) };
  }

  /** The ids of the VMs that a process runs for. */
  async discover(): Promise<ReadonlySet<string>> {
    this.#recent = { atMs: performance.now(), processes: this.#find() };
    return new Set((await this.#recent.processes).keys());
  }

  /** The process of a VM; null: there is none. The last search of all processes counts for a moment. */
  async known(id: string): Promise<ProcessIdentity | null> {
    if (!this.#recent || performance.now() - this.#recent.atMs > freshMs) await this.discover();
    const known = (await this.#recent!.processes).get(id) ?? (await this.#find()).get(id);
    return known && isAlive(known) ? known : null;
  }

  /** Ends the process that a VM is found to have, if it has one. */
  async end(id: string): Promise<void> {
    const identity = (await this.#find()).get(id);
    if (identity) await terminateProcess(identity, { termTimeoutMs: 2000 });
  }

  /** The group of a VM, whether it exists or not. */
  async group(id: string): Promise<CgroupGroup> {
    return (await this.#getCgroups()).group(id);
  }

  /** A group of its own, without what an earlier process of the VM has counted in it. */
  async makeGroup(id: string): Promise<CgroupGroup> {
    const cgroups = await this.#getCgroups();
    const stale = cgroups.group(id);
    if (await stale.exists()) await stale.remove();
    return (await cgroups.createGroup(id)).group;
  }

  async removeGroup(id: string): Promise<void> {
    await (await this.group(id)).remove().catch((error: unknown) => {
      if (!(error instanceof CgroupError)) throw error;
    });
  }

  /** Leaves no group without a process behind. */
  async close(): Promise<void> {
    const tree = await this.#cgroups?.catch(() => null);
    await tree?.removeRootIfEmpty();
  }

  #getCgroups(): Promise<CgroupTree> {
    const { cgroupRoot: root = 'auto', instance: name } = this.#options;
    this.#cgroups ??= openCgroupTree({ root, name });
    return this.#cgroups;
  }

  async #find(): Promise<Map<string, ProcessIdentity>> {
    const prefix = this.mark('');
    const found = await findProcesses({ environmentVariable: markVariable });
    return new Map(
      found
        .filter(({ mark }) => mark?.startsWith(prefix))
        .map(({ identity, mark }) => [mark!.slice(prefix.length), identity]),
    );
  }
}
