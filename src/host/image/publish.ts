// Puts a finished image folder in its place at once: readers see the old image, or the new one, never half of one.
import { randomUUID } from 'node:crypto';
import { mkdir, readdir, rename, rm } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { explainBuild } from './explain.ts';

/**
 * Calls `build` with an empty folder beside `outDir` and, when it succeeded, makes that folder `outDir`, in place of
 * what was there; `what` is named in errors. After a failure nothing is left. Several builds of one image at once are harmless: the last one stays.
 */
export async function publishFolder<T>(
  outDir: string,
  what: string,
  build: (folder: string) => Promise<T>,
): Promise<T> {
  await mkdir(dirname(outDir), { recursive: true });
  await removeAbandoned(outDir);
  const work = join(dirname(outDir), `.${basename(outDir)}.${process.pid}.${randomUUID()}`);
  const old = `${work}.old`;
  await mkdir(work);
  try {
    const result = await build(work);
    for (let attempt = 1; ; attempt++) {
      await rename(outDir, old).catch((error: NodeJS.ErrnoException) => {
        if (error.code !== 'ENOENT') throw error;
      });
      try {
        await rename(work, outDir);
        return result;
      } catch (error) {
        // Another build put its folder there in between.
        const isTaken = ['ENOTEMPTY', 'EEXIST'].includes((error as NodeJS.ErrnoException).code ?? '');
        if (!isTaken || attempt === 5) throw error;
        await rm(old, { recursive: true, force: true });
      }
    }
  } catch (error) {
    throw explainBuild(error, what);
  } finally {
    await rm(work, { recursive: true, force: true });
    await rm(old, { recursive: true, force: true });
  }
}

/** Removes the work folders of builds whose process was killed: some of them are gigabytes. */
async function removeAbandoned(outDir: string): Promise<void> {
  const prefix = `.${basename(outDir)}.`;
  for (const name of await readdir(dirname(outDir))) {
    const pid = name.startsWith(prefix) ? Number(/^(\d+)\./.exec(name.slice(prefix.length))?.[1] ?? 0) : 0;
    if (pid > 0 && !isRunning(pid)) await rm(join(dirname(outDir), name), { recursive: true, force: true });
  }
}

function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}
