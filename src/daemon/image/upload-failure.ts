// What the status of an image says after content that was sent for it was refused.

/** Why an image waits for its content once more, from what was wrong with what was sent. */
export function uploadFailure(problem: unknown): string {
  const why = typeof problem === 'string' ? ` (${problem.replace(/\.$/, '')})` : '';
  return `What was sent last could not be imported${why}; it waits for another upload.`;
}
