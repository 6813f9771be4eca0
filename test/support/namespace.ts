// Network namespaces for tests, so that links, addresses and rules are made apart from the machine's own. A namespace
// goes with its links when the test ends; the run's leak check removes it when the test process was killed.
import { spawn, type ChildProcessByStdio } from 'node:child_process';
import { once } from 'node:events';
import { type Readable } from 'node:stream';
import { run, type CommandOptions, type CommandResult } from '../../src/host/command.ts';
import { atEnd, type Cleanup } from './cleanup.ts';
import { markedName } from './mark.ts';

export interface NetworkNamespace {
  /** Its name, for `ip netns`. */
  readonly name: string;
  /** Puts a command into the namespace: the words to start it with. */
  command: (argv: readonly string[]) => [string, ...string[]];
  /** Runs a command in the namespace. */
  run: (argv: readonly string[], options?: CommandOptions) => Promise<CommandResult>;
}

/** Makes a network namespace with `lo` up. Needs root. */
export async function networkNamespace(test: Cleanup): Promise<NetworkNamespace> {
  const name = `lodge-${markedName()}`;
  await run(['ip', 'netns', 'add', name]);
  atEnd(test, () => run(['ip', 'netns', 'delete', name]));
  const command = (argv: readonly string[]): [string, ...string[]] => ['ip', 'netns', 'exec', name, ...argv];
  const runInside: NetworkNamespace['run'] = (argv, options) => run(command(argv), options);
  await runInside(['ip', 'link', 'set', 'lo', 'up']);
  return { name, command, run: runInside };
}

/** Its links in their order: name, what it is a port of, and whether it is switched on; what the kernel finds out later is left away. */
export async function linksIn({ run: runInside }: NetworkNamespace): Promise<string[]> {
  const { stdout } = await runInside(['ip', '-json', 'link', 'show']);
  const links = JSON.parse(stdout) as { ifname: string; master?: string; flags: string[] }[];
  return links.map(({ ifname, master, flags }) => `${ifname} ${master ?? '-'} ${flags.includes('UP') ? 'up' : 'down'}`);
}

/** Runs a JavaScript module in a namespace until the test ends, as a server that a guest or the daemon talks to. */
export function serveIn(
  test: Cleanup,
  namespace: NetworkNamespace,
  program: string,
  ...args: string[]
): ChildProcessByStdio<null, Readable, null> {
  const argv = [process.execPath, '--input-type=module', '-e', program, ...args];
  const [command, ...rest] = namespace.command(argv);
  const server = spawn(command, rest, { stdio: ['ignore', 'pipe', 'inherit'] });
  atEnd(test, async () => {
    if (server.exitCode !== null || server.signalCode !== null) return;
    const ended = once(server, 'exit');
    server.kill('SIGKILL');
    await ended;
  });
  return server;
}
