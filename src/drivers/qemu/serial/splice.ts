// Where the log and the live stream of a console meet. QEMU sends each piece of output to its client, if it has one, and
// then appends it to the log; so the log has everything, and the stream has what came after QEMU accepted the client.

/**
 * How many of the last bytes of `log` are the first bytes of `received`: the longest end of the one that is the beginning
 * of the other. What stands before them in the log came before the stream.
 *
 * If all of `received` has reached the log, that is the answer for certain, because it is the longest possible. If the
 * log lags, output that repeats itself exactly over the lag can make the answer too long, which leaves out that many
 * bytes of the repetition.
 */
export function overlapBytes(log: Uint8Array, received: Uint8Array): number {
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
