// Tables for people: columns as wide as their widest cell, cut to the terminal where they may be cut, and safe to show
// whatever a guest or another user has put into them.
import { displayWidth, escapeControls, padToWidth, truncateToWidth, wrapToWidth } from '../../lib/terminal-text.ts';
import { plainStyle, type Style } from './style.ts';

/** One column of a table of `Item`s. */
export interface Column<Item> {
  /** In capitals, as tables of command lines have it. */
  header: string;
  /** The cell's text; what the terminal would act on is escaped by the table. */
  value: (item: Item) => string;
  /** Colours the finished cell. */
  color?: (text: string, item: Item, style: Style) => string;
  /** Numbers stand right. */
  side?: 'left' | 'right';
  /** Shown only in wide output. */
  isWide?: boolean;
  /** May be cut down to this many columns where the terminal is too narrow. */
  minWidth?: number;
  /** Is the first to be left out where even that is too wide. */
  isOptional?: boolean;
}

export interface TableOptions {
  /** Columns of the terminal; null: never cut. */
  width: number | null;
  isWide?: boolean;
  style?: Style;
  hasHeader?: boolean;
}

const gap = '  ';

/** The table as lines, without trailing spaces. An empty cell shows as "-", so that columns can be counted. */
export function renderTable<Item>(
  columns: readonly Column<Item>[],
  items: readonly Item[],
  options: TableOptions,
): string[] {
  const style = options.style ?? plainStyle;
  const hasHeader = options.hasHeader !== false;
  const candidates = columns
    .filter((column) => options.isWide === true || column.isWide !== true)
    .map((column) => {
      const texts = items.map((item) => escapeControls(column.value(item)) || '-');
      const width = Math.max(hasHeader ? column.header.length : 0, ...texts.map((text) => displayWidth(text)));
      return { column, texts, width };
    });
  const fitting = options.width === null || options.isWide === true ? candidates : fit(candidates, options.width);
  const shown = fitting.map(({ column }) => column);
  const cells = items.map((_item, row) => fitting.map(({ texts }) => texts[row] ?? '-'));
  const widths = fitting.map(({ width }) => width);
  if (options.width !== null) shrink(widths, shown, options.width);

  const line = (texts: readonly string[], paint: (text: string, index: number) => string): string =>
    shown
      .map((column, index) => {
        const width = widths[index] ?? 0;
        const text = truncateToWidth(texts[index] ?? '', width);
        const isLast = index === shown.length - 1;
        const padding = ' '.repeat(Math.max(0, width - displayWidth(text)));
        const painted = paint(text, index);
        if (column.side === 'right') return padding + painted;
        return isLast ? painted : painted + padding;
      })
      .join(gap)
      .trimEnd();

  const lines = cells.map((row, rowIndex) =>
    line(row, (text, index) => {
      const item = items[rowIndex];
      const color = shown[index]?.color;
      return color && item !== undefined ? color(text, item, style) : text;
    }),
  );
  if (!hasHeader) return lines;
  return [
    line(
      shown.map((column) => column.header),
      (text) => style.bold(text),
    ),
    ...lines,
  ];
}

/**
 * Leaves out columns from the right where all would not fit even when they are cut: first the optional ones, then those
 * that can't be cut. The first two stay.
 */
function fit<Shown extends { column: Pick<Column<never>, 'minWidth' | 'isOptional'>; width: number }>(
  candidates: readonly Shown[],
  available: number,
): Shown[] {
  const kept = [...candidates];
  const least = (): number =>
    kept.reduce((sum, { column, width }) => sum + Math.min(width, column.minWidth ?? width) + gap.length, -gap.length);
  while (least() > available) {
    const optional = kept.findLastIndex(({ column }) => column.isOptional === true);
    const index =
      optional === -1
        ? kept.findLastIndex(({ column }, position) => position > 1 && column.minWidth === undefined)
        : optional;
    if (index === -1) break;
    kept.splice(index, 1);
  }
  return kept;
}

/** Narrows the widest of the columns that may be cut, step by step, until the table fits or nothing is left to cut. */
function shrink<Item>(widths: number[], columns: readonly Column<Item>[], available: number): void {
  let excess = widths.reduce((sum, width) => sum + width, 0) + gap.length * (widths.length - 1) - available;
  while (excess > 0) {
    let widest = -1;
    for (const [index, column] of columns.entries()) {
      const width = widths[index] ?? 0;
      if (column.minWidth === undefined || width <= column.minWidth) continue;
      if (widest === -1 || width > (widths[widest] ?? 0)) widest = index;
    }
    if (widest === -1) return;
    widths[widest] = (widths[widest] ?? 0) - 1;
    excess -= 1;
  }
}

/** Text that is safe to show as it is: made by {@link painted} from parts that were escaped. */
export interface Painted {
  readonly painted: string;
}

/** Escapes the text and colours it. */
export function painted(text: string, color: (text: string) => string): Painted {
  return { painted: color(escapeControls(text)) };
}

/** A field of a detail view: a label with a value, or with lines that stand below it. */
export type Detail = readonly [label: string, value: string | Painted | readonly string[] | null | undefined];

/**
 * Labels and values, aligned. Fields without a value are left out. Values are escaped, except for their line breaks;
 * lines that stand below a label are taken as they are, because they come from a table. Long values are broken at
 * spaces where a terminal's `width` is given.
 */
export function renderDetails(
  details: readonly Detail[],
  terminal: { style: Style; width: number | null } = { style: plainStyle, width: null },
): string[] {
  const { style, width } = terminal;
  const rows = details.flatMap(([label, value]): [string, string | readonly string[]][] => {
    if (value === null || value === undefined) return [];
    if (typeof value === 'string')
      return value === '' ? [] : [[label, value.split('\n').map(escapeControls).join('\n')]];
    if ('painted' in value) return value.painted === '' ? [] : [[label, value.painted]];
    return value.length === 0 ? [] : [[label, value]];
  });
  const labels = rows.filter(([, value]) => typeof value === 'string').map(([label]) => displayWidth(label));
  const indent = Math.max(0, ...labels) + 3;
  return rows.flatMap(([label, value]) => {
    if (typeof value !== 'string') return ['', style.bold(`${label}:`), ...value.map((line) => `  ${line}`)];
    const room = width === null ? Infinity : Math.max(20, width - indent);
    const lines = value.split('\n').flatMap((line) => (displayWidth(line) <= room ? [line] : wrapToWidth(line, room)));
    return lines.map(
      (line, index) => (index === 0 ? style.bold(padToWidth(`${label}:`, indent)) : ' '.repeat(indent)) + line,
    );
  });
}
