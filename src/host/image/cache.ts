// Where things are kept that can be made again at any time: downloaded packages, built images of tests.
import { homedir } from 'node:os';
import { join } from 'node:path';

/** $LODGE_CACHE_DIR, else lodge under $XDG_CACHE_HOME or ~/.cache. Deleting it costs only time. */
export function cacheDir(): string {
  const { LODGE_CACHE_DIR: own, XDG_CACHE_HOME: shared } = process.env;
  return own || join(shared || join(homedir(), '.cache'), 'lodge');
}
