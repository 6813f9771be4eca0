// What goes through the taps of a process: which links it holds open, and what the kernel counted on them.
// Sources: tun_chr_show_fdinfo in the kernel's drivers/net/tun.c, proc(5) (/proc/net/dev).
import { readFileSync } from 'node:fs';
import { readdir, readFile, readlink } from 'node:fs/promises';

/** Bytes since a link was made, as the host sees them. */
export interface LinkCounters {
  /** What came into the host. */
  readonly receivedBytes: number;
  /** What the host sent out. */
  readonly sentBytes: number;
}

/** The name of the tap in the text of /proc/PID/fdinfo/FD, or null when the descriptor is no tap's. */
export function parseTapName(fdinfo: string): string | null {
  return /^iff:\t(\S+)$/m.exec(fdinfo)?.[1] ?? null;
}

/** What the kernel counted on a link in one direction. */
export interface LinkStatistics {
  readonly bytes: number;
  readonly packets: number;
  readonly errors: number;
  readonly dropped: number;
}

/** A link that a process is the far end of. */
export interface HeldTap {
  readonly name: string;
  /** A macvtap is counted from the guest's side, a tap from the host's. */
  readonly isMacvtap: boolean;
}

/** The macvtap of a character device: /dev/tap7 is named by the index of its link, /dev/NAME by Lodge itself. */
async function macvtapOf(path: string): Promise<string | null> {
  const device = /^\/dev\/([A-Za-z0-9_.-]{1,15})$/.exec(path)?.[1];
  if (device === undefined || device === 'null') return null;
  const tap = /^tap\d+$/.exec(device)?.[0];
  for (const name of tap === undefined ? [device] : await readdir('/sys/class/net').catch(() => [])) {
    const taps = await readdir(`/sys/class/net/${name}/macvtap`).catch((): string[] => []);
    if (tap === undefined ? taps.length > 0 : taps.includes(tap)) return name;
  }
  return null;
}

/** The taps and macvtaps that a process holds, each once. None when it has ended. */
export async function readTapsOf(pid: number): Promise<HeldTap[]> {
  const folder = `/proc/${pid}/fdinfo`;
  const taps = new Map<string, HeldTap>();
  for (const fd of await readdir(folder).catch(ignoreGone<string[]>([]))) {
    const tap = parseTapName(await readFile(`${folder}/${fd}`, 'utf8').catch(ignoreGone('')));
    if (tap !== null) taps.set(tap, { name: tap, isMacvtap: false });
    const target = await readlink(`/proc/${pid}/fd/${fd}`).catch(ignoreGone(''));
    const macvtap = target.startsWith('/dev/') ? await macvtapOf(target) : null;
    if (macvtap !== null) taps.set(macvtap, { name: macvtap, isMacvtap: true });
  }
  return [...taps.values()];
}

function ignoreGone<T>(instead: T): (error: NodeJS.ErrnoException) => T {
  return (error) => {
    // EINVAL: the link went while its file was read.
    if (['ENOENT', 'ESRCH', 'EINVAL', 'ENODEV'].includes(error.code ?? '')) return instead;
    throw error;
  };
}

let recent: { atMs: number; counters: Map<string, LinkCounters> } | null = null;

/**
 * The counters of all links in this process's network namespace, from /proc/net/dev (proc(5)): one short read, so it may be
 * called each second. What was read within the last `maxAgeMs` milliseconds is given again.
 */
export function readAllLinkCounters(maxAgeMs = 0): ReadonlyMap<string, LinkCounters> {
  const now = performance.now();
  if (!recent || now - recent.atMs > maxAgeMs)
    recent = { atMs: now, counters: parseNetDev(readFileSync('/proc/net/dev', 'utf8')) };
  return recent.counters;
}

/** Both directions of all links in this process's network namespace, as the host sees them. */
export function readLinkStatistics(): Map<string, { received: LinkStatistics; sent: LinkStatistics }> {
  return parseLinkStatistics(readFileSync('/proc/net/dev', 'utf8'));
}

/** Reads /proc/net/dev: eight columns of what was received, then eight of what was sent, bytes first. */
export function parseLinkStatistics(text: string): Map<string, { received: LinkStatistics; sent: LinkStatistics }> {
  const found = new Map<string, { received: LinkStatistics; sent: LinkStatistics }>();
  for (const line of text.split('\n').slice(2)) {
    const separator = line.indexOf(':');
    if (separator < 0) continue;
    const columns = line
      .slice(separator + 1)
      .trim()
      .split(/\s+/)
      .map(Number);
    const at = (from: number): LinkStatistics => {
      const [bytes = 0, packets = 0, errors = 0, dropped = 0] = columns.slice(from);
      return { bytes, packets, errors, dropped };
    };
    found.set(line.slice(0, separator).trim(), { received: at(0), sent: at(8) });
  }
  return found;
}

/** What of it counts for rates. */
export function parseNetDev(text: string): Map<string, LinkCounters> {
  const all = parseLinkStatistics(text);
  return new Map(
    Array.from(all, ([name, { received, sent }]) => [name, { receivedBytes: received.bytes, sentBytes: sent.bytes }]),
  );
}
