// Freezing a running guest: its memory and devices, as they are in one moment, go into a file, and the guest runs on.
// QEMU copies the memory while the guest runs, keeping track of what it writes meanwhile (mapped-ram, with two writers);
// the guest stands still only for what is left at the end, and while its disks are frozen.
//
//   running ──► saving ──► stands still (pre-switchover) ──► disks frozen ──► saved ──► running
//                  └─────────────┴── failed: cancelled ─────────┴──────────────────────────▲
//
// Promise: however it ends, the guest runs on, and its settings for migration are those from before. A guest whose daemon
// died meanwhile is let run on by `settleFreeze`, which knows it by the setting.
import { setTimeout as delay } from 'node:timers/promises';
import { LodgeError } from '../../../api/errors.ts';
import { sendDescriptors, SendDescriptorsError } from '../../../host/launch/send-descriptors.ts';
import { QmpClosedError } from '../qmp/errors.ts';
import { type QmpConnection } from '../qmp/connection.ts';
import { type QmpEventOf } from '../qmp/events.ts';

export interface FreezeTarget {
  name: string;
  qmp: QmpConnection;
  /** Monitor that descriptors are handed in by. */
  descriptorSocket: string;
}

export interface FreezeRequest {
  /** File that is written, opened with this process's rights. */
  path: string;
  signal: AbortSignal;
  /** Called while the guest stands still. When it fails, the freeze does. */
  onStopped?: (() => Promise<void>) | undefined;
}

type Status = QmpEventOf<'MIGRATION'>['data']['status'] | 'lost';

/** Migration capabilities of QEMU that freezing takes. */
const freezeCapabilities = ['mapped-ram', 'multifd', 'pause-before-switchover', 'events'] as const;
/** Two writers save 256 MiB in half the time of one; more gain nothing where memory is the limit. */
const writers = 2;
/** What QEMU sets when it starts (migration/options.c). */
const usualWriters = 2;
const usualDowntimeMs = 300;
const usualBandwidth = 128 * 2 ** 20;
/** A guest that writes faster than its memory is copied is stopped after so long; what is left is then copied at once. */
const longestRunningMs = 3000;
const wantedDowntimeMs = 50;
/** The end of a migration takes a moment to be over for QEMU, in which it refuses to let the guest run. */
const runOnMs = 10_000;

/** What a QEMU with these migration capabilities lacks for freezing, in words; null: nothing. */
export function missingForFreeze(capabilities: ReadonlySet<string>): string | null {
  const missing = freezeCapabilities.filter((capability) => !capabilities.has(capability));
  return missing.length === 0
    ? null
    : `QEMU lacks the migration capability ${missing.join(', ')} (mapped-ram came with QEMU 9.0)`;
}

/** Why a guest can't be frozen now; null: it can. */
async function whyNotFreezable(qmp: QmpConnection): Promise<string | null> {
  const has = new Set((await qmp.execute('query-migrate-capabilities')).map(({ capability }) => capability));
  const missing = missingForFreeze(has);
  if (missing) return missing;
  const blocked = (await qmp.execute('query-migrate'))['blocked-reasons'];
  return blocked?.length ? blocked.join('; ') : null;
}

/** What came of freezing a guest. */
export interface Freeze {
  /** How long it stood still, milliseconds. */
  pauseMs: number;
  /** Resolves when its settings are those from before, and it can be frozen or saved again. */
  settled: Promise<void>;
}

/** Freezes a running guest. */
export async function freezeGuest(target: FreezeTarget, request: FreezeRequest): Promise<Freeze> {
  const { name, qmp } = target;
  const { signal } = request;
  const [reason, handedIn] = await Promise.allSettled([whyNotFreezable(qmp), handIn(target, request.path)]);
  if (handedIn.status === 'rejected') throw reason.status === 'rejected' ? reason.reason : handedIn.reason;
  const fdset = handedIn.value;
  if (reason.status === 'rejected' || reason.value !== null || signal.aborted) {
    await release(qmp, fdset);
    if (reason.status === 'rejected') throw reason.reason;
    signal.throwIfAborted();
    throw new LodgeError('unsupported', `VM ${name} can not be forked: ${reason.value}.`);
  }
  const phases = new Phases(qmp);
  try {
    await setCapabilities(qmp, true);
    await qmp.execute('migrate-set-parameters', {
      'max-bandwidth': 2 ** 40,
      'multifd-channels': writers,
      'downtime-limit': wantedDowntimeMs,
    });
    await qmp.execute('migrate', { uri: `file:/dev/fdset/${fdset}` });
    await stopSoon(phases, qmp, signal);
    await request.onStopped?.();
    signal.throwIfAborted();
    await qmp.execute('migrate-continue', { state: 'pre-switchover' });
    await phases.until('completed', signal);
    await runOn(name, qmp);
    return { pauseMs: phases.pauseMs(), settled: settle(qmp, fdset) };
  } catch (error) {
    await cancel(name, qmp);
    await settle(qmp, fdset);
    throw error;
  } finally {
    phases.close();
  }
}

async function settle(qmp: QmpConnection, fdset: number): Promise<void> {
  // A monitor that is gone, or a guest that has ended, has nothing to be set back.
  await restoreSettings(qmp).catch(() => {});
  await release(qmp, fdset);
}

async function release(qmp: QmpConnection, fdset: number): Promise<void> {
  await qmp.execute('remove-fd', { 'fdset-id': fdset }).catch(() => {});
}

/** Lets a guest run on that an earlier daemon was freezing. Does nothing for others. */
export async function settleFreeze(name: string, qmp: QmpConnection): Promise<void> {
  const capabilities = await qmp.execute('query-migrate-capabilities');
  if (!capabilities.some(({ capability, state }) => capability === 'mapped-ram' && state)) return;
  await cancel(name, qmp);
  await restoreSettings(qmp);
}

/** Waits until the guest stands still with nearly all of its memory saved. */
async function stopSoon(phases: Phases, qmp: QmpConnection, signal: AbortSignal): Promise<void> {
  const timer = setTimeout(() => void qmp.execute('stop').catch(() => {}), longestRunningMs);
  try {
    await phases.until('pre-switchover', signal);
  } finally {
    clearTimeout(timer);
  }
}

async function handIn(target: FreezeTarget, path: string): Promise<number> {
  try {
    const [answer] = await sendDescriptors({
      socketPath: target.descriptorSocket,
      commands: [{ execute: 'add-fd', descriptor: { path, mode: 'wo' } }],
    });
    return (answer as { 'fdset-id': number })['fdset-id'];
  } catch (error) {
    if (!(error instanceof SendDescriptorsError)) throw error;
    throw new LodgeError('hypervisor_failed', `VM ${target.name} can not be handed a file: ${error.message}.`, {
      hint: 'A VM that an older Lodge has started can be forked after its next start.',
      cause: error,
    });
  }
}

async function setCapabilities(qmp: QmpConnection, isOn: boolean): Promise<void> {
  await qmp.execute('migrate-set-capabilities', {
    capabilities: freezeCapabilities.map((capability) => ({ capability, state: isOn })),
  });
}

/** Ends a freeze before its time, and lets the guest run on. */
async function cancel(name: string, qmp: QmpConnection): Promise<void> {
  await qmp.execute('migrate_cancel').catch(() => {});
  if (qmp.client !== null) await runOn(name, qmp);
}

/** Lets the vCPUs run as soon as QEMU does. */
async function runOn(name: string, qmp: QmpConnection): Promise<void> {
  let last: unknown = null;
  for (const end = performance.now() + runOnMs; performance.now() < end;) {
    try {
      await qmp.execute('cont');
      return;
    } catch (error) {
      if (error instanceof QmpClosedError) throw error;
      last = error;
      await delay(1);
    }
  }
  throw new LodgeError('hypervisor_failed', `VM ${name} could not be let run on after it was frozen.`, {
    hint: 'lodge vm resume lets it run.',
    cause: last,
  });
}

async function restoreSettings(qmp: QmpConnection): Promise<void> {
  await qmp.execute('migrate-set-parameters', {
    'max-bandwidth': usualBandwidth,
    'multifd-channels': usualWriters,
    'downtime-limit': usualDowntimeMs,
  });
  await setCapabilities(qmp, false);
}

/** What QEMU tells of a migration under way. */
class Phases {
  readonly #qmp: QmpConnection;
  readonly #stopListening: () => void;
  #status: Status = 'none';
  #wake: () => void = () => {};
  #stoppedAtMs = 0;
  #ranAtMs = 0;

  constructor(qmp: QmpConnection) {
    this.#qmp = qmp;
    void qmp.client?.closed.then(() => {
      this.#status = 'lost';
      this.#wake();
    });
    const stops = [
      qmp.on('MIGRATION', ({ data }) => {
        this.#status = data.status;
        this.#wake();
      }),
      qmp.on('STOP', ({ timeMs }) => (this.#stoppedAtMs = timeMs)),
      qmp.on('RESUME', ({ timeMs }) => (this.#ranAtMs = timeMs)),
    ];
    this.#stopListening = () => stops.forEach((stop) => stop());
  }

  async until(wanted: Status, signal: AbortSignal): Promise<void> {
    while (this.#status !== wanted) {
      if (this.#status === 'lost') throw new QmpClosedError('lost', 'the connection broke', 'migrate', true);
      if (this.#status === 'failed' || this.#status === 'cancelled') {
        const words = (await this.#qmp.execute('query-migrate'))['error-desc'] ?? this.#status;
        throw new LodgeError('hypervisor_failed', `QEMU could not save its memory: ${words}.`);
      }
      signal.throwIfAborted();
      await new Promise<void>((resolve) => {
        const onAbort = (): void => resolve();
        this.#wake = () => {
          signal.removeEventListener('abort', onAbort);
          resolve();
        };
        signal.addEventListener('abort', onAbort, { once: true });
      });
    }
  }

  /** By QEMU's clock, from the last STOP to the last RESUME. */
  pauseMs(): number {
    return Math.max(0, this.#ranAtMs - this.#stoppedAtMs);
  }

  close(): void {
    this.#stopListening();
  }
}
