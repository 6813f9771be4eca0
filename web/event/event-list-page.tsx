// What happened, newest first.
import { NativeSelect } from '@mantine/core';
import { useNavigate, useSearch } from '@tanstack/react-router';
import { Activity } from 'lucide-react';
import { type Event } from '../../src/api/event.ts';
import { client } from '../data/client.ts';
import { useText } from '../i18n/language.ts';
import { subjectHref } from '../task/task-words.ts';
import { type Column } from '../ui/data-table.tsx';
import { Empty } from '../ui/empty.tsx';
import { ListPage } from '../ui/list-page.tsx';
import { listSearch, type ListSearch } from '../ui/list-search.ts';
import { TextLink } from '../ui/link.tsx';
import { State } from '../ui/state.tsx';
import { Ago } from '../ui/time.tsx';

type EventEntry = Event & { name: string };

export function EventListPage() {
  const t = useText();
  const columns: Column<EventEntry>[] = [
    { id: 'at', header: t('event.at'), sort: 'at', width: '120px', render: (event) => <Ago at={event.at} /> },
    {
      id: 'severity',
      header: t('event.severity'),
      sort: 'severity',
      width: '112px',
      from: 560,
      render: (event) => <State state={event.severity} />,
    },
    {
      id: 'subject',
      header: t('event.subject'),
      sort: 'subject.name',
      width: 'minmax(80px, 1fr)',
      from: 760,
      render: (event) => {
        const href = subjectHref(event.subject);
        return href === null ? event.subject.name : <TextLink href={href}>{event.subject.name}</TextLink>;
      },
    },
    {
      id: 'message',
      header: t('event.message'),
      width: 'minmax(160px, 4fr)',
      render: (event) => <span title={event.message}>{event.message}</span>,
    },
    {
      id: 'type',
      header: t('event.type'),
      sort: 'type',
      width: 'minmax(120px, 1fr)',
      from: 1200,
      render: (event) => <span className="mono">{event.type}</span>,
    },
  ];
  return (
    <ListPage<EventEntry>
      kind="event"
      title={t('nav.events')}
      subtitle={t('event.subtitle')}
      columns={columns}
      defaultSort="-at"
      searchField="message"
      hasLabels={false}
      filters={<SeverityFilter />}
      read={async (query) => {
        const page = await client.event.list({ query });
        return { ...page, items: page.items.map((event) => ({ ...event, name: event.message })) };
      }}
      empty={
        <Empty
          icon={<Activity size={44} strokeWidth={1.4} />}
          title={t('event.empty.title')}
          text={t('event.empty.text')}
        />
      }
    />
  );
}

function SeverityFilter() {
  const t = useText();
  const search: ListSearch = useSearch({ strict: false });
  const navigate = useNavigate();
  const current = /^severity=([a-z]+)$/.exec(search.filter ?? '')?.[1] ?? '';
  const words = { info: t('state.info'), warning: t('state.warning'), error: t('state.error') };
  return (
    <NativeSelect
      size="sm"
      w={160}
      aria-label={t('event.severity')}
      data={[
        { value: '', label: t('event.any-severity') },
        ...Object.entries(words).map(([value, label]) => ({ value, label })),
      ]}
      value={current}
      onChange={(event) => {
        const severity = event.currentTarget.value;
        void navigate({
          to: '.',
          search: listSearch({ ...search, filter: severity === '' ? '' : `severity=${severity}` }),
          replace: true,
        });
      }}
    />
  );
}
