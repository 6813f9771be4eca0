// What a guest has used, from the kernel and from QEMU. What can't be read at a moment is null; nothing here fails.
import { readProcessMemory, readProcessStat, isAlive, type ProcessIdentity } from '../../host/process.ts';
import { readLinkCounters, readTapsOf } from '../../host/network/tap-usage.ts';
import { type GuestUsage } from '../driver.ts';
import { type QmpConnection } from './qmp/connection.ts';

/** A QEMU busy with something long answers later; what /proc shows is enough for now. */
const answerMs = 1000;

function mibOf(bytes: number | null): number | null {
  return bytes === null ? null : bytes / 2 ** 20;
}

export class GuestMeter {
  readonly #identity: ProcessIdentity;
  readonly #qmp: QmpConnection;
  #taps: readonly string[] | null = null;

  constructor(identity: ProcessIdentity, qmp: QmpConnection) {
    this.#identity = identity;
    this.#qmp = qmp;
  }

  async read(): Promise<GuestUsage> {
    const { pid } = this.#identity;
    const [memory, disks, network] = await Promise.all([
      readProcessMemory(pid).catch(() => null),
      this.#qmp.execute('query-blockstats', {}, { timeoutMs: answerMs }).catch(() => null),
      this.#network().catch(() => null),
    ]);
    const stat = isAlive(this.#identity) ? readProcessStat(pid) : null;
    return {
      cpuSeconds: stat && (stat.userMicroseconds + stat.systemMicroseconds) / 1e6,
      memoryMib: stat && memory && memory.rssBytes / 2 ** 20,
      memoryPrivateMib: stat && memory && mibOf(memory.privateBytes),
      memorySharedMib: stat && memory && mibOf(memory.sharedBytes),
      diskReadBytes: disks && disks.reduce((sum, disk) => sum + disk.stats.rd_bytes, 0),
      diskWrittenBytes: disks && disks.reduce((sum, disk) => sum + disk.stats.wr_bytes, 0),
      networkReceivedBytes: network && network.receivedBytes,
      networkSentBytes: network && network.sentBytes,
    };
  }

  /** Its NICs have changed. */
  forgetTaps(): void {
    this.#taps = null;
  }

  /** Of its taps; a user-mode network is not counted by anybody. The host's point of view turned into the guest's. */
  async #network(): Promise<{ receivedBytes: number; sentBytes: number } | null> {
    this.#taps ??= await readTapsOf(this.#identity.pid);
    if (this.#taps.length === 0) return null;
    const counters = await Promise.all(this.#taps.map(readLinkCounters));
    const known = counters.filter((counter) => counter !== null);
    if (known.length < counters.length) return null;
    return {
      receivedBytes: known.reduce((sum, link) => sum + link.sentBytes, 0),
      sentBytes: known.reduce((sum, link) => sum + link.receivedBytes, 0),
    };
  }
}
