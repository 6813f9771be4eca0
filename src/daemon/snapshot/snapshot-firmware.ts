// What firmware and TPM of a VM remember, as a snapshot keeps it: copied when it is taken, and put back by a revert.
import { access, mkdir, readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { type Vm } from '../../api/vm.ts';
import { makeDurable } from '../../host/image/durable.ts';
import { vmDirectory } from '../vm/definition.ts';
import { type VmStepParts } from '../vm/vm-step.ts';

type Parts = Pick<VmStepParts, 'driver' | 'directory'>;

/** The folder that a snapshot keeps it in. */
export function firmwarePath(parts: Pick<VmStepParts, 'directory'>, vmId: string, snapshotId: string): string {
  return join(vmDirectory(parts, vmId), 'snapshots', `${snapshotId}.firmware`);
}

/** Copies it for a snapshot. The guest may run; one that stands still is not kept waiting for the disk. */
export async function keepFirmware(parts: Parts, vmId: string, snapshotId: string): Promise<void> {
  const to = firmwarePath(parts, vmId, snapshotId);
  await mkdir(to, { recursive: true, mode: 0o700 });
  const from = vmDirectory(parts, vmId);
  await parts.driver.copyFirmware({ from, to, uid: null, hasTpm: true, isDurable: false });
}

/** Makes what was kept survive a power failure. */
export async function settleFirmware(parts: Parts, vmId: string, snapshotId: string): Promise<void> {
  const folder = firmwarePath(parts, vmId, snapshotId);
  const names = await readdir(folder, { recursive: true });
  if (names.length === 0) return;
  for (const name of [...names, '.']) await makeDurable(join(folder, name));
}

/** Puts back what a snapshot keeps. The VM is off. */
export async function putFirmwareBack(parts: Parts, vm: Vm, snapshotId: string): Promise<void> {
  const from = firmwarePath(parts, vm.id, snapshotId);
  const isKept = await access(from).then(
    () => true,
    () => false,
  );
  if (!isKept) return;
  const { uid } = vm.status;
  await parts.driver.copyFirmware({ from, to: vmDirectory(parts, vm.id), uid, hasTpm: true, isDurable: true });
}

/** Removes what a snapshot keeps of it. */
export async function forgetFirmware(parts: Parts, vmId: string, snapshotId: string): Promise<void> {
  await rm(firmwarePath(parts, vmId, snapshotId), { recursive: true, force: true });
}
