// lodge node measure: what leaving a guest costs, measured by a guest, beside what was measured before.
import type { Command } from 'commander';
import {
  exitOperations,
  type ExitCost,
  type ExitOperationName,
  type NodeMeasurement,
  type RungExits,
} from '../../api/node-measurement.ts';
import { LodgeError } from '../../api/errors.ts';
import { documentFormats, verb, withDaemon } from '../command.ts';
import type { Session } from '../connect/session.ts';
import { followTask } from '../output/follow.ts';
import { printDocument } from '../output/print.ts';
import type { Style } from '../output/style.ts';
import { renderTable, type Column } from '../output/table.ts';
import { momentOf } from '../view.ts';

interface MeasureOptions {
  last?: boolean;
  compare?: boolean;
  explain?: boolean;
}

const operations = Object.keys(exitOperations) as ExitOperationName[];

/** A cost in the unit that reads best. */
function duration(ns: number): string {
  if (ns < 1000) return `${ns.toFixed(ns < 10 ? 1 : 0)} ns`;
  if (ns < 1e6) return `${(ns / 1000).toFixed(ns < 10_000 ? 1 : 0)} µs`;
  return `${(ns / 1e6).toFixed(1)} ms`;
}

/** The half of the samples around the median, as far as it is away from it. */
function spreadText({ medianNs, lowNs, highNs }: ExitCost): string {
  return medianNs <= 0 ? '' : `${percent(lowNs / medianNs - 1)} ${percent(highNs / medianNs - 1)}`;
}

function percent(share: number): string {
  const rounded = Math.round(share * 100);
  return `${rounded < 0 ? '−' : '+'}${Math.abs(rounded)} %`;
}

/**
 * How two measurements of the same differ. Where the halves of their samples around the medians overlap, the difference says
 * nothing.
 */
export function changeText(before: ExitCost | undefined, after: ExitCost): string {
  if (!before) return 'new';
  const isApart = after.lowNs > before.highNs || after.highNs < before.lowNs;
  return isApart ? percent(after.medianNs / before.medianNs - 1) : 'as before';
}

const rungTitles: Readonly<Record<RungExits['rung'], string>> = {
  kvm: 'kvm: with VT-x or AMD-V',
  'kvm-pvm': 'kvm-pvm: KVM without VT-x and AMD-V',
  tcg: 'tcg: emulation by QEMU; nothing leaves a guest here, these are calls within QEMU',
};

interface Row {
  operation: ExitOperationName;
  cost: ExitCost | undefined;
  reason: string | undefined;
}

/** A measurement as lines, with what has changed since another one. */
export function measurementLines(
  measurement: NodeMeasurement,
  before: NodeMeasurement | null,
  { style, width, isExplained }: { style: Style; width: number | null; isExplained: boolean },
): string[] {
  const lines: string[] = [];
  for (const rung of measurement.rungs) {
    lines.push(style.bold(rungTitles[rung.rung]));
    if (rung.problem !== null) {
      lines.push(`  ${rung.problem}`, '');
      continue;
    }
    const costs = new Map(rung.costs.map((cost) => [cost.operation, cost]));
    const earlier = new Map(
      before?.rungs.find((one) => one.rung === rung.rung)?.costs.map((cost) => [cost.operation, cost]),
    );
    const rows = operations.flatMap((operation): Row[] => {
      const cost = costs.get(operation);
      const reason = rung.missing.find((one) => one.operation === operation)?.reason;
      return cost || reason !== undefined ? [{ operation, cost, reason }] : [];
    });
    const columns: Column<Row>[] = [
      { header: 'WHAT THE GUEST DOES', value: ({ operation }) => exitOperations[operation].title },
      { header: 'MEDIAN', value: ({ cost }) => (cost ? duration(cost.medianNs) : 'not measured'), side: 'right' },
      { header: 'SPREAD', value: ({ cost }) => (cost ? spreadText(cost) : ''), side: 'right' },
      ...(before
        ? [
            {
              header: 'CHANGE',
              value: ({ operation, cost }: Row) => (cost ? changeText(earlier.get(operation), cost) : ''),
              side: 'right' as const,
            },
          ]
        : []),
      ...(rung.rung === 'tcg'
        ? []
        : [
            { header: 'VMX EXIT REASON', value: ({ operation }: Row) => exitOperations[operation].vmx, minWidth: 12 },
            { header: 'SVM EXIT CODE', value: ({ operation }: Row) => exitOperations[operation].svm, minWidth: 12 },
          ]),
    ];
    lines.push(...renderTable(columns, rows, { width, style }));
    for (const { operation, reason } of rows)
      if (reason !== undefined) lines.push(style.dim(`${exitOperations[operation].title}: ${reason}`));
    const idle = costs.get('none');
    if (rung.rung !== 'tcg' && idle && idle.medianNs > 100)
      lines.push(
        style.yellow(
          `An instruction that leaves nowhere takes ${duration(idle.medianNs)}: kernel code of guests is interpreted on this rung, and all numbers hold that.`,
        ),
      );
    lines.push('');
  }
  if (isExplained) {
    for (const operation of operations) {
      const { title, meaning } = exitOperations[operation];
      lines.push(`${style.bold(title)}: ${meaning}.`);
    }
    lines.push('');
  }
  lines.push(
    `Measured ${momentOf(measurement.at) ?? ''} on ${measurement.processor}, kernel ${measurement.kernel}, ${measurement.hypervisor}; load average ${measurement.loadAverage.toFixed(1)}.`,
  );
  if (before)
    lines.push(
      `Compared with ${momentOf(before.at) ?? ''}: ${before.processor === measurement.processor ? '' : `${before.processor}, `}kernel ${before.kernel}, ${before.hypervisor}; load average ${before.loadAverage.toFixed(1)}.`,
    );
  return lines;
}

/** Adds `lodge node measure`. */
export function addNodeMeasureVerb(node: Command): void {
  verb(node, 'measure [node]', 'Measure what leaving a guest costs: each kind of VM exit, in each accelerator', {
    formats: documentFormats,
    description:
      'Measure what leaving a guest costs: a guest of Lodge’s own times each kind of VM exit by the time stamp counter, on each rung of the accelerator ladder. SPREAD is the half of the samples around the median. It takes some seconds and changes nothing; the last 20 results are kept on the node. Measure when the machine is quiet.',
    examples: [
      ['lodge node measure', 'now'],
      ['lodge node measure --explain', 'with what each of them is'],
      ['lodge node measure --compare', 'now, beside the last time: after an upgrade of kernel or QEMU'],
      ['lodge node measure --last --compare', 'the last two, without measuring'],
    ],
  })
    .option('--last', 'show what was measured last, and measure nothing')
    .option('--compare', 'beside what was measured the time before')
    .option('--explain', 'say what each of them is')
    .action(
      withDaemon<[name: string | undefined], MeasureOptions>(async (session, options, name) => {
        await measure(session, options, name ?? 'self');
      }),
    );
}

async function measure(session: Session, options: MeasureOptions, name: string): Promise<void> {
  const params = { node: name };
  if (!options.last)
    await followTask(session, await session.client.node.measure({ params }), `measure what leaves a guest on ${name}`);
  const { items } = await session.client.node.measurements({ params });
  const [measurement, before = null] = items;
  if (!measurement)
    throw new LodgeError('not_found', `Nothing was measured on node ${name} yet.`, { hint: 'lodge node measure' });
  if (options.compare && !before) session.terminal.note('There is nothing yet to compare it with.');
  const shown = options.compare ? { measurement, before } : measurement;
  await printDocument(session, shown, () =>
    measurementLines(measurement, options.compare ? before : null, {
      style: session.terminal.style,
      width: session.terminal.width,
      isExplained: options.explain ?? false,
    }),
  );
}
