// Watches what VMs use: a screen that is redrawn every second, or one table for scripts.
import type { Node } from '../api/node.ts';
import { LodgeError } from '../api/errors.ts';
import { formatMib } from '../lib/quantity.ts';
import { truncateToWidth } from '../lib/terminal-text.ts';
import { closestWord } from '../lib/closest-word.ts';
import type { Session } from './connect/session.ts';
import { printDocument } from './output/print.ts';
import { renderTable } from './output/table.ts';
import { sortRows, usageColumns, usageRows, type SortKey, type UsageReading, type UsageRow } from './vm/usage.ts';
import { usageError } from './usage-error.ts';

/** Time between the two readings of a single table, milliseconds. */
const samplingMs = 1000;

const pause = (delayMs: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, delayMs));

/** One table, from two readings a second apart. */
export async function showUsageOnce(session: Session, names: readonly string[], sort: SortKey = 'cpu'): Promise<void> {
  const before = await session.client.vm.usage();
  const known = before.items.filter((item) => item.project === session.project).map((item) => item.name);
  for (const name of names) {
    if (known.includes(name)) continue;
    const near = closestWord(name, known);
    throw new LodgeError('not_found', `there is no running VM ${JSON.stringify(name)} in project ${session.project}`, {
      hint: near === null ? 'lodge vm list shows all VMs.' : `Did you mean ${near}?`,
    });
  }
  await pause(samplingMs);
  const now = await session.client.vm.usage();
  const rows = sortRows(usageRows(now, before), sort).filter(
    (row) => row.project === session.project && (names.length === 0 || names.includes(row.name)),
  );
  if (rows.length === 0 && session.format === 'table') {
    session.terminal.note(`No VM runs in project ${session.project}.`);
    return;
  }
  await printDocument(session, rows, () =>
    renderTable(usageColumns, rows, { width: session.terminal.width, style: session.terminal.style }),
  );
}

/** Keys that choose what to sort by. */
const sortByKey: Readonly<Record<string, SortKey>> = { c: 'cpu', m: 'memory', d: 'disk', n: 'network', a: 'name' };

interface Screen {
  sort: SortKey;
  isPaused: boolean;
  before: UsageReading | null;
  rows: UsageRow[];
  node: Node | null;
  problem: string | null;
}

/** The live screen, until q or Ctrl-C. */
export async function watchUsage(session: Session, sort: SortKey, intervalMs: number): Promise<void> {
  const { stdin, stdout } = process;
  if (!stdin.isTTY || !stdout.isTTY) {
    throw usageError('lodge top needs a terminal', { hint: 'In a script: lodge top --once' });
  }
  const screen: Screen = { sort, isPaused: false, before: null, rows: [], node: null, problem: null };
  // What can't be reached at all is an error, and not a screen that says so.
  await read(session, screen);
  const { promise: ended, resolve: end } = Promise.withResolvers<void>();
  const draw = (): void => void stdout.write(`\u001b[H${frame(session, screen, stdout.columns, stdout.rows)}\u001b[0J`);
  const onKeys = (chunk: Buffer): void => {
    const typed = chunk.toString('latin1');
    // Escape alone leaves; with more behind it, it is an arrow or the like.
    if (typed === '\u001b') end();
    if (!typed.startsWith('\u001b')) {
      for (const key of typed.toLowerCase()) {
        if (key === 'q' || key === '\u0003') end();
        if (key === ' ') screen.isPaused = !screen.isPaused;
        screen.sort = sortByKey[key] ?? screen.sort;
      }
    }
    draw();
  };
  const restore = (): void => {
    stdin.setRawMode(false);
    stdout.write('\u001b[?1049l\u001b[?25h');
  };
  const onSignal = (): void => end();
  process.once('exit', restore);
  for (const signal of ['SIGTERM', 'SIGHUP', 'SIGINT'] as const) process.on(signal, onSignal);
  let timer: NodeJS.Timeout | undefined;
  const tick = async (): Promise<void> => {
    if (!screen.isPaused) {
      await read(session, screen).catch((failure: unknown) => {
        screen.problem = failure instanceof Error ? failure.message : String(failure);
      });
      draw();
    }
    timer = setTimeout(() => void tick(), intervalMs);
  };
  try {
    stdout.write('\u001b[?1049h\u001b[?25l');
    stdin.setRawMode(true);
    stdin.on('data', onKeys);
    stdout.on('resize', draw);
    draw();
    timer = setTimeout(() => void tick(), intervalMs);
    await ended;
  } finally {
    clearTimeout(timer);
    stdin.off('data', onKeys);
    stdin.pause();
    stdout.off('resize', draw);
    for (const signal of ['SIGTERM', 'SIGHUP', 'SIGINT'] as const) process.off(signal, onSignal);
    process.off('exit', restore);
    restore();
  }
}

async function read(session: Session, screen: Screen): Promise<void> {
  const [now, node] = await Promise.all([
    session.client.vm.usage({}, { timeoutMs: 10_000 }),
    session.client.node.get({ params: { node: 'self' } }, { timeoutMs: 10_000 }),
  ]);
  screen.rows = usageRows(now, screen.before);
  screen.before = now;
  screen.node = node;
  screen.problem = null;
}

/** The whole screen as text that covers what was there. */
export function frame(
  session: Pick<Session, 'terminal' | 'target'>,
  screen: Screen,
  columns: number,
  rows: number,
): string {
  const { style } = session.terminal;
  const { node } = screen;
  const head = [
    node === null
      ? session.target
      : `${node.name}: ${node.status.guests.running} of ${node.status.guests.defined} VMs run, CPU ${node.status.load.cpuPercent.toFixed(0)} % of ${node.status.cpu.count}, memory ${formatMib(node.status.memory.totalMib - node.status.memory.availableMib)} of ${formatMib(node.status.memory.totalMib)}`,
    screen.problem === null
      ? `sorted by ${screen.sort}; c, m, d, n, a: sort by CPU, memory, disk, network, name; space: ${screen.isPaused ? 'go on' : 'hold'}; q: leave`
      : `not up to date: ${screen.problem}`,
  ];
  const table = renderTable(usageColumns, sortRows(screen.rows, screen.sort), { width: columns, style });
  const lines = [
    style.bold(truncateToWidth(head[0] ?? '', columns)),
    (screen.problem === null ? style.dim : style.red)(truncateToWidth(head[1] ?? '', columns)),
    '',
    ...(screen.rows.length === 0 ? ['No VM runs.'] : table),
  ];
  return lines
    .slice(0, Math.max(1, rows))
    .map((line) => `${line}\u001b[K`)
    .join('\r\n');
}
