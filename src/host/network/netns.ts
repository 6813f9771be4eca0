// The network namespace that links, rules and DHCP servers are worked on in. Without a name it is the caller's own, so
// that a whole daemon can also be started inside one.
import { readFile, writeFile } from 'node:fs/promises';
import { run } from '../command.ts';

/** Where host networking is done: in the caller's network namespace, or in the one that `ip netns` knows by this name. */
export interface NetworkScope {
  readonly netns?: string;
}

/** The command as it is run in the scope. nsenter joins the namespace and becomes the program, in place. */
export function inScope(scope: NetworkScope, argv: readonly [string, ...string[]]): [string, ...string[]] {
  if (scope.netns === undefined) return [...argv];
  return ['nsenter', `--net=/run/netns/${checkedName(scope.netns)}`, '--', ...argv];
}

/** `ip` with its own option for the namespace. */
export function ipCommand(scope: NetworkScope, ...args: string[]): [string, ...string[]] {
  return scope.netns === undefined ? ['ip', ...args] : ['ip', '-n', checkedName(scope.netns), ...args];
}

/** Reads a file of /proc/sys/net, which shows the namespace of the process that reads it. Null when the kernel has none. */
export async function readKernelFile(scope: NetworkScope, path: string): Promise<string | null> {
  if (scope.netns === undefined) {
    try {
      return await readFile(path, 'utf8');
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
      throw error;
    }
  }
  const { stdout, exitCode } = await run(inScope(scope, ['cat', path]), { okExitCodes: [0, 1] });
  return exitCode === 0 ? stdout : null;
}

/** Writes a file of /proc/sys/net in the scope. */
export async function writeKernelFile(scope: NetworkScope, path: string, text: string): Promise<void> {
  if (scope.netns === undefined) await writeFile(path, text);
  else await run(inScope(scope, ['tee', path]), { input: text });
}

function checkedName(netns: string): string {
  if (/^\w[\w.-]*$/.test(netns)) return netns;
  throw new RangeError(
    `${JSON.stringify(netns)} is no name of a network namespace: use letters, digits, "-", "_", "."`,
  );
}
