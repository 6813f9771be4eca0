// What `npm start` tells to type next: commands that reach the very daemon it started, also one with a configuration of
// its own and a launcher that isn't in PATH.
import { dirname } from 'node:path';
import { defaultSocket } from '../src/cli/connect/connection.ts';
import { shellWord } from '../src/lib/shell-word.ts';

export interface Started {
  /** The configuration file that was named; null for the machine's own. */
  configPath: string | null;
  socketPath: string;
  /** Where the command lodge is. */
  launcher: string;
  /** PATH of whoever will type the commands. */
  searchPath: string;
}

/** The command lodge as it is to be typed here. */
export function lodgeCommand({ socketPath, launcher, searchPath }: Started): string {
  const command = searchPath.split(':').includes(dirname(launcher)) ? 'lodge' : launcher;
  return [command, ...(socketPath === defaultSocket ? [] : ['--socket', socketPath])].map(shellWord).join(' ');
}

/** The command that ends the daemon. */
export function stopCommand({ configPath }: Started): string {
  return configPath === null ? 'npm stop' : `npm stop -- --config ${shellWord(configPath)}`;
}
