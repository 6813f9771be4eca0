// Looks at an image that somebody brought: format, sizes, soundness, and whether it stands alone. Reads only.
import { resolve } from 'node:path';
import { CommandError } from '../command.ts';
import { checkHeader, detectFormat, readSample, type ImageFormat } from './format.ts';
import { ImageProblemError } from './problem.ts';
import { explainQemuImg, inspectWithQemuImg } from './qemu-img.ts';

export interface InspectOptions {
  /** What the user says it is; the content must agree. Needed for raw disks that nothing marks as such. */
  format?: ImageFormat;
  /** The largest disk a guest may see. Default 64 TiB. */
  maxVirtualSizeBytes?: number;
  /** How messages call the image. Default: its path. */
  label?: string;
  signal?: AbortSignal;
}

export interface ImageInfo {
  format: ImageFormat;
  /** The disk's size as a guest sees it. */
  virtualSizeBytes: number;
  /** Length of the file. */
  fileSizeBytes: number;
  /** Bytes the file takes on its file system. */
  allocatedBytes: number;
  /** Internal snapshots; they are not imported. */
  snapshotNames: string[];
}

export const DEFAULT_MAX_VIRTUAL_SIZE_BYTES = 64 * 1024 ** 4;

/** The part of `qemu-img info --output=json` that is read (qapi/block-core.json, ImageInfo). */
interface QemuImgInfo {
  format: string;
  'virtual-size': number;
  'actual-size'?: number;
  'backing-filename'?: string;
  encrypted?: boolean;
  snapshots?: { name: string }[];
  'format-specific'?: { data?: { 'data-file'?: string; corrupt?: boolean } };
}

/** How qemu-img's block drivers say that an image refers to data behind its last byte. */
const CUT_OFF = /exceeding the end of the file|after (?:the )?EOF|after (?:the )?end of (?:the )?file|been truncated/i;

/** Inspects an image file; throws {@link ImageProblemError} for one that must not be imported. */
export async function inspectImage(path: string, options: InspectOptions = {}): Promise<ImageInfo> {
  const absolute = resolve(path);
  const label = options.label ?? absolute;
  const sample = await readSample(absolute).catch((error: NodeJS.ErrnoException) => {
    if (error instanceof ImageProblemError) throw error;
    throw new ImageProblemError('not-found', `${label} can't be opened (${error.code ?? error.message}).`, {
      cause: error,
    });
  });
  const detected = detectFormat(sample);
  const format = decideFormat(detected, options.format, label);
  checkHeader(format, sample, label);

  let info: QemuImgInfo;
  try {
    const driver = format === 'iso' ? 'raw' : format;
    const { stdout } = await inspectWithQemuImg(['info', '--output=json', '-f', driver], [absolute], {
      signal: options.signal,
    });
    info = JSON.parse(stdout) as QemuImgInfo;
  } catch (error) {
    if (error instanceof CommandError && CUT_OFF.test(error.stderr)) {
      throw new ImageProblemError(
        'truncated',
        `${label} refers to data beyond its end: it was cut off. Fetch it again.`,
        {
          cause: error,
        },
      );
    }
    throw explainQemuImg(error, label);
  }
  // The header was checked before; this is a second pair of eyes, for formats and fields that it did not read.
  if (info['backing-filename'] !== undefined || info['format-specific']?.data?.['data-file'] !== undefined) {
    throw new ImageProblemError('backing-file', `${label} needs another file. Flatten it with qemu-img convert.`);
  }
  if (info.encrypted) throw new ImageProblemError('format', `${label} is encrypted. Import it decrypted.`);
  if (info['format-specific']?.data?.corrupt) throw new ImageProblemError('corrupt', `${label} is marked corrupt.`);
  const virtualSizeBytes = info['virtual-size'];
  const maxBytes = options.maxVirtualSizeBytes ?? DEFAULT_MAX_VIRTUAL_SIZE_BYTES;
  if (!Number.isSafeInteger(virtualSizeBytes) || virtualSizeBytes > maxBytes) {
    throw new ImageProblemError(
      'too-large',
      `${label} is a disk of ${virtualSizeBytes} bytes; at most ${maxBytes} are taken.`,
    );
  }
  if (virtualSizeBytes === 0) throw new ImageProblemError('corrupt', `${label} is a disk of 0 bytes.`);
  return {
    format,
    virtualSizeBytes,
    fileSizeBytes: sample.sizeBytes,
    allocatedBytes: info['actual-size'] ?? sample.sizeBytes,
    snapshotNames: (info.snapshots ?? []).map((snapshot) => snapshot.name),
  };
}

function decideFormat(
  detected: ReturnType<typeof detectFormat>,
  declared: ImageFormat | undefined,
  label: string,
): ImageFormat {
  switch (detected.kind) {
    case 'refused':
      throw new ImageProblemError('format', `${label} is ${detected.name}.`);
    case 'compressed':
      throw new ImageProblemError(
        'format',
        `${label} is compressed (${detected.compression}) where an image was expected.`,
      );
    case 'unknown':
      if (declared === 'raw') return 'raw';
      throw new ImageProblemError(
        'format',
        declared === undefined
          ? `${label} has no image format that is known here. If it is a raw disk, say so: format raw.`
          : `${label} is not a ${declared} image.`,
      );
    case 'image':
      if (declared !== undefined && declared !== detected.format) {
        throw new ImageProblemError(
          'format',
          `${label} was said to be ${declared}, its content is ${detected.format}.`,
        );
      }
      return detected.format;
  }
}

/** Formats whose structure `qemu-img check` can verify. */
const CHECKABLE: readonly ImageFormat[] = ['qcow2', 'vmdk', 'vdi', 'vhdx'];

/**
 * Verifies an image's own structure, and that all of it is there. Leaked clusters are harmless and allowed.
 * `timeoutMs` default: ten minutes.
 */
export async function checkImage(
  path: string,
  format: ImageFormat,
  options: { label?: string; timeoutMs?: number; signal?: AbortSignal } = {},
): Promise<void> {
  if (!CHECKABLE.includes(format)) return;
  const absolute = resolve(path);
  const label = options.label ?? absolute;
  try {
    // 0: fine, 3: leaks only.
    await inspectWithQemuImg(['check', '--output=json', '-f', format], [absolute], {
      timeoutMs: options.timeoutMs ?? 600_000,
      cpuSeconds: 300,
      signal: options.signal,
      okExitCodes: [0, 3],
    });
  } catch (error) {
    // 2: unsound. 1: the check itself gave up, which for images that were cut off it also does.
    const isCut = error instanceof CommandError && CUT_OFF.test(error.stderr);
    const isUnsound = error instanceof CommandError && error.reason === 'exit' && error.exitCode === 2;
    if (!isCut && !isUnsound) throw explainQemuImg(error, label);
    throw new ImageProblemError(
      isCut ? 'truncated' : 'corrupt',
      isCut
        ? `${label} refers to data beyond its end: it was cut off. Fetch it again.`
        : `${label} is damaged inside. Fetch it again, or repair a copy with qemu-img check -r all.`,
      { cause: error },
    );
  }
}
