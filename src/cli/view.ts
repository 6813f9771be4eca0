// Cells and colours that several tables have in common.
import { formatMib } from '../lib/quantity.ts';
import { formatAge } from '../lib/duration.ts';
import type { Column } from './output/table.ts';
import type { Style } from './output/style.ts';

/** Since when, in one unit: "3m". */
export function ageOf(timestamp: string | null): string {
  return timestamp === null ? '' : formatAge(Date.now() - Date.parse(timestamp));
}

/** "3m ago", with the moment itself: for details. */
export function momentOf(timestamp: string | null): string | null {
  return timestamp === null ? null : `${ageOf(timestamp)} ago (${timestamp})`;
}

const good = new Set(['running', 'ready', 'succeeded', 'ok', 'info']);
const moving = new Set([
  'creating',
  'starting',
  'stopping',
  'suspending',
  'deleting',
  'pending',
  'importing',
  'waiting-for-upload',
  'queued',
  'cancelling',
  'undoing',
  'paused',
  'degraded',
  'warning',
]);
const bad = new Set(['crashed', 'failed', 'offline', 'error']);

/** Colours a state: good is green, on its way is yellow, bad is red, at rest is plain. */
export function colorState(text: string, state: string, style: Style): string {
  if (good.has(state)) return style.green(text);
  if (bad.has(state)) return style.red(text);
  return moving.has(state) ? style.yellow(text) : text;
}

/** The column of labels, in wide output. */
export function labelsColumn<Item extends { labels: Record<string, string> }>(): Column<Item> {
  return { header: 'LABELS', value: (item) => labelsText(item.labels), isWide: true, minWidth: 10 };
}

export function labelsText(labels: Readonly<Record<string, string>>): string {
  return Object.entries(labels)
    .map(([key, value]) => `${key}=${value}`)
    .join(',');
}

/** The column of ages. */
export function ageColumn<Item extends { createdAt: string }>(): Column<Item> {
  return { header: 'AGE', value: (item) => ageOf(item.createdAt), side: 'right' };
}

/** The column of ids, in wide output. */
export function idColumn<Item extends { id: string }>(): Column<Item> {
  return { header: 'ID', value: (item) => item.id, isWide: true };
}

/** The size of an instance type: "2 vCPUs, 4 GiB". */
export function sizeText({ cpu, memoryMib }: { cpu: { count: number }; memoryMib: number }): string {
  return `${cpu.count} ${cpu.count === 1 ? 'vCPU' : 'vCPUs'}, ${formatMib(memoryMib)}`;
}
