// lodge vm exits: why a VM leaves to its hypervisor, and how often.
import { maxWatchS, type VmExits, type ExitCounter, type ExitReason } from '../../api/vm-exits.ts';
import { formatRate } from '../../lib/quantity.ts';
import type { Session } from '../connect/session.ts';
import { withSuggestion } from '../list.ts';
import { untilInterrupted } from '../output/follow.ts';
import { printDocument } from '../output/print.ts';
import { ProgressBoard } from '../output/progress.ts';
import type { Style } from '../output/style.ts';
import { renderTable, type Column } from '../output/table.ts';
import { usageError } from '../usage-error.ts';
import { fetchVms } from './view.ts';

export interface ExitsOptions {
  /** Milliseconds. */
  for?: number;
  trace?: number | true;
  all?: boolean;
}

const defaultWatchMs = 1000;

export async function showExits(session: Session, options: ExitsOptions, name: string): Promise<void> {
  const watchMs = (options.trace === true ? undefined : options.trace) ?? options.for ?? defaultWatchMs;
  const watchS = Math.max(1, Math.round(watchMs / 1000));
  if (watchS > maxWatchS)
    throw usageError(`a VM is watched for ${maxWatchS} s at most`, {
      hint: `lodge vm exits ${name} --trace ${maxWatchS}s`,
    });
  const query = { project: session.project, watchS, trace: options.trace !== undefined };
  const board = new ProgressBoard(session.terminal);
  let exits: VmExits;
  try {
    if (watchS > 1) board.update(board.add(`watch ${name}`), { waitingFor: `${watchS} s` });
    exits = await withSuggestion(session, name, fetchVms, () =>
      untilInterrupted(session, (signal) =>
        session.client.vm.exits({ params: { vm: name }, query }, { signal, timeoutMs: watchS * 1000 + 30_000 }),
      ),
    );
  } finally {
    board.close();
  }
  const { style, width } = session.terminal;
  await printDocument(session, exits, () => exitsLines(exits, { style, width, isWhole: options.all ?? false }));
}

const count = (value: number): string => Math.round(value).toLocaleString('en');
const perSecond = (value: number | null): string =>
  value === null ? '' : `${value.toLocaleString('en', { maximumFractionDigits: value < 10 ? 1 : 0 })}/s`;

const counterColumns: readonly Column<ExitCounter>[] = [
  { header: 'COUNTER', value: ({ name }) => name },
  { header: 'NOW', value: ({ perS }) => perSecond(perS), side: 'right' },
  { header: 'SINCE START', value: ({ total }) => count(total), side: 'right' },
  { header: 'WHAT IT IS', value: ({ meaning }) => meaning, minWidth: 20 },
];

const reasonColumns: readonly Column<ExitReason>[] = [
  { header: 'EVENT', value: ({ event }) => event },
  { header: 'REASON', value: ({ reason }) => reason },
  { header: 'NOW', value: ({ perS }) => perSecond(perS), side: 'right' },
  { header: 'WHAT IT IS', value: ({ meaning }) => meaning, minWidth: 20 },
];

/** What was seen, as lines. `isWhole`: with counters that have never counted anything. */
export function exitsLines(
  exits: VmExits,
  { style, width, isWhole }: { style: Style; width: number | null; isWhole: boolean },
): string[] {
  const lines: string[] = [];
  const { counters, trace, steal, dirtyMibPerS } = exits;
  const shown = counters.filter(({ total }) => isWhole || total > 0);
  lines.push(
    exits.accelerator === 'kvm'
      ? style.bold('What KVM has counted')
      : style.bold('The guest is emulated and leaves to nobody; what QEMU has counted'),
  );
  lines.push(...(shown.length > 0 ? renderTable(counterColumns, shown, { width, style }) : ['Nothing.']));
  if (trace) {
    lines.push('', style.bold(`Why, by ${count(trace.events)} trace events in ${exits.watchedS.toFixed(1)} s`));
    if (trace.seen < trace.events)
      lines.push(style.dim(`The last ${count(trace.seen)} of them were looked at; the rates hold for all.`));
    lines.push(...(trace.reasons.length > 0 ? renderTable(reasonColumns, trace.reasons, { width, style }) : ['None.']));
  }
  lines.push('');
  if (steal)
    lines.push(
      `vCPUs waited for a processor: ${steal.percent === null ? '' : `${steal.percent.toFixed(1)} % of one processor now, `}${steal.seconds.toFixed(1)} s since the start.`,
    );
  if (dirtyMibPerS !== null) lines.push(`The guest changes about ${formatRate(dirtyMibPerS * 2 ** 20)} of its memory.`);
  for (const { what, reason } of exits.missing) lines.push(style.yellow(`No ${what}: ${reason}`));
  return lines;
}
