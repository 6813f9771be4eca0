// The page of a noun's list: searched, filtered by label and state, sorted and paged by the daemon. What is asked for stands
// in the address, so that a view can be kept as a bookmark and sent to others.
import { ActionIcon, Group, TextInput } from '@mantine/core';
import { useDebouncedValue, useLocalStorage } from '@mantine/hooks';
import { keepPreviousData, useInfiniteQuery } from '@tanstack/react-query';
import { useNavigate, useSearch } from '@tanstack/react-router';
import { LayoutGrid, Rows3, Search, Tag } from 'lucide-react';
import { Suspense, useEffect, useState, type ReactNode } from 'react';
import { type ListQuery } from '../../src/api/object.ts';
import { lazyPart } from '../data/part.ts';
import { useText } from '../i18n/language.ts';
import { DataTable, type Column } from './data-table.tsx';
import { Failure } from './failure.tsx';
import { listSearch, type ListSearch } from './list-search.ts';
import { Page } from './page.tsx';

const ViewsMenu = lazyPart(async () => (await import('./views-menu.tsx')).ViewsMenu);

/** What every object of a list has. */
export interface Listed {
  id: string;
  name: string;
  project: string;
}

interface PageOf<Row> {
  items: Row[];
  total: number;
  continue: string | null;
}

/** What of a list was read so far. */
export interface Shown<Row> {
  rows: readonly Row[];
  total: number;
  isLoadingMore: boolean;
  /** Reads more. */
  onEnd: () => void;
}

interface ListPageProps<Row extends Listed> {
  /** As in the change stream; names the query. */
  kind: string;
  title: string;
  subtitle?: string;
  columns: readonly Column<Row>[];
  read: (query: Partial<ListQuery>) => Promise<PageOf<Row>>;
  /** Shown in place of the table where there is nothing at all. */
  empty: ReactNode;
  actions?: ReactNode;
  tabs?: ReactNode;
  /** Beside the search. */
  filters?: ReactNode;
  defaultSort?: string;
  /** The field that the search looks into. */
  searchField?: string;
  hasLabels?: boolean;
  chosen?: ReadonlySet<string>;
  onChoose?: (chosen: Set<string>) => void;
  /** Above the table, told what is in it. */
  bar?: (rows: readonly Row[]) => ReactNode;
  /** Another way to show the same rows, beside the table. */
  cards?: (shown: Shown<Row>) => ReactNode;
  refetchMs?: number;
  rowName?: (row: Row) => string;
  rowMenu?: (row: Row) => ReactNode;
}

const pageLength = 200;

const looks = [
  { name: 'table', icon: Rows3, text: 'list.as-table' },
  { name: 'cards', icon: LayoutGrid, text: 'list.as-cards' },
] as const;

export function ListPage<Row extends Listed>(props: ListPageProps<Row>) {
  const { kind, columns, read, defaultSort = 'name', searchField = 'name', hasLabels = true } = props;
  const t = useText();
  const search: ListSearch = useSearch({ strict: false });
  const navigate = useNavigate();
  const [typed, setTyped] = useState(search.q ?? '');
  const [labels, setLabels] = useState(search.selector ?? '');
  const [q] = useDebouncedValue(typed, 250);
  const [selector] = useDebouncedValue(labels, 400);
  const [look, setLook] = useLocalStorage<'table' | 'cards'>({ key: `lodge-look-${kind}`, defaultValue: 'table' });
  const isCards = look === 'cards';
  const sort = search.sort ?? defaultSort;

  const change = (next: ListSearch): void =>
    void navigate({ to: '.', search: listSearch({ ...search, ...next }), replace: true });
  useEffect(() => {
    if (q !== (search.q ?? '') || selector !== (search.selector ?? '')) change({ q, selector });
    // Only what was typed is written into the address; what comes from there was typed before.
  }, [q, selector]);

  const filter = [search.filter, search.q === undefined ? undefined : `${searchField}~${JSON.stringify(search.q)}`]
    .filter((one) => one !== undefined)
    .join(',');
  const query: Partial<ListQuery> = {
    sort,
    limit: pageLength,
    ...(filter === '' ? {} : { filter }),
    ...(search.selector === undefined ? {} : { selector: search.selector }),
  };
  const list = useInfiniteQuery({
    queryKey: [kind, 'list', query],
    queryFn: ({ pageParam }) => read({ ...query, ...(pageParam === '' ? {} : { continue: pageParam }) }),
    initialPageParam: '',
    getNextPageParam: (last) => last.continue,
    placeholderData: keepPreviousData,
    ...(props.refetchMs === undefined ? {} : { refetchInterval: props.refetchMs }),
  });
  const rows = list.data?.pages.flatMap((page) => page.items) ?? [];
  const total = list.data?.pages[0]?.total ?? 0;
  const isUnfiltered = filter === '' && search.selector === undefined;
  const isEmpty = list.isSuccess && total === 0 && isUnfiltered && !list.isPlaceholderData;

  return (
    <Page title={props.title} subtitle={props.subtitle} actions={props.actions} tabs={props.tabs}>
      {list.error !== null && <Failure failure={list.error} onRetry={() => void list.refetch()} />}
      {isEmpty ? (
        props.empty
      ) : (
        <>
          <Group gap="xs">
            <TextInput
              size="sm"
              w={{ base: '100%', xs: 240 }}
              leftSection={<Search size={15} />}
              placeholder={t('list.search')}
              aria-label={t('list.search')}
              data-list-search
              value={typed}
              onChange={(event) => setTyped(event.currentTarget.value)}
            />
            {hasLabels && (
              <TextInput
                size="sm"
                w={{ base: '100%', xs: 220 }}
                leftSection={<Tag size={15} />}
                placeholder={t('list.labels')}
                aria-label={t('list.labels-long')}
                value={labels}
                onChange={(event) => setLabels(event.currentTarget.value)}
              />
            )}
            {props.filters}
            <Suspense>
              <ViewsMenu
                kind={kind}
                search={search}
                onChoose={(view) => {
                  setTyped(view.q ?? '');
                  setLabels(view.selector ?? '');
                  void navigate({ to: '.', search: view });
                }}
              />
            </Suspense>
            {props.cards !== undefined && (
              <Group gap={4} ml="auto" wrap="nowrap" role="group" aria-label={t('list.look')}>
                {looks.map(({ name, icon: Icon, text }) => (
                  <ActionIcon
                    key={name}
                    size="lg"
                    variant={isCards === (name === 'cards') ? 'filled' : 'default'}
                    aria-label={t(text)}
                    aria-pressed={isCards === (name === 'cards')}
                    onClick={() => setLook(name)}
                  >
                    <Icon size={17} />
                  </ActionIcon>
                ))}
              </Group>
            )}
          </Group>
          {props.bar?.(rows)}
          {props.cards !== undefined && isCards ? (
            <Suspense>
              {props.cards({
                rows,
                total,
                isLoadingMore: list.isFetchingNextPage,
                onEnd: () => void list.fetchNextPage(),
              })}
            </Suspense>
          ) : (
            <DataTable
              label={props.title}
              name={kind}
              columns={columns}
              rows={rows}
              total={total}
              isLoading={list.isPending}
              isLoadingMore={list.isFetchingNextPage}
              onEnd={() => void list.fetchNextPage()}
              sort={sort}
              onSort={(next) => change({ sort: next })}
              rowId={(row) => row.id}
              rowMenu={props.rowMenu}
              rowLabel={props.rowName ?? ((row) => row.name)}
              {...(props.chosen === undefined ? {} : { chosen: props.chosen })}
              {...(props.onChoose === undefined ? {} : { onChoose: props.onChoose })}
            />
          )}
        </>
      )}
    </Page>
  );
}

/** How an object is named in addresses: by its name in the project default, else by its id. */
export function refOf(object: { id: string; name: string; project: string }): string {
  // /vms/new is the page for creating one.
  return object.project === 'default' && object.name !== 'new' ? object.name : object.id;
}
