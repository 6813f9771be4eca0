// A running guest's memory and devices in a file, with its disks frozen in the same moment, while it goes on.
//
//   running ─▶ QEMU gets ready ──────────────────────────▶ devices saved, writes followed ─▶ running, memory being saved ─▶ saved
//                  └▶ stands still ─▶ disks frozen (meanwhile)
//
// QEMU follows the guest's writes by userfaultfd and saves a page before it changes (capability background-snapshot). Its
// own pause for that can't have the disks in it: what else is asked of QEMU waits until the guest runs again. So the guest
// is stopped and its disks are frozen while QEMU gets ready, which is to walk through all of the guest's memory once
// (bg_migration_thread of its migration.c, before it takes the lock of the main loop), and it is let run when the first
// pages were saved, which is when writes are being followed for sure. Should QEMU be ready first, it stops the guest and
// lets it run before the disks are frozen: then it is stopped twice, and its memory is saved again while it stands still.
// Where userfaultfd is not allowed, the guest stands still until all of its memory is saved.
//
// Promise: however it ends, a guest that ran runs on, and its migration settings are those from before.
import { chmod, chown, open, rm } from 'node:fs/promises';
import { dirname } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { LodgeError } from '../../api/errors.ts';
import { makeDurable } from '../../host/image/durable.ts';
import { sendDescriptors, SendDescriptorsError } from '../../host/launch/send-descriptors.ts';
import { withUserfaultfd } from '../../host/userfaultfd.ts';
import { type CaptureOptions, type MemoryCapture } from '../driver.ts';
import { type VmFolder } from './folder.ts';
import { qmpFailure } from './qmp-failure.ts';
import { type QmpConnection } from './qmp/connection.ts';
import { QmpError } from './qmp/errors.ts';
import { runOn } from './saved-state.ts';

/** What is needed of its monitor. */
export type CaptureMonitor = Pick<QmpConnection, 'execute' | 'on' | 'client'>;

export interface CaptureTarget {
  name: string;
  /** User and group of its process. */
  uid: number;
  qmp: CaptureMonitor;
  folder: Pick<VmFolder, 'descriptorSocket'>;
}

const defaultMs = 3_600_000;
/** Marks the file that memory is saved to among QEMU's descriptors. */
const handedInFor = 'saved memory';
/** The longest that the guest may stand still for what should take milliseconds. */
const longestPauseMs = 10_000;

/**
 * Begins to save a guest's memory. Answers when the guest runs on; `finish` of the answer resolves when all is saved.
 * `freezeDisks` is to send one command before it first waits for anything; null: there are none. When this throws, nothing was saved; the disks may be frozen.
 */
export async function captureMemory(
  target: CaptureTarget,
  freezeDisks: (() => Promise<void>) | null,
  options: CaptureOptions,
): Promise<MemoryCapture> {
  const { name, qmp } = target;
  const { path, signal, timeoutMs = defaultMs } = options;
  const deadline = AbortSignal.any([AbortSignal.timeout(timeoutMs), ...(signal ? [signal] : [])]);
  if (deadline.aborted) throw explain(deadline.reason, name, signal, timeoutMs);
  const wasRunning = (await qmp.execute('query-status')).running;
  await makeFile(path, target.uid);
  let fdset: number | null = null;
  const pauses = new Pauses(qmp);
  const undo = async (): Promise<void> => {
    await qmp.execute('migrate_cancel').catch(() => {});
    await untilIdle(qmp).catch(() => {});
    if (wasRunning) await runOn(qmp);
    pauses.close();
    await cleanUp(qmp, fdset);
    await rm(path, { force: true });
  };
  try {
    fdset = await handIn(target, path);
    const whyNot = wasRunning ? await followWrites(target) : null;
    const isLive = wasRunning && whyNot === null;
    // No limit: nobody else waits for the disk on this guest's behalf.
    await qmp.execute('migrate-set-parameters', { 'max-bandwidth': 2 ** 40 });
    if (isLive) {
      const mustStop = freezeDisks !== null || options.onStopped !== undefined;
      // One after the other for QEMU, and none waits here for the answer to the one before it.
      await all([
        qmp.execute('migrate', { uri: uriOf(fdset) }),
        ...(mustStop ? [qmp.execute('stop')] : []),
        ...(freezeDisks ? [freezeDisks()] : []),
      ]);
      if (pauses.count > 1) {
        await qmp.execute('migrate_cancel');
        await untilIdle(qmp);
        await qmp.execute('remove-fd', { 'fdset-id': fdset });
        await makeFile(path, target.uid);
        fdset = await handIn(target, path);
        await qmp.execute('migrate', { uri: uriOf(fdset) });
      }
      await all([Promise.resolve(options.onStopped?.()), untilFollowed(target, deadline)]);
      await qmp.execute('cont');
    } else {
      if (wasRunning) await qmp.execute('stop');
      await freezeDisks?.();
      await options.onStopped?.();
      await qmp.execute('migrate', { uri: uriOf(fdset) });
    }
    const finish = async (): Promise<number> => {
      try {
        const bytes = await untilSaved(target, deadline, options);
        if (wasRunning && !isLive) await qmp.execute('cont');
        pauses.close();
        await cleanUp(qmp, fdset);
        await makeDurable(path);
        await makeDurable(dirname(path));
        return bytes;
      } catch (error) {
        await undo();
        throw explain(error, name, signal, timeoutMs);
      }
    };
    const { totalMs: pauseMs } = pauses;
    if (isLive) return { isLive, reason: 'QEMU saves each page before the guest changes it.', pauseMs, finish };
    const bytes = await finish();
    return {
      isLive: false,
      reason: whyNot ?? 'The guest was paused anyway.',
      pauseMs: pauses.totalMs,
      finish: () => Promise.resolve(bytes),
    };
  } catch (error) {
    await undo();
    throw explain(error, name, signal, timeoutMs);
  }
}

/** Waits for the end of all of them, and fails as the first that has failed. */
async function all(calls: readonly Promise<unknown>[]): Promise<void> {
  for (const outcome of await Promise.allSettled(calls)) if (outcome.status === 'rejected') throw outcome.reason;
}

function uriOf(fdset: number): string {
  return `file:/dev/fdset/${fdset}`;
}

/** How often and how long the guest stands still, by QEMU's own clock. */
class Pauses {
  count = 0;
  totalMs = 0;
  readonly #ends: (() => void)[];

  constructor(qmp: CaptureMonitor) {
    let sinceMs = 0;
    this.#ends = [
      qmp.on('STOP', ({ timeMs }) => {
        this.count++;
        sinceMs = timeMs;
      }),
      qmp.on('RESUME', ({ timeMs }) => void (this.totalMs += timeMs - sinceMs)),
    ];
  }

  close(): void {
    for (const end of this.#ends) end();
  }
}

/** Takes back what a daemon that died has begun. Does nothing where nothing was. */
export async function settleCapture(qmp: CaptureMonitor): Promise<void> {
  await settleMigration(qmp);
  for (const { 'fdset-id': fdset, fds } of await qmp.execute('query-fdsets'))
    if (fds.some(({ opaque }) => opaque === handedInFor)) await qmp.execute('remove-fd', { 'fdset-id': fdset });
}

async function settleMigration(qmp: CaptureMonitor): Promise<void> {
  const capabilities = await qmp.execute('query-migrate-capabilities');
  if (!capabilities.some(({ capability, state }) => capability === 'background-snapshot' && state)) return;
  await qmp.execute('migrate_cancel').catch(() => {});
  await untilIdle(qmp);
  await setCapability(qmp, false);
  // Only a guest that ran is saved in this way.
  if ((await qmp.execute('query-status')).status === 'paused') await runOn(qmp);
}

/** Root's, readable by the VM's own user, who is to read it when it is restored. */
async function makeFile(path: string, gid: number): Promise<void> {
  await rm(path, { force: true });
  const file = await open(path, 'wx', 0o600);
  await file.close();
  await chown(path, 0, gid);
  await chmod(path, 0o640);
}

async function handIn({ name, folder }: CaptureTarget, path: string): Promise<number> {
  try {
    const [given] = (await sendDescriptors({
      socketPath: folder.descriptorSocket,
      commands: [{ execute: 'add-fd', arguments: { opaque: handedInFor }, descriptor: { path, mode: 'wo' } }],
    })) as { 'fdset-id': number }[];
    return given!['fdset-id'];
  } catch (error) {
    if (!(error instanceof SendDescriptorsError)) throw error;
    throw new LodgeError('hypervisor_failed', `QEMU of VM ${name} could not be given a file: ${error.message}.`, {
      cause: error,
    });
  }
}

/** Makes QEMU follow what the guest writes. Why it can't; null: it does. */
async function followWrites({ uid, qmp }: CaptureTarget): Promise<string | null> {
  try {
    // QEMU opens the device when it is asked whether it could, and keeps it.
    await withUserfaultfd(uid, () => setCapability(qmp, true));
    return null;
  } catch (error) {
    if (!(error instanceof QmpError)) throw error;
    return `QEMU can’t follow what the guest writes while it is saved (${error.description}), so the guest stood still.`;
  }
}

function setCapability(qmp: CaptureMonitor, state: boolean): Promise<unknown> {
  return qmp.execute('migrate-set-capabilities', { capabilities: [{ capability: 'background-snapshot', state }] });
}

/** Resolves when the first page was saved: bg_migration_thread of QEMU's migration.c follows writes before that. */
async function untilFollowed({ name, qmp }: CaptureTarget, deadline: AbortSignal): Promise<void> {
  const late = AbortSignal.any([AbortSignal.timeout(longestPauseMs), deadline]);
  for (;;) {
    const migration = await qmp.execute('query-migrate');
    if (migration.status === 'completed') return;
    if (migration.status === 'failed' || migration.status === 'cancelled')
      throw captureFailure(name, migration['error-desc'] ?? migration.status);
    if (migration.ram && migration.ram.normal + migration.ram.duplicate > 0) return;
    late.throwIfAborted();
  }
}

async function untilSaved(
  { name, qmp }: CaptureTarget,
  deadline: AbortSignal,
  { onProgress }: CaptureOptions,
): Promise<number> {
  for (let pauseMs = 5; ; pauseMs = Math.min(pauseMs * 2, 250)) {
    const migration = await qmp.execute('query-migrate');
    if (migration.ram) onProgress?.(migration.ram.total - migration.ram.remaining, migration.ram.total);
    if (migration.status === 'completed') return migration.ram?.transferred ?? 0;
    if (migration.status === 'failed' || migration.status === 'cancelled')
      throw captureFailure(name, migration['error-desc'] ?? migration.status);
    await delay(pauseMs, undefined, { signal: deadline });
  }
}

/** Waits until a migration that was cancelled is over: until then QEMU takes no other. */
async function untilIdle(qmp: CaptureMonitor): Promise<void> {
  for (const end = performance.now() + longestPauseMs; performance.now() < end;) {
    const { status = 'none' } = await qmp.execute('query-migrate');
    if (['none', 'completed', 'failed', 'cancelled'].includes(status)) return;
    await delay(20);
  }
}

async function cleanUp(qmp: CaptureMonitor, fdset: number | null): Promise<void> {
  await setCapability(qmp, false).catch(() => {});
  if (fdset !== null) await qmp.execute('remove-fd', { 'fdset-id': fdset }).catch(() => {});
}

function captureFailure(name: string, words: string): LodgeError {
  const message = `QEMU could not save the memory of VM ${name}: ${words}. The guest runs on.`;
  return /No space left|quota/i.test(words)
    ? new LodgeError('storage_full', message)
    : new LodgeError('hypervisor_failed', message);
}

function explain(error: unknown, name: string, signal: AbortSignal | undefined, timeoutMs: number): unknown {
  if (signal?.aborted)
    return new LodgeError('cancelled', `Saving the memory of VM ${name} was cancelled; it runs on.`, { cause: error });
  if (error instanceof DOMException && error.name === 'TimeoutError')
    return new LodgeError(
      'timeout',
      `Saving the memory of VM ${name} took longer than ${timeoutMs / 1000} s; it runs on.`,
      {
        cause: error,
      },
    );
  return qmpFailure(error, `save the memory of VM ${name}`);
}
