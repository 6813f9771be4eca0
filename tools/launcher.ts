// Puts the command `lodge` into PATH: a symbolic link to bin/lodge of this clone. It never replaces what it did not
// make: a file, or a link to anything that is there and isn't a lodge launcher.
import { lstat, readlink, rename, rm, stat, symlink } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';

export type LauncherResult =
  | { outcome: 'there' }
  | { outcome: 'linked'; instead: string | null }
  | { outcome: 'refused'; reason: string };

/** Links `path` to `launcher` where nothing, a broken link, or a link to another clone's launcher is in the way. */
export async function linkLauncher(launcher: string, path: string): Promise<LauncherResult> {
  let instead: string | null = null;
  const found = await lstat(path).catch(() => null);
  if (found !== null) {
    if (!found.isSymbolicLink()) return { outcome: 'refused', reason: `${path} is another program's file` };
    const target = resolve(dirname(path), await readlink(path));
    if (target === launcher) return { outcome: 'there' };
    const isThere = (await stat(path).catch(() => null)) !== null;
    if (isThere && !target.endsWith('/bin/lodge'))
      return { outcome: 'refused', reason: `${path} is a link to ${target}` };
    instead = target;
  }
  const folder = await stat(dirname(path)).catch(() => null);
  if (!folder?.isDirectory()) return { outcome: 'refused', reason: `there is no folder ${dirname(path)}` };
  // Made beside it and moved over it, so that the name is there at every moment.
  const temporary = `${path}.new-${process.pid}`;
  await symlink(launcher, temporary);
  try {
    await rename(temporary, path);
  } catch (error) {
    await rm(temporary, { force: true });
    throw error;
  }
  return { outcome: 'linked', instead };
}
