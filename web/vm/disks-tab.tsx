// The disks of a VM: what they are made of, how large they are; new ones, larger ones, others, also while it runs.
import { NumberInput, Select, Table, Text, TextInput } from '@mantine/core';
import { useQuery } from '@tanstack/react-query';
import { HardDrive, Plus } from 'lucide-react';
import { useState } from 'react';
import { type VmDisk } from '../../src/api/vm-spec.ts';
import { type Vm } from '../../src/api/vm.ts';
import { client, useSignIn } from '../data/client.ts';
import { useAction } from '../data/outcome.ts';
import { formatMib } from '../i18n/format.ts';
import { useText } from '../i18n/language.ts';
import { ActionButton } from '../ui/action-button.tsx';
import { Empty } from '../ui/empty.tsx';
import { TextLink } from '../ui/link.tsx';
import { Section } from '../ui/page.tsx';
import { reasonAgainst } from './vm-power.ts';
import { changeSpec } from './vm-queries.ts';
import { FormDialog } from '../ui/form-dialog.tsx';

export function DisksTab({ vm }: { vm: Vm }) {
  const t = useText();
  const { session } = useSignIn();
  const [isAdding, setAdding] = useState(false);
  const reason = reasonAgainst(vm, 'update', session?.role ?? null);
  const remove = useAction((name: string) =>
    changeSpec(vm, (spec) => ({ ...spec, disks: spec.disks.filter((disk) => disk.name !== name) })),
  );
  const add = (
    <ActionButton variant="filled" leftSection={<Plus size={15} />} reason={reason} onClick={() => setAdding(true)}>
      {t('disks.add')}
    </ActionButton>
  );
  return (
    <>
      {vm.status.disks.length === 0 && vm.spec.disks.length === 0 ? (
        <Empty
          icon={<HardDrive size={44} strokeWidth={1.4} />}
          title={t('disks.none')}
          text={t('disks.none-text')}
          action={add}
        />
      ) : (
        <Section title={t('vm.tab.disks')} actions={add}>
          <Table.ScrollContainer minWidth={620}>
            <Table>
              <Table.Thead>
                <Table.Tr>
                  <Table.Th>{t('column.name')}</Table.Th>
                  <Table.Th>{t('column.size')}</Table.Th>
                  <Table.Th>{t('disks.volume')}</Table.Th>
                  <Table.Th>{t('vm.image')}</Table.Th>
                  <Table.Th>{t('disks.bus')}</Table.Th>
                  <Table.Th>{t('disks.cache')}</Table.Th>
                  <Table.Th />
                </Table.Tr>
              </Table.Thead>
              <Table.Tbody>
                {vm.status.disks.map((disk) => {
                  const asked = vm.spec.disks.find((one) => one.name === disk.name);
                  const device = vm.status.devices.find((one) => one.name === `disk ${disk.name}`);
                  return (
                    <Table.Tr key={disk.name}>
                      <Table.Td fw={550}>{disk.name}</Table.Td>
                      <Table.Td>{disk.sizeMib === null ? '–' : formatMib(disk.sizeMib)}</Table.Td>
                      <Table.Td>
                        {disk.volume === null ? (
                          '–'
                        ) : (
                          <TextLink href={`/volumes/${disk.volume}`}>{disk.volume}</TextLink>
                        )}
                      </Table.Td>
                      <Table.Td>{disk.image ?? '–'}</Table.Td>
                      <Table.Td className="mono">{device?.model ?? '–'}</Table.Td>
                      <Table.Td>{asked?.cache ?? '–'}</Table.Td>
                      <Table.Td ta="right">
                        <ActionButton
                          size="compact-xs"
                          reason={asked === undefined ? t('disks.of-image') : reason}
                          onClick={() => remove.mutate(disk.name)}
                        >
                          {t('disks.remove')}
                        </ActionButton>
                      </Table.Td>
                    </Table.Tr>
                  );
                })}
              </Table.Tbody>
            </Table>
          </Table.ScrollContainer>
        </Section>
      )}
      {isAdding && <AddDisk vm={vm} onClose={() => setAdding(false)} />}
    </>
  );
}

function AddDisk({ vm, onClose }: { vm: Vm; onClose: () => void }) {
  const t = useText();
  const taken = new Set(vm.spec.disks.map((disk) => disk.name));
  const [name, setName] = useState(taken.has('data') ? `data${taken.size}` : 'data');
  const [size, setSize] = useState(10_240);
  const [volume, setVolume] = useState<string | null>(null);
  const volumes = useQuery({
    queryKey: ['volume', 'choice'],
    queryFn: async () => (await client.volume.list({ query: { limit: 500 } })).items,
  });
  const free = (volumes.data ?? []).filter((one) => one.status.usedBy === null && one.project === vm.project);
  const add = useAction(
    () => {
      const disk: Partial<VmDisk> & { name: string } = volume === null ? { name, sizeMib: size } : { name, volume };
      return changeSpec(vm, (spec) => ({ ...spec, disks: [...spec.disks, disk as VmDisk] }));
    },
    { onDone: onClose, isShownElsewhere: true },
  );
  return (
    <FormDialog title={t('disks.add')} submit={t('disks.add')} action={add} onClose={onClose}>
      <TextInput
        label={t('column.name')}
        value={name}
        onChange={(event) => setName(event.currentTarget.value)}
        required
        data-autofocus
      />
      <Select
        label={t('disks.volume')}
        placeholder={t('disks.new-volume')}
        data={free.map((one) => one.name)}
        value={volume}
        onChange={setVolume}
        clearable
        clearButtonProps={{ 'aria-label': t('common.clear') }}
      />
      {volume === null && (
        <NumberInput
          label={`${t('column.size')} (MiB)`}
          min={1}
          step={1024}
          value={size}
          onChange={(value) => setSize(Number(value) || 1)}
          description={formatMib(size)}
        />
      )}
      <Text fz="xs" c="dimmed">
        {t('disks.live')}
      </Text>
    </FormDialog>
  );
}
