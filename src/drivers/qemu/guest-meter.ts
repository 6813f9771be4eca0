// What a guest has used, from the kernel and from QEMU. What can't be read at a moment is null; nothing here fails.
import {
  readMergedBytes,
  readProcessMemory,
  readProcessStat,
  readThreadsWait,
  isAlive,
  type ProcessIdentity,
} from '../../host/process.ts';
import { readAllLinkCounters, readTapsOf, type HeldTap } from '../../host/network/tap-usage.ts';
import {
  type DiskCounters,
  type GuestCounters,
  type GuestDetail,
  type GuestMemoryShares,
  type GuestUsage,
} from '../measured.ts';
import { type BalloonStatistics } from './balloon-statistics.ts';
import { DiskLatencies } from './disk-latency.ts';
import { readKvmExits } from './kvm-counters.ts';
import { type QmpConnection } from './qmp/connection.ts';

/** A QEMU busy with something long answers later; what /proc shows is enough for now. */
const answerMs = 1000;
/** Guests are asked one right after the other: one look at the links is enough for all of them. */
const linksAgeMs = 200;
/** vCPUs come and go seldom; one that is added counts some minutes later. */
const vcpusAgeMs = 300_000;

const noCounters: GuestCounters = {
  cpuSeconds: null,
  memoryMib: null,
  networkReceivedBytes: null,
  networkSentBytes: null,
};

function mibOf(bytes: number | null): number | null {
  return bytes === null ? null : bytes / 2 ** 20;
}

export class GuestMeter {
  readonly #identity: ProcessIdentity;
  readonly #qmp: QmpConnection;
  readonly #latencies: DiskLatencies;
  readonly #balloon: BalloonStatistics;
  readonly #isEmulated: boolean;
  #taps: readonly HeldTap[] | null = null;
  #vcpus: { atMs: number; tids: readonly number[] } | null = null;

  constructor(identity: ProcessIdentity, qmp: QmpConnection, balloon: BalloonStatistics, isEmulated: boolean) {
    this.#identity = identity;
    this.#qmp = qmp;
    this.#latencies = new DiskLatencies(qmp);
    this.#balloon = balloon;
    this.#isEmulated = isEmulated;
  }

  async read(): Promise<GuestUsage> {
    const { pid } = this.#identity;
    const [memory, disks, network] = await Promise.all([
      readProcessMemory(pid).catch(() => null),
      this.#qmp.execute('query-blockstats', {}, { timeoutMs: answerMs }).catch(() => null),
      this.#network(0).catch(() => null),
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

  /** Without asking QEMU, and without a walk over its page tables. */
  async counters(): Promise<GuestCounters> {
    const stat = readProcessStat(this.#identity.pid);
    if (stat?.startTicks !== this.#identity.startTicks) return noCounters;
    const network = await this.#network(linksAgeMs);
    return {
      cpuSeconds: (stat.userMicroseconds + stat.systemMicroseconds) / 1e6,
      memoryMib: stat.residentBytes / 2 ** 20,
      networkReceivedBytes: network && network.receivedBytes,
      networkSentBytes: network && network.sentBytes,
    };
  }

  /** Each of its questions is a short one to QEMU; one that isn't answered in time leaves out its own part only. */
  async detail(): Promise<GuestDetail> {
    const [disks, exits, stealSeconds, told] = await Promise.all([
      this.#disks().catch(() => null),
      this.#isEmulated ? null : readKvmExits(this.#qmp, answerMs).catch(() => null),
      this.#steal().catch(() => null),
      this.#balloon.latest(answerMs).catch(() => null),
    ]);
    return { disks, exits, stealSeconds, inside: told?.inside ?? null, balloonMib: told?.takenMib ?? null };
  }

  async memoryShares(): Promise<GuestMemoryShares | null> {
    const { pid } = this.#identity;
    const memory = await readProcessMemory(pid);
    if (!memory || !isAlive(this.#identity)) return null;
    const { pssBytes, hugetlbBytes, transparentHugeBytes, swapBytes } = memory;
    const hugeBytes =
      hugetlbBytes === null || transparentHugeBytes === null ? null : hugetlbBytes + transparentHugeBytes;
    return {
      pssMib: mibOf(pssBytes),
      hugeMib: mibOf(hugeBytes),
      ksmMib: mibOf(memory.ksmBytes ?? (await readMergedBytes(pid))),
      swapMib: mibOf(swapBytes),
    };
  }

  async #disks(): Promise<DiskCounters> {
    const answer = await this.#qmp.execute('query-blockstats', {}, { timeoutMs: answerMs });
    const latency = await this.#latencies.from(answer);
    const sum: DiskCounters = { readBytes: 0, writtenBytes: 0, operations: 0, operationSeconds: 0, latency };
    for (const { stats } of answer) {
      sum.readBytes += stats.rd_bytes;
      sum.writtenBytes += stats.wr_bytes;
      sum.operations += stats.rd_operations + stats.wr_operations;
      sum.operationSeconds += (stats.rd_total_time_ns + stats.wr_total_time_ns) / 1e9;
    }
    return sum;
  }

  async #steal(): Promise<number | null> {
    const now = performance.now();
    if (!this.#vcpus || now - this.#vcpus.atMs > vcpusAgeMs) {
      const vcpus = await this.#qmp.execute('query-cpus-fast', {}, { timeoutMs: answerMs });
      this.#vcpus = { atMs: now, tids: vcpus.map((vcpu) => vcpu['thread-id']) };
    }
    const waitNs = readThreadsWait(this.#identity.pid, this.#vcpus.tids);
    // One was taken away.
    if (waitNs === null) this.#vcpus = null;
    return waitNs === null ? null : waitNs / 1e9;
  }

  /** Its NICs have changed. */
  forgetTaps(): void {
    this.#taps = null;
  }

  /** Of its taps and macvtaps; a user-mode network is not counted by anybody. The host's point of view turned into the guest's. */
  async #network(maxAgeMs: number): Promise<{ receivedBytes: number; sentBytes: number } | null> {
    this.#taps ??= await readTapsOf(this.#identity.pid);
    if (this.#taps.length === 0) return null;
    const links = readAllLinkCounters(maxAgeMs);
    const known = this.#taps.flatMap(({ name, isMacvtap }) => {
      const link = links.get(name);
      if (!link) return [];
      return isMacvtap ? { receivedBytes: link.sentBytes, sentBytes: link.receivedBytes } : link;
    });
    if (known.length < this.#taps.length) return null;
    return {
      receivedBytes: known.reduce((sum, link) => sum + link.sentBytes, 0),
      sentBytes: known.reduce((sum, link) => sum + link.receivedBytes, 0),
    };
  }
}
