// Builds a guest image from Debian packages: node tools/build-image.ts tiny|debian-12|debian-13 [--out DIR] [--refresh]
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { cacheDir } from '../src/host/image/cache.ts';
import type { BuildProgress } from '../src/host/image/progress.ts';
import { buildTiny } from '../src/host/image/tiny.ts';

const USAGE = 'Usage: node tools/build-image.ts tiny [--out DIR] [--refresh]';

async function main(): Promise<void> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: { out: { type: 'string' }, refresh: { type: 'boolean' }, help: { type: 'boolean' } },
  });
  const [name] = positionals;
  if (values.help || positionals.length !== 1 || name !== 'tiny') {
    console.error(USAGE);
    process.exitCode = values.help ? 0 : 2;
    return;
  }
  const outDir = resolve(values.out ?? join(cacheDir(), 'images', name));
  const abort = new AbortController();
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => abort.abort());
  const onProgress = ({ step, percent }: BuildProgress): void =>
    console.error(`${String(percent).padStart(3)} %  ${step}`);
  const manifest = await buildTiny({
    outDir,
    cacheDir: join(cacheDir(), 'packages'),
    refresh: values.refresh,
    onProgress,
    signal: abort.signal,
  });
  console.log(`${outDir}: ${manifest.name} ${manifest.version}`);
}

main().catch((error: unknown) => {
  console.error(`build-image: ${error instanceof Error ? error.message : String(error)}`);
  process.exitCode = 1;
});
