// qemu-img, confined: it reads bytes that others wrote, so it runs with bounds on memory and processor time, is always
// told the format, and gets absolute paths (a relative one could read as a protocol, "nbd:…").
import { isAbsolute } from 'node:path';
import { CommandError, run, type CommandOptions, type CommandResult } from '../command.ts';
import { ImageProblemError } from './problem.ts';

/** Bounds on inspecting an image, those that OpenStack's services use: 1 GiB of address space, 30 s of processor. */
const INSPECT_LIMITS = { addressSpaceBytes: 1024 ** 3, cpuSeconds: 30 } as const;
const INSPECT_TIMEOUT_MS = 60_000;

function requireAbsolute(paths: readonly string[]): void {
  const bad = paths.find((path) => !isAbsolute(path));
  if (bad !== undefined) throw new ImageProblemError('invalid', `${bad} must be an absolute path.`);
}

/** Runs qemu-img on files that may be hostile, with tight bounds. `paths` stand at the end of the command. */
export function inspectWithQemuImg(
  args: readonly string[],
  paths: readonly string[],
  options: CommandOptions & { cpuSeconds?: number } = {},
): Promise<CommandResult> {
  requireAbsolute(paths);
  const limits = [
    `--as=${INSPECT_LIMITS.addressSpaceBytes}`,
    `--cpu=${options.cpuSeconds ?? INSPECT_LIMITS.cpuSeconds}`,
    '--core=0',
  ];
  return run(['prlimit', ...limits, '--', 'qemu-img', ...args, ...paths], {
    timeoutMs: INSPECT_TIMEOUT_MS,
    ...options,
  });
}

/** Runs qemu-img without those bounds, for work on whole images: `qemu-img ARGS PATHS LAST`. */
export function runQemuImg(
  args: readonly string[],
  paths: readonly string[],
  options: CommandOptions = {},
  last: readonly string[] = [],
): Promise<CommandResult> {
  requireAbsolute(paths);
  return run(['qemu-img', ...args, ...paths, ...last], { timeoutMs: INSPECT_TIMEOUT_MS, ...options });
}

/** What qemu-img's failure means for the image. `label` names it. */
export function explainQemuImg(error: unknown, label: string): ImageProblemError {
  if (error instanceof ImageProblemError) return error;
  if (!(error instanceof CommandError)) {
    return new ImageProblemError('corrupt', `${label} could not be read.`, { cause: error });
  }
  const said = error.stderr;
  if (error.reason === 'missing') {
    return new ImageProblemError(
      'missing-program',
      `${error.argv[0]} is not installed (Debian: qemu-utils, util-linux).`,
      { cause: error },
    );
  }
  if (error.reason === 'aborted')
    return new ImageProblemError('aborted', `Work on ${label} was cancelled.`, { cause: error });
  if (/No space left on device|Disk quota exceeded/.test(said)) {
    return new ImageProblemError('no-space', `There was no space left while working on ${label}.`, { cause: error });
  }
  if (error.reason === 'timeout') {
    return new ImageProblemError('corrupt', `${label} kept qemu-img busy beyond its deadline.`, { cause: error });
  }
  // What it says names the file by where Lodge has it.
  const paths = error.argv.filter((word) => isAbsolute(word) && word !== label);
  const lines = said
    .split('\n')
    .map((line) =>
      paths.reduce((text, path) => text.replaceAll(path, 'the image'), line.replace(/^qemu-img: /, '').trim()),
    );
  const reason = lines.find(Boolean) ?? 'it gave no reason';
  return new ImageProblemError('corrupt', `${label} can't be read: ${reason.slice(0, 300)}`, { cause: error });
}
