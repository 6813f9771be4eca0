// Temporary folders of tests: under one folder a run, removed when the test that asked for them ends, however it ends.
import { rmSync } from 'node:fs';
import { chmod, mkdir, mkdtemp, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { atEnd, type Cleanup } from './cleanup.ts';
import { markedFolder, runMark } from './mark.ts';

export type { Cleanup };

/**
 * Makes an empty folder that is gone after the test. Its path is short (some 25 characters), because unix socket
 * paths end at 108. With mode 0711, so that unprivileged processes reach what they are given in it.
 */
export async function temporaryFolder(test: Cleanup, mode = 0o711): Promise<string> {
  const base = markedFolder(runMark());
  const isOwn = (await mkdir(base, { recursive: true, mode: 0o711 })) !== undefined;
  // A test file that is run on its own has no run around it that removes the folder of the mark.
  if (isOwn) process.once('exit', () => rmSync(base, { recursive: true, force: true }));
  const folder = await mkdtemp(join(base, '/'));
  await chmod(folder, mode);
  atEnd(test, () => rm(folder, { recursive: true, force: true, maxRetries: 3 }));
  return folder;
}
