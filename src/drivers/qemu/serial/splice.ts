// Where the log and the live stream of a console meet. QEMU sends each piece of output to its client, if it has one, and
// then appends it to the log; so the log has everything, and the stream has what came after QEMU accepted the client.

/** How much of the stream's beginning is looked for in the log where the exact comparison fails. */
const HEAD_BYTES = 128;
/** Shorter agreements are no evidence. */
const MIN_EVIDENCE_BYTES = 16;

/**
 * How many bytes of `log` came before the first byte of `received`. Both must have been read as the broker does: what of
 * `received` is in the log is its beginning, and stands at the end of the log.
 *
 * - If all of `received` has reached the log, the answer is certain. If the log lags, output that repeats itself exactly
 *   over the lag can make it too small by the length of the repetition.
 * - A log that QEMU keeps for the socket itself can have single bytes twice (see chardev.ts), so that nothing agrees to
 *   the end; then the place is taken where the stream's beginning was last seen in the log.
 */
export function bytesBefore(log: Buffer, received: Buffer): number {
  const overlap = overlapBytes(log, received);
  if (overlap >= Math.min(received.length, log.length) || overlap >= MIN_EVIDENCE_BYTES) return log.length - overlap;
  const head = received.subarray(0, HEAD_BYTES);
  const found = head.length >= MIN_EVIDENCE_BYTES ? log.lastIndexOf(head) : -1;
  return found === -1 ? log.length - overlap : found;
}

/** The length of the longest end of `log` that is a beginning of `received`. */
function overlapBytes(log: Buffer, received: Buffer): number {
  if (received.length === 0) return 0;
  // Knuth, Morris, Pratt: linear time for what a guest chooses.
  const borders = new Uint32Array(received.length);
  for (let at = 1, length = 0; at < received.length; at++) {
    while (length > 0 && received[at] !== received[length]) length = borders[length - 1] ?? 0;
    if (received[at] === received[length]) length++;
    borders[at] = length;
  }
  let matched = 0;
  for (const byte of log) {
    if (matched === received.length) matched = borders[matched - 1] ?? 0;
    while (matched > 0 && byte !== received[matched]) matched = borders[matched - 1] ?? 0;
    if (byte === received[matched]) matched++;
  }
  return matched;
}
