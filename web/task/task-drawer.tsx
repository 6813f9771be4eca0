// The drawer of tasks: what is under way with how far it is, and what has ended lately; each can be cancelled and opened.
import { Box, Button, Drawer, Group, Progress, Stack, Text } from '@mantine/core';
import { finalTaskStates, type Task } from '../../src/api/task.ts';
import { client, useMay } from '../data/client.ts';
import { useAction } from '../data/outcome.ts';
import { formatBytes } from '../i18n/format.ts';
import { useText } from '../i18n/language.ts';
import { TextLink } from '../ui/link.tsx';
import { State } from '../ui/state.tsx';
import { Ago } from '../ui/time.tsx';
import { useActiveTasks } from './task-queries.ts';
import { taskTitle } from './task-words.ts';

/** How many ended ones are shown. */
const mostEnded = 20;

export function TaskDrawer({ onClose }: { onClose: () => void }) {
  const t = useText();
  const { recent, active } = useActiveTasks();
  const ended = recent.filter((task) => finalTaskStates.has(task.state)).slice(0, mostEnded);
  return (
    <Drawer
      opened
      onClose={onClose}
      position="right"
      title={t('tasks.drawer')}
      closeButtonProps={{ 'aria-label': t('common.close') }}
    >
      <Stack gap="lg">
        {active.length === 0 && (
          <Text c="dimmed" fz="sm">
            {t('tasks.none-active')}
          </Text>
        )}
        {active.map((task) => (
          <TaskRow key={task.id} task={task} />
        ))}
        {ended.length > 0 && (
          <Text fw={600} fz="sm" mt="xs">
            {t('tasks.ended')}
          </Text>
        )}
        {ended.map((task) => (
          <TaskRow key={task.id} task={task} />
        ))}
        <TextLink href="/tasks" fz="sm" onFollow={onClose}>
          {t('tasks.all')}
        </TextLink>
      </Stack>
    </Drawer>
  );
}

/** One task with its progress. */
export function TaskRow({ task }: { task: Task }) {
  const t = useText();
  const isActive = !finalTaskStates.has(task.state);
  return (
    <Box>
      <Group justify="space-between" wrap="nowrap" gap="xs" align="flex-start">
        <TextLink href={`/tasks/${task.id}`} fz="sm" fw={550} className="break">
          {taskTitle(task)}
        </TextLink>
        <State state={task.state} />
      </Group>
      {isActive ? (
        <TaskProgress task={task} />
      ) : (
        <Text fz="xs" c="dimmed" className="break">
          {task.error === null ? null : `${task.error.message} · `}
          <Ago at={task.endedAt} />
          {` · ${t('tasks.by', { who: task.requestedBy })}`}
        </Text>
      )}
    </Box>
  );
}

/** How far a task is, with a button that cancels it. */
export function TaskProgress({ task }: { task: Task }) {
  const t = useText();
  const mayCancel = useMay('task.cancel');
  const cancel = useAction(() => client.task.cancel({ params: { task: task.id } }));
  const { percent, message, bytesDone, bytesTotal } = task.progress;
  const bytes =
    bytesDone === undefined || bytesTotal === undefined
      ? ''
      : ` · ${formatBytes(bytesDone)} / ${formatBytes(bytesTotal)}`;
  const step = task.steps.find(({ state }) => state === 'running')?.name ?? '';
  return (
    <Box mt={6}>
      <Progress value={percent} size="sm" animated aria-label={taskTitle(task)} />
      <Group justify="space-between" wrap="nowrap" mt={4} gap="xs">
        <Text fz="xs" c="dimmed" className="break">
          {`${Math.floor(percent)} % · ${message ?? step}${bytes}`}
        </Text>
        {mayCancel && (
          <Button
            size="compact-xs"
            variant="default"
            loading={cancel.isPending}
            disabled={task.state === 'cancelling' || task.state === 'undoing'}
            onClick={() => cancel.mutate(undefined)}
          >
            {t('tasks.cancel')}
          </Button>
        )}
      </Group>
    </Box>
  );
}
