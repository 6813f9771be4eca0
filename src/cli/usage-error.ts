// What is wrong with a command line, a file or a value that was given: found here, before anything is sent.
import { LodgeError, type LodgeErrorOptions } from '../api/errors.ts';

/** An error that ends with exit code 2. Without a hint there is none: the contract's own speaks of requests. */
export function usageError(message: string, options: LodgeErrorOptions = {}): LodgeError {
  return new LodgeError('invalid_request', message, { ...options, hint: options.hint ?? '' });
}
