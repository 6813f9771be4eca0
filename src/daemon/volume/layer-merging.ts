// Making one of two layers where nobody needs the lower one by itself: by the hypervisor while a guest runs on them, by
// qemu-img otherwise. It goes on in the background, makes way for whatever else is to be done with the same layers, and
// begins again; a task may wait for it.
//
// Invariants:
// - At every moment, each layer reads as it always did by what the record says: the lower file may hold a part of the
//   upper layer already, which nobody sees below it.
// - The guest's switch to the lower file is written down while its writes wait: whoever dies then, the record names the
//   file that the guest's next writes go to.
import { type DiskLayer } from '../../drivers/driver.ts';
import { LodgeError } from '../../api/errors.ts';
import { type Log } from '../store/informer.ts';
import { choresOf, lineOf, volumesOn, type Layer, type LayerHolder } from './layer.ts';
import { type LayerFiles } from './layer-files.ts';
import { type LayerRecords } from './layer-records.ts';
import { type VolumeLayers, type LayerUse } from './volume-layers.ts';

export interface LayerMergingParts {
  store: VolumeLayers;
  records: LayerRecords;
  files: LayerFiles;
  useOf: (volumeId: string) => LayerUse;
  log: Log;
  /** How long after a failure, or after making way, it is tried again. Milliseconds. */
  retryMs?: number;
}

/** What is told of a merge under way. */
export type MergeProgress = (bytesDone: number, bytesTotal: number) => void;

interface LiveUse {
  volumeId: string;
  use: Extract<LayerUse, { state: 'on' }>;
}

const defaultRetryMs = 30_000;

export class LayerMerging {
  readonly #parts: LayerMergingParts;
  readonly #planned = new Map<string, NodeJS.Timeout>();
  readonly #running = new Set<Promise<unknown>>();
  readonly #closing = new AbortController();

  constructor(parts: LayerMergingParts) {
    this.#parts = parts;
    parts.store.onChores((treeId) => this.plan(treeId));
  }

  /** Merges soon what can be merged in a tree. */
  plan(treeId: string, afterMs = 0): void {
    if (this.#closing.signal.aborted) return;
    clearTimeout(this.#planned.get(treeId));
    const timer = setTimeout(() => {
      this.#planned.delete(treeId);
      const work = this.run(treeId, { signal: this.#closing.signal }).catch((error: unknown) => {
        if (this.#closing.signal.aborted) return;
        this.#parts.log.warn({ err: error, treeId }, 'layers of a disk could not be merged; it is tried again');
        this.retry(treeId);
      });
      this.#running.add(work);
      void work.finally(() => this.#running.delete(work));
    }, afterMs);
    timer.unref();
    this.#planned.set(treeId, timer);
  }

  /** Tries again later what has failed now. */
  retry(treeId: string): void {
    this.plan(treeId, this.#parts.retryMs ?? defaultRetryMs);
  }

  /** The same in all trees: what could not be merged before may be possible now, when a guest has ended. */
  planAll(): void {
    const { records } = this.#parts;
    for (const treeId of new Set(choresOf(records).map(({ layer }) => layer.treeId))) this.plan(treeId);
  }

  /**
   * Merges what can be merged in a tree, now. Answers whether nothing is left to do; it isn't where several guests have
   * the layers open, or it had to make way: then it is done later by itself. Rejects when a merge fails.
   */
  async run(
    treeId: string,
    {
      signal,
      onProgress = () => {},
      givenUp = [],
    }: {
      signal: AbortSignal;
      onProgress?: MergeProgress;
      /** Holders that need nothing any more, and hold layers only until these are merged. */
      givenUp?: readonly LayerHolder[];
    },
  ): Promise<boolean> {
    const { store, records } = this.#parts;
    return store.whenIdle(treeId, async (mustYield) => {
      const tried = new Set<string>();
      for (;;) {
        signal.throwIfAborted();
        const chores = choresOf(records, treeId, givenUp);
        const next = chores.find(({ kind, layer }) => kind === 'merge' && !tried.has(layer.id));
        if (next?.kind !== 'merge') return chores.length === 0;
        tried.add(next.layer.id);
        try {
          mustYield.throwIfAborted();
          await this.#merge(next.layer, next.child, { signal: AbortSignal.any([signal, mustYield]), onProgress });
        } catch (error) {
          if (!mustYield.aborted || signal.aborted) throw error;
          this.retry(treeId);
          return false;
        }
      }
    });
  }

  /** Ends what is under way; layers stay as they are. */
  async close(): Promise<void> {
    this.#closing.abort();
    for (const timer of this.#planned.values()) clearTimeout(timer);
    await Promise.all(this.#running);
  }

  async #merge(lower: Layer, upper: Layer, options: { signal: AbortSignal; onProgress: MergeProgress }): Promise<void> {
    const live = await this.#liveUses(lower, upper);
    if (live === 'unknown' || live.length > 1) return;
    const [only] = live;
    if (only) await this.#mergeLive(lower, upper, only, options);
    else await this.#mergeAtRest(lower, upper, options);
  }

  /** The guests that have one of two layers open; `unknown` when that can't be told. */
  async #liveUses(...layers: [lower: Layer, upper: Layer]): Promise<LiveUse[] | 'unknown'> {
    const { records, files, useOf } = this.#parts;
    const live: LiveUse[] = [];
    for (const volumeId of volumesOn(records, layers[1])) {
      const use = useOf(volumeId);
      if (use.state === 'unknown') return 'unknown';
      if (use.state === 'off') continue;
      const open = (await use.snapshots.layers()).get(use.disk);
      if (layers.some((layer) => open?.includes(files.place(layer).path))) live.push({ volumeId, use });
    }
    return live;
  }

  async #mergeLive(
    lower: Layer,
    upper: Layer,
    { volumeId, use }: LiveUse,
    options: { signal: AbortSignal; onProgress: MergeProgress },
  ): Promise<void> {
    const { records, files, store } = this.#parts;
    const top = records.topOf(volumeId);
    const line = top ? lineOf(records, top) : [];
    const above = line[line.findIndex(({ id }) => id === upper.id) - 1];
    // One that ended while nobody was looking, as its daemon had died, is only to be written down.
    const open = (await use.snapshots.layers()).get(use.disk) ?? [];
    const [hasLower, hasUpper] = [lower, upper].map((layer) => open.includes(files.place(layer).path));
    const isDone = hasLower !== hasUpper;
    const into = isDone ? (hasLower ? 'lower' : 'upper') : await this.#larger(lower, upper);
    const merged = mergedLayer(lower, upper, into);
    let isSwitched = false;
    const write = (): Promise<void> => records.write({ put: [merged], remove: [lower.id] });
    try {
      if (!isDone)
        await use.snapshots.merge(
          {
            disk: use.disk,
            upper: files.place(upper),
            lower: files.place(lower),
            below: store.filesOf(lower)[1] ?? null,
            above: above ? files.place(above) : null,
            into,
          },
          {
            ...options,
            onSwitch: async () => {
              isSwitched = true;
              await write();
            },
          },
        );
    } catch (error) {
      if (isSwitched) await this.#settleSwitch(lower, upper, use);
      throw error;
    }
    if (!isSwitched) await write();
    await this.#afterMerge(merged, into === 'lower' ? upper : lower, above);
  }

  /** Whether a switch that was written down has happened can be seen; a guest that has ended meanwhile has made it. */
  async #settleSwitch(lower: Layer, upper: Layer, use: LiveUse['use']): Promise<void> {
    const { records, files } = this.#parts;
    const open = await use.snapshots.layers().then(
      (layers) => layers.get(use.disk),
      () => undefined,
    );
    if (open?.[0] === files.place(upper).path) await records.write({ put: [upper, lower] });
  }

  async #mergeAtRest(
    lower: Layer,
    upper: Layer,
    { signal, onProgress }: { signal: AbortSignal; onProgress: MergeProgress },
  ): Promise<void> {
    const { records, files, store } = this.#parts;
    const total = (await files.allocatedBytes(upper)) ?? 0;
    await files.commit(store.filesOf(upper), {
      signal,
      onProgress: (percent) => onProgress(Math.round((total * percent) / 100), total),
    });
    const merged = mergedLayer(lower, upper, 'lower');
    await records.write({ put: [merged], remove: [lower.id] });
    await this.#afterMerge(merged, upper, undefined);
  }

  /** Puts right what other files say of themselves, and removes the file that is not needed any more. */
  async #afterMerge(merged: Layer, gone: Layer, above: Layer | undefined): Promise<void> {
    const { records, files, log } = this.#parts;
    const backing: DiskLayer = files.place(merged);
    for (const child of records.childrenOf(merged.id)) {
      if (child.id === above?.id || child.format !== 'qcow2' || gone.file === merged.file) continue;
      // Lodge doesn't go by it.
      await files
        .relabel(child, backing)
        .catch((error: unknown) => log.warn({ err: error, file: child.file }, 'a layer names the wrong file below it'));
    }
    await files.remove(gone);
  }

  async #larger(lower: Layer, upper: Layer): Promise<'upper' | 'lower'> {
    const [below, above] = await Promise.all([lower, upper].map((layer) => this.#parts.files.allocatedBytes(layer)));
    if (below === null || above === null || below === undefined || above === undefined)
      throw new LodgeError('host_failed', `A file of the layers ${lower.file} and ${upper.file} is missing.`);
    // A raw layer takes no metadata to grow by; what is copied out of it would be the whole disk.
    return lower.format === 'raw' || below >= above ? 'lower' : 'upper';
  }
}

/** The one layer that is left of two: the upper one, whose content it is, in the file that holds both. */
function mergedLayer(lower: Layer, upper: Layer, into: 'upper' | 'lower'): Layer {
  const { file, format } = into === 'lower' ? lower : upper;
  return { ...upper, file, format, parentId: lower.parentId, imageId: lower.imageId };
}
