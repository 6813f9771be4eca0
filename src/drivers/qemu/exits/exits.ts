// Watches for some seconds why a guest leaves to its hypervisor: counters of KVM or of QEMU's emulation before and after,
// trace events of the kernel in between, and what it changes of its memory meanwhile. What can't be told is named with its
// reason; only a QEMU that doesn't answer at all is an error.
import { setTimeout as delay } from 'node:timers/promises';
import { type ExitCounter, type VmExits } from '../../../api/vm-exits.ts';
import { findTracing, traceKvm, TracingUnavailableError, type KvmTrace } from '../../../host/kvm-trace.ts';
import { readThreadsWait } from '../../../host/process.ts';
import { type QmpConnection } from '../qmp/connection.ts';
import { QmpError } from '../qmp/errors.ts';
import { jitCounterMeanings, kvmCounterMeanings, reasonMeaning } from './meanings.ts';

export interface WatchExitsOptions {
  watchMs: number;
  isTracing: boolean;
  signal?: AbortSignal | undefined;
}

export interface WatchedGuest {
  id: string;
  pid: number;
  qmp: QmpConnection;
  isEmulated: boolean;
  /** Where the kernel's tracing is looked for, instead of the usual places. */
  tracingRoots?: readonly string[];
}

/** Kinds of events and reasons that are told. */
const maxReasons = 40;

/** A reading of all counters. */
type Reading = ReadonlyMap<string, number>;

export async function watchExits(
  guest: WatchedGuest,
  { watchMs, isTracing, signal }: WatchExitsOptions,
): Promise<Omit<VmExits, 'at'>> {
  const { pid, qmp, isEmulated } = guest;
  const missing: VmExits['missing'] = [];
  const read = isEmulated ? readJit : readKvm;
  const tids = (await qmp.execute('query-cpus-fast')).map((vcpu) => vcpu['thread-id']);
  const before = await read(qmp);
  const stealBefore = readThreadsWait(pid, tids);
  const beganMs = performance.now();
  const isMeasuringDirt = await beginDirtyRate(qmp, watchMs, missing);
  const tracing = isTracing ? trace(guest, tids, watchMs, signal, missing) : null;
  const [, traced] = await Promise.all([delay(watchMs, undefined, { signal }), tracing]);
  const seconds = (performance.now() - beganMs) / 1000;
  const after = await read(qmp);
  const stealAfter = readThreadsWait(pid, tids);
  if (after.size === 0)
    missing.push({
      what: 'counters',
      reason: isEmulated
        ? 'This QEMU does not tell what its emulation has counted.'
        : 'This kernel does not tell what KVM has counted; Linux 5.14 and newer do.',
    });
  if (stealAfter === null)
    missing.push({ what: 'steal', reason: 'The kernel does not tell how long threads wait (CONFIG_SCHED_INFO).' });
  return {
    accelerator: isEmulated ? 'tcg' : 'kvm',
    watchedS: Math.round(seconds * 1000) / 1000,
    counters: counted(before, after, seconds, isEmulated ? jitCounterMeanings : kvmCounterMeanings),
    trace: traced ? told(traced, seconds) : null,
    steal:
      stealAfter === null
        ? null
        : {
            seconds: stealAfter / 1e9,
            percent: stealBefore === null ? null : (Math.max(0, stealAfter - stealBefore) / 1e9 / seconds) * 100,
          },
    dirtyMibPerS: isMeasuringDirt ? await dirtyRate(qmp, signal, missing) : null,
    missing,
  };
}

function counted(
  before: Reading,
  after: Reading,
  seconds: number,
  meanings: Readonly<Record<string, string>>,
): ExitCounter[] {
  const order = Object.keys(meanings);
  const place = (name: string): number => (order.includes(name) ? order.indexOf(name) : order.length);
  return [...after]
    .toSorted(([one], [other]) => place(one) - place(other))
    .map(([name, total]) => {
      const first = before.get(name);
      const perS = first === undefined || total < first ? null : Math.round(((total - first) / seconds) * 10) / 10;
      return { name, meaning: meanings[name] ?? '', total, perS };
    });
}

/** Of the VM and of all its vCPUs, summed; without histograms and what is so at a moment. */
async function readKvm(qmp: QmpConnection): Promise<Reading> {
  const sums = new Map<string, number>();
  for (const target of ['vcpu', 'vm'] as const) {
    for (const { stats } of await qmp.execute('query-stats', { target }))
      for (const { name, value } of stats) if (typeof value === 'number') sums.set(name, (sums.get(name) ?? 0) + value);
  }
  return sums;
}

async function readJit(qmp: QmpConnection): Promise<Reading> {
  try {
    return parseJit((await qmp.execute('x-query-jit'))['human-readable-text']);
  } catch (error) {
    if (error instanceof QmpError) return new Map();
    throw error;
  }
}

/** Reads the numbers of `info jit` that Lodge knows the meaning of. */
export function parseJit(text: string): Reading {
  const found = new Map<string, number>();
  for (const name of Object.keys(jitCounterMeanings)) {
    const value = new RegExp(`^${name} +(\\d+)`, 'm').exec(text)?.[1];
    if (value !== undefined) found.set(name, Number(value));
  }
  return found;
}

async function trace(
  { id, isEmulated, tracingRoots }: WatchedGuest,
  tids: readonly number[],
  durationMs: number,
  signal: AbortSignal | undefined,
  missing: VmExits['missing'],
): Promise<KvmTrace | null> {
  const miss = (reason: string): null => {
    missing.push({ what: 'reasons', reason });
    return null;
  };
  if (isEmulated) return miss('An emulated guest does not leave to KVM.');
  try {
    const root = findTracing(tracingRoots);
    return await traceKvm({ root, name: `lodge-${id}`, tids, durationMs, signal });
  } catch (error) {
    if (error instanceof TracingUnavailableError) return miss(error.message);
    throw error;
  }
}

function told({ written, seen, kinds }: KvmTrace, seconds: number): VmExits['trace'] {
  // What did not fit is taken to have been like what did.
  const scale = seen === 0 ? 1 : written / seen;
  return {
    events: written,
    seen,
    reasons: kinds.slice(0, maxReasons).map(({ event, kind, count }) => ({
      event,
      reason: kind,
      meaning: reasonMeaning(event, kind),
      count,
      perS: Math.round(((count * scale) / seconds) * 10) / 10,
    })),
  };
}

/** QEMU looks at samples of the memory at the begin and at the end of the time, of whole seconds. */
async function beginDirtyRate(qmp: QmpConnection, watchMs: number, missing: VmExits['missing']): Promise<boolean> {
  try {
    await qmp.execute('calc-dirty-rate', { 'calc-time': Math.max(1, Math.floor(watchMs / 1000)) });
    return true;
  } catch (error) {
    if (!(error instanceof QmpError)) throw error;
    missing.push({ what: 'dirty rate', reason: `QEMU does not estimate it: ${error.message}.` });
    return false;
  }
}

async function dirtyRate(
  qmp: QmpConnection,
  signal: AbortSignal | undefined,
  missing: VmExits['missing'],
): Promise<number | null> {
  const deadline = performance.now() + 5000;
  for (;;) {
    const answer = await qmp.execute('query-dirty-rate');
    if (answer.status === 'measured') return answer['dirty-rate'] ?? null;
    if (performance.now() > deadline) {
      missing.push({ what: 'dirty rate', reason: 'QEMU did not come to an end with it in time.' });
      return null;
    }
    await delay(50, undefined, { signal });
  }
}
