// Layers of disks as files: overlays on frozen files, whether one holds anything, and merging one into the file below it.
//
// A guest's hypervisor process has written these files, and may have been taken over from inside the guest. What a file
// says of other files (its backing file, an external data file) is therefore never followed: every file that qemu-img
// opens here is named by the caller.
import { open } from 'node:fs/promises';
import { isAbsolute } from 'node:path';
import { makeDurable } from './durable.ts';
import { ImageProblemError } from './problem.ts';
import { explainQemuImg, inspectWithQemuImg, runQemuImg } from './qemu-img.ts';
import { createInPlace, type VolumeFormat } from './volume.ts';

/** A file and how to read it. */
export interface LayerFile {
  path: string;
  format: VolumeFormat;
}

/** The longest that merging whole disks may take. */
const mergeTimeoutMs = 6 * 3_600_000;

/** docs/interop/qcow2.rst of QEMU: magic, version at 4, virtual size at 24, incompatible features at 72. */
const qcow2Magic = 0x514649fb;
const headerBytes = 104;
const sizeOffset = 24;
const incompatibleOffset = 72;
const externalDataFile = 4n;
/** The table of tables: its entries, 8 bytes each, at 36; where it is, at 40. */
const tableSizeOffset = 36;
const tablePlaceOffset = 40;
const longestTableBytes = 2 ** 20;

/**
 * Virtual size of a disk, bytes, also of one that is in use. Throws {@link ImageProblemError} for what is no disk that Lodge
 * has made: another format, or one that keeps its data in another file.
 */
export async function readLayerSize({ path, format }: LayerFile): Promise<number> {
  const file = await open(path, 'r').catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT')
      throw new ImageProblemError('not-found', `There is no disk ${path}.`, { cause: error });
    throw error;
  });
  try {
    if (format === 'raw') return (await file.stat()).size;
    const header = Buffer.alloc(headerBytes);
    const { bytesRead } = await file.read(header, 0, headerBytes, 0);
    if (bytesRead < headerBytes || header.readUInt32BE(0) !== qcow2Magic)
      throw new ImageProblemError('corrupt', `${path} is no qcow2 disk any more.`);
    if (header.readUInt32BE(4) >= 3 && (header.readBigUInt64BE(incompatibleOffset) & externalDataFile) !== 0n)
      throw new ImageProblemError('format', `${path} keeps its data in another file, which no disk of Lodge does.`);
    return Number(header.readBigUInt64BE(sizeOffset));
  } finally {
    await file.close();
  }
}

/** Makes an empty layer on a file that may be in use, and is not opened for it. */
export async function createLayer(options: {
  path: string;
  backing: LayerFile;
  sizeBytes: number;
  signal?: AbortSignal;
}): Promise<void> {
  const { path, backing, sizeBytes, signal } = options;
  if (!isAbsolute(backing.path)) throw new ImageProblemError('invalid', `${backing.path} must be an absolute path.`);
  await createInPlace(path, (temporary) =>
    runQemuImg(
      ['create', '-q', '-f', 'qcow2', '-u', '-b', backing.path, '-F', backing.format, '--'],
      [temporary],
      { signal },
      [String(sizeBytes)],
    ),
  );
}

/**
 * Whether nothing was ever written to a layer, also of one that is in use: a write is complete when the first table of a
 * qcow2 file names the table that it is in.
 */
export async function isEmptyLayer(path: string): Promise<boolean> {
  await readLayerSize({ path, format: 'qcow2' });
  const file = await open(path, 'r');
  try {
    const header = Buffer.alloc(headerBytes);
    await file.read(header, 0, headerBytes, 0);
    const tableBytes = header.readUInt32BE(tableSizeOffset) * 8;
    // 64 TiB in clusters of 64 KiB; more is no table.
    if (tableBytes > longestTableBytes) return false;
    const table = Buffer.alloc(tableBytes);
    const { bytesRead } = await file.read(table, 0, tableBytes, Number(header.readBigUInt64BE(tablePlaceOffset)));
    return bytesRead === tableBytes && table.every((byte) => byte === 0);
  } finally {
    await file.close();
  }
}

/**
 * Copies what these files are as one disk, top first, to a disk that stands alone. None of them may be written to
 * meanwhile; they may be read.
 */
export async function copyLayers(
  files: readonly LayerFile[],
  path: string,
  options: { signal?: AbortSignal; onProgress?: (percent: number) => void } = {},
): Promise<void> {
  for (const file of files) await readLayerSize(file);
  await createInPlace(path, async (temporary) => {
    await runQemuImg(['convert', '-p', '-W', '-m', '4', '-O', 'qcow2', graph(files)], [temporary], {
      timeoutMs: mergeTimeoutMs,
      signal: options.signal,
      onLine: (line) => {
        const percent = /\(([\d.]+)\/100%\)/.exec(line)?.[1];
        if (percent !== undefined) options.onProgress?.(Number(percent));
      },
    });
    await makeDurable(temporary);
  });
}

/** Whether anything was ever written to a layer that nothing has open. */
export async function hasOwnData(path: string): Promise<boolean> {
  await readLayerSize({ path, format: 'qcow2' });
  try {
    // 2 and 3: what a writer that was killed leaves, leaked clusters; the count is right all the same.
    const { stdout } = await inspectWithQemuImg(['check', '--output=json', graph([{ path, format: 'qcow2' }])], [], {
      okExitCodes: [0, 2, 3],
    });
    return ((JSON.parse(stdout) as { 'allocated-clusters'?: number })['allocated-clusters'] ?? 0) > 0;
  } catch (error) {
    throw explainQemuImg(error, path);
  }
}

/**
 * Writes what a layer holds into the layer below it. Neither may be in use. `files`: the layer first, then everything that
 * it is based on. Broken off at any moment, both read as before, and it can be done again; afterwards the layer is not
 * needed any more.
 */
export async function commitLayer(
  files: readonly LayerFile[],
  options: { signal?: AbortSignal; onProgress?: (percent: number) => void } = {},
): Promise<void> {
  const [top, below] = files;
  if (!top || !below) throw new TypeError('a layer is merged into one below it');
  for (const file of files) await readLayerSize(file);
  try {
    // -d: it is deleted anyway, and must read as before until then.
    await runQemuImg(['commit', '-p', '-d', graph(files)], [], {
      timeoutMs: mergeTimeoutMs,
      signal: options.signal,
      onLine: (line) => {
        const percent = /\(([\d.]+)\/100%\)/.exec(line)?.[1];
        if (percent !== undefined) options.onProgress?.(Number(percent));
      },
    });
    await makeDurable(below.path);
  } catch (error) {
    throw explainQemuImg(error, top.path);
  }
}

/** Writes into a layer that nothing has open which file it is based on. Lodge doesn't read it there; people and other tools do. */
export async function relabelLayer(path: string, backing: LayerFile | null): Promise<void> {
  await readLayerSize({ path, format: 'qcow2' });
  const onto = backing ? ['-b', backing.path, '-F', backing.format] : ['-b', ''];
  try {
    await runQemuImg(['rebase', '-q', '-u', '-f', 'qcow2', ...onto, '--'], [path]);
  } catch (error) {
    throw explainQemuImg(error, path);
  }
}

/** The files as one disk, in the form that qemu-img takes in place of a name. */
function graph(files: readonly LayerFile[]): string {
  let below: object | null = null;
  for (const { path, format } of files.toReversed()) {
    if (!isAbsolute(path)) throw new ImageProblemError('invalid', `${path} must be an absolute path.`);
    const backing: object = format === 'qcow2' ? { backing: below } : {};
    below = { driver: format, file: { driver: 'file', filename: path }, ...backing };
  }
  return `json:${JSON.stringify(below)}`;
}
