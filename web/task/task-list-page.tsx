// All tasks, newest first.
import { ListChecks } from 'lucide-react';
import { type Task } from '../../src/api/task.ts';
import { client } from '../data/client.ts';
import { formatDuration } from '../i18n/format.ts';
import { sayOr, useText } from '../i18n/language.ts';
import { type Column } from '../ui/data-table.tsx';
import { Empty } from '../ui/empty.tsx';
import { ListPage } from '../ui/list-page.tsx';
import { TextLink } from '../ui/link.tsx';
import { State } from '../ui/state.tsx';
import { Ago } from '../ui/time.tsx';
import { subjectHref, taskTitle } from './task-words.ts';

/** A task as a row: a list names its rows. */
type TaskEntry = Task & { name: string };

export function TaskListPage() {
  const t = useText();
  const columns: Column<TaskEntry>[] = [
    {
      id: 'type',
      header: t('task.what'),
      sort: 'type',
      width: 'minmax(130px, 1.6fr)',
      render: (task) => (
        <TextLink href={`/tasks/${task.id}`} fw={550}>
          {sayOr(`task.${task.type}`, task.type)}
        </TextLink>
      ),
    },
    {
      id: 'target',
      header: t('task.target'),
      sort: 'target.name',
      width: 'minmax(90px, 1.2fr)',
      from: 560,
      render: (task) => {
        const href = subjectHref(task.target);
        return href === null ? task.target.name : <TextLink href={href}>{task.target.name}</TextLink>;
      },
    },
    {
      id: 'state',
      header: t('column.state'),
      sort: 'state',
      width: '120px',
      render: (task) => <State state={task.state} />,
    },
    {
      id: 'created',
      header: t('task.begun'),
      sort: 'createdAt',
      width: '120px',
      from: 700,
      render: (task) => <Ago at={task.createdAt} />,
    },
    {
      id: 'duration',
      header: t('task.duration'),
      width: '90px',
      from: 900,
      render: (task) =>
        task.startedAt === null || task.endedAt === null
          ? '–'
          : formatDuration(Date.parse(task.endedAt) - Date.parse(task.startedAt)),
    },
    { id: 'by', header: t('task.by'), width: 'minmax(90px, 1fr)', from: 1000, render: (task) => task.requestedBy },
    {
      id: 'error',
      header: t('task.result'),
      width: 'minmax(120px, 2fr)',
      from: 1200,
      render: (task) => task.error?.message ?? task.progress.message ?? '',
    },
  ];
  return (
    <ListPage<TaskEntry>
      kind="task"
      title={t('nav.tasks')}
      subtitle={t('task.subtitle')}
      columns={columns}
      defaultSort="-createdAt"
      searchField="target.name"
      hasLabels={false}
      read={async (query) => {
        const page = await client.task.list({ query });
        return { ...page, items: page.items.map((task) => ({ ...task, name: taskTitle(task) })) };
      }}
      empty={
        <Empty
          icon={<ListChecks size={44} strokeWidth={1.4} />}
          title={t('task.empty.title')}
          text={t('task.empty.text')}
        />
      }
    />
  );
}
