// Why a guest could not be started, as one error: the contract's, with the names and QEMU's own words.
import { LodgeError } from '../../api/errors.ts';
import { CgroupError } from '../../host/cgroup-group.ts';
import { LaunchError } from '../../host/launch/launch.ts';
import { qmpFailure } from './qmp-failure.ts';
import { QmpError } from './qmp/errors.ts';

export interface StartFailure {
  name: string;
  error: unknown;
  /** How its process ended and what it said last; null when it was alive until it was given up. */
  death: string | null;
  /** The caller gave up. */
  isCancelled: boolean;
  /** The deadline had passed. */
  isLate: boolean;
  timeoutMs: number;
}

export function startFailure({ name, error, death, isCancelled, isLate, timeoutMs }: StartFailure): LodgeError {
  const options = { cause: error };
  if (isCancelled) return new LodgeError('cancelled', `Starting VM ${name} was cancelled.`, options);
  if (error instanceof LaunchError || error instanceof CgroupError)
    return new LodgeError('host_failed', `VM ${name} could not be started: ${error.message}.`, options);
  const code = (error as NodeJS.ErrnoException).code;
  if (code === 'ENOSPC' || code === 'EDQUOT')
    return new LodgeError('storage_full', `VM ${name} could not be started: there is no room for its files.`, options);
  if (error instanceof QmpError)
    return new LodgeError('hypervisor_failed', `QEMU refused to start VM ${name}: ${error.description}.`, options);
  if (death !== null) return new LodgeError('hypervisor_failed', `VM ${name} could not be started. ${death}`, options);
  if (isLate) {
    return new LodgeError(
      'timeout',
      `VM ${name} could not be started: its QEMU process did not answer within ${timeoutMs / 1000} s, and was ended.`,
      {
        ...options,
        hint: 'The host may be overloaded, or a disk may not answer. Look at lodge vm log, then try again.',
      },
    );
  }
  const known = qmpFailure(error, `start VM ${name}`);
  if (known instanceof LodgeError) return known;
  const words = error instanceof Error ? error.message : String(error);
  return new LodgeError('host_failed', `VM ${name} could not be started: ${words}.`, options);
}
