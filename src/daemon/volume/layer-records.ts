// Layers, and changes of them that are under way, in the store and in memory in step with it.
//
//   /lodge/layers/ID          a layer
//   /lodge/layer-changes/KEY  fresh tops that are being put on volumes: written before their files are made, and taken
//                             away in the transaction that makes them tops, or when they are given up
import { Informer, type InformerTarget, type Log } from '../store/informer.ts';
import { type KeyValue, type Operation, type Store, type WatchBatch } from '../store/store.ts';
import { type Layer, type LayerForest, type LayerHolder } from './layer.ts';

/** Fresh tops that are on their way. */
export interface LayerChange {
  key: string;
  /** Each with the volume it is for and the parent that is its top until then. */
  fresh: Layer[];
  /** Who needs the layers below them as they are. */
  holder?: LayerHolder;
}

const layerPrefix = '/lodge/layers/';
const changePrefix = '/lodge/layer-changes/';

interface Item {
  key: string;
  value: Layer | LayerChange;
}

export class LayerRecords implements LayerForest, InformerTarget<Item> {
  readonly #store: Store;
  readonly #informer: Informer<Item>;
  readonly #layers = new Map<string, Layer>();
  readonly #children = new Map<string, Layer[]>();
  readonly #tops = new Map<string, Layer>();
  readonly #changes = new Map<string, LayerChange>();

  constructor(store: Store, log: Log) {
    this.#store = store;
    this.#informer = new Informer(store, '/lodge/layer', this, log);
  }

  async load(): Promise<void> {
    await this.#informer.start();
  }

  async close(): Promise<void> {
    await this.#informer.stop();
  }

  get(id: string): Layer | null {
    return this.#layers.get(id) ?? null;
  }

  childrenOf(id: string): readonly Layer[] {
    return this.#children.get(id) ?? [];
  }

  all(): IterableIterator<Layer> {
    return this.#layers.values();
  }

  /** The top of a volume, where it is recorded; null: the volume has the one layer it was made with. */
  topOf(volumeId: string): Layer | null {
    return this.#tops.get(volumeId) ?? null;
  }

  change(key: string): LayerChange | null {
    return this.#changes.get(key) ?? null;
  }

  changes(): IterableIterator<LayerChange> {
    return this.#changes.values();
  }

  /** Writes all of it or nothing; resolves when it is durable and this shows it. */
  async write(change: {
    put?: readonly Layer[];
    remove?: readonly string[];
    begin?: LayerChange;
    end?: string;
  }): Promise<void> {
    const success: Operation[] = [
      ...(change.put ?? []).map((layer) => ({ put: layerPrefix + layer.id, value: JSON.stringify(layer) })),
      ...(change.remove ?? []).map((id) => ({ delete: layerPrefix + id })),
      ...(change.begin ? [{ put: changePrefix + change.begin.key, value: JSON.stringify(change.begin) }] : []),
      ...(change.end === undefined ? [] : [{ delete: changePrefix + change.end }]),
    ];
    const { revision } = await this.#store.transact({ success });
    await this.#informer.reached(revision);
  }

  decode({ key, value }: KeyValue): Item {
    return { key, value: JSON.parse(value) as Layer | LayerChange };
  }

  reset(items: readonly Item[]): void {
    for (const map of [this.#layers, this.#children, this.#tops, this.#changes]) map.clear();
    for (const item of items) this.#put(item);
  }

  apply(batch: WatchBatch): void {
    // What goes before what comes: a volume's new top takes the place of the old one, in whatever order they are written.
    for (const event of batch.events) {
      const key = event.type === 'put' ? event.current.key : event.key;
      if (key.startsWith(layerPrefix)) this.#forget(key.slice(layerPrefix.length));
      else this.#changes.delete(key.slice(changePrefix.length));
    }
    for (const event of batch.events) if (event.type === 'put') this.#put(this.decode(event.current));
  }

  #put({ key, value }: Item): void {
    if (!key.startsWith(layerPrefix)) {
      this.#changes.set(key.slice(changePrefix.length), value as LayerChange);
      return;
    }
    const layer = value as Layer;
    this.#layers.set(layer.id, layer);
    if (layer.volumeId !== null) this.#tops.set(layer.volumeId, layer);
    if (layer.parentId !== null)
      this.#children.set(layer.parentId, [...(this.#children.get(layer.parentId) ?? []), layer]);
  }

  #forget(id: string): void {
    const layer = this.#layers.get(id);
    if (!layer) return;
    this.#layers.delete(id);
    if (layer.volumeId !== null && this.#tops.get(layer.volumeId)?.id === id) this.#tops.delete(layer.volumeId);
    if (layer.parentId === null) return;
    const siblings = (this.#children.get(layer.parentId) ?? []).filter((other) => other.id !== id);
    if (siblings.length > 0) this.#children.set(layer.parentId, siblings);
    else this.#children.delete(layer.parentId);
  }
}
