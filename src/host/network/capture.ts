// Packets of a link as a pcap stream, by tcpdump: with one capability and no more, as nobody, bounded in packets, bytes and time.
// Promises: a filter is compiled before anything is opened; the stream ends between two packets, whichever bound ends it; and
// tcpdump is gone when the stream has been left, or with this process.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { CommandError, run } from '../command.ts';
import { isLinkName } from './link.ts';
import { inScope, type NetworkScope } from './netns.ts';

export interface CaptureOptions {
  readonly link: string;
  /** A filter of pcap-filter(7); empty: everything. */
  readonly filter: string;
  /** Bytes of a packet that are kept. */
  readonly snapLength: number;
  readonly maxPackets: number | null;
  readonly maxBytes: number;
  readonly maxMs: number;
  /** Ends it, also while no packet comes. */
  readonly signal?: AbortSignal;
}

/** A filter that tcpdump doesn't understand. */
export class CaptureFilterError extends Error {
  override name = 'CaptureFilterError';
  readonly filter: string;
  constructor(filter: string, said: string) {
    super(`${JSON.stringify(filter)} is no filter of tcpdump: ${said}`);
    this.filter = filter;
  }
}

/** Packets can't be captured here. */
export class CaptureError extends Error {
  override name = 'CaptureError';
}

/** How long compiling a filter may take: names in it are looked up. */
const compileMs = 10_000;
const fileHeaderBytes = 24;
const recordHeaderBytes = 16;
/** Only what a packet socket needs: capabilities(7). */
const unprivileged = [
  'setpriv',
  '--reuid=65534',
  '--regid=65534',
  '--clear-groups',
  '--inh-caps=-all,+net_raw',
  '--ambient-caps=-all,+net_raw',
  '--bounding-set=-all,+net_raw',
  '--no-new-privs',
  '--pdeathsig=KILL',
  '--',
] as const;

/** Compiles a filter for Ethernet. Rejects with {@link CaptureFilterError}. */
export async function checkFilter(filter: string): Promise<void> {
  if (filter.trim() === '') return;
  const argv = ['setpriv', '--reuid=65534', '--regid=65534', '--clear-groups', '--no-new-privs', '--'] as const;
  try {
    await run([...argv, 'tcpdump', '-d', '-y', 'EN10MB', '--', filter], { timeoutMs: compileMs });
  } catch (error) {
    if (!(error instanceof CommandError)) throw error;
    if (error.reason === 'missing' || error.exitCode === 127) throw missing(error);
    throw new CaptureFilterError(
      filter,
      error.stderr
        .replaceAll(/^tcpdump: /gm, '')
        .trim()
        .slice(0, 300) || 'it takes too long',
    );
  }
}

/** Captures until a bound is reached or nobody reads on. */
export async function* captureLink(
  options: CaptureOptions,
  scope: NetworkScope = {},
): AsyncGenerator<Uint8Array, void, undefined> {
  const { link, filter, snapLength, maxPackets, maxBytes, maxMs, signal } = options;
  if (!isLinkName(link)) throw new RangeError(`${JSON.stringify(link)} is no name of a link`);
  const argv = inScope(scope, [
    ...unprivileged,
    'tcpdump',
    // As they come, without names, not promiscuous: the link is the guest's own.
    ...['-U', '-n', '-p', '-i', link, '-s', String(snapLength), '-w', '-'],
    ...(maxPackets === null ? [] : ['-c', String(maxPackets)]),
    ...(filter.trim() === '' ? [] : ['--', filter]),
  ]);
  const [program, ...args] = argv;
  const child = spawn(program, args, { stdio: ['ignore', 'pipe', 'pipe'], env: { ...process.env, LC_ALL: 'C' } });
  let said = '';
  child.stderr.setEncoding('utf8').on('data', (text: string) => (said = (said + text).slice(-2000)));
  const failure = new Promise<never>((_resolve, reject) => child.once('error', (cause) => reject(missing(cause))));
  failure.catch(() => {});
  const ended = once(child, 'close').catch(() => {});
  const timer = setTimeout(() => child.kill('SIGTERM'), maxMs);
  const kill = (): boolean => child.kill('SIGKILL');
  signal?.addEventListener('abort', kill);
  if (signal?.aborted) kill();
  const cutter = new PacketCutter(maxBytes);
  try {
    const chunks = child.stdout[Symbol.asyncIterator]() as AsyncIterator<Buffer>;
    for (;;) {
      const next = await Promise.race([chunks.next(), failure]);
      if (next.done) break;
      const whole = cutter.take(next.value);
      if (whole.length > 0) yield whole;
      if (cutter.isFull) return;
    }
    await ended;
    if (cutter.isEmpty && !signal?.aborted)
      throw new CaptureError(`tcpdump could not capture on ${link}: ${said.trim().split('\n').at(-1) ?? ''}`);
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener('abort', kill);
    kill();
    await ended;
  }
}

function missing(cause: unknown): CaptureError {
  return new CaptureError('tcpdump is not installed: install the package tcpdump', { cause });
}

/** Lets whole packets through, up to a number of bytes: the format of pcap files, https://datatracker.ietf.org/doc/draft-ietf-opsawg-pcap. */
export class PacketCutter {
  #left: number;
  #pending: Buffer = Buffer.alloc(0);
  #hasHeader = false;
  isFull = false;

  constructor(maxBytes: number) {
    this.#left = maxBytes;
  }

  /** Whether nothing came yet, not even the header of a file. */
  get isEmpty(): boolean {
    return !this.#hasHeader;
  }

  /** What of all that came so far is whole and has not been given yet. */
  take(chunk: Uint8Array): Buffer {
    if (this.isFull) return Buffer.alloc(0);
    const bytes = this.#pending.length === 0 ? Buffer.from(chunk) : Buffer.concat([this.#pending, chunk]);
    let end = 0;
    if (!this.#hasHeader) {
      if (bytes.length < fileHeaderBytes) {
        this.#pending = bytes;
        return Buffer.alloc(0);
      }
      this.#hasHeader = true;
      end = fileHeaderBytes;
      this.#left -= fileHeaderBytes;
    }
    // tcpdump writes in the order of this machine, x86: the lowest byte first.
    while (bytes.length >= end + recordHeaderBytes) {
      const size = recordHeaderBytes + bytes.readUInt32LE(end + 8);
      if (bytes.length < end + size) break;
      if (size > this.#left) {
        this.isFull = true;
        break;
      }
      end += size;
      this.#left -= size;
    }
    this.#pending = bytes.subarray(end);
    return bytes.subarray(0, end);
  }
}
