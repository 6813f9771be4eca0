// All VMs: live state, addresses, use of processor; filtered by state, and what can be done with many at once.
import { Button, Group, NativeSelect, Text } from '@mantine/core';
import { useQuery } from '@tanstack/react-query';
import { useNavigate, useSearch } from '@tanstack/react-router';
import { MonitorPlay, Plus } from 'lucide-react';
import { Suspense, useState } from 'react';
import { lazyPart } from '../data/part.ts';
import { vmState } from '../../src/api/vm-state.ts';
import { type Vm } from '../../src/api/vm.ts';
import { client, useMay } from '../data/client.ts';
import { formatMib, formatPercent } from '../i18n/format.ts';
import { sayOr, useText } from '../i18n/language.ts';
import { type Column } from '../ui/data-table.tsx';
import { Empty } from '../ui/empty.tsx';
import { ListPage, refOf } from '../ui/list-page.tsx';
import { TextLink, useLinkTo } from '../ui/link.tsx';
import { listSearch, type ListSearch } from '../ui/list-search.ts';
import { Sparkline } from '../ui/sparkline.tsx';
import { State } from '../ui/state.tsx';
import { Ago } from '../ui/time.tsx';
import { VmMenu } from './vm-menu.tsx';

const VmCards = lazyPart(async () => (await import('./vm-cards.tsx')).VmCards);
const BulkBar = lazyPart(async () => (await import('./bulk-bar.tsx')).BulkBar);

/** How often the use of processor and memory is read, milliseconds. */
const usageMs = 3000;
/** How many of these reads a sparkline shows. */
const sparkLength = 20;
/** Of each VM's processor, percent of one host CPU, oldest first: kept while the console is open, whatever page is shown. */
const cpuLately = new Map<string, (number | null)[]>();

export function VmListPage() {
  const t = useText();
  const mayCreate = useMay('vm.create');
  const linkTo = useLinkTo();
  const [chosen, setChosen] = useState<Set<string>>(new Set());
  // Once something was chosen the bar stays, so that its result can be read after the choice is taken back.
  const [hasChosen, setHasChosen] = useState(false);
  const choose = (next: Set<string>): void => {
    setChosen(next);
    setHasChosen(true);
  };
  const usage = useQuery({
    queryKey: ['vm-usage'],
    queryFn: async () => {
      const { items } = await client.vm.usage();
      for (const id of cpuLately.keys()) if (!items.some((item) => item.id === id)) cpuLately.delete(id);
      for (const { id, cpuPercent } of items) {
        cpuLately.set(id, [...(cpuLately.get(id) ?? []), cpuPercent].slice(-sparkLength));
      }
      return new Map(items.map((item) => [item.id, item]));
    },
    refetchInterval: usageMs,
  });
  const columns: Column<Vm>[] = [
    {
      id: 'name',
      header: t('column.name'),
      sort: 'name',
      width: 'minmax(120px, 2fr)',
      render: (vm) => (
        <TextLink href={`/vms/${refOf(vm)}`} fw={550}>
          {vm.name}
        </TextLink>
      ),
    },
    {
      id: 'state',
      header: t('column.state'),
      sort: 'status.state',
      width: 'minmax(104px, 1fr)',
      render: (vm) => <State state={vm.status.state} />,
    },
    {
      id: 'cpu',
      header: t('vm.cpu'),
      width: '124px',
      from: 760,
      render: (vm) => {
        const percent = usage.data?.get(vm.id)?.cpuPercent;
        return (
          <Group gap={6} wrap="nowrap">
            <Sparkline values={cpuLately.get(vm.id) ?? []} full={100 * vm.spec.cpu.count} length={sparkLength} />
            {percent === null || percent === undefined ? '–' : formatPercent(percent)}
          </Group>
        );
      },
    },
    {
      id: 'memory',
      header: t('vm.memory'),
      sort: 'spec.memoryMib',
      width: '94px',
      from: 560,
      render: (vm) => formatMib(vm.spec.memoryMib),
    },
    {
      id: 'vcpus',
      header: t('vm.vcpus'),
      sort: 'spec.cpu.count',
      width: '74px',
      from: 980,
      render: (vm) => vm.spec.cpu.count,
    },
    {
      id: 'address',
      header: t('vm.address'),
      width: 'minmax(120px, 1.3fr)',
      from: 900,
      render: (vm) => (
        <span className="mono">
          {vm.status.nics.flatMap((nic) => nic.addresses).find((one) => !one.includes(':')) ?? '–'}
        </span>
      ),
    },
    {
      id: 'image',
      header: t('vm.image'),
      sort: 'spec.image',
      width: 'minmax(90px, 1fr)',
      from: 1240,
      render: (vm) => vm.spec.image ?? '–',
    },
    {
      id: 'labels',
      header: t('column.labels'),
      width: 'minmax(100px, 1.4fr)',
      from: 1480,
      render: (vm) => (
        <Text span fz="xs" c="dimmed">
          {Object.entries(vm.labels)
            .map(([key, value]) => (value === '' ? key : `${key}=${value}`))
            .join(', ')}
        </Text>
      ),
    },
    {
      id: 'project',
      header: t('column.project'),
      sort: 'project',
      width: '110px',
      isExtra: true,
      render: (vm) => vm.project,
    },
    {
      id: 'age',
      header: t('column.created'),
      sort: 'createdAt',
      width: '120px',
      from: 1120,
      render: (vm) => <Ago at={vm.createdAt} />,
    },
  ];
  return (
    <ListPage
      kind="vm"
      title={t('nav.vms')}
      columns={columns}
      read={(query) => client.vm.list({ query })}
      filters={<StateFilter />}
      chosen={chosen}
      onChoose={choose}
      cards={({ rows, ...more }) => <VmCards vms={rows} {...more} />}
      rowMenu={(vm) => <VmMenu vm={vm} />}
      bar={(rows) =>
        hasChosen && (
          <Suspense>
            <BulkBar vms={rows.filter((vm) => chosen.has(vm.id))} onClear={() => setChosen(new Set())} />
          </Suspense>
        )
      }
      actions={
        mayCreate && (
          <Button component="a" {...linkTo('/vms/new')} leftSection={<Plus size={16} />}>
            {t('create.title')}
          </Button>
        )
      }
      empty={
        <Empty
          icon={<MonitorPlay size={44} strokeWidth={1.4} />}
          title={t('vm.empty.title')}
          text={t('vm.empty.text')}
          action={
            mayCreate && (
              <Button component="a" {...linkTo('/vms/new')} leftSection={<Plus size={16} />}>
                {t('create.title')}
              </Button>
            )
          }
        />
      }
    />
  );
}

function StateFilter() {
  const t = useText();
  const search: ListSearch = useSearch({ strict: false });
  const navigate = useNavigate();
  const current = /^status\.state=([a-z]+)$/.exec(search.filter ?? '')?.[1] ?? '';
  return (
    <NativeSelect
      size="sm"
      w={160}
      aria-label={t('column.state')}
      data={[
        { value: '', label: t('list.any-state') },
        ...vmState.options.map((state) => ({ value: state, label: sayOr(`state.${state}`, state) })),
      ]}
      value={current}
      onChange={(event) => {
        const state = event.currentTarget.value;
        void navigate({
          to: '.',
          search: listSearch({ ...search, filter: state === '' ? '' : `status.state=${state}` }),
          replace: true,
        });
      }}
    />
  );
}
