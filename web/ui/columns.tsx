// Columns that the lists of many nouns have.
import { useText } from '../i18n/language.ts';
import { type Column } from './data-table.tsx';
import { refOf, type Listed } from './list-page.tsx';
import { TextLink } from './link.tsx';
import { State } from './state.tsx';
import { Ago } from './time.tsx';

export function useColumns<Row extends Listed & { createdAt: string }>(path: string) {
  const t = useText();
  const name: Column<Row> = {
    id: 'name',
    header: t('column.name'),
    sort: 'name',
    width: 'minmax(120px, 1.5fr)',
    render: (row) => (
      <TextLink href={`${path}/${refOf(row)}`} fw={550}>
        {row.name}
      </TextLink>
    ),
  };
  const created: Column<Row> = {
    id: 'created',
    header: t('column.created'),
    sort: 'createdAt',
    width: '120px',
    from: 1000,
    render: (row) => <Ago at={row.createdAt} />,
  };
  const state = (of: (row: Row) => string): Column<Row> => ({
    id: 'state',
    header: t('column.state'),
    sort: 'status.state',
    width: '130px',
    render: (row) => <State state={of(row)} />,
  });
  const text = (
    id: string,
    header: string,
    of: (row: Row) => string | number,
    more: Partial<Column<Row>> = {},
  ): Column<Row> => ({ id, header, width: 'minmax(90px, 1fr)', from: 640, render: of, ...more });
  return { name, created, state, text };
}
