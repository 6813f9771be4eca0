// What can be wrong with an image, as one error class whose code a caller can act on.

export type ImageProblem =
  /** Not readable as what it says it is, or its own consistency check failed. */
  | 'corrupt'
  /** Ends before it should. */
  | 'truncated'
  /** The bytes are not those the checksum was made of. */
  | 'checksum'
  /** A format that is not taken, or not the one that was declared. */
  | 'format'
  /** It names another file that it needs: backing file, external data file, extents elsewhere. */
  | 'backing-file'
  /** Larger than allowed, on disk or in the guest's eyes. */
  | 'too-large'
  | 'no-space'
  /** The server can't be reached, refused, or stopped answering. */
  | 'unreachable'
  /** An address that is not taken: another scheme than http or https, credentials in it, too many redirects. */
  | 'address'
  | 'not-found'
  /** A program or package that is needed is not there. */
  | 'missing-program'
  /** Packages could not be resolved, downloaded or installed. */
  | 'packages'
  | 'aborted'
  /** A value that the caller gave is not allowed. */
  | 'invalid';

/** An image could not be built, read or imported. The message says what was found and what to do. */
export class ImageProblemError extends Error {
  override name = 'ImageProblemError';
  readonly problem: ImageProblem;

  constructor(problem: ImageProblem, message: string, options?: { cause?: unknown }) {
    super(message, options);
    this.problem = problem;
  }
}
