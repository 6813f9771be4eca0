// lodge vm stats --latency: how long the operations of a VM's disks took, as histograms of text.
import { latencyQuantileUs, type DiskLatency, type LatencyCounts, type VmLatency } from '../../api/vm-latency.ts';
import { LodgeError } from '../../api/errors.ts';
import type { Session } from '../connect/session.ts';
import { withSuggestion } from '../list.ts';
import { redraw, requireTerminal } from '../noun/stats.ts';
import { printDocument } from '../output/print.ts';
import type { Style } from '../output/style.ts';
import { fetchVms } from './view.ts';

const kinds = ['read', 'write', 'flush'] as const;
const words = { read: 'reads', write: 'writes', flush: 'flushes' } as const;
const barColumns = 40;

export async function showLatency(session: Session, name: string, isWatching: boolean): Promise<void> {
  const read = (): Promise<VmLatency> =>
    withSuggestion(session, name, fetchVms, () =>
      session.client.vm.diskLatency({ params: { vm: name }, query: { project: session.project } }),
    );
  const answered = async (): Promise<VmLatency & { disks: DiskLatency[] }> => {
    const answer = await read();
    if (answer.disks) return { ...answer, disks: answer.disks };
    throw new LodgeError('hypervisor_failed', `The hypervisor of VM ${name} did not answer within a second.`, {
      hint: 'It is busy; try again.',
    });
  };
  if (isWatching) {
    requireTerminal(session);
    const before = (await answered()).disks;
    await redraw(session, async () => {
      const now = await answered();
      return latencyLines({ ...now, disks: since(now.disks, before) }, session.terminal.style);
    });
    return;
  }
  const latency = await answered();
  await printDocument(session, latency, () => latencyLines(latency, session.terminal.style));
}

/** What happened between two readings; a disk that was not there before, or counts anew, counts in full. */
function since(now: readonly DiskLatency[], before: readonly DiskLatency[]): DiskLatency[] {
  const earlier = new Map(before.map((disk) => [disk.disk, disk]));
  const less = (after: LatencyCounts, first: LatencyCounts | undefined): LatencyCounts => {
    if (!first || after.counts.some((count, index) => count < (first.counts[index] ?? 0))) return after;
    return {
      counts: after.counts.map((count, index) => count - (first.counts[index] ?? 0)),
      seconds: after.seconds - first.seconds,
    };
  };
  return now.map((disk) => {
    const first = earlier.get(disk.disk);
    return {
      disk: disk.disk,
      read: less(disk.read, first?.read),
      write: less(disk.write, first?.write),
      flush: less(disk.flush, first?.flush),
    };
  });
}

/** A duration in the unit that reads best. */
function durationText(us: number): string {
  if (us < 1000) return `${Math.round(us)} µs`;
  if (us < 1e6) return `${us / 1000 < 10 ? Number((us / 1000).toPrecision(2)) : Math.round(us / 1000)} ms`;
  return `${Number((us / 1e6).toPrecision(2))} s`;
}

/** Disk by disk and kind by kind, what lies in each class, from the first class with something in it to the last. */
export function latencyLines(
  { disks, edgesUs }: { disks: readonly DiskLatency[]; edgesUs: readonly number[] },
  style: Style,
): string[] {
  const lines: string[] = [];
  for (const disk of disks) {
    for (const kind of kinds) {
      const { counts, seconds } = disk[kind];
      const all = counts.reduce((sum, count) => sum + count, 0);
      if (all === 0) continue;
      const quantile = (share: number): string => {
        const us = latencyQuantileUs(counts, share, edgesUs);
        return us === null ? '-' : us === Infinity ? `over ${durationText(edgesUs.at(-1)!)}` : `≤ ${durationText(us)}`;
      };
      if (lines.length > 0) lines.push('');
      lines.push(
        style.bold(`disk ${disk.disk}, ${all} ${words[kind]}`),
        `mean ${durationText((seconds * 1e6) / all)}, half of them ${quantile(0.5)}, 95 % ${quantile(0.95)}, 99 % ${quantile(0.99)}`,
      );
      const first = counts.findIndex((count) => count > 0);
      const last = counts.findLastIndex((count) => count > 0);
      const most = Math.max(...counts);
      for (let index = first; index <= last; index++) {
        const count = counts[index]!;
        const edge = edgesUs[index];
        const title = edge === undefined ? `over ${durationText(edgesUs.at(-1)!)}` : `under ${durationText(edge)}`;
        const bar = '█'.repeat(Math.round((count / most) * barColumns)) || (count > 0 ? '▏' : '');
        lines.push(`${title.padStart(13)}  ${String(count).padStart(9)}  ${style.cyan(bar)}`.trimEnd());
      }
    }
  }
  if (lines.length === 0) lines.push(disks.length === 0 ? 'It has no disk.' : 'Nothing was read or written yet.');
  return lines;
}
