// Which folders of this machine may be shared with a guest. A path is judged by where it leads in truth: every symbolic
// link on the way is resolved first, and whoever opens the folder afterwards must refuse links (LaunchFolder does).
import { realpath, stat } from 'node:fs/promises';

/** Why a folder is not shared. */
export type SharedFolderProblem = 'missing' | 'no-folder' | 'not-allowed' | 'own-data' | 'of-root' | 'unreadable';

/** A folder that can't be shared. `resolved`: where its path leads, as far as that is known. */
export class SharedFolderError extends Error {
  override name = 'SharedFolderError';
  readonly problem: SharedFolderProblem;
  readonly path: string;
  readonly resolved: string;

  constructor(problem: SharedFolderProblem, path: string, resolved: string, options?: ErrorOptions) {
    super(`${path} can not be shared (${problem})`, options);
    this.problem = problem;
    this.path = path;
    this.resolved = resolved;
  }
}

/** What may be shared. */
export interface SharedFolderRules {
  /** Only these folders and what is in them. One that does not exist allows nothing. */
  allowedRoots: readonly string[];
  /** None of these, nothing in them, and nothing that holds one of them; but what an allowed root inside them holds. */
  forbidden: readonly string[];
}

/** Whether `path` is `folder` or in it; both absolute and without links. */
export function isWithin(path: string, folder: string): boolean {
  return path === folder || path.startsWith(folder === '/' ? '/' : `${folder}/`);
}

/**
 * The folder that a path leads to, without symbolic links. One of root's may only be read: what a guest wrote there could
 * be a program that runs with root's rights.
 * @throws {@link SharedFolderError} saying what is in the way.
 */
export async function findSharedFolder(
  path: string,
  { allowedRoots, forbidden }: SharedFolderRules,
  isReadOnly: boolean,
): Promise<string> {
  const roots = await resolveAll(allowedRoots);
  let resolved: string;
  try {
    resolved = await realpath(path);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    // What lies outside is not looked at: whether it exists is nobody's business.
    if (!allowedRoots.some((root) => isWithin(path, root)))
      throw new SharedFolderError('not-allowed', path, path, { cause: error });
    const problem = code === 'ENOENT' ? 'missing' : code === 'ENOTDIR' ? 'no-folder' : 'unreadable';
    throw new SharedFolderError(problem, path, path, { cause: error });
  }
  const root = roots.filter((one) => isWithin(resolved, one)).toSorted((a, b) => b.length - a.length)[0];
  if (root === undefined) throw new SharedFolderError('not-allowed', path, resolved);
  for (const own of await resolveAll(forbidden)) {
    const isInAllowedPart = isWithin(root, own);
    if (isWithin(own, resolved) || (isWithin(resolved, own) && !isInAllowedPart))
      throw new SharedFolderError('own-data', path, resolved);
  }
  const { uid, isFolder } = await stat(resolved).then(
    (found) => ({ uid: found.uid, isFolder: found.isDirectory() }),
    (error: unknown) => {
      throw new SharedFolderError('unreadable', path, resolved, { cause: error });
    },
  );
  if (!isFolder) throw new SharedFolderError('no-folder', path, resolved);
  if (uid === 0 && !isReadOnly) throw new SharedFolderError('of-root', path, resolved);
  return resolved;
}

async function resolveAll(paths: readonly string[]): Promise<string[]> {
  const found = await Promise.all(paths.map((path) => realpath(path).catch(() => null)));
  return found.filter((path) => path !== null);
}
