// Settings of the machine that Lodge changes for its VMs: pools of huge pages, and KSM. What each was before is kept in
// the node's status before it is changed, and put back when nothing needs the change any more.
//
//   as found ──need──▶ noted in status.hostSettings ──▶ changed ──no need──▶ put back ──▶ forgotten
//
// A restarted machine has its own settings again: what was noted before is forgotten then.
import { type Node } from '../../api/node.ts';
import { type HostSetting } from '../../api/vm-memory.ts';
import {
  HugePageError,
  hugePageFile,
  hugePagePlace,
  readHugePagePool,
  requireFreeHugePages,
  shrinkHugePages,
  type HugePagePlace,
} from '../../host/huge-pages.ts';
import { type PlacementProblem } from './cpu-placement.ts';
import { kernelFiles, KsmTuning } from './ksm-tuning.ts';
import { readMemoryLoad } from './memory-load.ts';

const mib = 2 ** 20;
const pageBytesOf = { '2MiB': 2 * mib, '1GiB': 1024 * mib } as const;
export type PageSize = keyof typeof pageBytesOf;

export interface HostSettingsParts {
  /** Noted in the node's status. */
  /** Guests are real: the machine is only changed for those. */
  hasRealGuests: () => boolean;
  read: () => readonly HostSetting[];
  write: (settings: HostSetting[]) => Promise<void>;
}

export class HostSettings {
  readonly #parts: HostSettingsParts;
  readonly #ksm: KsmTuning;

  constructor(parts: HostSettingsParts) {
    this.#parts = parts;
    const { read, write } = parts;
    this.#ksm = new KsmTuning({
      read,
      write,
      load: readMemoryLoad,
      nowMs: () => performance.now(),
      kernel: kernelFiles,
    });
  }

  /**
   * Sees to it that there are enough free huge pages for a VM. What stands against it; null: they are there. `nodes`:
   * NUMA nodes that its memory may come from, the best first.
   */
  async provideHugePages(
    pageSize: PageSize,
    { memoryMib, promisedMib }: { memoryMib: number; promisedMib: number },
    nodes: readonly number[],
    isNuma: boolean,
  ): Promise<PlacementProblem | null> {
    const pageBytes = pageBytesOf[pageSize];
    const field = 'spec.memoryBacking.pageSize';
    const problem = (message: string, hint: string, isLasting = false): PlacementProblem => ({
      field,
      value: pageSize,
      message,
      hint,
      isLasting,
    });
    if ((memoryMib * mib) % pageBytes !== 0)
      return problem(
        `${memoryMib} MiB are no whole number of pages of ${pageSize}`,
        `Give it a multiple of ${pageBytes / mib} MiB, or pages of 2MiB.`,
        true,
      );
    if (!this.#parts.hasRealGuests()) return null;
    const count = (memoryMib * mib) / pageBytes;
    const places = nodes.map((node) => hugePagePlace(pageBytes, node, isNuma));
    if (places.every((place) => readHugePagePool(place) === null))
      return problem(
        `this machine has no huge pages of ${pageSize}`,
        'Take another size; lodge node topology shows those that there are.',
        true,
      );
    const failures: HugePageError[] = [];
    for (const place of places) {
      try {
        await this.#note(place);
        requireFreeHugePages(place, count + Math.ceil((promisedMib * mib) / pageBytes));
        await this.#noteCurrent();
        return null;
      } catch (error) {
        if (!(error instanceof HugePageError)) throw error;
        failures.push(error);
      }
    }
    await this.release();
    const [first] = failures;
    if (first?.reason === 'permission') return problem(first.message, 'Run the daemon as root, with /sys writable.');
    const most = Math.max(...failures.map(({ free }) => free));
    return problem(
      `it needs ${count} pages of ${pageSize}, and ${most} can be had${nodes.length > 0 && isNuma ? ` on a NUMA node of ${nodes.join(', ')}` : ''}: there is too little free memory in one piece`,
      pageSize === '1GiB'
        ? 'Reserve them when the machine starts (hugepagesz=1G hugepages=N on the kernel’s command line), or take 2MiB.'
        : 'Stop other VMs, free memory (echo 1 > /proc/sys/vm/compact_memory), or give it less memory.',
    );
  }

  /** Gives back what no VM uses any more of the pools that were made larger. */
  async release(): Promise<void> {
    const left: HostSetting[] = [];
    for (const setting of this.#parts.read()) {
      const place = placeOf(setting.path);
      if (!place) {
        left.push(setting);
        continue;
      }
      const total = shrinkHugePages(place, Number(setting.original));
      if (total > Number(setting.original)) left.push({ ...setting, current: String(total) });
    }
    await this.#parts.write(left);
  }

  /** Makes KSM as the node's spec says, or puts back what was there before. */
  async applyKsm(spec: Node['spec']['ksm']): Promise<void> {
    if (this.#parts.hasRealGuests()) await this.#ksm.apply(spec);
  }

  /** Whether KSM is to be tuned by load again. */
  isKsmDue(spec: Node['spec']['ksm']): boolean {
    return spec === 'auto' && this.#parts.hasRealGuests() && this.#ksm.isStepDue();
  }

  /** Notes what a pool holds, once. */
  async #note(place: HugePagePlace): Promise<void> {
    const path = hugePageFile(place);
    const noted = this.#parts.read();
    if (noted.some((setting) => setting.path === path)) return;
    const original = String(readHugePagePool(place)?.total ?? 0);
    await this.#parts.write([
      ...noted,
      { path, original, current: original, reason: 'Huge pages were reserved for VMs.' },
    ]);
  }

  async #noteCurrent(): Promise<void> {
    const settings = this.#parts.read().map((setting) => {
      const place = placeOf(setting.path);
      const total = place && readHugePagePool(place)?.total;
      return total === null || total === undefined ? setting : { ...setting, current: String(total) };
    });
    await this.#parts.write(settings.filter(({ path, original, current }) => !placeOf(path) || original !== current));
  }
}

function placeOf(path: string): HugePagePlace | null {
  const match = /^(.*\/hugepages-(\d+)kB)\/nr_hugepages$/.exec(path);
  return match ? { folder: match[1]!, pageBytes: Number(match[2]) * 1024 } : null;
}
