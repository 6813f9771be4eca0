// Where the log and the live stream of a console meet. QEMU sends each piece of output to its client, if it has one, and
// then appends it to the log; so the log has everything, and the stream has what came after QEMU accepted the client.

/** How much of the stream's beginning is looked for in the log where the exact comparison fails. */
const HEAD_BYTES = 128;
/** What the log may lack of what had been received before it was read. */
const LAG_BYTES = 64;

/**
 * How many bytes of `log` came before the first byte of `received`. What of `received` is in the log is its beginning,
 * and stands at the end of the log; `receivedBefore` is how much of it had been received when the log was read.
 *
 * - The log has what had been received before, but for a few bytes that QEMU was just about to log. So the end of the log
 *   that is a beginning of the stream has that length. It can be taken for longer only where the output repeats itself
 *   exactly over all of it.
 * - A log that QEMU keeps for the socket itself can have single bytes twice (see chardev.ts), so that nothing agrees to
 *   the end; then the place is taken where the stream's beginning was last seen in the log.
 */
export function bytesBefore(log: Buffer, received: Buffer, receivedBefore: number): number {
  const overlap = overlapBytes(log, received);
  if (overlap >= Math.min(receivedBefore - LAG_BYTES, log.length)) return log.length - overlap;
  const found = log.lastIndexOf(received.subarray(0, HEAD_BYTES));
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
