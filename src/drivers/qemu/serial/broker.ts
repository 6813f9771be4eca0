// Shares the serial console of one VM among those who look at it. QEMU serves one client on the console's socket
// (see chardev.ts); the broker is that client while there are viewers.
//
//   idle ──first viewer──► joining ──first output──► live
//    ▲                        └── last viewer gone, or QEMU ended ──┘
//
// A viewer gets the last 64 KiB and then everything, without a gap and without anything twice:
// - While the broker is live, it keeps the last 64 KiB itself; a viewer that comes gets a copy and the stream from there.
// - Joining, it first shows the end of the log, then connects. What QEMU writes before it has accepted the connection
//   is only in the log, what it writes afterwards in both. QEMU sends each piece before it logs it; so whenever the log
//   has grown and, after that, nothing has been received, all of it is from before and is shown. With the first byte
//   received, the log is read once more and the end of it that equals the beginning of what was received is left out
//   (see splice.ts for the cases where this can err, by some bytes in the very instant of connecting).
//
// Invariants:
// - The socket is always read, however slow viewers are: a console whose output nobody takes would halt the guest's
//   writes. A viewer that falls behind is dropped instead.
// - After the last viewer the connection is held until the guest is quiet: output on its way to a client that has gone
//   is lost to the log (see chardev.ts). It is ended whole, never half: QEMU forgets to go on with a byte that waits for room when it reads an end of file,
//   and the guest's console would stand still until the next client.
// - The log is not rotated while joining, so offsets into it hold.
import { setImmediate as nextTurn, setTimeout as sleep } from 'node:timers/promises';
import type { Socket } from 'node:net';
import { dial } from '../qmp/dial.ts';
import { SerialLog, type SerialLogOptions } from './log.ts';
import { bytesBefore } from './splice.ts';
import { SerialViewer } from './viewer.ts';
import { SerialWatch } from './watch.ts';

export interface SerialBrokerOptions extends SerialLogOptions {
  /** What a viewer gets of earlier output, in bytes. Default 64 KiB. */
  replayBytes?: number;
  /** Output that may wait for a viewer, in bytes; with more it is dropped. Default 1 MiB. */
  maxBufferedBytes?: number;
  /** How long `close` waits for a quiet moment, in milliseconds. Default 1 s. */
  lingerMs?: number;
  /** To connect to QEMU, in milliseconds. Default 5 s. */
  connectTimeoutMs?: number;
  /** How often the size of the log is looked at, in milliseconds. Default 5 s. When it grows is noted as it does. */
  rotationCheckMs?: number;
  /** Told when the log could not be rotated or read; the console goes on. Default: a process warning. */
  onLogError?: (error: unknown) => void;
}

/** While nothing is received after connecting, the log is looked at after these pauses, in milliseconds. */
const QUIET_LOOKS_MS = [20, 50, 100, 200, 500, 1000, 2000];
const MAX_VIEWERS = 64;
/** What is read at most of what the log has gained since it was shown; far more than a socket holds. */
const MAX_GAIN_BYTES = 4 * 1024 * 1024;
/** QEMU logs what it has sent within microseconds, unless the host has better things to do. */
const SETTLE_MS = 10;
const MUCH_BYTES = 256;
/** How long a console that prints a little all the time may be held back. */
const MAX_JOIN_MS = 500;
/** A console that has printed nothing for so long is taken to be quiet. */
const QUIET_MS = 100;

export class SerialBroker {
  readonly path: string;
  readonly log: SerialLog;
  readonly #options: SerialBrokerOptions;
  readonly #replayBytes: number;
  readonly #viewers = new Set<SerialViewer>();
  readonly #rotationTimer: NodeJS.Timeout;
  readonly #watch: SerialWatch | null;
  readonly #maxFileBytes: number;
  #feed: Feed | null = null;
  #isClosed = false;
  #isRotating = false;
  #bytesSinceCheck = 0;

  /** `path` is the console's socket, `logPath` the file QEMU logs it to. Does nothing until somebody attaches. */
  constructor(path: string, logPath: string, options: SerialBrokerOptions = {}) {
    this.path = path;
    this.log = new SerialLog(logPath, options);
    this.#options = options;
    this.#replayBytes = options.replayBytes ?? 64 * 1024;
    this.#maxFileBytes = options.maxFileBytes ?? 1024 * 1024;
    this.#rotationTimer = setInterval(() => void this.#checkLog(), options.rotationCheckMs ?? 5000);
    this.#rotationTimer.unref();
    this.#watch =
      options.timesPath === undefined
        ? null
        : new SerialWatch(this.log, { onError: (error) => this.#reportLogError(error) });
  }

  get viewerCount(): number {
    return this.#viewers.size;
  }

  /**
   * A new viewer, which has the kept output to read already. Its stream ends when QEMU does. Rejects with the error of
   * connecting (DialError), or when there are too many viewers.
   */
  async attach(): Promise<SerialViewer> {
    if (this.#isClosed) throw new Error('the serial console was closed');
    if (this.#viewers.size >= MAX_VIEWERS) throw new Error(`the serial console has ${MAX_VIEWERS} viewers already`);
    const feed = (this.#feed ??= this.#newFeed());
    const viewer = new SerialViewer(
      {
        write: (data, done) => {
          if (feed.isEnded) done(new Error('the console has ended'));
          else feed.write(data, done);
        },
        detach: (gone) => {
          this.#viewers.delete(gone);
          this.#releaseIfUnused(feed);
        },
      },
      Math.max(this.#options.maxBufferedBytes ?? 1024 * 1024, this.#replayBytes),
    );
    // Counted from here on, so that the feed stays while it connects.
    this.#viewers.add(viewer);
    try {
      await feed.connected;
    } catch (error) {
      viewer.destroy();
      throw error;
    }
    // From here to the end without a pause: the copy and the stream meet exactly.
    if (feed.isEnded) {
      viewer.show(feed.history());
      viewer.finish();
    } else {
      feed.add(viewer);
    }
    return viewer;
  }

  /**
   * Ends all viewers at once, and the connection when the guest is quiet or at the latest after `lingerMs`; resolves
   * then. QEMU is not affected.
   */
  async close(): Promise<void> {
    if (!this.#isClosed) {
      this.#isClosed = true;
      clearInterval(this.#rotationTimer);
      this.#watch?.close();
      for (const viewer of this.#viewers) viewer.finish();
    }
    const feed = this.#feed;
    if (!feed) return;
    feed.endWhenQuiet(() => false);
    const deadline = setTimeout(() => feed.end(), this.#options.lingerMs ?? 1000);
    await feed.ended;
    clearTimeout(deadline);
  }

  #newFeed(): Feed {
    const feed: Feed = new Feed(this.path, this.log, this.#replayBytes, {
      connectTimeoutMs: this.#options.connectTimeoutMs ?? 5000,
      onOutput: (bytes) => {
        this.#bytesSinceCheck += bytes;
        if (this.#bytesSinceCheck > this.#maxFileBytes) void this.#checkLog();
      },
      onEnd: () => {
        if (this.#feed === feed) this.#feed = null;
      },
      onLogError: (error) => this.#reportLogError(error),
    });
    return feed;
  }

  #releaseIfUnused(feed: Feed): void {
    if (this.#feed !== feed || this.#viewers.size > 0) return;
    feed.endWhenQuiet(() => !this.#isClosed && this.#viewers.size > 0);
  }

  async #checkLog(): Promise<void> {
    this.#watch?.look();
    if (this.#isRotating || this.#feed?.isJoining) return;
    this.#isRotating = true;
    this.#bytesSinceCheck = 0;
    try {
      await this.log.rotateIfNeeded();
    } catch (error) {
      this.#reportLogError(error);
    } finally {
      this.#isRotating = false;
    }
  }

  #reportLogError(error: unknown): void {
    if (this.#options.onLogError) this.#options.onLogError(error);
    else process.emitWarning(`the log of the serial console ${this.log.path}: ${String(error)}`);
  }
}

interface FeedOptions {
  readonly connectTimeoutMs: number;
  readonly onOutput: (bytes: number) => void;
  readonly onEnd: () => void;
  readonly onLogError: (error: unknown) => void;
}

/** One connection to the console, from its first viewer to its end. */
class Feed {
  /** Settles when the kept output is known and QEMU is connected. */
  readonly connected: Promise<void>;
  /** Resolves when the connection is ended. */
  readonly ended: Promise<void>;
  #resolveEnded: () => void = () => {};
  readonly #log: SerialLog;
  readonly #replayBytes: number;
  readonly #options: FeedOptions;
  readonly #viewers = new Set<SerialViewer>();
  #socket: Socket | null = null;
  /** Received while joining, not shown yet. */
  #held: Buffer[] = [];
  #heldBytes = 0;
  /** When the first of it was received, on the clock of `performance`. */
  #joinedAt = 0;
  /** The last bytes that were shown: a ring, `#ringAt` being where the next byte goes. */
  readonly #ring: Buffer;
  #ringAt = 0;
  #isRingFull = false;
  /** Up to where the log has been shown. */
  #logEnd = 0;
  #state: 'joining' | 'live' | 'ended' = 'joining';
  #isLooking = false;
  #timer: NodeJS.Timeout | null = null;
  #lingering: NodeJS.Timeout | null = null;
  /** When something was received last, on the clock of `performance`. */
  #outputAt = 0;

  constructor(path: string, log: SerialLog, replayBytes: number, options: FeedOptions) {
    this.#log = log;
    this.#replayBytes = replayBytes;
    this.#ring = Buffer.alloc(replayBytes);
    this.#options = options;
    this.ended = new Promise((resolve) => {
      this.#resolveEnded = resolve;
    });
    this.connected = this.#connect(path);
    // Whoever attaches awaits it; nobody may be left when it fails.
    this.connected.catch(() => {});
  }

  get isJoining(): boolean {
    return this.#state === 'joining';
  }

  get isEnded(): boolean {
    return this.#state === 'ended';
  }

  /** What was shown last, at most the replay. */
  history(): Buffer {
    const newest = this.#ring.subarray(0, this.#ringAt);
    return Buffer.concat(this.#isRingFull ? [this.#ring.subarray(this.#ringAt), newest] : [newest]);
  }

  /** Shows the viewer what was shown so far, and everything from now on. */
  add(viewer: SerialViewer): void {
    const history = this.history();
    if (history.length > 0) viewer.show(history);
    this.#viewers.add(viewer);
    viewer.once('close', () => this.#viewers.delete(viewer));
  }

  write(data: Buffer, done: (error?: Error | null) => void): void {
    if (this.#socket) this.#socket.write(data, done);
    else done(new Error('the console has ended'));
  }

  /** Ends it in the next quiet moment, unless `isUsed` by then. */
  endWhenQuiet(isUsed: () => boolean): void {
    if (this.#lingering) return;
    this.#lingering = setInterval(() => {
      const isQuiet = performance.now() - this.#outputAt >= QUIET_MS;
      if (!isUsed() && !isQuiet) return;
      if (this.#lingering) clearInterval(this.#lingering);
      this.#lingering = null;
      if (!isUsed()) this.end();
    }, QUIET_MS / 4);
  }

  end(): void {
    if (this.#state === 'ended') return;
    if (this.#lingering) clearInterval(this.#lingering);
    // Held bytes are real output, though where they join the log is not known for certain any more.
    this.#show(Buffer.concat(this.#held));
    this.#forgetHeld();
    this.#state = 'ended';
    if (this.#timer) clearTimeout(this.#timer);
    this.#socket?.destroy();
    this.#socket = null;
    this.#options.onEnd();
    this.#resolveEnded();
    for (const viewer of this.#viewers) viewer.finish();
    this.#viewers.clear();
  }

  async #connect(path: string): Promise<void> {
    try {
      const tail = await this.#log.tail(this.#replayBytes).catch((error: unknown) => {
        // A console without its past is better than none.
        this.#options.onLogError(error);
        return null;
      });
      if (tail && tail.bytes.length > 0) this.#remember(tail.bytes);
      this.#logEnd = tail?.end ?? 0;
      if (!tail) this.#state = 'live';
      const socket = await dial(path, this.#options.connectTimeoutMs);
      if (this.#state === 'ended') {
        socket.destroy();
        throw new Error('the serial console was closed');
      }
      this.#socket = socket;
      this.#outputAt = performance.now();
      socket.on('data', (chunk: Buffer) => this.#receive(chunk));
      socket.on('end', () => this.end());
      socket.on('error', () => this.end());
      socket.on('close', () => this.end());
      this.#lookLater(0);
    } catch (error) {
      this.end();
      throw error;
    }
  }

  #receive(chunk: Buffer): void {
    this.#outputAt = performance.now();
    if (this.#state === 'live') {
      this.#show(chunk);
      return;
    }
    if (this.#heldBytes === 0) this.#joinedAt = this.#outputAt;
    this.#held.push(chunk);
    this.#heldBytes += chunk.length;
    void this.#look();
  }

  #lookLater(step: number): void {
    const delayMs = QUIET_LOOKS_MS[step];
    if (delayMs === undefined || this.#state !== 'joining') return;
    this.#timer = setTimeout(() => {
      void this.#look().then(() => this.#lookLater(step + 1));
    }, delayMs);
  }

  /** Looks at what the log has gained since it was shown, and goes live when something has been received. */
  async #look(): Promise<void> {
    if (this.#isLooking || this.#state !== 'joining') return;
    this.#isLooking = true;
    try {
      for (;;) {
        const startedAt = performance.now();
        const heldBefore = this.#heldBytes;
        const { bytes, end } = await this.#log.readFrom(this.#logEnd, MAX_GAIN_BYTES);
        // Two turns of the event loop lie around one reading of the sockets: after them, everything that QEMU sent
        // before it logged those bytes has been received.
        await nextTurn();
        await nextTurn();
        if (this.#state !== 'joining') return;
        if (this.#heldBytes === 0) {
          this.#logEnd = end;
          this.#show(this.#lastOf(bytes));
          return;
        }
        // The log lags by what QEMU is about to write. That is known to be nothing when all has been quiet, and makes
        // no difference when much has been received; a few bytes alone could be mistaken for others.
        const isSettled = heldBefore === this.#heldBytes && startedAt - this.#outputAt >= SETTLE_MS;
        const isMuch = heldBefore >= MUCH_BYTES;
        if (!isSettled && !isMuch && startedAt - this.#joinedAt < MAX_JOIN_MS) {
          await sleep(SETTLE_MS);
          continue;
        }
        const received = Buffer.concat(this.#held);
        this.#forgetHeld();
        this.#state = 'live';
        // More received than logged is more than was read of the log: nothing can be from before.
        const isBehind = received.length > bytes.length && bytes.length === MAX_GAIN_BYTES;
        const before = isBehind ? 0 : bytesBefore(bytes, received, heldBefore);
        this.#show(this.#lastOf(bytes.subarray(0, before)));
        this.#show(received);
        return;
      }
    } catch (error) {
      this.#options.onLogError(error);
      const received = Buffer.concat(this.#held);
      this.#forgetHeld();
      if (this.#state === 'joining') this.#state = 'live';
      this.#show(received);
    } finally {
      this.#isLooking = false;
    }
  }

  #forgetHeld(): void {
    this.#held = [];
    this.#heldBytes = 0;
  }

  /** Of much that was missed, viewers get as much as a new one would. */
  #lastOf(bytes: Buffer): Buffer {
    return bytes.subarray(Math.max(0, bytes.length - this.#replayBytes));
  }

  #show(bytes: Buffer): void {
    if (bytes.length === 0) return;
    this.#remember(bytes);
    for (const viewer of this.#viewers) viewer.show(bytes);
    this.#options.onOutput(bytes.length);
  }

  #remember(bytes: Buffer): void {
    const size = this.#ring.length;
    const last = bytes.subarray(Math.max(0, bytes.length - size));
    const first = last.subarray(0, size - this.#ringAt);
    first.copy(this.#ring, this.#ringAt);
    last.copy(this.#ring, 0, first.length);
    const at = this.#ringAt + last.length;
    this.#isRingFull ||= at >= size;
    this.#ringAt = at % size;
  }
}
