// What VMs use: rows from two readings, for `lodge vm usage` and `lodge top`.
import type { VmUsage } from '../../api/vm.ts';
import { formatBytes, formatRate } from '../../lib/quantity.ts';
import type { Column } from '../output/table.ts';
import { colorState } from '../view.ts';

/** One VM's use now; rates in bytes a second, null until there are two readings. */
export interface UsageRow {
  id: string;
  name: string;
  project: string;
  state: VmUsage['state'];
  cpuPercent: number | null;
  memoryMib: number | null;
  memoryPrivateMib: number | null;
  memorySharedMib: number | null;
  diskReadRate: number | null;
  diskWriteRate: number | null;
  receiveRate: number | null;
  sendRate: number | null;
}

/** One answer of the daemon. */
export interface UsageReading {
  at: string;
  items: VmUsage[];
}

/** Rows of a reading, with rates since the one before. A counter that went back (the VM was restarted) has no rate. */
export function usageRows(now: UsageReading, before: UsageReading | null): UsageRow[] {
  const seconds = before === null ? 0 : (Date.parse(now.at) - Date.parse(before.at)) / 1000;
  const earlier = new Map(before?.items.map((item) => [item.id, item]));
  const rate = (current: number | null, last: number | null | undefined): number | null =>
    current === null || last === null || last === undefined || seconds <= 0 || current < last
      ? null
      : (current - last) / seconds;
  return now.items.map((item) => {
    const last = earlier.get(item.id);
    return {
      id: item.id,
      name: item.name,
      project: item.project,
      state: item.state,
      cpuPercent: item.cpuPercent,
      memoryMib: item.memoryMib,
      memoryPrivateMib: item.memoryPrivateMib,
      memorySharedMib: item.memorySharedMib,
      diskReadRate: rate(item.diskReadBytes, last?.diskReadBytes),
      diskWriteRate: rate(item.diskWrittenBytes, last?.diskWrittenBytes),
      receiveRate: rate(item.networkReceivedBytes, last?.networkReceivedBytes),
      sendRate: rate(item.networkSentBytes, last?.networkSentBytes),
    };
  });
}

const memoryText = (mib: number | null): string => (mib === null ? '' : formatBytes(mib * 2 ** 20));
const rateText = (rate: number | null): string => (rate === null ? '' : formatRate(rate));

export const usageColumns: readonly Column<UsageRow>[] = [
  { header: 'NAME', value: (row) => row.name, minWidth: 12 },
  { header: 'STATE', value: (row) => row.state, color: (text, row, style) => colorState(text, row.state, style) },
  { header: 'CPU', value: (row) => (row.cpuPercent === null ? '' : `${row.cpuPercent.toFixed(1)} %`), side: 'right' },
  {
    header: 'MEMORY',
    value: (row) => memoryText(row.memoryMib),
    side: 'right',
  },
  // Of the memory: what programs and forks have in common counts in full for each.
  { header: 'SHARED', value: (row) => memoryText(row.memorySharedMib), side: 'right' },
  { header: 'DISK READ', value: (row) => rateText(row.diskReadRate), side: 'right' },
  { header: 'DISK WRITE', value: (row) => rateText(row.diskWriteRate), side: 'right' },
  { header: 'NET IN', value: (row) => rateText(row.receiveRate), side: 'right' },
  { header: 'NET OUT', value: (row) => rateText(row.sendRate), side: 'right' },
];

export const sortKeys = ['cpu', 'memory', 'disk', 'network', 'name'] as const;
export type SortKey = (typeof sortKeys)[number];

/** Sorted, the largest first; by name from a to z. Unknown values come last. */
export function sortRows(rows: readonly UsageRow[], key: SortKey): UsageRow[] {
  const sum = (...values: (number | null)[]): number =>
    values.reduce<number>((total, value) => total + (value ?? 0), 0);
  const value = (row: UsageRow): number => {
    switch (key) {
      case 'cpu':
        return row.cpuPercent ?? -1;
      case 'memory':
        return row.memoryMib ?? -1;
      case 'disk':
        return sum(row.diskReadRate, row.diskWriteRate);
      case 'network':
        return sum(row.receiveRate, row.sendRate);
      case 'name':
        return 0;
    }
  };
  return rows.toSorted((one, other) => value(other) - value(one) || one.name.localeCompare(other.name));
}
