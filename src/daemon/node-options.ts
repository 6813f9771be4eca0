// How Node is to be started for the daemon: the one list for `npm start`, the tests and docs/lodge.service.

/**
 * Options of Node itself, before the program's name.
 *
 * Node lets the space for new objects grow to three times 16 MiB and more before it looks for what has died in it, and
 * never gives it back; with lists of 10,000 VMs that alone is a third of the daemon's memory (270 MiB, and 185 with this;
 * the times of requests are the same). V8 fixes it when it starts, so the program can't set it for itself.
 */
export const nodeOptions: readonly string[] = ['--max-semi-space-size=8'];
