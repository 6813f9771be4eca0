// Builds a guest image from Debian packages: node tools/build-image.ts tiny|tiny-pc|debian-12|debian-13 [--out DIR] [--refresh]
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { cacheDir } from '../src/host/image/cache.ts';
import type { BuildProgress } from '../src/host/image/progress.ts';
import { buildDebian } from '../src/host/image/debian.ts';
import type { ImageManifest } from '../src/host/image/manifest.ts';
import { buildTiny } from '../src/host/image/tiny.ts';

interface Options {
  outDir: string;
  refresh?: boolean;
  onProgress: (progress: BuildProgress) => void;
  signal: AbortSignal;
}

const BUILDERS: Record<string, (options: Options) => Promise<ImageManifest>> = {
  tiny: (options) => buildTiny({ ...options, cacheDir: join(cacheDir(), 'packages') }),
  'tiny-pc': (options) => buildTiny({ ...options, cacheDir: join(cacheDir(), 'packages'), variant: 'tiny-pc' }),
  'debian-12': (options) => buildDebian({ ...options, release: 'bookworm' }),
  'debian-13': (options) => buildDebian({ ...options, release: 'trixie' }),
};

const USAGE = `Usage: node tools/build-image.ts ${Object.keys(BUILDERS).join('|')} [--out DIR] [--refresh]`;

async function main(): Promise<void> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: { out: { type: 'string' }, refresh: { type: 'boolean' }, help: { type: 'boolean' } },
  });
  const [name = ''] = positionals;
  const build = BUILDERS[name];
  if (values.help || positionals.length !== 1 || !build) {
    console.error(USAGE);
    process.exitCode = values.help ? 0 : 2;
    return;
  }
  const outDir = resolve(values.out ?? join(cacheDir(), 'images', name));
  const abort = new AbortController();
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => abort.abort());
  const onProgress = ({ step, percent }: BuildProgress): void =>
    console.error(`${String(percent).padStart(3)} %  ${step}`);
  const manifest = await build({ outDir, refresh: values.refresh, onProgress, signal: abort.signal });
  console.log(`${outDir}: ${manifest.name} ${manifest.version}`);
}

main().catch((error: unknown) => {
  console.error(`build-image: ${error instanceof Error ? error.message : String(error)}`);
  process.exitCode = 1;
});
