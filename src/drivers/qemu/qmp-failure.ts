// What QEMU's monitor refused or left unanswered, as the contract's error.
import { LodgeError } from '../../api/errors.ts';
import { DialError } from './qmp/dial.ts';
import {
  QmpAbortedError,
  QmpClosedError,
  QmpConnectError,
  QmpError,
  QmpOverloadError,
  QmpTimeoutError,
} from './qmp/errors.ts';

/** The contract's error for a failure of talking to QEMU; anything else as it is. `what`: "pause VM web1". */
export function qmpFailure(error: unknown, what: string): unknown {
  const options = { cause: error };
  if (error instanceof QmpError)
    return new LodgeError('hypervisor_failed', `QEMU refused to ${what}: ${error.description}.`, options);
  if (error instanceof QmpTimeoutError) {
    return new LodgeError('timeout', `QEMU did not answer within ${error.timeoutMs / 1000} s when asked to ${what}.`, {
      ...options,
      hint: 'It may be held up by its disks, or by a host under load. Look at the VM again before you repeat it.',
    });
  }
  if (error instanceof QmpClosedError || error instanceof QmpConnectError || error instanceof DialError) {
    return new LodgeError('hypervisor_failed', `There is no connection to QEMU to ${what}.`, {
      ...options,
      hint: 'Its process has ended, or Lodge is about to reach it again: lodge vm show tells.',
    });
  }
  if (error instanceof QmpOverloadError)
    return new LodgeError('rate_limited', `Too many requests wait for QEMU to ${what}.`, options);
  if (error instanceof QmpAbortedError) return new LodgeError('cancelled', `It was cancelled to ${what}.`, options);
  return error;
}

/** Runs `work`, whose failures become the contract's errors. */
export async function asking<T>(what: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    throw qmpFailure(error, what);
  }
}
