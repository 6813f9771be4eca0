// A guest's memory and devices in a file, by QEMU's migration to and from `file:`.
//
// Promise: memory is continued from once at most. A guest that ran on from it has changed its disks; the same memory
// again, beside those disks, would ruin its file systems. So the file loses its name before the vCPUs run.
import { rename, rm } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import { LodgeError } from '../../api/errors.ts';
import { makeDurable } from '../../host/image/durable.ts';
import { type SuspendOptions } from '../driver.ts';
import { hasFile, makeFileDurable, workNames, type VmFolder } from './folder.ts';
import { qmpFailure } from './qmp-failure.ts';
import { type QmpConnection } from './qmp/connection.ts';

const defaultSaveMs = 600_000;
/** A cancelled migration takes a moment before QEMU lets the guest run again. */
const runOnMs = 5000;

/** Stops the vCPUs and saves everything. When it fails, the guest runs on if it ran before, and no file is left. */
export async function saveMemory(
  name: string,
  qmp: QmpConnection,
  folder: VmFolder,
  { timeoutMs = defaultSaveMs, signal, onProgress, onSaved }: SuspendOptions,
): Promise<void> {
  const deadline = AbortSignal.any([AbortSignal.timeout(timeoutMs), ...(signal ? [signal] : [])]);
  const wasRunning = (await qmp.execute('query-status')).running;
  try {
    deadline.throwIfAborted();
    await qmp.execute('stop');
    await rm(folder.savedState, { force: true, recursive: true });
    // No limit: nobody else waits for the disk on this guest's behalf.
    await qmp.execute('migrate-set-parameters', { 'max-bandwidth': 2 ** 40 });
    await qmp.execute('migrate', { uri: `file:${workNames.savedState}` });
    for (let pauseMs = 5; ; pauseMs = Math.min(pauseMs * 2, 250)) {
      const migration = await qmp.execute('query-migrate');
      if (migration.ram) onProgress?.(migration.ram.transferred, migration.ram.total);
      if (migration.status === 'completed') break;
      if (migration.status === 'failed' || migration.status === 'cancelled')
        throw saveFailure(name, migration['error-desc'] ?? migration.status);
      await delay(pauseMs, undefined, { signal: deadline });
    }
    await makeFileDurable(folder.savedState);
    await makeDurable(folder.work);
    await onSaved?.();
  } catch (error) {
    await qmp.execute('migrate_cancel').catch(() => {});
    await rm(folder.savedState, { force: true, recursive: true });
    if (wasRunning) await runOn(qmp);
    if (signal?.aborted)
      throw new LodgeError('cancelled', `Saving the memory of VM ${name} was cancelled; it runs on.`, { cause: error });
    if (deadline.aborted) {
      throw new LodgeError(
        'timeout',
        `Saving the memory of VM ${name} took longer than ${timeoutMs / 1000} s; it runs on.`,
        { cause: error },
      );
    }
    throw qmpFailure(error, `save the memory of VM ${name}`);
  }
}

/** Reads the saved memory into a QEMU that was started with `-incoming defer`. The vCPUs stay stopped. */
export async function loadMemory(qmp: QmpConnection, signal: AbortSignal): Promise<void> {
  await qmp.execute('migrate-incoming', { uri: `file:${workNames.savedState}` });
  for (let pauseMs = 2; ; pauseMs = Math.min(pauseMs * 2, 100)) {
    const migration = await qmp.execute('query-migrate');
    if (migration.status === 'failed') {
      throw new LodgeError(
        'hypervisor_failed',
        `Its saved memory can’t be read: ${migration['error-desc'] ?? 'no reason given'}.`,
        { hint: 'lodge vm force-off discards the saved memory; then the VM starts afresh.' },
      );
    }
    const { status } = await qmp.execute('query-status');
    if (status !== 'inmigrate' && status !== 'prelaunch') return;
    signal.throwIfAborted();
    await delay(pauseMs);
  }
}

/** Takes the saved memory out of use, before the guest runs on from it. */
export async function useUpState(folder: VmFolder): Promise<void> {
  await rename(folder.savedState, folder.usedState);
  await makeDurable(folder.work);
}

/** Puts the saved memory back: the guest did not run on from it after all. */
export async function takeBackState(folder: VmFolder): Promise<void> {
  await rename(folder.usedState, folder.savedState).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== 'ENOENT') throw error;
  });
}

/** Decides about saved memory that was in use when a daemon died: a guest that has not run on from it needs it again. */
export async function settleUsedState(qmp: QmpConnection, folder: VmFolder): Promise<void> {
  if (!(await hasFile(folder.usedState))) return;
  const { status } = await qmp.execute('query-status');
  if (['paused', 'inmigrate', 'prelaunch'].includes(status)) await takeBackState(folder);
  else await rm(folder.usedState, { force: true });
}

/** Lets a guest run on, as soon as QEMU lets it. */
export async function runOn(qmp: Pick<QmpConnection, 'execute' | 'client'>): Promise<void> {
  for (const end = performance.now() + runOnMs; performance.now() < end && qmp.client !== null;) {
    try {
      await qmp.execute('cont');
      return;
    } catch {
      await delay(50);
    }
  }
}

function saveFailure(name: string, words: string): LodgeError {
  const message = `QEMU could not save the memory of VM ${name}: ${words}.`;
  return /No space left|quota/i.test(words)
    ? new LodgeError('storage_full', message)
    : new LodgeError('hypervisor_failed', message);
}
