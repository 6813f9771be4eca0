// What was done with a VM, and what happened to it.
import { Group, SimpleGrid, Stack, Text } from '@mantine/core';
import { useInfiniteQuery } from '@tanstack/react-query';
import { type Vm } from '../../src/api/vm.ts';
import { client } from '../data/client.ts';
import { useText } from '../i18n/language.ts';
import { TaskRow } from '../task/task-drawer.tsx';
import { Failure } from '../ui/failure.tsx';
import { Section } from '../ui/page.tsx';
import { State } from '../ui/state.tsx';
import { Ago } from '../ui/time.tsx';

const mostShown = 50;

export function ActivityTab({ vm }: { vm: Vm }) {
  const t = useText();
  const tasks = useInfiniteQuery({
    queryKey: ['task', 'list', 'of', vm.id],
    queryFn: () => client.task.list({ query: { filter: `target.id=${vm.id}`, sort: '-createdAt', limit: mostShown } }),
    initialPageParam: '',
    getNextPageParam: () => null,
  });
  const events = useInfiniteQuery({
    queryKey: ['event', 'list', 'of', vm.id],
    queryFn: () => client.event.list({ query: { filter: `subject.id=${vm.id}`, sort: '-at', limit: mostShown } }),
    initialPageParam: '',
    getNextPageParam: () => null,
  });
  return (
    <SimpleGrid cols={{ base: 1, lg: 2 }}>
      <Section title={t('nav.events')}>
        {events.error !== null && <Failure failure={events.error} />}
        <Stack gap="sm">
          {events.data?.pages[0]?.items.map((event) => (
            <Group key={event.id} gap="sm" wrap="nowrap" align="flex-start">
              <State state={event.severity} />
              <div>
                <Text fz="sm" className="break">
                  {event.message}
                </Text>
                <Text fz="xs" c="dimmed">
                  <Ago at={event.at} /> · <span className="mono">{event.type}</span>
                </Text>
              </div>
            </Group>
          ))}
        </Stack>
      </Section>
      <Section title={t('nav.tasks')}>
        {tasks.error !== null && <Failure failure={tasks.error} />}
        <Stack gap="md">
          {tasks.data?.pages[0]?.items.map((task) => (
            <TaskRow key={task.id} task={task} />
          ))}
        </Stack>
      </Section>
    </SimpleGrid>
  );
}
