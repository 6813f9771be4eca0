// The files of layers: where they are, making empty ones, and merging those that nothing has open.
import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { LodgeError } from '../../api/errors.ts';
import { type DiskLayer } from '../../drivers/driver.ts';
import {
  commitLayer,
  copyLayers,
  createLayer,
  hasOwnData,
  isEmptyLayer,
  readLayerSize,
  relabelLayer,
} from '../../host/image/layer.ts';
import { deleteVolume } from '../../host/image/volume.ts';
import { readDiskSpace, type DiskSpace } from '../../host/machine.ts';
import { describeImageProblem } from '../image/image-problem.ts';
import { type Layer } from './layer.ts';

const mib = 2 ** 20;
/**
 * What must be free for fresh layers. They take next to nothing themselves, but a guest that overwrites its own data takes
 * new space for each cluster from then on, and stands still when there is none.
 */
const leastFreeMib = 64;

type LayerPlace = Pick<Layer, 'file' | 'format'>;

export class LayerFiles {
  readonly #directory: string;

  /** `directory`: the folder of volumes. */
  constructor(directory: string) {
    this.#directory = directory;
  }

  place({ file, format }: LayerPlace): DiskLayer {
    return { path: join(this.#directory, file), format };
  }

  /** Refuses fresh layers where the guest could soon write no more. Throws `storage_full`. */
  async requireSpace(): Promise<void> {
    const { freeBytes, totalBytes } = await readDiskSpace(this.#directory);
    if (freeBytes < leastFreeMib * mib) throw full({ freeBytes, totalBytes });
  }

  /** Makes an empty layer on another, as large as that one or larger, unless it is there already. */
  async makeOn(layer: LayerPlace, parent: LayerPlace, sizeMib = 0): Promise<void> {
    const { path } = this.place(layer);
    if (await isThere(path)) return;
    const backing = this.place(parent);
    try {
      await explained(async () =>
        createLayer({ path, backing, sizeBytes: Math.max(await readLayerSize(backing), sizeMib * mib) }),
      );
    } catch (error) {
      if (error instanceof LodgeError && error.code === 'storage_full')
        throw full(await readDiskSpace(this.#directory), error);
      throw error;
    }
  }

  /** Virtual size, MiB. */
  async sizeMib(layer: LayerPlace): Promise<number> {
    return explained(async () => Math.ceil((await readLayerSize(this.place(layer))) / mib));
  }

  /** Space it takes, bytes; null: it is not there. */
  async allocatedBytes(layer: LayerPlace): Promise<number | null> {
    return stat(this.place(layer).path).then(
      // st_blocks counts 512-byte units whatever the file system's block size: stat(2).
      ({ blocks }) => blocks * 512,
      () => null,
    );
  }

  /** Whether it is there and anything was written to it. Nothing may have it open. */
  async hasOwnData(layer: LayerPlace): Promise<boolean> {
    const { path } = this.place(layer);
    return (await isThere(path)) && explained(() => hasOwnData(path));
  }

  /** Whether nothing was written to a layer, which may be in use, and it is as large as what it is based on. */
  async isEmptyOn(layer: LayerPlace, parent: LayerPlace): Promise<boolean> {
    if (layer.format !== 'qcow2') return false;
    const [file, below] = [this.place(layer), this.place(parent)];
    return explained(
      async () => (await isEmptyLayer(file.path)) && (await readLayerSize(file)) === (await readLayerSize(below)),
    );
  }

  /** Copies what a layer reads as, with all below it, to a disk that stands alone, unless that is there already. */
  async copy(
    files: readonly DiskLayer[],
    path: string,
    options: { signal: AbortSignal; onProgress: (percent: number) => void },
  ): Promise<void> {
    if (!(await isThere(path))) await explained(() => copyLayers(files, path, options));
  }

  /** Writes what the first of these files holds into the second. Nothing may have them open. */
  commit(
    files: readonly DiskLayer[],
    options: { signal: AbortSignal; onProgress: (percent: number) => void },
  ): Promise<void> {
    return explained(() => commitLayer(files, options));
  }

  /** Writes into the file of a layer that nothing has open what it is based on. */
  relabel(layer: LayerPlace, backing: DiskLayer): Promise<void> {
    return explained(() => relabelLayer(this.place(layer).path, backing));
  }

  async remove(layer: LayerPlace): Promise<void> {
    await deleteVolume(this.place(layer).path);
  }
}

function full({ freeBytes, totalBytes }: DiskSpace, cause?: unknown): LodgeError {
  const [free, total] = [freeBytes, totalBytes].map((bytes) => Math.floor(bytes / mib));
  return new LodgeError(
    'storage_full',
    `The file system that holds the volumes has ${free} MiB free of ${total}; ${leastFreeMib} MiB must be free before disks are frozen, as what the guest writes takes new space from then on.`,
    {
      hint: 'Delete snapshots, volumes or images that are not needed, or make the file system larger.',
      ...(cause === undefined ? {} : { cause }),
    },
  );
}

function isThere(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  );
}

async function explained<T>(work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    throw describeImageProblem(error);
  }
}
