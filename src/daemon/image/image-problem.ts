// The host's errors about images and disks as Lodge's.
import { LodgeError, type ErrorCode } from '../../api/errors.ts';
import { type ImageSpec } from '../../api/image.ts';
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

/** An error of src/host/image as the contract has it; others stay as they are. `source` lets it name the field. */
export function describeImageProblem(error: unknown, source?: ImageSpec['source']): unknown {
  if (error instanceof ImageProblemError) {
    const field = source && fieldOf(error.problem, source);
    const fields = field === undefined ? undefined : [{ field, message: error.message }];
    // What is missing at an address is no object of Lodge's.
    const code = source?.type === 'url' && error.problem === 'not-found' ? 'download_failed' : codes[error.problem];
    return new LodgeError(code, error.message, { cause: error, fields });
  }
  const code = (error as NodeJS.ErrnoException | null)?.code;
  if (code === 'ENOSPC' || code === 'EDQUOT')
    return new LodgeError('storage_full', 'The file system that holds Lodge’s data is full.', { cause: error });
  return error;
}

/** The field of an image's spec that a problem is about, where it is about one. */
function fieldOf(problem: ImageProblem, source: ImageSpec['source']): string | undefined {
  if (problem === 'checksum') return 'spec.source.checksum';
  if (['no-space', 'aborted', 'missing-program', 'packages'].includes(problem)) return undefined;
  return { url: 'spec.source.url', file: 'spec.source.path', upload: undefined, build: undefined }[source.type];
}
