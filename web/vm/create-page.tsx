// Creating VMs on one page: a name and an image are enough, everything else has a default that can be seen. Beside it stands
// what will be made, what it costs the node, and the same as a command and as YAML.
import { Alert, Button, Grid, Group, SegmentedControl, Stack, Text } from '@mantine/core';
import { useQuery } from '@tanstack/react-query';
import { TriangleAlert } from 'lucide-react';
import { useEffect, useState } from 'react';
import { loadPart } from '../data/part.ts';
import { objectName } from '../../src/api/object.ts';
import { vmSpec } from '../../src/api/vm-spec.ts';
import { client, useMay } from '../data/client.ts';
import { noteStarted, useAction } from '../data/outcome.ts';
import { formatMib, formatNumber } from '../i18n/format.ts';
import { useText } from '../i18n/language.ts';
import { ActionButton } from '../ui/action-button.tsx';
import { CodeBlock } from '../ui/copy.tsx';
import { Failure } from '../ui/failure.tsx';
import { useGo } from '../ui/link.tsx';
import { Facts, Page, Section } from '../ui/page.tsx';
import {
  draftCommands,
  draftDocuments,
  draftLabels,
  draftNames,
  draftSpec,
  emptyDraft,
  type CreateDraft,
} from './create-draft.ts';
import { CreateFields } from './create-fields.tsx';

/** What was filled in is kept while the browser is open: a session that ends, or a wrong click, loses nothing. */
const keptKey = 'lodge-create';

function kept(): CreateDraft {
  try {
    return { ...emptyDraft, ...(JSON.parse(sessionStorage.getItem(keptKey) ?? '{}') as Partial<CreateDraft>) };
  } catch {
    return emptyDraft;
  }
}

/** Problems of what is filled in, in words; by the contract's own schema. */
function problemsOf(draft: CreateDraft, t: ReturnType<typeof useText>): string[] {
  if (draft.name === '') return [t('create.needs-name')];
  const name = objectName.safeParse(draftNames(draft).at(-1));
  const spec = vmSpec.safeParse(draftSpec(draft));
  return [
    ...(name.success ? [] : name.error.issues.map(({ message }) => `${t('column.name')}: ${message}`)),
    ...(spec.success ? [] : spec.error.issues.map((issue) => `${issue.path.join('.')}: ${issue.message}`)),
  ];
}

export function CreatePage() {
  const t = useText();
  const go = useGo();
  const mayCreate = useMay('vm.create');
  const [draft, setDraft] = useState(kept);
  useEffect(() => sessionStorage.setItem(keptKey, JSON.stringify(draft)), [draft]);
  const change = (next: Partial<CreateDraft>): void => setDraft((before) => ({ ...before, ...next }));
  const problems = problemsOf(draft, t);
  const create = useAction(
    async () => {
      const names = draftNames(draft);
      for (const name of names) {
        const body = { name, labels: draftLabels(draft), spec: draftSpec(draft) };
        noteStarted(await client.vm.create({ query: { start: draft.isStarted }, body }));
      }
      return names;
    },
    {
      isShownElsewhere: true,
      onDone: (names) => {
        sessionStorage.removeItem(keptKey);
        go(names.length === 1 ? `/vms/${names[0]}` : `/vms?q=${encodeURIComponent(draft.name)}`);
      },
    },
  );
  const reason = !mayCreate ? t('snapshot.no-permission') : (problems[0] ?? null);
  return (
    <Page title={t('create.title')} subtitle={t('create.subtitle')}>
      <form
        onSubmit={(event) => {
          event.preventDefault();
          if (reason === null && !create.isPending) create.mutate(undefined);
        }}
      >
        <Grid gap="md">
          <Grid.Col span={{ base: 12, md: 7 }}>
            <CreateFields draft={draft} onChange={change} />
          </Grid.Col>
          <Grid.Col span={{ base: 12, md: 5 }}>
            <Stack gap="md" pos="sticky" top={76}>
              {create.error !== null && <Failure failure={create.error} />}
              <Section title={t('create.summary')}>
                <Summary draft={draft} />
                <Group mt="lg" gap="xs">
                  <ActionButton
                    variant="filled"
                    reason={reason}
                    loading={create.isPending}
                    onClick={() => create.mutate(undefined)}
                  >
                    {draft.count === 1 ? t('create.action') : t('create.actions', { count: draft.count })}
                  </ActionButton>
                  <Button variant="subtle" color="gray" onClick={() => setDraft(emptyDraft)}>
                    {t('create.reset')}
                  </Button>
                </Group>
                {problems.length > 0 && draft.name !== '' && (
                  <Text fz="sm" mt="sm" c="var(--lodge-accent-text)" role="status">
                    {problems.join(' ')}
                  </Text>
                )}
              </Section>
              <Equivalent draft={draft} />
            </Stack>
          </Grid.Col>
        </Grid>
      </form>
    </Page>
  );
}

/** What it takes of the node. */
function Summary({ draft }: { draft: CreateDraft }) {
  const t = useText();
  const { data: node } = useQuery({
    queryKey: ['node', 'one', 'self'],
    queryFn: () => client.node.get({ params: { node: 'self' } }),
  });
  const { data: types } = useQuery({
    queryKey: ['instance-type', 'choice'],
    queryFn: async () => (await client.instanceType.list({ query: { limit: 500 } })).items,
  });
  const type = types?.find(({ name }) => name === draft.instanceType);
  const vcpus = (type?.spec.cpu.count ?? draft.vcpus) * draft.count;
  const memory = (type?.spec.memoryMib ?? draft.memoryMib) * draft.count;
  const available = node?.status.memory.availableMib;
  return (
    <Stack gap="sm">
      <Facts
        rows={[
          [t('column.name'), draftNames(draft).slice(0, 4).join(', ') + (draft.count > 4 ? ' …' : '')],
          [t('vm.image'), draft.image ?? t('create.no-image')],
          [t('vm.vcpus'), `${formatNumber(vcpus)}${node === undefined ? '' : ` / ${node.status.cpu.count}`}`],
          [
            t('vm.memory'),
            `${formatMib(memory)}${available === undefined ? '' : ` (${t('create.available', { size: formatMib(available) })})`}`,
          ],
          [
            t('create.disk'),
            draft.diskMib === null ? t('create.disk-default') : formatMib(draft.diskMib * draft.count),
          ],
          [t('nics.network'), draft.network ?? t('create.no-network')],
        ]}
      />
      {available !== undefined && draft.isStarted && memory > available && (
        <Alert color="yellow" icon={<TriangleAlert size={16} />} title={t('create.too-much')} />
      )}
    </Stack>
  );
}

/** The same by other means. */
function Equivalent({ draft }: { draft: CreateDraft }) {
  const t = useText();
  const [form, setForm] = useState<'command' | 'yaml'>('command');
  const { data: yaml } = useQuery({
    queryKey: ['yaml'],
    queryFn: () => loadPart(() => import('yaml')),
    staleTime: Infinity,
  });
  const text =
    form === 'command'
      ? draftCommands(draft).join('\n')
      : draftDocuments(draft)
          .map((document) => yaml?.stringify(document, { lineWidth: 0 }) ?? '')
          .join('---\n');
  return (
    <Section
      title={t('create.same')}
      actions={
        <SegmentedControl
          size="xs"
          aria-label={t('create.same')}
          value={form}
          onChange={(value) => setForm(value === 'yaml' ? 'yaml' : 'command')}
          data={[
            { value: 'command', label: t('create.command') },
            { value: 'yaml', label: 'YAML' },
          ]}
        />
      }
    >
      <CodeBlock text={text} maxHeight={260} />
    </Section>
  );
}
