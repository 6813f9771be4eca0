// The node: what it has, whether it is fit with fixes where not, its accelerators, what its hardware can do, what it has used.
import { Alert, Code, Group, Stack, Table, Text } from '@mantine/core';
import { useQuery } from '@tanstack/react-query';
import { TriangleAlert } from 'lucide-react';
import { Suspense } from 'react';
import { lazyPart } from '../data/part.ts';
import { type Node } from '../../src/api/node.ts';
import { client } from '../data/client.ts';
import { formatMib, formatNumber } from '../i18n/format.ts';
import { useText } from '../i18n/language.ts';
import { useParam } from '../ui/link.tsx';
import { Facts, Page, Section } from '../ui/page.tsx';
import { State } from '../ui/state.tsx';
import { TabStrip } from '../ui/tab-strip.tsx';
import { Ago } from '../ui/time.tsx';
import { Loading } from '../ui/loading.tsx';

const NodeMetrics = lazyPart(async () => (await import('./node-metrics.tsx')).NodeMetrics);

export function NodePage() {
  const t = useText();
  const ref = useParam('node');
  const tab = useParam('tab');
  const params = { node: ref };
  const { data: node, error } = useQuery({
    queryKey: ['node', 'one', ref],
    queryFn: () => client.node.get({ params }),
  });
  if (node === undefined) {
    return (
      <Page title={t('nav.node')}>
        <Loading error={error} />
      </Page>
    );
  }
  return (
    <Page
      title={node.name}
      badge={<State state={node.status.state} />}
      subtitle={`${node.status.operatingSystem} · ${node.status.kernel}`}
      tabs={
        <TabStrip
          base={`/nodes/${ref}`}
          current={tab}
          label={t('vm.tabs', { name: node.name })}
          tabs={[
            ['', t('vm.tab.overview')],
            ['metrics', t('vm.tab.metrics')],
            ['checks', t('node.checks')],
            ['hardware', t('node.hardware')],
          ]}
        />
      }
    >
      {tab === 'metrics' ? (
        <Suspense fallback={<Loading />}>
          <NodeMetrics node={node} />
        </Suspense>
      ) : tab === 'checks' ? (
        <Checks name={ref} />
      ) : tab === 'hardware' ? (
        <Hardware name={ref} />
      ) : (
        <Overview node={node} />
      )}
    </Page>
  );
}

function Overview({ node: { status } }: { node: Node }) {
  const t = useText();
  return (
    <>
      {status.problems.map((problem) => (
        <Alert key={problem} color="yellow" icon={<TriangleAlert size={18} />} title={problem} />
      ))}
      <Section title={t('object.facts')}>
        <Facts
          rows={[
            [t('node.cpu'), `${status.cpu.model} · ${status.cpu.count}`],
            [
              t('vm.memory'),
              t('node.memory', {
                free: formatMib(status.memory.availableMib),
                total: formatMib(status.memory.totalMib),
              }),
            ],
            [
              t('node.storage'),
              t('node.memory', { free: formatMib(status.storage.freeMib), total: formatMib(status.storage.totalMib) }),
            ],
            [t('nav.vms'), t('node.guests', { running: status.guests.running, defined: status.guests.defined })],
            [t('node.driver'), `${status.driver.name} ${status.driver.version ?? ''}`],
            ['Lodge', status.lodgeVersion],
            [t('node.started'), <Ago key="at" at={status.startedAt} />],
          ]}
        />
      </Section>
      <Section title={t('node.accelerators')}>
        <Text fz="sm" mb="sm">
          {status.accelerator?.reason}
        </Text>
        <Table.ScrollContainer minWidth={520}>
          <Table>
            <Table.Tbody>
              {status.accelerators.map((rung) => (
                <Table.Tr key={rung.rung}>
                  <Table.Td fw={550}>{rung.rung}</Table.Td>
                  <Table.Td>
                    <State state={rung.isUsable ? 'pass' : 'note'} />
                  </Table.Td>
                  <Table.Td>{rung.reason}</Table.Td>
                  <Table.Td className="mono">
                    {Object.entries(rung.costs)
                      .map(([name, nanoseconds]) => `${name} ${formatNumber(nanoseconds)} ns`)
                      .join(', ')}
                  </Table.Td>
                </Table.Tr>
              ))}
            </Table.Tbody>
          </Table>
        </Table.ScrollContainer>
      </Section>
    </>
  );
}

function Checks({ name }: { name: string }) {
  const t = useText();
  const { data, error } = useQuery({
    queryKey: ['node', 'checks', name],
    queryFn: () => client.node.check({ params: { node: name } }),
  });
  if (data === undefined) return <Loading error={error} />;
  return (
    <Section title={t('node.checks')}>
      <Stack gap="md">
        {data.checks.map((check) => (
          <Group key={check.name} gap="sm" align="flex-start" wrap="nowrap">
            <State state={check.result} />
            <div>
              <Text fw={550} fz="sm">
                {check.title}
              </Text>
              <Text fz="sm" className="break">
                {check.reason}
              </Text>
              {check.remedy !== null && <Code className="break">{check.remedy}</Code>}
            </div>
          </Group>
        ))}
      </Stack>
    </Section>
  );
}

function Hardware({ name }: { name: string }) {
  const t = useText();
  const { data, error } = useQuery({
    queryKey: ['node', 'hardware', name],
    queryFn: () => client.node.hardware({ params: { node: name } }),
  });
  if (data === undefined) return <Loading error={error} />;
  return (
    <>
      <Alert color={data.assistance.isUsable ? 'green' : 'yellow'} title={data.assistance.reason}>
        {data.assistance.remedy}
      </Alert>
      {data.groups.map((group) => (
        <Section key={group.name} title={group.title}>
          <Text fz="sm" c="dimmed" mb="sm">
            {group.explanation}
          </Text>
          <Table.ScrollContainer minWidth={560}>
            <Table>
              <Table.Tbody>
                {group.facts.map((fact) => (
                  <Table.Tr key={fact.name}>
                    <Table.Td fw={550}>{fact.title}</Table.Td>
                    <Table.Td>
                      {fact.value ??
                        (fact.isPresent === null ? '?' : fact.isPresent ? t('common.yes') : t('common.no'))}
                    </Table.Td>
                    <Table.Td>
                      <Text fz="sm">{fact.explanation}</Text>
                      <Text fz="xs" c="dimmed">
                        {fact.source}
                      </Text>
                    </Table.Td>
                  </Table.Tr>
                ))}
              </Table.Tbody>
            </Table>
          </Table.ScrollContainer>
        </Section>
      ))}
    </>
  );
}
