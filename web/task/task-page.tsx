// One task: how far it is, its steps, and where it works on several objects, how each gets on.
import { Group, Stack, Table, Text } from '@mantine/core';
import { useQuery } from '@tanstack/react-query';
import { LodgeError } from '../../src/api/errors.ts';
import { finalTaskStates } from '../../src/api/task.ts';
import { client } from '../data/client.ts';
import { formatDuration } from '../i18n/format.ts';
import { useText } from '../i18n/language.ts';
import { CopyIcon } from '../ui/copy.tsx';
import { Failure } from '../ui/failure.tsx';
import { TextLink, useParam } from '../ui/link.tsx';
import { Facts, Page, Section } from '../ui/page.tsx';
import { State } from '../ui/state.tsx';
import { Ago } from '../ui/time.tsx';
import { TaskProgress } from './task-drawer.tsx';
import { subjectHref, taskTitle } from './task-words.ts';
import { Loading } from '../ui/loading.tsx';

export function TaskPage() {
  const t = useText();
  const id = useParam('task');
  const { data: task, error } = useQuery({
    queryKey: ['task', 'one', id],
    queryFn: () => client.task.get({ params: { task: id } }),
  });
  if (task === undefined) {
    return (
      <Page title={t('nav.tasks')}>
        <Loading error={error} />
      </Page>
    );
  }
  const href = subjectHref(task.target);
  return (
    <Page title={taskTitle(task)} badge={<State state={task.state} />}>
      {task.error !== null && <Failure failure={LodgeError.fromBody({ error: task.error })} />}
      {!finalTaskStates.has(task.state) && (
        <Section>
          <TaskProgress task={task} />
        </Section>
      )}
      <Section title={t('task.facts')}>
        <Facts
          rows={[
            [t('task.target'), href === null ? task.target.name : <TextLink href={href}>{task.target.name}</TextLink>],
            [t('task.by'), task.requestedBy],
            [t('task.begun'), <Ago key="at" at={task.startedAt} />],
            [t('task.ended'), task.endedAt === null ? null : <Ago key="end" at={task.endedAt} />],
            [
              t('task.id'),
              <Group key="id" gap={4}>
                <span className="mono">{task.id}</span>
                <CopyIcon text={task.id} />
              </Group>,
            ],
          ]}
        />
      </Section>
      <Section title={t('task.steps')}>
        <Table.ScrollContainer minWidth={300}>
          <Table>
            <Table.Tbody>
              {task.steps.map((step) => (
                <Table.Tr key={step.name}>
                  <Table.Td>{step.name}</Table.Td>
                  <Table.Td>
                    <State state={step.state} />
                  </Table.Td>
                  <Table.Td>
                    {step.startedAt !== null && step.endedAt !== null
                      ? formatDuration(Date.parse(step.endedAt) - Date.parse(step.startedAt))
                      : ''}
                  </Table.Td>
                </Table.Tr>
              ))}
            </Table.Tbody>
          </Table>
        </Table.ScrollContainer>
      </Section>
      {task.items.length > 0 && (
        <Section title={t('task.items')}>
          <Stack gap={6}>
            {task.items.map((item) => (
              <Group key={item.id} gap="sm" fz="sm" wrap="nowrap">
                <State state={item.state} />
                <span>{item.name}</span>
                <Text span fz="xs" c="dimmed" className="break">
                  {item.error?.message ?? item.message}
                </Text>
              </Group>
            ))}
          </Stack>
        </Section>
      )}
    </Page>
  );
}
