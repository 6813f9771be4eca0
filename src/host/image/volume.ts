// Disk files of guests: made, copied on write from an image, grown, measured, removed. Formats are always named
// explicitly: a guest decides what stands at the beginning of its raw disk, and must not be able to make it a qcow2.
// Whether a file is in use is for the caller to know.
import { randomUUID } from 'node:crypto';
import { link, rm, stat } from 'node:fs/promises';
import { dirname, isAbsolute } from 'node:path';
import { makeDurable } from './durable.ts';
import { ImageProblemError } from './problem.ts';
import { explainQemuImg, inspectWithQemuImg, runQemuImg } from './qemu-img.ts';

export type VolumeFormat = 'qcow2' | 'raw';

/** How much of a new file is taken from the file system at once: nothing, its tables, or all (without or with writing zeros). */
export type Preallocation = 'off' | 'metadata' | 'falloc' | 'full';

export interface VolumeInfo {
  format: VolumeFormat;
  /** The disk as the guest sees it. */
  virtualSizeBytes: number;
  /** What the file takes on its file system. */
  allocatedBytes: number;
  /** The files it needs, nearest first; empty for a disk that stands alone. */
  backingChain: { path: string; format: string }[];
}

/** Sizes a disk can have: whole sectors, so that all formats agree on it. */
export const VOLUME_SIZE_LIMITS = { minBytes: 512, maxBytes: 64 * 1024 ** 4, multipleOfBytes: 512 } as const;

/** Writing zeros to a whole disk is the slowest of these. */
const CREATE_TIMEOUT_MS = 6 * 3_600_000;

function requireSize(sizeBytes: number): void {
  const { minBytes, maxBytes, multipleOfBytes } = VOLUME_SIZE_LIMITS;
  const isRight = Number.isSafeInteger(sizeBytes) && sizeBytes >= minBytes && sizeBytes <= maxBytes;
  if (!isRight || sizeBytes % multipleOfBytes !== 0) {
    throw new ImageProblemError(
      'invalid',
      `A disk can't have ${sizeBytes} bytes: allowed are ${minBytes} to ${maxBytes}, in multiples of ${multipleOfBytes}.`,
    );
  }
}

/** Makes a file under another name and links it into place: complete or not there, and never over an existing one. */
export async function createInPlace(path: string, create: (temporary: string) => Promise<unknown>): Promise<void> {
  if (!isAbsolute(path)) throw new ImageProblemError('invalid', `${path} must be an absolute path.`);
  const temporary = `${path}.new-${randomUUID()}`;
  try {
    await create(temporary);
    await link(temporary, path);
    await makeDurable(dirname(path));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') {
      throw new ImageProblemError('invalid', `${path} exists already.`, { cause: error });
    }
    throw explainQemuImg(error, path);
  } finally {
    await rm(temporary, { force: true });
  }
}

/** Creates an empty disk. */
export async function createVolume(options: {
  path: string;
  format: VolumeFormat;
  sizeBytes: number;
  preallocation?: Preallocation;
  signal?: AbortSignal;
}): Promise<void> {
  requireSize(options.sizeBytes);
  const preallocation = options.preallocation ?? 'off';
  if (options.format === 'raw' && preallocation === 'metadata') {
    throw new ImageProblemError('invalid', 'A raw disk has no metadata to preallocate: choose off, falloc or full.');
  }
  await createInPlace(options.path, (temporary) =>
    runQemuImg(
      ['create', '-q', '-f', options.format, '-o', `preallocation=${preallocation}`, '--'],
      [temporary],
      { timeoutMs: CREATE_TIMEOUT_MS, signal: options.signal },
      [String(options.sizeBytes)],
    ),
  );
}

/**
 * Creates a disk that begins as a copy of another file and keeps only what is written to it. The other file must stay,
 * unchanged. Without `sizeBytes` it is as large as that one; it can't be smaller.
 */
export async function createOverlay(options: {
  path: string;
  backingPath: string;
  backingFormat: VolumeFormat;
  sizeBytes?: number;
  signal?: AbortSignal;
}): Promise<void> {
  const { backingPath, backingFormat, sizeBytes, signal } = options;
  if (!isAbsolute(backingPath)) throw new ImageProblemError('invalid', `${backingPath} must be an absolute path.`);
  const backing = await readVolumeInfo(backingPath, backingFormat);
  if (sizeBytes !== undefined) {
    requireSize(sizeBytes);
    if (sizeBytes < backing.virtualSizeBytes) {
      throw new ImageProblemError(
        'invalid',
        `The disk can't have ${sizeBytes} bytes: what it is copied from has ${backing.virtualSizeBytes}. Choose at least that.`,
      );
    }
  }
  await createInPlace(options.path, (temporary) =>
    runQemuImg(
      ['create', '-q', '-f', 'qcow2', '-b', backingPath, '-F', backingFormat, '--'],
      [temporary],
      { signal },
      sizeBytes === undefined ? [] : [String(sizeBytes)],
    ),
  );
}

/** Changes the size of a disk that nothing uses. Making it smaller cuts off its end, and must be meant. */
export async function resizeVolume(options: {
  path: string;
  format: VolumeFormat;
  sizeBytes: number;
  isShrinkAllowed?: boolean;
  signal?: AbortSignal;
}): Promise<void> {
  const { path, format, sizeBytes } = options;
  requireSize(sizeBytes);
  const { virtualSizeBytes } = await readVolumeInfo(path, format);
  if (sizeBytes === virtualSizeBytes) return;
  const isShrink = sizeBytes < virtualSizeBytes;
  if (isShrink && !options.isShrinkAllowed) {
    throw new ImageProblemError(
      'invalid',
      `${path} has ${virtualSizeBytes} bytes; making it ${sizeBytes} would cut off its end and what is there.`,
    );
  }
  try {
    const shrink = isShrink ? ['--shrink'] : [];
    await runQemuImg(
      ['resize', '-q', '-f', format, ...shrink, '--'],
      [path],
      { timeoutMs: CREATE_TIMEOUT_MS, signal: options.signal },
      [String(sizeBytes)],
    );
  } catch (error) {
    throw explainQemuImg(error, path);
  }
}

/** The part of `qemu-img info --backing-chain --output=json` that is read. */
interface ChainLink {
  filename: string;
  format: string;
  'virtual-size': number;
  'actual-size'?: number;
}

/** Measures a disk; also one that a guest is using, whose numbers may then be a moment old. */
export async function readVolumeInfo(path: string, format: VolumeFormat): Promise<VolumeInfo> {
  let chain: ChainLink[];
  try {
    await stat(path);
    const { stdout } = await inspectWithQemuImg(
      ['info', '--output=json', '--backing-chain', '--force-share', '-f', format, '--'],
      [path],
    );
    chain = JSON.parse(stdout) as ChainLink[];
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') {
      throw new ImageProblemError('not-found', `There is no disk ${path}.`, { cause: error });
    }
    throw explainQemuImg(error, path);
  }
  const [top, ...backing] = chain;
  if (!top) throw new ImageProblemError('corrupt', `${path} can't be read.`);
  return {
    format,
    virtualSizeBytes: top['virtual-size'],
    allocatedBytes: top['actual-size'] ?? 0,
    backingChain: backing.map((one) => ({ path: one.filename, format: one.format })),
  };
}

/** Removes a disk file. One that is gone already is fine. */
export async function deleteVolume(path: string): Promise<void> {
  await rm(path, { force: true });
}
