// Programs that a daemon which was killed has left running on files of this one: they would go on writing what nobody
// waits for any more, beside the task that begins again.
import { basename } from 'node:path';
import { findProcesses, terminateProcess } from '../host/process.ts';

/** What Lodge runs on files in its data folder; guests' own processes are none of these. */
const programs: ReadonlySet<string> = new Set(['qemu-img', 'xorriso']);

/** Ends them; answers with their process ids. Before this daemon starts any such program itself. */
export async function endOrphanPrograms(dataDir: string): Promise<number[]> {
  const found = await findProcesses({
    matchesArguments: (argv) =>
      programs.has(basename(argv[0] ?? '')) && argv.some((word) => word.includes(`${dataDir}/`)),
  });
  await Promise.all(found.map(({ identity }) => terminateProcess(identity, { termTimeoutMs: 0 })));
  return found.map(({ identity }) => identity.pid);
}
