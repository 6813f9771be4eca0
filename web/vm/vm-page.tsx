// The page of a VM: what it is doing, what can be done with it, and everything about it in tabs with addresses.
import { Button, Group, Loader, Skeleton } from '@mantine/core';
import { ChevronDown, Play, Power, Terminal } from 'lucide-react';
import { Suspense, type ComponentType } from 'react';
import { lazyPart } from '../data/part.ts';
import { type Vm } from '../../src/api/vm.ts';
import { useSignIn } from '../data/client.ts';
import { useAction } from '../data/outcome.ts';
import { useText } from '../i18n/language.ts';
import { ActionButton } from '../ui/action-button.tsx';
import { Failure } from '../ui/failure.tsx';
import { refOf } from '../ui/list-page.tsx';
import { useGo, useParam } from '../ui/link.tsx';
import { Page } from '../ui/page.tsx';
import { State } from '../ui/state.tsx';
import { TabStrip } from '../ui/tab-strip.tsx';
import { powerVm, reasonAgainst, type PowerAction } from './vm-power.ts';
import { useVm } from './vm-queries.ts';
import { VmMenu } from './vm-menu.tsx';

type Tab = ComponentType<{ vm: Vm }>;

/** Each tab is loaded when it is opened: console and plots are large. */
const tabs: Readonly<Record<string, Tab>> = {
  '': lazyPart(async () => (await import('./overview-tab.tsx')).OverviewTab),
  console: lazyPart(async () => (await import('./console-tab.tsx')).ConsoleTab),
  metrics: lazyPart(async () => (await import('./metrics-tab.tsx')).MetricsTab),
  hardware: lazyPart(async () => (await import('./hardware-tab.tsx')).HardwareTab),
  disks: lazyPart(async () => (await import('./disks-tab.tsx')).DisksTab),
  nics: lazyPart(async () => (await import('./nics-tab.tsx')).NicsTab),
  snapshots: lazyPart(async () => (await import('./snapshots-tab.tsx')).SnapshotsTab),
  lineage: lazyPart(async () => (await import('./lineage-tab.tsx')).LineageTab),
  activity: lazyPart(async () => (await import('./activity-tab.tsx')).ActivityTab),
  spec: lazyPart(async () => (await import('./spec-tab.tsx')).SpecTab),
};

export function VmPage() {
  const t = useText();
  const ref = useParam('vm');
  const current = useParam('tab');
  const { data: vm, error, refetch } = useVm(ref);
  const go = useGo();
  if (vm === undefined || error !== null) {
    return (
      <Page title={ref}>
        {error === null ? <Skeleton height={200} /> : <Failure failure={error} onRetry={() => void refetch()} />}
      </Page>
    );
  }
  const base = `/vms/${refOf(vm)}`;
  const Content = tabs[current] ?? tabs[''];
  return (
    <Page
      title={vm.name}
      badge={<State state={vm.status.state} />}
      subtitle={vm.spec.description === '' ? vm.status.reason : vm.spec.description}
      actions={<Actions vm={vm} onConsole={() => go(`${base}/console`)} onDeleted={() => go('/vms')} />}
      tabs={
        <TabStrip
          base={base}
          current={tabs[current] === undefined ? '' : current}
          label={t('vm.tabs', { name: vm.name })}
          tabs={[
            ['', t('vm.tab.overview')],
            ['console', t('vm.tab.console')],
            ['metrics', t('vm.tab.metrics')],
            ['hardware', t('vm.tab.hardware')],
            ['disks', t('vm.tab.disks')],
            ['nics', t('vm.tab.nics')],
            ['snapshots', t('vm.tab.snapshots')],
            ['lineage', t('vm.tab.lineage')],
            ['activity', t('vm.tab.activity')],
            ['spec', t('vm.tab.spec')],
          ]}
        />
      }
    >
      <Suspense fallback={<Loader role="status" aria-label={t('common.loading')} />}>
        {Content !== undefined && <Content key={vm.id} vm={vm} />}
      </Suspense>
    </Page>
  );
}

function Actions({ vm, onConsole, onDeleted }: { vm: Vm; onConsole: () => void; onDeleted: () => void }) {
  const t = useText();
  const { session } = useSignIn();
  const role = session?.role ?? null;
  const act = useAction((action: PowerAction) => powerVm(vm, action));
  return (
    <Group gap="xs">
      <ActionButton
        variant="filled"
        leftSection={<Play size={15} />}
        reason={reasonAgainst(vm, vm.status.state === 'paused' ? 'resume' : 'start', role)}
        onClick={() => act.mutate(vm.status.state === 'paused' ? 'resume' : 'start')}
      >
        {t(vm.status.state === 'paused' ? 'vm.action.resume' : 'vm.action.start')}
      </ActionButton>
      <ActionButton
        leftSection={<Power size={15} />}
        reason={reasonAgainst(vm, 'stop', role)}
        onClick={() => act.mutate('stop')}
      >
        {t('vm.action.stop')}
      </ActionButton>
      <ActionButton
        leftSection={<Terminal size={15} />}
        reason={reasonAgainst(vm, 'console', role)}
        onClick={onConsole}
      >
        {t('vm.tab.console')}
      </ActionButton>
      <VmMenu
        vm={vm}
        onDeleted={onDeleted}
        target={
          <Button size="sm" variant="default" rightSection={<ChevronDown size={14} />}>
            {t('common.more-actions')}
          </Button>
        }
      />
    </Group>
  );
}
