// Why guests leave to KVM, by the kernel's trace events: a bounded sampler in a trace instance of its own, for the threads of
// one guest and a few seconds. Promises: the instance is gone when it resolves or rejects, other users of tracing notice
// nothing, and what is kept is bounded: where more happens than fits, the last events are looked at and the rest is counted.
// Sources: the kernel's Documentation/trace/ftrace.rst ("Instances", "trace"), arch/x86/kvm/trace.h, include/trace/events/kvm.h.
import { existsSync } from 'node:fs';
import { mkdir, readFile, rmdir, writeFile } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import { setTimeout as delay } from 'node:timers/promises';

/** The events, each with what of its text tells one kind from another. */
const events: Readonly<Record<string, (text: string) => string>> = {
  kvm_exit: (text) => /reason (.+?) rip/.exec(text)?.[1]?.trim() ?? 'unknown',
  kvm_userspace_exit: (text) => /reason (\w+)/.exec(text)?.[1] ?? 'unknown',
  kvm_pio: (text) => /pio_(\w+) at (0x[0-9a-f]+)/.exec(text)?.slice(1).join(' ') ?? 'unknown',
  kvm_mmio: (text) => {
    const [, kind, address] = /mmio (\S+) len \d+ gpa (0x[0-9a-f]+)/.exec(text) ?? [];
    // A page holds the registers of one device.
    return address === undefined ? 'unknown' : `${kind} page 0x${(BigInt(address) >> 12n).toString(16)}000`;
  },
  kvm_msr: (text) => /msr_(read|write) ([0-9a-f]+)/.exec(text)?.slice(1).join(' 0x') ?? 'unknown',
  kvm_cpuid: (text) => /func ([0-9a-f]+)/.exec(text)?.[1]?.replace(/^/, '0x') ?? 'unknown',
  kvm_hypercall: (text) => /nr (0x[0-9a-f]+)/.exec(text)?.[1] ?? 'unknown',
};

/** For all processors together, KiB; an event takes some 100 bytes. */
const bufferKib = 4096;

export interface KvmTrace {
  /** Events that happened. */
  written: number;
  /** Those that were looked at. */
  seen: number;
  /** By event and kind, the most frequent first. */
  kinds: { event: string; kind: string; count: number }[];
}

/** Tracing can't be used; the message says why, and what would help. */
export class TracingUnavailableError extends Error {
  override name = 'TracingUnavailableError';
}

/** Where the kernel shows its tracing. Throws {@link TracingUnavailableError}. */
export function findTracing(
  candidates: readonly string[] = ['/sys/kernel/tracing', '/sys/kernel/debug/tracing'],
): string {
  const root = candidates.find((path) => existsSync(`${path}/instances`));
  if (root === undefined)
    throw new TracingUnavailableError(
      'tracefs is not mounted, or the kernel has none: mount -t tracefs tracefs /sys/kernel/tracing',
    );
  if (!existsSync(`${root}/events/kvm`))
    throw new TracingUnavailableError('The kernel has no trace events of KVM: the module kvm is not loaded.');
  return root;
}

export interface TraceOptions {
  /** From {@link findTracing}. */
  root: string;
  /** Name of the instance; only one sampler at a time may use it. */
  name: string;
  /** Threads that are watched. */
  tids: readonly number[];
  durationMs: number;
  signal?: AbortSignal | undefined;
}

/** Watches. Rejects with {@link TracingUnavailableError}, or with the signal's reason. */
export async function traceKvm({ root, name, tids, durationMs, signal }: TraceOptions): Promise<KvmTrace> {
  const instance = `${root}/instances/${name}`;
  // One that a daemon has left which died in the middle.
  await rmdir(instance).catch(() => {});
  try {
    await mkdir(instance);
  } catch (error) {
    throw new TracingUnavailableError(`The kernel makes no trace instance: ${(error as Error).message}.`, {
      cause: error,
    });
  }
  try {
    await writeFile(`${instance}/buffer_size_kb`, String(Math.max(16, Math.floor(bufferKib / availableParallelism()))));
    await writeFile(`${instance}/set_event_pid`, tids.join(' '));
    // Kernels differ in what they have; kvm_exit alone is worth looking at.
    for (const event of Object.keys(events))
      await writeFile(`${instance}/events/kvm/${event}/enable`, '1').catch(() => {});
    await delay(durationMs, undefined, { signal });
    await writeFile(`${instance}/tracing_on`, '0');
    return parseTrace(await readFile(`${instance}/trace`, 'utf8'));
  } catch (error) {
    signal?.throwIfAborted();
    throw new TracingUnavailableError(`The kernel does not trace: ${(error as Error).message}.`, { cause: error });
  } finally {
    await writeFile(`${instance}/set_event`, '').catch(() => {});
    await rmdir(instance).catch(() => {});
  }
}

/** Reads the text of `trace`. */
export function parseTrace(text: string): KvmTrace {
  const counts = new Map<string, { event: string; kind: string; count: number }>();
  let seen = 0;
  for (const match of text.matchAll(/^ *\S.*? \[\d+\] .*?: (kvm_\w+): (.*)$/gm)) {
    const [, event = '', rest = ''] = match;
    const kindOf = events[event];
    if (!kindOf) continue;
    seen++;
    const kind = kindOf(rest);
    const known = counts.get(`${event} ${kind}`);
    if (known) known.count++;
    else counts.set(`${event} ${kind}`, { event, kind, count: 1 });
  }
  const written = Number(/entries-in-buffer\/entries-written: \d+\/(\d+)/.exec(text)?.[1] ?? seen);
  return { written, seen, kinds: [...counts.values()].toSorted((a, b) => b.count - a.count) };
}
