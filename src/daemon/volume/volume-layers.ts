// Layers of volumes with what refers to them: freezing them, making copies of them, and giving them up.
//
//   freeze      the top of each volume becomes immutable, and a fresh, empty layer goes on it; in one step for all disks
//               of a VM, whether it runs or not. A snapshot is a freeze whose frozen layers are held.
//   addTop      a new volume on a frozen layer: a linked clone, or the disk of a fork
//   replaceTops volumes go on from frozen layers, and what they have written since is given up: a revert
//   hold        somebody needs layers as they are; release gives them up
//
// A layer that nobody holds and that nothing is based on is removed at once; one with a single layer on it is merged with
// that by layer-merging.ts; one with several stays, unseen, until they go.
//
// Invariants:
// - The record says what is true whenever nothing is under way: it is written in one transaction, after the hypervisor
//   and the disk have done their part. What is under way stands in a change, which is written before anything is done.
// - After a crash the truth is what the hypervisor has open; where there is none any more, a fresh layer that holds
//   something was in use, and one that is empty makes no difference.
// - Changes of one tree go one after the other. A merge in that tree makes way for all others, and begins again later.
// - A volume without a record has the one layer it was made with: those of before there were layers, and every volume of
//   which no snapshot was ever made.
import { uuidv7 } from 'uuidv7';
import { LodgeError } from '../../api/errors.ts';
import { type Volume } from '../../api/volume.ts';
import { type DiskLayer, type FreshLayer, type GuestSnapshots } from '../../drivers/driver.ts';
import { SerialQueues } from '../../lib/serial-queues.ts';
import { type Log } from '../store/informer.ts';
import { choresOf, lineOf, type Layer, type LayerHolder } from './layer.ts';
import { type LayerFiles } from './layer-files.ts';
import { type LayerChange, type LayerRecords } from './layer-records.ts';

/** Where a volume's layers are open. `unknown`: its VM is up, but its hypervisor does not answer now. */
export type LayerUse =
  | { state: 'off' }
  | {
      state: 'on';
      disk: string;
      snapshots: GuestSnapshots;
      /** Makes the disk larger for the guest, which sees it at once. MiB. */
      grow: (sizeMib: number) => Promise<void>;
    }
  | { state: 'unknown'; vm: string };

export interface VolumeLayersParts {
  records: LayerRecords;
  files: LayerFiles;
  /** The file of an image that volumes are based on. */
  imageLayer: (imageId: string) => DiskLayer;
  useOf: (volumeId: string) => LayerUse;
  volume: (volumeId: string) => Volume | null;
  log: Log;
}

/** Layers that one disk may have: each costs memory and time at every read of what it doesn't hold. */
export const maxDepth = 64;
/** Two operations a disk, and the change itself: a transaction of the store takes 128. */
const disksATransaction = 60;

/** A disk that is to be frozen. `disk`: its name in the guest. */
export interface FreezeTarget {
  volume: Volume;
  disk: string;
}

export interface Freeze {
  /** Names this freeze: asked for again under the same key, it answers with what it did then. A task gives its own id. */
  key: string;
  targets: readonly FreezeTarget[];
  /**
   * Makes a guest that exists go on with the fresh layers, in one step: `snapshots.freeze`, or what does that among
   * other things. Null: the disks are not in use.
   */
  onSwitch: ((fresh: FreshLayer[]) => Promise<void>) | null;
  /** Holds what is frozen from the first moment on. */
  holder?: LayerHolder;
  /** Takes what was frozen last where nothing was written since, so that no layer is made. */
  isReused?: boolean;
}

export class VolumeLayers {
  readonly #parts: VolumeLayersParts;
  readonly #trees = new SerialQueues();
  /** Work in trees that makes way for whatever else is to be done there. */
  readonly #yielding = new Map<string, AbortController>();
  /** How many wait for each tree. */
  readonly #waiting = new Map<string, number>();
  /** Told when there may be something to merge. */
  #onChores: (treeId: string) => void = () => {};

  constructor(parts: VolumeLayersParts) {
    this.#parts = parts;
  }

  onChores(listener: (treeId: string) => void): void {
    this.#onChores = listener;
  }

  /** A layer by its id; null: there is none. */
  get(id: string): Layer | null {
    return this.#parts.records.get(id);
  }

  /** The layer that a volume is written to. */
  topOf(volume: Volume): Layer {
    return this.#parts.records.topOf(volume.id) ?? firstLayer(volume);
  }

  /** The layers of a volume, top first, without its image. */
  lineOf(volume: Volume): Layer[] {
    return lineOf(this.#parts.records, this.topOf(volume));
  }

  /** How many layers a layer is made of, itself included. */
  depthOf(layer: Layer): number {
    return lineOf(this.#parts.records, layer).length;
  }

  /** Refuses fresh layers where the guest could soon write no more. Throws `storage_full`. */
  requireSpace(): Promise<void> {
    return this.#parts.files.requireSpace();
  }

  /** Whether a freeze under this key has begun, whatever became of it. */
  hasBegun(key: string): boolean {
    const { records } = this.#parts;
    if (records.change(key)) return true;
    for (const layer of records.all()) if (layer.madeBy === key) return true;
    return false;
  }

  /** The files of a layer and what it is based on, its image included, itself first. */
  filesOf(layer: Layer): DiskLayer[] {
    const { records, files, imageLayer } = this.#parts;
    const line = lineOf(records, layer);
    const imageId = line.at(-1)?.imageId ?? null;
    return [...line.map((one) => files.place(one)), ...(imageId === null ? [] : [imageLayer(imageId)])];
  }

  /** The image at the bottom of a layer. */
  imageIdOf(layer: Layer): string | null {
    return lineOf(this.#parts.records, layer).at(-1)?.imageId ?? null;
  }

  /** Whether a layer that no volume has any more still reads from an image. */
  usesImage(imageId: string): boolean {
    for (const layer of this.#parts.records.all()) if (layer.imageId === imageId) return true;
    return false;
  }

  /** Makes a volume larger where it is: by its guest, which has it open, or else its file. Can be repeated. */
  async grow(volume: Volume, sizeMib: number, growFile: (top: DiskLayer) => Promise<void>): Promise<void> {
    await this.within([this.topOf(volume).treeId], async () => {
      const use = this.#parts.useOf(volume.id);
      if (use.state === 'unknown')
        throw new LodgeError('busy', `VM ${use.vm}, which uses volume ${volume.name}, does not answer now.`, {
          hint: 'Try again when Lodge has reached its hypervisor (lodge vm show), or stop it.',
        });
      if (use.state === 'on') await use.grow(sizeMib);
      else await growFile(this.#parts.files.place(this.topOf(volume)));
    });
  }

  /** How large a layer is, for the guest and on disk. */
  async measure(layer: Layer): Promise<{ virtualSizeMib: number; allocatedBytes: number | null }> {
    const { files } = this.#parts;
    return { virtualSizeMib: await files.sizeMib(layer), allocatedBytes: await files.allocatedBytes(layer) };
  }

  /** Space on disk that a layer takes, bytes. */
  async sizeOf(layer: Layer): Promise<number> {
    return (await this.#parts.files.allocatedBytes(layer)) ?? 0;
  }

  /** Whether anything of a tree is written in this file, or will be. */
  isKnownFile(file: string): boolean {
    const { records } = this.#parts;
    for (const layer of records.all()) if (layer.file === file) return true;
    for (const { fresh } of records.changes()) if (fresh.some((layer) => layer.file === file)) return true;
    return false;
  }

  /**
   * What a guest that is about to start is given for a volume, top first. Nothing is merged in these layers until then,
   * as the VM counts as up from before this call.
   */
  async forStart(volume: Volume): Promise<DiskLayer[]> {
    return this.within([this.topOf(volume).treeId], async () => {
      for (const change of this.#parts.records.changes())
        if (change.fresh.some(({ volumeId }) => volumeId === volume.id)) await this.#settleAtRest(change);
      return this.filesOf(this.topOf(volume));
    });
  }

  /** Makes the tops of volumes immutable and goes on with fresh ones. Answers with the frozen layers by volume id. */
  async freeze({ key, targets, onSwitch, holder, isReused = false }: Freeze): Promise<ReadonlyMap<string, Layer>> {
    const { records, files } = this.#parts;
    const trees = targets.map(({ volume }) => this.topOf(volume).treeId);
    return this.within(trees, async () => {
      // An earlier run may have come to any point.
      const begun = records.change(key);
      if (begun) await this.#settle(begun);
      const before = this.#frozenBy(key, targets);
      if (before) return before;
      const same = isReused ? await this.#untouched(targets) : null;
      if (same) {
        if (holder) await records.write({ put: [...same.values()].map((layer) => withHolder(layer, holder)) });
        return same;
      }

      const tops = targets.map(({ volume }) => this.topOf(volume));
      for (const [index, { volume, disk }] of targets.entries()) requireRoom(this.lineOf(volume), disk, tops[index]!);
      if (targets.length > 0) await files.requireSpace();
      const fresh = targets.map(({ volume }, index) => freshLayer(volume.id, tops[index]!, key));
      await records.write({ begin: { key, fresh, ...(holder ? { holder } : {}) } });
      try {
        await Promise.all(fresh.map((layer, index) => files.makeOn(layer, tops[index]!)));
        const named = fresh.map((layer, index) => ({ disk: targets[index]!.disk, layer: files.place(layer) }));
        await onSwitch?.(named);
      } catch (error) {
        const change = records.change(key);
        // The answer may have been lost on its way: what counts is what the guest writes to now.
        const isDone = change !== null && (await this.#settle(change).catch(() => false));
        if (!isDone) throw error;
        return this.#frozenBy(key, targets) ?? new Map<string, Layer>();
      }
      await this.#commit({ key, fresh, ...(holder ? { holder } : {}) });
      return this.#frozenBy(key, targets) ?? new Map<string, Layer>();
    });
  }

  /** Makes a volume that has no file yet a copy of a frozen layer, which holds only what will be written to it. Can be repeated. */
  async addTop(volume: Pick<Volume, 'id'>, parentId: string, sizeMib?: number): Promise<Layer> {
    const { records, files } = this.#parts;
    const parent = this.#requireFrozen(parentId);
    return this.within([parent.treeId], async () => {
      const known = records.topOf(volume.id);
      const now = this.#requireFrozen(parentId);
      if (!known) requireRoom(lineOf(records, now), 'of the copy', now);
      const layer = known ?? freshLayer(volume.id, now, null);
      if (!known) await records.write({ put: [layer] });
      await files.makeOn(layer, now, sizeMib);
      return layer;
    });
  }

  /** Copies what a frozen layer reads as to a disk that stands alone. It is to be held meanwhile. Can be repeated. */
  async copyTo(
    layerId: string,
    path: string,
    options: { signal: AbortSignal; onProgress: (percent: number) => void },
  ): Promise<void> {
    await this.#parts.files.copy(this.filesOf(this.#requireFrozen(layerId)), path, options);
  }

  /**
   * Makes volumes go on from frozen layers, all or none, and gives up what they have written since. None may be in use.
   * Under the same key again, nothing more happens.
   */
  async replaceTops(key: string, tops: readonly { volume: Volume; parentId: string }[]): Promise<void> {
    const { records, files } = this.#parts;
    const trees = [
      ...tops.map(({ volume }) => this.topOf(volume).treeId),
      ...tops.map(({ parentId }) => this.#requireFrozen(parentId).treeId),
    ];
    await this.within(trees, async () => {
      const open = tops.filter(({ volume }) => this.topOf(volume).madeBy !== key);
      if (open.length === 0) return;
      const fresh = open.map(({ volume, parentId }) => freshLayer(volume.id, this.#requireFrozen(parentId), key));
      await Promise.all(fresh.map((layer) => files.makeOn(layer, this.#requireFrozen(layer.parentId!))));
      const old = open.map(({ volume }) => ({ ...this.topOf(volume), volumeId: null }));
      await records.write({ put: [...old, ...fresh] });
      for (const { treeId } of old) await this.#sweep(treeId);
    });
  }

  /** Gives up the layer that a volume is written to, with what only it needed: the volume is being deleted. Can be repeated. */
  async removeTop(volume: Volume): Promise<void> {
    const { records, files } = this.#parts;
    const first = records.topOf(volume.id);
    if (!first) {
      await files.remove(firstLayer(volume));
      return;
    }
    await this.within([first.treeId], async () => {
      for (const change of records.changes())
        if (change.fresh.some(({ volumeId }) => volumeId === volume.id)) await this.#settleAtRest(change);
      const top = records.topOf(volume.id);
      if (top) await records.write({ put: [{ ...top, volumeId: null }] });
      await this.#sweep(first.treeId);
    });
  }

  /** From now on `holder` needs these frozen layers. Can be repeated. */
  async hold(layerIds: readonly string[], holder: LayerHolder): Promise<void> {
    const trees = layerIds.map((id) => this.#requireFrozen(id).treeId);
    await this.within(trees, async () => {
      const put = layerIds
        .map((id) => this.#requireFrozen(id))
        .filter((layer) => !isHeldBy(layer, holder))
        .map((layer) => ({ ...layer, holders: [...layer.holders, holder] }));
      if (put.length > 0) await this.#parts.records.write({ put });
    });
  }

  /** `holder` needs nothing any more. What nobody needs then is removed at once, or merged soon. Can be repeated. */
  async release(holder: LayerHolder): Promise<void> {
    const { records } = this.#parts;
    const held = [...records.all()].filter((layer) => isHeldBy(layer, holder));
    await this.within(
      held.map(({ treeId }) => treeId),
      async () => {
        const put = [...records.all()]
          .filter((layer) => isHeldBy(layer, holder))
          .map((layer) => ({ ...layer, holders: layer.holders.filter((other) => !isSame(other, holder)) }));
        if (put.length > 0) await records.write({ put });
        for (const { treeId } of held) await this.#sweep(treeId);
      },
    );
  }

  /** The layers that somebody holds. */
  heldBy(holder: LayerHolder): Layer[] {
    return [...this.#parts.records.all()].filter((layer) => isHeldBy(layer, holder));
  }

  /**
   * After the daemon's start, when guests were taken over: changes that were under way are completed or given up, and
   * layers of volumes that were never made are removed. Those of guests that don't answer wait.
   */
  async recover(): Promise<void> {
    const { records, volume, log } = this.#parts;
    const changes = [...records.changes()];
    for (const change of changes) {
      await this.within(
        change.fresh.map(({ treeId }) => treeId),
        () => this.#settle(change),
      ).catch((error: unknown) => log.warn({ err: error, change: change.key }, 'a change of layers must wait'));
    }
    await this.#settleGuests(changes.flatMap(({ fresh }) => fresh.flatMap(({ volumeId }) => volumeId ?? [])));
    const orphans = [...records.all()].filter(({ volumeId }) => volumeId !== null && volume(volumeId) === null);
    if (orphans.length > 0) for (const layer of orphans) await records.write({ put: [{ ...layer, volumeId: null }] });
    const trees = new Set([...records.all()].map(({ treeId }) => treeId));
    for (const treeId of trees) await this.within([treeId], () => this.#sweep(treeId));
  }

  /** Ends what the last daemon has left under way in guests. `touched`: volumes that it was about to change. */
  async #settleGuests(touched: readonly string[]): Promise<void> {
    const { records, useOf, volume: volumeOf, log } = this.#parts;
    const known = [...records.all()].flatMap(({ volumeId }) => volumeId ?? []);
    const guests = new Map<GuestSnapshots, Map<string, string[]>>();
    for (const id of new Set([...known, ...touched])) {
      const [use, volume] = [useOf(id), volumeOf(id)];
      if (use.state !== 'on' || !volume) continue;
      const disks = guests.get(use.snapshots) ?? new Map<string, string[]>();
      const paths = this.filesOf(this.topOf(volume)).map(({ path }) => path);
      guests.set(use.snapshots, disks.set(use.disk, paths));
    }
    for (const [guest, disks] of guests)
      await guest
        .settle(disks)
        .catch((error: unknown) => log.warn({ err: error }, 'the disks of a guest could not be settled'));
  }

  /** Runs `work` while nothing else changes in these trees; a merge there makes way. */
  async within<T>(treeIds: readonly string[], work: () => Promise<T>): Promise<T> {
    // In one order, so that two that need the same trees don't wait for each other.
    const [next, ...rest] = [...new Set(treeIds)].toSorted();
    if (next === undefined) return work();
    this.#yielding.get(next)?.abort();
    this.#waiting.set(next, (this.#waiting.get(next) ?? 0) + 1);
    return this.#trees.run(next, () => {
      const others = (this.#waiting.get(next) ?? 1) - 1;
      if (others > 0) this.#waiting.set(next, others);
      else this.#waiting.delete(next);
      return this.within(rest, work);
    });
  }

  /** Runs `work` when nothing else is to be done in the tree; it is told to end when something is. */
  async whenIdle<T>(treeId: string, work: (signal: AbortSignal) => Promise<T>): Promise<T> {
    return this.#trees.run(treeId, async () => {
      const controller = new AbortController();
      if (this.#waiting.has(treeId)) controller.abort();
      this.#yielding.set(treeId, controller);
      try {
        return await work(controller.signal);
      } finally {
        this.#yielding.delete(treeId);
      }
    });
  }

  /** Removes what nothing needs; tells when there is something to merge. */
  async #sweep(treeId: string): Promise<void> {
    const { records, files } = this.#parts;
    for (;;) {
      const chores = choresOf(records, treeId);
      const gone = chores.filter(({ kind }) => kind === 'remove').map(({ layer }) => layer);
      if (gone.length === 0) {
        if (chores.length > 0) this.#onChores(treeId);
        return;
      }
      for (const layer of gone) {
        // A file without a record is removed at the daemon's start at the latest; a record needs its file.
        await records.write({ remove: [layer.id] });
        await files.remove(layer);
      }
    }
  }

  /** Brings a change to its end, one way or the other. Answers whether its layers are tops now. */
  async #settle(change: LayerChange): Promise<boolean> {
    const uses = change.fresh.map(({ volumeId }) => this.#parts.useOf(volumeId ?? ''));
    for (const use of uses) {
      if (use.state === 'unknown') {
        throw new LodgeError('busy', `The disks of VM ${use.vm} are being changed, and it does not answer now.`, {
          hint: 'Lodge goes on as soon as it has reached its hypervisor again. lodge vm force-off ends it.',
        });
      }
    }
    let isSwitched = false;
    let isOff = true;
    for (const [index, use] of uses.entries()) {
      if (use.state !== 'on') continue;
      const open = (await use.snapshots.layers()).get(use.disk);
      if (!open) continue;
      isOff = false;
      if (open[0] === this.#parts.files.place(change.fresh[index]!).path) isSwitched = true;
    }
    if (isOff) return this.#settleAtRest(change);
    if (isSwitched) await this.#commit(change);
    else await this.#giveUp(change);
    return isSwitched;
  }

  /** The same where no guest exists: what was written to was in use. */
  async #settleAtRest(change: LayerChange): Promise<boolean> {
    let isUsed = false;
    for (const layer of change.fresh) isUsed ||= await this.#parts.files.hasOwnData(layer);
    if (isUsed) await this.#commit(change);
    else await this.#giveUp(change);
    return isUsed;
  }

  async #commit({ key, fresh, holder }: LayerChange): Promise<void> {
    const { records, volume } = this.#parts;
    const open = fresh.filter((layer) => records.get(layer.id) === null && volume(layer.volumeId ?? '') !== null);
    for (let from = 0; from < open.length || from === 0; from += disksATransaction) {
      const part = open.slice(from, from + disksATransaction);
      const frozen = part.map((layer) => {
        const top: Layer = { ...this.topOf(volume(layer.volumeId!)!), volumeId: null };
        return holder ? withHolder(top, holder) : top;
      });
      const isLast = from + disksATransaction >= open.length;
      await records.write({ put: [...frozen, ...part], ...(isLast ? { end: key } : {}) });
    }
  }

  async #giveUp({ key, fresh }: LayerChange): Promise<void> {
    for (const layer of fresh) await this.#parts.files.remove(layer);
    await this.#parts.records.write({ end: key });
  }

  /** What a freeze under this key has frozen; null: it was not done. */
  #frozenBy(key: string, targets: readonly FreezeTarget[]): ReadonlyMap<string, Layer> | null {
    const { records } = this.#parts;
    const frozen = new Map<string, Layer>();
    for (const { volume } of targets) {
      const fresh = this.lineOf(volume).find((layer) => layer.madeBy === key);
      const layer = fresh?.parentId ? records.get(fresh.parentId) : null;
      if (!layer) return null;
      frozen.set(volume.id, layer);
    }
    return frozen;
  }

  /** The layers below the tops of all volumes, if these hold nothing of their own and are as large; null: some do. */
  async #untouched(targets: readonly FreezeTarget[]): Promise<ReadonlyMap<string, Layer> | null> {
    const { records, files } = this.#parts;
    const below = new Map<string, Layer>();
    for (const { volume } of targets) {
      const top = this.topOf(volume);
      const parent = top.parentId === null ? null : records.get(top.parentId);
      if (!parent || !(await files.isEmptyOn(top, parent))) return null;
      below.set(volume.id, parent);
    }
    return below;
  }

  #requireFrozen(id: string): Layer {
    const layer = this.#parts.records.get(id);
    if (layer && layer.volumeId === null) return layer;
    throw new LodgeError('not_found', `The disk layer ${id} does not exist any more, or is still written to.`, {
      hint: 'What it belonged to was deleted meanwhile.',
    });
  }
}

/** The layer that a volume was made with, as long as there is no record of it. */
function firstLayer(volume: Volume): Layer {
  const { id, spec, status, createdAt } = volume;
  return {
    id,
    treeId: id,
    file: `${id}.${spec.format}`,
    format: spec.format,
    parentId: null,
    imageId: status.imageId,
    volumeId: id,
    holders: [],
    madeBy: null,
    createdAt,
  };
}

function freshLayer(volumeId: string, parent: Layer, madeBy: string | null): Layer {
  const id = uuidv7();
  return {
    id,
    treeId: parent.treeId,
    file: `${id}.qcow2`,
    format: 'qcow2',
    parentId: parent.id,
    imageId: null,
    volumeId,
    holders: [],
    madeBy,
    createdAt: new Date().toISOString(),
  };
}

function requireRoom(line: readonly Layer[], disk: string, { volumeId }: Layer): void {
  if (line.length < maxDepth) return;
  throw new LodgeError(
    'insufficient_resources',
    `Disk ${disk} has ${line.length} layers, and ${maxDepth} are the most${volumeId ? '' : ' that one may be based on'}.`,
    { hint: 'Delete some of its snapshots (lodge snapshot tree): their layers are merged.' },
  );
}

function isSame(one: LayerHolder, other: LayerHolder): boolean {
  return one.kind === other.kind && one.id === other.id;
}

function withHolder(layer: Layer, holder: LayerHolder): Layer {
  return isHeldBy(layer, holder) ? layer : { ...layer, holders: [...layer.holders, holder] };
}

function isHeldBy(layer: Layer, holder: LayerHolder): boolean {
  return layer.holders.some((other) => isSame(other, holder));
}
