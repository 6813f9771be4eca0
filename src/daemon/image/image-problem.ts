// The host's errors about images and disks as Lodge's.
import { LodgeError, type ErrorCode } from '../../api/errors.ts';
import { ImageProblemError, type ImageProblem } from '../../host/image/problem.ts';

const codes: Record<ImageProblem, ErrorCode> = {
  corrupt: 'image_invalid',
  truncated: 'image_invalid',
  checksum: 'checksum_mismatch',
  format: 'image_invalid',
  'backing-file': 'image_invalid',
  'too-large': 'image_invalid',
  'no-space': 'storage_full',
  unreachable: 'download_failed',
  'not-found': 'not_found',
  'missing-program': 'unavailable',
  aborted: 'cancelled',
  address: 'invalid_request',
  packages: 'host_failed',
  invalid: 'invalid_request',
};

/** An error of src/host/image as the contract has it; others stay as they are. */
export function describeImageProblem(error: unknown): unknown {
  if (error instanceof ImageProblemError) return new LodgeError(codes[error.problem], error.message, { cause: error });
  const code = (error as NodeJS.ErrnoException | null)?.code;
  if (code === 'ENOSPC' || code === 'EDQUOT')
    return new LodgeError('storage_full', 'The file system that holds Lodge’s data is full.', { cause: error });
  return error;
}
