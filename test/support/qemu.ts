// What tests with real guests share: the image `tiny`, built once on a machine and kept in the clone's .lodge folder.
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
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
