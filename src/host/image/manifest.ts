// The file manifest.json beside a built image: what it is, how to start it, what it was made of. Written last, so that
// a folder with a manifest is a complete image; checked when read, since folders are also copied by people.
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { ImageProblemError } from './problem.ts';

export interface ImageFile {
  /** File name inside the image's folder. */
  name: string;
  sizeBytes: number;
  /** Lower-case hex. */
  sha256: string;
}

export interface ImageManifest {
  name: string;
  /** Follows from what it was built of: the same version, the same guest. */
  version: string;
  /** Hash of the recipe (guest sources and builder); another recipe means the image is stale. */
  recipe: string;
  os: 'linux';
  architecture: 'x86_64';
  /** `direct`: started by kernel and initramfs; `disk`: bootable by BIOS and UEFI. */
  firmware: 'direct' | 'disk';
  /** File names. kernel, initramfs and commandLine with `direct`, disk with `disk`. */
  kernel?: string;
  initramfs?: string;
  commandLine?: string;
  disk?: string;
  /** Size of the disk as the guest sees it. */
  virtualSizeBytes?: number;
  kernelVersion: string;
  /** Least guest memory it starts and works with. */
  minMemoryMib: number;
  /** A guest agent answers on the virtio port org.qemu.guest_agent.0. */
  hasAgent: boolean;
  /** It reads a NoCloud seed. */
  hasCloudInit: boolean;
  files: ImageFile[];
  /** Debian packages it holds, name → version. */
  packages: Record<string, string>;
}

export const MANIFEST_FILE = 'manifest.json';

export async function hashFile(
  path: string,
  algorithm: 'sha256' | 'sha512' = 'sha256',
  signal?: AbortSignal,
): Promise<string> {
  const hash = createHash(algorithm);
  for await (const chunk of createReadStream(path, { highWaterMark: 1024 * 1024, signal })) hash.update(chunk);
  return hash.digest('hex');
}

/** Describes files of a folder for a manifest. */
export async function describeFiles(folder: string, names: readonly string[]): Promise<ImageFile[]> {
  const files: ImageFile[] = [];
  for (const name of names) {
    const { size } = await stat(join(folder, name));
    files.push({ name, sizeBytes: size, sha256: await hashFile(join(folder, name)) });
  }
  return files;
}

export async function writeManifest(folder: string, manifest: ImageManifest): Promise<void> {
  await writeFile(join(folder, MANIFEST_FILE), `${JSON.stringify(manifest, null, 2)}\n`);
}

/**
 * The manifest of an image folder, its files checked by size (`verify: 'sha256'`: by content). Null when there is
 * none; {@link ImageProblemError} `corrupt` or `truncated` when it or a file is not what it should be.
 */
export async function readManifest(folder: string, verify: 'size' | 'sha256' = 'size'): Promise<ImageManifest | null> {
  const path = join(folder, MANIFEST_FILE);
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
    throw error;
  }
  const manifest = parseManifest(text, path);
  for (const file of manifest.files) {
    const present = await stat(join(folder, file.name)).catch(() => null);
    if (present?.size !== file.sizeBytes) {
      throw new ImageProblemError(
        'truncated',
        `${join(folder, file.name)} has ${present?.size ?? 'no'} bytes where its manifest says ${file.sizeBytes}. Build the image again.`,
      );
    }
    if (verify === 'sha256' && (await hashFile(join(folder, file.name))) !== file.sha256) {
      throw new ImageProblemError(
        'checksum',
        `${join(folder, file.name)} was changed since it was built. Build the image again.`,
      );
    }
  }
  return manifest;
}

function parseManifest(text: string, path: string): ImageManifest {
  const corrupt = (why: string): ImageProblemError =>
    new ImageProblemError('corrupt', `${path} ${why}. Build the image again.`);
  let value: Partial<ImageManifest> | null;
  try {
    value = JSON.parse(text) as Partial<ImageManifest> | null;
  } catch (error) {
    throw new ImageProblemError('corrupt', `${path} is not JSON. Build the image again.`, { cause: error });
  }
  if (typeof value !== 'object' || value === null) throw corrupt('is not an object');
  for (const field of ['name', 'version', 'recipe', 'firmware', 'kernelVersion'] as const) {
    if (typeof value[field] !== 'string') throw corrupt(`has no text in "${field}"`);
  }
  if (!Array.isArray(value.files)) throw corrupt('has no list "files"');
  for (const file of value.files) {
    const isPlain = typeof file?.name === 'string' && /^[A-Za-z0-9][A-Za-z0-9._-]*$/.test(file.name);
    if (!isPlain) throw corrupt(`names a file that is not a plain name (${JSON.stringify(file?.name)})`);
  }
  return value as ImageManifest;
}
