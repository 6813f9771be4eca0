// Builds the web console into web/dist, compressed beforehand. What it is built from is hashed first: nothing is done when
// that has not changed, so that every `npm start` may ask for it.
//
//   npm run console:build
//
// Promises: web/dist is whole at any time, also when two build at once or one is interrupted.
import { createHash } from 'node:crypto';
import { glob, mkdir, readFile, rename, rm, unlink, writeFile } from 'node:fs/promises';
import { dirname, extname, join } from 'node:path';
import { promisify } from 'node:util';
import { brotliCompress, constants } from 'node:zlib';

const root = dirname(import.meta.dirname);
const folder = join(root, 'web');
const target = join(folder, 'dist');

/** Everything that goes into the console, or decides how it is built. */
const sources = [
  'web/**/*.{ts,tsx,css,html,svg,json}',
  'src/{api,client,lib}/**/*.ts',
  'tools/build-console.ts',
  'tools/console-config.ts',
  'package-lock.json',
];

async function hashOfSources(): Promise<string> {
  const paths: string[] = [];
  for await (const path of glob(sources, { cwd: root, exclude: ['web/dist*/**', '**/*.test.ts'] })) paths.push(path);
  const hash = createHash('sha256').update(process.version);
  for (const path of paths.toSorted()) hash.update(`\0${path}\0`).update(await readFile(join(root, path)));
  return hash.digest('hex');
}

async function builtHash(): Promise<string | null> {
  try {
    return (JSON.parse(await readFile(join(target, 'build.json'), 'utf8')) as { hash: string }).hash;
  } catch {
    return null;
  }
}

/** Replaces what compresses well by its compressed form. */
async function compressFiles(built: string): Promise<void> {
  const compress = promisify(brotliCompress);
  const paths: string[] = [];
  for await (const path of glob('**/*.{js,css,svg}', { cwd: built })) paths.push(join(built, path));
  for (const path of paths) {
    const content = await readFile(path);
    const isText = extname(path) !== '.svg' || content.length > 1000;
    if (!isText) continue;
    const params = {
      [constants.BROTLI_PARAM_QUALITY]: 11,
      [constants.BROTLI_PARAM_LGWIN]: 22,
      [constants.BROTLI_PARAM_SIZE_HINT]: content.length,
    };
    await writeFile(`${path}.br`, await compress(content, { params }));
    await unlink(path);
  }
}

/** Builds the console where it isn't built from what is there now. Answers whether it had to. */
export async function buildConsole(): Promise<boolean> {
  const hash = await hashOfSources();
  if ((await builtHash()) === hash) return false;
  // The bundler takes most of a second to load: only who builds waits for it.
  const [{ build }, { consoleConfig }] = await Promise.all([import('vite'), import('./console-config.ts')]);
  const own = join(folder, `dist-${process.pid}`);
  try {
    await build({ ...consoleConfig(folder), logLevel: 'warn', build: { ...consoleConfig(folder).build, outDir: own } });
    await compressFiles(own);
    await writeFile(join(own, 'build.json'), JSON.stringify({ hash }));
    const old = join(folder, `dist-${process.pid}-old`);
    await mkdir(target, { recursive: true });
    await rename(target, old);
    await rename(own, target);
    await rm(old, { recursive: true, force: true });
  } finally {
    await rm(own, { recursive: true, force: true });
  }
  return true;
}

if (import.meta.main) {
  const began = performance.now();
  const wasBuilt = await buildConsole();
  const seconds = ((performance.now() - began) / 1000).toFixed(2);
  console.log(wasBuilt ? `The console is built (${seconds} s).` : `The console is as it should be (${seconds} s).`);
}
