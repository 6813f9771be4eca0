// One thing done with many VMs: the bar that comes when rows are chosen, and how each VM gets on.
import { Box, Button, Group, Menu, Modal, Progress, Stack, Text, TextInput } from '@mantine/core';
import { useQuery } from '@tanstack/react-query';
import { ChevronDown, Trash2, X } from 'lucide-react';
import { useState } from 'react';
import { finalTaskStates, type Task } from '../../src/api/task.ts';
import { type VmActionsInput } from '../../src/api/vm-action.ts';
import { canVm } from '../../src/api/vm-state.ts';
import { type Vm } from '../../src/api/vm.ts';
import { client } from '../data/client.ts';
import { useAction } from '../data/outcome.ts';
import { useText, type TextKey } from '../i18n/language.ts';
import { ActionButton, ActionItem } from '../ui/action-button.tsx';
import { TextLink } from '../ui/link.tsx';
import { State } from '../ui/state.tsx';
import { DeleteVmDialog } from './delete-vm-dialog.tsx';
import { type PowerAction } from './vm-power.ts';

const first: readonly (readonly [PowerAction, TextKey])[] = [
  ['start', 'vm.action.start'],
  ['stop', 'vm.action.stop'],
];
const others: readonly (readonly [PowerAction, TextKey])[] = [
  ['restart', 'vm.action.restart'],
  ['pause', 'vm.action.pause'],
  ['resume', 'vm.action.resume'],
  ['suspend', 'vm.action.suspend'],
  ['reset', 'vm.action.reset'],
  ['forceOff', 'vm.action.forceOff'],
];

export function BulkBar({ vms, onClear }: { vms: readonly Vm[]; onClear: () => void }) {
  const t = useText();
  const [taskId, setTaskId] = useState<string | null>(null);
  const [isDeleting, setDeleting] = useState(false);
  const [snapshotName, setSnapshotName] = useState<string | null>(null);
  const act = useAction(
    (action: VmActionsInput['action']) =>
      client.vm.act({
        body: { project: vms[0]?.project ?? 'default', action, vms: { names: vms.map(({ id }) => id) } },
      }),
    { onDone: (task) => setTaskId(task.id) },
  );
  const isMixed = new Set(vms.map(({ project }) => project)).size > 1;
  const reason = (action: PowerAction): string | null => {
    if (isMixed) return t('bulk.mixed');
    return vms.some((vm) => canVm(action, vm.status.state)) ? null : t('bulk.none');
  };
  return (
    <>
      {vms.length > 0 && (
        <Group className="card" px="md" py={8} gap="xs" role="toolbar" aria-label={t('bulk.title')}>
          <Text fz="sm" fw={600} mr="xs">
            {t('bulk.chosen', { count: vms.length })}
          </Text>
          {first.map(([action, label]) => (
            <ActionButton key={action} size="xs" reason={reason(action)} onClick={() => act.mutate({ type: action })}>
              {t(label)}
            </ActionButton>
          ))}
          <Menu>
            <Menu.Target>
              <Button size="xs" variant="default" rightSection={<ChevronDown size={14} />}>
                {t('common.more-actions')}
              </Button>
            </Menu.Target>
            <Menu.Dropdown>
              {others.map(([action, label]) => (
                <ActionItem key={action} reason={reason(action)} onClick={() => act.mutate({ type: action })}>
                  {t(label)}
                </ActionItem>
              ))}
              <Menu.Divider />
              <ActionItem reason={isMixed ? t('bulk.mixed') : null} onClick={() => setSnapshotName('')}>
                {t('snapshot.take')}
              </ActionItem>
            </Menu.Dropdown>
          </Menu>
          <ActionButton
            size="xs"
            color="red"
            variant="light"
            leftSection={<Trash2 size={14} />}
            reason={isMixed ? t('bulk.mixed') : null}
            onClick={() => setDeleting(true)}
          >
            {t('vm.action.delete')}
          </ActionButton>
          <Button size="xs" variant="subtle" color="gray" leftSection={<X size={14} />} onClick={onClear} ml="auto">
            {t('common.clear')}
          </Button>
        </Group>
      )}
      {taskId !== null && <BulkResult taskId={taskId} onClose={() => setTaskId(null)} />}
      {isDeleting && <DeleteVmDialog vms={vms} onClose={() => setDeleting(false)} onDeleted={onClear} />}
      {snapshotName !== null && (
        <Modal
          opened
          onClose={() => setSnapshotName(null)}
          title={t('snapshot.take')}
          closeButtonProps={{ 'aria-label': t('common.close') }}
        >
          <form
            onSubmit={(event) => {
              event.preventDefault();
              act.mutate({ type: 'snapshot', name: snapshotName });
              setSnapshotName(null);
            }}
          >
            <Stack>
              <TextInput
                label={t('column.name')}
                value={snapshotName}
                onChange={(event) => setSnapshotName(event.currentTarget.value)}
                required
                data-autofocus
              />
              <Button type="submit">{t('snapshot.take')}</Button>
            </Stack>
          </form>
        </Modal>
      )}
    </>
  );
}

/** How each VM gets on. */
function BulkResult({ taskId, onClose }: { taskId: string; onClose: () => void }) {
  const t = useText();
  const { data: task } = useQuery<Task>({
    queryKey: ['task', 'one', taskId],
    queryFn: () => client.task.get({ params: { task: taskId } }),
    // Events tell it at once; whoever has missed one is not left waiting.
    refetchInterval: ({ state }) => (state.data && finalTaskStates.has(state.data.state) ? false : 2000),
  });
  if (task === undefined) return null;
  const isOver = finalTaskStates.has(task.state);
  const count = (state: string): number => task.items.filter((item) => item.state === state).length;
  return (
    <Box className="card" p="md" role="status">
      <Group justify="space-between" mb="xs">
        <Group gap="xs">
          <State state={task.state} />
          <Text fz="sm">
            {t('bulk.result', { done: count('done'), failed: count('failed'), skipped: count('skipped') })}
          </Text>
        </Group>
        <Button size="compact-xs" variant="subtle" color="gray" onClick={onClose}>
          {t('common.close')}
        </Button>
      </Group>
      {!isOver && <Progress value={task.progress.percent} size="sm" animated aria-label={t('bulk.title')} mb="xs" />}
      <Stack gap={4} mah={220} style={{ overflowY: 'auto' }} tabIndex={0}>
        {task.items.map((item) => (
          <Group key={item.id} gap="sm" fz="sm" wrap="nowrap">
            <State state={item.state} />
            <TextLink href={`/vms/${item.id}`}>{item.name}</TextLink>
            <Text span fz="xs" c="dimmed" className="break">
              {item.error?.message ?? item.message}
            </Text>
          </Group>
        ))}
      </Stack>
    </Box>
  );
}
