// All keyboard shortcuts, as a sheet to read.
import { Group, Kbd, Modal, SimpleGrid, Stack, Text } from '@mantine/core';
import { useText } from '../i18n/language.ts';
import { allNouns } from './nouns.ts';

export function ShortcutSheet({ onClose }: { onClose: () => void }) {
  const t = useText();
  const general: readonly (readonly [string[], string])[] = [
    [['Ctrl', 'K'], t('palette.open')],
    [['/'], t('shortcuts.search')],
    [['c'], t('shortcuts.create')],
    [['t'], t('tasks.drawer')],
    [['?'], t('shortcuts.title')],
    [['Esc'], t('shortcuts.close')],
  ];
  const pages = allNouns.map(({ key, label }) => [['g', key], t(label)] as const);
  const list = (rows: readonly (readonly [readonly string[], string])[]) => (
    <Stack gap="xs">
      {rows.map(([keys, what]) => (
        <Group key={what} justify="space-between" wrap="nowrap">
          <Text fz="sm">{what}</Text>
          <Group gap={4} wrap="nowrap">
            {keys.map((key) => (
              <Kbd key={key}>{key}</Kbd>
            ))}
          </Group>
        </Group>
      ))}
    </Stack>
  );
  return (
    <Modal
      opened
      onClose={onClose}
      title={t('shortcuts.title')}
      size="lg"
      closeButtonProps={{ 'aria-label': t('common.close') }}
    >
      <SimpleGrid cols={{ base: 1, sm: 2 }} spacing="xl">
        {list(general)}
        {list(pages)}
      </SimpleGrid>
    </Modal>
  );
}
