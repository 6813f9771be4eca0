// What tests with real guests share: the image `tiny`, built once on a machine and kept in the clone's .lodge folder.
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { type ImageManifest } from '../../src/host/image/manifest.ts';
import { buildTiny } from '../../src/host/image/tiny.ts';

const cache = join(import.meta.dirname, '../../.lodge/test');

/** The built image: its folder with vmlinux, initramfs.cpio and manifest.json. */
export interface TinyImage {
  folder: string;
  kernelPath: string;
  initramfsPath: string;
  manifest: ImageManifest;
}

let building: Promise<TinyImage> | null = null;

/** Builds `tiny` where it isn't there yet or its recipe has changed. Test files that ask at the same time wait for one build. */
export function tinyImage(): Promise<TinyImage> {
  building ??= buildOnce();
  return building;
}

async function buildOnce(): Promise<TinyImage> {
  const folder = join(cache, 'tiny');
  await mkdir(cache, { recursive: true });
  const manifest = await buildTiny({ outDir: folder, cacheDir: join(cache, 'packages') });
  return {
    folder,
    kernelPath: join(folder, 'vmlinux'),
    initramfsPath: join(folder, 'initramfs.cpio'),
    manifest,
  };
}
