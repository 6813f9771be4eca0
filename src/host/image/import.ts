// Brings an image from outside into Lodge: fetches it, verifies it, unpacks it, and writes it anew as qcow2, so that
// nothing its author put into headers survives. The image appears at its place complete and checked, or not at all.
//
//   fetch ─▶ checksum ─▶ unpack ─▶ inspect, check ─▶ convert (an ISO: as it is) ─▶ check ─▶ in place
//
// Work happens in a folder beside the target. After a failure it is removed, but for a download that can be continued.
import { createHash } from 'node:crypto';
import { constants, createReadStream } from 'node:fs';
import { chmod, copyFile, link, mkdir, rename, rm, rmdir, stat, statfs } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { decompressFile } from './decompress.ts';
import { download, parseImageUrl, type DownloadOptions } from './download.ts';
import { detectFormat, readSample, type ImageFormat } from './format.ts';
import { makeDurable } from './durable.ts';
import { checkImage, DEFAULT_MAX_VIRTUAL_SIZE_BYTES, inspectImage, type ImageInfo } from './inspect.ts';
import { type PartialDownloads } from './partial-downloads.ts';
import { ImageProblemError } from './problem.ts';
import { explainQemuImg, runQemuImg } from './qemu-img.ts';
import { explainWrite, writeSparse } from './sparse-file.ts';

export type ImageSource =
  /** A file of this machine; it is read and not changed. Messages call it `label`; default: its path. */
  | { kind: 'file'; path: string; label?: string }
  | { kind: 'url'; url: string }
  /** An upload. Can't be resumed. */
  | { kind: 'stream'; stream: AsyncIterable<Uint8Array>; sizeBytes?: number };

export interface Checksum {
  algorithm: 'sha256' | 'sha512';
  /** Hexadecimal. Of the bytes as they come, compressed or not. */
  value: string;
}

export interface ImportProgress {
  step: 'fetching' | 'verifying' | 'unpacking' | 'converting' | 'checking';
  /** Of this step. Bytes, but for `converting`, where the total is 100. */
  done: number;
  /** Null while it is not known. */
  total: number | null;
}

export interface ImportOptions {
  source: ImageSource;
  /** What the image is; needed for raw disks without any sign of being one. Default: told from the content. */
  format?: ImageFormat;
  checksum?: Checksum;
  /** Where the image is to be; must not exist. */
  outPath: string;
  /** The largest file to fetch, and to unpack to. Default 1 TiB. */
  maxFileSizeBytes?: number;
  /** The largest disk a guest may see. Default 64 TiB. */
  maxVirtualSizeBytes?: number;
  onProgress?: (progress: ImportProgress) => void;
  signal?: AbortSignal;
  /** Where a download that breaks off is kept for the next import of its address. Default: with the image. */
  partialDownloads?: PartialDownloads;
  /** Pauses and limits of downloads. */
  download?: Pick<DownloadOptions, 'retryDelaysMs' | 'idleTimeoutMs' | 'timeoutMs'>;
}

export interface ImportedImage {
  path: string;
  /** `qcow2`, or `raw` for an ISO. */
  format: 'qcow2' | 'raw';
  kind: 'disk' | 'iso';
  virtualSizeBytes: number;
  /** Length of the file now. */
  sizeBytes: number;
  /** What it was made of. */
  sourceFormat: ImageFormat;
  /** SHA-256 of the bytes that were fetched. */
  sourceSha256: string;
}

const DEFAULT_MAX_FILE_BYTES = 1024 ** 4;
const CONVERT_TIMEOUT_MS = 6 * 3_600_000;

/** Imports an image. Throws {@link ImageProblemError}. Calling it again for the same `outPath` and URL resumes. */
export async function importImage(options: ImportOptions): Promise<ImportedImage> {
  const outPath = resolve(options.outPath);
  const label = labelOf(options.source);
  const expected = options.checksum ? normalizeChecksum(options.checksum) : null;
  if (options.source.kind === 'url') parseImageUrl(options.source.url);
  if (await exists(outPath)) throw new ImageProblemError('invalid', `${outPath} exists already.`);
  const work = join(dirname(outPath), `.${basename(outPath)}.import`);
  await mkdir(work, { recursive: true, mode: 0o700 });
  await removeLeftovers(work);
  try {
    return await importInto(work, outPath, label, expected, options);
  } catch (error) {
    throw options.signal?.aborted && !(error instanceof ImageProblemError)
      ? new ImageProblemError('aborted', `Importing ${label} was cancelled.`, { cause: error })
      : explainWrite(error, label);
  } finally {
    await removeLeftovers(work);
    // Fails while there is a download to continue, which is then what stays.
    await rmdir(work).catch(() => {});
  }
}

async function importInto(
  work: string,
  outPath: string,
  label: string,
  expected: Checksum | null,
  options: ImportOptions,
): Promise<ImportedImage> {
  const report = options.onProgress ?? (() => {});
  const maxBytes = options.maxFileSizeBytes ?? DEFAULT_MAX_FILE_BYTES;
  const { signal } = options;
  const fetched = await fetchSource(work, label, maxBytes, options);

  const sourceSha256 = await verify(fetched, expected, label, options);

  let plain = fetched;
  const detected = await readSample(fetched).then(detectFormat);
  if (detected.kind === 'compressed') {
    plain = join(work, 'plain');
    const total = (await stat(fetched)).size;
    await decompressFile(fetched, detected.compression, plain, {
      maxBytes,
      label,
      signal,
      onBytesRead: (done) => report({ step: 'unpacking', done, total }),
    });
    if (fetched !== sourcePath(options.source)) await rm(fetched);
  }

  const maxVirtualSizeBytes = options.maxVirtualSizeBytes ?? DEFAULT_MAX_VIRTUAL_SIZE_BYTES;
  const info = await inspectImage(plain, { format: options.format, maxVirtualSizeBytes, label, signal });
  report({ step: 'checking', done: 0, total: null });
  await checkImage(plain, info.format, { label, signal });

  const isIso = info.format === 'iso';
  const ready = join(work, 'ready');
  if (isIso) await takeAsItIs(plain, ready, plain !== sourcePath(options.source));
  else await convert(plain, info, ready, label, options);
  report({ step: 'checking', done: 0, total: null });
  if (!isIso) await checkImage(ready, 'qcow2', { label, signal });
  await chmod(ready, 0o644);
  await makeDurable(ready);
  // A link, and not a rename, fails where a file has appeared in the meantime.
  await link(ready, outPath);
  return {
    path: outPath,
    format: isIso ? 'raw' : 'qcow2',
    kind: isIso ? 'iso' : 'disk',
    virtualSizeBytes: info.virtualSizeBytes,
    sizeBytes: (await stat(outPath)).size,
    sourceFormat: info.format,
    sourceSha256,
  };
}

const sourcePath = (source: ImageSource): string | null => (source.kind === 'file' ? resolve(source.path) : null);

function labelOf(source: ImageSource): string {
  switch (source.kind) {
    case 'file':
      return source.label ?? source.path;
    case 'url':
      return source.url;
    case 'stream':
      return 'the upload';
  }
}

async function fetchSource(work: string, label: string, maxBytes: number, options: ImportOptions): Promise<string> {
  const { source, signal } = options;
  const report = options.onProgress ?? (() => {});
  if (source.kind === 'file') {
    const path = resolve(source.path);
    const info = await stat(path).catch((error: NodeJS.ErrnoException) => {
      throw new ImageProblemError('not-found', `${label} can't be opened (${error.code ?? ''}).`, { cause: error });
    });
    if (!info.isFile()) throw new ImageProblemError('format', `${label} is not a regular file.`);
    if (info.size > maxBytes)
      throw new ImageProblemError('too-large', `${label} has ${info.size} bytes; at most ${maxBytes} are taken.`);
    return path;
  }
  const path = join(work, 'fetched');
  if (source.kind === 'url') {
    const partial = (await options.partialDownloads?.take(source.url)) ?? null;
    try {
      const target = partial?.path ?? path;
      await download(source.url, target, {
        ...options.download,
        maxBytes,
        signal,
        beforeBody: (bytesToCome) => requireSpace(work, bytesToCome, label),
        onProgress: (done, total) => report({ step: 'fetching', done, total }),
      });
      if (target !== path) await rename(target, path);
    } finally {
      await partial?.release();
    }
    return path;
  }
  const total = source.sizeBytes ?? null;
  if (total !== null && total > maxBytes)
    throw new ImageProblemError('too-large', `${label} has ${total} bytes; at most ${maxBytes} are taken.`);
  if (total !== null) await requireSpace(work, total, label);
  const written = await writeSparse(path, abortable(source.stream, signal), {
    maxBytes,
    label,
    onBytes: (done) => report({ step: 'fetching', done, total }),
  });
  if (total !== null && written < total) {
    throw new ImageProblemError('truncated', `${label} ended after ${written} of ${total} bytes. Send it again.`);
  }
  return path;
}

async function* abortable(
  stream: AsyncIterable<Uint8Array>,
  signal: AbortSignal | undefined,
): AsyncIterable<Uint8Array> {
  for await (const chunk of stream) {
    signal?.throwIfAborted();
    yield chunk;
  }
}

async function requireSpace(folder: string, neededBytes: number, label: string): Promise<void> {
  const { bavail, bsize } = await statfs(folder);
  if (bavail * bsize < neededBytes) {
    throw new ImageProblemError(
      'no-space',
      `${label} needs ${neededBytes} bytes, and ${bavail * bsize} are free where images are kept.`,
    );
  }
}

/** Hashes what was fetched and compares it; a mismatch also throws the download away. */
async function verify(path: string, expected: Checksum | null, label: string, options: ImportOptions): Promise<string> {
  const total = (await stat(path)).size;
  const sha256 = createHash('sha256');
  const sha512 = expected?.algorithm === 'sha512' ? createHash('sha512') : null;
  let done = 0;
  for await (const chunk of createReadStream(path, {
    highWaterMark: 1024 * 1024,
    signal: options.signal,
  }) as AsyncIterable<Buffer>) {
    sha256.update(chunk);
    sha512?.update(chunk);
    done += chunk.length;
    options.onProgress?.({ step: 'verifying', done, total });
  }
  const sourceSha256 = sha256.digest('hex');
  const actual = sha512 ? sha512.digest('hex') : sourceSha256;
  if (expected && actual !== expected.value) {
    throw new ImageProblemError(
      'checksum',
      `${label} has the ${expected.algorithm} ${actual}, where ${expected.value} was expected: it was changed or damaged on the way. Nothing was imported.`,
    );
  }
  return sourceSha256;
}

const CHECKSUM_HEX_LENGTH = { sha256: 64, sha512: 128 } as const;

function normalizeChecksum(checksum: Checksum): Checksum {
  const value = checksum.value.trim().toLowerCase();
  const length = CHECKSUM_HEX_LENGTH[checksum.algorithm];
  if (value.length !== length || !/^[0-9a-f]+$/.test(value)) {
    throw new ImageProblemError(
      'invalid',
      `A ${checksum.algorithm} checksum has ${length} hexadecimal digits; ${JSON.stringify(checksum.value.slice(0, 140))} has not.`,
    );
  }
  return { algorithm: checksum.algorithm, value };
}

async function convert(
  source: string,
  info: ImageInfo,
  target: string,
  label: string,
  options: ImportOptions,
): Promise<void> {
  await requireSpace(dirname(target), Math.min(info.allocatedBytes, info.virtualSizeBytes), label);
  const args = ['convert', '-p', '-f', info.format, '-O', 'qcow2', '-o', 'compat=1.1,cluster_size=65536'];
  try {
    await runQemuImg(args, [source, target], {
      timeoutMs: CONVERT_TIMEOUT_MS,
      signal: options.signal,
      onLine: (line) => {
        const percent = /\((\d+(?:\.\d+)?)\/100%\)/.exec(line)?.[1];
        if (percent !== undefined) options.onProgress?.({ step: 'converting', done: Number(percent), total: 100 });
      },
    });
  } catch (error) {
    throw explainQemuImg(error, label);
  }
}

async function takeAsItIs(source: string, target: string, isOurs: boolean): Promise<void> {
  if (isOurs) await rename(source, target);
  else await copyFile(source, target, constants.COPYFILE_FICLONE);
}

/** All but a download that can go on. */
async function removeLeftovers(work: string): Promise<void> {
  for (const name of ['fetched', 'plain', 'ready']) await rm(join(work, name), { force: true });
}

const exists = (path: string): Promise<boolean> =>
  stat(path).then(
    () => true,
    () => false,
  );
