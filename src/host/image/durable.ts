// Makes what was written survive a power failure.
import { open } from 'node:fs/promises';

/** Flushes a file, or a folder's list of names, to the disk. */
export async function makeDurable(path: string): Promise<void> {
  const handle = await open(path, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}
