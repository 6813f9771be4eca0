// Deleting VMs: what goes with them is said before, and running ones are switched off only when that is ticked.
import { Button, Checkbox, Group, List, Modal, Stack, Text } from '@mantine/core';
import { useState } from 'react';
import { liveVmStates } from '../../src/api/vm-state.ts';
import { type Vm } from '../../src/api/vm.ts';
import { client } from '../data/client.ts';
import { useAction } from '../data/outcome.ts';
import { useText } from '../i18n/language.ts';

/** Most names that are listed. */
const mostNames = 12;

interface DeleteProps {
  vms: readonly Vm[];
  onClose: () => void;
  onDeleted?: () => void;
}

export function DeleteVmDialog({ vms, onClose, onDeleted }: DeleteProps) {
  const t = useText();
  const running = vms.filter((vm) => liveVmStates.has(vm.status.state));
  const [isForced, setForced] = useState(false);
  const remove = useAction(
    async (): Promise<unknown> => {
      const [only] = vms;
      if (vms.length === 1 && only !== undefined) {
        return client.vm.delete({ params: { vm: only.id }, query: { force: isForced } });
      }
      return client.vm.act({
        body: {
          project: only?.project ?? 'default',
          action: { type: 'delete', force: isForced },
          vms: { names: vms.map(({ id }) => id) },
        },
      });
    },
    {
      onDone: () => {
        onClose();
        onDeleted?.();
      },
    },
  );
  return (
    <Modal
      opened
      onClose={onClose}
      title={
        vms.length === 1
          ? t('vm.delete.title', { name: vms[0]?.name ?? '' })
          : t('vm.delete.titles', { count: vms.length })
      }
      closeButtonProps={{ 'aria-label': t('common.close') }}
    >
      <Stack>
        <Text fz="sm">{t('vm.delete.text')}</Text>
        {vms.length > 1 && (
          <List fz="sm">
            {vms.slice(0, mostNames).map((vm) => (
              <List.Item key={vm.id}>{vm.name}</List.Item>
            ))}
            {vms.length > mostNames && <List.Item>{t('common.more', { count: vms.length - mostNames })}</List.Item>}
          </List>
        )}
        {running.length > 0 && (
          <Checkbox
            checked={isForced}
            onChange={(event) => setForced(event.currentTarget.checked)}
            label={t('vm.delete.force', { count: running.length })}
          />
        )}
        <Group justify="flex-end">
          <Button variant="default" onClick={onClose} data-autofocus>
            {t('common.cancel')}
          </Button>
          <Button
            color="red"
            loading={remove.isPending}
            disabled={running.length > 0 && !isForced}
            onClick={() => remove.mutate(undefined)}
          >
            {t('vm.action.delete')}
          </Button>
        </Group>
      </Stack>
    </Modal>
  );
}
