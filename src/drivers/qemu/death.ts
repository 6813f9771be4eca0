// What can be said of the end of a QEMU process that nobody asked to end.
import { readTail, type VmFolder } from './folder.ts';

export const outOfMemoryMessage = 'The kernel ended its QEMU process because memory ran out.';

const lastWordsBytes = 4096;

/** How a process ended, where its parent is this daemon. */
export interface ProcessEnd {
  code: number | null;
  signal: NodeJS.Signals | null;
}

/** Why a QEMU process may have ended: how, if that is known, and its own last words. */
export async function describeDeath(folder: VmFolder, end: ProcessEnd | null = null): Promise<string> {
  const words = await readTail(folder.processLog, lastWordsBytes).catch(() => Buffer.alloc(0));
  return deathMessage(words.toString('utf8'), end);
}

/** The sentence from the end of the process's log. */
export function deathMessage(log: string, end: ProcessEnd | null): string {
  const how = end?.signal
    ? `was ended by ${end.signal}`
    : end?.code
      ? `ended unexpectedly with code ${end.code}`
      : 'ended unexpectedly';
  const said = log
    .split('\n')
    // `-msg timestamp=on` begins each line with the time.
    .map((line) => line.replace(/^\d{4}-\d\d-\d\dT\S+Z /, '').trim())
    // A warning from its start says nothing about its end.
    .filter((line) => line !== '' && !line.includes(' warning: '))
    .at(-1);
  return said ? `Its QEMU process ${how}. It last said: ${said}` : `Its QEMU process ${how}, without a word.`;
}
