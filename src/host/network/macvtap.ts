// The character devices of macvtaps. The kernel names them by the index of their link (/dev/tap7), which is unique in one
// network namespace only, and udev may not be there: so the number of the device decides, and where its usual name is
// somebody else's, the device gets the name of its link.
import { readdir, readFile, rm, stat } from 'node:fs/promises';
import path from 'node:path';
import { run } from '../command.ts';
import { isLinkName, LinkError } from './link.ts';

/** The path of the device of a macvtap in this process's network namespace. Rejects with a LinkError. */
export async function findMacvtapDevice(name: string): Promise<string> {
  if (!isLinkName(name)) throw new RangeError(`${JSON.stringify(name)} is no name of a link`);
  const folder = `/sys/class/net/${name}/macvtap`;
  const [tap] = await readdir(folder).catch(() => []);
  if (tap === undefined) throw new LinkError(name, 'missing', `there is no macvtap ${name}`);
  const [major, minor] = (await readFile(path.join(folder, tap, 'dev'), 'utf8')).trim().split(':').map(Number);
  const usual = path.join('/dev', tap);
  if (await isDevice(usual, major!, minor!)) return usual;
  const own = path.join('/dev', name);
  if (!(await isDevice(own, major!, minor!))) {
    await rm(own, { force: true });
    await run(['mknod', '-m', '600', own, 'c', String(major), String(minor)]);
  }
  return own;
}

/** Removes the device that was made for a macvtap under its own name, if there is one. */
export async function removeMacvtapDevice(name: string): Promise<void> {
  if (!isLinkName(name)) throw new RangeError(`${JSON.stringify(name)} is no name of a link`);
  await rm(path.join('/dev', name), { force: true });
}

async function isDevice(file: string, major: number, minor: number): Promise<boolean> {
  try {
    const { rdev } = await stat(file);
    // gnu_dev_major and gnu_dev_minor of glibc's sysmacros, for numbers that fit into 32 bits.
    return ((rdev >> 8) & 0xfff) === major && ((rdev & 0xff) | ((rdev >> 12) & 0xfff00)) === minor;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return false;
    throw error;
  }
}
