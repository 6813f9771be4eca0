// A change of the machine's own links that puts itself back: it is made by a small process of its own, which outlives
// this one and undoes it when nobody has confirmed it in time.
//
//   startGuardedChange ─▶ waiting ─┬─▶ confirmed      confirmGuardedChange
//                                  └─▶ reverting ─▶ reverted      the deadline, revertGuardedChange, a failure
//
// Promises: the state is the name of a file, and renaming it decides: a change is never confirmed and put back at once.
// While the guard lives, nothing else has to: not the daemon, not the connection it was asked for by. Where the guard
// itself was killed, the next look (`settleGuardedChange`) does its work.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { run } from '../command.ts';
import { findProcesses } from '../process.ts';
import { ipCommand, inScope, type NetworkScope } from './netns.ts';

export interface GuardedChange {
  /** For its files, of this change alone. In a place that the machine's next start empties, as it does the change. */
  readonly folder: string;
  /** Lines for `ip -batch`: the change, of which all must succeed. */
  readonly apply: readonly string[];
  /** The lines that put everything back, from wherever the change got to; those that can't be done are passed over. */
  readonly revert: readonly string[];
  /** How long a confirmation is waited for, in whole seconds; 0: it needs none. */
  readonly confirmTimeoutS: number;
}

export type GuardedChangeState =
  | { readonly state: 'none' | 'confirmed' | 'reverted' }
  | { readonly state: 'waiting'; readonly confirmBy: Date };

/** The change could not be made; everything is as it was. */
export class GuardedChangeError extends Error {
  override name = 'GuardedChangeError';
  constructor(said: string) {
    super(`the links of this machine could not be changed, and are as they were before: ${said}`);
  }
}

const guardPath = fileURLToPath(new URL('./guarded-change.pl', import.meta.url));
/** Longer than the kernel takes for any batch of ours. */
const applyTimeoutMs = 20_000;
/** How long a guard may be late before it counts as dead, on a loaded machine. */
const graceMs = 5000;

/** Makes the change. Resolves when it is made and, if it has to be, waits for its confirmation. Rejects with {@link GuardedChangeError}. */
export async function startGuardedChange(change: GuardedChange, scope: NetworkScope = {}): Promise<void> {
  const { folder, apply, revert, confirmTimeoutS } = change;
  await mkdir(folder, { recursive: true, mode: 0o700 });
  await forgetStates(folder);
  await writeFile(path.join(folder, 'apply'), `${apply.join('\n')}\n`);
  await writeFile(path.join(folder, 'revert'), `${revert.join('\n')}\n`);
  const confirmBy = new Date(Date.now() + confirmTimeoutS * 1000).toISOString();
  await writeFile(path.join(folder, 'waiting'), confirmBy);
  const [command, ...args] = inScope(scope, ['perl', guardPath, folder, String(confirmTimeoutS)]);
  const guard = spawn(command, args, { detached: true, cwd: '/', stdio: ['ignore', 'pipe', 'pipe'] });
  let said = '';
  guard.stderr.setEncoding('utf8').on('data', (text: string) => {
    if (said.length < 4000) said += text;
  });
  try {
    const failed = once(guard, 'error').then(([error]) => Promise.reject(error as Error));
    const [first] = (await Promise.race([
      once(guard.stdout.setEncoding('utf8'), 'data', { signal: AbortSignal.timeout(applyTimeoutMs) }),
      once(guard, 'close').then(() => ['']),
      failed,
    ])) as [string];
    if (first.startsWith('applied')) return;
  } catch (error) {
    said ||= error instanceof Error ? error.message : String(error);
  } finally {
    guard.unref();
    guard.stdout.destroy();
    guard.stderr.destroy();
  }
  await revertGuardedChange(folder, scope);
  await forgetStates(folder);
  throw new GuardedChangeError(said.trim() || 'the guard of the change ended');
}

/**
 * Tells how a change stands. One whose time is over is put back by its guard; where that is dead, here, so that the
 * answer `waiting` is always one that can still be confirmed.
 */
export async function settleGuardedChange(folder: string, scope: NetworkScope = {}): Promise<GuardedChangeState> {
  const waiting = await readOrNull(path.join(folder, 'waiting'));
  if (waiting !== null) {
    const confirmBy = new Date(waiting);
    if (Date.now() < confirmBy.getTime() + graceMs && (await hasGuard(folder))) return { state: 'waiting', confirmBy };
    await revertGuardedChange(folder, scope);
  } else if ((await exists(path.join(folder, 'reverting'))) && !(await hasGuard(folder)))
    await finishReverting(folder, scope);
  for (const state of ['confirmed', 'reverted'] as const) if (await exists(path.join(folder, state))) return { state };
  // Between two names: it is being put back at this moment.
  return { state: (await exists(path.join(folder, 'reverting'))) ? 'reverted' : 'none' };
}

/** Takes a change for good. False: it was put back, or there is none that waits. */
export function confirmGuardedChange(folder: string): Promise<boolean> {
  return renamed(path.join(folder, 'waiting'), path.join(folder, 'confirmed'));
}

/** Puts a change back that still waits. False: there is none. */
export async function revertGuardedChange(folder: string, scope: NetworkScope = {}): Promise<boolean> {
  if (!(await renamed(path.join(folder, 'waiting'), path.join(folder, 'reverting')))) return false;
  await finishReverting(folder, scope);
  return true;
}

/** Forgets a change, which stays as it is; one that waits is put back by nobody then. */
export async function removeGuardedChange(folder: string): Promise<void> {
  await rm(folder, { recursive: true, force: true });
}

async function forgetStates(folder: string): Promise<void> {
  for (const state of ['waiting', 'confirmed', 'reverting', 'reverted'])
    await rm(path.join(folder, state), { force: true });
}

async function finishReverting(folder: string, scope: NetworkScope): Promise<void> {
  const revert = await readOrNull(path.join(folder, 'revert'));
  // What has been put back already fails a second time, and is passed over.
  if (revert !== null) await run(ipCommand(scope, '-force', '-batch', '-'), { input: revert, okExitCodes: [0, 1, 2] });
  await renamed(path.join(folder, 'reverting'), path.join(folder, 'reverted'));
}

async function hasGuard(folder: string): Promise<boolean> {
  const found = await findProcesses({
    matchesArguments: (argv) => path.basename(argv[1] ?? '') === 'guarded-change.pl' && argv[2] === folder,
  });
  return found.length > 0;
}

async function renamed(from: string, to: string): Promise<boolean> {
  try {
    await rename(from, to);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return false;
    throw error;
  }
}

async function readOrNull(file: string): Promise<string | null> {
  try {
    return await readFile(file, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
    throw error;
  }
}

function exists(file: string): Promise<boolean> {
  return stat(file).then(
    () => true,
    () => false,
  );
}
