// lodge vm stats and lodge node stats: what was used over time, as numbers and sparklines.
import type { Command } from 'commander';
import { nodeSeries, vmSeries, type Metrics } from '../../api/metrics.ts';
import { parseDurationMs, formatDuration } from '../../lib/duration.ts';
import { formatBytes, formatRate } from '../../lib/quantity.ts';
import { sparkline } from '../../lib/sparkline.ts';
import { documentFormats, parsedBy, verb, withDaemon, type Example } from '../command.ts';
import type { Session } from '../connect/session.ts';
import { untilInterrupted } from '../output/follow.ts';
import { printDocument } from '../output/print.ts';
import { renderTable, type Column } from '../output/table.ts';
import { usageError } from '../usage-error.ts';
import type { ExitsOptions } from '../vm/exits.ts';

interface StatsOptions {
  since?: number;
  step?: number;
  watch?: boolean;
  latency?: boolean;
}

type Query = { from: string; stepS?: number };

interface Row {
  title: string;
  values: readonly (number | null)[];
  format: (value: number) => string;
  /** The least that fills a sparkline's height. */
  atLeast: number;
}

/** Between two looks of --watch, milliseconds. */
const watchMs = 1000;
/** What is shown live, milliseconds. */
const watchedMs = 120_000;
const defaultSinceMs = 3_600_000;
/** Columns of a sparkline where the output is no terminal. */
const plainWidth = 60;

const titles: Readonly<Record<string, string>> = {
  cpuPercent: 'CPU',
  stealPercent: 'CPU steal',
  exitsPerS: 'Exits to KVM',
  memoryMib: 'Memory',
  memoryPssMib: 'Memory, its part',
  memoryHugeMib: 'In huge pages',
  memoryKsmMib: 'Merged (KSM)',
  balloonMib: 'Balloon',
  guestUsedMib: 'Used in guest',
  guestCachedMib: 'Files in guest',
  memoryUsedMib: 'Memory used',
  memoryCachedMib: 'Files in memory',
  memoryKsmSavedMib: 'Saved by KSM',
  swapUsedMib: 'Swap used',
  diskReadBytesPerS: 'Disk read',
  diskWriteBytesPerS: 'Disk written',
  diskOperationsPerS: 'Disk operations',
  diskLatencyMs: 'Disk latency',
  networkReceiveBytesPerS: 'Network received',
  networkSendBytesPerS: 'Network sent',
  cpuPressurePercent: 'Pressure on CPU',
  memoryPressurePercent: 'Pressure on memory',
  ioPressurePercent: 'Pressure on disks',
  storageUsedMib: 'Storage used',
};

/** What most VMs and machines never have, or what can't be measured there. */
const optional: ReadonlySet<string> = new Set([
  ...['stealPercent', 'exitsPerS', 'memoryHugeMib', 'memoryKsmMib', 'memoryKsmSavedMib', 'swapUsedMib'],
  ...['balloonMib', 'guestUsedMib', 'guestCachedMib', 'memoryPssMib'],
]);

const percent = (value: number): string => `${value.toFixed(value < 10 ? 1 : 0)} %`;

function howToShow(name: string): Pick<Row, 'format' | 'atLeast'> {
  if (name.includes('Percent')) return { format: percent, atLeast: 100 };
  if (name.endsWith('Mib')) return { format: (value) => formatBytes(value * 2 ** 20), atLeast: 1 };
  if (name.endsWith('BytesPerS')) return { format: formatRate, atLeast: 10_240 };
  if (name.endsWith('Ms')) return { format: (value) => `${value.toFixed(value < 10 ? 2 : 0)} ms`, atLeast: 1 };
  return { format: (value) => `${value.toFixed(value < 10 ? 1 : 0)}/s`, atLeast: 10 };
}

/** A row for each series in which something was measured, and of those that are seldom anything else, is not just zero. */
export function statsLines(metrics: Metrics<string>, session: Pick<Session, 'terminal'>): string[] {
  const { width, style } = session.terminal;
  const rows: Row[] = Object.entries(titles).flatMap(([name, title]) => {
    const values = metrics.series[name];
    if (!values || (optional.has(name) && !values.some((value) => value !== null && value > 0))) return [];
    return [{ title, values, ...howToShow(name) }];
  });
  const known = ({ values }: Row): number[] => values.filter((value) => value !== null);
  const shown =
    (of: (values: number[]) => number | undefined) =>
    (row: Row): string => {
      const value = of(known(row));
      return value === undefined ? '' : row.format(value);
    };
  const columns: Column<Row>[] = [
    { header: '', value: ({ title }) => title },
    { header: 'NOW', value: shown((values) => values.at(-1)), side: 'right' },
    {
      header: 'MEAN',
      value: shown((values) =>
        values.length === 0 ? undefined : values.reduce((sum, value) => sum + value, 0) / values.length,
      ),
      side: 'right',
    },
    {
      header: 'HIGHEST',
      value: shown((values) => (values.length === 0 ? undefined : Math.max(...values))),
      side: 'right',
    },
  ];
  const table = renderTable(columns, rows, { width: null, style });
  const used = Math.max(...table.map((line) => line.length));
  const room = width === null ? plainWidth : Math.max(10, width - used - 3);
  const [header = '', ...lines] = table;
  return [
    header,
    ...lines.map((line, index) => {
      const { values, atLeast } = rows[index]!;
      return `${line.padEnd(used)}  ${style.cyan(sparkline(values, Math.min(room, 120), atLeast))}`.trimEnd();
    }),
    '',
    style.dim(
      `from ${new Date(metrics.from).toLocaleString()} in steps of ${stepText(metrics.stepS)}${rows.every((row) => known(row).length === 0) ? '; nothing was measured in this time' : ''}`,
    ),
  ];
}

function stepText(stepS: number): string {
  return stepS < 60 ? `${stepS} s` : formatDuration(stepS * 1000);
}

async function show(
  session: Session,
  options: StatsOptions,
  read: (query: Query) => Promise<Metrics<string>>,
): Promise<void> {
  const query = (sinceMs: number): Query => ({
    from: new Date(Date.now() - sinceMs).toISOString(),
    ...(options.step === undefined ? {} : { stepS: Math.max(1, Math.round(options.step / 1000)) }),
  });
  if (!options.watch) {
    const metrics = await read(query(options.since ?? defaultSinceMs));
    await printDocument(session, metrics, () => statsLines(metrics, session));
    return;
  }
  requireTerminal(session);
  await redraw(session, async () => statsLines(await read(query(options.since ?? watchedMs)), session));
}

/** Draws lines over those drawn before, each second, until Ctrl-C. */
export async function redraw(session: Session, read: () => Promise<string[]>): Promise<void> {
  await untilInterrupted(session, async (signal) => {
    let drawn = 0;
    while (!signal.aborted) {
      const lines = await read();
      session.terminal.raw(`${drawn > 0 ? `\u001b[${drawn}A\u001b[0J` : ''}${lines.join('\n')}\n`);
      drawn = lines.length;
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, watchMs);
        signal.addEventListener('abort', () => (clearTimeout(timer), resolve()), { once: true });
      });
    }
  });
}

export function requireTerminal(session: Session): void {
  if (process.stdout.isTTY && session.format === 'table') return;
  throw usageError('--watch needs a terminal', { hint: 'In a script: lodge vm stats NAME -o json, again and again.' });
}

function withOptions(command: Command): Command {
  return command
    .option('--since <duration>', 'how far back (default: 1h; with --watch 2m)', parsedBy(parseDurationMs))
    .option(
      '--step <duration>',
      'length of a step (default: such that 300 are shown at most)',
      parsedBy(parseDurationMs),
    )
    .option('--watch', 'go on, each second');
}

const examples = (what: string): Example[] => [
  [`lodge ${what}`, 'the last hour'],
  [`lodge ${what} --since 30d --step 1d`, 'a month, a day each'],
  [`lodge ${what} --watch`, 'live'],
];

/** `lodge vm stats`. */
export function addVmStatsVerb(vm: Command): void {
  withOptions(
    verb(vm, 'stats <vm>', 'Show what a VM has used over time', {
      formats: documentFormats,
      description: `Show what a VM has used: ${Object.keys(vmSeries).length} series, of each second for an hour, of each minute for a month, of each hour for two years. -o json has the numbers. Or, with --latency, how long its disks take.`,
      examples: [
        ...examples('vm stats web1'),
        ['lodge vm stats web1 --latency', 'how long reads, writes and flushes took since the VM was started'],
        ['lodge vm stats web1 --latency --watch', 'and from now on'],
      ],
    }).option('--latency', 'how long the operations of each disk take, as histograms'),
  ).action(
    withDaemon<[name: string], StatsOptions>(async (session, options, name) => {
      const { project } = session;
      if (options.latency) {
        if (options.since !== undefined || options.step !== undefined)
          throw usageError('--latency counts from the start of the VM, and has no --since and no --step', {
            hint: `From now on: lodge vm stats ${name} --latency --watch`,
          });
        const { showLatency } = await import('../vm/latency.ts');
        return showLatency(session, name, options.watch ?? false);
      }
      await show(session, options, (query) =>
        session.client.vm.metrics({ params: { vm: name }, query: { project, ...query } }),
      );
    }),
  );
}

/** `lodge vm exits`. */
export function addVmExitsVerb(vm: Command): void {
  verb(vm, 'exits <vm>', 'Show why a VM leaves to its hypervisor, and how often', {
    formats: documentFormats,
    description:
      'Watch a running VM and show what KVM counts of it, with what each counter means; with --trace also the reasons of its exits, by trace events of the kernel. Of an emulated VM, what the emulation counts. What this machine does not tell is said with the reason.',
    examples: [
      ['lodge vm exits web1', 'counters, watched for a second'],
      ['lodge vm exits web1 --for 10s', 'for ten seconds'],
      ['lodge vm exits web1 --trace 5s', 'and why it exits: which ports, registers, pages of devices'],
    ],
  })
    .option('--for <duration>', 'how long to watch (default: 1s; at most 30s)', parsedBy(parseDurationMs))
    .option('--trace [duration]', 'tell reasons too, for so long', parsedBy(parseDurationMs))
    .option('--all', 'with counters that have counted nothing')
    .action(
      withDaemon<[name: string], ExitsOptions>(async (session, options, name) => {
        const { showExits } = await import('../vm/exits.ts');
        await showExits(session, options, name);
      }),
    );
}

/** `lodge node stats`. */
export function addNodeStatsVerb(node: Command): void {
  withOptions(
    verb(node, 'stats [node]', 'Show what a machine has used over time', {
      formats: documentFormats,
      description: `Show what a machine has used: ${Object.keys(nodeSeries).length} series, of each second for an hour, of each minute for a month, of each hour for two years.`,
      examples: examples('node stats'),
    }),
  ).action(
    withDaemon<[name: string | undefined], StatsOptions>(async (session, options, name) => {
      await show(session, options, (query) => session.client.node.metrics({ params: { node: name ?? 'self' }, query }));
    }),
  );
}
