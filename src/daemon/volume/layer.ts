// The layers that disks are made of, as a forest: each is the difference to its parent, or to an image, or stands alone.
// A volume is a pointer to one of them, its top, and only a top is ever written; all others never change. Here are the
// questions about the forest, pure; volume-layers.ts changes it.
//
// The identity of a layer is its content: when it is merged with its parent, the layer keeps its id, whoever holds it
// and whatever is based on it, and may lie in another file from then on.

/** Something outside the volumes that needs a layer as it is. */
export interface LayerHolder {
  kind: 'snapshot' | 'template' | 'fork' | 'clone';
  id: string;
}

/** A layer, as it is kept in the store. */
export interface Layer {
  id: string;
  /** The layer that the whole tree began with, whether it is there still: changes of one tree go one after the other. */
  treeId: string;
  /** Name of its file in the folder of volumes. */
  file: string;
  format: 'qcow2' | 'raw';
  /** What it is the difference to; null: to its image, or to nothing. */
  parentId: string | null;
  /** Image it is directly based on. */
  imageId: string | null;
  /** The volume whose top it is, which writes to it; null: it is frozen. */
  volumeId: string | null;
  holders: LayerHolder[];
  /** Key of the change that made it, by which a change that is made again finds what it did; null: made with its volume. */
  madeBy: string | null;
  createdAt: string;
}

/** A view of all layers, for the questions below. */
export interface LayerForest {
  get(id: string): Layer | null;
  childrenOf(id: string): readonly Layer[];
  all(): IterableIterator<Layer>;
}

/** The layer and what it is based on, itself first. */
export function lineOf(forest: LayerForest, layer: Layer): Layer[] {
  const line = [layer];
  for (let id = layer.parentId; id !== null;) {
    const parent = forest.get(id);
    if (!parent) break;
    line.push(parent);
    id = parent.parentId;
  }
  return line;
}

/** Volumes that read a layer: those whose top it is or is based on it. */
export function volumesOn(forest: LayerForest, layer: Layer): string[] {
  return [
    ...(layer.volumeId === null ? [] : [layer.volumeId]),
    ...forest.childrenOf(layer.id).flatMap((child) => volumesOn(forest, child)),
  ];
}

/** What is to be done about layers that nobody asked to keep. */
export type LayerChore =
  /** Nothing reads it: it goes. */
  | { kind: 'remove'; layer: Layer }
  /** Only one layer reads it: both become one. */
  | { kind: 'merge'; layer: Layer; child: Layer };

/**
 * What is to be done in a tree, or in all. A layer with several layers on it stays until they go. `givenUp`: holders that
 * count as none.
 */
export function choresOf(
  forest: LayerForest,
  treeId?: string,
  givenUp: readonly Pick<LayerHolder, 'id'>[] = [],
): LayerChore[] {
  const gone = new Set(givenUp.map(({ id }) => id));
  // Whether anybody needs a layer as it is, besides the layers on it.
  const isKept = ({ volumeId, holders }: Layer): boolean =>
    volumeId !== null || holders.some(({ id }) => !gone.has(id));
  const chores: LayerChore[] = [];
  for (const layer of forest.all()) {
    if (isKept(layer) || (treeId !== undefined && layer.treeId !== treeId)) continue;
    const [child, second] = forest.childrenOf(layer.id);
    if (!child) chores.push({ kind: 'remove', layer });
    else if (!second) chores.push({ kind: 'merge', layer, child });
  }
  return chores;
}
