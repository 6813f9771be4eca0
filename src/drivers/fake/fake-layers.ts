// The layers of a guest of the fake driver: which are open stands in the guest's file; merging two is done by qemu-img,
// since no other program has them open.
import { copyFile, rename, writeFile } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import { LodgeError } from '../../api/errors.ts';
import { commitLayer, relabelLayer } from '../../host/image/layer.ts';
import {
  type CaptureOptions,
  type DiskLayer,
  type FreshLayer,
  type GuestSnapshots,
  type LayerMerge,
  type LayerMergeOptions,
  type MemoryCapture,
} from '../driver.ts';

export interface FakeLayersParts {
  name: string;
  /** Files of each disk, top first. Throws where the guest exists no more. */
  read: () => Promise<Record<string, string[]>>;
  write: (disks: Record<string, string[]>) => Promise<void>;
  /** Whether merges take long now. */
  holdsMerges: () => Promise<boolean>;
}

const lookAgainMs = 20;

export class FakeLayers implements GuestSnapshots {
  readonly #parts: FakeLayersParts;

  constructor(parts: FakeLayersParts) {
    this.#parts = parts;
  }

  async layers(): Promise<ReadonlyMap<string, readonly string[]>> {
    return new Map(Object.entries(await this.#parts.read()));
  }

  async open(fresh: readonly FreshLayer[]): Promise<void> {
    const disks = await this.#parts.read();
    for (const { disk } of fresh) this.#chain(disks, disk);
  }

  async freeze(fresh: readonly FreshLayer[]): Promise<void> {
    const disks = await this.#parts.read();
    for (const { disk, layer } of fresh) disks[disk] = [layer.path, ...this.#chain(disks, disk)];
    await this.#parts.write(disks);
  }

  async merge(merge: LayerMerge, { signal, onProgress, onSwitch }: LayerMergeOptions = {}): Promise<void> {
    const { disk, upper, lower, below, above, into } = merge;
    const chain = this.#chain(await this.#parts.read(), disk);
    const at = chain.indexOf(upper.path);
    if (at < 0 || chain[at + 1] !== lower.path)
      throw new LodgeError('internal', `Disk ${disk} of VM ${this.#parts.name} has no such layers to merge.`);
    do {
      if (signal?.aborted) throw new LodgeError('cancelled', `Merging layers of VM ${this.#parts.name} was cancelled.`);
    } while ((await this.#parts.holdsMerges()) && (await delay(lookAgainMs, true)));
    const rest: DiskLayer[] = chain.slice(at + 2).map((path) => ({ path, format: formatOf(path) }));
    await commitLayer([upper, lower, ...rest], { ...(signal ? { signal } : {}) });
    onProgress?.(1, 1);
    if (into === 'lower' && at === 0) await onSwitch?.();
    if (into === 'upper') {
      // The lower file stays until whoever keeps the record removes it.
      await copyFile(lower.path, `${upper.path}.new`);
      await rename(`${upper.path}.new`, upper.path);
      await relabelLayer(upper.path, below);
    } else if (above) await relabelLayer(above.path, lower);
    const disks = await this.#parts.read();
    await this.#parts.write({
      ...disks,
      [disk]: chain.filter((path) => path !== (into === 'lower' ? upper : lower).path),
    });
  }

  async settle(layers: ReadonlyMap<string, readonly string[]>): Promise<void> {
    const disks = await this.#parts.read();
    // A merge that was cut off between what its record says and the guest's file has done its work.
    for (const [disk, chain] of layers) if (disks[disk]) disks[disk] = [...chain];
    await this.#parts.write(disks);
  }

  async capture(
    fresh: readonly FreshLayer[],
    { path, signal, onProgress, onStopped }: CaptureOptions,
  ): Promise<MemoryCapture> {
    if (signal?.aborted) throw new LodgeError('cancelled', `Saving VM ${this.#parts.name} was cancelled; it runs on.`);
    await this.freeze(fresh);
    await onStopped?.();
    await writeFile(path, 'memory');
    return {
      isLive: true,
      reason: 'The fake driver has no memory to save.',
      pauseMs: 0,
      finish: async () => {
        onProgress?.(6, 6);
        return 6;
      },
    };
  }

  #chain(disks: Record<string, string[]>, disk: string): string[] {
    const chain = disks[disk];
    if (chain) return chain;
    throw new LodgeError('wrong_state', `VM ${this.#parts.name} runs without the disk ${disk}.`);
  }
}

function formatOf(path: string): DiskLayer['format'] {
  return path.endsWith('.raw') ? 'raw' : 'qcow2';
}
