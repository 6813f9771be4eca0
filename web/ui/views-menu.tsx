// The views of a list that were given a name: chosen, kept, and forgotten again.
import { ActionIcon, Button, Group, Popover, Stack, Text, TextInput } from '@mantine/core';
import { Bookmark, X } from 'lucide-react';
import { useState } from 'react';
import { useText } from '../i18n/language.ts';
import { type ListSearch } from './list-search.ts';
import { dropView, keepView, readViews } from './saved-views.ts';

interface ViewsMenuProps {
  kind: string;
  /** What is shown now. */
  search: ListSearch;
  onChoose: (search: ListSearch) => void;
}

export function ViewsMenu({ kind, search, onChoose }: ViewsMenuProps) {
  const t = useText();
  const [isOpen, setIsOpen] = useState(false);
  const [views, setViews] = useState(() => readViews(kind));
  const [name, setName] = useState('');
  return (
    <Popover opened={isOpen} onChange={setIsOpen} trapFocus returnFocus position="bottom-start" width={280}>
      <Popover.Target>
        <Button
          variant="default"
          size="sm"
          leftSection={<Bookmark size={15} aria-hidden />}
          onClick={() => setIsOpen(!isOpen)}
        >
          {t('views.title')}
        </Button>
      </Popover.Target>
      <Popover.Dropdown aria-label={t('views.title')}>
        <Stack gap="xs">
          {views.length === 0 && (
            <Text size="sm" c="dimmed">
              {t('views.none')}
            </Text>
          )}
          {views.map((view) => (
            <Group key={view.name} gap={4} wrap="nowrap">
              <Button
                variant="subtle"
                size="compact-sm"
                justify="start"
                flex={1}
                miw={0}
                onClick={() => {
                  onChoose(view.search);
                  setIsOpen(false);
                }}
              >
                {view.name}
              </Button>
              <ActionIcon
                variant="subtle"
                aria-label={t('views.forget', { name: view.name })}
                onClick={() => setViews(dropView(kind, view.name))}
              >
                <X size={15} />
              </ActionIcon>
            </Group>
          ))}
          <form
            onSubmit={(event) => {
              event.preventDefault();
              setViews(keepView(kind, { name: name.trim(), search }));
              setName('');
            }}
          >
            <Group gap="xs" wrap="nowrap" align="end">
              <TextInput
                size="sm"
                flex={1}
                maxLength={60}
                label={t('views.keep')}
                placeholder={t('views.name')}
                value={name}
                onChange={(event) => setName(event.currentTarget.value)}
              />
              <Button size="sm" type="submit" disabled={name.trim() === ''}>
                {t('views.save')}
              </Button>
            </Group>
          </form>
        </Stack>
      </Popover.Dropdown>
    </Popover>
  );
}
