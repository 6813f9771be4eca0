// Where a VM comes from, and what was made of it: forks, clones, VMs of a template.
import { Badge, Group, Stack, Text } from '@mantine/core';
import { useInfiniteQuery } from '@tanstack/react-query';
import { GitFork } from 'lucide-react';
import { type Vm } from '../../src/api/vm.ts';
import { client } from '../data/client.ts';
import { sayOr, useText } from '../i18n/language.ts';
import { Empty } from '../ui/empty.tsx';
import { Failure } from '../ui/failure.tsx';
import { refOf } from '../ui/list-page.tsx';
import { TextLink } from '../ui/link.tsx';
import { Section } from '../ui/page.tsx';
import { State } from '../ui/state.tsx';
import { Ago } from '../ui/time.tsx';

/** Most copies that are listed. */
const mostCopies = 200;

export function LineageTab({ vm }: { vm: Vm }) {
  const t = useText();
  const { lineage } = vm.status;
  const { data, error } = useInfiniteQuery({
    queryKey: ['vm', 'list', 'lineage', vm.id],
    queryFn: () => client.vm.list({ query: { filter: `status.lineage.parentId=${vm.id}`, limit: mostCopies } }),
    initialPageParam: '',
    getNextPageParam: () => null,
  });
  const copies = data?.pages.flatMap((page) => page.items) ?? [];
  if (data !== undefined && lineage === null && copies.length === 0) {
    return (
      <Empty icon={<GitFork size={44} strokeWidth={1.4} />} title={t('lineage.none')} text={t('lineage.none-text')} />
    );
  }
  return (
    <Section title={t('vm.tab.lineage')}>
      {error !== null && <Failure failure={error} />}
      <Stack gap="xs">
        {lineage !== null && (
          <Group gap="sm">
            <Kind kind={lineage.kind} />
            <TextLink
              href={lineage.kind === 'template' ? `/templates/${lineage.parentName}` : `/vms/${lineage.parentId}`}
            >
              {lineage.parentName}
            </TextLink>
            <Text fz="xs" c="dimmed">
              <Ago at={lineage.at} />
              {lineage.hasOwnIdentity ? ` · ${t('lineage.own-identity')}` : ''}
            </Text>
          </Group>
        )}
        <Group gap="sm" pl={lineage === null ? 0 : 24}>
          <Text fw={650}>{vm.name}</Text>
          <State state={vm.status.state} />
        </Group>
        {copies.map((copy) => (
          <Group key={copy.id} gap="sm" pl={lineage === null ? 24 : 48}>
            <Kind kind={copy.status.lineage?.kind ?? 'fork'} />
            <TextLink href={`/vms/${refOf(copy)}`}>{copy.name}</TextLink>
            <State state={copy.status.state} />
            <Text fz="xs" c="dimmed">
              <Ago at={copy.status.lineage?.at} />
            </Text>
          </Group>
        ))}
      </Stack>
    </Section>
  );
}

function Kind({ kind }: { kind: string }) {
  return (
    <Badge className="state" data-tone="indigo">
      {sayOr(`lineage.kind.${kind}`, kind)}
    </Badge>
  );
}
