// What the failure of a program means while an image is made.
import { CommandError } from '../command.ts';
import { ImageProblemError } from './problem.ts';

/** A failure of a build, as an {@link ImageProblemError} where it has a meaning of its own; `what` is being built. */
export function explainBuild(error: unknown, what: string): unknown {
  if (error instanceof ImageProblemError) return error;
  const noSpace = (): ImageProblemError =>
    new ImageProblemError('no-space', `There is no space left to build ${what}.`, { cause: error });
  if (!(error instanceof CommandError)) {
    const { code, name } = error as NodeJS.ErrnoException;
    if (code === 'ENOSPC' || code === 'EDQUOT') return noSpace();
    return name === 'AbortError' ? aborted(error, what) : error;
  }
  const program = error.argv[0] ?? '';
  if (error.reason === 'aborted') return aborted(error, what);
  if (error.reason === 'missing') {
    return new ImageProblemError('missing-program', `${program} is not installed; it is needed to build ${what}.`, {
      cause: error,
    });
  }
  if (/No space left on device|Disk quota exceeded|Could not allocate block|disk full/i.test(error.stderr))
    return noSpace();
  return error;
}

const aborted = (cause: unknown, what: string): ImageProblemError =>
  new ImageProblemError('aborted', `The build of ${what} was cancelled.`, { cause });
