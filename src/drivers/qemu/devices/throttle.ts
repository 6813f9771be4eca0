// Limits of a disk in the words of QEMU. They belong to the device, not to a block node, so that layers may come and go
// below. https://www.qemu.org/docs/master/interop/qemu-qmp-ref.html (block_set_io_throttle)
import { type VmDiskLimits } from '../../../api/vm-spec.ts';
import { type QmpArguments } from '../qmp/commands.ts';

const names = {
  iops: 'iops',
  readIops: 'iops_rd',
  writeIops: 'iops_wr',
  bytesPerSecond: 'bps',
  readBytesPerSecond: 'bps_rd',
  writeBytesPerSecond: 'bps_wr',
} as const;

/** No limits: everything zero. */
export function throttleArguments(id: string, limits: VmDiskLimits | null): QmpArguments<'block_set_io_throttle'> {
  const rates: Record<string, number> = {};
  for (const [name, qmpName] of Object.entries(names) as [keyof typeof names, string][]) {
    rates[qmpName] = limits?.[name] ?? 0;
    const burst = limits?.burst?.[name];
    if (burst === undefined) continue;
    rates[`${qmpName}_max`] = burst;
    rates[`${qmpName}_max_length`] = limits?.burst?.lengthS ?? 1;
  }
  return { id, ...rates } as QmpArguments<'block_set_io_throttle'>;
}
