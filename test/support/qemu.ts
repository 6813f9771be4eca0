// What tests with real guests share: the image `tiny`, built once on a machine and kept in the clone's .lodge folder.
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, readdir, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { run } from '../../src/host/command.ts';
import { downloadPackages, openApt } from '../../src/host/image/apt.ts';
import { type ImageManifest } from '../../src/host/image/manifest.ts';
import { buildTiny, type TinyVariant } from '../../src/host/image/tiny.ts';

const cache = join(import.meta.dirname, '../../.lodge/test');

/** The built image: its folder with vmlinux, initramfs.cpio and manifest.json. */
export interface TinyImage {
  folder: string;
  kernelPath: string;
  initramfsPath: string;
  manifest: ImageManifest;
}

const building = new Map<TinyVariant, Promise<TinyImage>>();

/** Builds `tiny` where it isn't there yet or its recipe has changed. Test files that ask at the same time wait for one build. */
export function tinyImage(variant: TinyVariant = 'tiny'): Promise<TinyImage> {
  let built = building.get(variant);
  if (!built) building.set(variant, (built = buildOnce(variant)));
  return built;
}

/** The kernel of `tiny` as distributions ship it, for a boot loader to load. */
export async function bootableKernel(): Promise<string> {
  const { manifest } = await tinyImage();
  const path = join(cache, `vmlinuz-${manifest.kernelVersion}`);
  if (existsSync(path)) return path;
  const name = `linux-image-${manifest.kernelVersion}`;
  const archives = join(cache, 'packages', 'apt', 'archives');
  const kept = (await readdir(archives).catch(() => [])).find((file) => file.startsWith(`${name}_`));
  const folder = await mkdtemp(join(cache, 'kernel-'));
  try {
    const apt = await openApt(join(cache, 'packages', 'apt'), name);
    const package_ = kept ? join(archives, kept) : (await downloadPackages(apt, [name]))[0]!.path;
    await run(['dpkg-deb', '-x', package_, folder], { timeoutMs: 120_000 });
    await rename(join(folder, 'boot', `vmlinuz-${manifest.kernelVersion}`), path);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
  return path;
}

async function buildOnce(variant: TinyVariant): Promise<TinyImage> {
  const folder = join(cache, variant);
  await mkdir(cache, { recursive: true });
  const manifest = await buildTiny({ outDir: folder, cacheDir: join(cache, 'packages'), variant });
  return {
    folder,
    kernelPath: join(folder, 'vmlinux'),
    initramfsPath: join(folder, 'initramfs.cpio'),
    manifest,
  };
}
