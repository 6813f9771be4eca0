// Lists that follow what happens, until Ctrl-C. The daemon tells by its event stream that something has changed, and the
// list is read again: filters, selectors and order stay the daemon's. On a terminal the table is redrawn where it
// stands; elsewhere each change is a line, or with -o json a document.
import type { ChangeKind } from '../api/event.ts';
import { LodgeError } from '../api/errors.ts';
import { followChanges } from '../client/follow.ts';
import type { Session } from './connect/session.ts';
import { untilInterrupted } from './output/follow.ts';
import { Interrupted } from './output/print-error.ts';
import type { Printable } from './output/print.ts';
import { renderTable, type Column } from './output/table.ts';
import { usageError } from './usage-error.ts';

export interface WatchedList<Item> {
  kind: ChangeKind;
  printable: Printable<Item>;
  /** Reads the list as it is now. */
  read: () => Promise<Item[]>;
  /** Shown while there is nothing. */
  empty: string;
}

/** How an item of a list differs from before. */
export interface ItemChange<Item> {
  type: 'listed' | 'added' | 'changed' | 'removed';
  item: Item;
}

/** Shortest time between two readings of the list, milliseconds: many changes at once are shown together. */
const shortestPauseMs = 250;
/** How often ages are shown anew where nothing else changes, milliseconds. */
const redrawMs = 1000;
/** Rows of a terminal that doesn't tell its size, as some serial ones. */
const unknownRows = 24;
/** Columns that change by themselves. */
const clocks: ReadonlySet<string> = new Set(['AGE', 'TOOK']);

/** Watches until Ctrl-C, which is how watching ends and no failure. */
export async function watchList<Item extends object>(session: Session, list: WatchedList<Item>): Promise<void> {
  const { format } = session;
  if (format === 'yaml' || format === 'name') {
    throw usageError(`--watch does not go with -o ${format}`, { hint: 'Use -o table, wide or json.' });
  }
  const isRedrawn = format !== 'json' && process.stdout.isTTY && process.env['TERM'] !== 'dumb';
  const view = isRedrawn ? new RedrawnTable(session, list) : new ChangeLines(session, list);
  try {
    await untilInterrupted(session, (signal) => watch(session, list, view, signal));
  } catch (failure) {
    if (!(failure instanceof Interrupted)) throw failure;
  } finally {
    view.close();
  }
}

interface View<Item> {
  show(items: readonly Item[]): void;
  close(): void;
}

async function watch<Item extends object>(
  session: Session,
  list: WatchedList<Item>,
  view: View<Item>,
  signal: AbortSignal,
): Promise<void> {
  for (;;) {
    // Ends the stream when the list itself can't be read any more, for another reason than that the daemon is away.
    const stop = new AbortController();
    const changes = followChanges(session.client, {
      signal: AbortSignal.any([signal, stop.signal]),
      reconnectMs: Infinity,
      kinds: [list.kind],
      onBreak: (failure) =>
        session.terminal.note(session.terminal.noteStyle.yellow(`connection lost (${failure.message}); trying again`)),
    });
    let isStale = false;
    let reading: Promise<void> | null = null;
    const failed: { by: Error | null } = { by: null };
    const readAll = async (): Promise<void> => {
      while (isStale && !signal.aborted) {
        isStale = false;
        view.show(await list.read());
        await new Promise((resolve) => setTimeout(resolve, shortestPauseMs));
      }
    };
    try {
      // The stream begins by saying that it is up to date: what is read after that misses nothing.
      for await (const _change of changes) {
        isStale = true;
        reading ??= readAll()
          .catch((failure: unknown) => {
            // When the daemon is away the stream says so, and begins anew with it.
            if (isPassing(failure)) return;
            failed.by = failure instanceof Error ? failure : new Error(String(failure));
            stop.abort();
          })
          .finally(() => (reading = null));
      }
      signal.throwIfAborted();
      if (failed.by !== null) throw failed.by;
    } catch (failure) {
      signal.throwIfAborted();
      // The daemon keeps changes for a while only; what was missed shows in the list itself.
      if (!(failure instanceof LodgeError && failure.code === 'revision_gone')) throw failure;
    }
  }
}

function isPassing(failure: unknown): boolean {
  return failure instanceof LodgeError && ['unavailable', 'timeout', 'rate_limited'].includes(failure.code);
}

/** What differs between two readings of a list, told by ids; `textOf` says what counts. Removed ones come last. */
export function changesBetween<Item>(
  before: ReadonlyMap<string, Item> | null,
  items: readonly Item[],
  textOf: (item: Item) => string,
): ItemChange<Item>[] {
  if (before === null) return items.map((item) => ({ type: 'listed', item }));
  const changes: ItemChange<Item>[] = [];
  for (const item of items) {
    const old = before.get(idOf(item));
    if (old === undefined) changes.push({ type: 'added', item });
    else if (textOf(old) !== textOf(item)) changes.push({ type: 'changed', item });
  }
  const now = new Set(items.map(idOf));
  for (const [id, item] of before) if (!now.has(id)) changes.push({ type: 'removed', item });
  return changes;
}

function idOf(item: unknown): string {
  return (item as { id: string }).id;
}

/** A line a change, for scripts and pipes. */
class ChangeLines<Item extends object> implements View<Item> {
  readonly #session: Session;
  readonly #printable: Printable<Item>;
  #before: Map<string, Item> | null = null;

  constructor(session: Session, list: WatchedList<Item>) {
    this.#session = session;
    this.#printable = list.printable;
  }

  show(items: readonly Item[]): void {
    const { format, terminal } = this.#session;
    const { kind, columns } = this.#printable;
    const isWide = format === 'wide';
    const shown = columns.filter((column) => (isWide || column.isWide !== true) && !clocks.has(column.header));
    const textOf =
      format === 'json'
        ? (item: Item) => JSON.stringify(item)
        : (item: Item) => JSON.stringify(shown.map((column) => column.value(item)));
    const isFirst = this.#before === null;
    const changes = changesBetween(this.#before, items, textOf);
    this.#before = new Map(items.map((item) => [idOf(item), item]));
    if (format === 'json') {
      for (const { type, item } of changes) terminal.line(JSON.stringify({ change: type, object: { kind, ...item } }));
      return;
    }
    const withChange: Column<ItemChange<Item>>[] = [
      { header: 'CHANGE', value: ({ type }) => type.padEnd('removed'.length) },
      ...columns.map((column) => ({
        ...column,
        value: ({ item }: ItemChange<Item>) => column.value(item),
        color: undefined,
      })),
    ];
    const options = { width: null, isWide, style: terminal.style, hasHeader: isFirst };
    for (const line of renderTable(withChange, changes, options)) terminal.line(line);
  }

  close(): void {
    // Nothing stands open.
  }
}

/** The table where it stands on the terminal, as much of it as there is room for. */
class RedrawnTable<Item extends object> implements View<Item> {
  readonly #session: Session;
  readonly #list: WatchedList<Item>;
  readonly #timer: NodeJS.Timeout;
  #items: readonly Item[] | null = null;
  #drawnLines = 0;

  constructor(session: Session, list: WatchedList<Item>) {
    this.#session = session;
    this.#list = list;
    this.#timer = setInterval(() => this.#draw(), redrawMs);
  }

  show(items: readonly Item[]): void {
    this.#items = items;
    this.#draw();
  }

  close(): void {
    clearInterval(this.#timer);
  }

  #draw(): void {
    if (this.#items === null) return;
    const { stdout } = process;
    const { format, terminal } = this.#session;
    const width = stdout.columns > 0 ? stdout.columns : null;
    const options = { width, style: terminal.style, isWide: format === 'wide' };
    const lines =
      this.#items.length === 0
        ? [terminal.style.dim(this.#list.empty)]
        : renderTable(this.#list.printable.columns, this.#items, options);
    const shown = fitRows(lines, stdout.rows > 0 ? stdout.rows : unknownRows);
    stdout.write(redraw(this.#drawnLines, shown));
    this.#drawnLines = shown.length;
  }
}

/** The lines that fit on a screen with so many rows; the last one tells how many don't. */
export function fitRows(lines: readonly string[], rows: number): readonly string[] {
  // One row is the cursor's.
  const room = Math.max(2, rows - 1);
  if (lines.length <= room) return lines;
  return [...lines.slice(0, room - 1), `… and ${lines.length - room + 1} more`];
}

/** What a terminal is sent to show lines in place of those that were drawn last (ECMA-48: CUU, ED). */
export function redraw(drawnLines: number, lines: readonly string[]): string {
  const back = drawnLines === 0 ? '' : `\u001b[${drawnLines}A\r\u001b[0J`;
  return back + lines.map((line) => `${line}\n`).join('');
}
