// A table of any length: rows are read page by page from the daemon, which filters and sorts, and only those in sight are
// drawn. Columns of lower priority go away where there is no room. Rows can be chosen with mouse and keyboard.
import { ActionIcon, Box, Checkbox, Loader, Menu, Skeleton, Text } from '@mantine/core';
import { useLocalStorage, useViewportSize } from '@mantine/hooks';
import { ArrowDown, ArrowUp, Columns3 } from 'lucide-react';
import { useEffect, useRef, type ReactNode } from 'react';
import { rowHeight, useRowsInSight } from './rows-in-sight.ts';
import { useText } from '../i18n/language.ts';

export interface Column<Row> {
  id: string;
  header: string;
  /** Field the daemon sorts by; without it, the column can't be sorted. */
  sort?: string;
  /** A track of CSS grid: 2fr, minmax(90px, 1fr). */
  width: string;
  /** From which width of the window it is shown, pixels. Default: always. */
  from?: number;
  /** Shown only when it is chosen. */
  isExtra?: boolean;
  render: (row: Row) => ReactNode;
}

interface DataTableProps<Row> {
  label: string;
  name: string;
  columns: readonly Column<Row>[];
  rows: readonly Row[];
  total: number;
  isLoading: boolean;
  isLoadingMore: boolean;
  onEnd: () => void;
  sort: string;
  onSort: (sort: string) => void;
  /** Ids of the rows that are chosen; without it, rows can't be. */
  chosen?: ReadonlySet<string>;
  onChoose?: (chosen: Set<string>) => void;
  rowId: (row: Row) => string;
  rowLabel: (row: Row) => string;
  /** At the end of each row. */
  rowMenu?: ((row: Row) => ReactNode) | undefined;
}

export function DataTable<Row>(props: DataTableProps<Row>) {
  const { columns, rows, total, isLoading, isLoadingMore, onEnd, sort, onSort, chosen, onChoose, rowId } = props;
  const t = useText();
  const { width } = useViewportSize();
  const [extra, setExtra] = useLocalStorage<string[]>({ key: `lodge-columns-${props.name}`, defaultValue: [] });
  const scroller = useRef<HTMLDivElement>(null);
  const [firstIndex, lastIndex] = useRowsInSight(scroller, rows.length);
  useEffect(() => {
    if (rows.length < total && lastIndex >= rows.length - 40 && !isLoadingMore && !isLoading) onEnd();
  }, [lastIndex, rows.length, total, isLoadingMore, isLoading, onEnd]);

  // `extra` names the columns that are not as they are by default: shown though extra, or hidden though not.
  const isShown = (column: Column<Row>): boolean => {
    if (width > 0 && width < (column.from ?? 0)) return false;
    return (column.isExtra === true) === extra.includes(column.id);
  };
  const shown = columns.filter(isShown);
  const tracks = [...(chosen === undefined ? [] : ['28px']), ...shown.map((column) => column.width), '28px'].join(' ');
  const style = { gridTemplateColumns: tracks };
  const isAll = chosen !== undefined && rows.length > 0 && rows.every((row) => chosen.has(rowId(row)));
  const toggle = (id: string): void => {
    const next = new Set(chosen);
    if (!next.delete(id)) next.add(id);
    onChoose?.(next);
  };

  return (
    <Box
      ref={scroller}
      className="card data-table"
      role="table"
      aria-label={props.label}
      aria-rowcount={total + 1}
      aria-busy={isLoading}
      tabIndex={0}
    >
      <div className="data-row data-head" style={style} role="row">
        {chosen !== undefined && (
          <div role="columnheader">
            <Checkbox
              size="xs"
              aria-label={t('table.choose-all')}
              checked={isAll}
              indeterminate={!isAll && chosen.size > 0}
              onChange={() => onChoose?.(isAll ? new Set() : new Set(rows.map(rowId)))}
            />
          </div>
        )}
        {shown.map((column) => (
          <HeadCell key={column.id} column={column} sort={sort} onSort={onSort} />
        ))}
        <div role="columnheader">
          <Menu position="bottom-end" closeOnItemClick={false}>
            <Menu.Target>
              <ActionIcon variant="subtle" color="gray" size="sm" aria-label={t('table.columns')}>
                <Columns3 size={15} />
              </ActionIcon>
            </Menu.Target>
            <Menu.Dropdown>
              {columns.slice(1).map((column) => (
                <Menu.Item
                  key={column.id}
                  role="menuitemcheckbox"
                  aria-checked={isShown(column)}
                  leftSection={<span aria-hidden>{isShown(column) ? '✓' : '\u2003'}</span>}
                  onClick={() =>
                    setExtra((before) =>
                      before.includes(column.id) ? before.filter((id) => id !== column.id) : [...before, column.id],
                    )
                  }
                >
                  {column.header}
                </Menu.Item>
              ))}
            </Menu.Dropdown>
          </Menu>
        </div>
      </div>
      {isLoading ? (
        <Box p="md" aria-hidden>
          {[0, 1, 2, 3].map((index) => (
            <Skeleton key={index} height={18} mb={18} />
          ))}
        </Box>
      ) : (
        <div className="data-body" role="rowgroup" style={{ height: rows.length * rowHeight }}>
          {rows.slice(firstIndex, lastIndex + 1).map((row, offset) => {
            const index = firstIndex + offset;
            const id = rowId(row);
            return (
              <div
                key={id}
                className="data-row"
                role="row"
                aria-rowindex={index + 2}
                data-chosen={chosen?.has(id)}
                style={{ ...style, transform: `translateY(${index * rowHeight}px)` }}
              >
                {chosen !== undefined && (
                  <div role="cell">
                    <Checkbox
                      size="xs"
                      aria-label={t('table.choose', { name: props.rowLabel(row) })}
                      checked={chosen.has(id)}
                      onChange={() => toggle(id)}
                    />
                  </div>
                )}
                {shown.map((column) => (
                  <div key={column.id} role="cell">
                    {column.render(row)}
                  </div>
                ))}
                <div role="cell">{props.rowMenu?.(row)}</div>
              </div>
            );
          })}
        </div>
      )}
      {!isLoading && rows.length === 0 && (
        <Text c="dimmed" p="lg" ta="center" fz="sm">
          {t('table.nothing')}
        </Text>
      )}
      {isLoadingMore && <Loader role="status" size="xs" m="sm" aria-label={t('common.loading')} />}
    </Box>
  );
}

function HeadCell<Row>({
  column,
  sort,
  onSort,
}: {
  column: Column<Row>;
  sort: string;
  onSort: (sort: string) => void;
}) {
  const field = column.sort;
  if (field === undefined) return <div role="columnheader">{column.header}</div>;
  const direction = sort === field ? 'ascending' : sort === `-${field}` ? 'descending' : 'none';
  return (
    <div role="columnheader" aria-sort={direction}>
      <button
        type="button"
        className="sort-button"
        onClick={() => onSort(direction === 'ascending' ? `-${field}` : field)}
      >
        {column.header}
        {direction === 'ascending' && <ArrowUp size={13} aria-hidden />}
        {direction === 'descending' && <ArrowDown size={13} aria-hidden />}
      </button>
    </div>
  );
}
