// Folders on this machine, for lodge vm cp -r: looked through to be sent, and written from what a guest gives. A guest
// is not trusted: nothing is written outside the folder, nor through a symbolic link, no device is made, and no file
// becomes set-user-id.
import { constants } from 'node:fs';
import {
  chmod,
  link,
  lstat,
  mkdir,
  open,
  readdir,
  readlink,
  rename,
  rm,
  stat,
  symlink,
  utimes,
} from 'node:fs/promises';
import { join } from 'node:path';
import { TarError, type TarEntry } from '../../lib/tar.ts';
import { usageError } from '../usage-error.ts';

/** More than that is no folder to send through a guest's agent. */
const maxEntries = 500_000;
const permissionBits = 0o777;

export interface LocalTree {
  /** Folders before what is in them; the first is the folder itself. */
  entries: TarEntry[];
  /** What is neither folder, file nor symbolic link, and is left out. */
  skipped: string[];
}

/** Looks through a folder. Symbolic links are told as such, not followed. */
export async function readTree(root: string): Promise<LocalTree> {
  const tree: LocalTree = { entries: [], skipped: [] };
  const look = async (path: string): Promise<void> => {
    const full = join(root, path);
    // The folder itself may be named by a link to it.
    const facts = await (path === '' ? stat(full) : lstat(full)).catch((cause: unknown) => {
      throw unreadable(full, cause);
    });
    const common = { path, mode: facts.mode & permissionBits, modifiedAtS: Math.floor(facts.mtimeMs / 1000) };
    if (tree.entries.length >= maxEntries) {
      throw usageError(`${root} has more than ${maxEntries} files and folders`, { hint: 'Copy its parts one by one.' });
    }
    if (facts.isDirectory()) {
      tree.entries.push({ ...common, type: 'folder' });
      const names = await readdir(full).catch((cause: unknown) => {
        throw unreadable(full, cause);
      });
      for (const name of names.toSorted()) await look(path === '' ? name : `${path}/${name}`);
    } else if (facts.isFile()) {
      tree.entries.push({ ...common, type: 'file', size: facts.size });
    } else if (facts.isSymbolicLink()) {
      tree.entries.push({ ...common, type: 'symlink', target: await readlink(full) });
    } else tree.skipped.push(full);
  };
  await look('');
  return tree;
}

function unreadable(path: string, cause: unknown): Error {
  const code = cause instanceof Error && 'code' in cause ? String(cause.code) : '';
  const why = { EACCES: 'this user may not read it', ENOENT: 'it is not there any more' }[code] ?? code;
  return usageError(`${path} can not be read: ${why}`, { hint: 'Nothing was copied.', cause });
}

/** Writes a folder, entry by entry. Links and the permissions of folders come last, by {@link finish}. */
export class TreeWriter {
  readonly #root: string;
  readonly #folders = new Map<string, { mode: number; modifiedAtS: number }>();
  readonly #links: Extract<TarEntry, { type: 'symlink' | 'hardlink' }>[] = [];
  /** Folders that are known to be there and to be no links. */
  readonly #sound = new Set<string>();
  readonly skipped: string[] = [];
  files = 0;
  bytes = 0;

  constructor(root: string) {
    this.#root = root;
  }

  /** Takes one entry; the content of a file is read to its end. */
  async add(entry: TarEntry, content: AsyncIterable<Uint8Array>): Promise<void> {
    const path = this.#checked(entry.path);
    switch (entry.type) {
      case 'folder':
        await this.#folder(path);
        this.#folders.set(path, entry);
        return;
      case 'file':
        await this.#folder(parentOf(path));
        await this.#file(path, entry.mode, entry.modifiedAtS, content);
        this.files += 1;
        return;
      case 'symlink':
      case 'hardlink':
        // Made at the end, so that nothing can be written through them.
        this.#links.push({ ...entry, path });
        return;
      case 'other':
        this.skipped.push(path);
    }
  }

  /** Makes the links and gives folders their permissions. */
  async finish(): Promise<void> {
    for (const entry of this.#links) {
      await this.#folder(parentOf(entry.path));
      const place = join(this.#root, entry.path);
      await this.#removeFile(place);
      if (entry.type === 'symlink') await symlink(entry.target, place);
      else {
        const target = this.#checked(entry.target);
        await this.#folder(parentOf(target));
        const original = join(this.#root, target);
        // Only to a file that came with this copy: not out through a link that was made just now.
        if ((await lstat(original).catch(() => null))?.isFile() !== true) this.skipped.push(entry.path);
        else await link(original, place);
      }
    }
    // The deepest first: a folder that must not be written any more would refuse what comes later.
    const folders = [...this.#folders].toSorted(([a], [b]) => b.length - a.length);
    for (const [path, { mode, modifiedAtS }] of folders) {
      const place = join(this.#root, path);
      await chmod(place, mode & permissionBits & ~process.umask());
      await utimes(place, modifiedAtS, modifiedAtS);
    }
  }

  #checked(path: string): string {
    const parts = path.split('/');
    if (path.startsWith('/') || path.includes('\0') || parts.includes('..')) {
      throw new TarError(`the guest sent the path ${JSON.stringify(path)}, which leads out of the folder`);
    }
    return parts.filter((part) => part !== '' && part !== '.').join('/');
  }

  async #folder(path: string): Promise<void> {
    if (this.#sound.has(path)) return;
    if (path !== '') await this.#folder(parentOf(path));
    const place = join(this.#root, path);
    await mkdir(place, { mode: 0o700 }).catch(async (cause: unknown) => {
      const there = path === '' ? null : await lstat(place).catch(() => null);
      if (path === '' || there?.isDirectory() === true) {
        if (cause instanceof Error && 'code' in cause && cause.code === 'EEXIST') return;
      }
      throw usageError(
        there === null ? `the folder ${place} can not be made` : `${place} is there already, and is no folder`,
        { hint: 'What was copied before it stays. Remove it, or copy to another place.', cause },
      );
    });
    this.#sound.add(path);
  }

  async #file(path: string, mode: number, modifiedAtS: number, content: AsyncIterable<Uint8Array>): Promise<void> {
    const place = join(this.#root, path);
    const temporary = `${place}.${process.pid}.part`;
    await rm(temporary, { force: true });
    const flags = constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW;
    const file = await open(temporary, flags, 0o600);
    try {
      // appendFile writes all of a chunk, or throws.
      for await (const chunk of content) {
        await file.appendFile(chunk);
        this.bytes += chunk.length;
      }
      await file.chmod(mode & permissionBits & ~process.umask());
      await file.utimes(modifiedAtS, modifiedAtS);
      await file.close();
      await rename(temporary, place).catch((cause: unknown) => {
        throw usageError(`${place} can not be replaced by a file`, { cause });
      });
    } finally {
      await file.close().catch(() => undefined);
      await rm(temporary, { force: true });
    }
  }

  async #removeFile(place: string): Promise<void> {
    const there = await lstat(place).catch(() => null);
    if (there?.isDirectory() === true) {
      throw usageError(`${place} is a folder there, and a link in the guest`, { hint: 'Remove it first.' });
    }
    await rm(place, { force: true });
  }
}

function parentOf(path: string): string {
  const end = path.lastIndexOf('/');
  return end === -1 ? '' : path.slice(0, end);
}
