// What a VM is doing now: why it is in its state, what is wrong, what waits for a restart, and what its display shows.
import { Alert, Code, Grid, List, Skeleton, Stack, Text } from '@mantine/core';
import { useQuery } from '@tanstack/react-query';
import { Clock, Info, TriangleAlert } from 'lucide-react';
import { type PendingChange, type Vm } from '../../src/api/vm.ts';
import { liveVmStates } from '../../src/api/vm-state.ts';
import { client, useMay } from '../data/client.ts';
import { formatBytes, formatMib, formatPercent } from '../i18n/format.ts';
import { useText } from '../i18n/language.ts';
import { CodeBlock } from '../ui/copy.tsx';
import { TextLink } from '../ui/link.tsx';
import { Facts, Section } from '../ui/page.tsx';
import { Ago } from '../ui/time.tsx';
import { Screenshot } from './screenshot.tsx';
import { hasDisplay } from './vm-power.ts';

const usageMs = 2000;

export function OverviewTab({ vm }: { vm: Vm }) {
  const t = useText();
  const mayLook = useMay('vm.console');
  const { status, spec } = vm;
  return (
    <Stack gap="md">
      <Notes vm={vm} />
      <Grid gap="md">
        <Grid.Col span={{ base: 12, lg: 7 }}>
          <Section title={t('vm.now')}>
            <Facts
              rows={[
                [t('vm.why'), status.reason],
                [t('vm.since'), <Ago key="since" at={status.since} />],
                [t('vm.up'), status.isUp ? <Ago key="up" at={status.upAt} /> : null],
                [t('vm.guest-os'), status.guest?.osName ?? null],
                [t('vm.kernel'), status.guest?.kernel ?? null],
                [t('vm.address'), addresses(vm)],
                [t('vm.last-exit'), status.lastExit?.message ?? null],
                [
                  t('vm.task'),
                  status.taskId === null ? null : (
                    <TextLink href={`/tasks/${status.taskId}`}>{t('vm.task-open')}</TextLink>
                  ),
                ],
              ]}
            />
            {liveVmStates.has(status.state) && <UsageNow vm={vm} />}
          </Section>
        </Grid.Col>
        <Grid.Col span={{ base: 12, lg: 5 }}>
          {mayLook && hasDisplay(vm) ? (
            <Section title={t('vm.display')}>
              <Screenshot vm={vm} />
            </Section>
          ) : (
            <Section title={t('vm.made-of')}>
              <MadeOf vm={vm} />
            </Section>
          )}
        </Grid.Col>
      </Grid>
      {mayLook && hasDisplay(vm) && (
        <Section title={t('vm.made-of')}>
          <MadeOf vm={vm} />
        </Section>
      )}
      {spec.cloudInit !== undefined &&
        status.guest === null &&
        liveVmStates.has(status.state) &&
        status.agentAdvice !== null && (
          <Section title={t('vm.agent')}>
            <Stack gap="sm">
              <Text fz="sm">{status.agentAdvice.reason}</Text>
              {status.agentAdvice.commands.map(({ system, command }) => (
                <div key={system}>
                  <Text fz="xs" c="dimmed">
                    {system}
                  </Text>
                  <CodeBlock text={command} />
                </div>
              ))}
            </Stack>
          </Section>
        )}
    </Stack>
  );
}

function addresses(vm: Vm) {
  const all = vm.status.nics.flatMap((nic) => nic.addresses);
  return all.length === 0 ? null : <span className="mono">{all.join(', ')}</span>;
}

function MadeOf({ vm: { spec, status, createdAt, labels, project, id } }: { vm: Vm }) {
  const t = useText();
  return (
    <Facts
      rows={[
        [
          t('vm.image'),
          spec.image === undefined ? null : <TextLink href={`/images/${spec.image}`}>{spec.image}</TextLink>,
        ],
        [t('vm.vcpus'), `${spec.cpu.count} (${status.pinned?.cpuModel.split(',')[0] ?? spec.cpu.model})`],
        [t('vm.memory'), formatMib(spec.memoryMib)],
        [t('vm.machine'), status.pinned?.machine ?? spec.machine],
        [t('vm.firmware'), status.pinned?.firmware ?? spec.firmware.type],
        [
          t('vm.accelerator'),
          status.pinned === null ? null : (
            <span key="accelerator" title={status.pinned.acceleratorReason}>
              {status.pinned.rung}
            </span>
          ),
        ],
        [
          t('column.labels'),
          Object.entries(labels).map(([key, value]) => <Code key={key} mr={6}>{`${key}=${value}`}</Code>),
        ],
        [t('column.project'), project],
        [t('column.created'), <Ago key="created" at={createdAt} />],
        [
          t('vm.id'),
          <span key="id" className="mono">
            {id}
          </span>,
        ],
      ]}
    />
  );
}

/** What needs attention, each with what to do. */
function Notes({ vm: { status } }: { vm: Vm }) {
  const t = useText();
  return (
    <>
      {status.warnings.map((warning) => (
        <Alert key={warning.code} color="yellow" icon={<TriangleAlert size={18} />} title={warning.message}>
          {warning.hint}
        </Alert>
      ))}
      {status.consolePanic !== null && (
        <Alert color="red" icon={<TriangleAlert size={18} />} title={t('vm.panic')}>
          <Code>{status.consolePanic}</Code>
        </Alert>
      )}
      {status.pendingChanges.length > 0 && (
        <Alert color="blue" icon={<Clock size={18} />} title={t('vm.pending')}>
          <PendingList changes={status.pendingChanges} />
        </Alert>
      )}
      {status.profileChanges.length > 0 && (
        <Alert color="blue" icon={<Info size={18} />} title={t('vm.profile-changes')}>
          <List fz="sm">
            {status.profileChanges.map((change) => (
              <List.Item key={change.field}>
                <Code>{change.field}</Code> {String(change.current)} → {String(change.wanted)} (
                {change.from?.name ?? '–'})
              </List.Item>
            ))}
          </List>
        </Alert>
      )}
    </>
  );
}

/** What of the spec is not in effect yet, each with the reason. */
export function PendingList({ changes }: { changes: readonly PendingChange[] }) {
  return (
    <List fz="sm">
      {changes.map((change) => (
        <List.Item key={change.field}>
          <Code>{change.field}</Code> {String(change.current ?? '–')} → <b>{String(change.wanted ?? '–')}</b>
          <Text span fz="xs" c="dimmed" ml={6}>
            {change.reason}
          </Text>
        </List.Item>
      ))}
    </List>
  );
}

function UsageNow({ vm }: { vm: Vm }) {
  const t = useText();
  const { data } = useQuery({
    queryKey: ['vm-usage'],
    queryFn: async () => new Map((await client.vm.usage()).items.map((item) => [item.id, item])),
    refetchInterval: usageMs,
  });
  const usage = data?.get(vm.id);
  if (usage === undefined) return <Skeleton height={40} mt="md" />;
  const bytes = (value: number | null): string => (value === null ? '–' : formatBytes(value));
  return (
    <Stack gap={0} mt="lg">
      <Facts
        rows={[
          [t('vm.cpu'), usage.cpuPercent === null ? '–' : formatPercent(usage.cpuPercent)],
          [t('vm.memory-used'), usage.memoryMib === null ? '–' : formatMib(usage.memoryMib)],
          [t('vm.disk-io'), `↓ ${bytes(usage.diskReadBytes)} · ↑ ${bytes(usage.diskWrittenBytes)}`],
          [t('vm.network-io'), `↓ ${bytes(usage.networkReceivedBytes)} · ↑ ${bytes(usage.networkSentBytes)}`],
        ]}
      />
    </Stack>
  );
}
