// Taking a device out of a running guest: the guest is asked, lets go of it, and only then it is gone.
//
//   device_del ─▶ the guest lets go ─▶ DEVICE_DELETED; for a vCPU only that of its local APIC
//              ├▶ the guest refuses  ─▶ DEVICE_UNPLUG_GUEST_ERROR, or ACPI_DEVICE_OST with a status that isn't 0
//              └▶ nothing            ─▶ the deadline: the device stays, and may still go later
import { LodgeError } from '../../../api/errors.ts';
import { type QmpConnection } from '../qmp/connection.ts';
import { QmpError } from '../qmp/errors.ts';
import { type QmpEvent } from '../qmp/events.ts';

/** A device by its id; one that was there from the start has only its path in QEMU's object tree. */
export interface DeviceName {
  id: string | null;
  path: string;
}

/** The operation that an _OST is about: ACPI 6.5, 6.3.5, "Ejection Request". */
const ejection = 3;
/** What Linux says while it is about it: ACPI_OST_SC_EJECT_IN_PROGRESS in its include/linux/acpi.h. */
const isInProgress = 0x84;

/** Between looks at whether it is gone. */
const lookMs = 250;

/**
 * Asks the guest to let go of a device and waits until it has. A DEVICE_DELETED may name a part of it, or never come for
 * the device itself; so whatever is heard, QEMU is asked whether the device is still there.
 */
export async function unplug(
  qmp: QmpConnection,
  device: DeviceName,
  what: string,
  { timeoutMs, signal }: { timeoutMs: number; signal?: AbortSignal | undefined },
): Promise<void> {
  const over = Promise.withResolvers<null | string>();
  const isIt = (data: { device?: string | undefined; path: string }): boolean =>
    data.path === device.path || (device.id !== null && data.device === device.id);
  const look = (): void =>
    void isThere(qmp, device.path).then(
      (is) => is || over.resolve(null),
      () => {},
    );
  const stop = qmp.onEvent((event: QmpEvent) => {
    if (event.name === 'DEVICE_UNPLUG_GUEST_ERROR' && isIt(event.data)) over.resolve('The guest refused');
    else if (event.name === 'DEVICE_DELETED') look();
    else if (event.name === 'ACPI_DEVICE_OST') {
      const { device: id, source, status } = event.data.info;
      const isRefusal = source === ejection && status !== 0 && status !== isInProgress;
      if (isRefusal && id !== undefined && id === device.id) over.resolve(`The guest refused with status ${status}`);
      else look();
    }
  });
  const again = setInterval(look, lookMs);
  const timer = setTimeout(() => over.resolve(`Within ${timeoutMs / 1000} s the guest did not`), timeoutMs);
  const onAbort = (): void => over.reject(signal?.reason);
  signal?.addEventListener('abort', onAbort, { once: true });
  over.promise.catch(() => {});
  try {
    signal?.throwIfAborted();
    try {
      await qmp.execute('device_del', { id: device.id ?? device.path });
    } catch (error) {
      if (!(error instanceof QmpError)) throw error;
      if (error.errorClass === 'DeviceNotFound') return;
      // It was asked before; the guest may still be about it.
      if (!/already in the process of unplug/.test(error.description)) throw error;
    }
    const why = await over.promise;
    if (why !== null)
      throw new LodgeError('timeout', `${why} let go of ${what}.`, {
        hint: 'It stays until the guest does: stop what uses it in the guest, or restart the VM.',
      });
  } finally {
    clearTimeout(timer);
    clearInterval(again);
    stop();
    signal?.removeEventListener('abort', onAbort);
  }
}

async function isThere(qmp: QmpConnection, path: string): Promise<boolean> {
  try {
    await qmp.execute('qom-list', { path });
    return true;
  } catch (error) {
    if (error instanceof QmpError) return false;
    throw error;
  }
}
