// Each device of a VM: which it is, full or para virtual, what the other kind would be, and why it was chosen. Size of
// processor and memory can be changed here, also while it runs.
import { Alert, Badge, Button, Code, Group, NumberInput, Stack, Table, Text } from '@mantine/core';
import { Clock } from 'lucide-react';
import { useState } from 'react';
import { maxMemoryMib, maxVcpus, minMemoryMib } from '../../src/api/vm-spec.ts';
import { type Vm } from '../../src/api/vm.ts';
import { useSignIn } from '../data/client.ts';
import { useAction } from '../data/outcome.ts';
import { formatMib } from '../i18n/format.ts';
import { sayOr, useText } from '../i18n/language.ts';
import { ActionButton } from '../ui/action-button.tsx';
import { Section } from '../ui/page.tsx';
import { PendingList } from './overview-tab.tsx';
import { reasonAgainst } from './vm-power.ts';
import { changeSpec } from './vm-queries.ts';

const tones: Readonly<Record<string, string>> = { emulated: 'blue', paravirtual: 'green', passthrough: 'indigo' };

export function HardwareTab({ vm }: { vm: Vm }) {
  const t = useText();
  return (
    <Stack gap="md">
      {vm.status.pendingChanges.length > 0 && (
        <Alert color="blue" icon={<Clock size={18} />} title={t('vm.pending')}>
          <PendingList changes={vm.status.pendingChanges} />
        </Alert>
      )}
      <SizeForm vm={vm} />
      <Section title={t('hardware.devices')}>
        <Text fz="sm" c="dimmed" mb="sm">
          {t('hardware.kinds')}
        </Text>
        <Table.ScrollContainer minWidth={640}>
          <Table highlightOnHover>
            <Table.Thead>
              <Table.Tr>
                <Table.Th>{t('hardware.device')}</Table.Th>
                <Table.Th>{t('hardware.kind')}</Table.Th>
                <Table.Th>{t('hardware.model')}</Table.Th>
                <Table.Th>{t('hardware.other')}</Table.Th>
                <Table.Th>{t('hardware.why')}</Table.Th>
              </Table.Tr>
            </Table.Thead>
            <Table.Tbody>
              {vm.status.devices.map((device) => (
                <Table.Tr key={device.name}>
                  <Table.Td>{device.name}</Table.Td>
                  <Table.Td>
                    <Badge className="state" data-tone={tones[device.kind]}>
                      {sayOr(`hardware.kind.${device.kind}`, device.kind)}
                    </Badge>
                  </Table.Td>
                  <Table.Td className="mono break">{device.model}</Table.Td>
                  <Table.Td className="mono break">{device.otherKind ?? '–'}</Table.Td>
                  <Table.Td>
                    <Text fz="xs">{device.why}</Text>
                    <Code fz={11}>{device.field}</Code>
                  </Table.Td>
                </Table.Tr>
              ))}
            </Table.Tbody>
          </Table>
        </Table.ScrollContainer>
      </Section>
    </Stack>
  );
}

function SizeForm({ vm }: { vm: Vm }) {
  const t = useText();
  const { session } = useSignIn();
  const [count, setCount] = useState(vm.spec.cpu.count);
  const [memory, setMemory] = useState(vm.spec.memoryMib);
  const apply = useAction(() =>
    changeSpec(vm, (spec) => ({ ...spec, cpu: { ...spec.cpu, count }, memoryMib: memory })),
  );
  const isSame = count === vm.spec.cpu.count && memory === vm.spec.memoryMib;
  const live = vm.status.pinned?.hotplug;
  return (
    <Section title={t('hardware.size')}>
      <Group align="flex-end">
        <NumberInput
          label={t('vm.vcpus')}
          w={150}
          min={1}
          max={maxVcpus}
          value={count}
          onChange={(value) => setCount(Number(value) || 1)}
          description={live === undefined ? null : t('hardware.live-up-to', { value: live.maxVcpus })}
        />
        <NumberInput
          label={`${t('vm.memory')} (MiB)`}
          w={180}
          min={minMemoryMib}
          max={maxMemoryMib}
          step={256}
          value={memory}
          onChange={(value) => setMemory(Number(value) || minMemoryMib)}
          description={live === undefined ? null : t('hardware.live-up-to', { value: formatMib(live.maxMemoryMib) })}
        />
        <ActionButton
          variant="filled"
          reason={isSame ? t('hardware.nothing-changed') : reasonAgainst(vm, 'update', session?.role ?? null)}
          onClick={() => apply.mutate(undefined)}
        >
          {t('common.apply')}
        </ActionButton>
        {!isSame && (
          <Button
            variant="subtle"
            color="gray"
            onClick={() => {
              setCount(vm.spec.cpu.count);
              setMemory(vm.spec.memoryMib);
            }}
          >
            {t('common.undo')}
          </Button>
        )}
      </Group>
    </Section>
  );
}
