// The guest image `tiny` for tests: built once a machine and kept in the cache folder ($LODGE_CACHE_DIR, else
// ~/.cache/lodge), built again only when its sources change. A first build takes some ten seconds.
import { join } from 'node:path';
import { cacheDir } from '../../src/host/image/cache.ts';
import type { ImageManifest } from '../../src/host/image/manifest.ts';
import { buildTiny } from '../../src/host/image/tiny.ts';

export interface TinyImage {
  folder: string;
  /** Absolute paths, and the command line, for QEMU's -kernel, -initrd, -append. */
  kernel: string;
  initramfs: string;
  commandLine: string;
  manifest: ImageManifest;
}

let building: Promise<TinyImage> | null = null;

/** The image, built if need be. */
export function tinyImage(): Promise<TinyImage> {
  building ??= build();
  return building;
}

async function build(): Promise<TinyImage> {
  const folder = join(cacheDir(), 'images', 'tiny');
  const manifest = await buildTiny({ outDir: folder, cacheDir: join(cacheDir(), 'packages') });
  return {
    folder,
    kernel: join(folder, manifest.kernel ?? ''),
    initramfs: join(folder, manifest.initramfs ?? ''),
    commandLine: manifest.commandLine ?? '',
    manifest,
  };
}
