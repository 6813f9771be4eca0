// Lets one process user open /dev/userfaultfd for a moment. With it QEMU follows what a running guest writes while its
// memory is saved (background-snapshot); what it has opened stays with it. The kernel lets nobody but root do so otherwise,
// where vm.unprivileged_userfaultfd is 0: Documentation/admin-guide/mm/userfaultfd.rst.
import { chmod, chown, stat } from 'node:fs/promises';
import { SerialQueues } from '../lib/serial-queues.ts';

const device = '/dev/userfaultfd';
/** Groups above this are those of VMs: nobody else is given them. */
const lastOrdinaryGroup = 65_535;
const queue = new SerialQueues();

/**
 * Runs `work` while processes of this group may open the device; one call at a time. Where there is no such device (before
 * Linux 6.1), `work` runs all the same. Needs root.
 */
export function withUserfaultfd<T>(gid: number, work: () => Promise<T>): Promise<T> {
  return queue.run(device, async () => {
    const before = await stat(device).catch(() => null);
    if (!before) return work();
    // What a process that was killed here has left is not what it is to be set back to.
    const isLeft = before.gid > lastOrdinaryGroup;
    await chown(device, before.uid, gid);
    await chmod(device, 0o660);
    try {
      return await work();
    } finally {
      await chmod(device, isLeft ? 0o600 : before.mode & 0o777);
      await chown(device, before.uid, isLeft ? 0 : before.gid);
    }
  });
}
