// Copies of a VM: clones, which begin with its disks, and forks, which go on from its memory.
import { Checkbox, NumberInput, SegmentedControl, Text, TextInput } from '@mantine/core';
import { useState } from 'react';
import { maxClones } from '../../src/api/vm-clone.ts';
import { type Vm } from '../../src/api/vm.ts';
import { client } from '../data/client.ts';
import { useAction } from '../data/outcome.ts';
import { useText } from '../i18n/language.ts';
import { FormDialog } from '../ui/form-dialog.tsx';

export function CopyVmDialog({ vm, kind, onClose }: { vm: Vm; kind: 'clone' | 'fork'; onClose: () => void }) {
  const t = useText();
  const [name, setName] = useState('');
  const [count, setCount] = useState(1);
  const [mode, setMode] = useState<'linked' | 'full'>('linked');
  const [flag, setFlag] = useState(false);
  const copy = useAction(
    () => {
      const params = { vm: vm.id };
      const given = name === '' ? { count } : { count, name };
      return kind === 'clone'
        ? client.vm.clone({ params, body: { ...given, mode, isStarted: flag } })
        : client.vm.fork({ params, body: { ...given, isIsolated: flag } });
    },
    { onDone: onClose, isShownElsewhere: true },
  );
  return (
    <FormDialog
      title={t(kind === 'clone' ? 'vm.copy.clone-title' : 'vm.copy.fork-title', { name: vm.name })}
      submit={t(kind === 'clone' ? 'vm.action.clone' : 'vm.action.fork')}
      action={copy}
      onClose={onClose}
      intro={
        <Text fz="sm" c="dimmed">
          {t(kind === 'clone' ? 'vm.copy.clone-text' : 'vm.copy.fork-text')}
        </Text>
      }
    >
      <TextInput
        label={t('column.name')}
        description={t('vm.copy.name-hint')}
        placeholder={`${vm.name}-1`}
        value={name}
        onChange={(event) => setName(event.currentTarget.value)}
        data-autofocus
      />
      <NumberInput
        label={t('vm.copy.count')}
        min={1}
        max={maxClones}
        value={count}
        onChange={(value) => setCount(Number(value) || 1)}
      />
      {kind === 'clone' && (
        <SegmentedControl
          value={mode}
          onChange={(value) => setMode(value === 'full' ? 'full' : 'linked')}
          data={[
            { value: 'linked', label: t('vm.copy.linked') },
            { value: 'full', label: t('vm.copy.full') },
          ]}
        />
      )}
      <Checkbox
        checked={flag}
        onChange={(event) => setFlag(event.currentTarget.checked)}
        label={t(kind === 'clone' ? 'vm.copy.start' : 'vm.copy.isolated')}
      />
    </FormDialog>
  );
}
