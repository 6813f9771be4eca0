// What a guest measures of itself, in the contract's words: by its agent, and its memory by the driver of its balloon,
// which tells that to QEMU.
import type { GuestMetrics } from '../../../api/vm-guest-info.ts';
import type { CallOptions } from '../../driver.ts';
import type { AgentClient } from './client.ts';
import type { AgentCpuStatistics, AgentDiskStatistics, AgentInterface } from './commands.ts';
import { AgentError } from './errors.ts';
import { name, toMac } from './guest-report.ts';
import { Questions } from './questions.ts';

export type ReadMemory = (options: CallOptions) => Promise<GuestMetrics['memory']>;

/** Linux counts sectors of this size, whatever the disk's: Documentation/admin-guide/iostats.rst. */
const sectorBytes = 512;

/** Throws {@link AgentError} where neither tells anything. */
export async function readGuestMetrics(
  client: AgentClient,
  readMemory: ReadMemory,
  options: CallOptions & { timeoutMs: number },
): Promise<GuestMetrics> {
  const questions = new Questions(client, options);
  const memory = readMemory(options).catch(() => null);
  const told = await askAgent(questions).catch(async (error: unknown) => {
    if (!(error instanceof AgentError) || error.reason === 'cancelled' || (await memory) === null) throw error;
    for (const what of ['load', 'cpus', 'disks', 'interfaces']) questions.missing.push({ what, reason: error.message });
    return { load: null, cpus: null, disks: null, interfaces: null };
  });
  if ((await memory) === null)
    questions.missing.push({ what: 'memory', reason: 'no driver of a balloon in the guest tells it' });
  return { at: new Date().toISOString(), ...told, memory: await memory, missing: questions.missing };
}

async function askAgent(questions: Questions): Promise<Omit<GuestMetrics, 'at' | 'memory' | 'missing'>> {
  const load = await questions.ask('guest-get-load', 'load');
  const cpus = await questions.ask('guest-get-cpustats', 'cpus');
  const disks = await questions.ask('guest-get-diskstats', 'disks');
  const interfaces = await questions.ask('guest-network-get-interfaces', 'interfaces');
  return {
    load: load && { oneMinute: load.load1m, fiveMinutes: load.load5m, fifteenMinutes: load.load15m },
    cpus: cpus && cpus.map(toCpu),
    disks: disks && disks.map(toDisk),
    interfaces: interfaces && interfaces.flatMap(toTraffic),
  };
}

function toCpu(entry: AgentCpuStatistics): NonNullable<GuestMetrics['cpus']>[number] {
  return {
    cpu: entry.cpu,
    userMs: entry.user,
    niceMs: entry.nice,
    systemMs: entry.system,
    idleMs: entry.idle,
    ioWaitMs: entry.iowait ?? null,
    irqMs: entry.irq ?? null,
    softIrqMs: entry.softirq ?? null,
    stealMs: entry.steal ?? null,
  };
}

function toDisk({ name: device, stats }: AgentDiskStatistics): NonNullable<GuestMetrics['disks']>[number] {
  const inBytes = (sectors: number | undefined): number | null =>
    sectors === undefined ? null : sectors * sectorBytes;
  return {
    device: name(device),
    reads: stats['read-ios'] ?? null,
    readBytes: inBytes(stats['read-sectors']),
    readMs: stats['read-ticks'] ?? null,
    writes: stats['write-ios'] ?? null,
    writtenBytes: inBytes(stats['write-sectors']),
    writeMs: stats['write-ticks'] ?? null,
    inFlight: stats['ios-pgr'] ?? null,
  };
}

function toTraffic(entry: AgentInterface): NonNullable<GuestMetrics['interfaces']> {
  const { statistics } = entry;
  if (!statistics) return [];
  return [
    {
      name: name(entry.name),
      mac: toMac(entry['hardware-address']),
      traffic: {
        receivedBytes: statistics['rx-bytes'],
        receivedPackets: statistics['rx-packets'],
        receivedErrors: statistics['rx-errs'],
        receivedDropped: statistics['rx-dropped'],
        sentBytes: statistics['tx-bytes'],
        sentPackets: statistics['tx-packets'],
        sentErrors: statistics['tx-errs'],
        sentDropped: statistics['tx-dropped'],
      },
    },
  ];
}
