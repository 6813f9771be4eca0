// What goes through the taps of a process: which links it holds open, and what the kernel counted on them.
// Sources: tun_chr_show_fdinfo in the kernel's drivers/net/tun.c, proc(5) (/proc/net/dev).
import { readFileSync } from 'node:fs';
import { readdir, readFile } from 'node:fs/promises';

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

/** The tap links that a process holds, each once. None when it has ended. */
export async function readTapsOf(pid: number): Promise<string[]> {
  const folder = `/proc/${pid}/fdinfo`;
  const taps = new Set<string>();
  for (const fd of await readdir(folder).catch(ignoreGone<string[]>([]))) {
    const tap = parseTapName(await readFile(`${folder}/${fd}`, 'utf8').catch(ignoreGone('')));
    if (tap !== null) taps.add(tap);
  }
  return [...taps];
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

/** Reads /proc/net/dev: eight columns of what was received, then eight of what was sent, bytes first. */
export function parseNetDev(text: string): Map<string, LinkCounters> {
  const counters = new Map<string, LinkCounters>();
  for (const line of text.split('\n').slice(2)) {
    const separator = line.indexOf(':');
    if (separator < 0) continue;
    const columns = line
      .slice(separator + 1)
      .trim()
      .split(/\s+/);
    counters.set(line.slice(0, separator).trim(), {
      receivedBytes: Number(columns[0]),
      sentBytes: Number(columns[8]),
    });
  }
  return counters;
}
