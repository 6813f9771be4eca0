// How long the operations of a guest's disks take. QEMU counts them in classes of duration once it is told the edges of
// these, for each device by itself (block-latency-histogram-set); it forgets them when a device goes.
//
// Invariant: a device is told once, and again only when it answers without the edges it was told: it is another one.
import { latencyEdgesUs, type DiskLatency, type LatencyCounts } from '../../api/vm-latency.ts';
import { diskOfDevice } from './device-arguments.ts';
import { type QmpConnection } from './qmp/connection.ts';
import { type QmpReturn } from './qmp/commands.ts';

type BlockStats = QmpReturn<'query-blockstats'>;

const boundaries = latencyEdgesUs.map((us) => us * 1000);
const none: readonly number[] = [...boundaries.map(() => 0), 0];
/** Longer than this QEMU is busy with something else; the next look tells it again. */
const answerMs = 1000;

export class DiskLatencies {
  readonly #qmp: QmpConnection;
  /** Devices that did not take the edges. */
  readonly #refusing = new Set<string>();

  constructor(qmp: QmpConnection) {
    this.#qmp = qmp;
  }

  /** Of each disk that Lodge has given the guest, from what QEMU has answered this moment. Devices new to it begin to count. */
  async from(answer: BlockStats): Promise<DiskLatency[]> {
    const found: DiskLatency[] = [];
    for (const { qdev, stats } of answer) {
      const disk = diskOfDevice(qdev ?? '');
      if (qdev === undefined || disk === null) continue;
      const { rd_latency_histogram: read, wr_latency_histogram: write, flush_latency_histogram: flush } = stats;
      if (read?.boundaries.length !== boundaries.length) await this.#begin(qdev);
      found.push({
        disk,
        read: countsOf(read?.bins, stats.rd_total_time_ns),
        write: countsOf(write?.bins, stats.wr_total_time_ns),
        flush: countsOf(flush?.bins, stats.flush_total_time_ns),
      });
    }
    return found;
  }

  async #begin(qdev: string): Promise<void> {
    if (this.#refusing.has(qdev)) return;
    try {
      await this.#qmp.execute('block-latency-histogram-set', { id: qdev, boundaries }, { timeoutMs: answerMs });
    } catch {
      // A drive without a medium, or one that goes just now: what it does isn't counted.
      this.#refusing.add(qdev);
    }
  }
}

function countsOf(bins: readonly number[] | undefined, totalNs: number): LatencyCounts {
  return bins?.length === none.length
    ? { counts: [...bins], seconds: totalNs / 1e9 }
    : { counts: [...none], seconds: 0 };
}
